"""Profile sections of the two neighbouring systems (notebooks 21 to 24), as `hyperparameters` has those of the study: every number a typed field.

The defaults are of full size (`paper`). The sources give few of them; where a number is this project's own its comment says so.
"""

from dataclasses import dataclass

from dsa_lib.run.hyperparameters import SCHEDULERS
from dsa_lib.run.limits import choice, number, positive


@dataclass(frozen=True)
class Lesions:
    """Pairs of unsubtracted and subtracted frames, and the image-to-image diffusion between them (notebook 23)."""

    # The phantom's pairs; a user's own CT-perfusion studies have neither number.
    patients: int = positive(817)  # as many as the source has
    series_per_study: int = positive(8)  # fewer than in an archive: what counts is the number of patients and lesions
    lesion_share: float = number(0.8, high=1)  # of the injections: that many get a lesion, the four kinds in turn
    least_pixels: int = 8  # of a lesion inside the field; a pair that shows less of its lesion is left out
    train_fraction: float = 0.7  # of patients, and of those who choose weights; the source's split is not in our text
    val_fraction: float = 0.1
    # The denoiser. Widths are the study's own (its `diffusion`), one condition richer: the source gives none.
    # The source image at latent size: "unshuffle" keeps every pixel as a channel, "latent" encodes it as the target is.
    source_as: str = choice("unshuffle", among=("unshuffle", "latent"))
    base_channels: int = positive(224)
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    layers_per_block: int = 2
    batch_size: int = positive(32)
    learning_rate: float = positive(5e-5)
    steps: int = positive(100_000)
    steps_continued: int = 0  # when trained weights are at hand to start from (models/lesions, profile `phantom` alone)
    ema_decay: float = number(0.999, below=1)
    # In the place of diffusion.min_snr_gamma. A source image says nearly all of its target: what is left, the detail of nearly clean latents and the first
    # answer to pure noise, is what min-SNR weights take the weight off.
    min_snr_gamma: float = 0.0
    sampling_steps: int = positive(50)
    # Deterministic but for its starting noise, which is keyed by the image.
    scheduler: str = choice("ddim", among=SCHEDULERS)
    evaluated: int = 2000  # test pairs that are translated and scored at most; 0 takes all


@dataclass(frozen=True)
class PostTraining:
    """Image-space losses through the decoder (notebooks 23 and 24). The source's text has the terms, not their weights: all numbers are this project's."""

    image_weight: float = 1.0  # λ_image, on the mean absolute error over the image (grey range −1 to 1)
    lesion_weight: float = 1.0  # λ_lesion, on the mean absolute error inside the lesion
    # Timesteps from this share of T on get no image-space gradient. There ẑ_0 is a blur over every image that the noise leaves possible, and pixel losses
    # would reward the blur; nearer to clean it shows the details that the losses are about.
    latest: float = number(
        0.5, above=0, high=1, remark=": it is the share of the timesteps, from clean on, that get image losses"
    )
    steps: int = positive(10_000)
    learning_rate: float = positive(1e-5)
    batch_size: int = positive(16)
    decoded_at_once: int = 4  # images whose decoding is in memory together; 0: the whole batch
    checkpointing: bool = True  # decode again on the way back instead of keeping the decoder's activations
    # False: the decoder is frozen, and latents keep their meaning for every other model of the run.
    decoder_trained: bool = False


@dataclass(frozen=True)
class CtPerfusion:
    """CT perfusion and diffusion volumes in NIfTI as pairs of slices (dsa_lib.lesions.ct_perfusion)."""

    target: str = choice("dwi", among=("dwi", "adc"))  # what is synthesised
    time_points: int = positive(8)  # of the bolus, one source channel each, where the perfusion series itself is given
    bolus_share: float = 0.1  # the bolus lasts while the brain's mean enhancement is this share of its peak or more
    field_mm: float = positive(230.0)  # side of the square field of view: an adult head with a margin
    least_brain: float = 0.1  # of a slice's pixels: slices with less brain are left out
    least_covered: float = 0.9  # of a slice's brain that the perfusion scan covers, which is often a slab of the head
    hu_window: tuple[float, ...] = (0.0, 120.0)  # grey 0 and 255 of the series: brain, blood with contrast
    adc_window: tuple[float, ...] = (0.0, 2000.0)  # in 10⁻⁶ mm²/s: infarct 400, brain 800; liquor is cut off
    percentiles: tuple[float, ...] = (0.5, 99.8)  # of the brain, grey 0 and 255 of DWI and of perfusion maps
    train_fraction: float = 0.7  # of the patients
    val_fraction: float = 0.1


@dataclass(frozen=True)
class Pix2Pix:
    """The GAN baseline of notebook 23 (lesions.pix2pix); the numbers of Isola et al., CVPR 2017, unless it says otherwise."""

    # Of the generator's levels, each half as large: 2 × 2 from 256².
    channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512)
    dropped_levels: int = 3  # innermost levels of the decoder with dropout, the model's only noise
    dropout: float = number(0.5, below=1)  # while training and while sampling
    discriminator_width: int = positive(64)
    discriminator_levels: int = positive(4)  # ours: patches of 78 pixels, where the original's strides give 70
    l1_weight: float = 100.0  # λ of Eq. 4
    # 1 in the source; its normalisation is within each image, as here, so that a batch changes the step alone.
    batch_size: int = positive(16)
    learning_rate: float = positive(2e-4)
    beta_1: float = number(0.5, below=1)  # Adam's
    steps: int = positive(100_000)  # ours


@dataclass(frozen=True)
class Peripheral:
    """Post-training of the text-conditioned model with peripheral arteries as the lesion (dsa_lib.lesions.peripheral); weights: PostTraining."""

    # In the place of post_training.latest. A sentence leaves far more open than a source image: ẑ_0 is a blur over many brains from lower noise on. Chosen
    # when half of the timesteps blurred the phantom's images; that trial was not kept.
    latest: float = 0.1
    # Training frames at most, evenly over the run's: they and their masks are held in memory.
    frames: int = positive(4000)
    steps: int = positive(5000)
    learning_rate: float = positive(1e-5)
    batch_size: int = positive(16)
    per_condition: int = positive(250)  # images of each condition that are generated before and after
    held_out: int = positive(2000)  # held-out frames at most
    bootstrap: int = positive(2000)  # draws of an interval
    # Draws of an interval of the feature distance, each of which is a matrix of its own.
    distance_bootstrap: int = positive(100)


@dataclass(frozen=True)
class LesionSentences:
    """Sentences that name a lesion: the text-conditioned model trained on, and who judges what it shows (lesions.lesion_requests, lesions.judge)."""

    steps: int = positive(50_000)
    learning_rate: float = positive(5e-5)
    batch_size: int = positive(32)
    guidance: float = 2.0  # of the sampling; what the lesion adds to a sentence is little of the image, and is leant on
    asked: int = positive(2000)  # sentences of held-out patients that are asked for, at most
    # The judge's training; no run trains it by itself (benchmarks/lesion_judge.py does), its weights ship in models/lesion_judge.
    judge_channels: tuple[int, ...] = (8, 16, 32, 64, 128, 8)  # of its five levels, and of the last layers
    judge_size: int = positive(128)  # pixels a side that it sees: those of the shipped phantom profile
    judge_steps: int = positive(1200)
    judge_batch: int = positive(12)
    judge_learning_rate: float = 2e-3


@dataclass(frozen=True)
class Anatomy:
    """Mask + edge conditioning (notebooks 21 and 22). The source gives its data and metrics; every number here is this project's own."""

    # Arterial frames of a series: the latest that are as surely arterial as its best one, when the contrast has come furthest.
    frames_per_series: int = positive(2)
    # As surely: at least this share of the series' highest probability.
    least_share: float = number(0.9, above=0, high=1)
    annotated: tuple[str, ...] = ("proximal", "medium")  # classes that the models are told; the edges supply the rest
    # Canny's detector: Gaussian in pixels, gradients in grey levels a pixel. Above the noise of acquired frames, below the contrast of the smallest vessels.
    edge_sigma: float = positive(1.0)
    edge_low: float = 0.5
    edge_high: float = 1.25
    # The condition at latent size: "unshuffle" keeps every pixel, as a channel of its own; "area" is the mean over the pixels that share a latent.
    to_latent: str = choice("unshuffle", among=("unshuffle", "area"))
    # Width of the denoiser; its levels, attention and noise schedule are the study's own (`diffusion`).
    base_channels: int = 224
    # Share of samples without their sentence: the source's model has none, and the table is made without.
    condition_dropout: float = number(0.5, below=1)
    # One budget for all six models: as many steps of as many images.
    batch_size: int = positive(16)
    steps: int = positive(60_000)
    learning_rate: float = positive(5e-5)
    ema_decay: float = number(0.999, below=1)
    warmup_steps: int = 500
    # In the place of diffusion.min_snr_gamma. A map leaves little open but detail, and detail takes shape in nearly clean latents, from which min-SNR weights
    # take the weight off.
    min_snr_gamma: float = 0.0
    steps_continued: int = 0  # when trained weights are at hand to start from (models/anatomy, profile `phantom` alone)
    scheduler: str = choice("ddim", among=SCHEDULERS)
    sampling_steps: int = positive(50)
    evaluated: int = positive(2000)  # held-out frames that every model makes anew and is scored on, at most
    subsamples: int = positive(60)  # parts of the patients, for the intervals of a feature distance
    bootstrap: int = positive(2000)  # draws of every other interval
    edited: int = positive(200)  # held-out frames whose label maps are edited, at most
    # Generated pairs as training data: at most so many of either kind, and the steps of each segmenter.
    pairs: int = positive(2000)
    segmenter_steps: int = positive(3000)


@dataclass(frozen=True)
class Spade:
    """The GAN baselines of notebook 21, with and without a VAE (Park et al., CVPR 2019, whose numbers these are unless a comment says otherwise)."""

    # From the finest level to the coarsest, each half as large: 4 × 4 from 256².
    channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    hidden: int = positive(128)  # channels between the map and the γ and β of a normalisation
    # MONAI's generator ends at half resolution, where vessels and edges of one pixel are lost; True adds Park's last block, at full resolution
    full_resolution: bool = True
    latent: int = positive(256)  # numbers of the VAE's z
    discriminator_channels: int = positive(64)
    discriminators: int = positive(2)  # scales
    discriminator_layers: int = positive(2)  # ours: of the finer one; MONAI gives the coarser one twice as many
    feature_weight: float = 10.0  # λ of the feature matching
    perceptual_weight: float = 10.0  # λ of the perceptual distance
    kl_weight: float = 0.05  # λ of the VAE's KL, summed over z
    learning_rate: float = positive(1e-4)  # of the generator and the encoder
    discriminator_rate: float = positive(4e-4)  # of the discriminators: the two time scales of Heusel et al. 2017
    betas: tuple[float, ...] = (0.0, 0.999)  # Adam's
    # Ours, as the diffusion model has it beside them: the last weights of a GAN swing.
    ema_decay: float = number(0.999, below=1)


@dataclass(frozen=True)
class Acdc:
    """Cardiac MR of the ACDC challenge (maps.acdc), the data of notebook 21's source, which gives no preprocessing: every number is this project's own."""

    field_mm: float = positive(320.0)  # side of the square field of view, which most of the archive's slices fill
    percentiles: tuple[float, ...] = (0.5, 99.5)  # of a volume's values: grey 0 and 255
    val_fraction: float = 0.1  # of the patients of training/, who choose the weights
    test_fraction: float = 0.2  # of them, where there is no testing/ with labels
