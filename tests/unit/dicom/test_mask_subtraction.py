"""The Mask Module against hand-worked pairings and arrays (PS3.3 C.7.6.10), and the choice of a mask where there is none."""

import math

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from xa_maker import avg_sub, item, make_xa, mask_module

from dsa_lib.dicom import mask_subtraction
from dsa_lib.dicom import series as dicom_series

GREY, STEP = 162, 0.008


def pairs(*items, frames=6, **elements):
    """{frame: (contrast frames, mask frames)}, numbers from 1 as in the header."""
    header = Dataset()
    header.MaskSubtractionSequence = mask_module(*items)
    for name, value in elements.items():
        setattr(header, name, value)
    found = mask_subtraction.pairings(header, frames)
    if found is None:
        return None
    return {n + 1: ([c + 1 for c in p.contrast], [m + 1 for m in p.mask]) for n, p in found.items()}


def run(path, size=8):
    return dicom_series.subtracted_run(path, dicom_series.read_acquisition(path), size, GREY, STEP)


def flat(*values, side=8):
    return np.stack([np.full((side, side), value, np.uint16) for value in values])


def tid(operation="TID", **elements):
    return item(MaskOperation=operation, **elements)


def test_average_subtraction_serves_all_frames_without_a_range():
    assert pairs(avg_sub(1, 2), frames=3) == {1: ([1], [1, 2]), 2: ([2], [1, 2]), 3: ([3], [1, 2])}


def test_frames_outside_every_range_are_not_subtracted():
    found = pairs(avg_sub(2, ApplicableFrameRange=[3, 4, 6, 6]))
    assert found == {3: ([3], [2]), 4: ([4], [2]), 6: ([6], [2])}


def test_a_later_item_takes_the_frames_of_an_earlier_one():
    found = pairs(avg_sub(1), avg_sub(2, ApplicableFrameRange=[3, 4]))
    assert [mask for _, mask in found.values()] == [[1], [1], [2], [2], [1], [1]]


def test_contrast_frame_averaging_starts_with_the_current_frame():
    found = pairs(avg_sub(1, ContrastFrameAveraging=3), frames=5)
    assert found == {1: ([1, 2, 3], [1]), 2: ([2, 3, 4], [1]), 3: ([3, 4, 5], [1])}  # ends at 5 − 3 + 1


def test_time_interval_differencing():
    assert pairs(tid(TIDOffset=2), frames=4) == {3: ([3], [1]), 4: ([4], [2])}
    assert pairs(tid(TIDOffset=None), frames=3) == {2: ([2], [1]), 3: ([3], [2])}  # zero length: 1
    assert pairs(tid(TIDOffset=-1), frames=3) == {1: ([1], [2]), 2: ([2], [3])}
    assert pairs(tid(TIDOffset=2, ApplicableFrameRange=[4, 5])) == {4: ([4], [2]), 5: ([5], [3])}


def test_reversed_differencing_counts_masks_backwards():
    """MFN = (FCFN − offset) − (CFN − FCFN): with frames 4–6 and offset 1 the masks are 3, 2, 1."""
    found = pairs(tid("REV_TID", TIDOffset=1, ApplicableFrameRange=[4, 6]))
    assert {n: mask for n, (_, mask) in found.items()} == {4: [3], 5: [2], 6: [1]}


def test_no_operation_is_no_module():
    assert pairs(tid("NONE")) is None
    assert pairs() is None
    assert list(pairs(avg_sub(1), tid("NONE", ApplicableFrameRange=[1, 2]), frames=4)) == [3, 4]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (avg_sub(7), "frames that do not exist"),
        (avg_sub(0), "frames that do not exist"),
        (item(MaskOperation="AVG_SUB"), "frames that do not exist"),
        (avg_sub(1, ApplicableFrameRange=[4, 2]), "a frame range that is none"),
        (avg_sub(1, ApplicableFrameRange=[40, 50]), "leaves no frame"),
        (avg_sub(1, ContrastFrameAveraging=0), "averages no contrast frames"),
        (avg_sub(1, ContrastFrameAveraging=9), "leaves no frame"),
        (tid("REV_TID", TIDOffset=1), "without a frame range"),
        (tid(TIDOffset=9), "leaves no frame"),
    ],
)
def test_a_module_that_cannot_be_followed_says_so(bad, reason):
    with pytest.raises(dicom_series.Unreadable, match=reason):
        pairs(bad)


def test_left_out_frames_keep_the_numbers_of_the_others(tmp_path):
    make_xa(
        tmp_path / "a",
        flat(2000, 2000, 1000, 500),
        MaskSubtractionSequence=mask_module(avg_sub(2, ApplicableFrameRange=[3, 4])),
    )
    result = run(tmp_path / "a")
    assert result.numbers.tolist() == [2, 3]
    assert result.frames[:, 0, 0].tolist() == [
        round(162 - math.log(2) / 0.008),
        round(max(0, 162 - math.log(4) / 0.008)),
    ]


def test_averaged_contrast_frames_by_hand(tmp_path):
    """LOG values 100 and 300 over a mask of 500: mean contrast (400 + 200) / 2 = 300 steps of ln(4096)/4095."""
    module = mask_module(avg_sub(1, ContrastFrameAveraging=2, ApplicableFrameRange=[2, 2]))
    make_xa(tmp_path / "a", flat(500, 100, 300), PixelIntensityRelationship="LOG", MaskSubtractionSequence=module)
    result = run(tmp_path / "a")
    assert result.numbers.tolist() == [1]
    assert result.frames[0, 0, 0] == round(162 - 300 * math.log(4096) / 4095 / 0.008)


def test_differencing_by_hand_and_its_exclusion(tmp_path):
    make_xa(tmp_path / "a", flat(2000, 1000, 1000, 2000), MaskSubtractionSequence=mask_module(tid(TIDOffset=1)))
    result = run(tmp_path / "a")
    assert result.window["mask_source"] == "mask module, TID"
    assert result.numbers.tolist() == [1, 2, 3]
    assert result.frames[:, 0, 0].tolist() == [75, 162, 249]
    facts = dicom_series.read_acquisition(tmp_path / "a")
    assert facts.obstacle() == ""
    assert facts.obstacle(differencing="exclude").startswith("time-interval differencing")


def test_differencing_over_more_frames_than_are_held_back(tmp_path):
    values = [2000 - 10 * n for n in range(30)]
    make_xa(tmp_path / "a", flat(*values), MaskSubtractionSequence=mask_module(tid(TIDOffset=20)))
    expected = [round(162 - math.log(values[n - 20] / values[n]) / 0.008) for n in range(20, 30)]
    assert run(tmp_path / "a").frames[:, 0, 0].tolist() == expected


def test_half_a_pixel_is_interpolated(tmp_path):
    """LOG ramp of 8 a row: the mask moved down by half a row is 4 lower, so the contrast is −4 steps in every row but the clamped first."""
    ramp = np.broadcast_to(1000 + 8 * np.arange(8)[:, None], (8, 8)).astype(np.uint16)
    for name, shift in (("still", [0.0, 0.0]), ("moved", [0.5, 0.0])):
        module = mask_module(avg_sub(1, MaskSubPixelShift=shift))
        make_xa(
            tmp_path / name, np.stack([ramp, ramp]), PixelIntensityRelationship="LOG", MaskSubtractionSequence=module
        )
    step = math.log(4096) / 4095
    assert np.unique(run(tmp_path / "still").frames).tolist() == [162]
    assert run(tmp_path / "moved").frames[1, :, 3].tolist() == [162] + [round(162 + 4 * step / 0.008)] * 7


def test_each_frame_of_an_enhanced_run_has_its_own_shift(tmp_path):
    """A bright column moves by one pixel a frame; Frame Pixel Shift follows it, so that nothing is left but background."""
    frames = flat(1000, 1000, 1000)
    for n in range(3):
        frames[n, :, 3 + n] = 2000
    other = item(SubtractionItemID=8, MaskSubPixelShift=[5.0, 5.0])
    own = [item(SubtractionItemID=7, MaskSubPixelShift=[0.0, float(n)]) for n in range(3)]
    groups = [item(FramePixelShiftSequence=Sequence([shift, other])) for shift in own]
    module = mask_module(avg_sub(1, SubtractionItemID=7))
    make_xa(tmp_path / "a", frames, MaskSubtractionSequence=module, PerFrameFunctionalGroupsSequence=Sequence(groups))
    assert np.unique(run(tmp_path / "a").frames).tolist() == [162]


def anatomy(side=32):
    """A native display frame: bright surround, darker head with texture."""
    rng = np.random.default_rng(2)
    row, column = np.mgrid[:side, :side]
    head = (row - side / 2) ** 2 + (column - side / 2) ** 2 < (0.42 * side) ** 2
    return np.where(head, 140 + 40 * np.sin(row / 3) + rng.normal(0, 8, (side, side)), 225)


def test_a_native_display_run_gets_a_mask_and_a_subtracted_one_is_left_alone(tmp_path):
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1.5, (9, 32, 32))
    vessel = np.zeros((9, 32, 32))
    vessel[5:, 14:17, 8:24] = 60
    display = {"bits": 8, "PixelIntensityRelationship": "DISP", "MaskSubtractionSequence": None}
    make_xa(tmp_path / "native", np.clip(anatomy() + noise - vessel, 0, 255).astype(np.uint8), **display)
    make_xa(tmp_path / "subtracted", np.clip(160 + noise - vessel, 0, 255).astype(np.uint8), **display)
    native, left = run(tmp_path / "native", size=32), run(tmp_path / "subtracted", size=32)
    assert native.window["mask_source"] == "chosen from the first frames"
    assert left.window["mask_source"] == "stored subtracted"
    for result in (native, left):
        assert abs(np.median(result.frames[7, 14:17, 8:24]) - 102) <= 3  # 60 levels darker
        assert abs(np.median(result.frames[7, :10]) - 162) <= 2
        assert result.frames[7, :10].std() < 6  # no anatomy left


@pytest.mark.parametrize("shape", ["bars", "round"])
@pytest.mark.parametrize("bright_vessels", [False, True])
def test_blanking_without_a_shutter_element_is_no_anatomy(tmp_path, shape, bright_vessels):
    """A run stored subtracted, letterboxed or round, black outside: left alone, vessels dark, the blanking grey as the background."""
    frames = 160 + np.random.default_rng(4).normal(0, 1.5, (9, 64, 64))
    frames[5:, 30:34, 18:46] -= 90
    frames = 255 - frames if bright_vessels else frames
    row, column = np.mgrid[:64, :64]
    field = (column >= 14) & (column < 50) if shape == "bars" else (row - 31.5) ** 2 + (column - 31.5) ** 2 < 31**2
    pixels = np.where(field, np.clip(frames, 1, 254), 0).astype(np.uint8)
    make_xa(tmp_path / "a", pixels, bits=8, PixelIntensityRelationship="DISP", MaskSubtractionSequence=None)
    result = run(tmp_path / "a", size=64)
    assert result.window["mask_source"] == "stored subtracted"
    assert np.median(result.frames[7, 31:33, 22:42]) < 100
    assert np.unique(result.frames[7][~field]).tolist() == [162]


def test_a_single_native_display_frame_is_refused(tmp_path):
    display = {"bits": 8, "PixelIntensityRelationship": "DISP", "MaskSubtractionSequence": None}
    make_xa(tmp_path / "native", anatomy()[None].clip(0, 255).astype(np.uint8), **display)
    with pytest.raises(dicom_series.Unreadable, match="a single frame that is not subtracted"):
        run(tmp_path / "native", size=32)
    make_xa(tmp_path / "subtracted", np.full((1, 32, 32), 160, np.uint8), **display)
    assert run(tmp_path / "subtracted", size=32).window["mask_source"] == "stored subtracted"
