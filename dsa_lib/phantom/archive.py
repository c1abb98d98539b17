"""The plan to DICOM files: rendered study by study, in parallel, resumable after a kill, byte for byte repeatable.

Truth lies beside the archive, never in it: `archive_truth.parquet`, `archive_truth_masks.npz` and `annotations.csv`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Container, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib import phantom
from dsa_lib.phantom.body.head import draw_patient
from dsa_lib.phantom.imaging.acquisition import Bodies, acquire
from dsa_lib.phantom.imaging.xa import write_xa
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import atomic_write

PARTS = "archive_truth_parts"
_NO_PART_IN_AN_ARCHIVE = ("__init__", "figures", "lesion_archive", "measures", "realism", "truth")
# Of numpy in the workers: the processes are the parallelism, and threads in each would only wait for one another.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
IN_PROCESS_BELOW = 100  # series: starting worker processes costs more than such an archive


def _write_run(rows: list[dict], config, seed: int, folder: Path, parts: Path, bodies: Bodies) -> None:
    """Render one run and write its truth, then its DICOM files: a file that exists is therefore complete, and so is its truth."""
    files = [folder / row["file"] for row in rows]
    part = parts / f"{rows[0]['run']:06d}.npz"
    if part.exists() and all(file.exists() for file in files):
        return
    facts, frames, truth = acquire(rows, config, seed, bodies)
    with atomic_write(part) as temporary:
        np.savez_compressed(
            temporary, phase=truth.phase, representative=truth.representative, masks=np.stack(truth.masks)
        )
    for row, fact, pixels, file in zip(rows, facts, frames, files, strict=True):
        with atomic_write(file) as temporary:
            write_xa(temporary, row, fact, pixels, config)


def _write_study(rows: list[dict], config, seed: int, folder: Path, parts: Path) -> int:
    """All runs of one study; returns the number of series."""
    number = rows[0]["patient"]
    bodies = Bodies(draw_patient(np.random.default_rng([seed, 7, number])), seed, number)
    for _, run in pd.DataFrame(rows).groupby("run"):
        _write_run(run.to_dict("records"), config, seed, folder, parts, bodies)
    return len(rows)


def write_archive(
    config,
    seed: int,
    folder: Path,
    truth_folder: Path,
    workers: int = 2,
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> pd.DataFrame:
    """Write the phantom archive and its truth; the same call again goes on where it was stopped.

    config: a profile's `archive` section; seed: of the profile; folder: where the DICOM files go; truth_folder: where
    `archive_truth.parquet`, `archive_truth_masks.npz` (a uint8 map per series instance UID: 1 proximal, 2 medium, 3 peripheral) and
    `annotations.csv` go; workers: processes; progress: wraps an iterable of finished series and its total
    (for instance `functools.partial(track, what="series")`). Returns the truth, one row a frame.

    An archive of another plan, seed or program version in these folders is written anew. Raises StudyError where `folder` holds foreign files.
    """
    folder, truth_folder = Path(folder), Path(truth_folder)
    parts = truth_folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_archive(config, seed)
    for unfinished in [*folder.rglob(".writing-*"), *parts.glob(".writing-*")]:  # left by a kill, read by nobody
        shutil.rmtree(unfinished)
    _claim(parts, folder, config, seed)
    studies = [group.to_dict("records") for _, group in plan.groupby(["patient", "study_number"])]
    job = functools.partial(_write_study, config=config, seed=seed, folder=folder, parts=parts)
    done = finished(studies, job, 1 if len(plan) < IN_PROCESS_BELOW else workers)
    for _ in progress(done, len(plan)) if progress else done:
        pass
    return _write_truth(plan, parts, truth_folder)


def finished(studies: list[list[dict]], job, workers: int):
    """Yield once per finished series, as many as `job` says that a study has; `workers` processes work on the studies side by side."""
    if workers <= 1:
        for study in studies:
            yield from range(job(study))
        return
    before = os.environ.copy()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            os.environ.update(ONE_THREAD)  # read by the workers when they start
            futures = [pool.submit(job, study) for study in studies]
        finally:
            os.environ.clear()
            os.environ.update(before)
        try:
            for future in as_completed(futures):
                yield from range(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def code_digest(without: Container[str] = ()) -> str:
    """Of every source file of the phantom, wherever in the package it lies, but those whose stem is in `without`."""
    code = hashlib.sha256()
    sources = {path.stem: path for path in Path(phantom.__file__).parent.rglob("*.py")}
    for stem, path in sorted(sources.items()):
        if stem not in without:
            code.update(path.read_bytes())
    return code.hexdigest()[:16]


def _claim(parts: Path, folder: Path, config, seed: int) -> None:
    """Note whose archive this is; one of another plan or program version is removed and written anew."""
    wanted = {**asdict(config), "seed": seed, "code": code_digest(without=_NO_PART_IN_AN_ARCHIVE)}
    record = parts / "plan.json"
    if record.exists() and json.loads(record.read_text()) == wanted:
        return
    foreign = [item.name for item in folder.iterdir() if not item.name.startswith(("PHANTOM-", "."))]
    if foreign:
        raise StudyError(f"{folder} holds {foreign[0]}, which is not of a phantom archive: choose an empty folder")
    for old in [*folder.glob("PHANTOM-*"), *parts.glob("*.npz")]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps(wanted, indent=1, sort_keys=True))


def _write_truth(plan: pd.DataFrame, parts: Path, truth_folder: Path) -> pd.DataFrame:
    frames, masks, annotations = [], {}, []
    for run, rows in plan.groupby("run"):
        with np.load(parts / f"{run:06d}.npz") as part:
            phase, best, maps = part["phase"], int(part["representative"]), part["masks"]
        for row, mask in zip(rows.itertuples(), maps, strict=True):
            masks[row.series_instance_uid] = mask
            frames.append(pd.DataFrame({
                "sop_instance_uid": row.sop_instance_uid, "series_instance_uid": row.series_instance_uid,
                "frame": np.arange(len(phase)), "phase": phase, "circulation": row.circulation, "plane": row.plane,
                "primary_angle_deg": row.primary_angle_deg, "secondary_angle_deg": row.secondary_angle_deg, "patient_id": row.patient_id,
                "kind": row.kind, "representative": (np.arange(len(phase)) == best) & (row.kind == "kept"),
            }))  # fmt: skip
            if row.annotated and best >= 0:
                annotations.append({"series_instance_uid": row.series_instance_uid, "frame": best})
    truth = pd.concat(frames, ignore_index=True)
    with atomic_write(truth_folder / "archive_truth.parquet") as temporary:
        truth.to_parquet(temporary, index=False)
    with atomic_write(truth_folder / "archive_truth_masks.npz") as temporary:
        np.savez_compressed(temporary, **masks)
    with atomic_write(truth_folder / "annotations.csv") as temporary:
        pd.DataFrame(annotations, columns=["series_instance_uid", "frame"]).to_csv(temporary, index=False)
    return truth
