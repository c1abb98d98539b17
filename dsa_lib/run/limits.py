"""What the values of a profile may be: one by one, as declared beside the default (in `hyperparameters`), and together.

    threshold: float = number(0.5, above=0, below=1)
    batch_size: int = positive(64)
    scheduler: str = choice("ddpm", among=("ddpm", "ddim"))

One loop enforces all of these; numbers without a declaration must not be negative either. Rules about several values, and about whole lists, stand
in functions of their own below, each with its remedy in one sentence.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dsa_lib.run.errors import StudyError

Need = Callable[[bool, str], None]


@dataclass(frozen=True)
class Limit:
    """Whether a value is allowed, and the sentence for one that is not, with `{name}` and `{value}` in it."""

    allows: Callable[[object], bool]
    sentence: str


def number(default, *, low=0, high=math.inf, above=None, below=None, refusal=None, remark=""):
    """A field that holds a number in [low, high], or strictly above or below a bound.

    The sentence for any other is the field's name, the value, `refusal` (by default the interval that it is not in) and `remark`.
    """
    if refusal is None and above is not None and below is not None:
        refusal = f"is not between {above} and {below}"
    elif refusal is None:
        opening = f"[{low}" if above is None else f"({above}"
        refusal = f"is not in {opening}, {f'{high}]' if below is None else f'{below})'}"

    def allows(value) -> bool:
        return low <= value <= high and (above is None or value > above) and (below is None or value < below)

    return _limited(default, allows, f"{{name}} {{value}} {refusal}{remark}")


def positive(default):
    """A field that holds a number above 0."""
    return _limited(default, lambda value: value > 0, "{name} is 0: it must be positive")


def choice(default: str, *, among: tuple[str, ...], remark: str = ""):
    """A field that holds one of the texts `among`; `remark` ends the refusal."""
    return _limited(
        default, among.__contains__, f"{{name}} {{value!r}} is not {', '.join(among[:-1])} or {among[-1]}{remark}"
    )


def _limited(default, allows: Callable[[object], bool], sentence: str):
    return field(default=default, metadata={"limit": Limit(allows, sentence)})


def leaves(profile) -> Iterator[tuple[str, dataclasses.Field, object]]:
    """(dotted name, field, value) of every single value of a profile."""
    for item in dataclasses.fields(profile):
        value = getattr(profile, item.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{item.name}.{name}", leaf, inner) for name, leaf, inner in leaves(value))
        else:
            yield item.name, item, value


def typed(name: str, kind: type, value: object) -> object:
    """`value` as the type `kind` of the field `name`: lists become tuples; whole numbers, and numbers written as text, become floats.

    Raises StudyError for anything else.
    """
    origin = typing.get_origin(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(typed(name, typing.get_args(kind)[0], item) for item in value)
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and type(value) is kind:
        return value
    wanted = (
        "a list"
        if origin is tuple
        else {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}[kind.__name__]
    )
    raise StudyError(f"{name} is {value!r} ({type(value).__name__}): give {wanted}")


def check_profile(profile) -> None:
    """Raise StudyError, with the remedy, for the first value outside its limits, or else the first impossible combination."""

    def need(condition: bool, sentence: str):
        if not condition:
            raise StudyError(f"profile {profile.name}: {sentence}")

    _check_values(profile, need)
    _check_curation(profile, need)
    _check_autoencoder(profile, need)
    _check_diffusion(profile, need)
    _check_plausibility(profile.plausibility, need)
    _check_utility(profile.utility, need)
    _check_maps(profile, need)
    _check_lesions(profile, need)


def _check_values(profile, need: Need) -> None:
    for name, item, value in leaves(profile):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        need(not is_number or value >= 0, f"{name} is {value}: it cannot be negative")  # NaN is refused too
        limit = item.metadata.get("limit")
        if limit is not None:
            need(limit.allows(value), limit.sentence.format(name=name, value=value))


def _check_curation(profile, need: Need) -> None:
    curation, classifier = profile.curation, profile.classifier
    need(
        curation.train_fraction + curation.val_fraction < 1,
        "curation.train_fraction + curation.val_fraction leave no held-out patients: lower one",
    )
    for side in ("before", "after"):
        positive, negative = f"positive_{side}_s", f"negative_{side}_s"
        need(
            getattr(classifier, positive) < getattr(classifier, negative),
            f"classifier.{positive} must be below classifier.{negative}",
        )


def _check_autoencoder(profile, need: Need) -> None:
    auto, size = profile.autoencoder, profile.autoencoder.image_size
    need(
        size == profile.curation.image_size,
        f"autoencoder.image_size {size} differs from curation.image_size {profile.curation.image_size}: set both alike",
    )
    factor = 2 ** (len(auto.block_channels) - 1)
    need(
        size % factor == 0,
        f"autoencoder.image_size {size} is not divisible by the downsampling factor {factor}",
    )
    need(
        auto.crop <= size and auto.crop % factor == 0,
        f"autoencoder.crop {auto.crop} is larger than the frame, or not divisible by the downsampling factor {factor}",
    )
    need(
        all(channels % auto.norm_groups == 0 for channels in auto.block_channels),
        "autoencoder.block_channels do not divide by autoencoder.norm_groups",
    )
    need(
        auto.perceptual_weight + auto.l1_weight > 0,
        "autoencoder.perceptual_weight and l1_weight are both 0: nothing would be reconstructed",
    )
    _need_budget(auto.epochs, auto.steps, "autoencoder.epochs and autoencoder.steps", need)


def _check_diffusion(profile, need: Need) -> None:
    auto, text, diffusion, sampling = profile.autoencoder, profile.text, profile.diffusion, profile.sampling
    halvings = len(diffusion.multipliers) - 1
    latent = auto.image_size // 2 ** (len(auto.block_channels) - 1)
    need(
        latent % 2**halvings == 0,
        f"latents of {latent}² cannot be halved {halvings} times: shorten diffusion.multipliers",
    )
    need(
        len(diffusion.attention_levels) == len(diffusion.multipliers),
        "diffusion.attention_levels and diffusion.multipliers differ in length: give one flag a level",
    )
    for multiplier, attends in zip(diffusion.multipliers, diffusion.attention_levels, strict=True):
        channels = diffusion.base_channels * multiplier
        need(
            not attends or channels % diffusion.head_channels == 0,
            f"{channels} channels do not divide into heads of {diffusion.head_channels}: change diffusion.head_channels",
        )
        _need_groups("", channels, diffusion.norm_groups, need)
    need(text.width % text.heads == 0, f"text.width {text.width} does not divide into {text.heads} heads")
    need(
        0 < diffusion.beta_start < diffusion.beta_end < 1,
        "diffusion.beta_start and beta_end must satisfy 0 < start < end < 1",
    )
    need(
        sampling.guidance == 1 or diffusion.condition_dropout > 0,
        f"sampling.guidance {sampling.guidance} needs a model trained with diffusion.condition_dropout above 0: set it, or guidance 1",
    )
    need(
        sampling.steps <= diffusion.timesteps,
        f"sampling.steps {sampling.steps} exceeds diffusion.timesteps {diffusion.timesteps}",
    )
    for kind in ("unconditional", "conditional"):
        epochs, steps = f"epochs_{kind}", f"steps_{kind}"
        names = f"diffusion.{epochs} and {steps}"
        _need_budget(getattr(diffusion, epochs), getattr(diffusion, steps), names, need)


def _need_budget(epochs: int, steps: int, names: str, need: Need) -> None:
    need(epochs + steps > 0, f"{names} are both 0: give a budget")


def _need_groups(name: str, channels: int, groups: int, need: Need) -> None:
    what = f"{name} {channels}" if name else f"{channels} channels"
    need(
        channels % groups == 0,
        f"{what} do not divide into {groups} normalisation groups: change diffusion.norm_groups",
    )


def _check_plausibility(plausibility, need: Need) -> None:
    size, crop, channels = plausibility.network_size, plausibility.network_crop, plausibility.network_channels
    need(
        len(channels) == 6,
        f"plausibility.network_channels has {len(channels)} numbers: give six, five levels and the last convolutions",
    )
    need(
        size % 16 == 0 and crop % 16 == 0,
        "plausibility.network_size and network_crop must be multiples of 16: the network halves them four times",
    )
    need(crop <= size, f"plausibility.network_crop {crop} is larger than network_size {size}")


def _check_utility(utility, need: Need) -> None:
    shares = list(utility.shares)
    need(
        len(shares) > 0 and all(0 < share <= 1 for share in shares),
        f"utility.shares {shares} are not all in (0, 1]",
    )
    need(len(set(shares)) == len(shares), f"utility.shares {shares} name a share twice: remove one")
    need(
        set(utility.side_shares) <= set(shares),
        f"utility.side_shares {list(utility.side_shares)} are not all among utility.shares: add them there",
    )


def _check_maps(profile, need: Need) -> None:
    """Sections anatomy, spade and acdc (notebooks 21 and 22)."""
    anatomy, spade, acdc, size = profile.anatomy, profile.spade, profile.acdc, profile.autoencoder.image_size
    need(
        0 < anatomy.edge_low <= anatomy.edge_high,
        f"anatomy.edge_low {anatomy.edge_low} and edge_high {anatomy.edge_high} are not 0 < low ≤ high",
    )
    _need_groups("anatomy.base_channels", anatomy.base_channels, profile.diffusion.norm_groups, need)
    need(
        acdc.val_fraction + acdc.test_fraction < 1,
        "acdc.val_fraction + acdc.test_fraction leave no patient to train on: lower one",
    )
    need(
        _rises(acdc.percentiles) and 0 <= acdc.percentiles[0] and acdc.percentiles[1] <= 100,
        f"acdc.percentiles {list(acdc.percentiles)} are not two rising numbers from 0 to 100",
    )
    need(
        len(spade.betas) == 2 and all(beta < 1 for beta in spade.betas),
        f"spade.betas {list(spade.betas)} are not two numbers below 1",
    )
    levels = len(spade.channels)
    need(
        levels > 0 and size % 2**levels == 0,
        f"frames of {size}² cannot be halved {levels} times: shorten spade.channels",
    )


def _check_lesions(profile, need: Need) -> None:
    """Sections lesions, ct_perfusion, pix2pix and lesion_sentences (notebooks 23 and 24)."""
    lesions, scan, asked = profile.lesions, profile.ct_perfusion, profile.lesion_sentences
    need(
        0 < lesions.train_fraction and lesions.train_fraction + lesions.val_fraction < 1,
        f"lesions.train_fraction {lesions.train_fraction} and val_fraction {lesions.val_fraction} leave no test patients: lower one",
    )
    _need_groups("lesions.base_channels", lesions.base_channels, profile.diffusion.norm_groups, need)
    need(
        scan.train_fraction + scan.val_fraction < 1,
        "ct_perfusion.train_fraction + ct_perfusion.val_fraction leave no patients to test: lower one",
    )
    for name in ("hu_window", "adc_window", "percentiles"):
        ends = getattr(scan, name)
        need(_rises(ends), f"ct_perfusion.{name} {list(ends)} are not two rising numbers")
    levels, size = len(profile.pix2pix.channels), profile.autoencoder.image_size
    need(
        levels > 0 and size % 2**levels == 0 and size >> levels >= 2,
        f"frames of {size}² cannot be halved {levels} times to 2² or more: shorten pix2pix.channels",
    )
    need(
        len(asked.judge_channels) == 6 and asked.judge_size % 16 == 0,
        "lesion_sentences.judge_channels need six numbers, and judge_size a multiple of 16: the network halves four times",
    )


def _rises(ends: tuple[float, ...]) -> bool:
    return len(ends) == 2 and ends[0] < ends[1]
