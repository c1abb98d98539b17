"""What the ledger of published numbers is made of: a printed number with what its digits allow, the outcome of a check, and the list of checks."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

WORDS = {"no": 0, "one": 1, "single": 1, "two": 2, "three": 3, "third": 3, "four": 4, "five": 5, "ten": 10}
KINDS = ("exact", "rounded", "words")
# What one check can find, gravest first. "missed": a simulation that was fitted to the number prints another; "setting": a choice of the authors;
# "no power": the test cannot fail here, so that passing it says nothing; "not run": the simulation is not at hand.
OUTCOMES = (
    "disagrees",
    "in doubt",
    "agrees",
    "restated",
    "reproduced",
    "possible",
    "missed",
    "setting",
    "no power",
    "not run",
)
# Inner spaces, commas and thin spaces that group digits.
_GROUPED = re.compile(r"(?<=\d)[,   ](?=\d{3}(?!\d))")
_NUMERAL = re.compile(r"(?:(\d+)×)?10\^(-?\d+)|(?<![\d.])-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Number:
    """One row of data_manifests/published.csv.

    `values`: the printed figures (several in a list such as {1, 2, 4}; none where words are printed). `kind`: "exact" (a count, a setting),
    "rounded" (it stands for all that prints so) or "words", whose parts are `terms`. `cell`: file and cell of data_manifests/published, or "".
    """

    id: str
    place: str
    quantity: str
    printed: str
    unit: str
    kind: str
    times: int
    cell: str
    checks: tuple[tuple[str, ...], ...]
    note: str
    values: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        return self.values[0]

    @property
    def decimals(self) -> int:
        return len(self.printed.partition(".")[2]) if self.kind == "rounded" else 0

    @property
    def low(self) -> float:
        return self.value - self._half_unit

    @property
    def high(self) -> float:
        return self.value + self._half_unit

    @property
    def _half_unit(self) -> float:
        return 0.5 * 10.0**-self.decimals if self.kind == "rounded" else 0.0

    @property
    def terms(self) -> tuple[str, ...]:
        return tuple(term.strip() for term in self.printed.split(";"))

    @property
    def subject(self) -> str:
        """What the number is about: "PC A" of "PC A: frames"."""
        return self.quantity.partition(":")[0]

    @property
    def figure(self) -> str:
        """One figure for use in a formula: "four" as 4, 99349 with a comma."""
        return self.printed.replace("-", "−") if self.kind == "rounded" or len(self.values) != 1 else show(self.value)

    @property
    def text(self) -> str:
        """As printed, counts with commas and negative numbers with a true minus, and its unit."""
        if self.kind == "words" or not self.printed.lstrip("-").replace(".", "").isdigit():
            printed = re.sub(r"(?<![\w.])-(?=\d)", "−", self.printed)
        else:
            printed = self.printed if self.unit == "year" else self.figure
        return f"{printed} {self.unit}" if self.unit in ("%", "°") else printed


@dataclass(frozen=True)
class Outcome:
    """What a check found. `computed`: the value from the other numbers, as text; `residual`: printed minus computed, None where that has no meaning;
    `against`: id of the number that says otherwise, where it is one."""

    outcome: str
    text: str
    computed: str = ""
    residual: float | None = None
    against: str = ""


@dataclass(frozen=True)
class Paper:
    """All published numbers by id, and what was simulated or reconstructed to fit them: cell → value."""

    numbers: Mapping[str, Number]
    simulated: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> Number:
        return self.numbers[name]

    def pick(self, names: Iterable[str]) -> list[Number]:
        return [self.numbers[name] for name in names]


CHECKS: dict[str, Callable[..., Outcome]] = {}


def check(how: str) -> Callable:
    """Register a check (paper, number, *arguments) → Outcome under its own name; `how` says in words what it does."""

    def register(function: Callable) -> Callable:
        function.how = how
        CHECKS[function.__name__] = function
        return function

    return register


def parse(printed: str) -> tuple[float, ...]:
    """The figures in a printed text: "22,064", "-90/0", "{1, 2, 4}", "2×10^-5", "four". Empty where there is none."""
    text = _GROUPED.sub("", printed.replace("−", "-"))
    if text.lower() in WORDS:
        return (float(WORDS[text.lower()]),)
    return tuple(
        float(match[1] or 1) * 10.0 ** int(match[2]) if match[2] else float(match[0])
        for match in _NUMERAL.finditer(text)
    )


def spread(function: Callable[..., float], numbers: Iterable[Number]) -> tuple[float, float, float]:
    """(lowest, as printed, highest) value of a function that is monotone in each of `numbers`, over all that their digits allow."""
    numbers = list(numbers)
    corners = [(n.value,) if n.low == n.high else (n.low, n.high) for n in numbers]
    values = [function(*corner) for corner in itertools.product(*corners)]
    return min(values), function(*(n.value for n in numbers)), max(values)


def compare(number: Number, formula: str, low: float, middle: float, high: float) -> Outcome:
    """`number` beside a value computed from other printed numbers, of which only low ≤ value ≤ high is known because those are rounded."""
    slack = 1e-9 * max(1.0, abs(middle))
    agrees = low <= number.high + slack and high >= number.low - slack
    inside = number.low - slack <= middle <= number.high + slack
    whole = number.kind == "exact" and float(middle).is_integer()
    places = 0 if whole else number.decimals + (1 if agrees and inside else 2)
    computed, unit = show(middle, places), " %" if number.unit == "%" else ""
    text = f"{formula} = {computed}{unit}"
    if agrees and not inside:
        text += f" ({show(low, places)} to {show(high, places)} by the rounding of what it is computed from)"
    if not agrees and number.kind == "rounded":
        text += f", which prints as {show(middle, number.decimals)}{unit}"
    text += f"; printed {number.text}"
    if not agrees:
        text += f", a difference of {show(number.value - middle, places, sign=True)}"
    return Outcome("agrees" if agrees else "disagrees", text, computed, number.value - middle)


def show(value: float, decimals: int | None = None, sign: bool = False) -> str:
    """For the eye: groups of thousands, a true minus, no negative zero. Without `decimals` as many as the value has, up to six digits."""
    if decimals is None:
        decimals = 0 if float(value).is_integer() else len(f"{value:g}".partition(".")[2])
    text = f"{value:{'+' if sign else ''},.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("+-")


def among(words: Iterable[str]) -> str:
    """ "a, b and c"."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
