"""From an archive of XA files to the study's cohort: filter flow, pseudonyms, patient-level split, frame store, Table 1 (§2.1–2.2).

`curate` accounts for every file (read + quarantined = found) and every series (kept + excluded = read). A "series" is one multi-frame run, that is
one XA instance. It streams: each file is read once, by a pool of processes, and its result is kept, so that the same command after a kill goes on
where it was and ends with identical output. Identifiers stay in the run's `private/` folder; everything else carries keyed pseudonyms.
"""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib import circulation
from dsa_lib._archive_files import BYTES_PER_WORKER, join_frames, plan, pseudonym, read_all, run_key
from dsa_lib.conditions import CELLS, OTHERS, Condition
from dsa_lib.errors import StudyError
from dsa_lib.profiles import Curation
from dsa_lib.progress import track
from dsa_lib.workspace import Workspace, atomic_write, sha256, write_json

SPLITS = ("train", "val", "test")


# --- the archive ------------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cohort:
    """What `curate` found. `series`, `quarantine`: as written; `flow`: counts for Figure 1; `key`: series → identifiers, private."""

    series: pd.DataFrame
    quarantine: pd.DataFrame
    flow: dict
    key: pd.DataFrame


def curate(
    archive: Path,
    ws: Workspace,
    settings: Curation,
    seed: int,
    workers: int = 0,
    vocabulary: Path = circulation.VOCABULARY,
    simulated: bool = False,
) -> Cohort:
    """Read every file under `archive`, write series.parquet, quarantine.csv, frames.npy, frames.parquet and flow.json into the run.

    `workers` 0 takes the profile's. `simulated` says that nobody is to be protected: the pseudonyms' key then follows from the seed, so that two runs on
    the same phantom archive agree. Raises StudyError when the folder is empty or nothing in it can be used; quarantine.csv and series.parquet are
    written all the same.
    """
    archive, key = Path(archive), run_key(ws, seed if simulated else None)
    circulation.read_vocabulary(vocabulary)  # its faults are the user's, not a file's
    tasks, size = plan(archive, ws, key, settings, vocabulary)
    if not tasks:
        raise StudyError("the archive holds no files: give the folder that holds the DICOM files")
    workers = max(1, min(workers or settings.workers, size // BYTES_PER_WORKER))
    records = list(track(read_all(tasks, workers), len(tasks), "files"))
    quarantine = _resolve(tasks, records, key, ws)
    series, arrays, identities = _series_table(tasks, records, key)
    flow = _flow(len(tasks), series, quarantine)
    kept = series[series["kept"]]
    if kept.empty:
        _write_parquet(ws.path("series.parquet"), series.drop(columns="frame_times_s"))
        raise StudyError(
            f"no series of the archive can be used: {len(quarantine)} files were quarantined and {len(series)} series excluded; "
            "the reasons are in quarantine.csv and series.parquet of the run"
        )
    cells = kept.assign(cell=[cell_of(row) for row in kept.itertuples()]).groupby(["patient", "cell"]).size()
    splits, flow["split_note"] = split_patients(cells.unstack(fill_value=0), settings, seed)
    series["split"] = series["patient"].map(splits).where(series["kept"], "")
    frames = _store(ws, series, arrays, settings.image_size)
    flow["split"] = {
        name: {"patients": part["patient"].nunique(), "series": part["series"].nunique(), "frames": len(part)}
        for name in SPLITS
        for part in [frames[frames["split"] == name]]
    }
    series = series.drop(columns="frame_times_s")
    _write_parquet(ws.path("series.parquet"), series)
    _write_parquet(ws.path("frames.parquet"), frames)
    _write_parquet(ws.private("series_key.parquet"), identities)
    write_json(ws.path("flow.json"), flow)
    return Cohort(series, quarantine, flow, identities)


def _resolve(tasks: list, records: list[dict], key: bytes, ws: Workspace) -> pd.DataFrame:
    """Quarantine second copies of an instance (the first path stays), then write and return the quarantine list."""
    first: dict[str, int] = {}
    for index, record in enumerate(records):
        if "quarantined" in record:
            continue
        kept = first.setdefault(record["sop_uid"], index)
        if kept != index:
            same = sha256(tasks[kept].path) == sha256(tasks[index].path)
            fault = "an identical copy of another file" if same else "another image bears the same SOP instance UID"
            remedy = "nothing to do" if same else "find out which of the two is right and remove the other"
            records[index] = {"quarantined": fault, "remedy": remedy}
    rows = [
        {
            "file": pseudonym(key, "F", task.name),
            "reason": record["quarantined"],
            "remedy": record["remedy"],
            "path": task.name,
        }
        for task, record in zip(tasks, records, strict=True)
        if "quarantined" in record
    ]
    # File names can hold names of patients: the shareable list has keyed names, the private one the paths.
    quarantine = pd.DataFrame(rows, columns=["file", "reason", "remedy", "path"]).sort_values("file", ignore_index=True)
    for path, table in (
        (ws.private("quarantine_files.csv"), quarantine),
        (ws.path("quarantine.csv"), quarantine.drop(columns="path")),
    ):
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)
    return quarantine.drop(columns="path")


def _series_table(tasks: list, records: list[dict], key: bytes):
    """(series without identifiers, path of each kept series' frames, private identities), in the order of the pseudonyms."""
    rows, identities, arrays = [], [], {}
    for task, record in zip(tasks, records, strict=True):
        if "quarantined" in record:
            continue
        name = pseudonym(key, "S", record["sop_uid"])
        times = record["frame_times_s"]
        rows.append(
            {
                "series": name,
                "study": pseudonym(key, "E", record["study_uid"]),
                "patient": pseudonym(key, "P", record["patient_id"]),
                **{c: record[c] for c in ("circulation", "matched_term", "plane", "plane_source")},
                **{c: record[c] for c in ("primary_angle_deg", "secondary_angle_deg", "frames")},
                "frame_time_ms": round(float(np.median(np.diff(times))) * 1000, 3) if len(times) > 1 else np.nan,
                **{c: record[c] for c in ("frame_time_source", "sex", "age", "kept", "reason", "relationship")},
                **{c: record.get(c, "") for c in ("mask_source", "mask_frames")},
                **{c: record.get(c, np.nan) for c in ("background", "contrast_per_grey", "log_per_value")},
                "frame_times_s": times,
            }
        )
        identities.append(
            {
                "series": name,
                "series_instance_uid": record["series_uid"],
                "sop_instance_uid": record["sop_uid"],
                "file": task.name,
            }
        )
        arrays[name] = task.array
    if not rows:
        return pd.DataFrame(columns=["series", "study", "patient", "kept", "reason", "frame_times_s"]), {}, None
    series = pd.DataFrame(rows).sort_values(["patient", "study", "series"], ignore_index=True)
    if series["series"].duplicated().any():
        raise StudyError("two series received the same pseudonym: remove private/key.hex to draw a new key")
    series["kept"] = series["kept"].astype(bool)
    series["age"] = series["age"].astype("Int64")
    counts = series["frames"].where(series["kept"], 0)
    series.insert(9, "first_frame", (counts.cumsum() - counts).where(series["kept"]).astype("Int64"))
    return series, arrays, pd.DataFrame(identities).sort_values("series", ignore_index=True)


def _flow(found: int, series: pd.DataFrame, quarantine: pd.DataFrame) -> dict:
    kept = series[series["kept"].astype(bool)]
    flow = {
        "files found": found,
        "quarantined": dict(Counter(quarantine["reason"]).most_common()),
        "series read": len(series),
        "excluded": dict(Counter(series.loc[~series["kept"].astype(bool), "reason"]).most_common()),
        "series kept": len(kept),
        "patients": int(kept["patient"].nunique()),
        "studies": int(kept["study"].nunique()),
    }
    for name in ("anterior", "posterior") if len(kept) else ():
        part = kept[kept["circulation"] == name]
        flow[name] = {"series": len(part), "frames": int(part["frames"].sum())}
    flow["frames"] = int(kept["frames"].sum()) if len(kept) else 0
    assert flow["series read"] + sum(flow["quarantined"].values()) == found
    assert flow["series kept"] + sum(flow["excluded"].values()) == flow["series read"]
    return flow


def _store(ws: Workspace, series: pd.DataFrame, arrays: dict[str, Path], size: int) -> pd.DataFrame:
    """Write frames.npy, one series after the other, and return the table of its rows."""
    kept = series[series["kept"]]
    total = int(kept["frames"].sum())
    join_frames(ws.path("frames.npy"), (arrays[name] for name in kept["series"]), (total, size, size))
    columns = [
        "series",
        "study",
        "patient",
        "circulation",
        "plane",
        "primary_angle_deg",
        "secondary_angle_deg",
        "split",
    ]
    frames = kept.loc[kept.index.repeat(kept["frames"]), columns].reset_index(drop=True)
    frames.insert(0, "frame_id", np.arange(total))
    frames.insert(4, "frame", np.concatenate([np.arange(count) for count in kept["frames"]]))
    frames.insert(5, "time_s", np.concatenate([np.asarray(times, float) for times in kept["frame_times_s"]]))
    return frames


def _write_parquet(path: Path, frame: pd.DataFrame) -> None:
    with atomic_write(path) as temporary:
        frame.to_parquet(temporary, index=False)


# --- split ------------------------------------------------------------------------------------------------------------------------------------


def split_patients(
    cells: pd.DataFrame, settings: Curation, seed: int, trials: int = 2000
) -> tuple[dict[str, str], str]:
    """(split of each patient, what could not be met or ""). `cells`: series counts, one row a patient, one column a cell of Table 1.

    Of `trials` seeded random allocations the best is taken: fewest cells absent from training or test, then from validation, then the smallest
    deviation of the series counts from the fractions. The patient, not the study or series, is the unit: no patient is in two splits. Validation and
    test are never empty with three patients or more; with fewer nothing can be trained and everything is "test".
    """
    patients = sorted(cells.index)
    if len(patients) < 3:
        return dict.fromkeys(patients, "test"), (
            f"{len(patients)} patient{'s' if len(patients) > 1 else ''} cannot be split: all frames are in test, none can train"
        )
    counts = cells.loc[patients].to_numpy(float)
    fractions = {"val": settings.val_fraction, "test": 1 - settings.train_fraction - settings.val_fraction}
    sizes = {name: max(1, round(share * len(patients))) for name, share in fractions.items()}
    while sum(sizes.values()) >= len(patients):
        sizes[max(sizes, key=sizes.get)] -= 1
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(patients)), (trials, 1)), axis=1)
    bounds = {
        "test": (0, sizes["test"]),
        "val": (sizes["test"], sum(sizes.values())),
        "train": (sum(sizes.values()), None),
    }
    held = {name: counts[orders[:, first:last]].sum(1) for name, (first, last) in bounds.items()}  # [trials, cells]
    absent = {name: (held[name] == 0).sum(1) for name in SPLITS}
    total = counts.sum(0)
    wanted = {"train": settings.train_fraction, **fractions}
    deviation = sum(np.abs(held[name] / total - wanted[name]).sum(1) for name in SPLITS)
    best = np.lexsort((deviation, absent["val"], absent["train"] + absent["test"]))[0]
    chosen = {patients[patient]: name for name, (first, last) in bounds.items() for patient in orders[best, first:last]}
    missing = [
        f"{cell} from {name}"
        for name in SPLITS
        for cell, n in zip(cells.columns, held[name][best], strict=True)
        if n == 0
    ]
    return (
        chosen,
        f"too few patients to have every condition in every split; absent: {', '.join(missing)}" if missing else "",
    )


# --- for later notebooks ----------------------------------------------------------------------------------------------------------------------


def open_frames(ws: Workspace) -> tuple[np.ndarray, pd.DataFrame]:
    """(frames uint8 [n, H, W] as a read-only memory map, frames.parquet), for the notebook that has just written them; row i of the table is frame i."""
    return np.load(ws.path("frames.npy"), mmap_mode="r"), pd.read_parquet(ws.path("frames.parquet"))


def example_series(kept: pd.DataFrame) -> pd.Series:
    """The series to show: anterior circulation, lateral, most frames, where there are such."""
    wanted = (kept["circulation"] == "anterior").astype(int) + (kept["plane"] == "B").astype(int)
    return (
        kept.assign(wanted=wanted).sort_values(["wanted", "frames", "series"], ascending=[False, False, True]).iloc[0]
    )


def filled_frame(frames: np.ndarray) -> int:
    """The first of one series' `frames` [n, H, W] with nearly the most contrast: arteries are full before veins are."""
    contrast = frames.reshape(len(frames), -1).astype(np.float32).std(axis=1)
    return int(np.argmax(contrast >= 0.8 * contrast.max()))


def balance(found: Cohort) -> pd.DataFrame:
    """The sums that must hold, counted from the tables themselves; raises StudyError naming the one that does not."""
    series, kept, flow = found.series, found.series[found.series["kept"]], found.flow
    held = {
        "read + quarantined = found": len(series) + len(found.quarantine) == flow["files found"],
        "kept + excluded = read": len(kept) + int((series["reason"] != "").sum()) == len(series),
        "frames of kept series = frames stored": int(kept["frames"].sum()) == flow["frames"],
        "every patient in one split": bool((kept.groupby("patient")["split"].nunique() == 1).all()),
    }
    if not all(held.values()):
        raise StudyError(
            f"the counts of the filter flow do not add up ({', '.join(k for k, v in held.items() if not v)})"
        )
    return pd.DataFrame({"holds": held})


def cell_of(row) -> str:
    """Row of Table 1 for anything with circulation, plane, primary_angle_deg and secondary_angle_deg."""
    return Condition(row.circulation, row.plane, row.primary_angle_deg, row.secondary_angle_deg).cell()


def table1(arterial: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Table 1 from arterial frames: (row, column) → count, and proportion in per cent with one decimal."""
    angles = ["circulation", "plane", "primary_angle_deg", "secondary_angle_deg"]
    groups = arterial.groupby(angles, sort=True).size().reset_index(name="frames")
    counts = Counter()
    for row in groups.itertuples():
        counts[cell_of(row)] += int(row.frames)
    rows = (*CELLS, OTHERS)
    total = sum(counts.values())
    shares = _tenths_of_a_per_cent([counts[name] for name in rows]) if total else [float("nan")] * len(rows)
    table = {}
    for name, count, share in zip(
        (*rows, "Total"), [*(counts[n] for n in rows), total], [*shares, sum(shares)], strict=True
    ):
        table[name, "Count"] = count
        table[name, "Proportion (%)"] = round(share, 1)
    return table


def _tenths_of_a_per_cent(counts: list[int]) -> list[float]:
    """Percentages with one decimal that add up to exactly 100, by largest remainder: how the published ones were rounded (54,297 of 99,349 as 54.6)."""
    total = sum(counts)
    exact = [divmod(1000 * count, total) for count in counts]
    missing = 1000 - sum(whole for whole, _ in exact)
    largest = sorted(range(len(counts)), key=lambda index: -exact[index][1])[:missing]
    return [(whole + (index in largest)) / 10 for index, (whole, _) in enumerate(exact)]


def describe(series: pd.DataFrame) -> dict[str, float]:
    """Cohort facts of §2.1 over the patients with a kept series; age is the patient's at the first study that states it."""
    kept = series[series["kept"]]
    patients = kept.sort_values("age").groupby("patient").agg(sex=("sex", "first"), age=("age", "first"))
    ages = patients["age"].dropna().astype(float)
    return {
        "patients": len(patients),
        "female": int((patients["sex"] == "F").sum()),
        "female (%)": round(100 * float((patients["sex"] == "F").mean()), 2),
        "studies": int(kept["study"].nunique()),
        "studies per patient": round(kept["study"].nunique() / len(patients), 2),
        "mean age (years)": round(float(ages.mean()), 1),
        "SD of age (years)": round(float(ages.std()), 2),
        "youngest": float(ages.min()),
        "oldest": float(ages.max()),
    }


def cannot_train(frames: pd.DataFrame, batch_size: int) -> str | None:
    """Why nothing can be trained on `frames` (rows with split and patient), as one sentence; None where it can."""
    training = frames[frames["split"] == "train"]
    if training["patient"].nunique() < 2:
        return f"training needs at least two patients in the training split; this archive has {training['patient'].nunique()}."
    if len(training) < batch_size or not (frames["split"] == "val").any():
        return f"training needs at least one batch of {batch_size} frames and a validation frame; this archive has {len(training)} training frames."
    return None
