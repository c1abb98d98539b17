"""Where ratings come from: stated in the files themselves and in a manifest of hashes beside them.

The column `origin` of `screening.csv` and `ratings.csv` holds READERS, SIMULATED or RECONSTRUCTED. `ratings.origin.json`, beside `ratings.csv`, holds the
same word and a hash of each table's rows. A hash covers the columns of the contract, whatever the order of rows and columns, the line endings and the
column `origin` itself: a file that was saved anew, or whose column was taken out, is still known by it.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import PROJECT
from dsa_lib.run.workspace import runs_folder, write_json

COLUMN = "origin"
READERS, SIMULATED, RECONSTRUCTED = ORIGINS = ("readers", "simulated", "reconstructed")
UNSTATED = ""  # files of other programs have no such column
# What stands in the column `source` of the tables of notebook 06 (dsa_lib.core.published has a sentence for each); reconstructed ratings never come there.
SOURCES = {
    READERS: "reader ratings",
    SIMULATED: "simulated ratings",
    UNSTATED: "reader ratings, origin not stated",
}


def rows_sha256(table: pd.DataFrame, columns: Sequence[str]) -> str:
    """Hex digest of the rows of `columns`, in any order; `kept` is bool and `rating` numeric or NaN."""
    values = table[list(columns)].copy()
    if "rating" in values:
        values["rating"] = ["" if pd.isna(rating) else f"{rating:.0f}" for rating in values["rating"]]
    lines = ["\x1f".join(map(str, row)) for row in values.itertuples(index=False)]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def manifest_path(ratings: Path) -> Path:
    """`ratings.origin.json` for `ratings.csv`."""
    return ratings.with_suffix(".origin.json")


def write_manifest(ratings: Path, origin: str, hashes: Mapping[str, str]) -> None:
    """Write the manifest of the file `ratings`; `hashes`: "screening" and "ratings" -> `rows_sha256`."""
    write_json(manifest_path(ratings), {"origin": origin, "rows_sha256": dict(hashes)})


def stated(table: pd.DataFrame, file: str) -> str:
    """What the checked column `origin` of a file says; UNSTATED without the column or without rows. Raises StudyError for more than one origin."""
    if COLUMN not in table or table.empty:
        return UNSTATED
    first = table[COLUMN].iloc[0]
    other = table.index[table[COLUMN].ne(first)]
    if len(other):
        raise StudyError(
            f"{file} row {other[0]}: the origin is {table.loc[other[0], COLUMN]!r} here and {first!r} before: keep ratings of different origins in "
            "files of their own"
        )
    return first


def settle(said: Mapping[str, str], hashes: Mapping[str, str], files: Mapping[str, Path]) -> str:
    """The origin of a pair of files, one of ORIGINS or UNSTATED; each argument is by "screening" and "ratings".

    `said`: as from `stated`. Raises StudyError where the files contradict each other or their manifest, or were changed since it was written.
    """
    if UNSTATED != said["screening"] != said["ratings"] != UNSTATED:
        raise StudyError(
            f"the origin is {said['screening']!r} in {files['screening'].name} and {said['ratings']!r} in {files['ratings'].name}: "
            "give two files of one origin"
        )
    # A screening of readers says nothing about who rated.
    own = said["ratings"] or (said["screening"] if said["screening"] != READERS else UNSTATED)
    beside = manifest_path(files["ratings"])
    manifest = _manifest(beside)
    if manifest is None:
        return own
    changed = [files[name].name for name in files if hashes[name] != manifest["rows_sha256"][name]]
    if own not in (UNSTATED, manifest["origin"]):
        changed.append(files["ratings" if said["ratings"] else "screening"].name)
    if changed:
        raise StudyError(
            f"{changed[0]} was changed after {beside.name} was written: give the file as it was written, or remove {beside.name} "
            "if the change is meant"
        )
    return manifest["origin"]


def known(digest: str) -> tuple[str, str] | None:
    """(origin, where) of simulated or reconstructed ratings with the hash `digest`, among all runs and what ships; None for others."""
    places = [(path, f"the run {path.parents[1].name!r}") for path in runs_folder().glob("*/readers/*.origin.json")]
    shipped = PROJECT / "data_manifests" / "reader_study" / "ratings.origin.json"
    for path, where in [*sorted(places), (shipped, "data_manifests/reader_study")]:
        with contextlib.suppress(StudyError):  # a broken manifest of another run is no fault of these ratings
            manifest = _manifest(path)
            if (
                manifest
                and manifest["origin"] in (SIMULATED, RECONSTRUCTED)
                and manifest["rows_sha256"]["ratings"] == digest
            ):
                return manifest["origin"], where
    return None


def _manifest(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        if manifest["origin"] in (*ORIGINS, UNSTATED) and {"screening", "ratings"} <= set(manifest["rows_sha256"]):
            return manifest
    except (ValueError, KeyError, TypeError):
        pass
    raise StudyError(f"{path.name} is not a manifest of ratings: remove it, or restore it from where it was written")
