"""What a frame is conditioned on: circulation, plane and C-arm angles, their canonical bins (Table 1) and their sentence (§2.3, §4.4)."""

import re
from dataclasses import dataclass

from dsa_lib.errors import StudyError

CIRCULATIONS = ("anterior", "posterior")
PLANES = ("A", "B")
ANGLE_TOLERANCE_DEG = 5.0  # Table 1, footnote: bins of ±5° around the canonical positions
OTHERS = "Others"

_ARTICLE = {"anterior": "an", "posterior": "a"}
_SENTENCE = (
    "This is {article} {circulation} DSA scan taken in Plane {plane}, "
    "with a primary angle of {primary}° and a secondary angle of {secondary}°."
)
_PATTERN = re.compile(
    r"This is an? (?P<circulation>anterior|posterior) DSA scan taken in Plane (?P<plane>[AB]), "
    r"with a primary angle of (?P<primary>-?\d+)° and a secondary angle of (?P<secondary>-?\d+)°\."
)


@dataclass(frozen=True)
class Condition:
    """One acquisition condition.

    `primary_angle_deg` and `secondary_angle_deg` are DICOM positioner angles (0018,1510) and (0018,1511) in degrees:
    primary positive towards the patient's left (LAO), secondary positive cranial. Range ±180.
    """

    circulation: str
    plane: str
    primary_angle_deg: float
    secondary_angle_deg: float

    def __post_init__(self):
        if self.circulation not in CIRCULATIONS:
            raise StudyError(
                f"circulation {self.circulation!r} is not one of {', '.join(CIRCULATIONS)}: correct the condition"
            )
        if self.plane not in PLANES:
            raise StudyError(f"plane {self.plane!r} is not one of {', '.join(PLANES)}: correct the condition")
        for name in ("primary_angle_deg", "secondary_angle_deg"):
            if not -180 <= getattr(self, name) <= 180:
                raise StudyError(
                    f"{name} {getattr(self, name)} is outside ±180°: give the DICOM positioner angle in degrees"
                )

    def canonical_angles(self) -> tuple[int, int]:
        """Angles in whole degrees, drawn to the plane's canonical position where within its ±5° bin (§4.4)."""
        bin_ = _canonical_bin(self.primary_angle_deg, self.secondary_angle_deg)
        return bin_ if bin_ is not None else (round(self.primary_angle_deg), round(self.secondary_angle_deg))

    def cell(self) -> str:
        """Row of Table 1: "AC A", "PC A" (0°/0°), "AC B", "PC B" (−90°/0°), or "Others"."""
        wanted = {"A": (0, 0), "B": (-90, 0)}[self.plane]
        if _canonical_bin(self.primary_angle_deg, self.secondary_angle_deg) != wanted:
            return OTHERS
        return f"{'AC' if self.circulation == 'anterior' else 'PC'} {self.plane}"

    def sentence(self) -> str:
        """The template of §2.3, angles in whole degrees."""
        primary, secondary = self.canonical_angles()
        return _SENTENCE.format(
            article=_ARTICLE[self.circulation],
            circulation=self.circulation,
            plane=self.plane,
            primary=primary,
            secondary=secondary,
        )


def _canonical_bin(primary: float, secondary: float) -> tuple[int, int] | None:
    if abs(secondary) > ANGLE_TOLERANCE_DEG:
        return None
    for centre in (0, -90):
        if abs(primary - centre) <= ANGLE_TOLERANCE_DEG:
            return centre, 0
    return None


def parse_sentence(sentence: str) -> Condition:
    """The inverse of `Condition.sentence`; raises StudyError on anything outside the grammar."""
    match = _PATTERN.fullmatch(sentence.strip())
    if match is None:
        raise StudyError(
            f"the sentence {sentence!r} is not in the grammar: write it like {CANONICAL['AC A'].sentence()!r}"
        )
    return Condition(match["circulation"], match["plane"], float(match["primary"]), float(match["secondary"]))


CANONICAL: dict[str, Condition] = {
    "AC A": Condition("anterior", "A", 0, 0),
    "PC A": Condition("posterior", "A", 0, 0),
    "AC B": Condition("anterior", "B", -90, 0),
    "PC B": Condition("posterior", "B", -90, 0),
}
CELLS = tuple(CANONICAL)


def sentence_words() -> list[str]:
    """Every word of the sentence grammar; digits stand alone, so that angles never seen in training can still be written."""
    words = {word for cell in CANONICAL.values() for word in re.findall(r"[A-Za-z]+|[^\sA-Za-z]", cell.sentence())}
    return sorted({*words, "-", *"0123456789"})
