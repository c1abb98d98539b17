"""Exported frames are valid secondary captures that say they are synthetic, come back bit for bit, and are never curated as a patient's."""

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage, XRayAngiographicImageStorage
from xa_maker import make_xa

from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.curation.cohort import curate
from dsa_lib.dicom import series as dicom_series
from dsa_lib.dicom.tags import Unreadable
from dsa_lib.ldm import dicom_export
from dsa_lib.ldm.sampling import save_png, stratified_plan
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import Workspace

MODEL = "0123456789abcdef" * 4
# Attributes of the mandatory modules of Secondary Capture Image Storage (PS3.3 A.8.1.3) that must have a value (type 1), or be present (type 2 and 2C).
TYPE_1 = {
    "general study": ["StudyInstanceUID"],
    "general series": ["Modality", "SeriesInstanceUID"],
    "SC equipment": ["ConversionType"],
    "image pixel": ["SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
                    "PixelRepresentation", "PixelData"],
    "SOP common": ["SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet"],
    # of modules that are optional here but used
    "VOI LUT": ["WindowCenter", "WindowWidth"],
    "general image, where it is derived": ["ImageType", "LossyImageCompression"],
}  # fmt: skip
TYPE_2 = {
    "patient": ["PatientName", "PatientID", "PatientBirthDate", "PatientSex"],
    "general study": ["StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID"],
    "general series": ["SeriesNumber"],
    "general equipment": ["Manufacturer"],
    "general image": ["InstanceNumber", "PatientOrientation"],
}


def row(asked="AC B", seed=7, **other):
    plan = stratified_plan(0, 1).set_index("cell", drop=False)
    made = {"seed": seed, "model": MODEL, "scheduler": "DDPMScheduler", "steps": 1000, "guidance": 1.0}
    return plan.loc[asked].to_dict() | made | other


def frame(side=63):
    """An odd number of pixels: DICOM pads it to an even number of bytes."""
    return np.random.default_rng(0).integers(0, 256, (side, side)).astype(np.uint8)


@pytest.fixture
def written(tmp_path):
    dicom_export.write(tmp_path / "one.dcm", frame(), row())
    return pydicom.dcmread(tmp_path / "one.dcm")


def test_every_attribute_that_the_class_requires_is_there(written):
    assert written.SOPClassUID == written.file_meta.MediaStorageSOPClassUID == SecondaryCaptureImageStorage
    for module, names in TYPE_1.items():
        for name in names:
            assert written.get(name) not in (None, ""), f"{name} of {module}"
    for module, names in TYPE_2.items():
        for name in names:
            assert name in written, f"{name} of {module}"
    (maker,) = written.ContributingEquipmentSequence
    assert maker.Manufacturer and maker.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


def test_values_keep_to_their_representation(tmp_path):
    """With pydicom's own checks set to raise: lengths, characters and defined terms of each VR."""
    before = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.RAISE
    try:
        dicom_export.write(tmp_path / "one.dcm", frame(), row())
    finally:
        pydicom.config.settings.writing_validation_mode = before
    written = pydicom.dcmread(tmp_path / "one.dcm")
    assert all(
        len(text) <= 64 and text.startswith("2.25.") for text in (written.SOPInstanceUID, written.SeriesInstanceUID)
    )
    assert written.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


def test_pixels_come_back_bit_for_bit(written):
    assert np.array_equal(written.pixel_array, frame())
    assert (written.PhotometricInterpretation, written.BitsStored, written.LossyImageCompression) == (
        "MONOCHROME2",
        8,
        "00",
    )


def test_whatever_a_reader_looks_at_says_synthetic(written):
    assert written.SyntheticData == "YES" and written.ConversionType == "SYN" and written.Modality == "OT"
    assert list(written.ImageType) == ["DERIVED", "SECONDARY", "SYNTHETIC"]
    assert written.ContentQualification == "RESEARCH"
    shown = (
        "PatientName",
        "PatientID",
        "StudyDescription",
        "SeriesDescription",
        "ImageComments",
        "DerivationDescription",
    )
    assert all("SYNTHETIC" in str(written[name].value) for name in shown)
    assert written.BurnedInAnnotation == written.RecognizableVisualFeatures == "NO"


def test_there_is_no_patient(written):
    assert written.PatientBirthDate == written.PatientSex == written.StudyDate == written.AccessionNumber == ""
    assert "PatientAge" not in written and "InstitutionName" not in written


def test_the_file_tells_how_it_was_made(written):
    sentence = CANONICAL["AC B"].sentence()
    assert sentence in written.ImageComments and sentence in written.DerivationDescription
    for text in ("seed 7", "DDPMScheduler", "1000 steps", MODEL):
        assert text in written.DerivationDescription
    assert (written.PositionerPrimaryAngle, written.PositionerSecondaryAngle) == (-90, 0)
    assert written.SoftwareVersions == MODEL


def test_the_same_image_is_the_same_file_and_another_one_another_instance(tmp_path):
    first, second = dicom_export.dataset(frame(), row()), dicom_export.dataset(frame(), row(seed=8))
    assert first == dicom_export.dataset(frame(), row())
    assert first.SOPInstanceUID != second.SOPInstanceUID and first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != dicom_export.dataset(frame()[::-1].copy(), row()).SOPInstanceUID
    assert first.SeriesInstanceUID != dicom_export.dataset(frame(), row() | {"steps": 20}).SeriesInstanceUID
    for name in ("a.dcm", "b.dcm"):
        dicom_export.write(tmp_path / name, frame(), row())
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_a_set_is_exported_beside_its_images(tmp_path):
    manifest = stratified_plan(1, 1).assign(model=MODEL, scheduler="DDIMScheduler", steps=5, guidance=1.0)
    frames = [np.roll(frame(32), turn) for turn in range(4)]
    for name, image in zip(manifest["file"], frames, strict=True):
        save_png(tmp_path / name, image)
    folder = dicom_export.export(tmp_path, manifest)
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == [f"img{number:05d}.dcm" for number in range(4)]
    assert all(
        np.array_equal(pydicom.dcmread(path).pixel_array, image) for path, image in zip(files, frames, strict=True)
    )


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint16), np.zeros((2, 4, 4), np.uint8)])
def test_other_pixels_are_refused(wrong):
    with pytest.raises(StudyError, match="8-bit grey"):
        dicom_export.dataset(wrong, row())


@pytest.mark.parametrize(
    "mark",
    [{"SyntheticData": "YES"}, {"ConversionType": "SYN"}, {"ImageType": ["DERIVED", "SECONDARY", "SYNTHETIC"]}],
)
def test_a_mark_is_enough_even_in_an_angiogram(tmp_path, mark):
    frames = np.full((4, 16, 16), 900, np.uint16)
    plain = make_xa(tmp_path / "plain.dcm", frames)
    assert (
        plain.SOPClassUID == XRayAngiographicImageStorage
        and dicom_series.read_acquisition(tmp_path / "plain.dcm").frames == 4
    )
    make_xa(tmp_path / "marked.dcm", frames, **mark)
    with pytest.raises(Unreadable, match="marked as synthetic: it shows no patient"):
        dicom_series.read_acquisition(tmp_path / "marked.dcm")


def test_curation_never_takes_a_generated_frame_for_a_patients(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    archive = tmp_path / "archive"
    archive.mkdir()
    dicom_export.write(archive / "generated.dcm", frame(), row())
    with pytest.raises(StudyError, match="no series of the archive can be used"):
        curate(archive, Workspace("t"), Curation(image_size=32), seed=1, workers=1)
    quarantine = pd.read_csv(Workspace("t").path("quarantine.csv"))
    assert quarantine["reason"].tolist() == ["marked as synthetic: it shows no patient"]
