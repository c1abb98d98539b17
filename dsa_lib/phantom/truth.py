"""What a curated phantom frame shows without quantum noise, and which of its pixels are arteries of which calibre.

A series is rendered once more with every draw of its first rendering but infinitely many quanta, written as DICOM and curated by the very code that curated
the archive (`dsa_lib.dicom.series`). So its frames lie pixel by pixel under those of the run, with the same motion, bone edges and grey window, and differ from
them by noise alone. Measurements may use this, and the vessel network (`dsa_lib.vessels.unet`) is trained on `labelled_runs`; no model of the study
sees any of it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dsa_lib.dicom import tags
from dsa_lib.dicom.planes import read_header
from dsa_lib.dicom.series import read_acquisition, subtracted_run
from dsa_lib.phantom.archive import PARTS
from dsa_lib.phantom.body.head import draw_patient
from dsa_lib.phantom.body.territories import Injection3D, arterial_samples
from dsa_lib.phantom.imaging.acquisition import Acquisition, Bodies, acquire, times_s
from dsa_lib.phantom.imaging.bolus import artery_curve
from dsa_lib.phantom.imaging.projection import vessel_layers
from dsa_lib.phantom.imaging.render import LAYERS, VISIBLE_PATH_MM
from dsa_lib.phantom.imaging.xa import write_xa
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Curation


@dataclass(frozen=True)
class Truth:
    """frames: float32 [frames in the file, size, size], grey values without noise and rounding (NaN where curation makes no frame);
    mask: uint8 [size, size], 1 proximal, 2 medium, 3 peripheral arteries, filled or not at that moment."""

    frames: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Labelled:
    """One series as the archive holds it, curated, with its arteries: frames uint8 [n, size, size], noise included; classes uint8 [n, size, size], 1 proximal,
    2 medium, 3 peripheral arteries filled at that moment; phase [n] of PHASES; and whose it is."""

    frames: np.ndarray
    classes: np.ndarray
    phase: np.ndarray
    series_instance_uid: str
    patient_id: str


def noise_free(
    uids: Collection[str],
    config,
    seed: int,
    curation: Curation,
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> dict[str, Truth]:
    """Truth by series instance UID of the series `uids` of the phantom archive of `config` (a profile's `archive`) and `seed`, curated by `curation`.

    A run is rendered whole, about a third of a second for two planes at 144². Raises StudyError for a series that this archive does not have.
    """
    plan = plan_archive(config, seed)
    absent = set(uids) - set(plan["series_instance_uid"])
    if absent:
        raise StudyError(
            f"{len(absent)} series are not of the phantom archive of seed {seed}: give the profile and overrides of the run that holds them"
        )
    wanted = plan[plan["run"].isin(plan.loc[plan["series_instance_uid"].isin(list(uids)), "run"])]
    runs = _runs(wanted, config, seed, curation)
    found: dict[str, Truth] = {}
    for truths in progress(runs, wanted["run"].nunique()) if progress else runs:
        found |= {uid: truth for uid, truth in truths.items() if uid in uids}
    return found


def labelled_runs(plan: pd.DataFrame, config, seed: int, curation: Curation) -> Iterator[list[Labelled]]:
    """Every run of `plan` (rows of the phantom archive of `config` and `seed`), one entry a plane, rendered with its noise and curated by `curation`.

    Which arteries hold contrast in a frame is known from the bolus itself, not from the frame's grey values (`filled_arteries`). Rotational runs have a
    view of their own in every frame and are left out.
    """
    for rows, facts, rendered, bodies, paths in rendered_runs(
        plan[plan["kind"] != "rotational"], config, seed, noise=True
    ):
        found = []
        for row, fact, path in zip(rows, facts, paths, strict=True):
            filled = filled_arteries(bodies.of(row), fact, config.matrix, times_s(config))
            seen = read_acquisition(path)
            run = subtracted_run(path, seen, curation.image_size, curation.background_grey, curation.contrast_per_grey)
            classes = np.stack([curated_mask(filled[n], path, curation.image_size) for n in run.numbers])
            whose = row["series_instance_uid"], row["patient_id"]
            found.append(Labelled(run.frames, classes, rendered.phase[run.numbers], *whose))
        yield found


def filled_arteries(body: Injection3D, acquisition: Acquisition, matrix: int, times: np.ndarray) -> np.ndarray:
    """Artery label map of every frame, uint8 [frames, matrix, matrix]: `render.truth_mask` with the concentration of that moment instead of full filling.

    An artery counts where the contrast path through the arteries of its class is VISIBLE_PATH_MM or more.
    """
    samples = arterial_samples(body, 0.55 * acquisition.arm.field / matrix)
    curve = artery_curve(acquisition.injection, times, np.linspace(0, body.last_arrival, LAYERS)).astype(np.float32)
    maps = np.zeros((len(times), matrix, matrix), np.uint8)
    for label in (3, 2, 1):  # the most proximal on top, as in the mask
        of_label = {name: values[samples["label"] == label] for name, values in samples.items()}
        layers = vessel_layers(of_label, acquisition.arm, matrix, LAYERS, body.last_arrival)
        maps[np.tensordot(curve, layers.astype(np.float32), 1) > VISIBLE_PATH_MM] = label
    return maps


def _runs(plan: pd.DataFrame, config, seed: int, curation: Curation) -> Iterator[dict[str, Truth]]:
    """Truth of every series of one run after the other."""
    for rows, _, rendered, _, paths in rendered_runs(plan, config, seed, noise=False):
        yield {
            row["series_instance_uid"]: _curated(path, mask, curation)
            for row, mask, path in zip(rows, rendered.masks, paths, strict=True)
        }


def rendered_runs(
    plan: pd.DataFrame, config, seed: int, noise: bool, grown: Callable[..., Bodies] = Bodies
) -> Iterator[tuple]:
    """(plan rows, acquisitions, rendered run, bodies, DICOM files) of one run after the other; a patient's trees are grown once, files removed afterwards.

    `grown(patient, seed, number)` gives the patient's bodies: `Bodies`, or a kind of its own that changes what an injection fills.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, of_patient in plan.groupby("patient"):
            bodies = grown(draw_patient(np.random.default_rng([seed, 7, number])), seed, number)
            for _, run in of_patient.groupby("run"):
                rows = run.to_dict("records")
                facts, frames, rendered = acquire(rows, config, seed, bodies, noise=noise)
                paths = [Path(folder) / f"{row['series']}.dcm" for row in rows]
                for row, fact, pixels, path in zip(rows, facts, frames, paths, strict=True):
                    write_xa(path, row, fact, pixels, config)
                yield rows, facts, rendered, bodies, paths
                for path in paths:
                    path.unlink()


def _curated(path: Path, mask: np.ndarray, curation: Curation) -> Truth:
    facts = read_acquisition(path)
    size = curation.image_size
    run = subtracted_run(path, facts, size, curation.background_grey, curation.contrast_per_grey, rounded=False)
    frames = np.full((facts.frames, size, size), np.nan, np.float32)
    frames[run.numbers] = run.frames
    return Truth(frames, curated_mask(mask, path, size))


def curated_mask(mask: np.ndarray, path: Path, size: int) -> np.ndarray:
    """A label map [rows, columns] of the detector on the grid of the curated frames of the DICOM file `path`: uint8 [size, size].

    Cut to the shutter, squared with zeros and resized as frames are (`dsa_lib.dicom.series`), by nearest neighbour, so that labels stay labels.
    """
    rows, columns, inside = tags.shutter(read_header(path), mask.shape)
    seen = np.where(inside, mask[rows, columns], 0).astype(np.uint8)
    height, width = seen.shape
    side = max(height, width)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = seen
    return np.asarray(Image.fromarray(square).resize((size, size), Image.NEAREST))


def calibre_masks(
    series: Iterable[str], key: pd.DataFrame, archive: Path, masks: Path, size: int
) -> dict[str, np.ndarray]:
    """Calibre maps uint8 [size, size] by pseudonym of the `series` of a run, from its archive's own truth: nothing is rendered.

    key: the run's private/series_key.parquet; archive: folder of its DICOM files; masks: its archive_truth_masks.npz.
    """
    rows = key.set_index("series").loc[list(dict.fromkeys(series))]
    with np.load(masks) as maps:
        return {
            row.Index: curated_mask(maps[row.series_instance_uid], Path(archive) / row.file, size)
            for row in rows.itertuples()
        }


def label_maps(
    key: pd.DataFrame, archive: Path, masks: Path, size: int
) -> Callable[[pd.DataFrame, np.ndarray], np.ndarray]:
    """label_maps(rows, their frames) → `calibre_masks` of the series of `rows` (column series), uint8 [n, size, size], one a row."""

    def of_rows(rows: pd.DataFrame, frames: np.ndarray) -> np.ndarray:
        found = calibre_masks(rows["series"], key, archive, masks, size)
        return np.stack([found[name] for name in rows["series"]])

    return of_rows


def of_frames(
    frames: pd.DataFrame, key: pd.DataFrame, config, seed: int, curation: Curation, progress=None
) -> tuple[np.ndarray, np.ndarray]:
    """(noise-free frames float32 [n, size, size], calibre masks uint8 [n, size, size]) of the rows of a frames table.

    frames: columns series (pseudonym) and frame (number in the file from 0), as in frames.parquet or arterial.parquet; key: the run's
    private/series_key.parquet; config, seed, curation: of the run's profile.
    """
    uids = frames["series"].map(key.set_index("series")["series_instance_uid"])
    found = noise_free(set(uids), config, seed, curation, progress)
    pairs = list(zip(uids, frames["frame"], strict=True))
    return np.stack([found[uid].frames[n] for uid, n in pairs]), np.stack([found[uid].mask for uid, _ in pairs])


def of_run(
    frames: pd.DataFrame, key: pd.DataFrame, folder: Path, config, seed: int, curation: Curation, progress=None
) -> tuple[np.ndarray, np.ndarray]:
    """`of_frames` for a run whose phantom archive lies in `folder` (archive/, archive_truth_masks.npz and the writer's record).

    Raises StudyError where the archive was written with another profile, or by a program that rendered other vessels.
    """
    record = json.loads((Path(folder) / PARTS / "plan.json").read_text())
    wanted = {**asdict(config), "seed": seed}
    unlike = [name for name, value in wanted.items() if record.get(name) != value]
    if unlike:
        raise StudyError(
            f"the phantom archive of this run has another {' and '.join(unlike)} than this profile: give the overrides that notebook 00 was run with"
        )
    truth, masks = of_frames(frames, key, config, seed, curation, progress)
    written = calibre_masks(
        frames["series"], key, Path(folder) / "archive", Path(folder) / "archive_truth_masks.npz", curation.image_size
    )
    if not all(np.array_equal(written[name], mask) for name, mask in zip(frames["series"], masks, strict=True)):
        raise StudyError(
            "the phantom archive of this run shows other vessels than this version of the program renders: run notebooks/00_phantom_archive.ipynb again"
        )
    return truth, masks
