"""AuthPct, C_T and the two tests against hand-worked cases, scipy, and their own level under patients' clusters."""

from math import comb

import numpy as np
import pytest
from scipy import stats

from dsa_lib.audits import copy_tests


def test_auth_pct_by_hand():
    # Images lie 1, 2, 3, 4 from their nearest training frames, those 2, 2, 2, 2 from their own: 3 and 4 are authentic, 2 is not farther.
    assert copy_tests.auth_pct([1, 2, 3, 4], [2, 2, 2, 2]) == 50


def test_c_t_by_hand():
    # One cell, generated 1, 2, 3 all nearer than 4, 5, 6: U = 0, mean 4.5, variance 3 · 3 · 7 / 12.
    z = -4.5 / np.sqrt(5.25)
    assert copy_tests.c_t([1, 2, 3], [4, 5, 6], ["a"] * 3, ["a"] * 3) == pytest.approx(z)
    # A second cell of six held-out frames where the order is the other way round: z' = +9 / sqrt(3 · 6 · 10 / 12), weights 3 and 6.
    found = copy_tests.c_t(
        [1, 2, 3, 9, 9.5, 10], [4, 5, 6, 1, 2, 3, 4, 5, 6], ["a"] * 3 + ["b"] * 3, ["a"] * 3 + ["b"] * 6
    )
    assert found == pytest.approx((3 * z + 6 * 9 / np.sqrt(15)) / 9)


def test_c_t_of_one_cell_is_the_z_of_scipys_mann_whitney_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(0.3, 1, size=60)
    p = stats.mannwhitneyu(a, b, alternative="less", method="asymptotic", use_continuity=False).pvalue
    z = copy_tests.c_t(a, b, np.zeros(40), np.zeros(60))
    assert stats.norm.cdf(z) == pytest.approx(p, rel=1e-9)


def test_without_clusters_the_test_is_delongs():
    # The variance of DeLong et al. (1988), written out: placements of both sets, each set's variance over its size.
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=30), rng.normal(0.4, 1, size=50)
    found = copy_tests.nearer_test(a, b, np.zeros(30), np.zeros(50), np.arange(50))
    wins = (a[:, None] > b[None]).astype(float)
    parts = wins.mean(axis=1).var(ddof=1) / 30, wins.mean(axis=0).var(ddof=1) / 50
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 29 + parts[1] ** 2 / 49)  # Satterthwaite
    assert found.farther == pytest.approx(stats.mannwhitneyu(a, b).statistic / (30 * 50))
    assert found.p == pytest.approx(stats.t.cdf((found.farther - 0.5) / sum(parts) ** 0.5, freedom))
    assert found.worth == pytest.approx(50)


def clustered(rng, patients, per_patient, icc):
    own = rng.normal(size=patients).repeat(per_patient) * icc**0.5
    return own + rng.normal(size=patients * per_patient) * (1 - icc) ** 0.5, np.arange(patients).repeat(per_patient)


def test_p_is_uniform_under_the_null_when_patients_have_many_frames_and_c_ts_is_not():
    p, naive = [], []
    for seed in range(600):
        rng = np.random.default_rng([7, seed])
        held_out, patients = clustered(rng, 12, 30, 0.4)
        generated = rng.normal(size=200)
        cells = rng.integers(2, size=360), rng.integers(2, size=200)
        p.append(copy_tests.nearer_test(generated, held_out, cells[1], cells[0], patients).p)
        naive.append(stats.norm.cdf(copy_tests.c_t(generated, held_out, cells[1], cells[0])))
    rate = np.mean(np.array(p) < 0.05)
    assert stats.binomtest(int(rate * 600), 600).proportion_ci(0.99).low < 0.05 < 0.09 and rate < 0.085
    assert stats.kstest(p, "uniform").statistic < 0.07
    assert np.mean(np.array(naive) < 0.05) > 0.15  # frames taken as independent: three times the level and more


def test_worth_of_clustered_frames():
    rng = np.random.default_rng(3)
    values, patients = clustered(rng, 400, 10, 0.5)
    assert copy_tests.worth(values, patients) == pytest.approx(4000 / (1 + 9 * 0.5), rel=0.1)
    assert copy_tests.worth(rng.normal(size=50), np.arange(50)) == 50
    same = np.arange(5.0).repeat(20)
    assert copy_tests.worth(same, same) == pytest.approx(5)  # frames of a patient all alike: five patients


def test_exceedance_is_the_share_of_orders_that_begin_with_generated_images():
    # Three generated below all of n = 4 (one frame a patient), two above: C(5 + 4 − 3, 4) / C(9, 4).
    found = copy_tests.exceedance_test([0.1, 0.2, 0.3, 0.9, 0.8], [0.5, 0.6, 0.7, 0.85], np.arange(4))
    assert found == (3, pytest.approx(comb(6, 4) / comb(9, 4)), 0.5)


def test_exceedance_keeps_its_level_when_patients_have_many_frames():
    hits = 0
    for seed in range(400):
        rng = np.random.default_rng([8, seed])
        reference, patients = clustered(rng, 40, 15, 0.3)
        hits += copy_tests.exceedance_test(np.exp(rng.normal(size=400)), np.exp(reference), patients)[1] < 0.05
    assert hits / 400 < 0.08


def test_too_few_patients_give_no_p():
    assert np.isnan(copy_tests.nearer_test([1.0, 2, 3], [2.0] * 6, ["a"] * 3, ["a"] * 6, [1, 1, 2, 2, 3, 3]).p)
    assert np.isnan(copy_tests.exceedance_test([0.1], [0.5, 0.6, 0.7], [1, 2, 3])[1])


def test_sets_that_do_not_overlap_have_a_p_by_exchange():
    found = copy_tests.nearer_test([1.0, 2, 3, 4], [6.0, 7, 8, 9], ["a"] * 4, ["a"] * 4, np.arange(4))
    assert found.farther == 0 and found.p == pytest.approx(1 / comb(8, 4))
