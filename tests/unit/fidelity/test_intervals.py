"""Intervals by subsampling patients: coverage in simulated clusters whose truth is known, and the pieces against hand-worked cases."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import intervals as fidelity_intervals
from dsa_lib.fidelity.distances import FLOOR, GENERATED, Comparison, ImageSet
from dsa_lib.run.profiles import load_profile

SETTINGS = replace(load_profile("phantom").fidelity, subsamples=30, infinity_points=3, infinity_repeats=10)
PATIENTS, FRAMES, SPREAD, BETWEEN, SHIFT = 14, 8, np.array([1.6, 1.0, 0.7, 0.4]), 0.8, 0.4
# Frames of a patient share a shift with BETWEEN times the spread; generated images have the within-patient spread and are shifted.
# Fréchet distance of the two Gaussians, worked by hand: Σ shift² + Σ (σ_real − σ_generated)².
TRUTH = 4 * SHIFT**2 + (SPREAD**2 * (np.sqrt(1 + BETWEEN**2) - 1) ** 2).sum()


def clustered(rng, patients=PATIENTS, frames=FRAMES, cell="AC A"):
    centre = np.repeat(rng.normal(size=(patients, 4)) * BETWEEN * SPREAD, frames, axis=0)
    owner = np.repeat([f"p{i:02d}" for i in range(patients)], frames)
    return ImageSet(centre + rng.normal(size=centre.shape) * SPREAD, np.full(len(owner), cell), owner)


def compared(rng):
    generated = rng.normal(size=(PATIENTS * FRAMES, 4)) * SPREAD + SHIFT
    sets = {GENERATED: ImageSet(generated, np.full(len(generated), "AC A")), FLOOR: clustered(rng)}
    return Comparison("AC A", clustered(rng), sets)


def evaluated(comparison):
    rows = []
    for name, images in comparison.images.items():
        distance = fidelity_distances.frechet_distance(
            fidelity_distances.statistics(images.features), fidelity_distances.statistics(comparison.reference.features)
        )
        kid, _ = fidelity_distances.kernel_distance(images.features, comparison.reference.features)
        scores = fidelity_distances.neighbour_scores(images.features, comparison.reference.features)
        rows.append({"scope": comparison.scope, "set": name, "distance": distance, "kid": kid} | scores)
    table = pd.DataFrame(rows).assign(distance_sd=0.0, repeats=1, excess=float("nan"))  # as of one draw
    value = table.set_index("set")["distance"]
    if {GENERATED, FLOOR} <= set(value.index):
        table.loc[table["set"] == GENERATED, "excess"] = value[GENERATED] - value[FLOOR]
    return table


@pytest.fixture(scope="module")
def simulated():
    """Intervals of 50 studies drawn afresh, and the subsamples of each."""
    studies, subsamples = [], []
    for seed in range(50):
        comparison = compared(np.random.default_rng(seed))
        drawn = fidelity_intervals.resample(comparison, SETTINGS, seed)
        studies.append(
            fidelity_intervals.intervals(evaluated(comparison), drawn, SETTINGS.subsamples).assign(study=seed)
        )
        subsamples.append(drawn.assign(study=seed))
    return pd.concat(studies), pd.concat(subsamples)


@pytest.mark.parametrize("measure", ["distance", "kid", "infinity", "excess", "coverage"])
def test_intervals_cover_what_they_are_for(simulated, measure):
    table = simulated[0]
    mine = table[(table["measure"] == measure) & (table["set"] == GENERATED)]
    # The expectation at this size is the mean over studies; of endless samples the truth is known, and the floor's is zero.
    truth = TRUTH if measure == "infinity" else mine["value"].mean()
    covered = ((mine["low"] <= truth) & (truth <= mine["high"])).mean()
    # 95 % nominally: of 50, 41 or fewer would be a 1 in 1000 chance.
    assert covered > 41 / 50
    if measure in ("distance", "infinity", "kid"):
        # Nor are they wide without need: a standard error within a factor of the true spread.
        assert 0.7 < mine["standard_error"].mean() / mine["value"].std() < 1.7


def test_extrapolation_removes_the_bias_of_few_patients(simulated):
    table = simulated[0].set_index(["set", "measure"])["value"]
    error = table[GENERATED, "infinity"].std() / np.sqrt(50)
    assert table[GENERATED, "distance"].mean() > TRUTH + 3 * error  # what it starts from
    assert table[GENERATED, "infinity"].mean() == pytest.approx(TRUTH, abs=4 * error)
    floor = table[FLOOR, "infinity"]
    assert abs(floor.mean()) < 4 * floor.std() / np.sqrt(50) + 0.1 * table[FLOOR, "distance"].mean()


def test_resampling_with_replacement_biases_upwards(simulated):
    """The reason for subsampling: the mean over bootstrap samples lies far above what studies of that size give, the subsamples' where theory says."""
    values, boots = [], []
    for seed in range(40):
        comparison = compared(np.random.default_rng(seed))
        made, real = comparison.images[GENERATED], comparison.reference
        values.append(
            fidelity_distances.frechet_distance(*(fidelity_distances.statistics(x.features) for x in (made, real)))
        )
        rng = np.random.default_rng(seed)
        for _ in range(10):
            again = rng.choice(np.unique(real.patients), PATIENTS)
            frames = np.concatenate([np.flatnonzero(real.patients == patient) for patient in again])
            generated = made.features[rng.integers(0, len(made), len(made))]
            boots.append(
                fidelity_distances.frechet_distance(
                    fidelity_distances.statistics(generated), fidelity_distances.statistics(real.features[frames])
                )
            )
    bias = np.mean(values) - TRUTH
    assert np.mean(boots) - np.mean(values) > 0.6 * bias  # the bias once more
    drawn = simulated[1]
    part = drawn[(drawn["set"] == GENERATED) & (drawn["replicate"] < SETTINGS.subsamples)]
    m = part["patients"].iloc[0]
    whole = simulated[0].query("set == @GENERATED and measure == 'distance'")["value"].mean()
    # Bias ∝ 1/m: at m patients it is n/m times that of all.
    assert part["distance"].mean() - TRUTH == pytest.approx((whole - TRUTH) * PATIENTS / m, rel=0.25)


def test_the_line_equals_statsmodels_and_finds_an_exact_one():
    drawn = pd.DataFrame({"patients": [10, 10, 12, 15, 20], "of_patients": 20, "distance": [9.5, 10.5, 8.5, 7.4, 6.1]})
    found = fidelity_intervals.infinity(drawn)
    x, y = np.array([2, 20 / 12, 20 / 15, 1]), np.array([10.0, 8.5, 7.4, 6.1])
    fitted = sm.OLS(y, sm.add_constant(x)).fit()
    assert found["infinity"] == pytest.approx(fitted.params[0])
    assert found["infinity_fit_error"] == pytest.approx(fitted.bse[0])
    assert found["infinity_r2"] == pytest.approx(fitted.rsquared)
    exact = drawn.assign(distance=3 + 4 * 20 / drawn["patients"])
    assert fidelity_intervals.infinity(exact)["infinity"] == pytest.approx(3.0)
    assert np.isnan(fidelity_intervals.infinity(exact.iloc[:3])["infinity"])


def test_subsamples_are_of_whole_patients_in_the_same_share_and_mix():
    rng = np.random.default_rng(0)
    parts = [
        clustered(rng, 12, 5, "AC A"),
        clustered(rng, 12, 1, "PC B"),
    ]  # the same twelve patients in both conditions
    reference = ImageSet(
        *(np.concatenate([getattr(part, key) for part in parts]) for key in ("features", "cells", "patients"))
    )
    generated = ImageSet(rng.normal(size=(240, 4)), np.repeat(CELLS[:1] + CELLS[-1:], 120))
    seen = []
    original = ImageSet.at

    def at(self, positions):
        seen.append(original(self, positions))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageSet, "at", at)
        table = fidelity_intervals.resample(Comparison("overall", reference, {GENERATED: generated}), SETTINGS, 1)
    first = table[table["replicate"] < SETTINGS.subsamples]
    assert (first["patients"] == 9).all() and (first["reference_images"] == 9 * 6).all()
    assert (first["images"] == 180).all()
    last = table.iloc[-1]
    assert (last["patients"], last["images"], last["reference_images"]) == (12, 240, 72)
    assert (
        sorted(table["patients"].unique()) == [6, 8, 9, 12]
        and (table["patients"] == 6).sum() == SETTINGS.infinity_repeats
    )
    for real in seen[: SETTINGS.subsamples]:
        owners, counts = np.unique(real.patients, return_counts=True)
        assert len(owners) == 9 and (counts == 6).all()  # never a part of a patient, never one twice
    assert first["distance"].nunique() == len(first)
    assert table.loc[table["replicate"] >= SETTINGS.subsamples, "kid"].isna().all()


def test_kid_of_a_subsample_is_that_of_its_images():
    comparison = compared(np.random.default_rng(5))
    table = fidelity_intervals.resample(comparison, replace(SETTINGS, subsamples=2), 5)
    rng = np.random.default_rng([5, 0])
    kept = np.isin(
        comparison.reference.patients, rng.choice(np.unique(comparison.reference.patients), 10, replace=False)
    )
    made = comparison.images[GENERATED]
    rng.choice(len(made), round(10 / 14 * len(made)), replace=False)
    chosen = rng.choice(len(made), 80, replace=False)
    expected = fidelity_distances.kernel_distance(
        made.features[chosen], comparison.reference.features[kept], subset=10**6
    )[0]
    assert table.loc[0, "kid"] == pytest.approx(expected, rel=1e-9)


def test_few_patients_give_no_interval_and_a_reason():
    rng = np.random.default_rng(0)
    comparison = Comparison(
        "PC A", clustered(rng, 5), {GENERATED: ImageSet(rng.normal(size=(30, 4)), np.full(30, "PC A"))}
    )
    drawn = fidelity_intervals.resample(comparison, SETTINGS, 1)
    assert len(drawn) == 0
    others = fidelity_intervals.resample(compared(rng), replace(SETTINGS, subsamples=3), 1)
    numbers = fidelity_intervals.RESAMPLED[2:]  # stay numbers beside an empty table
    assert (pd.concat([drawn, others])[numbers].dtypes == others[numbers].dtypes).all()
    result = pd.concat(
        [evaluated(comparison), evaluated(Comparison("PC A", comparison.reference, {FLOOR: clustered(rng, 5)}))]
    )
    result.loc[result["set"] == GENERATED, "excess"] = 0.5
    table = fidelity_intervals.intervals(result, drawn, SETTINGS.subsamples)
    assert table["value"].notna().sum() == 13 and table[["low", "high"]].isna().all(axis=None)
    (sentence,) = fidelity_intervals.gaps(table)
    assert sentence.startswith("PC A: no interval") and "6 patients" in sentence
