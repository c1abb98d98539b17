"""What may leave the archive's folder: one keep-list, keyed pseudonyms, days in place of dates, and a search that checks it.

Everything that curation writes outside the run's `private/` folder stands in `KEPT`, name by name, with the reason why and what was done to it;
`kept_only` raises on anything else, so that a new column has to be argued here first. The transformations follow the HIPAA safe harbour list
(45 CFR 164.514(b)(2)) where it applies to angiography; `data_manifests/schemas/deidentification.md` is written from this table.

    python -m dsa_lib.curation.keep_list RUN [--archive FOLDER]

takes every name, number, date, identifier and text out of the headers and file names of the archive and looks for them in everything that the run wrote
outside `private/`, decoded. It prints file and kind of each hit, never the identifier.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dsa_lib.curation import identifier_search
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import Workspace

AS_IS, HASHED = "as in the header", "keyed hash (HMAC-SHA256)"
_CONDITION = {
    "circulation": ("condition of the study", "anterior or posterior, from vessel names"),
    "plane": ("condition of the study", "A or B"),
    "primary_angle_deg": ("condition of the study", AS_IS),
    "secondary_angle_deg": ("condition of the study", AS_IS),
}
_WHO = {
    "series": ("joins the tables", HASHED + " of the SOP instance UID"),
    "study": ("counts of studies", HASHED + " of the study instance UID"),
    "patient": ("split by patient", HASHED + " of the patient ID"),
}
# artifact -> name -> (why it is kept, what was done to it)
KEPT: dict[str, dict[str, tuple[str, str]]] = {
    "series.parquet": {
        **_WHO,
        **_CONDITION,
        "study_offset_days": ("order and spacing of a patient's studies", "days from the patient's first study in the archive; no date"),
        "matched_term": ("how circulation was found", "the vocabulary's own term, never the text it stood in"),
        "plane_source": ("how plane was found", "name of the header element"),
        "frames": ("size of the run", "count of its subtracted frames"),
        "frames_in_file": ("frames that the mask module leaves out", AS_IS),
        "first_frame": ("place in frames.npy", "counted"),
        "frame_time_ms": ("phase of the contrast passage", "median step between frames"),
        "frame_time_source": ("how time was found", "name of the header element"),
        "sex": ("cohort statistics (§2.1)", "F, M, O or empty"),
        "age": ("cohort statistics (§2.1)", "whole years; ages above curation.oldest_age told as that age"),
        "kept": ("filter flow", "decision"),
        "reason": ("filter flow", "a fixed sentence of this project"),
        "relationship": ("how frames were made", "LIN, LOG or DISP"),
        "value_mapping": ("how frames were made", "a formula with the numbers of the header"),
        "mask_source": ("how frames were made", "a fixed sentence of this project"),
        "mask_frames": ("how frames were made", "frame numbers from 1"),
        "background": ("how frames were made", "constant of the window"),
        "contrast_per_grey": ("how frames were made", "constant of the window"),
        "log_per_value": ("how frames were made", "constant of the window"),
        "split": ("training, validation or test", "drawn by patient"),
    },
    "frames.parquet": {
        "frame_id": ("row of frames.npy", "counted"),
        **_WHO,
        **_CONDITION,
        "frame": ("place in the file", "counted from 0"),
        "time_s": ("phase of the contrast passage", "seconds from the run's first frame"),
        "split": ("training, validation or test", "drawn by patient"),
    },
    "quarantine.csv": {
        "file": ("to find the file again, in private/quarantine_files.csv", HASHED + " of its path in the archive"),
        "reason": ("filter flow", "a fixed sentence of this project"),
        "remedy": ("what to do", "a fixed sentence of this project"),
    },
    "flow.json": {
        "files found": ("filter flow", "count"),
        "files left out": ("filter flow", "count"),
        "quarantined": ("filter flow", "counts by reason"),
        "series read": ("filter flow", "count"),
        "excluded": ("filter flow", "counts by reason"),
        "series kept": ("filter flow", "count"),
        "patients": ("filter flow", "count"),
        "studies": ("filter flow", "count"),
        "anterior": ("filter flow", "counts"),
        "posterior": ("filter flow", "counts"),
        "frames": ("filter flow", "count"),
        "split": ("filter flow", "counts"),
        "split_note": ("what the split could not meet", "a fixed sentence of this project"),
    },
    "frames.npy": {
        "pixels": ("what the study is about", "subtracted, cut to the shutter, resized to uint8; overlays never drawn; held back where text is likely"),
    },
}  # fmt: skip
# What does not leave, for the statement; the list above decides.
DROPPED = (
    ("Names of patients, physicians, operators, institutions, stations and devices", "every element of VR PN, and all others that are not listed above"),
    ("Numbers: patient ID, accession number, study ID, serial numbers, all UIDs", "replaced by the hashes above where the study needs to tell things apart"),
    ("Dates and times: of birth, study, series, acquisition, content", "only days between a patient's studies, and seconds within a run"),
    ("Free text: descriptions, protocol, comments, history", "read for vessel names; only the vocabulary's term is kept"),
    ("Private elements, sequences, overlays (60xx), curves, icons, waveforms", "never read, or read for one number"),
    ("File and folder names of the archive, and where it lies", "keyed hashes; the workflow passes notebooks a reference in place of the path"),
)  # fmt: skip
_LETTERS = {"series": "S", "study": "E", "patient": "P", "file": "F"}


def kept_only(artifact: str, content: pd.DataFrame | dict):
    """`content` (a table, or a mapping for JSON) unchanged. Raises StudyError for a name that is not in `KEPT[artifact]`, or a pseudonym that is none."""
    foreign = [str(name) for name in content if name not in KEPT[artifact]]
    if foreign:
        raise StudyError(
            f"{artifact} would hold {', '.join(foreign)}, which is not on the keep-list: "
            "leave it out, or enter it in KEPT of dsa_lib/curation/keep_list.py with the reason and what was done to it"
        )
    if isinstance(content, pd.DataFrame):
        for name, letter in _LETTERS.items():
            if name in content and not content[name].astype(str).str.fullmatch(rf"{letter}[0-9a-f]{{8,64}}").all():
                raise StudyError(f"{artifact} would hold a {name} that is not a keyed hash: nothing was written")
    return content


def generalised(series: pd.DataFrame, oldest_age: int | None) -> pd.DataFrame:
    """`series` with `study_offset_days` in place of `study_date`, and no `age` above `oldest_age` (None: all ages are told).

    The offset counts from the earliest study date of the patient (0 for the first) and is missing where the date is. Dates are DICOM DA, "YYYYMMDD" (or the
    ACR-NEMA form with dots); age is in whole years.
    """
    dates = pd.to_datetime(
        series["study_date"].astype(str).str.replace(".", "", regex=False), format="%Y%m%d", errors="coerce"
    )
    first = dates.groupby(series["patient"]).transform("min")
    place = series.columns.get_loc("patient") + 1
    series = series.drop(columns="study_date")
    series.insert(place, "study_offset_days", (dates - first).dt.days.astype("Int64"))
    series["age"] = series["age"].astype("Int64").clip(upper=oldest_age)
    return series


def reviewed(ws: Workspace) -> frozenset[str]:
    """Files that a person has looked at and cleared of burned-in text: the column `file` of private/reviewed.csv, as quarantine.csv names them."""
    path = ws.private("reviewed.csv")
    if not path.exists():
        return frozenset()
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError):
        table = pd.DataFrame()
    if "file" not in table:
        raise StudyError(
            "private/reviewed.csv has no column file: its first line must be file, then one name of quarantine.csv a line"
        )
    return frozenset(table["file"].str.strip())


def keep_list() -> str:
    """`KEPT` and `DROPPED` as the tables of data_manifests/schemas/deidentification.md (a test compares)."""
    lines = []
    for artifact, names in KEPT.items():
        lines += [f"### `{artifact}`", "", "| name | why it is kept | what was done to it |", "|---|---|---|"]
        lines += [f"| `{name}` | {why} | {done} |" for name, (why, done) in names.items()] + [""]
    lines += ["### Dropped", "", "| what | instead |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {instead} |" for what, instead in DROPPED)]) + "\n"


def archive_of(ws: Workspace, given: str = "") -> Path:
    """The archive of a run: `given`, else what the workflow was given, else the run's own phantom. Raises StudyError where none is known."""
    parameters = ws.root / "private" / "parameters" / "01_curation.json"
    if not given and parameters.exists():
        given = json.loads(parameters.read_text()).get("archive", "")
    path = Path(given).expanduser() if given else ws.root / "archive"
    if not path.is_dir():
        raise StudyError("the archive of this run is not known or not there: name its folder with --archive")
    return path


def main(arguments: Iterable[str] | None = None) -> int:
    """Search a run for what its archive says. Returns 0 where nothing was found, 1 where something was, 2 for a wrong request."""
    parser = argparse.ArgumentParser(prog="python -m dsa_lib.curation.keep_list", description=main.__doc__)
    parser.add_argument("run", help="name of the run, a folder under runs/")
    parser.add_argument("--archive", default="", help="folder of its DICOM files, where the workflow did not note it")
    request = parser.parse_args(None if arguments is None else list(arguments))
    try:
        ws = Workspace(request.run)
        if not ws.root.is_dir():
            raise StudyError(f"there is no run {request.run!r}")
        archive = archive_of(ws, request.archive)
        needles = identifier_search.needles_of(archive)
        # Of a phantom archive inside the run nobody is to be protected: it and its truth hold their own identifiers.
        own = ("archive", "archive_truth*", "annotations.csv") if archive == ws.root / "archive" else ()
        result = identifier_search.find_identifiers(ws.root, needles, leave_out=("private", *own))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for hit in result.hits:
        print(f"{hit.file}\t{hit.kind}\t{hit.where}")
    print(
        f"{len(needles)} names, numbers, dates and texts of the archive were looked for in {result.files} files: {len(result.hits)} hits. "
        f"{identifier_search.unsearchable(needles)} of them are too short to be told from chance; ordinary words of this project were left out."
    )
    return 1 if result.hits else 0


if __name__ == "__main__":
    sys.exit(main())
