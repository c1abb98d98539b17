"""Which circulation a run shows, from the words its acquisition was named with (§2.2).

The vocabulary (`data_manifests/vessel_terms.csv`, or a user's own file of the same form) lists German and English short forms. A run counts as
anterior or posterior when every term found agrees; terms of other territories exclude it; what says nothing or contradicts itself is excluded and
listed for an expert, whose answers (`read_by_hand`) come before the vocabulary. Only the vocabulary's term is recorded, never the text it stood in:
free text can hold a name.
"""

import functools
import io
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dsa_lib.core.condition_sentences import CIRCULATIONS
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT

VOCABULARY = PROJECT / "data_manifests" / "vessel_terms.csv"
COLUMNS = ["term", "use", "vessel", "language"]
USES = (*CIRCULATIONS, "exclude", "ignore")
BY_HAND = "by hand"  # recorded in place of a term
# Short forms are written with side and run number attached: "ACIre", "ICA2", "ACC li". Two letters are too few to allow it for letters.
_SIDE = r"(?:re|li|r|l|dx|sin)?"


@dataclass(frozen=True)
class Term:
    """One row of the vocabulary. `use` is anterior, posterior, exclude, or ignore (consumed before shorter terms, says nothing)."""

    term: str
    use: str
    vessel: str


@dataclass(frozen=True)
class Match:
    """`circulation` is "anterior", "posterior" or None; then `reason` says why. `term` is what matched, "+"-joined, or ""."""

    circulation: str | None
    term: str
    reason: str


def read_vocabulary(path: Path = VOCABULARY) -> tuple[Term, ...]:
    """Terms of a CSV with columns term, use, vessel, language, longest first. Raises StudyError naming file, line and fault."""
    path = Path(path)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{path.name} cannot be read as a vessel vocabulary ({type(error).__name__}): give a CSV with columns {COLUMNS}"
        ) from None
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise StudyError(f"{path.name} lacks the column {missing[0]!r}: a vessel vocabulary has columns {COLUMNS}")
    frame["term"] = frame["term"].map(normalise)
    for line, row in enumerate(frame.itertuples(), start=2):
        if not row.term:
            raise StudyError(f"{path.name} line {line} has no term: write a vessel name or remove the line")
        if row.use not in USES:
            raise StudyError(f"{path.name} line {line} has use {row.use!r}: choose one of {', '.join(USES)}")
    twice = frame.loc[frame["term"].duplicated(), "term"]
    if len(twice):
        raise StudyError(f"{path.name} lists the term {twice.iloc[0]!r} twice: keep one of its lines")
    terms = [Term(row.term, row.use, row.vessel) for row in frame.itertuples()]
    return tuple(sorted(terms, key=lambda term: (-len(term.term), term.term)))


def normalise(text: str) -> str:
    """Lower case, accents folded, everything but letters and digits to single spaces."""
    folded = unicodedata.normalize("NFKD", str(text).casefold())
    folded = "".join(letter for letter in folded if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[a-z0-9]+", folded))


def read_by_hand(path: Path) -> dict[str, Match]:
    """An expert's answers by SOP instance UID, from a CSV `sop_instance_uid,circulation`; further columns and rows without an answer are passed over.

    An answer is anterior, posterior or exclude. The list of what to answer is `private/circulation_by_hand.csv` of a run. Raises StudyError naming
    file, line and fault, never an identifier.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")  # as spreadsheets on Windows save it
        heading = text.partition("\n")[0]
        separator = ";" if heading.count(";") > heading.count(",") else ","
        rows = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{path.name} cannot be read ({type(error).__name__}): give a CSV with the columns sop_instance_uid,circulation"
        ) from None
    for name in ("sop_instance_uid", "circulation"):
        if name not in rows.columns:
            raise StudyError(f"{path.name} lacks the column {name!r}: its columns are sop_instance_uid,circulation")
    answers: dict[str, Match] = {}
    for line, row in enumerate(rows.itertuples(), start=2):
        answer = row.circulation.strip().lower()
        if not answer:
            continue
        if answer not in (*CIRCULATIONS, "exclude"):
            raise StudyError(
                f"{path.name} line {line} has circulation {row.circulation!r}: write anterior, posterior, exclude, or nothing"
            )
        match = Match(None, BY_HAND, "other territory: by hand") if answer == "exclude" else Match(answer, BY_HAND, "")
        if answers.setdefault(row.sop_instance_uid.strip(), match) != match:
            raise StudyError(f"{path.name} line {line} contradicts an earlier line of the same run: keep one of them")
    return answers


@functools.cache
def _pattern(term: str) -> re.Pattern:
    letters = term.replace(" ", "")
    side = _SIDE if 3 <= len(letters) <= 4 else ""
    return re.compile(rf"(?<![a-z0-9]){re.escape(term)}{side}\d*(?![a-z0-9])")


def find_terms(text: str, vocabulary: tuple[Term, ...]) -> list[Term]:
    """Terms in `text`, longest first; what a longer term covers no shorter one can match again."""
    rest, found = normalise(text), []
    for term in vocabulary:
        if term.term not in rest:  # far quicker than the pattern, which holds the term as it is
            continue
        rest, count = _pattern(term.term).subn("|", rest)
        if count:
            found.append(term)
    return found


def match_circulation(texts: tuple[str, ...], vocabulary: tuple[Term, ...]) -> Match:
    """Circulation from the series description, protocol name and body part (any order; empty texts say nothing).

    All texts must agree: a wrong condition would mislead the model, a lost series only makes the archive smaller.
    """
    found = [term for text in texts for term in find_terms(text, vocabulary) if term.use != "ignore"]
    names = "+".join(sorted({term.term for term in found}))
    if not found:
        return Match(None, "", "no vessel named: annotate by hand")
    uses = {term.use for term in found}
    if len(uses) > 1:
        return Match(None, names, "contradictory vessels named: annotate by hand")
    use = uses.pop()
    if use == "exclude":
        vessels = sorted({term.vessel for term in found})
        return Match(None, names, f"other territory: {' and '.join(vessels)}")
    return Match(use, names, "")
