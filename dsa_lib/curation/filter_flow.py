"""The filter of §2.2: what one file's facts decide, which copies of an image count, and what became of every file. Records in, counts out.

A record is what was read of one file: the facts of `dicom.Acquisition` and the verdict of `judge`, or `{"quarantined": reason, "remedy": what to do}`.
It holds identifiers and stays private. Where it came from (a DICOM file, or the simulation of `dsa_lib.paper.cohort_at_size`) makes no difference here.
"""

import dataclasses
import filecmp
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.pixels import iter_pixels
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dsa_lib.core.splits import SPLITS
from dsa_lib.curation import circulation
from dsa_lib.dicom.series import Acquisition, read_header

IDENTICAL = "an identical copy of another file"
CONFLICTING = "another image bears the same SOP instance UID"
_REMEDIES = {
    IDENTICAL: "nothing to do: {others} is read",
    CONFLICTING: "find out whether this file is right or {others}, remove the wrong and run again; until then none of them is used",
}
_FACTS = [field.name for field in dataclasses.fields(Acquisition) if field.name != "texts"]
_VERDICT = ["circulation", "matched_term", "reason", "kept"]


def judge(
    acquisition: Acquisition,
    vocabulary: tuple[circulation.Term, ...],
    differencing: str = "subtract",
    answer: circulation.Match | None = None,
) -> dict:
    """The record of a readable file: its facts (identifiers and free texts among them), its circulation, and whether it is kept, else the reason.

    `differencing` as in `profiles.Curation`; `answer`: an expert's, which comes before the vocabulary.
    """
    match = circulation.match_circulation(acquisition.texts, vocabulary)
    unnamed = match.circulation is None and not match.reason.startswith("other territory")
    reason = acquisition.obstacle(differencing) or (answer or match).reason
    return vars(acquisition) | {
        "circulation": (answer or match).circulation,
        "matched_term": (answer or match).term,
        "for_expert": unnamed and not acquisition.obstacle(differencing),
        "by_hand": as_written(answer),
        "reason": reason,
        "kept": not reason,
    }


def as_written(answer: circulation.Match | None) -> str:
    """An expert's answer as the file of answers has it; "" where there is none."""
    return "" if answer is None else answer.circulation or "exclude"


def resolve_copies(names: list[str], records: list[dict], same_image: Callable[[str, str], bool]) -> list[dict]:
    """The records with copies of an instance quarantined, in the given order. `same_image` compares the images of two files, by name.

    A SOP instance UID names one image for ever (PS3.5 §9). Files that share it and agree in every fact and every pixel are copies, whatever private
    elements or lossless transfer syntax they were exported with: the first is read. Where they do not agree, a system on the way has confused two
    images or two patients, and nothing in the files says which of them is right: all are quarantined. A series lost makes the archive smaller; a
    wrong one would mislead the model, and the order of file names is no evidence. A file that cannot be read is no rival of one that can. `remedy` of a
    copy has the place {others} for the names in `others`, which are private.
    """
    by_uid: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        if "quarantined" not in record:
            by_uid.setdefault(record["sop_uid"], []).append(index)
    resolved = list(records)
    for indices in by_uid.values():
        first, *copies = indices
        agree = all(
            _facts(records[first]) == _facts(records[copy]) and same_image(names[first], names[copy]) for copy in copies
        )
        for index in copies if agree else indices:
            reason = IDENTICAL if agree else CONFLICTING
            others = [first] if agree else [other for other in indices if other != index]
            resolved[index] = {"quarantined": reason, "remedy": _REMEDIES[reason], "others": [names[i] for i in others]}
    return resolved


def _facts(record: dict) -> str:
    """As text: a record that was kept as JSON has lists where a fresh one has tuples."""
    return json.dumps({name: record[name] for name in (*_FACTS, *_VERDICT)}, sort_keys=True)


def same_pixels(first: Path, second: Path) -> bool:
    """Whether two files are equal byte for byte or hold the same stored pixel values; False where that cannot be shown."""
    if filecmp.cmp(first, second, shallow=False):
        return True
    try:
        pairs = itertools.zip_longest(_stored_values(first), _stored_values(second))
        return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)
    except Exception:  # decoders raise whatever their C library does
        return False


def _stored_values(path: Path) -> Iterator[np.ndarray]:
    """The stored values of each frame as integers [rows, columns]; one frame at a time in memory, where the file allows it."""
    source = path
    syntax = getattr(read_header(path).file_meta, "TransferSyntaxUID", None)
    if syntax is None or syntax.is_deflated:
        source = pydicom.dcmread(path, force=True)
    if syntax is None:
        implicit, little = source.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        source.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    yield from iter_pixels(source, raw=True)


def count(found: int, series: pd.DataFrame, quarantine: pd.DataFrame) -> dict:
    """The counts of Figure 1 as far as curation goes. `found` files; `series`, `quarantine`: tables of `dsa_lib.curation.cohort`."""
    kept, excluded = series[series["kept"].astype(bool)], series[~series["kept"].astype(bool)]
    flow = {
        "files found": found,
        "quarantined": dict(Counter(quarantine["reason"]).most_common()),
        "series read": len(series),
        "excluded": dict(Counter(excluded["reason"]).most_common()),
        "series kept": len(kept),
        "patients": int(kept["patient"].nunique()),
        "studies": int(kept["study"].nunique()),
    }
    for name in ("anterior", "posterior") if len(kept) else ():
        part = kept[kept["circulation"] == name]
        flow[name] = {"series": len(part), "frames": int(part["frames"].sum())}
    flow["frames"] = int(kept["frames"].sum()) if len(kept) else 0
    return flow


def count_arterial(arterial: pd.DataFrame, annotated: int) -> dict:
    """The further counts of Figure 1. `arterial`: arterial frames [series, patient, circulation, split]; `annotated`: number of annotated series."""
    names = arterial["circulation"].value_counts()
    return {
        "annotated": annotated,
        **{name: int(names.get(name, 0)) for name in ("anterior", "posterior")},
        "split": count_split(arterial),
    }


def count_split(frames: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Patients, series and frames of each split. `frames`: rows with split, patient and series."""
    return {
        name: {"patients": part["patient"].nunique(), "series": part["series"].nunique(), "frames": len(part)}
        for name in SPLITS
        for part in [frames[frames["split"] == name]]
    }
