"""Measures of what decoding keeps, against skimage and images whose answer is known by hand."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from dsa_lib.ldm.decoder_quality import calibre_maps, contrast_kept, psnr_db, reconstruction_quality, truth_quality

GREY = 162.0


def _frame(*depths: float) -> tuple[np.ndarray, np.ndarray]:
    """(frame [1, 128, 128] with one bar of three pixels a depth, its mask): classes 1, 2, 3 in this order."""
    frame, mask = np.full((128, 128), GREY), np.zeros((128, 128), np.uint8)
    for k, depth in enumerate(depths, 1):
        profile = depth * np.array([0.5, 1.0, 0.5])[:, None]
        frame[30 * k - 1 : 30 * k + 2, 10:-10] -= profile
        mask[30 * k - 1 : 30 * k + 2, 10:-10] = k
    return frame[None], mask[None]


def test_quality_against_skimage_and_by_hand():
    rng = np.random.default_rng(0)
    frames = rng.integers(100, 200, (3, 32, 32)).astype(np.uint8)
    decoded = np.clip(frames.astype(int) + rng.integers(-3, 4, frames.shape), 0, 255).astype(np.uint8)
    quality = reconstruction_quality(frames, decoded, background_grey=162)
    expected = peak_signal_noise_ratio(frames, decoded, data_range=255)
    assert quality["psnr_db"] == pytest.approx(expected, rel=1e-9) == psnr_db(frames, decoded)
    vessel = np.full((1, 32, 32), 162, np.uint8)
    vessel[0, 10] = 62  # a vessel 100 grey levels deep, decoded 75 deep
    blurred = vessel.copy()
    blurred[0, 10] = 87
    kept = reconstruction_quality(vessel, blurred, background_grey=162)
    assert kept["vessel_contrast_kept"] == pytest.approx(0.75)
    assert kept["psnr_vessel_db"] == pytest.approx(20 * np.log10(255 / 25))


def test_each_class_is_measured_apart():
    truth, mask = _frame(80, 40, 20)
    decoded, _ = _frame(80, 30, 10)
    quality = truth_quality(decoded, truth, mask)
    for way in ("ridge", "area"):
        found = [quality[f"{way} {name}"] for name in ("proximal", "medium", "peripheral")]
        assert found == pytest.approx([1.0, 0.75, 0.5], abs=0.02)
    assert quality["psnr_truth_db"] == pytest.approx(peak_signal_noise_ratio(truth, decoded, data_range=255))
    perfect = truth_quality(truth, truth, mask)
    assert perfect["psnr_truth_db"] == np.inf and perfect["ridge peripheral"] == 1


def test_blur_costs_more_on_the_ridge_than_over_the_area():
    truth, mask = _frame(80, 40, 20)
    kept = contrast_kept(gaussian_filter(truth, (0, 1.0, 1.0)), truth, mask)
    for name in ("proximal", "medium", "peripheral"):
        assert 0.5 < kept[f"ridge {name}"] < 0.9
        assert kept[f"ridge {name}"] < kept[f"area {name}"] - 0.05


def test_a_haze_in_the_place_of_a_vessel_is_no_contrast():
    truth, mask = _frame(0, 0, 20)
    haze = np.full_like(truth, GREY)
    haze[0, 75:106] -= 20  # as dark as the vessel was, 31 rows wide
    assert contrast_kept(haze, truth, mask)["ridge peripheral"] < 0.1


def test_vessels_that_hold_no_contrast_yet_do_not_count():
    truth, mask = _frame(80, 40, 2)
    kept = contrast_kept(truth, truth, mask)
    assert np.isnan(kept["ridge peripheral"]) and kept["ridge medium"] == 1
    later, _ = _frame(80, 40, 20)
    both = contrast_kept(
        np.concatenate([truth, 0.5 * (later + GREY)]), np.concatenate([truth, later]), np.repeat(mask, 2, 0)
    )
    assert both["ridge peripheral"] == pytest.approx(0.5, abs=0.02)  # of the later frame alone


def test_calibres_stand_for_the_masks_where_there_is_no_truth():
    frame, _ = _frame(100, 30, 9)
    maps = calibre_maps(frame)
    for k in (1, 2, 3):
        assert (maps[0, 30 * k, 16:-16] == k).all()
    kept = contrast_kept(0.5 * (frame + GREY), frame, maps)
    assert [kept[f"ridge {n}"] for n in ("proximal", "medium", "peripheral")] == pytest.approx([0.5] * 3, abs=0.02)
