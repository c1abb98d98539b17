"""Held against real angiography: the same measurements on curated real runs and on curated phantom runs, and both side by side.

python -m dsa_lib.phantom.realism --real FOLDER --picture OUT.png [--table OUT.csv]

Real and phantom runs go through the same curation (`dsa_lib.dicom.series`), so that what is measured is what the networks see. The picture
holds real pixels and is refused inside the project; the table holds numbers alone.
The phantom's calibres, contrast, blush and timing were set by this comparison with one real run: that they agree is a fit, not a validation.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.dicom.series import Unreadable, read_acquisition, subtracted_run
from dsa_lib.phantom.body.head import draw_patient
from dsa_lib.phantom.figures import draw_side_by_side
from dsa_lib.phantom.imaging.acquisition import Bodies, acquire
from dsa_lib.phantom.imaging.bolus import phases
from dsa_lib.phantom.imaging.xa import write_xa
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.phantom.run_measures import Run, curves, measure
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Archive, Curation
from dsa_lib.run.workspace import PROJECT

SIZE = 256
PHANTOM_RUNS = (
    ("CCA", 1, "B", -90, 0), ("CCA", -1, "B", -90, 0), ("CCA", 1, "B", -90, 0), ("CCA", 1, "B", -90, 0), ("CCA", -1, "B", -90, 0), ("CCA", 1, "B", -90, 0),
    ("ICA", 1, "B", -90, 0), ("ICA", 1, "A", 0, 0), ("ICA", -1, "A", -28, 12), ("VA", 1, "B", -90, 0), ("VA", -1, "A", 0, 0), ("VA", 1, "A", 0, 28),
)  # fmt: skip
LIKE_REAL = (("CCA", "B"),)  # phantom runs of the real run's kind (common carotid, lateral): what the table compares
DRAWN = (0, 1, 2, 6, 7, 8, 9, 10, 11)


def curate(path: Path, name: str) -> Run:
    """One DICOM file as the study's curation gives it, at `SIZE`. Raises dsa_lib.dicom.series's Unreadable."""
    curation = Curation()
    facts = read_acquisition(path)
    if facts.obstacle() or facts.frames < 4:
        raise Unreadable(facts.obstacle() or "fewer than four frames", "give runs over time")
    run = subtracted_run(path, facts, SIZE, curation.background_grey, curation.contrast_per_grey)
    return Run(name, run.frames, np.asarray(facts.frame_times_s), ("", facts.plane or ""))


def real_runs(folder: Path) -> list[Run]:
    """Every usable XA run of a folder, in the order of file names (which are not kept). Raises StudyError where there is none."""
    runs = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        try:
            runs.append(curate(path, f"real {len(runs) + 1}"))
        except Unreadable:
            continue
    if not runs:
        raise StudyError(f"{folder} holds no XA DICOM run that can be subtracted: give a folder of real angiography")
    return runs


def phantom_runs(seed: int = 0, kinds=PHANTOM_RUNS) -> list[Run]:
    """Phantom runs of `kinds` (vessel, side, plane, primary and secondary angle), each of another patient, written as DICOM and curated like real ones."""
    config = Archive(patients=1, matrix=SIZE * 9 // 8, frames=48, frame_time_ms=200.0)
    row = plan_archive(Archive(patients=1, series_per_study=4), seed).iloc[0].to_dict()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for n, (vessel, side, plane, primary, secondary) in enumerate(kinds):
            bodies = Bodies(draw_patient(np.random.default_rng([seed, 7, n])), seed, n)
            row |= {"vessel": vessel, "side": side, "kind": "kept", "run": n, "plane": plane}
            row |= {"primary_angle_deg": primary, "secondary_angle_deg": secondary}
            facts, frames, truth = acquire([row], config, seed, bodies)
            write_xa(Path(folder) / f"{n}.dcm", row, facts[0], frames[0], config)
            view = f" {primary:+.0f}°/{secondary:+.0f}°" if (primary, secondary) not in ((0, 0), (-90, 0)) else ""
            run = curate(Path(folder) / f"{n}.dcm", f"phantom {vessel} {'lateral' if plane == 'B' else 'PA'}{view}")
            runs.append(replace(run, kind=(vessel, plane), phase=truth.phase))
    return runs


def table(real: list[Run], phantom: list[Run], real_is: str = "clinical XA") -> pd.DataFrame:
    """Statistics of both, one a row: median, least and largest over the runs, and the column `source` that says what they were measured on.

    Of the phantom only runs of the real run's kind enter (LIKE_REAL); real_is: what the real runs are, in words.
    """
    alike = [run for run in phantom if run.kind in LIKE_REAL]
    sources = {
        f"real: {real_is}; {len(real)} run(s) curated to {SIZE}²": real,
        f"phantom: {len(alike)} simulated common carotid lateral runs curated to {SIZE}²": alike,
    }
    rows = []
    for source, runs in sources.items():
        values = pd.DataFrame([measure(run) for run in runs])
        for name in values:
            statistic, _, unit = name.rstrip("]").partition(" [")
            rows.append({"statistic": statistic, "unit": unit, "median": values[name].median(), "least": values[name].min(),
                         "largest": values[name].max(), "source": source})  # fmt: skip
    return pd.DataFrame(rows).round(3)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dsa_lib.phantom.realism", description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True, help="folder of real XA DICOM")
    parser.add_argument("--picture", type=Path, required=True, help="PNG of both, outside the project")
    parser.add_argument(
        "--real-is", default="clinical XA", help="what the real runs are, for the table's source column"
    )
    parser.add_argument("--table", type=Path, help="CSV of the statistics, numbers alone")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom patients")
    given = parser.parse_args(arguments)
    if given.picture.resolve().is_relative_to(PROJECT):
        parser.error(f"{given.picture} lies inside the project: real pixels stay outside it")
    if not given.picture.parent.is_dir():
        parser.error(f"the folder {given.picture.parent} does not exist: make it or choose another")
    try:
        real = real_runs(given.real)
    except StudyError as error:
        raise SystemExit(f"error: {error}") from None
    phantom = phantom_runs(given.seed)
    drawn = [*real[:4], *(phantom[n] for n in DRAWN)]
    figure = draw_side_by_side(drawn, [shown(run) for run in drawn])
    figure.savefig(given.picture, dpi=128)
    statistics = table(real, phantom, given.real_is)
    if given.table:
        statistics.to_csv(given.table, index=False)
    wide = statistics.assign(on=statistics["source"].str.split(":").str[0]).pivot(
        index=["statistic", "unit"], columns="on", values=["median", "least", "largest"]
    )
    print(wide.loc[list(dict.fromkeys(zip(statistics["statistic"], statistics["unit"], strict=True)))].to_string())
    print(f"picture: {given.picture}")


def shown(run: Run) -> list[int]:
    """Frames of one run at like moments: three of the filling, the fullest, two of the blush, two venous (by measured curves)."""
    c = curves(run.frames)
    phase = phases(c.artery, c.blush, c.vein)
    onset = int(np.argmax(phase == "arterial"))
    best, blush = c.fullest(), int(np.argmax(c.blush))
    last = len(run.frames) - 1
    places = [onset, onset + 0.35 * (best - onset), onset + 0.7 * (best - onset), best, 0.5 * (best + blush), blush,
              blush + 0.4 * (last - blush), last]  # fmt: skip
    return [round(p) for p in places]


if __name__ == "__main__":
    main()
