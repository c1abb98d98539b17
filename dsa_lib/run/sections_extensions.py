"""Profile sections of the two neighbouring systems (notebooks 21 to 24), as `profile_sections` has those of the study: every number a typed field.

The defaults are of full size (`paper`). The sources give few of them; where a number is this project's own its comment says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lesions:
    """Pairs of unsubtracted and subtracted frames, and the image-to-image diffusion between them (notebook 09)."""

    # The phantom's pairs; a user's own CT-perfusion studies have neither number.
    patients: int = 817  # as many as the source has
    series_per_study: int = 8  # fewer than in an archive: what counts is the number of patients and lesions
    lesion_share: float = 0.8  # of the injections: that many get a lesion, the four kinds in turn
    least_pixels: int = 8  # of a lesion inside the field; a pair that shows less of its lesion is left out
    train_fraction: float = 0.7  # of patients, and of those who choose weights; the source's split is not in our text
    val_fraction: float = 0.1
    # The denoiser. Widths are the study's own (its `diffusion`), one condition richer: the source gives none.
    source_as: str = "unshuffle"  # the source image at latent size: "unshuffle" keeps every pixel as a channel, "latent" encodes it as the target is
    base_channels: int = 224
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    layers_per_block: int = 2
    batch_size: int = 32
    learning_rate: float = 5e-5
    steps: int = 100_000
    steps_continued: int = 0  # when trained weights are at hand to start from (models/lesions, profile `phantom` alone)
    ema_decay: float = 0.999
    # In the place of diffusion.min_snr_gamma. A source image says nearly all of its target: what is left, the detail of nearly clean latents and the first
    # answer to pure noise, is what min-SNR weights take the weight off.
    min_snr_gamma: float = 0.0
    sampling_steps: int = 50
    scheduler: str = "ddim"  # deterministic but for its starting noise, which is keyed by the image
    evaluated: int = 2000  # test pairs that are translated and scored at most; 0 takes all


@dataclass(frozen=True)
class PostTraining:
    """Image-space losses through the decoder (notebook 09). The source's text has the terms, not their weights: all numbers are this project's."""

    image_weight: float = 1.0  # λ_image, on the mean absolute error over the image (grey range −1 to 1)
    lesion_weight: float = 1.0  # λ_lesion, on the mean absolute error inside the lesion
    # Timesteps from this share of T on get no image-space gradient. There ẑ_0 is a blur over every image that the noise leaves possible, and pixel losses
    # would reward the blur; nearer to clean it shows the details that the losses are about.
    latest: float = 0.5
    steps: int = 10_000
    learning_rate: float = 1e-5
    batch_size: int = 16
    decoded_at_once: int = 4  # images whose decoding is in memory together; 0: the whole batch
    checkpointing: bool = True  # decode again on the way back instead of keeping the decoder's activations
    decoder_trained: bool = (
        False  # False: the decoder is frozen, and latents keep their meaning for every other model of the run
    )


@dataclass(frozen=True)
class CtPerfusion:
    """CT perfusion and diffusion volumes in NIfTI as pairs of slices (dsa_lib.lesions.ct_perfusion)."""

    target: str = "dwi"  # or "adc": what is synthesised
    time_points: int = 8  # of the bolus, one source channel each, where the perfusion series itself is given
    bolus_share: float = 0.1  # the bolus lasts while the brain's mean enhancement is this share of its peak or more
    field_mm: float = 230.0  # side of the square field of view: an adult head with a margin
    least_brain: float = 0.1  # of a slice's pixels: slices with less brain are left out
    least_covered: float = 0.9  # of a slice's brain that the perfusion scan covers, which is often a slab of the head
    hu_window: tuple[float, ...] = (0.0, 120.0)  # grey 0 and 255 of the series: brain, blood with contrast
    adc_window: tuple[float, ...] = (0.0, 2000.0)  # in 10⁻⁶ mm²/s: infarct 400, brain 800; liquor is cut off
    percentiles: tuple[float, ...] = (0.5, 99.8)  # of the brain, grey 0 and 255 of DWI and of perfusion maps
    train_fraction: float = 0.7  # of the patients
    val_fraction: float = 0.1


@dataclass(frozen=True)
class Pix2Pix:
    """The GAN baseline of notebook 09 (dsa_lib.pix2pix); the numbers of Isola et al., CVPR 2017, unless it says otherwise."""

    channels: tuple[int, ...] = (
        64,
        128,
        256,
        512,
        512,
        512,
        512,
    )  # of the generator's levels, each half as large: 2 × 2 from 256²
    dropped_levels: int = 3  # innermost levels of the decoder with dropout, the model's only noise
    dropout: float = 0.5  # while training and while sampling
    discriminator_width: int = 64
    discriminator_levels: int = 4  # ours: patches of 78 pixels, where the original's strides give 70
    l1_weight: float = 100.0  # λ of Eq. 4
    batch_size: int = (
        16  # 1 in the source; its normalisation is within each image, as here, so that a batch changes the step alone
    )
    learning_rate: float = 2e-4
    beta_1: float = 0.5  # Adam's
    steps: int = 100_000  # ours


@dataclass(frozen=True)
class Peripheral:
    """Post-training of the text-conditioned model with peripheral arteries as the lesion (dsa_lib.lesions.peripheral); weights: PostTraining."""

    # In the place of post_training.latest. A sentence leaves far more open than a source image: ẑ_0 is a blur over many brains from lower noise on. Chosen
    # when half of the timesteps blurred the phantom's images; that trial was not kept.
    latest: float = 0.1
    frames: int = 4000  # training frames at most, evenly over the run's: they and their masks are held in memory
    steps: int = 5000
    learning_rate: float = 1e-5
    batch_size: int = 16
    per_condition: int = 250  # images of each condition that are generated before and after
    held_out: int = 2000  # held-out frames at most
    bootstrap: int = 2000  # draws of an interval
    distance_bootstrap: int = 100  # of an interval of the feature distance, each draw of which is a matrix of its own


@dataclass(frozen=True)
class LesionSentences:
    """Sentences that name a lesion: the text-conditioned model trained on, and who judges what it shows (dsa_lib.lesions.sentences, dsa_lib.lesions.judge)."""

    steps: int = 50_000
    learning_rate: float = 5e-5
    batch_size: int = 32
    guidance: float = 2.0  # of the sampling; what the lesion adds to a sentence is little of the image, and is leant on
    asked: int = 2000  # sentences of held-out patients that are asked for, at most
    # The judge's training; no run trains it by itself (benchmarks/lesion_judge.py does), its weights ship in models/lesion_judge.
    judge_channels: tuple[int, ...] = (8, 16, 32, 64, 128, 8)  # of its five levels, and of the last layers
    judge_size: int = 128  # pixels a side that it sees: those of the shipped phantom profile
    judge_steps: int = 1200
    judge_batch: int = 12
    judge_learning_rate: float = 2e-3


@dataclass(frozen=True)
class Anatomy:
    """Mask + edge conditioning (notebooks 21 and 22). The source gives its data and metrics; every number here is this project's own."""

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
    # In the place of diffusion.min_snr_gamma. A map leaves little open but detail, and detail takes shape in nearly clean latents, from which min-SNR weights
    # take the weight off.
    min_snr_gamma: float = 0.0
    steps_continued: int = 0  # when trained weights are at hand to start from (models/anatomy, profile `phantom` alone)
    scheduler: str = "ddim"
    sampling_steps: int = 50
    evaluated: int = 2000  # held-out frames that every model makes anew and is scored on, at most
    subsamples: int = 60  # parts of the patients, for the intervals of a feature distance
    bootstrap: int = 2000  # draws of every other interval
    edited: int = 200  # held-out frames whose label maps are edited, at most
    # Generated pairs as training data: at most so many of either kind, and the steps of each segmenter.
    pairs: int = 2000
    segmenter_steps: int = 3000


@dataclass(frozen=True)
class Spade:
    """The GAN baselines of notebook 21, with and without a VAE (Park et al., CVPR 2019, whose numbers these are unless a comment says otherwise)."""

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


@dataclass(frozen=True)
class Acdc:
    """Cardiac MR of the ACDC challenge (maps.acdc), the data of notebook 21's source, which gives no preprocessing: every number is this project's own."""

    field_mm: float = 320.0  # side of the square field of view, which most of the archive's slices fill
    percentiles: tuple[float, ...] = (0.5, 99.5)  # of a volume's values: grey 0 and 255
    val_fraction: float = 0.1  # of the patients of training/, who choose the weights
    test_fraction: float = 0.2  # of them, where there is no testing/ with labels
