"""Intervals over patients: point values by hand, coverage by simulation, pairs, missing values."""

import numpy as np
import pytest

from dsa_lib.core.statistics import draw, of_means
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
