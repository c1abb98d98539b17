"""Scores of generated against true images: against scikit-image, and worked by hand."""

import numpy as np
import pandas as pd
import pytest
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity
from skimage.transform import downscale_local_mean

from dsa_lib.fidelity.image_scores import SCALE_WEIGHTS, image_scores, ms_ssim, scales, summary
from dsa_lib.run.errors import StudyError


def pair(n=3, side=64, seed=0):
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(0, 2, (n, side, side)), axis=1), axis=2)
    true = np.clip(128 + smooth, 0, 255).astype(np.uint8)
    return true, np.clip(true + rng.normal(0, 12, true.shape), 0, 255).astype(np.uint8)


def test_scores_are_those_of_scikit_image():
    true, generated = pair()
    found = image_scores(true, generated)
    for n, (x, y) in enumerate(zip(true, generated, strict=True)):
        ssim = structural_similarity(
            x, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert found.ssim[n] == pytest.approx(ssim, rel=1e-9)
        assert found.psnr[n] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=255), rel=1e-9)
        nmse = normalized_root_mse(x.astype(float), y.astype(float), normalization="euclidean") ** 2
        assert found.nmse[n] == pytest.approx(nmse, rel=1e-9)


def test_nmse_mae_psnr_and_lesion_error_by_hand():
    true = np.full((2, 16, 16), 100, np.uint8)
    generated = true.copy()
    generated[0, :, :8] = 110  # half of the pixels 10 too bright
    lesions = np.zeros(true.shape, bool)
    lesions[0, :, 7:9] = True  # half of the lesion lies there
    found = image_scores(true, generated, lesions)
    assert found.nmse.tolist() == pytest.approx([50 / 10_000, 0])
    assert found.mae.tolist() == pytest.approx([5, 0])
    assert found.psnr[0] == pytest.approx(10 * np.log10(255**2 / 50)) and found.psnr[1] == np.inf
    assert found.lesion_mae[0] == pytest.approx(5) and np.isnan(found.lesion_mae[1])
    assert found.ssim[1] == pytest.approx(1) and found.ms_ssim[1] == pytest.approx(1)


def ms_ssim_by_scikit_image(x, y, count):
    """From its maps of SSIM at every scale; with a constant K1 beyond measure the luminance term is 1, and contrast times structure is left."""
    weights, product = np.array(SCALE_WEIGHTS[:count]) / sum(SCALE_WEIGHTS[:count]), 1.0
    for scale, weight in enumerate(weights):
        k1 = 0.01 if scale == count - 1 else 1e6
        how = dict(data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True, K1=k1)
        whole = structural_similarity(x.astype(float), y.astype(float), **how)[1]
        product *= whole[5:-5, 5:-5].mean() ** weight  # places where the window fits
        even = len(x) // 2 * 2
        x, y = (downscale_local_mean(image[:even, :even], (2, 2)) for image in (x, y))
    return product


@pytest.mark.parametrize(
    "side, count", [(256, 5), (176, 5), (175, 4), (128, 4), (98, 3), (64, 3), (24, 2), (15, 1), (11, 1)]
)
def test_ms_ssim_is_made_of_scikit_images_maps_at_as_many_scales_as_fit(side, count):
    assert scales(side, side) == count
    true, generated = pair(2, side, seed=side)
    found = ms_ssim(true, generated)
    expected = [ms_ssim_by_scikit_image(x, y, count) for x, y in zip(true, generated, strict=True)]
    # MONAI computes in single precision, where the variance of a saturated patch is a difference of two large numbers.
    assert found == pytest.approx(expected, rel=2e-4) and ((found > 0) & (found < 1)).all()


def test_opposite_images_have_no_negative_power():
    rng = np.random.default_rng(1)
    true = rng.integers(0, 256, (1, 64, 64)).astype(np.uint8)
    assert ms_ssim(true, 255 - true)[0] == 0


def test_mean_and_spread_by_group():
    scores = pd.DataFrame(
        {
            "model": ["b", "b", "a"],
            "ssim": [0.2, 0.4, 0.9],
            "nmse": [1.0, 1.0, 2.0],
            "lesion_mae": [3.0, np.nan, np.nan],
        }
    )
    found = summary(scores, "model").set_index(["model", "score"])
    assert found.index.get_level_values("model").unique().tolist() == ["b", "a"]
    assert found.loc[("b", "ssim")].tolist() == pytest.approx([2, 0.3, np.sqrt(0.02)])
    assert found.loc[("b", "lesion_mae"), "images"] == 1 and found.loc[("a", "lesion_mae"), "images"] == 0
    assert np.isnan(found.loc[("a", "ssim"), "sd"]) and np.isnan(found.loc[("a", "lesion_mae"), "mean"])
    assert len(summary(scores.assign(edges=[True, False, True]), ["model", "edges"])) == 9
    with pytest.raises(StudyError, match="no column 'part'"):
        summary(scores, "part")


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda x, y: (x.astype(float), y, None), "8-bit grey"),
        (lambda x, y: (x, y[:2], None), "one generated image"),
        (lambda x, y: (x[:, :8], y[:, :8], None), "11 a side"),
        (lambda x, y: (x, y, np.zeros(x.shape, np.uint8)), "one bool mask"),
        (lambda x, y: (x, y, np.zeros(x.shape[:2], bool)), "one bool mask"),
        (lambda x, y: (np.zeros_like(x), y, None), "black everywhere"),
    ],
)
def test_bad_images_are_refused(change, fault):
    with pytest.raises(StudyError, match=fault):
        image_scores(*change(*pair()))
