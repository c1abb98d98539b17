"""What a single value of a profile may be: its type, and the range or the choices declared beside its default (in `sections`).

    threshold: float = number(0.5, above=0, below=1)
    batch_size: int = positive(64)
    scheduler: str = choice("ddpm", among=("ddpm", "ddim"))

One loop enforces all of them (`check_limits`). Numbers without a declaration must not be negative either. What several values must satisfy together stands in
`checks`.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dsa_lib.run.errors import StudyError


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


def check_limits(profile) -> None:
    """Raise StudyError, with the remedy, for the first value of `profile` outside its limits."""
    for name, item, value in leaves(profile):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not value >= 0:  # NaN is refused too
            raise StudyError(f"profile {profile.name}: {name} is {value}: it cannot be negative")
        limit = item.metadata.get("limit")
        if limit is not None and not limit.allows(value):
            raise StudyError(f"profile {profile.name}: {limit.sentence.format(name=name, value=value)}")


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
