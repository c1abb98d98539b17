"""The sections of a profile: every number of the study as a frozen, typed field, its default the paper's (`profiles.PAPER`).

Where the paper is silent or contradicts itself the choice is a named field; its comment names both readings. Section numbers in comments are the paper's.
"""

from dataclasses import dataclass

from dsa_lib.run.limits import choice, number, positive

SCHEDULERS = ("ddpm", "ddim", "dpmsolver++", "unipc")


@dataclass(frozen=True)
class Archive:
    """The phantom archive: how many patients, how large a detector. Proportions follow §2.1–2.2 at every size."""

    patients: int = positive(859)
    series_per_study: int = 20  # 22,064 series / 1,104 studies
    # Series that each of the four canonical conditions gets at least, in archives large enough.
    least_per_cell: int = 16
    matrix: int = positive(1024)  # raw detector pixels, square
    frames: int = positive(14)  # frames a run
    frame_time_ms: float = 500.0
    annotated_series: int = positive(953)  # §2.2; each with one representative arterial frame


@dataclass(frozen=True)
class Curation:
    """DICOM to subtracted frames."""

    image_size: int = positive(256)
    # Grey of no contrast; the level of clinical display frames.
    background_grey: int = number(162, low=1, high=254, refusal="is not in 1–254")
    contrast_per_grey: float = 0.008  # log attenuation that one grey level stands for
    # Runs whose mask module asks for time-interval differencing: "subtract" follows it (PS3.3 C.7.6.10), "exclude" leaves them out, since they show
    # what changed between two frames and not the filled vessels. Seen in cardiac and peripheral work, hardly in cerebral.
    differencing: str = choice("subtract", among=("subtract", "exclude"))
    train_fraction: float = 0.7  # of patients; the paper gives no split
    val_fraction: float = 0.1  # likewise
    # Years, told of everyone older, since ages over 89 identify (HIPAA). §2.1 reports up to 91: raise it where that is allowed.
    oldest_age: int = 90
    workers: int = 2
    file_seconds: float = positive(30.0)  # computing time of one file, plus 4 s a MB: ten times the slowest decoder
    # What reading one file may take: two workers and the notebook stay below 1.5 GB.
    file_memory_mb: int = positive(512)


@dataclass(frozen=True)
class Classifier:
    """ResNet-18 for the arterial phase (§4.2)."""

    input_size: int = positive(128)
    width: int = 64  # channels of the first stage; 64 is ResNet-18
    batch_size: int = positive(64)  # §4.2 gives no batch size, learning rate or number of steps
    learning_rate: float = positive(1e-3)
    steps: int = positive(3000)
    steps_continued: int = 0  # when trained weights are at hand to start from (models/phantom, profile `phantom` alone)
    accumulate: int = positive(1)  # batches whose gradients make one step
    # Labels of the other frames of an annotated series, in seconds from the representative one; the paper gives no rule. Experts mark the best filled
    # frame, late in the arterial phase: contrast took the 2 to 3 s of injection and filling to get there, and the blush follows within a second.
    positive_before_s: float = 1.5  # arterial from so long before
    positive_after_s: float = 0.25  # ... to so long after
    negative_before_s: float = 2.75  # not arterial earlier than this; frames in between are not used
    # Not arterial later than this; close to the mark, because what is kept should be arterial with high confidence (§4.2).
    negative_after_s: float = 0.75
    threshold: float = number(0.5, above=0, below=1)  # none in the paper
    cosine: bool = False  # learning rate down a half cosine; the paper names no schedule
    # Smallest side of the random crop; §4.2 names crop and jitter without their size.
    crop_fraction: float = number(0.85, above=0, high=1)
    jitter: float = 0.2  # relative brightness and contrast jitter
    # Augmentation beyond the paper's three, off where 0 (as in `paper`): see phase.augment.
    zoom_out: float = 0.0  # how far beyond the frame the crop may reach
    contrast_range: float = 0.0  # log-uniform scaling of the contrast, ± so much
    gamma_range: float = 0.0  # log-uniform exponent on the contrast, ± so much
    sharpness_range: float = 0.0  # ± share of a 3×3 mean filter: blurs or sharpens
    noise_grey: float = 0.0  # largest SD of added white noise, grey levels
    # Frames of a series together; the paper judges each frame alone.
    median_frames: int = 1  # running median of the probability over so many frames; 1: none
    contiguous: bool = False  # keep only the longest arterial run of a series
    frames_per_series: int = 0  # keep at most so many arterial frames a series, the most probable first; 0 keeps all


@dataclass(frozen=True)
class Autoencoder:
    """KL autoencoder (§4.5)."""

    image_size: int = 256
    latent_channels: int = 3
    block_channels: tuple[int, ...] = (128, 256, 512)  # multipliers 1, 2, 4 on 128
    layers_per_block: int = 2
    norm_groups: int = positive(32)
    # "lpips" as in the paper; "phase-network": features of the run's own classifier, no download; "random": LPIPS with random weights, benchmarks alone
    perceptual: str = choice("lpips", among=("lpips", "phase-network", "random"), remark=" (for benchmarks alone)")
    perceptual_weight: float = 1.0
    l1_weight: float = 0.0  # §4.5 has none; Eq. 2 is L1 alone
    discriminator_weight: float = 0.0  # patch discriminator (§4.5 has none): weight of its generator loss; 0: none
    discriminator_start: int = 0  # step from which it counts
    kl_weight: float = 1e-6
    # Over the latents of an image; "mean" is the other reading.
    kl_reduction: str = choice("sum", among=("sum", "mean"))
    crop: int = 0  # side of the random training crops, most of them at vessels; 0: whole frames, as in the paper
    batch_size: int = positive(20)
    learning_rate: float = positive(2e-5)
    epochs: int = 100
    steps: int = 0  # a budget in steps; 0 leaves it to `epochs`
    steps_continued: int = 0  # when trained weights are at hand to start from (models/phantom, profile `phantom` alone)
    accumulate: int = positive(1)  # batches whose gradients make one step
    ema_decay: float = number(0.0, below=1)  # none mentioned in the paper
    warmup_steps: int = 0  # none mentioned
    clip_norm: float = 0.0  # none mentioned
    patience: int = 10  # epochs (evaluations) without improvement before stopping
    scale_images: int = 4096  # training frames over which the latent scale 1/std is taken


@dataclass(frozen=True)
class Text:
    """BERT trained from scratch, jointly with the UNet (§4.4–4.5)."""

    layers: int = 4
    width: int = 512
    heads: int = positive(8)  # the paper gives none; 64 channels a head, as in BERT
    max_tokens: int = number(64, low=40, refusal="is shorter than the longest sentence: give 40 or more")
    dropout: float = number(0.1, below=1)  # the paper gives none; BERT's own
    pooled: bool = False  # False: the token sequence with its mask; True: one pooled vector


@dataclass(frozen=True)
class Diffusion:
    """Latent diffusion (§4.3–4.5)."""

    timesteps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    # Linear in β (the text) or "scaled_linear" (linear in √β: what CompVis calls linear).
    beta_schedule: str = choice("linear", among=("linear", "scaled_linear"))
    # Eq. 4; "v_prediction" learns faster at small budgets.
    prediction: str = choice("epsilon", among=("epsilon", "v_prediction"))
    base_channels: int = 224
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (False, True, True, True)  # 32, 16 and 8 of a 64² latent
    head_channels: int = positive(32)
    norm_groups: int = positive(32)
    batch_size: int = positive(96)
    learning_rate: float = positive(5e-5)
    epochs_unconditional: int = 500
    epochs_conditional: int = 50
    steps_unconditional: int = 0  # budgets in steps; 0 leaves it to the epochs
    steps_conditional: int = 0
    # Of each, when trained weights are at hand to start from (models/phantom, profile `phantom` alone).
    steps_continued: int = 0
    accumulate: int = positive(1)  # batches whose gradients make one step: 96 frames a step on a smaller GPU
    patience: int = 10  # evaluations; §4.5 names early stopping, without a number, for the unconditional model alone
    patience_conditional: int = 0  # read as none: 0 trains to the end
    ema_decay: float = number(0.0, below=1)  # none mentioned in the paper: off in `paper`
    warmup_steps: int = 0  # none mentioned
    clip_norm: float = 0.0  # none mentioned
    min_snr_gamma: float = 0.0  # loss weights min(SNR, γ) (Hang et al. 2023); 0: none, as in Eq. 4
    # Share of samples that see an empty sentence, for classifier-free guidance; none in the paper.
    condition_dropout: float = number(0.0, below=1)
    balance: float = 0.0  # 0: frames drawn as they occur (the paper); 1: every cell of Table 1 equally often


@dataclass(frozen=True)
class Sampling:
    """Stratified sampling of the four conditions (§2.3, §2.5)."""

    scheduler: str = choice("ddpm", among=SCHEDULERS)  # ddpm, ddim, dpmsolver++ or unipc
    steps: int = positive(1000)
    guidance: float = 1.0  # classifier-free guidance scale; 1: none (the paper); more needs diffusion.condition_dropout
    batch_size: int = positive(64)
    reader_batches: int = positive(10)  # §2.3: ten batches of forty images
    reader_per_condition: int = positive(10)  # per batch
    fid_per_condition: int = positive(2500)  # §2.5


@dataclass(frozen=True)
class Readers:
    """Reader study (§2.4)."""

    bootstrap: int = positive(10_000)


@dataclass(frozen=True)
class Fidelity:
    """Distributional analysis (§2.5)."""

    # "inception" (the paper); "dsa-network" or "phase-network" (the run's own networks: no download); "dinov2" or "radimagenet" (weights put by hand)
    features: str = choice("inception", among=("inception", "dsa-network", "phase-network", "dinov2", "radimagenet"))
    # Which the weights of features "dinov2" or "radimagenet" must have; "" records what they have.
    weights_sha256: str = ""
    real_images: int = 5000  # held-out frames
    # "as-is": the archive's own mix, against all generated images ("approximately matching" in §2.5: 10,000 against 5,000); "balanced": equally many
    # held-out frames a condition, and generated images in the same numbers.
    reference_mix: str = choice("as-is", among=("balanced", "as-is"))
    repeats: int = positive(5)  # draws of the reference (and the floor) for the median; the paper gives no number
    neighbours: int = 5  # k of precision, recall, density and coverage
    kid_subset: int = 1000  # images a KID subset; smaller samples are used whole
    kid_subsets: int = 100
    # Intervals by patients; the paper gives none. Three quarters: of halves the error of a small distance comes out up to 1.5 times too large.
    subsamples: int = positive(60)
    subsample_share: float = number(0.75, low=0.5, below=1, remark=": take half of the patients or more, not all")
    # Sizes on the line of FID∞, from all patients to half of them (Chong & Forsyth 2020 use 15).
    infinity_points: int = number(8, low=3, refusal="do not show whether the line is straight: give 3 or more")
    infinity_repeats: int = positive(5)  # subsets of each size
    sensitivity_images: int = positive(5000)  # at most so many a set for the table of resizing and windowing
    batch_size: int = 64


@dataclass(frozen=True)
class Utility:
    """Generated frames as training data (§1, §4.1: the motivation; the paper does not test it, and every number here is this project's)."""

    shares: tuple[float, ...] = (0.1, 0.25, 1.0)  # of the training patients
    # Control arms (audits.utility_tasks.ARMS), and the shares at which they are trained; at the others only real frames against real and generated ones.
    # "look matched" draws as many decoded frames in every class, so that the decoder's look cannot stand for the arterial phase.
    side_arms: tuple[str, ...] = (
        "real + synthetic, look matched",
        "synthetic for real",
        "synthetic for real, look matched",
    )
    side_shares: tuple[float, ...] = (0.1, 0.25, 1.0)
    seeds: int = positive(5)  # draws of patients and initial weights
    # Generated share of what is drawn of a class; the steps stay the same, so that it replaces real draws.
    synthetic_share: float = number(0.5, above=0, below=1, remark=": some real and some generated frames are needed")
    # The networks: as the phase classifier of §4.2 and its budget.
    input_size: int = positive(128)
    width: int = positive(64)
    batch_size: int = positive(64)
    learning_rate: float = positive(1e-3)
    steps: int = positive(3000)
    frames_per_patient: int = 100  # real training frames a patient and task at most; 0 takes all
    decoded_per_patient: int = 100  # of them at most are passed through the autoencoder, for the arms of a matched look
    test_frames: int = 5000  # held-out frames a task at most; 0 takes all
    # Held-out non-arterial frames that are decoded, to see whether the decoder's look is taken for the arterial phase; 0 takes all.
    decoys: int = 1000


@dataclass(frozen=True)
class Network:
    """The DSA network of notebook 07: it judges the condition of an image and gives the "dsa-network" features. No part of the paper."""

    input_size: int = positive(128)  # pixels a side, as the phase classifier's (§4.2)
    width: int = positive(64)  # channels of the first stage; 64 is ResNet-18
    steps: int = positive(3000)  # this and the next three as for the phase classifier, for which §4.2 gives none either
    batch_size: int = positive(64)
    learning_rate: float = positive(1e-3)
    evaluations: int = positive(8)  # on validation patients, whose loss chooses the weights
    # Share of a batch: frames outside the arterial phase, which teach the phase alone.
    other_share: float = number(0.2, below=1, refusal="is not below 1: no arterial frame would be drawn")


@dataclass(frozen=True)
class Sweep:
    """Angle sweep of notebook 11: one angle at a time moved away from each canonical position. No part of the paper."""

    primary_deg: tuple[int, ...] = (-50, -40, -30, -20, -10, 0, 10, 20, 30, 40, 50)  # by so much, in degrees
    secondary_deg: tuple[int, ...] = (-40, -30, -20, -10, 0, 10, 20, 30, 40)
    seeds: int = positive(32)  # noises, the same at every position: the groups of which the slope's interval is taken


@dataclass(frozen=True)
class Plausibility:
    """Are the vessels possible? Measures of an automatic segmentation, generated against held-out frames. The paper has none of it."""

    # "network": the U-Net that ships (models/vessels), trained on simulated vessels; "classical": `vessels.filters`, without any training. Which is better on
    # phantom truth stands in benchmarks/vessel_segmentation.json.
    segmenter: str = choice("network", among=("network", "classical"))
    images: int = positive(1200)  # frames of each set (generated, held-out, training) that are measured, at most
    bootstrap: int = positive(2000)  # draws of an interval
    # The network and its training (dsa_lib.vessels.unet); no run trains it by itself.
    network_channels: tuple[int, ...] = (16, 16, 32, 64, 128, 16)  # five levels from the finest down, and the last
    network_size: int = positive(128)  # pixels a side that it sees; a multiple of 16
    network_crop: int = positive(80)  # side of its training crops; a multiple of 16
    network_steps: int = positive(800)
    network_batch: int = positive(12)
    network_learning_rate: float = positive(2e-3)


@dataclass(frozen=True)
class Privacy:
    """The memorisation audit (the paper calls its images privacy-preserving and tests nothing of it; every number here is ours)."""

    level: float = number(0.05, above=0, below=1)  # chance that an honest model is flagged, over all spaces together
    leave_one_out: int = positive(2000)  # training frames looked up among other patients, for the limit of a near copy
    gallery: int = positive(10)  # closest pairs shown
    # The planted test: the unconditional model, trained on alone so many training frames until it copies them, which the audit must flag. 0 steps: none
    planted_steps: int = 3000
    planted_frames: int = positive(8)
    planted_images: int = positive(100)  # sampled from it
    planted_learning_rate: float = positive(1e-4)
