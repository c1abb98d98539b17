"""Intervals over patients: point values by hand, coverage by simulation, pairs, missing values. Holm and Wilson against other libraries."""

from itertools import combinations

import numpy as np
import pandas as pd
import pingouin
import pytest
from scipy.stats import binomtest

from dsa_lib.core.statistics import draw, holm, of_means, standard_error, times_drawn, whole_and_drawn, wilson_interval
from dsa_lib.run.errors import StudyError


def test_each_draw_takes_as_many_patients_as_there_are():
    group, weight = draw(np.array(["b", "a", "b"]), 100, seed=1)
    assert group.tolist() == [1, 0, 1] and weight.shape == (100, 2)
    assert (weight.sum(axis=1) == 2).all() and len(np.unique(weight, axis=0)) == 3
    with pytest.raises(StudyError, match="no patient"):
        draw(np.array([]), 10, 0)


def test_means_leave_missing_values_out():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    mean, low, high = of_means(values, np.array([1, 1, 2]), draws=50)
    assert mean[0] == 2 and np.isnan([mean[1], low[1], high[1]]).all()
    assert low[0] == high[0] == 2  # patient 2 has no value, and draws of that patient alone none either


def test_the_difference_of_pairs_ignores_what_they_share():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 200)
    pairs = np.stack([base + 1, base], axis=1)
    difference, low, high = of_means(
        pairs, np.arange(200), statistic=lambda means: means[..., :1] - means[..., 1:], draws=200
    )
    assert difference[0] == pytest.approx(1) and low[0] == pytest.approx(1) and high[0] == pytest.approx(1)


def test_intervals_over_patients_cover_where_images_of_a_patient_are_alike():
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(40), 10)
    covered, naive = 0, 0
    for trial in range(60):
        values = (rng.normal(0, 1, 40)[patients] + rng.normal(0, 0.2, 400))[:, None]
        _, low, high = of_means(values, patients, draws=300, seed=trial)
        covered += low[0] <= 0 <= high[0]
        _, low, high = of_means(values, np.arange(400), draws=300, seed=trial)
        naive += low[0] <= 0 <= high[0]
    assert covered >= 51 and naive < 40


def test_one_row_for_each_image():
    with pytest.raises(StudyError, match="one row for each image"):
        of_means(np.zeros((3, 1)), np.arange(2))


@pytest.mark.parametrize("one_by_one", [False, True])
def test_units_are_drawn_alike_often_and_as_many_as_there_are(one_by_one):
    drawn = times_drawn(5, 4000, np.random.default_rng(0), one_by_one)
    assert drawn.shape == (4000, 5) and (drawn.sum(axis=1) == 5).all()
    # Binomial with 5 tries at 1/5: mean 1, variance 4/5, covariance −1/5.
    assert np.allclose(drawn.mean(axis=0), 1, atol=0.06)
    assert np.allclose(np.cov(drawn.T), np.eye(5) - 0.2, atol=0.06)


def test_units_drawn_in_parts_are_those_drawn_at_once():
    """The reader study's intervals are computed in chunks."""
    rng = np.random.default_rng(1)
    parts = np.concatenate([times_drawn(7, count, rng, one_by_one=True) for count in (20, 1, 9)])
    assert np.array_equal(parts, times_drawn(7, 30, np.random.default_rng(1), one_by_one=True))


def test_the_units_as_they_are_come_before_the_draws():
    whole = whole_and_drawn(4, 10, np.random.default_rng(2))
    assert (whole[0] == 1).all() and np.array_equal(whole[1:], times_drawn(4, 10, np.random.default_rng(2)))


def test_standard_error_of_a_mean_is_the_textbooks():
    """Over all subsets of m of n values the delete-d jackknife gives s/√n of a mean exactly (variances with the divisors that theory has)."""
    x = np.random.default_rng(3).normal(size=9)
    means = pd.Series([np.mean(part) for part in combinations(x, 6)])
    exact = means.std(ddof=0) * np.sqrt(6 / 3)
    assert exact == pytest.approx(x.std(ddof=1) / 3, rel=1e-12)
    ours = standard_error(means, 6, 9)
    assert ours == pytest.approx(exact * np.sqrt(len(means) / (len(means) - 1)), rel=1e-12)
    assert np.isnan(standard_error(means.iloc[:1], 6, 9)) and ours == standard_error(pd.Series([np.nan, *means]), 6, 9)


def test_holm_is_that_of_pingouin_and_by_hand_and_leaves_undefined_p_values_out():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.3, 0.3])
    assert holm(p).tolist() == pingouin.multicomp(p, method="holm")[1].tolist()
    assert holm(p).tolist() == pytest.approx([5 * 0.01, 4 * 0.03, 4 * 0.03, 6 * 0.005, 2 * 0.3, 2 * 0.3])
    found = holm(pd.Series([np.nan, 0.02, 0.04, np.nan]))
    assert np.isnan(found[[0, 3]]).all() and found[1:3].tolist() == [0.04, 0.04]
    assert np.isnan(holm(pd.Series([np.nan, np.nan]))).all() and len(holm(pd.Series([], dtype=float))) == 0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (118, 125), (125, 125)])
def test_wilson_interval_equals_scipy(k, n):
    reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(k, n) == pytest.approx((reference.low, reference.high), abs=1e-12)
