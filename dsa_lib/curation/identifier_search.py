"""Looks for what an archive says about people in everything that a run wrote, decoded: the proof that nothing left, or where it did.

Long needles are found whatever stands around or between their letters ("Muster^Erika" in "muster_erika_01"); short ones and numbers only as words of their
own, because by chance alone they occur in any long file. What is too short even for that is counted by `unsearchable`.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from dsa_lib.curation import decoded
from dsa_lib.run.places import LIBRARY, PROJECT

LONG = 8  # letters and digits from which a needle is found inside other words
LONG_NUMBER = 14  # likewise, of digits alone
SHORT, SHORT_NUMBER = 4, 6  # shortest that are looked for as words
ALIKE = 0.6  # correlation from which a picture shows a pattern
TEXTUAL = (
    "AE",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "UC",
    "UI",
    "UR",
    "UT",
    "DA",
    "DT",
)  # others are enumerations and numbers
_STANDARD_UID = "1.2.840.10008."


class Needle(NamedTuple):
    kind: str  # told in a report, such as "patient name"
    text: str  # never told


class Hit(NamedTuple):
    file: str  # path inside the folder; "" where the name itself is the hit, lest it be told
    where: str  # decoder
    kind: str


@dataclass(frozen=True)
class Found:
    hits: list[Hit]
    files: int


def squeezed(text: str) -> str:
    """Letters and digits alone, accents and case folded."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in folded if letter.isalnum())


_WORD = re.compile(r"[^\W\d_]+|\d+")


def _words(text: str) -> tuple[list[tuple[str, int, int]], str]:
    """(words and numbers with their places, the folded text that these places are in)."""
    folded = "".join(x for x in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(x))
    return [(word[0], word.start(), word.end()) for word in _WORD.finditer(folded)], folded


def _searchable(text: str) -> str:
    """ "long", "short" or "" for a needle."""
    bare = squeezed(text)
    if bare.isdecimal():
        return "long" if len(bare) >= LONG_NUMBER else "short" if len(bare) >= SHORT_NUMBER else ""
    return "long" if len(bare) >= LONG else "short" if len(bare) >= SHORT else ""


def unsearchable(needles: Iterable[Needle]) -> int:
    """How many of the needles are too short to be told from chance."""
    return sum(not _searchable(needle.text) for needle in needles)


class Matcher:
    """Many needles at once: `kinds(text)` gives the kinds of those that occur in it."""

    def __init__(self, needles: Iterable[Needle]):
        self._long: dict[str, dict[str, str]] = {}
        self._short: dict[str, dict[tuple[str, ...], str]] = {}
        for kind, text in needles:
            way, bare = _searchable(text), squeezed(text)
            if way == "long":
                self._long.setdefault(bare[:LONG], {}).setdefault(bare, kind)
            elif way == "short":
                words = tuple(word for word, _, _ in _words(text)[0])
                self._short.setdefault(words[0], {}).setdefault(words, kind)

    def kinds(self, text: str) -> set[str]:
        found = set()
        if self._long:
            bare = squeezed(text)
            for start in range(len(bare) - LONG + 1):
                for needle, kind in self._long.get(bare[start : start + LONG], {}).items():
                    if bare.startswith(needle, start):
                        found.add(kind)
        if self._short:
            words, folded = _words(text)
            for index, (word, start, _) in enumerate(words):
                for needle, kind in self._short.get(word, {}).items():
                    last = index + len(needle)
                    if tuple(item for item, _, _ in words[index:last]) != needle:
                        continue
                    end = words[last - 1][2]
                    inner = zip(words[index : last - 1], words[index + 1 : last], strict=True)
                    between = all(begin - stop <= 2 for (_, _, stop), (_, begin, _) in inner)
                    before, after = folded[max(start - 2, 0) : start], folded[end : end + 2]
                    # Digits and letters before or after belong to another number or word; so does a decimal point.
                    alone = not re.search(r"[^\W_]\Z|\d\.\Z", before) and not re.match(r"[^\W_]|\.\d", after)
                    if between and alone:
                        found.add(kind)
        return found


def find_identifiers(
    folder: Path,
    needles: Iterable[Needle],
    leave_out: Iterable[str] = ("private",),
    patterns: Mapping[str, np.ndarray] | None = None,
    scales: Sequence[float] = (1.0, 0.5, 0.25),
) -> Found:
    """Every occurrence of `needles` in the files and file names below `folder`, decoded.

    Decoded are Parquet (metadata, column names, values), NumPy arrays, JSON and notebooks, HTML, plain text, PNG (text chunks), base64 in any of them,
    zip, gzip, bzip2 and xz, one in another; all else is searched as bytes in UTF-8, Latin-1 and UTF-16. `leave_out`: names in `folder` that are not
    searched. `patterns`: pictures [rows, columns] by kind, such as burned-in text, looked for in PNGs and arrays at each of `scales`, bright or dark.
    """
    folder, matcher, hits, files, seen = Path(folder), Matcher(needles), [], 0, {}
    for path in _files(folder, tuple(leave_out)):
        name = path.relative_to(folder).as_posix()
        files += 1
        in_name = matcher.kinds(name)
        hits += [Hit("", "file name", kind) for kind in sorted(in_name)]
        shown = "" if in_name else name
        if path.is_symlink():
            hits += [Hit(shown, "target of a link", kind) for kind in sorted(matcher.kinds(os.readlink(path)))]
            continue
        if not path.is_file():
            continue
        found = {}
        for where, part in decoded.parts_of_file(path, pictures=bool(patterns)):
            if isinstance(part, str):
                found |= dict.fromkeys((where, kind) for kind in sorted(matcher.kinds(part)))
            else:
                same = hashlib.sha256(part.tobytes()).digest()  # a figure lies in its file, a notebook and the report
                if same not in seen:
                    seen[same] = _shown(part, patterns, scales)
                found |= dict.fromkeys((f"{where} pixels", kind) for kind in seen[same])
        hits += [Hit(shown, where, kind) for where, kind in found]
    return Found(hits, files)


def _files(folder: Path, leave_out: tuple[str, ...]) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        here = Path(root)
        if here == folder:
            folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in leave_out)]
            names = [name for name in names if not any(fnmatch(name, pattern) for pattern in leave_out)]
        folders.sort()
        yield from (here / name for name in folders if (here / name).is_symlink())
        yield from (here / name for name in sorted(names))
        if not names and not folders and here != folder:
            yield here  # an empty folder has a name too


def _shown(picture: np.ndarray, patterns: Mapping[str, np.ndarray], scales: Sequence[float]) -> list[str]:
    """Kinds of the patterns that the picture shows at one of the scales, by normalised cross-correlation of either sign."""
    from skimage.feature import match_template
    from skimage.transform import rescale

    if not np.isfinite(picture).all() or np.ptp(picture) == 0:
        return []
    # On even areas the correlation is a quotient of rounding errors: a little noise makes it small there.
    picture = picture + np.random.default_rng(0).normal(0, 0.005 * np.ptp(picture), picture.shape)
    found = []
    for kind, pattern in patterns.items():
        for scale in scales:
            small = rescale(np.asarray(pattern, float), scale, anti_aliasing=True) if scale != 1 else pattern
            if min(small.shape) < 4 or any(a > b for a, b in zip(small.shape, picture.shape, strict=True)):
                continue
            if np.abs(match_template(picture, small)).max() >= ALIKE:
                found.append(kind)
                break
    return found


# --- what to look for -------------------------------------------------------------------------------------------------------------------------


def needles_of(archive: Path) -> list[Needle]:
    """Names, numbers, dates, UIDs and texts from all headers below `archive` (sequences and private elements too), its file and folder names, and its place.

    Left out are standard UIDs and what consists of ordinary words of this project ("phantom", "lateral"): they are in every run. Files that are not DICOM
    add their names alone.
    """
    archive, found = Path(archive), {}
    for root, _, names in os.walk(archive):
        for name in names:
            path = Path(root, name)
            for part in (*path.relative_to(archive).parts[:-1], path.stem):
                found.setdefault(part, "file or folder name")
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True)
            except Exception:  # whatever a damaged or foreign file does, its name has been noted
                continue
            for kind, text in texts_of(header):
                found.setdefault(text, kind)
    found.setdefault(str(archive.resolve()), "path of the archive")
    return [Needle(kind, text) for text, kind in found.items() if not _ordinary(text)]


def texts_of(header: Dataset) -> Iterator[Needle]:
    """Needles of one data set: every textual element with its name or tag; names of persons also by their parts, dates in their usual forms."""
    for element in header.iterall():
        values = element.value if isinstance(element.value, list | pydicom.multival.MultiValue) else [element.value]
        kind = element.keyword or "private element"
        for value in values:
            if element.VR == "UN" and isinstance(value, bytes) and value.isascii():
                value = value.decode().strip("\x00 ")
            elif element.VR not in TEXTUAL:
                continue
            text = str(value).strip()
            if text.startswith(_STANDARD_UID) or not text:
                continue
            yield Needle(kind, text)
            if element.VR == "PN":
                yield from (Needle(f"part of {kind}", part) for part in re.split(r"[\^=, ]+", text))
            elif element.VR in ("DA", "DT") and re.match(r"\d{8}", text):
                year, month, day = text[:4], text[4:6], text[6:8]
                forms = (text[:8], f"{year}-{month}-{day}", f"{day}.{month}.{year}", f"{month}/{day}/{year}")
                yield from (Needle(kind, form) for form in forms)


@cache
def _project_words() -> frozenset[str]:
    texts = (
        path.read_text(errors="ignore")
        for folder in (LIBRARY, PROJECT / "notebooks", PROJECT / "workflow", PROJECT / "data_manifests")
        for path in folder.rglob("*")
        if path.suffix in (".py", ".ipynb", ".csv", ".md", ".j2")
    )
    return frozenset(word for text in texts for word, _, _ in _words(text)[0] if not word.isdecimal())


def _ordinary(text: str) -> bool:
    words = [word for word, _, _ in _words(text)[0] if not word.isdecimal()]
    return bool(words) and all(word in _project_words() for word in words) and not re.search(r"\d", text)
