"""Subtraction, window, shutter and transfer syntaxes against hand-worked arrays and a plain NumPy reference."""

import math

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)
from xa_maker import avg_sub, item, make_xa, mask_module

from dsa_lib.dicom import series as dicom_series
from dsa_lib.dicom import tags as dicom_tags

GREY, STEP = 162, 0.008


def run(path, size=8):
    return dicom_series.subtracted_run(path, dicom_series.read_acquisition(path), size, GREY, STEP)


def flat(*values, side=8, dtype=np.uint16):
    """One constant frame a value."""
    return np.stack([np.full((side, side), value, dtype) for value in values])


def test_linear_run_is_logged_before_subtraction(tmp_path):
    frames = flat(2000, 2000, 2000)
    frames[2, 3, 4] = 1000  # half the intensity: contrast ln 2 = 0.6931, 86.6 grey levels
    make_xa(tmp_path / "a", frames)
    result = run(tmp_path / "a")
    assert result.frames.dtype == np.uint8
    assert result.frames[2, 3, 4] == round(162 - math.log(2) / 0.008) == 75
    assert np.delete(result.frames[2].ravel(), 3 * 8 + 4).tolist() == [162] * 63
    assert result.window["mask_source"] == "mask module"
    assert result.window["mask_frames"] == "1"


def test_against_plain_numpy(tmp_path):
    rng = np.random.default_rng(3)
    frames = rng.integers(200, 4000, (5, 8, 8), dtype=np.uint16)
    make_xa(tmp_path / "a", frames, MaskSubtractionSequence=mask_module(avg_sub(1, 2, 4)))
    log = np.log(frames.astype(np.float64))
    contrast = log[[0, 1, 3]].mean(0) - log
    expected = np.clip(np.rint(162 - contrast / 0.008), 0, 255)
    assert np.abs(run(tmp_path / "a").frames - expected).max() <= 1
    assert (run(tmp_path / "a").frames == expected).mean() > 0.99  # float32 may round a tie the other way


def test_log_run_is_subtracted_directly(tmp_path):
    frames = flat(3000, 2900)
    make_xa(tmp_path / "a", frames, PixelIntensityRelationship="LOG")
    step = math.log(4096) / 4095
    result = run(tmp_path / "a")
    assert result.frames[1, 0, 0] == round(162 - 100 * step / 0.008)
    assert result.window["value_mapping"] == f"v * {step:.6g}; step assumed"  # nothing in the header says it


@pytest.mark.parametrize("darkest", [1, 0])
def test_log_step_comes_from_the_modality_lut(tmp_path, darkest):
    table = np.rint(np.exp(np.arange(4096) * 0.0025)).clip(1, 65535).astype("<u2")
    table[:16] = darkest  # tables often begin with zeros
    lut = item(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US", LUTData=table.tobytes())
    make_xa(tmp_path / "a", flat(3000, 2900), PixelIntensityRelationship="LOG", ModalityLUTSequence=Sequence([lut]))
    result = run(tmp_path / "a")
    assert result.window["log_per_value"] == pytest.approx(0.0025, rel=0.02)
    assert "assumed" not in result.window["value_mapping"]
    assert abs(int(result.frames[1, 0, 0]) - (162 - 100 * 0.0025 / 0.008)) <= 1


@pytest.mark.parametrize(
    ("stored", "elements"),
    [
        ([160, 80], {}),
        ([95, 175], {"PhotometricInterpretation": "MONOCHROME1"}),  # 255 − value is what is shown
        ([95, 175], {}),  # white vessels
    ],
)
def test_stored_subtracted_run_keeps_its_greys(tmp_path, stored, elements):
    background, vessel = stored
    frames = flat(background, background, background, side=8, dtype=np.uint8)
    frames[2, 2:4, 2:4] = vessel
    make_xa(tmp_path / "a", frames, bits=8, PixelIntensityRelationship="DISP", MaskSubtractionSequence=None, **elements)
    result = run(tmp_path / "a")
    assert np.unique(result.frames[:2]).tolist() == [162]
    assert np.unique(result.frames[2]).tolist() == [81, 162]  # 80/160 of the way from black to background
    assert result.window["mask_source"] == "stored subtracted"


def test_display_window_applies_to_more_than_8_bits(tmp_path):
    frames = flat(2048, 2048)
    frames[1, 0, 0] = 1798  # half way from background to the lower edge of the window
    make_xa(
        tmp_path / "a",
        frames,
        PixelIntensityRelationship="DISP",
        MaskSubtractionSequence=None,
        WindowCenter="2048.5",
        WindowWidth="1001",
    )
    assert run(tmp_path / "a").frames[1, 0, 0] == 81


def test_each_mask_serves_its_frame_range(tmp_path):
    masks = mask_module(avg_sub(1, ApplicableFrameRange=[1, 2]), avg_sub(3, ApplicableFrameRange=[3, 4]))
    make_xa(tmp_path / "a", flat(2000, 1500, 1200, 1200), MaskSubtractionSequence=masks)
    frames = run(tmp_path / "a").frames[:, 0, 0]
    assert frames.tolist() == [162, round(162 - math.log(2000 / 1500) / 0.008), 162, 162]


def test_mask_shift_moves_the_mask_down_and_right(tmp_path):
    frames = flat(2000, 2000)
    frames[0, 2, 2] = 1000
    frames[1, 3, 4] = 1000  # the same structure after the patient moved by one row and two columns
    masks = mask_module(avg_sub(1, MaskSubPixelShift=[1.0, 2.0]))
    make_xa(tmp_path / "a", frames, MaskSubtractionSequence=masks)
    assert np.unique(run(tmp_path / "a").frames[1]).tolist() == [162]


def test_without_mask_module_the_brightest_early_frame_is_the_mask(tmp_path):
    values = [1900, 2000, 1950, 1900, 1800, 1500, 2500, 1500, 1500]
    make_xa(tmp_path / "a", flat(*values), MaskSubtractionSequence=None)
    result = run(tmp_path / "a")
    assert result.window["mask_source"] == "chosen from the first frames"
    assert result.window["mask_frames"] == "2"
    assert result.frames[1, 0, 0] == 162
    assert result.frames[5, 0, 0] == round(162 - math.log(2000 / 1500) / 0.008)


def test_signed_and_inverted_linear_values(tmp_path):
    make_xa(tmp_path / "signed", flat(1000, 500, dtype=np.int16))
    make_xa(tmp_path / "inverted", flat(4095 - 1000, 4095 - 500), PixelIntensityRelationshipSign=-1)
    expected = round(162 - math.log(2) / 0.008)
    assert run(tmp_path / "signed").frames[1, 0, 0] == expected
    assert run(tmp_path / "inverted").frames[1, 0, 0] == expected


def test_overlay_bits_above_the_stored_bits_are_ignored(tmp_path):
    frames = flat(1000, 500)
    frames[1] |= 0x8000
    make_xa(tmp_path / "a", frames)
    assert run(tmp_path / "a").frames[1, 0, 0] == round(162 - math.log(2) / 0.008)


def test_file_without_preamble_is_read(tmp_path):
    make_xa(tmp_path / "a", flat(2000, 1000), syntax=ImplicitVRLittleEndian)
    from pydicom import dcmread

    dataset = dcmread(tmp_path / "a")
    del dataset.file_meta
    dataset.save_as(tmp_path / "bare", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert run(tmp_path / "bare").frames[1, 0, 0] == 75


def test_rectangular_shutter_crops_and_squares_without_stretching(tmp_path):
    frames = flat(2000, 2000, side=16)
    frames[:, :, :4] = frames[:, :, 12:] = 7  # shuttered columns
    frames[1, 0, 5] = 1000
    shutter = {
        "ShutterShape": "RECTANGULAR",
        "ShutterLeftVerticalEdge": 5,
        "ShutterRightVerticalEdge": 12,
        "ShutterUpperHorizontalEdge": 1,
        "ShutterLowerHorizontalEdge": 16,
    }
    make_xa(tmp_path / "a", frames, **shutter)
    result = run(tmp_path / "a", size=16).frames
    assert result[1, 0, 4 + 1] == 75  # 8 open columns, centred: 4 of background at each side
    assert (result[1] == 162).sum() == 16 * 16 - 1


def test_circular_and_polygonal_shutters():
    circle = item(ShutterShape="CIRCULAR", CenterOfCircularShutter=[5, 5], RadiusOfCircularShutter=2)
    rows, columns, inside = dicom_tags.shutter(circle, (10, 10))
    assert (rows, columns) == (slice(2, 7), slice(2, 7))
    assert inside.astype(int).tolist() == [
        [0, 0, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 0, 0],
    ]
    polygon = item(ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=[1, 1, 1, 4, 4, 4, 4, 1])
    assert dicom_tags.shutter(polygon, (8, 8))[2].tolist() == np.ones((4, 4), bool).tolist()


def test_outside_a_circular_shutter_a_stored_run_shows_background(tmp_path):
    frames = np.full((2, 16, 16), 160, np.uint8)
    row, column = np.ogrid[1:17, 1:17]
    frames[:, (row - 8) ** 2 + (column - 8) ** 2 > 36] = 0
    circle = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [8, 8], "RadiusOfCircularShutter": 6}
    make_xa(tmp_path / "a", frames, bits=8, PixelIntensityRelationship="DISP", MaskSubtractionSequence=None, **circle)
    assert np.unique(run(tmp_path / "a", size=13).frames).tolist() == [162]


def test_reduction_is_antialiased(tmp_path):
    frames = flat(2000, 2000, side=64)
    frames[1, ::2] = 1000  # lines finer than the small image can show
    make_xa(tmp_path / "a", frames)
    small = run(tmp_path / "a", size=16).frames[1]
    assert np.abs(small[2:-2].astype(float) - (162 - math.log(2) / 0.016)).max() < 4


def test_angles_plane_and_times_from_the_header(tmp_path):
    elements = {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PositionerPrimaryAngle": "-89.6",
        "FrameTimeVector": [0, 500, 250],
    }
    make_xa(tmp_path / "a", flat(2, 2, 2), **elements)
    facts = dicom_series.read_acquisition(tmp_path / "a")
    assert (facts.plane, facts.plane_source, facts.primary_angle_deg) == ("B", "geometry", -89.6)
    assert facts.frame_times_s == (0.0, 0.5, 0.75)
    assert facts.age == 56
    make_xa(
        tmp_path / "b", flat(2, 2), FrameTime=None, PatientAge=None, PatientBirthDate="19600702", StudyDate="20200701"
    )
    facts = dicom_series.read_acquisition(tmp_path / "b")
    assert (facts.plane, facts.plane_source) == ("A", "ImageType")
    assert facts.frame_time_source == "assumed 3/s"
    assert facts.age == 59


@pytest.mark.parametrize(
    ("elements", "rotational"),
    [
        ({"PositionerMotion": "DYNAMIC"}, True),
        ({"PositionerMotion": None, "PositionerPrimaryAngleIncrement": [0, 1.5, 1.5]}, True),
        ({"PositionerMotion": "STATIC", "PositionerPrimaryAngleIncrement": [0, 0.1, 0.1]}, False),
        ({}, False),
    ],
)
def test_rotation_is_recognised(tmp_path, elements, rotational):
    make_xa(tmp_path / "a", flat(2, 2, 2), **elements)
    facts = dicom_series.read_acquisition(tmp_path / "a")
    assert facts.rotational is rotational
    assert facts.obstacle().startswith("rotational") is rotational


def test_functional_groups_of_enhanced_xa():
    def frame(angle):
        return item(
            PositionerPositionSequence=Sequence([item(PositionerPrimaryAngle=angle, PositionerSecondaryAngle=0)])
        )

    header = Dataset()
    header.PerFrameFunctionalGroupsSequence = Sequence([frame(-90), frame(-90)])
    assert float(dicom_tags.find(header, "PositionerPrimaryAngle")) == -90
    assert not dicom_tags.is_rotational(header)
    header.PerFrameFunctionalGroupsSequence = Sequence([frame(-90), frame(-80)])
    assert dicom_tags.is_rotational(header)


def write_text(path):
    path.write_text("patient list: Muster, Erika")


def write_truncated(path):
    make_xa(path, flat(2000, 1000, side=32))
    path.write_bytes(path.read_bytes()[:-1500])


def write_truncated_compressed(path):
    noise = np.random.default_rng(1).integers(0, 4095, (4, 64, 64), dtype=np.uint16)
    make_xa(path, noise, compress=JPEG2000Lossless)
    path.write_bytes(path.read_bytes()[:-4000])


def write_header_only(path):
    make_xa(path, flat(2000, 1000))
    path.write_bytes(path.read_bytes()[:400])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_text, "not a DICOM file"),
        (lambda path: path.write_bytes(b""), "not a DICOM file"),
        (lambda path: path.write_bytes(bytes(range(256)) * 20), "not a DICOM file"),
        (write_truncated, "the pixel data cannot be decoded"),
        (write_truncated_compressed, "the pixel data cannot be decoded|fewer frames are present"),
        (write_header_only, "missing|damaged|not an X-ray"),
        (lambda p: make_xa(p, flat(2), SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), "not an X-ray angiography image"),
        (lambda p: make_xa(p, flat(2, 2), HighBit=15), "obsolete bit layout"),
        (lambda p: make_xa(p, flat(2, 2), Rows=60000), "impossible dimensions"),
        (lambda p: make_xa(p, flat(2, 2), NumberOfFrames=9), "the pixel data cannot be decoded|frames are present"),
        (lambda p: make_xa(p, flat(2, 2), PatientID=None), "PatientID is missing"),
        (lambda p: make_xa(p, flat(2, 2), MaskSubtractionSequence=mask_module(avg_sub(9))), "frames that do not exist"),
        (lambda p: make_xa(p, flat(2, 2), PhotometricInterpretation="PALETTE COLOR"), "unknown photometric interpretation"),
        (lambda p: make_xa(p, flat(2, 2), ShutterShape="CIRCULAR", CenterOfCircularShutter=[90, 90], RadiusOfCircularShutter=2), "shutter"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(tmp_path, write, reason):
    path = tmp_path / "Muster_Erika.dcm"
    write(path)
    with pytest.raises(dicom_series.Unreadable, match=reason) as fault:
        run(path)
    assert fault.value.remedy
    assert "Muster" not in fault.value.reason + fault.value.remedy
