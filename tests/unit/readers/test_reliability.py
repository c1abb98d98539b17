"""ICC(2,1) and ICC(2,k) against published matrices and another library (pingouin)."""

import numpy as np
import pandas as pd
import pingouin
import pytest

from dsa_lib.readers.reliability import (
    MeanSquares,
    bootstrap,
    icc2,
    mean_squares,
    single_interval,
    single_intervals,
    spearman_brown,
)

# Shrout & Fleiss 1979, Table 2 (6 targets x 4 judges); mean squares from Table 3, ICCs from Table 4 there.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
# R package irr, data(anxiety), 20 subjects x 3 raters; ICCs and intervals as printed by psych::ICC and irr::icc.
ANXIETY = np.array(
    [[int(digit) for digit in subject] for subject in "332 361 344 464 523 542 221 346 531 231".split()]
    + [[int(digit) for digit in subject] for subject in "221 632 133 533 221 221 113 233 432 342".split()],
    float,
)


def likert(n, k, seed, noise=0.7):
    rng = np.random.default_rng(seed)
    latent = 3 + rng.normal(0, 0.8, (n, 1)) + rng.normal(0, 0.3, (1, k)) + rng.normal(0, noise, (n, k))
    return np.clip(np.rint(latent), 1, 5)


def by_pingouin(ratings):
    n, k = ratings.shape
    long = pd.DataFrame(
        {"image": np.repeat(np.arange(n), k), "rater": np.tile(np.arange(k), n), "rating": ratings.ravel()}
    )
    return pingouin.intraclass_corr(long, "image", "rater", "rating", nan_policy="omit").set_index("Type")


def test_shrout_and_fleiss_1979():
    ms = mean_squares(SHROUT_FLEISS)
    assert [round(float(x[0]), 4) for x in ms] == [11.2417, 32.4861, 1.0194]
    r = icc2(SHROUT_FLEISS)
    assert (round(r.single, 2), round(r.average, 2)) == (0.29, 0.62)
    assert r.single_ci == pytest.approx((0.019, 0.76), abs=0.005)
    assert r.average_ci == pytest.approx((0.071, 0.93), abs=0.005)
    assert r.p_value == pytest.approx(0.00013, abs=5e-6)


def test_wine_as_pingouin_documents_it():
    """pingouin's data set "icc" (8 wines, 4 judges); its documentation prints ICC1 = 0.727526 and, rounded, 0.728 and 0.914."""
    wine = pingouin.read_dataset("icc").pivot(index="Wine", columns="Judge", values="Scores").to_numpy(float)
    r = icc2(wine)
    assert (round(r.single, 3), round(r.average, 3)) == (0.728, 0.914)
    assert r.single_ci == pytest.approx((0.43, 0.93), abs=0.006)
    assert r.average_ci == pytest.approx((0.75, 0.98), abs=0.006)


def test_intervals_of_many_tables_at_once_are_those_of_each():
    tables = [likert(12, 3, seed) for seed in range(5)]
    ms = MeanSquares(*(np.array([x[0] for x in part]) for part in zip(*map(mean_squares, tables), strict=True)))
    low, high = single_intervals(ms, 12, 3)
    for i, table in enumerate(tables):
        assert (low[i], high[i]) == pytest.approx(icc2(table).single_ci, abs=1e-12)


def test_irr_anxiety_published_to_six_digits():
    r = icc2(ANXIETY)
    assert r.single == pytest.approx(0.1979983, abs=5e-8)
    assert r.average == pytest.approx(0.4254988, abs=5e-8)
    assert r.single_ci == pytest.approx((-0.03891068, 0.4935740), abs=1e-6)
    assert r.average_ci == pytest.approx((-0.12658288, 0.7451493), abs=1e-6)
    assert (
        round(r.f_value, 2) == 1.83
    )  # irr's p differs (0.0543): it tests on 39.7 error degrees of freedom, psych on 38


@pytest.mark.parametrize(("n", "k", "missing"), [(200, 4, 0.0), (55, 3, 0.08), (12, 2, 0.0), (40, 6, 0.03)])
def test_equals_pingouin(n, k, missing):
    ratings = likert(n, k, seed=n + k)
    ratings[np.random.default_rng(1).random(ratings.shape) < missing] = np.nan
    theirs = by_pingouin(ratings)
    ours = icc2(ratings)
    for value, interval, name in [
        (ours.single, ours.single_ci, "ICC(A,1)"),
        (ours.average, ours.average_ci, "ICC(A,k)"),
    ]:
        assert value == pytest.approx(theirs.loc[name, "ICC"], abs=1e-9)
        assert np.round(interval, 2) == pytest.approx(np.round(theirs.loc[name, "CI95"], 2), abs=0.011)
    assert ours.n_images == int((~np.isnan(ratings).any(axis=1)).sum())


def test_weighted_mean_squares_are_those_of_the_repeated_images():
    ratings = likert(15, 4, seed=3)
    drawn = np.random.default_rng(0).integers(0, 15, size=(20, 15))
    weights = np.stack([np.bincount(d, minlength=15) for d in drawn]).astype(float)
    together = mean_squares(ratings, weights)
    for b, d in enumerate(drawn):
        alone = mean_squares(ratings[d])
        assert [x[b] for x in together] == pytest.approx([x[0] for x in alone], abs=1e-10)


def test_bootstrap_agrees_with_the_f_interval_on_normal_ratings():
    rng = np.random.default_rng(5)
    ratings = rng.normal(size=(300, 1)) + rng.normal(0, 0.2, (1, 4)) + rng.normal(0, 0.8, (300, 4))
    r = icc2(ratings, resamples=2000, seed=1)
    # The bootstrap keeps the four raters, so it lacks the between-rater part of the F interval and is never much wider.
    assert r.single_ci[0] - 0.02 < r.single_boot[0] < r.single < r.single_boot[1] < r.single_ci[1] + 0.02
    single, average = bootstrap(ratings, 500, seed=1)
    assert np.allclose(average, [spearman_brown(x, 4) for x in single], atol=1e-12)


def test_interval_covers_the_true_reliability():
    """95 % interval, 400 simulated studies of 40 images and 4 raters with true ICC(2,1) = 1 / (1 + 0.1 + 0.5)."""
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(400):
        ratings = rng.normal(size=(40, 1)) + rng.normal(0, 0.1**0.5, (1, 4)) + rng.normal(0, 0.5**0.5, (40, 4))
        ms = mean_squares(ratings)
        low, high = single_interval(type(ms)(*(x[0] for x in ms)), 40, 4)
        hits += low <= 1 / 1.6 <= high
    assert 0.91 <= hits / 400 <= 0.99


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        (np.full((10, 4), 3.0), "all ratings are equal"),
        (likert(10, 1, 0), "fewer than two raters"),
        (np.array([[1, np.nan], [np.nan, 2.0], [3, 3]]), "fewer than two images"),
        (np.empty((0, 3)), "fewer than two images"),
    ],
)
def test_undefined_cases_are_nan_with_a_reason(ratings, reason):
    r = icc2(ratings, resamples=10)
    assert np.isnan([r.single, r.average, *r.single_ci, *r.average_ci]).all()
    assert reason in r.reason


def test_perfect_agreement_and_less_than_chance():
    perfect = icc2(np.repeat(np.arange(1.0, 6.0)[:, None], 3, axis=1))
    assert (perfect.single, perfect.average, perfect.single_ci, perfect.reason) == (1.0, 1.0, (1.0, 1.0), "")
    opposite = icc2(np.array([[1, 5], [5, 1], [2, 4], [4, 2.0]]))
    assert opposite.single < -0.9 and np.isnan(opposite.average) and "below chance" in opposite.reason


def test_one_constant_rater_is_defined():
    ratings = likert(30, 3, 4)
    ratings[:, 2] = 3
    assert icc2(ratings).single == pytest.approx(by_pingouin(ratings).loc["ICC(A,1)", "ICC"], abs=1e-9)
