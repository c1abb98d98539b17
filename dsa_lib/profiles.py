"""Every number of the study, as frozen and typed profiles: `smoke` (seconds), `phantom` (ten minutes on two cores), `paper` (as published).

`load_profile("phantom", {"diffusion.batch_size": 8})` returns a checked `Profile`. An unknown name, a wrong type or an impossible combination
is a `StudyError` before anything runs. Where the paper is silent or contradicts itself the choice is a named field; its comment names both readings.
Section numbers in comments are the paper's.
"""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dsa_lib._profile_checks import check_profile
from dsa_lib._profile_overrides import leaf_names, suggest, typed
from dsa_lib.errors import StudyError


@dataclass(frozen=True)
class Archive:
    """The phantom archive: how many patients, how large a detector. Proportions follow §2.1–2.2 at every size."""

    patients: int = 859
    series_per_study: int = 20  # 22,064 series / 1,104 studies
    least_per_cell: int = (
        16  # series that each of the four canonical conditions gets at least, in archives large enough
    )
    matrix: int = 1024  # raw detector pixels, square
    frames: int = 14  # frames a run
    frame_time_ms: float = 500.0
    annotated_series: int = 953  # §2.2; each with one representative arterial frame


@dataclass(frozen=True)
class Curation:
    """DICOM to subtracted frames."""

    image_size: int = 256
    background_grey: int = 162  # grey of no contrast; the level of clinical display frames
    contrast_per_grey: float = 0.008  # log attenuation that one grey level stands for
    # Runs whose mask module asks for time-interval differencing: "subtract" follows it (PS3.3 C.7.6.10), "exclude" leaves them out, since they show
    # what changed between two frames and not the filled vessels. Seen in cardiac and peripheral work, hardly in cerebral.
    differencing: str = "subtract"
    train_fraction: float = 0.7  # of patients; the paper gives no split
    val_fraction: float = 0.1  # likewise
    oldest_age: int = 90  # years; told of everyone older, since ages over 89 identify (HIPAA). §2.1 reports up to 91: raise it where that is allowed
    workers: int = 2
    file_seconds: float = 30.0  # computing time of one file, plus 4 s a MB: ten times the slowest decoder
    file_memory_mb: int = 512  # that reading one file may take: two workers and the notebook stay below 1.5 GB


@dataclass(frozen=True)
class Classifier:
    """ResNet-18 for the arterial phase (§4.2)."""

    input_size: int = 128
    width: int = 64  # channels of the first stage; 64 is ResNet-18
    batch_size: int = 64  # §4.2 gives no batch size, learning rate or number of steps
    learning_rate: float = 1e-3
    steps: int = 3000
    steps_continued: int = 0  # when trained weights are at hand to start from (models/phantom, profile `phantom` alone)
    accumulate: int = 1  # batches whose gradients make one step
    # Labels of the other frames of an annotated series, in seconds from the representative one; the paper gives no rule. Experts mark the best filled
    # frame, late in the arterial phase: contrast took the 2 to 3 s of injection and filling to get there, and the blush follows within a second.
    positive_before_s: float = 1.5  # arterial from so long before
    positive_after_s: float = 0.25  # ... to so long after
    negative_before_s: float = 2.75  # not arterial earlier than this; frames in between are not used
    negative_after_s: float = 0.75  # not arterial later than this; close to the mark, because what is kept should be arterial with high confidence (§4.2)
    threshold: float = 0.5  # none in the paper
    cosine: bool = False  # learning rate down a half cosine; the paper names no schedule
    crop_fraction: float = 0.85  # smallest side of the random crop; §4.2 names crop and jitter without their size
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
    norm_groups: int = 32
    # "lpips" as in the paper; "phase-network": features of the run's own classifier, no download; "random": LPIPS with random weights, benchmarks alone
    perceptual: str = "lpips"
    perceptual_weight: float = 1.0
    l1_weight: float = 0.0  # §4.5 has none; Eq. 2 is L1 alone
    discriminator_weight: float = 0.0  # patch discriminator (§4.5 has none): weight of its generator loss; 0: none
    discriminator_start: int = 0  # step from which it counts
    kl_weight: float = 1e-6
    kl_reduction: str = "sum"  # over the latents of an image; "mean" is the other reading
    crop: int = 0  # side of the random training crops, most of them at vessels; 0: whole frames, as in the paper
    batch_size: int = 20
    learning_rate: float = 2e-5
    epochs: int = 100
    steps: int = 0  # a budget in steps; 0 leaves it to `epochs`
    steps_continued: int = 0  # when trained weights are at hand to start from (models/phantom, profile `phantom` alone)
    accumulate: int = 1  # batches whose gradients make one step
    ema_decay: float = 0.0  # none mentioned in the paper
    warmup_steps: int = 0  # none mentioned
    clip_norm: float = 0.0  # none mentioned
    patience: int = 10  # epochs (evaluations) without improvement before stopping
    scale_images: int = 4096  # training frames over which the latent scale 1/std is taken


@dataclass(frozen=True)
class Text:
    """BERT trained from scratch, jointly with the UNet (§4.4–4.5)."""

    layers: int = 4
    width: int = 512
    heads: int = 8  # the paper gives none; 64 channels a head, as in BERT
    max_tokens: int = 64
    dropout: float = 0.1  # the paper gives none; BERT's own
    pooled: bool = False  # False: the token sequence with its mask; True: one pooled vector


@dataclass(frozen=True)
class Diffusion:
    """Latent diffusion (§4.3–4.5)."""

    timesteps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    beta_schedule: str = "linear"  # linear in β (the text) or "scaled_linear" (linear in √β: what CompVis calls linear)
    prediction: str = "epsilon"  # Eq. 4; "v_prediction" learns faster at small budgets
    base_channels: int = 224
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (False, True, True, True)  # 32, 16 and 8 of a 64² latent
    head_channels: int = 32
    norm_groups: int = 32
    batch_size: int = 96
    learning_rate: float = 5e-5
    epochs_unconditional: int = 500
    epochs_conditional: int = 50
    steps_unconditional: int = 0  # budgets in steps; 0 leaves it to the epochs
    steps_conditional: int = 0
    steps_continued: int = (
        0  # of each, when trained weights are at hand to start from (models/phantom, profile `phantom` alone)
    )
    accumulate: int = 1  # batches whose gradients make one step: 96 frames a step on a smaller GPU
    patience: int = 10  # evaluations; §4.5 names early stopping, without a number, for the unconditional model alone
    patience_conditional: int = 0  # read as none: 0 trains to the end
    ema_decay: float = 0.0  # none mentioned in the paper: off in `paper`
    warmup_steps: int = 0  # none mentioned
    clip_norm: float = 0.0  # none mentioned
    min_snr_gamma: float = 0.0  # loss weights min(SNR, γ) (Hang et al. 2023); 0: none, as in Eq. 4
    condition_dropout: float = (
        0.0  # share of samples that see an empty sentence, for classifier-free guidance; none in the paper
    )
    balance: float = 0.0  # 0: frames drawn as they occur (the paper); 1: every cell of Table 1 equally often


@dataclass(frozen=True)
class Sampling:
    """Stratified sampling of the four conditions (§2.3, §2.5)."""

    scheduler: str = "ddpm"  # ddpm, ddim, dpmsolver++ or unipc
    steps: int = 1000
    guidance: float = 1.0  # classifier-free guidance scale; 1: none (the paper); more needs diffusion.condition_dropout
    batch_size: int = 64
    reader_batches: int = 10  # §2.3: ten batches of forty images
    reader_per_condition: int = 10  # per batch
    fid_per_condition: int = 2500  # §2.5


@dataclass(frozen=True)
class Readers:
    """Reader study (§2.4)."""

    bootstrap: int = 10_000


@dataclass(frozen=True)
class Fidelity:
    """Distributional analysis (§2.5)."""

    features: str = "inception"  # "inception" (the paper) or "phase-network" (the run's own networks: no download)
    real_images: int = 5000  # held-out frames
    # "as-is": the archive's own mix, against all generated images ("approximately matching" in §2.5: 10,000 against 5,000); "balanced": equally many
    # held-out frames a condition, and generated images in the same numbers.
    reference_mix: str = "as-is"
    repeats: int = 5  # draws of the reference (and the floor) for the median; the paper gives no number
    neighbours: int = 5  # k of precision, recall, density and coverage
    kid_subset: int = 1000  # images a KID subset; smaller samples are used whole
    kid_subsets: int = 100
    judge_steps: int = 3000  # training of the independent circulation/plane classifier
    judge_size: int = 128
    judge_width: int = 64
    judge_batch: int = 64
    judge_learning_rate: float = 1e-3
    batch_size: int = 64


@dataclass(frozen=True)
class Profile:
    """One profile, whole."""

    name: str = "paper"
    seed: int = 20260201
    precision: str = (
        "bf16"  # the paper gives none; bf16, fp16 (CUDA alone), fp32 or auto (bf16 where the processor computes in it)
    )
    log_every_s: float = 10.0
    checkpoint_every_s: float = 60.0
    archive: Archive = field(default_factory=Archive)
    curation: Curation = field(default_factory=Curation)
    classifier: Classifier = field(default_factory=Classifier)
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    text: Text = field(default_factory=Text)
    diffusion: Diffusion = field(default_factory=Diffusion)
    sampling: Sampling = field(default_factory=Sampling)
    readers: Readers = field(default_factory=Readers)
    fidelity: Fidelity = field(default_factory=Fidelity)

    def __post_init__(self):
        check_profile(self)

    def digest(self, *sections: str) -> str:
        """sha256 of the named sections (all when none is named), seed and precision: what a training's checkpoint belongs to."""
        values = dataclasses.asdict(self)
        kept = {name: values[name] for name in (*(sections or values), "seed", "precision")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=list).encode()).hexdigest()


PAPER = Profile()

PHANTOM = Profile(
    name="phantom",
    precision="auto",
    archive=Archive(patients=40, matrix=144, annotated_series=240),
    curation=Curation(image_size=128),
    classifier=Classifier(
        input_size=64,
        width=32,
        batch_size=64,
        steps=450,
        steps_continued=100,
        cosine=True,
        zoom_out=0.2,
        contrast_range=0.9,
        gamma_range=0.4,
        sharpness_range=0.7,
        noise_grey=2.0,
        median_frames=3,
        contiguous=True,
    ),
    autoencoder=Autoencoder(
        image_size=128,
        block_channels=(16, 32, 64),
        layers_per_block=1,
        norm_groups=8,
        perceptual="phase-network",
        perceptual_weight=0.1,
        l1_weight=1.0,
        kl_weight=1e-8,  # the L1 term is a mean over pixels: 1e-6 per summed latent would leave the latents half noise
        crop=64,
        batch_size=8,
        learning_rate=1.2e-3,
        epochs=0,
        steps=3600,
        steps_continued=160,
        scale_images=512,
    ),
    text=Text(layers=2, width=128, heads=4, dropout=0.0),
    diffusion=Diffusion(
        prediction="v_prediction",
        base_channels=48,
        multipliers=(1, 2, 4),
        layers_per_block=1,
        attention_levels=(False, False, True),
        head_channels=32,
        norm_groups=16,
        batch_size=16,
        learning_rate=5e-4,
        epochs_unconditional=0,
        patience=0,
        epochs_conditional=0,
        steps_unconditional=200,
        steps_conditional=1500,
        steps_continued=60,
        ema_decay=0.995,
        warmup_steps=100,
        clip_norm=1.0,
        min_snr_gamma=5.0,
        condition_dropout=0.1,
        balance=0.5,
    ),
    sampling=Sampling(scheduler="dpmsolver++", steps=20, batch_size=40, fid_per_condition=100),
    readers=Readers(bootstrap=2000),
    fidelity=Fidelity(
        features="phase-network",
        real_images=500,
        reference_mix="balanced",  # a small archive has few held-out frames of the rarer conditions
        judge_steps=400,
        judge_size=64,
        judge_width=32,
    ),
)

SMOKE = replace(
    PHANTOM,
    name="smoke",
    precision="fp32",
    archive=Archive(patients=6, series_per_study=4, matrix=72, frames=10, frame_time_ms=700.0, annotated_series=12),
    curation=Curation(image_size=64),
    classifier=replace(PHANTOM.classifier, input_size=32, width=8, batch_size=16, steps=120, learning_rate=3e-3),
    autoencoder=replace(
        PHANTOM.autoencoder, image_size=64, block_channels=(8, 16, 16), crop=32, batch_size=8, steps=20, scale_images=32
    ),
    text=Text(layers=1, width=32, heads=2, dropout=0.0),
    diffusion=replace(
        PHANTOM.diffusion,
        base_channels=16,
        multipliers=(1, 2),
        attention_levels=(False, True),
        head_channels=16,
        norm_groups=8,
        batch_size=8,
        steps_unconditional=10,
        steps_conditional=20,
        warmup_steps=2,
    ),
    sampling=replace(
        PHANTOM.sampling, steps=4, batch_size=16, reader_batches=2, reader_per_condition=2, fid_per_condition=6
    ),
    readers=Readers(bootstrap=200),
    fidelity=Fidelity(
        features="phase-network",
        real_images=24,
        reference_mix="balanced",
        judge_steps=20,
        judge_size=32,
        judge_width=8,
        batch_size=16,
    ),
)

PROFILES = {profile.name: profile for profile in (SMOKE, PHANTOM, PAPER)}


def load_profile(name: str, overrides: Mapping[str, object] | str | None = None) -> Profile:
    """The profile `name` with `overrides` applied.

    `overrides` maps dotted names ("diffusion.batch_size") to values, or is the same as a JSON text (what a shell passes). Numbers that YAML leaves
    as text ("1e-4" has no dot, so YAML 1.1 reads a string) are taken as numbers. Raises StudyError for anything unknown, ill-typed or impossible.
    """
    if name not in PROFILES:
        raise StudyError(
            f"profile {name!r} does not exist: choose one of {', '.join(PROFILES)}{suggest(name, PROFILES)}"
        )
    if isinstance(overrides, str):
        try:
            overrides = json.loads(overrides) if overrides.strip() else {}
        except json.JSONDecodeError as error:
            raise StudyError(
                f"overrides {overrides!r} is not a mapping in JSON ({error}): write for example '{{\"diffusion.batch_size\": 8}}'"
            ) from None
    if overrides is not None and not isinstance(overrides, Mapping):
        raise StudyError(
            f"overrides is a {type(overrides).__name__}: give a mapping such as {{'diffusion.batch_size': 8}}"
        )
    sections: dict[str, dict[str, object]] = {}
    top: dict[str, object] = {}
    profile = PROFILES[name]
    for dotted, value in (overrides or {}).items():
        section, _, key = str(dotted).rpartition(".")
        owner = getattr(profile, section, None) if section else profile
        known = leaf_names(profile)
        if dotted not in known:
            raise StudyError(
                f"override {dotted!r} does not exist{suggest(str(dotted), known)}; see dsa_lib/profiles.py for every name"
            )
        value = typed(dotted, typing.get_type_hints(type(owner))[key], value)
        (sections.setdefault(section, {}) if section else top)[key] = value
    return replace(
        profile,
        **top,
        **{section: replace(getattr(profile, section), **values) for section, values in sections.items()},
    )
