"""Enhanced XA: facts in shared and per-frame functional groups (PS3.3 A.47, C.7.6.16, C.8.19), and what classic XA has in their place."""

import math

import numpy as np
import pytest
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedXAImageStorage
from xa_maker import avg_sub, item, make_xa, mask_module

from dsa_lib.dicom import series as dicom_series
from dsa_lib.dicom import tags as dicom_tags

CLASSIC_ONLY = dict.fromkeys(
    [
        "PositionerMotion",
        "PositionerPrimaryAngle",
        "PositionerSecondaryAngle",
        "FrameTime",
        "PixelIntensityRelationship",
        "BodyPartExamined",
    ]
)


def groups(*items):
    return Sequence([*items])


def frame_group(n, primary=-90.0, secondary=2.0, **further):
    return item(
        PositionerPositionSequence=groups(item(PositionerPrimaryAngle=primary, PositionerSecondaryAngle=secondary)),
        FrameContentSequence=groups(item(FrameAcquisitionDateTime=f"20200131120000.{n:02d}0000")),
        **further,
    )


def shared_group(**further):
    return item(
        FramePixelDataPropertiesSequence=groups(
            item(PixelIntensityRelationship="LIN", PixelIntensityRelationshipSign=1)
        ),
        FrameAnatomySequence=groups(item(AnatomicRegionSequence=groups(item(CodeMeaning="Internal carotid artery")))),
        **further,
    )


def make_enhanced(path, frames, per_frame=None, shared=None, **elements):
    per_frame = per_frame or [frame_group(25 * n) for n in range(len(frames))]
    return make_xa(path, frames, **(CLASSIC_ONLY | {
        "SOPClassUID": EnhancedXAImageStorage, "ImageType": ["ORIGINAL", "PRIMARY", "", ""], "PlaneIdentification": "PLANE B", "SeriesDescription": "run 3",
        "SharedFunctionalGroupsSequence": groups(shared or shared_group()), "PerFrameFunctionalGroupsSequence": groups(*per_frame),
    } | elements))  # fmt: skip


def flat(*values, side=8):
    return np.stack([np.full((side, side), value, np.uint16) for value in values])


def run(path, size=8):
    return dicom_series.subtracted_run(path, dicom_series.read_acquisition(path), size, 162, 0.008)


def test_facts_come_from_the_groups(tmp_path):
    make_enhanced(tmp_path / "a", flat(2000, 1500, 1000))
    facts = dicom_series.read_acquisition(tmp_path / "a")
    assert (facts.plane, facts.plane_source) == ("B", "PlaneIdentification")
    assert (facts.primary_angle_deg, facts.secondary_angle_deg) == (-90.0, 2.0)
    assert facts.frame_times_s == (0.0, 0.25, 0.5)
    assert facts.frame_time_source == "FrameAcquisitionDateTime"
    assert facts.texts == ("run 3", "", "Internal carotid artery")
    assert facts.relationship == "LIN"
    assert facts.obstacle() == ""
    assert run(tmp_path / "a").frames[2, 0, 0] == 75


def test_isocentre_angles_serve_where_there_are_no_others(tmp_path):
    groups_ = [
        item(
            IsocenterReferenceSystemSequence=groups(
                item(PositionerIsocenterPrimaryAngle=1.0, PositionerIsocenterSecondaryAngle=-3.0)
            )
        )
        for _ in range(2)
    ]
    make_enhanced(tmp_path / "a", flat(2000, 1000), per_frame=groups_, PlaneIdentification="MONOPLANE")
    facts = dicom_series.read_acquisition(tmp_path / "a")
    assert (facts.plane, facts.plane_source) == ("A", "geometry")
    assert (facts.primary_angle_deg, facts.secondary_angle_deg) == (1.0, -3.0)


@pytest.mark.parametrize(("step", "rotational"), [(0.3, False), (2.0, True)])
def test_angles_that_change_over_the_frames_make_it_rotational(tmp_path, step, rotational):
    make_enhanced(tmp_path / "a", flat(2, 2, 2), per_frame=[frame_group(n, primary=-90 + step * n) for n in range(3)])
    assert dicom_series.read_acquisition(tmp_path / "a").rotational is rotational


@pytest.mark.parametrize(
    ("elements", "rotational"),
    [
        ({"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": [0, 5, 5]}, True),
        ({"PositionerMotion": "DYNAMIC", "PositionerSecondaryAngleIncrement": [0, 5, 5]}, True),
        ({"PositionerMotion": "DYNAMIC"}, True),  # said to turn, not how far
        (
            {"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": "0.9"},
            True,
        ),  # one step, from each frame to the next
        ({"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": [0, 9, -9]}, True),  # there and back
        ({"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": [0, 0, 0]}, False),
        (
            {"PositionerMotion": "STATIC", "PositionerPrimaryAngleIncrement": [0, 5, 5]},
            True,
        ),  # the increments say otherwise
    ],
)
def test_positioner_motion_and_increments(tmp_path, elements, rotational):
    make_xa(tmp_path / "a", flat(2, 2, 2), **elements)
    assert dicom_series.read_acquisition(tmp_path / "a").rotational is rotational


def test_a_moving_table_is_excluded(tmp_path):
    make_xa(tmp_path / "moves", flat(2, 2), TableMotion="DYNAMIC", TableLongitudinalIncrement=["0", "40"])
    make_xa(tmp_path / "still", flat(2, 2), TableMotion="STATIC")
    assert dicom_series.read_acquisition(tmp_path / "moves").obstacle().startswith("moving table")
    assert dicom_series.read_acquisition(tmp_path / "still").obstacle() == ""


def test_shutters_of_the_groups_intersect(tmp_path):
    shutter = item(
        ShutterShape="RECTANGULAR",
        ShutterLeftVerticalEdge=3,
        ShutterRightVerticalEdge=8,
        ShutterUpperHorizontalEdge=1,
        ShutterLowerHorizontalEdge=8,
    )
    collimator = item(
        CollimatorShape="RECTANGULAR",
        CollimatorLeftVerticalEdge=1,
        CollimatorRightVerticalEdge=6,
        CollimatorUpperHorizontalEdge=1,
        CollimatorLowerHorizontalEdge=8,
    )
    per_frame = [frame_group(n, FrameDisplayShutterSequence=groups(shutter)) for n in range(2)]
    header = make_enhanced(
        tmp_path / "a", flat(2, 2), per_frame=per_frame, shared=shared_group(CollimatorShapeSequence=groups(collimator))
    )
    rows, columns, inside = dicom_tags.shutter(header, (8, 8))
    assert (rows, columns) == (slice(0, 8), slice(2, 6))
    assert inside.all()


def test_log_step_of_the_pixel_intensity_relationship_lut(tmp_path):
    table = np.rint(np.exp(np.arange(4096) * 0.0025)).clip(1, 65535).astype("<u2").tobytes()
    lut = item(LUTDescriptor=[4096, 0, 16], LUTFunction="TO_LINEAR", LUTData=table)
    shared = item(
        FramePixelDataPropertiesSequence=groups(item(PixelIntensityRelationship="LOG")),
        PixelIntensityRelationshipLUTSequence=groups(lut),
    )
    make_enhanced(tmp_path / "a", flat(3000, 2900), shared=shared)
    result = run(tmp_path / "a")
    assert result.window["log_per_value"] == pytest.approx(0.0025, rel=0.02)
    assert abs(int(result.frames[1, 0, 0]) - (162 - 100 * 0.0025 / 0.008)) <= 1


# --- what a stored value means (classic XA) ----------------------------------------------------------------------------------------------------


def display(path, values, **elements):
    """Display values in [0, 1] of a subtracted DISP run, straight from its table."""
    header = make_xa(
        path, flat(*values), **({"PixelIntensityRelationship": "DISP", "MaskSubtractionSequence": None} | elements)
    )
    from dsa_lib.dicom.values import value_table

    header.set_original_encoding(False, True)
    return value_table(header, "DISP"), list(values)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, [0.0, 2048 / 4095, 1.0]),
        # LINEAR: y = ((x − (c − 0.5)) / (w − 1) + 0.5), PS3.3 C.11.2.1.2.1
        ({"WindowCenter": "2048", "WindowWidth": "2049"}, [0.0, (2048 - 2047.5) / 2048 + 0.5, 1.0]),
        # LINEAR_EXACT: y = (x − c) / w + 0.5, PS3.3 C.11.2.1.3.2
        ({"WindowCenter": "2048", "WindowWidth": "8000", "VOILUTFunction": "LINEAR_EXACT"}, [-2048 / 8000 + 0.5, 0.5, 2047 / 8000 + 0.5]),
        # SIGMOID: y = 1 / (1 + exp(−4 (x − c) / w)), PS3.3 C.11.2.1.3.1
        ({"WindowCenter": "2048", "WindowWidth": "4000", "VOILUTFunction": "SIGMOID"},
         [1 / (1 + math.exp(4 * 2048 / 4000)), 0.5, 1 / (1 + math.exp(-4 * 2047 / 4000))]),
        ({"PhotometricInterpretation": "MONOCHROME1"}, [1.0, 2047 / 4095, 0.0]),
        # The Modality LUT leads back to linear and is not applied.
        ({"RescaleSlope": "3", "RescaleIntercept": "-50"}, [0.0, 2048 / 4095, 1.0]),
    ],
)  # fmt: skip
def test_display_values(tmp_path, elements, expected):
    table, values = display(tmp_path / "a", [0, 2048, 4095], **elements)
    assert table.table[values] == pytest.approx(expected, abs=2e-4)
    assert table.mapping


def test_voi_lut_of_a_display_run(tmp_path):
    lut = item(LUTDescriptor=[256, 1000, 8], LUTData=np.arange(255, -1, -1).astype("<u2").tobytes())
    table, values = display(tmp_path / "a", [0, 1000, 1051, 4095], VOILUTSequence=Sequence([lut]))
    assert table.table[values] == pytest.approx([1.0, 1.0, 204 / 255, 0.0])


def test_rescale_comes_before_the_logarithm(tmp_path):
    make_xa(tmp_path / "a", flat(1000, 450), RescaleSlope="2", RescaleIntercept="100")
    assert run(tmp_path / "a").frames[1, 0, 0] == round(162 - math.log(2100 / 1000) / 0.008)
    make_xa(
        tmp_path / "log", flat(1000, 900), RescaleSlope="2", RescaleIntercept="100", PixelIntensityRelationship="LOG"
    )
    assert run(tmp_path / "log").frames[1, 0, 0] == round(162 - 100 * math.log(4096) / 4095 / 0.008)  # not applied


def test_modality_lut_of_a_linear_run(tmp_path):
    lut = item(
        LUTDescriptor=[4096, 0, 16], ModalityLUTType="US", LUTData=(10 * np.arange(4096)).astype("<u2").tobytes()
    )
    make_xa(tmp_path / "a", flat(2000, 1000), ModalityLUTSequence=Sequence([lut]))
    result = run(tmp_path / "a")
    assert result.frames[1, 0, 0] == 75
    assert result.window["value_mapping"] == "ln(Modality LUT of v)"


def test_the_record_says_how_values_were_mapped(tmp_path):
    make_xa(tmp_path / "a", flat(2000, 1000), MaskSubtractionSequence=mask_module(avg_sub(1)))
    assert run(tmp_path / "a").window["value_mapping"] == "ln(v)"
    make_xa(tmp_path / "b", flat(2000, 1000), PixelIntensityRelationshipSign=-1)
    assert run(tmp_path / "b").window["value_mapping"] == "ln((4095 - v))"


def test_a_relationship_that_is_not_stated_is_recorded_as_assumed(tmp_path):
    make_xa(tmp_path / "a", flat(2000, 1000), PixelIntensityRelationship="OTHER")
    assert run(tmp_path / "a").window["value_mapping"] == "ln(v); relationship assumed"
    make_xa(
        tmp_path / "b",
        flat(160, 160),
        PixelIntensityRelationship=None,
        ImageType="DERIVED",
        MaskSubtractionSequence=None,
    )
    assert dicom_series.read_acquisition(tmp_path / "b").relationship == "DISP"
    make_enhanced(tmp_path / "c", flat(160, 160), shared=shared_group(), ImageProcessingApplied="DIGITAL_SUBTR")
    assert dicom_series.read_acquisition(tmp_path / "c").relationship == "DISP"
