"""Profile sections of the two neighbouring systems (notebooks 08 and 09), as `profile_sections` has those of the study: every number a typed field.

The defaults are of full size (`paper`). The sources give few of them; where a number is this project's own its comment says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Anatomy:
    """Mask + edge conditioning (notebook 08). The source gives its data and metrics; every number here is this project's own."""

    # Arterial frames of a series: the latest that are as surely arterial as its best one, when the contrast has come furthest.
    frames_per_series: int = 2
    least_share: float = 0.9  # ... as surely: at least this share of the series' highest probability
    annotated: tuple[str, ...] = (
        "proximal",
        "medium",
    )  # classes that the models are told; the edges must supply the rest
    # Canny's detector: Gaussian in pixels, gradients in grey levels a pixel. Above the noise of acquired frames, below the contrast of the smallest vessels.
    edge_sigma: float = 1.0
    edge_low: float = 0.5
    edge_high: float = 1.25
    # The condition at latent size: "unshuffle" keeps every pixel, as a channel of its own; "area" is the mean over the pixels that share a latent.
    to_latent: str = "unshuffle"
    # Width of the denoiser; its levels, attention and noise schedule are the study's own (`diffusion`).
    base_channels: int = 224
    condition_dropout: float = (
        0.5  # share of samples without their sentence: the source's model has none, and the table is made without
    )
    # One budget for all six models: as many steps of as many images.
    batch_size: int = 16
    steps: int = 60_000
    learning_rate: float = 5e-5
    ema_decay: float = 0.999
    warmup_steps: int = 500
    steps_continued: int = 0  # when trained weights are at hand to start from (models/anatomy, profile `phantom` alone)
    scheduler: str = "ddim"
    sampling_steps: int = 50
    evaluated: int = 2000  # held-out frames that every model makes anew and is scored on, at most
    subsamples: int = 60  # parts of the patients, for the intervals of a feature distance
    bootstrap: int = 2000  # draws of every other interval
    edited: int = 200  # held-out frames whose label maps are edited, at most


@dataclass(frozen=True)
class Spade:
    """The GAN baselines of notebook 08, with and without a VAE (Park et al., CVPR 2019, whose numbers these are unless a comment says otherwise)."""

    channels: tuple[int, ...] = (
        64,
        128,
        256,
        512,
        512,
        512,
    )  # from the finest level to the coarsest, each half as large: 4 × 4 from 256²
    hidden: int = 128  # channels between the map and the γ and β of a normalisation
    # MONAI's generator ends at half resolution, where vessels and edges of one pixel are lost; True adds Park's last block, at full resolution
    full_resolution: bool = True
    latent: int = 256  # numbers of the VAE's z
    discriminator_channels: int = 64
    discriminators: int = 2  # scales
    discriminator_layers: int = 2  # ours: of the finer one; MONAI gives the coarser one twice as many
    feature_weight: float = 10.0  # λ of the feature matching
    perceptual_weight: float = 10.0  # λ of the perceptual distance
    kl_weight: float = 0.05  # λ of the VAE's KL, summed over z
    learning_rate: float = 1e-4  # of the generator and the encoder
    discriminator_rate: float = 4e-4  # of the discriminators: the two time scales of Heusel et al. 2017
    betas: tuple[float, ...] = (0.0, 0.999)  # Adam's
    ema_decay: float = 0.999  # ours, as the diffusion model has it beside them: the last weights of a GAN swing
