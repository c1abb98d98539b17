"""Mixed models of ratings: published fits, mean squares where ratings are complete, another library where they are not."""

import warnings

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from dsa_lib.readers.mixed_model import leniency, mixed_icc
from dsa_lib.readers.reliability import icc2, mean_squares

SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
# Effort to arise from four types of stool, nine subjects: data ergoStool of the R package nlme.
ERGO_STOOL = np.array(
    [
        [12, 15, 12, 10], [10, 14, 13, 12], [7, 14, 13, 9], [7, 11, 10, 9], [8, 11, 8, 7], [9, 11, 11, 10], [8, 12, 12, 11],
        [7, 11, 8, 7], [9, 13, 10, 8],
    ],
    float,
)  # fmt: skip


def normal_ratings(n, k, missing, seed):
    rng = np.random.default_rng(seed)
    y = 3 + rng.normal(0, 0.8, (n, 1)) + rng.normal(0, 0.5, (1, k)) + rng.normal(0, 0.7, (n, k))
    y[rng.random(y.shape) < missing] = np.nan
    return y[np.isfinite(y).any(axis=1)]


def long(y):
    return pd.DataFrame(y).rename_axis("image").reset_index().melt("image", var_name="rater", value_name="y").dropna()


@pytest.mark.parametrize("ratings", [SHROUT_FLEISS, ERGO_STOOL, normal_ratings(60, 5, 0, 1)])
def test_complete_ratings_give_the_mean_square_estimates(ratings):
    n, k = ratings.shape
    msr, msc, mse = (x[0] for x in mean_squares(ratings))
    fit, classic = mixed_icc(ratings), icc2(ratings)
    assert fit.image_var == pytest.approx((msr - mse) / k, rel=1e-4)
    assert fit.rater_var == pytest.approx((msc - mse) / n, rel=1e-4)
    assert fit.error_var == pytest.approx(mse, rel=1e-5)
    assert fit.mean == pytest.approx(ratings.mean())
    assert (fit.single, fit.average) == pytest.approx((classic.single, classic.average), abs=1e-5)
    assert (fit.n_images, fit.k_raters, fit.n_ratings) == (n, k, n * k)


@pytest.mark.parametrize(("n", "k", "missing", "seed"), [(16, 4, 0.2, 0), (14, 3, 0.3, 3)])
def test_missing_ratings_equal_statsmodels(n, k, missing, seed):
    y = normal_ratings(n, k, missing, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = MixedLM.from_formula(
            "y ~ 1", groups=np.ones(np.isfinite(y).sum()), data=long(y),
            vc_formula={"image": "0 + C(image)", "rater": "0 + C(rater)"},
        ).fit(reml=True)  # fmt: skip
    fit = mixed_icc(y)
    ours = [fit.image_var, fit.rater_var, fit.error_var, fit.mean]
    assert ours == pytest.approx([*theirs.vcomp, theirs.scale, theirs.fe_params.iloc[0]], rel=0.01)


def test_variances_that_mean_squares_would_make_negative_stop_at_zero():
    rng = np.random.default_rng(4)
    y = rng.normal(0, 1, (40, 1)) + rng.normal(0, 0.5, (40, 4))
    y -= y.mean(axis=0)  # raters alike beyond chance: MSC = 0 < MSE
    fit = mixed_icc(y)
    assert fit.rater_var == pytest.approx(0, abs=1e-6)
    # without raters the model is one-way: ICC(1,1) from between- and within-image mean squares
    between, within = 4 * y.mean(axis=1).var(ddof=1), y.var(axis=1, ddof=1).mean()
    assert fit.single == pytest.approx((between - within) / (between + 3 * within), abs=1e-5)


def test_missing_ratings_do_not_bias_the_estimate_where_complete_cases_do():
    """Raters skip poor images: complete cases lose the range of images, the mixed model keeps it (true ICC(2,1) 0.64/1.13)."""
    rng = np.random.default_rng(8)
    image = rng.normal(0, 0.8, (4000, 1))
    y = image + rng.normal(0, 0.7, (4000, 4))
    y[:, 1:][np.broadcast_to(y[:, :1], (4000, 3)) < -0.2] = (
        np.nan
    )  # whether the others rate depends on the first rating
    truth = 0.64 / (0.64 + 0.49)
    assert mixed_icc(y).single == pytest.approx(truth, abs=0.03)
    assert icc2(y).single < truth - 0.1


def test_bootstrap_of_complete_ratings_agrees_with_that_of_the_mean_squares():
    y = normal_ratings(80, 4, 0, 6)
    fit, classic = mixed_icc(y, resamples=400, seed=2), icc2(y, resamples=4000, seed=2)
    assert fit.single_boot == pytest.approx(classic.single_boot, abs=0.03)
    assert fit.average_boot == pytest.approx(classic.average_boot, abs=0.03)
    assert fit.single_boot[0] < fit.single < fit.single_boot[1]


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        (np.array([[1.0], [2], [3]]), "fewer than two raters"),
        (np.empty((0, 0)), "fewer than two raters"),
        (np.array([[1, np.nan], [2, np.nan]]), "fewer than two raters"),
        (np.array([[1, 2, np.nan], [2, 3, np.nan], [3, 3, np.nan]]), "a rater gave no rating"),
        (np.array([[1.0, 2]]), "fewer than two rated images"),
        (np.array([[1, np.nan], [np.nan, 2], [3, np.nan]]), "no image was rated by two raters"),
        (np.array([[1, 2, np.nan, np.nan], [2, 4, np.nan, np.nan], [np.nan, np.nan, 3, 4], [np.nan, np.nan, 3, 5.0]]), "groups that share no image"),
        (np.full((6, 3), 4.0), "all ratings are equal"),
        (np.repeat([[1.0], [3], [5]], 3, axis=1), "without a rest"),
    ],
)  # fmt: skip
def test_what_the_ratings_do_not_determine_is_nan_with_a_reason(ratings, reason):
    fit, lenient = mixed_icc(ratings, resamples=10), leniency(ratings)
    assert reason in fit.reason and reason in lenient.reason
    assert np.isnan([fit.single, fit.average, fit.image_var, *fit.single_boot, lenient.f_value]).all()
    assert lenient.effects["effect"].isna().all() and len(lenient.effects) == ratings.shape[1]


def test_raters_fixed_is_the_published_fit_of_ergo_stool():
    """Pinheiro & Bates (2000), section 1.2: REML deviations 1.332465 and 1.100295, Type F(3, 24) = 22.36."""
    result = leniency(ERGO_STOOL)
    assert (result.image_sd, result.error_sd) == pytest.approx((1.332465, 1.100295), abs=2e-6)
    assert (round(result.f_value, 2), result.df) == (22.36, (3, 24))
    # their estimates: 8.555556 for T1, then differences 3.888889, 2.222222, 0.666667 from it
    effect = result.effects["effect"].to_numpy()
    assert effect[1:] - effect[0] == pytest.approx([3.888889, 2.222222, 0.666667], abs=1e-6)
    assert effect.sum() == pytest.approx(0, abs=1e-12)


def test_leniency_of_complete_ratings_is_that_of_the_two_way_table():
    ms = mean_squares(SHROUT_FLEISS)
    result = leniency(SHROUT_FLEISS)
    assert result.f_value == pytest.approx(float(ms.raters[0] / ms.error[0]), rel=1e-6)
    assert result.effects["effect"].to_numpy() == pytest.approx(SHROUT_FLEISS.mean(axis=0) - SHROUT_FLEISS.mean())
    half = 2.131450 * np.sqrt(ms.error[0] * (1 - 1 / 4) / 6)  # t(15), MSE (k-1)/(nk)
    assert (result.effects["high"] - result.effects["effect"]).tolist() == pytest.approx([half] * 4, rel=1e-5)


def test_leniency_with_missing_ratings_equals_statsmodels():
    y = normal_ratings(50, 4, 0.25, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = MixedLM.from_formula("y ~ C(rater, Sum)", groups="image", data=long(y)).fit(reml=True)
    result = leniency(y)
    assert result.effects["effect"].to_numpy()[:3] == pytest.approx(theirs.fe_params.to_numpy()[1:], abs=1e-4)
    error = (result.effects["high"] - result.effects["effect"]).to_numpy()[:3]
    ratio = error / theirs.bse_fe.to_numpy()[1:]
    assert ratio == pytest.approx([ratio[0]] * 3, rel=1e-3) and 1.96 < ratio[0] < 2.02  # Student's t for theirs normal


def test_a_rater_who_skipped_the_poor_images_is_not_taken_for_lenient():
    rng = np.random.default_rng(3)
    image = rng.normal(3, 1, 300)
    y = image[:, None] + rng.normal(0, 0.3, (300, 3))
    y[image < 3, 2] = np.nan
    assert np.nanmean(y[:, 2]) - np.nanmean(y[:, :2]) > 0.7  # the plain means are misleading
    effect = leniency(y).effects.iloc[2]
    assert abs(effect["effect"]) < 0.06 and effect["low"] < 0.03
