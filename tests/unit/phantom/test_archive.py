"""The phantom archive: proportions of the study, DICOM that reads back, repeatable and resumable writing."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pydicom
import pytest

from dsa_lib.core.condition_sentences import Condition
from dsa_lib.curation.circulation import match_circulation, read_vocabulary
from dsa_lib.phantom.archive import write_archive
from dsa_lib.phantom.figures import moments
from dsa_lib.phantom.plan import archive_size, largest_remainder, minimum_per_cell, plan_archive
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PAPER, PHANTOM, SMOKE, Archive

CONFIG = Archive(patients=3, series_per_study=5, matrix=48, frames=8, frame_time_ms=800.0, annotated_series=6)


def _cells(plan: pd.DataFrame) -> Counter:
    kept = plan[plan["kind"] == "kept"]
    return Counter(
        Condition(r.circulation, r.plane, r.primary_angle_deg, r.secondary_angle_deg).cell() for r in kept.itertuples()
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    truth = write_archive(CONFIG, 5, root / "archive", root / "truth", workers=1)
    return root, plan_archive(CONFIG, 5), truth


def _digests(root) -> dict[str, str]:
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_largest_remainder_by_hand():
    assert list(largest_remainder(10, [0.47, 0.33, 0.20])) == [5, 3, 2]  # 4.7, 3.3, 2.0
    assert list(largest_remainder(7, [1, 1, 1])) == [3, 2, 2]


def test_the_paper_profile_has_the_published_counts():
    size = archive_size(PAPER.archive.patients, PAPER.archive.series_per_study)
    assert size == {"patients": 859, "studies": 1104, "series": 22064, "excluded": 3694, "kept": 18370}


def test_the_paper_profile_follows_table_1():
    """Shares of kept series against Table 1's shares of arterial frames (every series has about as many)."""
    plan = plan_archive(PAPER.archive, PAPER.seed)
    assert len(plan) == 22064 and (plan["kind"] != "kept").sum() == 3694
    people = plan.drop_duplicates("patient_id")
    assert len(people) == 859 and (people["sex"] == "F").sum() == 351
    assert people["age"].mean() == pytest.approx(56, abs=0.3) and people["age"].std() == pytest.approx(15.32, abs=0.5)
    assert people["age"].between(18, 91).all()
    assert plan["annotated"].sum() == 953
    cells = _cells(plan)
    for cell, percent in {"AC A": 9.6, "PC A": 0.9, "AC B": 26.9, "PC B": 8.0, "Others": 54.6}.items():
        assert 100 * cells[cell] / 18370 == pytest.approx(percent, abs=0.1)
    kept = plan[plan["kind"] == "kept"]
    assert (kept["circulation"] == "anterior").mean() == pytest.approx(0.7877, abs=0.001)
    assert {d.year for d in plan["study_date"]} == set(range(2015, 2022))


@pytest.mark.parametrize("profile", [SMOKE, PHANTOM], ids=["smoke", "phantom"])
def test_small_archives_hold_every_cell(profile):
    plan = plan_archive(profile.archive, profile.seed)
    cells, kept = _cells(plan), int((plan["kind"] == "kept").sum())
    assert min(cells[c] for c in ("AC A", "PC A", "AC B", "PC B")) >= minimum_per_cell(kept) >= 2
    assert (plan["kind"] != "kept").mean() == pytest.approx(3694 / 22064, abs=0.5 / len(plan) + 1e-9)
    assert plan["annotated"].sum() == min(profile.archive.annotated_series, kept)
    assert not plan.loc[plan["annotated"], "kind"].ne("kept").any()
    for column in ("sop_instance_uid", "series_instance_uid", "file"):
        assert plan[column].is_unique
    assert plan.groupby("run")["study_instance_uid"].nunique().max() == 1
    pd.testing.assert_frame_equal(plan, plan_archive(profile.archive, profile.seed))


def test_series_descriptions_name_the_vessel_in_the_vocabulary():
    plan = plan_archive(PHANTOM.archive, PHANTOM.seed)
    terms = read_vocabulary()
    for row in plan.itertuples():
        if row.kind == "rotational":
            continue
        found = match_circulation((row.description,), terms).circulation
        assert (found or "") == row.circulation, row.description


def test_files_are_valid_raw_xa(written):
    root, plan, _ = written
    assert len(plan) == len(list((root / "archive").rglob("*.dcm")))
    for row in plan.itertuples():
        ds = pydicom.dcmread(root / "archive" / row.file)
        assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == pydicom.uid.XRayAngiographicImageStorage
        pixels = ds.pixel_array
        assert pixels.shape == (8, 48, 48) and pixels.max() <= 4095 and ds.BitsStored == 12
        assert ds.PixelIntensityRelationship == "LIN" and ds.PatientSex in "FM" and int(ds.PatientAge[:3]) >= 18
        assert ds.StudyDate > ds.PatientBirthDate
        age = (int(ds.StudyDate) - int(ds.PatientBirthDate)) // 10000
        assert age == int(ds.PatientAge[:3])
        assert "imulated" in ds.ImageComments and str(ds.PatientName).startswith("PHANTOM^")
        assert ds.FrameIncrementPointer == 0x00181063 and float(ds.FrameTime) == 800
        assert 1 <= ds.ShutterLeftVerticalEdge < ds.ShutterRightVerticalEdge <= 48
        geometry = (
            float(ds.ImagerPixelSpacing[0])
            * 48
            * float(ds.DistanceSourceToPatient)
            / float(ds.DistanceSourceToDetector)
        )
        assert 175 < geometry < 235  # mm of patient across the field
        if row.kind == "rotational":
            assert ds.PositionerMotion == "DYNAMIC" and len(ds.PositionerPrimaryAngleIncrement) == 8
            assert "MaskSubtractionSequence" not in ds
        else:
            assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", f"BIPLANE {row.plane}"]
            assert float(ds.PositionerPrimaryAngle) == row.primary_angle_deg
            mask = ds.MaskSubtractionSequence[0]
            assert mask.MaskOperation == "AVG_SUB" and min(np.atleast_1d(mask.MaskFrameNumbers)) == 1


def test_mask_frames_are_before_contrast(written):
    root, plan, truth = written
    for row in plan[plan["kind"] == "kept"].itertuples():
        ds = pydicom.dcmread(root / "archive" / row.file, stop_before_pixels=True)
        phase = truth[truth["series_instance_uid"] == row.series_instance_uid].set_index("frame")["phase"]
        for number in np.atleast_1d(ds.MaskSubtractionSequence[0].MaskFrameNumbers):
            assert phase[int(number) - 1] == "before_contrast"


def test_truth_covers_every_frame_and_annotations_are_arterial(written):
    root, plan, truth = written
    assert len(truth) == 8 * len(plan)
    both = truth.merge(plan[["series_instance_uid", "run"]], on="series_instance_uid")
    assert both.groupby(["run", "frame"])["phase"].nunique().max() == 1  # planes of a run share their phases
    kept = truth[truth["kind"] == "kept"]
    assert (kept.groupby("series_instance_uid")["representative"].sum() == 1).all()
    assert (truth.loc[truth["representative"], "phase"] == "arterial").all()
    notes = pd.read_csv(root / "truth" / "annotations.csv")
    assert len(notes) == 6 and list(notes.columns) == ["series_instance_uid", "frame"]
    joined = notes.merge(truth, on=["series_instance_uid", "frame"])
    assert joined["representative"].all()
    with np.load(root / "truth" / "archive_truth_masks.npz") as masks:
        assert set(masks.files) == set(plan["series_instance_uid"])
        assert masks[plan["series_instance_uid"][0]].shape == (48, 48)


def test_no_truth_inside_the_archive(written):
    root, _, _ = written
    assert {p.suffix for p in (root / "archive").rglob("*") if p.is_file()} == {".dcm"}
    for file in (root / "archive").rglob("*.dcm"):
        header = pydicom.dcmread(file, stop_before_pixels=True).to_json().lower()
        assert not any(word in header for word in ("arterial", "venous", "capillary", "anterior", "posterior"))


def test_a_stopped_archive_goes_on_and_ends_identical(written, tmp_path):
    root, plan, _ = written
    expected = _digests(root)
    write_archive(CONFIG, 5, tmp_path / "archive", tmp_path / "truth", workers=1)
    assert _digests(tmp_path) == expected  # same bytes anywhere
    lost = [tmp_path / "archive" / plan["file"][n] for n in (1, 4)]
    for file in lost:
        file.unlink()
    (tmp_path / "truth" / "archive_truth.parquet").unlink()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "archive").rglob("*.dcm")}
    runs = set(plan["run"][[1, 4]])
    write_archive(CONFIG, 5, tmp_path / "archive", tmp_path / "truth", workers=1)
    assert _digests(tmp_path) == expected
    untouched = [tmp_path / "archive" / r.file for r in plan.itertuples() if r.run not in runs]
    assert untouched and all(p.stat().st_mtime_ns == times[p] for p in untouched)


def test_a_killed_writer_is_resumed(written, tmp_path):
    root, _, _ = written
    script = (
        "import os, sys; from pathlib import Path; from dsa_lib.phantom import archive; from dsa_lib.run.profiles import Archive\n"
        f"config = Archive(**{vars(CONFIG)!r}); root = Path(sys.argv[1]); real = archive.write_xa; count = [0]\n"
        "def stop(path, *rest):\n"
        "    real(path, *rest); count[0] += 1\n"
        "    if count[0] == 5: os.kill(os.getpid(), 9)\n"
        "archive.write_xa = stop\n"
        "archive.write_archive(config, 5, root / 'archive', root / 'truth', workers=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert 1 <= len([p for p in (tmp_path / "archive").rglob("*.dcm") if not p.parent.name.startswith(".")]) < 15
    write_archive(CONFIG, 5, tmp_path / "archive", tmp_path / "truth", workers=1)
    assert _digests(tmp_path) == _digests(root)


def test_another_plan_replaces_the_old_archive_but_never_foreign_files(tmp_path):
    small = Archive(patients=1, series_per_study=4, matrix=32, frames=6, frame_time_ms=900.0, annotated_series=2)
    write_archive(small, 1, tmp_path / "archive", tmp_path / "truth", workers=1)
    write_archive(small, 2, tmp_path / "archive", tmp_path / "truth", workers=1)
    found = {pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path / "archive").rglob("*.dcm")}
    assert found == set(plan_archive(small, 2)["sop_instance_uid"])
    (tmp_path / "archive" / "clinical").mkdir()
    with pytest.raises(StudyError, match="clinical"):
        write_archive(small, 3, tmp_path / "archive", tmp_path / "truth", workers=1)
    assert len(list((tmp_path / "archive").rglob("*.dcm"))) == len(found)


def test_the_strip_shows_every_phase_and_the_representative_frame():
    phase = np.array(["before_contrast"] * 3 + ["arterial"] * 5 + ["capillary"] * 3 + ["venous"] * 3)
    assert moments(phase, 6) == [2, 3, 5, 6, 9, 11, 13]
    assert moments(np.array(["before_contrast", "arterial", "arterial"]), 1)[-3:] == [1, 2, 2]  # cut short
