"""Changes of resizing and windowing against Pillow and hand-worked greys; the table with features whose distances are known."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import sensitivity as fs
from dsa_lib.fidelity.extractor import Extractor
from dsa_lib.run.profiles import load_profile

SETTINGS = replace(load_profile("phantom").fidelity, sensitivity_images=40)


@pytest.fixture
def frames():
    """Smooth frames with noise, between 60 and 190: nothing that ± 10 greys or 10 % of contrast would clip."""
    rng = np.random.default_rng(0)
    x = np.linspace(0, 3, 32)
    smooth = 125 + 30 * np.sin(x + rng.uniform(0, 6, (80, 1, 1))) * np.cos(x[:, None] + rng.uniform(0, 6, (80, 1, 1)))
    return np.clip(smooth + rng.normal(0, 5, smooth.shape), 60, 190).astype(np.uint8)


@pytest.mark.parametrize(
    "mode, pillow", [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
def test_antialiased_resizing_is_pillows(frames, mode, pillow):
    ours = fs.half_and_back(frames[:4], mode, antialias=True)
    for frame, made in zip(frames, ours, strict=False):
        back = Image.fromarray(frame).resize((16, 16), pillow).resize((32, 32), Image.Resampling.BICUBIC)
        difference = np.abs(np.asarray(back).astype(int) - made)
        assert difference.max() <= 2 and difference.mean() < 0.5  # Pillow rounds after each axis
    plain = fs.half_and_back(frames[:4], mode, antialias=False)
    assert np.abs(plain.astype(int) - ours).mean() > 0.6


def test_windowing_by_hand():
    frame = np.array([[[100, 100, 100, 60, 160, 250]]], np.uint8)
    assert fs.contrast(frame, 1.1).tolist() == [[[100, 100, 100, 56, 166, 255]]]
    assert fs.brightness(frame, -70).tolist() == [[[30, 30, 30, 0, 90, 180]]]
    ramp = np.arange(101, dtype=np.uint8)[None, None] + 50
    stretched = fs.full_window(ramp)
    assert (stretched[0, 0, 1], stretched[0, 0, 99], stretched[0, 0, 50]) == (
        0,
        255,
        128,
    )  # 1st and 99th percentile, middle
    flat = np.full((1, 4, 4), 9, np.uint8)
    assert np.array_equal(fs.full_window(flat), flat)


def test_changes_are_made_to_what_is_read_alone(frames):
    seen = []
    changed = fs.Changed(frames, lambda images: seen.append(len(images)) or 255 - images)
    assert (changed.shape, len(changed), seen) == (frames.shape, 80, [])
    assert np.array_equal(changed[np.array([3, 1])], 255 - frames[[3, 1]]) and seen == [2]


def mean_grey(images):
    return images.reshape(len(images), -1).mean(1, keepdims=True).astype(np.float32)


@pytest.mark.parametrize("mix", ["balanced", "as-is"])
def test_a_shift_of_the_feature_is_the_distance(frames, mix):
    # One feature, the mean grey: ten levels more move it by 10 exactly, so a mismatch of the same frames has distance 100, and both changed none.
    cells = np.resize(CELLS, 80)
    real = frames[:40]
    table = fs.sensitivity(
        Extractor("grey", "distance", mean_grey), (frames, cells), (real, np.arange(40), cells[:40]), replace(SETTINGS, reference_mix=mix), seed=1
    )  # fmt: skip
    table = table.set_index("change")
    assert table.index[0] == fs.UNCHANGED and len(table) == len(fs.CHANGES) == 10
    assert (table["images"] == 40).all() and (table["reference_images"] == 40).all()
    plain, bright = table.loc[fs.UNCHANGED], table.loc["10 grey levels brighter"]
    assert plain["both"] == plain["generated_only"] and plain["same_frames"] == pytest.approx(0, abs=1e-9)
    assert bright["both"] == pytest.approx(plain["both"], rel=1e-3)
    assert bright["same_frames"] == pytest.approx(100, rel=1e-4)
    assert bright["generated_only"] > 50
    # Antialiased halving keeps the mean grey, dropping pixels does not quite: what the features do not see costs nothing.
    assert table.loc["half size and back, bilinear, antialiased", "same_frames"] < 0.05


def test_too_few_images_give_no_table(frames):
    table = fs.sensitivity(
        Extractor("grey", "distance", mean_grey), (frames[:4], np.array(CELLS)), (frames, np.arange(1), np.array(["AC A"])), SETTINGS, seed=1
    )  # fmt: skip
    assert len(table) == 0 and list(table.columns) == fs.COLUMNS
