"""The tracked reference of a profile: numbers of a finished phantom run, each with the tolerance that a further run must keep.

    python -m dsa_lib.report.reference RUN RUN RUN

writes `data_manifests/reference/<profile>/` from finished runs of one profile. The first is the reference: its values are written. The others differ in
seed, threads or machine, and measure the tolerances. Files:

- `values.csv`: file, row, column, value, tolerance, how. The tolerance is empty where the number must be equal (EXACT) or is not held (NOT_HELD).
- `about.json`: the profile's digest, and what each run was made with.
- `../SHA256SUMS`: hashes of both files of every profile.

Exact is what no training enters: published cells, counts of the curation, verdicts of the ledger, tables fitted to published values. Every other
tolerance is SDS standard deviations over the runs, of the number itself or of the median number of its column, whichever is larger; the median keeps a
number on which few runs happen to agree from having no tolerance. It is at least one unit of the last digit that the files hold.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.core.published import TITLES
from dsa_lib.run.artifacts import REPRODUCED
from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import PROJECT
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.session import Study, profile_of
from dsa_lib.run.workspace import Workspace, atomic_write, runs_folder, sha256, write_json

FOLDER = PROJECT / "data_manifests" / "reference"
SUMS = "SHA256SUMS"
FILES = ("about.json", "values.csv")
CELL = ["file", "row", "column"]
COLUMNS = [*CELL, "value", "tolerance", "how"]
EXACT, NOT_HELD = "exact", "not held: some of the runs lack it"
SDS = 4
FEWEST_RUNS = 3
DIGITS = 1e-9  # relative: exact numbers agree to nine digits, whatever the machine's library of elementary functions


@dataclass(frozen=True)
class Held:
    """Numbers of one CSV file: `keys` are the columns that name a row, `exact` and `spread` those that are held. Rows of one name enter as their mean."""

    file: str
    keys: tuple[str, ...]
    exact: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()


CONTRACTS = (*(f"tables/table{number}.csv" for number in TITLES), "tables/maps_scores.csv", "tables/lesions_scores.csv")
FITTED = (
    *(f"tables/paper_scale_{name}.csv" for name in ("cohort", "figure1", "table1")),
    *(f"tables/reconstructed_table{number}.csv" for number in (2, 3, 4)),
)
HELD = (
    Held("classifier_metrics.csv", ("reference", "split"), ("series", "n"), ("precision", "recall", "accuracy")),
    Held("vae_quality.csv", ("measure",), (), ("against held-out frames", "against the truth")),
    Held("fidelity.csv", ("scope", "set"), (), ("images", "reference_images", "distance", "kid")),
    *(Held(file, ("row", "column"), ("fitted",)) for file in FITTED),
    Held("ledger.csv", ("id",), ("verdict",)),
    Held("adherence.csv", ("set", "scope"), (), ("images", "rate")),
    Held("angles.csv", ("set", "scope", "angle"), (), ("mae", "bias")),
    Held("plausibility.csv", ("segmenter", "measure", "scope", "set"), (), ("ratio",)),
    Held("memorisation.csv", ("space",), (), ("median_generated", "median_held_out", "auth_pct", "near_copies")),
    Held("utility.csv", ("task", "share", "arm"), (), ("auc", "balanced_accuracy")),
    Held("tables/maps_compliance.csv", ("method", "half", "of"), (), ("score",)),
    Held("tables/lesions_peripheral.csv", ("arm", "measure"), (), ("value",)),
    Held("tables/lesions_sentences.csv", ("set", "scope"), (), ("images", "rate")),
)


def cells(study: Study) -> pd.DataFrame:
    """Every number of the run that is held: file, row, column, value (text), exact (bool); empty values are left out.

    Files are read through `study`, which raises StudyError for one that was changed or has become stale since its notebook wrote it. Those of notebooks
    beyond `make reproduce` may be absent.
    """
    parts = [_flow(study.read("flow.json"))]
    for file in CONTRACTS:
        if _there(study, file):
            parts.append(_contract(file, study.read(file)))
    for held in HELD:
        if _there(study, held.file):
            parts.append(_plain(held, study.read(held.file)))
    frame = pd.concat(parts, ignore_index=True)
    return frame[frame["value"] != ""].reset_index(drop=True)


def _there(study: Study, file: str) -> bool:
    return study.ws.producer(file) in REPRODUCED or study.has(file)


def _flow(path: Path) -> pd.DataFrame:
    """Figure 1 as far as curation counts it: series, frames, patients, and why series were excluded."""

    def flat(value: object, name: str) -> list[tuple[str, str]]:
        if isinstance(value, dict):
            return [pair for key in value for pair in flat(value[key], f"{name} · {key}" if name else key)]
        return [(name, str(value))]

    rows = flat(json.loads(path.read_text()), "")
    return pd.DataFrame(
        [("flow.json", name, "Count", value, True) for name, value in rows], columns=[*CELL, "value", "exact"]
    )


def _contract(file: str, path: Path) -> pd.DataFrame:
    frame = _text(path)
    source = " and ".join(dict.fromkeys(frame.loc[frame["source"] != "", "source"]))
    rows = [(file, "", "source", source, True)]
    for row, column, published, this_run in frame[["row", "column", "published", "this_run"]].itertuples(index=False):
        rows += [(file, row, f"{column}, published", published, True), (file, row, column, this_run, False)]
    return pd.DataFrame(rows, columns=[*CELL, "value", "exact"])


def _plain(held: Held, path: Path) -> pd.DataFrame:
    frame = _text(path)
    # How many frames were measured stands in the names of columns and differs from run to run.
    frame.columns = [re.sub(r" of \d+ of them| \d+", "", name) for name in frame]
    parts = []
    names = frame[list(held.keys)].agg(" · ".join, axis=1)
    for column in (*held.exact, *held.spread):
        values = frame[column].groupby(names, sort=False).agg(_mean)
        part = pd.DataFrame({"file": held.file, "row": values.index, "column": column, "value": values.to_numpy()})
        parts.append(part.assign(exact=column in held.exact))
    return pd.concat(parts, ignore_index=True)


def _text(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _mean(values: pd.Series) -> str:
    given = values[values != ""]
    return given.iloc[0] if len(given) == 1 else repr(float(given.astype(float).mean())) if len(given) else ""


# --- writing a reference --------------------------------------------------------------------------------------------------------------------------


def opened(ws: Workspace) -> Study:
    """The finished phantom run of `ws`, whose artifacts can be read. Raises StudyError where there is none, it is not whole, or its archive is another."""
    if not ws.root.is_dir():
        raise StudyError(f"there is no run {ws.run!r} in {runs_folder().name}/: name a finished run with RUN=name")
    manifests = {name: ws.manifest(name) for name in REPRODUCED}
    curation = manifests["01_curation"]
    if curation is not None and "archive" not in curation["inputs"]:
        raise StudyError(
            f"the run {ws.run!r} is of an archive of its own: a reference holds for the phantom archive alone"
        )
    missing = [name for name, manifest in manifests.items() if (manifest or {"status": ""})["status"] != "finished"]
    if missing:
        raise StudyError(
            f"the run {ws.run!r} is not whole, {', '.join(missing)} {'have' if len(missing) > 1 else 'has'} not finished: "
            f"make reproduce RUN={ws.run} PROFILE={_profile_name(manifests)} goes on with it"
        )
    return Study("reference", ws.run, profile_of(ws, "01_curation"), None, {})


def _profile_name(manifests: dict) -> str:
    return next((manifest["profile"] for manifest in manifests.values() if manifest), "phantom")


def digests(ws: Workspace) -> set[str]:
    """Digests of the profile with which the notebooks of a run were run: one, unless some were run by hand with other values."""
    return {ws.manifest(name)["profile_digest"] for name in REPRODUCED}


def write(runs: Sequence[str], folder: Path = FOLDER) -> pd.DataFrame:
    """Write the reference of a profile from finished `runs`, the reference first; returns `values.csv`.

    Raises StudyError for fewer than FEWEST_RUNS runs, a run that is not whole, runs of other profile values (the seed may differ, the first has the
    profile's own), and a number that should be exact and differs between runs of one seed.
    """
    if len(set(runs)) < FEWEST_RUNS:
        raise StudyError(
            f"a tolerance is measured over at least {FEWEST_RUNS} runs: name {FEWEST_RUNS} or more, the reference first"
        )
    studies = [opened(Workspace(run)) for run in runs]
    profile = load_profile(studies[0].profile.name)
    for study in studies:
        wanted = profile if study is studies[0] else replace(profile, seed=study.profile.seed)
        if digests(study.ws) != {wanted.digest()}:
            what = "and the first run with its seed too" if study is studies[0] else "only the seed may differ"
            raise StudyError(
                f"the run {study.run!r} was made with other values than those of the profile {profile.name}: {what}"
            )
    values = _values(
        [cells(study) for study in studies], [study.profile.seed == profile.seed for study in studies], runs
    )
    target = folder / profile.name
    with atomic_write(target / "values.csv") as temporary:
        values.to_csv(temporary, index=False)
    about = {
        "profile": profile.name,
        "profile_digest": profile.digest(),
        "tolerance": f"{SDS} standard deviations over the runs, at least one unit of the last digit",
        "runs": [_made_with(study) for study in studies],
    }
    write_json(target / "about.json", about)
    _write_sums(folder)
    return values


def _values(found: list[pd.DataFrame], same_seed: list[bool], runs: Sequence[str]) -> pd.DataFrame:
    """`values.csv` from the cells of each run; exact cells are compared between runs with the seed of the first, to which `same_seed` points."""
    files = set.intersection(
        *(set(frame["file"]) for frame in found)
    )  # audits and extensions only where every run has them
    found = [frame[frame["file"].isin(files)] for frame in found]
    by_cell = [frame.set_index(CELL)["value"] for frame in found]
    everywhere = pd.concat(by_cell, axis=1, keys=range(len(found)), sort=False)
    exact = pd.concat([frame.set_index(CELL)["exact"] for frame in found])
    exact = exact[~exact.index.duplicated()].reindex(everywhere.index)
    alike = everywhere.loc[exact, [k for k, same in enumerate(same_seed) if same]]
    for cell, row in alike.iterrows():
        for k, value in row.items():
            if not equal(row.iloc[0], value):
                raise StudyError(
                    f"{cell[0]}, {cell[1]}, {cell[2]} should be the same in every run of one seed, and is {row.iloc[0]} in {runs[0]!r} and {value} "
                    f"in {runs[k]!r}: run the notebook that writes it again in one of them"
                )
    whole = everywhere.notna().all(axis=1)
    spread = everywhere[whole & ~exact].astype(float)
    sd = spread.std(axis=1, ddof=1)
    of_column = sd.groupby(level=["file", "column"], sort=False).transform("median")
    tolerance = np.maximum(SDS * np.maximum(sd, of_column), everywhere.loc[spread.index].apply(_unit, axis=1))
    values = pd.DataFrame(
        {
            "value": everywhere[0],
            "tolerance": tolerance.reindex(everywhere.index),
            "how": f"{SDS} SD of {len(runs)} runs",
        }
    )
    values.loc[~whole & ~exact, "how"] = NOT_HELD
    values.loc[exact, ["tolerance", "how"]] = [np.nan, EXACT]
    values = values[values["value"].notna() | ~exact]  # what only other seeds have is no cell of this one
    return values.fillna({"value": ""}).reset_index()[COLUMNS]


def equal(one: object, other: object) -> bool:
    """Whether two texts of a file are the same, as numbers where both are."""
    if one == other:
        return True
    try:
        return bool(np.isclose(float(one), float(other), rtol=DIGITS, atol=1e-12))
    except (TypeError, ValueError):
        return False


def _unit(texts: pd.Series) -> float:
    """One unit of the last digit of values that were rounded when they were written; 0 for those with all digits of a float."""
    decimals = max(len(text.partition(".")[2].rstrip("0")) for text in texts)
    return 10.0**-decimals if decimals <= 4 else 0.0


def _made_with(study: Study) -> dict:
    """Seed, machine and versions of a run; no name of a folder or a person."""
    record = json.loads((study.ws.root / "provenance" / "04_ldm.json").read_text())
    return {"seed": study.profile.seed, **record["environment"]}


# --- the files of a reference ---------------------------------------------------------------------------------------------------------------------


def read(profile: str, folder: Path = FOLDER) -> tuple[pd.DataFrame, dict]:
    """(`values.csv` with `value` as text and `tolerance` as float, `about.json`). Raises StudyError where there is none, or a file was edited."""
    known = sorted(path.parent.name for path in folder.glob("*/values.csv"))
    if profile not in known:
        raise StudyError(
            f"there is no reference of the profile {profile!r}, only of {', '.join(known) or 'none'}: write one from finished runs with "
            "python -m dsa_lib.report.reference"
        )
    sums = {}
    if (folder / SUMS).exists():
        sums = dict(line.split("  ")[::-1] for line in (folder / SUMS).read_text().splitlines())
    for name in FILES:
        path = folder / profile / name
        if not path.exists() or sums.get(f"{profile}/{name}") != sha256(path):
            raise StudyError(
                f"data_manifests/reference/{profile}/{name} is not the file that {SUMS} beside it lists: restore both from version control, or write "
                "the reference anew"
            )
    values = pd.read_csv(
        folder / profile / "values.csv",
        dtype={"tolerance": float},
        keep_default_na=False,
        na_values={"tolerance": [""]},
    )
    return values.astype({"value": str}), json.loads((folder / profile / "about.json").read_text())


def _write_sums(folder: Path) -> None:
    """In the format of sha256sum, whose --check option reads it."""
    paths = sorted(path for name in FILES for path in folder.glob(f"*/{name}"))
    with atomic_write(folder / SUMS) as temporary:
        temporary.write_text("".join(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="finished runs of one profile, the reference first")
    try:
        values = write(parser.parse_args().runs)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(values.groupby("how", sort=False).size().rename("numbers").to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
