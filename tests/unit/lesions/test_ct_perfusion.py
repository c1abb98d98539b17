"""CT perfusion and diffusion volumes: small heads written as NIfTI, read back as pairs; damaged ones are left out with a reason."""

import gzip
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dsa_lib.lesions import ct_perfusion
from dsa_lib.lesions.ct_perfusion import Grid, bolus, brain_of, of_patient, read, resample, slices, source_files, split
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import CtPerfusion
from dsa_lib.run.workspace import PROJECT

SETTINGS = CtPerfusion(time_points=4, field_mm=160.0)
SIZE = 32
HEAD, LESION = (60.0, 70.0, 40.0), ((30.0, 10.0, 0.0), 14.0)  # mm: half axes; centre (right, front, up) and radius


def affine(voxel, shape, turn=0.0, shift=(0.0, 0.0, 0.0)):
    """Voxels of `voxel` mm about the head's middle plus `shift`, turned by `turn` about the axis up."""
    c, s = np.cos(turn), np.sin(turn)
    out = np.eye(4)
    out[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(voxel)
    out[:3, 3] = np.array(shift) - out[:3, :3] @ ((np.array(shape) - 1) / 2)
    return out


def head(shape, placed):
    """(inside the head, inside the lesion) bool at the voxels of a volume."""
    at = placed[:3, :3] @ np.indices(shape).reshape(3, -1) + placed[:3, 3:]
    inside = (np.square(at / np.array(HEAD)[:, None]).sum(0) < 1).reshape(shape)
    return inside, inside & (np.linalg.norm(at - np.array(LESION[0])[:, None], axis=0) < LESION[1]).reshape(shape)


def put(folder: Path, name: str, values, placed):
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), placed), folder / f"{name}.nii.gz")


def write_patient(folder: Path, maps=(), series=True):
    shape, placed = (44, 48, 10), affine((4, 4, 8), (44, 48, 10), turn=0.2)
    inside, lesion = head(shape, placed)
    put(folder, "dwi", 100.0 * inside + 200.0 * lesion, placed)
    put(folder, "adc", 0.8e-3 * inside - 0.4e-3 * lesion, placed)
    put(folder, "lesion", lesion, placed)
    ct = (64, 64, 24), affine((3, 3, 4), (64, 64, 24), shift=(5, -4, 6))
    inside, lesion = head(*ct)
    curve = 30 * np.exp(-((np.arange(20) - 9) ** 2) / 8)
    if series:
        put(folder, "ctp", inside[..., None] * (40 + curve) - lesion[..., None] * 0.9 * curve, ct[1])
    for name in maps:
        put(folder, name, inside * 50 - lesion * 40, ct[1])


@pytest.fixture
def folder(tmp_path):
    for name in "abcd":
        write_patient(tmp_path / name)
    return tmp_path


def test_pairs_of_a_series(folder):
    found = read(folder, SIZE, 0, SETTINGS)
    pairs = found.pairs
    assert found.channels == ("moment 1", "moment 2", "moment 3", "moment 4") and found.quarantine.empty
    assert pairs.sources.shape[1:] == (4, SIZE, SIZE) and pairs.targets.shape == pairs.lesions.shape
    assert set(pairs.part) == {"train", "val", "test"} and set(pairs.kinds) == {"", "infarct"}
    assert ((pairs.kinds == "infarct") == pairs.lesions.any(axis=(1, 2))).all()
    ill = pairs.lesions.any(axis=(1, 2))
    whole = ~pairs.lesions[ill] & (pairs.targets[ill] > 0)
    assert pairs.targets[ill][pairs.lesions[ill]].mean() > 2 * pairs.targets[ill][whole].mean()  # bright on DWI
    middle = pairs.sources[ill][:, 1]  # in the middle of the bolus healthy tissue enhances, the infarct does not
    assert middle[whole].mean() > middle[pairs.lesions[ill]].mean() + 20


def test_slices_lie_as_radiologists_look(folder):
    pairs = read(folder, SIZE, 0, SETTINGS).pairs
    row, column = np.argwhere(pairs.lesions.any(axis=0)).mean(axis=0)
    # The lesion lies 30 mm to the right and 10 mm to the front, pixels are 5 mm: left of the middle and above it, turned by 0.2 with the scan.
    right, front = 30 * np.cos(0.2) + 10 * np.sin(0.2), 10 * np.cos(0.2) - 30 * np.sin(0.2)
    assert column == pytest.approx(15.5 - right / 5, abs=0.7)
    assert row == pytest.approx(15.5 - front / 5, abs=0.7)


def test_adc_comes_in_any_of_its_units(folder):
    once = of_patient(folder / "a", ("ctp",), SIZE, replace(SETTINGS, target="adc"))[1]
    volume = nibabel.load(folder / "a" / "adc.nii.gz")
    put(folder / "a", "adc", np.asarray(volume.dataobj) * 1e6, volume.affine)
    again = of_patient(folder / "a", ("ctp",), SIZE, replace(SETTINGS, target="adc"))[1]
    assert np.abs(once.astype(int) - again).max() <= 1
    assert np.median(once[once > 0]) == pytest.approx(255 * 800 / 2000, abs=1)
    put(folder / "a", "adc", np.asarray(volume.dataobj) * 40, volume.affine)
    with pytest.raises(StudyError, match="no unit of ADC"):
        of_patient(folder / "a", ("ctp",), SIZE, replace(SETTINGS, target="adc"))


def test_resampling_follows_the_affines():
    """A linear ramp in millimetres stays one under any turn and shift, up to the volume's ends."""
    shape, placed = (30, 28, 26), affine((2, 2.5, 3), (30, 28, 26), turn=0.5, shift=(4, -3, 2))
    at = placed[:3, :3] @ np.indices(shape).reshape(3, -1) + placed[:3, 3:]
    ramp = (np.array([1.0, -2.0, 0.5]) @ at).reshape(shape)
    grid = Grid(affine((1.5, 1.5, 2), (8, 9, 7), turn=-0.3, shift=(6, 0, 0)), (8, 9, 7))
    found, inside = resample(ramp, placed, grid)
    at = grid.affine[:3, :3] @ np.indices(grid.shape).reshape(3, -1) + grid.affine[:3, 3:]
    assert inside.all() and np.abs(found.ravel() - np.array([1.0, -2.0, 0.5]) @ at).max() < 1e-3


def test_a_finer_volume_is_averaged_and_not_picked_from():
    noise = np.random.default_rng(0).normal(size=(60, 60, 10))
    grid = Grid(affine((4, 4, 1), (12, 12, 10)), (12, 12, 10))
    assert resample(noise, affine((1, 1, 1), (60, 60, 10)), grid)[0].std() < 0.4


def test_what_lies_beyond_the_volume_is_known():
    grid = Grid(affine((1, 1, 1), (10, 10, 1)), (10, 10, 1))
    values, inside = resample(np.ones((10, 10, 1)), affine((1, 1, 1), (10, 10, 1), shift=(5, 0, 0)), grid)
    assert inside.sum() == 50 and values.sum() == 50
    with pytest.raises(StudyError, match="do not overlap"):
        resample(np.ones((10, 10, 1)), affine((1, 1, 1), (10, 10, 1), shift=(50, 0, 0)), grid)


def test_grid_is_centred_on_the_scan():
    volume = nibabel.Nifti1Image(np.zeros((20, 24, 6), np.float32), affine((3, 3, 5), (20, 24, 6), shift=(1, 2, 3)))
    grid = slices(volume, 16, 80)
    middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    assert grid.shape == (16, 16, 6) and middle == pytest.approx([1, 2, 3])
    assert np.linalg.norm(grid.affine[:3, :3], axis=0) == pytest.approx([5, 5, 5])


def test_bolus_by_hand():
    curve = np.array([10, 10, 10, 10, 20, 60, 110, 60, 20, 12, 10.0])
    # Enhancement 0 0 0 0 10 50 100 50 10 2 0, a tenth of the peak is 10: below it up to frame 3 and from frame 9.
    assert bolus(curve, 4, 0.1) == pytest.approx([3, 5, 7, 9])
    with pytest.raises(StudyError, match="no bolus"):
        bolus(np.ones(10), 4, 0.1)


def test_brain_survives_a_bright_infarct():
    placed = affine((4, 4, 8), (44, 48, 10))
    inside, lesion = head((44, 48, 10), placed)
    noise = np.random.default_rng(0).random(inside.shape)
    assert (brain_of(100.0 * inside + 900 * lesion + noise) == inside).mean() > 0.995
    assert not brain_of(np.zeros((4, 4, 2))).any()


def test_maps_that_all_patients_have(tmp_path):
    for name, maps in (("a", ("cbf", "tmax", "mtt")), ("b", ("cbf", "tmax")), ("c", ("tmax", "cbf", "cbv"))):
        write_patient(tmp_path / name, maps, series=False)
    found = read(tmp_path, SIZE, 0, SETTINGS)
    assert found.channels == ("cbf", "tmax") and found.pairs.sources.shape[1] == 2


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("missing", "lesion.nii.gz is missing"),
        ("truncated", "ctp.nii.gz breaks off|ctp.nii.gz is no NIfTI"),
        ("nan", "dwi.nii.gz holds 5 values"),
        ("apart", "ctp.nii.gz and dwi.nii.gz: two volumes do not overlap"),
        ("grey mask", "not binary"),
        ("four", "dwi.nii.gz has 4 dimensions"),
        ("header", "is no NIfTI volume"),
    ],
)
def test_a_bad_patient_is_left_out(folder, damage, sentence):
    bad = folder / "b"
    volume = nibabel.load(bad / "dwi.nii.gz")
    values = np.array(volume.dataobj)
    if damage == "missing":
        (bad / "lesion.nii.gz").unlink()
    elif damage == "truncated":
        raw = gzip.decompress((bad / "ctp.nii.gz").read_bytes())
        (bad / "ctp.nii.gz").write_bytes(gzip.compress(raw[: len(raw) // 2]))
    elif damage == "nan":
        values[0, 0, :5] = np.nan
        put(bad, "dwi", values, volume.affine)
    elif damage == "apart":
        series = nibabel.load(bad / "ctp.nii.gz")
        put(bad, "ctp", np.asarray(series.dataobj), series.affine + np.array([[0, 0, 0, 900.0]] + [[0] * 4] * 3))
    elif damage == "grey mask":
        put(bad, "lesion", np.linspace(0, 1, values.size).reshape(values.shape), volume.affine)
    elif damage == "four":
        put(bad, "dwi", np.stack([values, values], -1), volume.affine)
    else:
        (bad / "dwi.nii.gz").write_bytes(b"not a volume")
    found = read(folder, SIZE, 0, SETTINGS)
    assert found.quarantine["patient"].tolist() == ["b"] and len(set(found.pairs.patients)) == 3
    with pytest.raises(StudyError, match=sentence):
        of_patient(bad, ("ctp",), SIZE, SETTINGS)


def test_too_few_patients_and_no_folder(folder):
    for name in "cd":
        (folder / name / "dwi.nii.gz").unlink()
    with pytest.raises(StudyError, match=r"2 patients can be used, and 3 are needed .*dwi.nii.gz is missing"):
        read(folder, SIZE, 0, SETTINGS)
    with pytest.raises(StudyError, match="not a folder"):
        read(folder / "absent", SIZE, 0, SETTINGS)
    with pytest.raises(StudyError, match="no perfusion"):
        source_files([])
    with pytest.raises(StudyError, match="dwi or adc"):
        read(folder, SIZE, 0, replace(SETTINGS, target="flair"))


def test_split_is_by_patient_and_seeded():
    names = [f"p{n}" for n in range(10)]
    part = split(names, SETTINGS, 1)
    assert part == split(names[::-1], SETTINGS, 1) and part != split(names, SETTINGS, 2)
    assert sorted(part.values()) == ["test"] * 2 + ["train"] * 7 + ["val"]
    assert sorted(split(names[:3], SETTINGS, 1).values()) == ["test", "train", "val"]


def test_the_schema_names_every_file():
    text = (PROJECT / "data_manifests" / "schemas" / "ct_perfusion.md").read_text()
    assert all(f"{name}.nii.gz" in text for name in ("ctp", *ct_perfusion.MAPS, *ct_perfusion.TARGETS, "lesion"))
