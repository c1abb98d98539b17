"""What a frame is conditioned on: circulation, plane and C-arm angles, their canonical bins (Table 1) and their sentence (§2.3, §4.4).

A sentence may go on to name a finding ("…, showing an aneurysm of the left middle cerebral artery."): beyond the paper, which lists lesions among the
further work of §3, and only for models that were trained on such sentences.
"""

import difflib
import itertools
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dsa_lib.run.errors import StudyError

CIRCULATIONS = ("anterior", "posterior")
PLANES = ("A", "B")
ANGLE_TOLERANCE_DEG = 5.0  # Table 1, footnote: bins of ±5° around the canonical positions
OTHERS = "Others"

_ARTICLE = {"anterior": "an", "posterior": "a"}
_SENTENCE = (
    "This is {article} {circulation} DSA scan taken in Plane {plane}, "
    "with a primary angle of {primary}° and a secondary angle of {secondary}°{finding}."
)
LESIONS = ("aneurysm", "stenosis", "occlusion", "arteriovenous malformation")
SIDES = ("left", "right")
PAIRED_ARTERIES = (
    "internal carotid artery",
    "middle cerebral artery",
    "anterior cerebral artery",
    "posterior cerebral artery",
    "vertebral artery",
)
UNPAIRED_ARTERIES = ("basilar artery",)
_PATTERN = re.compile(
    r"This is an? (?P<circulation>anterior|posterior) DSA scan taken in Plane (?P<plane>[AB]), "
    r"with a primary angle of (?P<primary>-?\d+)° and a secondary angle of (?P<secondary>-?\d+)°"
    rf"(?:, showing an? (?P<lesion>{'|'.join(LESIONS)}) of the (?:(?P<side>left|right) )?"
    rf"(?P<artery>{'|'.join(PAIRED_ARTERIES + UNPAIRED_ARTERIES)}))?\."
)


@dataclass(frozen=True)
class Finding:
    """A lesion as a sentence names it: `lesion` of LESIONS, `artery` of PAIRED_ARTERIES or UNPAIRED_ARTERIES, `side` of SIDES ("" for an unpaired one)."""

    lesion: str
    side: str
    artery: str

    def __post_init__(self):
        if self.lesion not in LESIONS:
            raise StudyError(f"lesion {self.lesion!r} is not one of {', '.join(LESIONS)}: correct the finding")
        if self.artery not in PAIRED_ARTERIES + UNPAIRED_ARTERIES:
            raise StudyError(
                f"artery {self.artery!r} is not one of {', '.join(PAIRED_ARTERIES + UNPAIRED_ARTERIES)}: correct the finding"
            )
        if (self.side in SIDES) != (self.artery in PAIRED_ARTERIES) or (self.side and self.side not in SIDES):
            raise StudyError(
                f"side {self.side!r} does not go with the {self.artery}: paired arteries are left or right, the basilar artery has no side"
            )

    def text(self) -> str:
        """As the sentence has it, without the article: "aneurysm of the left middle cerebral artery"."""
        return f"{self.lesion} of the {self.side + ' ' if self.side else ''}{self.artery}"


@dataclass(frozen=True)
class Condition:
    """One acquisition condition.

    `primary_angle_deg` and `secondary_angle_deg` are DICOM positioner angles (0018,1510) and (0018,1511) in degrees:
    primary positive towards the patient's left (LAO), secondary positive cranial. Range ±180. `finding`: a lesion that the frame shows, or None.
    """

    circulation: str
    plane: str
    primary_angle_deg: float
    secondary_angle_deg: float
    finding: Finding | None = None

    def __post_init__(self):
        if self.circulation not in CIRCULATIONS:
            raise StudyError(
                f"circulation {self.circulation!r} is not one of {', '.join(CIRCULATIONS)}: correct the condition"
            )
        if self.plane not in PLANES:
            raise StudyError(f"plane {self.plane!r} is not one of {', '.join(PLANES)}: correct the condition")
        for name in ("primary_angle_deg", "secondary_angle_deg"):
            angle = getattr(self, name)
            if not isinstance(angle, numbers.Real):
                raise StudyError(f"{name} {angle!r} is not a number: give the DICOM positioner angle in degrees")
            if not -180 <= angle <= 180:
                raise StudyError(f"{name} {angle} is outside ±180°: give the DICOM positioner angle in degrees")

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
        """The template of §2.3, angles in whole degrees; a finding goes on after them."""
        primary, secondary = self.canonical_angles()
        showing = ""
        if self.finding is not None:
            showing = f", showing {'an' if self.finding.lesion[0] in 'aeiou' else 'a'} {self.finding.text()}"
        return _SENTENCE.format(
            article=_ARTICLE[self.circulation],
            circulation=self.circulation,
            plane=self.plane,
            primary=primary,
            secondary=secondary,
            finding=showing,
        )


def _canonical_bin(primary: float, secondary: float) -> tuple[int, int] | None:
    if abs(secondary) > ANGLE_TOLERANCE_DEG:
        return None
    for centre in (0, -90):
        if abs(primary - centre) <= ANGLE_TOLERANCE_DEG:
            return centre, 0
    return None


def parse_sentence(sentence: str) -> Condition:
    """The inverse of `Condition.sentence`; raises StudyError on anything outside the grammar, naming the nearest valid sentence."""
    match = _PATTERN.fullmatch(sentence.strip())
    if match is None:
        unknown = _unknown_words(sentence)
        which = f" ({'; '.join(unknown[:3])})" if unknown else ""
        raise StudyError(
            f"the sentence {sentence!r} is not in the grammar{which}: write it like {_nearest_sentence(sentence)!r}"
        )
    finding = Finding(match["lesion"], match["side"] or "", match["artery"]) if match["lesion"] else None
    return Condition(match["circulation"], match["plane"], float(match["primary"]), float(match["secondary"]), finding)


def as_condition(asked: "Condition | str | tuple") -> Condition:
    """A Condition from what a user may write: a Condition, a sentence, or (circulation, plane, primary angle, secondary angle) in degrees.

    Raises StudyError for anything else, and for values that no condition has.
    """
    if isinstance(asked, Condition):
        return asked
    if isinstance(asked, str):
        return parse_sentence(asked)
    if isinstance(asked, tuple | list) and len(asked) == 4:
        return Condition(*asked)
    raise StudyError(
        f"{asked!r} is not a condition: give a sentence, a Condition, or (circulation, plane, primary angle, secondary angle)"
    )


def _unknown_words(text: str) -> list[str]:
    """What is foreign to the grammar in a text, word by word, with the word that was probably meant."""
    known = [word for word in sentence_words(findings=True) if word.isalpha()]
    found, previous = [], ""
    for word in dict.fromkeys(re.findall(r"[^\W\d_]+", text)):
        if word not in known:
            near = difflib.get_close_matches(word, [other for other in known if len(other) > 1], n=1)
            if previous.lower() == "plane":
                hint = f": the planes are {' and '.join(PLANES)}"
            else:
                hint = f": did you mean {near[0]!r}?" if near else ""
            found.append(f"it does not know {word!r}{hint}")
        previous = word
    return found


def _nearest_sentence(text: str) -> str:
    """The template filled with what can be read off a text that is not in the grammar; canonical values for the rest."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    named = [near[0] for word in words if (near := difflib.get_close_matches(word, CIRCULATIONS, n=1))]
    planes = [after.upper() for word, after in itertools.pairwise(words) if word == "plane"]
    plane = next((letter for letter in planes if letter in PLANES), PLANES[0])
    angles = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]
    if len(angles) != 2 or max(map(abs, angles)) > 180:
        angles = [0 if plane == "A" else -90, 0]
    return Condition(named[0] if named else CIRCULATIONS[0], plane, *angles).sentence()


CANONICAL: dict[str, Condition] = {
    "AC A": Condition("anterior", "A", 0, 0),
    "PC A": Condition("posterior", "A", 0, 0),
    "AC B": Condition("anterior", "B", -90, 0),
    "PC B": Condition("posterior", "B", -90, 0),
}
CELLS = tuple(CANONICAL)


def sentence_words(findings: bool = False) -> list[str]:
    """Every word of the sentence grammar, those of findings last and only if asked for, so that the words before keep their places; digits stand alone, so that
    angles never seen in training can still be written."""

    def words(texts: Iterable[str]) -> set[str]:
        return {word for text in texts for word in re.findall(r"[A-Za-z]+|[^\sA-Za-z]", text)}

    plain = sorted({*words(cell.sentence() for cell in CANONICAL.values()), "-", *"0123456789"})
    if not findings:
        return plain
    further = words(("showing of the", *LESIONS, *SIDES, *PAIRED_ARTERIES, *UNPAIRED_ARTERIES))
    return plain + sorted(further - set(plain))


class SeenConditions:
    """The conditions that occurred in a training set, and whether another one is close enough to them to be asked for.

    A condition counts as seen when frames of its circulation and plane were taken with both angles within ±5° of its own. That is the tolerance by
    which Table 1 calls two positions the same, here around every position that occurred: a window of 10° that moves with the data, so that no
    edge of a fixed grid falls between a condition and the frame beside it. Angles are the canonical ones of the sentences, all the model is told.
    """

    def __init__(self, angles: Mapping[tuple[str, ...], Iterable[tuple[int, int]]]):
        self.angles = {group: sorted(set(pairs)) for group, pairs in sorted(angles.items())}

    @classmethod
    def of(cls, sentences: Iterable[str]) -> "SeenConditions":
        """Of the sentences of a training set."""
        angles: dict[tuple[str, ...], list[tuple[int, int]]] = {}
        for sentence in set(sentences):
            condition = parse_sentence(sentence)
            angles.setdefault(_group(condition), []).append(condition.canonical_angles())
        return cls(angles)

    def to_config(self) -> dict[str, str]:
        """Compact form for a JSON file: {"anterior A": "-32/18 0/0 …"}, whole degrees, primary/secondary; a finding follows the plane."""
        return {" ".join(group): " ".join(f"{p}/{s}" for p, s in pairs) for group, pairs in self.angles.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> "SeenConditions":
        return cls(
            {
                tuple(group.split(maxsplit=2)): [
                    tuple(int(angle) for angle in pair.split("/")) for pair in pairs.split()
                ]
                for group, pairs in config.items()
            }
        )

    def covers(self, condition: Condition) -> bool:
        """Whether the condition was seen."""
        asked = condition.canonical_angles()
        pairs = self.angles.get(_group(condition), [])
        return any(_apart(asked, pair) <= ANGLE_TOLERANCE_DEG for pair in pairs)

    def nearest(self, condition: Condition, count: int = 3) -> list[Condition]:
        """The `count` seen conditions closest to it: those of its own circulation, plane and finding first, then by the larger difference in angle."""
        asked, group = condition.canonical_angles(), _group(condition)
        ranked = sorted(
            (sum(a != b for a, b in itertools.zip_longest(other, group)), _apart(asked, pair), other, pair)
            for other, pairs in self.angles.items()
            for pair in pairs
        )
        return [
            Condition(*other[:2], *pair, _finding(other[2]) if len(other) > 2 else None)
            for _, _, other, pair in ranked[:count]
        ]

    def require(self, conditions: Iterable[Condition]) -> None:
        """Raise StudyError for the first of `conditions` that was never seen, naming the nearest seen ones."""
        for condition in dict.fromkeys(conditions):
            if not self.covers(condition):
                near = "; ".join(_short(other) for other in self.nearest(condition))
                raise StudyError(
                    f"the model never saw a condition like {_short(condition)} (within {ANGLE_TOLERANCE_DEG:g}° in both angles): "
                    f"ask for one that it saw, the nearest are {near}, or pass allow_unseen=True"
                )


def _group(condition: Condition) -> tuple[str, ...]:
    """What frames must share to be compared by their angles."""
    group = condition.circulation, condition.plane
    return group if condition.finding is None else (*group, condition.finding.text())


def _finding(text: str) -> Finding:
    """The inverse of `Finding.text`."""
    lesion, artery = text.split(" of the ")
    side = artery.split()[0] if artery.split()[0] in SIDES else ""
    return Finding(lesion, side, artery.removeprefix(side).strip())


def _apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The larger difference of two pairs of angles; a full turn apart is the same position."""
    return max(abs((a - b + 180) % 360 - 180) for a, b in zip(one, other, strict=True))


def _short(condition: Condition) -> str:
    primary, secondary = condition.canonical_angles()
    showing = f" with {condition.finding.text()}" if condition.finding is not None else ""
    return f"{condition.circulation} {condition.plane} {primary}°/{secondary}°{showing}"
