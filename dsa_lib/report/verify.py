"""A finished run held against the reference of its profile: what agrees within the stated tolerances, and what does not.

    python -m dsa_lib.report.verify RUN [--profile phantom]

Exit status 0: every number agrees; 1: some do not, and are listed; 2: the two cannot be compared, with the reason in one sentence.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.core.published import TITLES
from dsa_lib.report import reference
from dsa_lib.report.reference import CELL, EXACT, NOT_HELD
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import Workspace

TABLES = tuple(f"tables/table{number}.csv" for number in TITLES)
AGREES, DIFFERS, MISSING, NEW = "agrees", "differs", "missing in this run", "not in the reference"
ROUNDING = 1e-9  # a difference that equals its tolerance agrees, whatever the last bit of a float


def compare(ws: Workspace, profile: str = "", folder: Path = reference.FOLDER) -> pd.DataFrame:
    """Every number of the reference and of the run: file, row, column, value, tolerance, how, this_run, deviation, verdict.

    `profile` names the reference (default: that of the run's own profile). `deviation` is the difference over its tolerance, NaN for exact numbers. The
    verdict is AGREES, DIFFERS, MISSING or NEW, or NOT_HELD for numbers that some runs of the reference lack. Raises StudyError for a run that is not
    whole, was edited, has another archive, profile or profile values, and for a reference that was edited or does not exist.
    """
    study = reference.opened(ws)
    name = profile or study.profile.name
    if name != study.profile.name:
        raise StudyError(
            f"the run {ws.run!r} is of the profile {study.profile.name} and cannot be held against the reference of {name}: leave PROFILE out"
        )
    values, about = reference.read(name, folder)
    if reference.digests(ws) != {about["profile_digest"]}:
        raise StudyError(
            f"the run {ws.run!r} was made with other values of the profile {name} than the reference (overrides, another seed, or an earlier version of "
            "the profile): make reproduce without OVERRIDES into another RUN"
        )
    run = reference.cells(study).rename(columns={"value": "this_run"})
    # Audits and extensions are held where the run and the reference have them.
    run = run[run["file"].isin(set(values["file"]))]
    values = values[values["file"].isin(set(run["file"]))]
    every = pd.concat([values[CELL], run[CELL]]).drop_duplicates()
    both = every.merge(values, on=CELL, how="left").merge(run.drop(columns="exact"), on=CELL, how="left")
    both = both.assign(deviation=_deviation(both))
    return both.assign(verdict=[_verdict(line) for line in both.itertuples(index=False)])


def _deviation(both: pd.DataFrame) -> pd.Series:
    held = both["tolerance"].notna() & both["this_run"].notna()
    difference = (both.loc[held, "this_run"].astype(float) - both.loc[held, "value"].astype(float)).abs()
    share = np.where(
        difference == 0, 0.0, difference / both.loc[held, "tolerance"]
    )  # a tolerance of 0 makes it infinite
    return pd.Series(share, index=difference.index).reindex(both.index)


def _verdict(line) -> str:
    if line.how == NOT_HELD:
        return NOT_HELD
    if pd.isna(line.how) or pd.isna(line.this_run):
        return NEW if pd.isna(line.how) else MISSING
    agrees = reference.equal(line.value, line.this_run) if line.how == EXACT else line.deviation <= 1 + ROUNDING
    return AGREES if agrees else DIFFERS


def by_file(compared: pd.DataFrame) -> pd.DataFrame:
    """A line a file: numbers that are equal, within their tolerance, and not; `largest`, the largest deviation as a share of its tolerance."""
    agrees, exact = compared["verdict"] == AGREES, compared["how"] == EXACT
    counted = pd.DataFrame(
        {
            "file": compared["file"],
            "equal": agrees & exact,
            "within": agrees & ~exact,
            "do not agree": ~agrees & (compared["verdict"] != NOT_HELD),
        }
    )
    lines = counted.groupby("file", sort=False).sum()
    largest = compared["deviation"].where(compared["verdict"] != NOT_HELD).groupby(compared["file"], sort=False).max()
    return lines.assign(largest=["" if pd.isna(share) else f"{share:.2f}" for share in largest[lines.index]])


def disagreeing(compared: pd.DataFrame) -> pd.DataFrame:
    """The numbers that do not agree: file, row, column, value, this_run, tolerance, verdict."""
    rows = compared[~compared["verdict"].isin([AGREES, NOT_HELD])]
    return rows[[*CELL, "value", "this_run", "tolerance", "verdict"]].fillna("")


def sentence(run: str, profile: str, compared: pd.DataFrame) -> str:
    """What the comparison comes to, in one sentence (the one that README quotes)."""
    wrong = len(disagreeing(compared))
    if wrong:
        places = ", ".join(dict.fromkeys(disagreeing(compared)["file"]))
        held = (compared["verdict"] != NOT_HELD).sum()
        return f"The run {run} does not reproduce the reference of the profile {profile}: {wrong} of {held} numbers do not agree ({places})."
    tables = compared["file"].isin(TABLES)
    parts = by_file(compared[tables])[["equal", "within"]].sum(), by_file(compared[~tables])[["equal", "within"]].sum()
    largest = compared.loc[tables & (compared["verdict"] == AGREES), "deviation"].max()
    return (
        f"The run {run} reproduces Tables 1–5 of the reference of the profile {profile}: {parts[0]['equal']} numbers are equal, and {parts[0]['within']} lie "
        f"within the tolerance measured between runs (the farthest at {100 * largest:.0f} % of its tolerance). Of the numbers outside these tables, "
        f"{parts[1]['equal']} are equal and {parts[1]['within']} lie within."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="name of a finished run of the phantom archive")
    parser.add_argument(
        "--profile", default="", help="reference to hold it against (default: that of the run's profile)"
    )
    request = parser.parse_args()
    try:
        compared = compare(Workspace(request.run), request.profile)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(by_file(compared).to_string(), end="\n\n")
    wrong = disagreeing(compared)
    if len(wrong):
        print(wrong.to_string(index=False), end="\n\n")
    profile = request.profile or reference.opened(Workspace(request.run)).profile.name
    print(sentence(request.run, profile, compared))
    return 1 if len(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
