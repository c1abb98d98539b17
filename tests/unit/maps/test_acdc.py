"""The ACDC loader on volumes made here: geometry and greys by hand, the split, and every fault with its sentence."""

import gzip

import nibabel
import numpy as np
import pytest

from dsa_lib.maps import acdc
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Acdc

SETTINGS = Acdc(field_mm=64.0, percentiles=(0.0, 100.0))


def heart(shape=(40, 48, 3)):
    """A left ventricle in its myocardium, the right one at lower x; the last slice has no label."""
    x, y, _ = np.indices(shape)
    radius = np.hypot(x - (shape[0] - 1) / 2, y - (shape[1] - 1) / 2)
    labels = np.where(radius < 5, 3, np.where(radius < 8, 2, 0))
    labels[(x >= 6) & (x < 11) & (np.abs(y - 24) < 5)] = 1
    labels[..., -1] = 0
    image = 100.0 + 50 * labels
    image[0, 0] = 0
    return image.astype(np.float32), labels.astype(np.uint8)


def write(folder, name, home="training", zooms=(1.5, 1.5, 8.0), image=None, labels=None, frames=(1, 9), end=".nii.gz"):
    path = folder / home / name
    path.mkdir(parents=True)
    (path / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nNbFrame: 30\n")
    own = heart()
    for number in frames:
        for suffix, values in (("", own[0] if image is None else image), ("_gt", own[1] if labels is None else labels)):
            volume = nibabel.Nifti1Image(values, np.diag([*zooms, 1.0]))
            nibabel.save(volume, path / f"{name}_frame{number:02d}{suffix}{end}")
    return path


@pytest.fixture
def folder(tmp_path):
    for n in range(1, 7):
        write(tmp_path, f"patient{n:03d}")
    for n in (101, 102):
        write(tmp_path, f"patient{n}", "testing")
    return tmp_path


def test_slices_labels_and_parts(folder):
    data, quarantine = acdc.read(folder, 32, 5, SETTINGS)
    assert data.frames.shape == data.labels.shape == (8 * 2 * 2, 32, 32) and len(quarantine) == 0
    assert data.classes == acdc.CLASSES and set(np.unique(data.labels)) == {0, 1, 2, 3}
    assert {name for name in data.patients[data.part == "test"]} == {"patient101", "patient102"}
    assert len(set(data.patients[data.part == "val"])) == 1 and len(set(data.patients[data.part == "train"])) == 5
    again, _ = acdc.read(folder, 32, 5, SETTINGS)
    assert np.array_equal(again.part, data.part) and np.array_equal(again.frames, data.frames)
    assert any((acdc.read(folder, 32, s, SETTINGS)[0].part != data.part).any() for s in range(6, 12))


def test_without_testing_labels_training_is_divided_in_three(folder):
    for path in (folder / "testing").glob("*/*_gt.nii.gz"):
        path.unlink()
    data, quarantine = acdc.read(folder, 32, 5, SETTINGS)
    assert list(quarantine["patient"]) == ["patient101", "patient102"]
    assert "patient101_frame01_gt.nii.gz is missing" in quarantine["reason"][0]
    assert {p: len(set(data.patients[data.part == p])) for p in ("train", "val", "test")} == {
        "train": 4,
        "val": 1,
        "test": 1,
    }


def test_the_patients_folder_itself_and_unpacked_files_will_do(tmp_path):
    for n in range(4):
        write(tmp_path, f"patient{n:03d}", "training", end=".nii")
    data, _ = acdc.read(tmp_path / "training", 32, 0, SETTINGS)
    assert len(set(data.patients)) == 4


def test_geometry_by_hand(tmp_path):
    """Pixels of 2 mm become pixels of 2 mm: nothing but the cut about the middle and the exchange of axes."""
    image, labels = heart()
    write(tmp_path, "patient001", zooms=(2.0, 2.0, 8.0), image=image, labels=labels)
    frames, maps = acdc.of_patient(tmp_path / "training" / "patient001", 32, SETTINGS)
    assert np.array_equal(maps[0], labels[4:36, 8:40, 0].T)
    assert np.array_equal(frames[0], np.rint(255 * image[4:36, 8:40, 0].T / 250).astype(np.uint8))


def test_unlike_pixel_sizes_give_one_scale(tmp_path):
    """A ventricle of radius 5 pixels of 1.5 mm is as large as one of 1 mm pixels is small; beyond the image all is black."""
    write(tmp_path, "patient001", zooms=(1.5, 1.5, 8.0))
    write(tmp_path, "patient002", zooms=(0.75, 1.5, 8.0))
    areas = {}
    for name in ("patient001", "patient002"):
        frames, maps = acdc.of_patient(tmp_path / "training" / name, 64, SETTINGS)
        areas[name] = (maps[0] == 3).sum()
    assert areas["patient001"] == pytest.approx(np.pi * (5 * 1.5) ** 2, rel=0.1)
    assert areas["patient002"] == pytest.approx(areas["patient001"] / 2, rel=0.1)
    outside = frames[0][:, [0, 1, -2, -1]]  # x: 40 pixels of 0.75 mm are 30 mm of 64
    assert (outside == 0).all() and frames[0][:, 20:44].min() > 0


def damage(folder, kind):
    path = folder / "training" / "patient003"
    image, truth = path / "patient003_frame01.nii.gz", path / "patient003_frame09_gt.nii.gz"
    values = heart()[1]
    if kind == "truncated":
        image.write_bytes(image.read_bytes()[:-200])
    elif kind == "no volume":
        image.write_bytes(gzip.compress(b"nothing"))
    elif kind == "missing truth":
        truth.unlink()
    elif kind == "shape":
        nibabel.save(nibabel.Nifti1Image(values[:-1], np.eye(4)), truth)
    elif kind == "label":
        values[0, 0, 0] = 4
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), truth)
    elif kind == "fraction":
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32) / 2, np.eye(4)), truth)
    elif kind == "not finite":
        nibabel.save(nibabel.Nifti1Image(np.full(values.shape, np.nan, np.float32), np.eye(4)), image)
    elif kind == "four dimensions":
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2, 2), np.float32), np.eye(4)), image)
    elif kind == "no label":
        for each in path.glob("*_gt.nii.gz"):
            nibabel.save(nibabel.Nifti1Image(0 * values, np.eye(4)), each)
    elif kind == "no info":
        (path / "Info.cfg").unlink()
    elif kind == "no phase":
        (path / "Info.cfg").write_text("ED: 1\n")


@pytest.mark.parametrize(
    "kind, says",
    [
        ("truncated", "breaks off"),
        ("no volume", "no NIfTI volume"),
        ("missing truth", "frame09_gt.nii.gz is missing"),
        ("shape", "has shape"),
        ("label", "holds the label 4"),
        ("fraction", "holds the label 0.5"),
        ("not finite", "no finite numbers"),
        ("four dimensions", "a volume of slices is needed"),
        ("no label", "no slice has a label"),
        ("no info", "Info.cfg is missing"),
        ("no phase", "names no frame ES"),
    ],
)
def test_a_bad_patient_is_listed_and_the_rest_goes_on(folder, kind, says):
    damage(folder, kind)
    data, quarantine = acdc.read(folder, 32, 5, SETTINGS)
    assert len(set(data.patients)) == 7 and list(quarantine["patient"]) == ["patient003"]
    assert says in quarantine["reason"][0]


def test_faults_of_the_folder(tmp_path):
    with pytest.raises(StudyError, match="names no folder of the ACDC challenge"):
        acdc.read(tmp_path / "absent", 32, 0, SETTINGS)
    write(tmp_path, "patient001")
    write(tmp_path, "patient002", frames=(2, 9))
    (tmp_path / "training" / "patient002" / "Info.cfg").unlink()
    with pytest.raises(StudyError, match=r"1 patients .* 3 are needed .* Info.cfg is missing"):
        acdc.read(tmp_path, 32, 0, SETTINGS)
    write(tmp_path, "patient001", "testing")
    with pytest.raises(StudyError, match="patient001 lies in training/ and in testing/"):
        acdc.read(tmp_path, 32, 0, SETTINGS)
