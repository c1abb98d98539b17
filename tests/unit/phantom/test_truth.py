"""Noise-free truth lies pixel by pixel under the curated frames, and differs from them by the quantum noise alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pydicom
import pytest
from xa_maker import make_xa

from dsa_lib.dicom import series as dicom_series
from dsa_lib.phantom import run_measures, truth
from dsa_lib.phantom.archive import write_archive
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Archive, Curation

SIZE = 72
CONFIG = Archive(patients=2, series_per_study=4, matrix=SIZE, frames=7, frame_time_ms=900.0, annotated_series=2)
CURATION = Curation(image_size=SIZE)  # no resampling, which would average noise, where the shutter is open


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """(folder of the archive, of its truth, plan of the kept series, key as curation writes it)."""
    root = tmp_path_factory.mktemp("truth")
    write_archive(CONFIG, 3, root / "archive", root, workers=1)
    plan = plan_archive(CONFIG, 3)
    kept = plan[plan["kind"] == "kept"]
    key = kept[["series_instance_uid", "file"]].assign(series=[f"S{n}" for n in range(len(kept))])
    return root, kept, key


@pytest.fixture(scope="module")
def pairs(archive):
    """(curated noisy frames before rounding, truth) of every kept series."""
    root, kept, _ = archive
    found = truth.noise_free(set(kept["series_instance_uid"]), CONFIG, 3, CURATION)
    return [
        (_curated(root / "archive" / row.file, rounded=False), found[row.series_instance_uid])
        for row in kept.itertuples()
    ]


def _curated(path, rounded=True):
    facts = dicom_series.read_acquisition(path)
    return dicom_series.subtracted_run(path, facts, SIZE, 162, CURATION.contrast_per_grey, rounded).frames


def test_what_is_left_is_the_noise(archive, pairs):
    """Mean zero, and of the size that Poisson counts give: the log of a detector value has variance 1 / (photons · transmission), that of mask − frame
    twice as much (1.5 times where two frames are averaged to the mask). Of series with an open shutter, whose frames are not resampled."""
    root, kept, _ = archive
    measured = 0
    for row, (noisy, true) in zip(kept.itertuples(), pairs, strict=True):
        assert true.frames.shape == noisy.shape and true.frames.dtype == np.float32
        image = pydicom.dcmread(root / "archive" / row.file)
        raw = image.pixel_array[2:]  # the first two may be their own mask
        free = run_measures.exposed(noisy) & (true.mask == 0) & (true.frames.min(axis=0) > 10) & (raw.min(axis=0) > 100)
        residual = (noisy - true.frames)[2:]
        photons = (
            2.2e5 * (144 / SIZE) ** 2 * (raw[:, free] - 24.0) / 3700
        )  # of the nominal exposure; drawn from 0.6 to 1.25 of it
        grey = np.sqrt((1 / photons).mean()) / CURATION.contrast_per_grey
        assert abs(residual[:, free].mean()) < 0.1 * grey
        rounding = (2 / 12) * (1 / (raw[:, free] - 24.0) ** 2).mean() / CURATION.contrast_per_grey**2
        low, high = (np.sqrt(share * grey**2 + rounding) for share in (1.5 / 1.25, 2 / 0.6))
        if image.ShutterLeftVerticalEdge == image.ShutterUpperHorizontalEdge == 1:
            assert 0.95 * low < residual[:, free].std() < 1.05 * high
            measured += 1
    assert measured


def test_no_vessel_edge_is_left(pairs):
    """The residual follows no gradient of the truth; truth that lay one pixel aside would leave one."""

    def follows(noisy, true) -> float:
        edges = np.gradient(true, axis=2)
        return abs(np.corrcoef((noisy - true).ravel(), edges.ravel())[0, 1])

    for noisy, true in pairs:
        assert follows(noisy, true.frames) < 0.05
        assert follows(noisy, np.roll(true.frames, 1, axis=2)) > 0.5


def test_truth_is_not_rounded_and_rounds_as_frames_do(archive):
    root, kept, _ = archive
    path = root / "archive" / kept["file"].iloc[0]
    exact = _curated(path, rounded=False)
    assert exact.dtype == np.float32 and (exact % 1 > 0).mean() > 0.5
    assert np.array_equal(np.rint(exact).astype(np.uint8), _curated(path))


def test_masks_are_the_archives_own(archive, pairs):
    root, _, key = archive
    masks = truth.calibre_masks(key["series"], key, root / "archive", root / "archive_truth_masks.npz", SIZE)
    for name, (_, true) in zip(key["series"], pairs, strict=True):
        assert np.array_equal(masks[name], true.mask) and set(np.unique(true.mask)) <= {0, 1, 2, 3}
        filled = 162 - true.frames.min(axis=0)
        assert filled[true.mask == 1].mean() > 4 * filled[true.mask == 0].mean()
    label_maps = truth.label_maps(key, root / "archive", root / "archive_truth_masks.npz", SIZE)
    names = [key["series"].iloc[1], key["series"].iloc[0], key["series"].iloc[1]]
    assert np.array_equal(label_maps(pd.DataFrame({"series": names}), None), np.stack([masks[name] for name in names]))


def test_frames_of_a_table_come_in_its_order(archive, pairs):
    _, _, key = archive
    rows = pd.DataFrame({"series": [key["series"].iloc[1], key["series"].iloc[0]], "frame": [4, 2]})
    frames, masks = truth.of_frames(rows, key, CONFIG, 3, CURATION)
    assert np.array_equal(frames[0], pairs[1][1].frames[4]) and np.array_equal(frames[1], pairs[0][1].frames[2])
    assert np.array_equal(masks[0], pairs[1][1].mask)


def test_a_mask_is_cut_and_squared_as_frames_are(tmp_path):
    """A bar that only the mask and one frame hold: after shutter, letterbox and halving both have it in the same place."""
    frames = np.full((2, 40, 60), 1000, np.uint16)
    frames[1, 12:16, 20:50] = 500
    shutter = {"ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 11, "ShutterRightVerticalEdge": 58}
    shutter |= {"ShutterUpperHorizontalEdge": 5, "ShutterLowerHorizontalEdge": 36}
    make_xa(tmp_path / "a.dcm", frames, **shutter)
    mask = np.where(frames[1] < 1000, 2, 0).astype(np.uint8)
    placed = truth.curated_mask(mask, tmp_path / "a.dcm", 24)  # the field is 32 × 48, squared 48 × 48, halved
    facts = dicom_series.read_acquisition(tmp_path / "a.dcm")
    seen = dicom_series.subtracted_run(tmp_path / "a.dcm", facts, 24, 162, 0.008).frames[1]
    assert set(np.unique(placed)) == {0, 2}
    assert np.array_equal(placed == 2, seen < 162 - 40)


def test_a_series_of_another_archive_is_named(archive):
    _, kept, _ = archive
    with pytest.raises(StudyError, match="not of the phantom archive of seed 4"):
        truth.noise_free({kept["series_instance_uid"].iloc[0]}, CONFIG, 4, CURATION)


def test_truth_of_a_run_is_that_of_its_archive(archive, pairs, tmp_path):
    root, _, key = archive
    rows = pd.DataFrame({"series": [key["series"].iloc[0]], "frame": [3]})
    frames, masks = truth.of_run(rows, key, root, CONFIG, 3, CURATION)
    assert np.array_equal(frames[0], pairs[0][1].frames[3]) and np.array_equal(masks[0], pairs[0][1].mask)
    with pytest.raises(StudyError, match="another frame_time_ms than this profile"):
        truth.of_run(rows, key, root, replace(CONFIG, frame_time_ms=800.0), 3, CURATION)
    (tmp_path / "archive").symlink_to(root / "archive")
    (tmp_path / "archive_truth_parts").symlink_to(root / "archive_truth_parts")
    with np.load(root / "archive_truth_masks.npz") as maps:
        np.savez(tmp_path / "archive_truth_masks.npz", **{uid: np.flip(maps[uid], 1) for uid in maps.files})
    with pytest.raises(StudyError, match="shows other vessels"):
        truth.of_run(rows, key, tmp_path, CONFIG, 3, CURATION)


def test_labelled_frames_are_the_archives_own_and_fill_with_the_bolus(archive, pairs):
    """Noise included; the arteries of a frame lie within those of the run, where the noise-free frame is darker, and wait for the contrast."""
    root, kept, _ = archive
    found = {s.series_instance_uid: s for run in truth.labelled_runs(kept, CONFIG, 3, CURATION) for s in run}
    assert set(found) == set(kept["series_instance_uid"])
    for row, (_, true) in zip(kept.itertuples(), pairs, strict=True):
        series = found[row.series_instance_uid]
        assert series.patient_id == row.patient_id
        assert np.array_equal(series.frames, _curated(root / "archive" / row.file))
        assert series.classes.shape == series.frames.shape and series.classes.dtype == np.uint8
        assert (
            not series.classes[series.phase == "before_contrast"].max(initial=0) > 2
        )  # at most the first of the trunk
        ever = series.classes > 0
        assert (ever & (true.mask == 0)[None]).sum() == 0
        filled, whole = series.classes[ever], np.broadcast_to(true.mask, ever.shape)[ever]
        assert (filled >= whole).all() and (
            filled == whole
        ).mean() > 0.9  # where a proximal artery has run empty a more distal one shows
        filled, empty = ever[series.phase == "arterial"], (~ever & (true.mask > 0)[None])[series.phase == "arterial"]
        dark = 162 - true.frames[series.phase == "arterial"]
        if filled.sum() > 20 and empty.sum() > 20:
            assert dark[filled].mean() > 3 * dark[empty].mean()


def test_an_artery_counts_from_the_contrast_path_that_the_mask_asks_for(archive):
    """Full concentration at every moment is the mask of the archive itself; none is empty."""
    _, kept, _ = archive
    row = kept.iloc[0].to_dict()
    bodies = truth.Bodies(truth.draw_patient(np.random.default_rng([3, 7, row["patient"]])), 3, row["patient"])
    rows = kept[kept["run"] == row["run"]].to_dict("records")
    facts, _, rendered = truth.acquire(rows, CONFIG, 3, bodies)
    body = bodies.of(row)
    # A bolus that lasts for ever, undiluted: every artery holds full concentration at the end.
    full = replace(facts[0], injection=replace(facts[0].injection, start=0.0, duration=1e4, strength=1.0))
    last = truth.filled_arteries(body, full, SIZE, np.array([-1.0, 5e3]))
    assert np.array_equal(last[1], rendered.masks[0]) and not last[0].any()
