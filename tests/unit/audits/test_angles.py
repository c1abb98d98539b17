"""Errors of angles and their intervals, and the angle sweep: positions, kinds, slopes, sentences."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dsa_lib.audits import angle_sweep, angles
from dsa_lib.core.condition_sentences import Condition, SeenConditions
from dsa_lib.run.profiles import load_profile

PRIMARY, SECONDARY = "primary_angle_deg", "secondary_angle_deg"


def pairs(primary, secondary=0.0):
    return pd.DataFrame({PRIMARY: np.asarray(primary, float), SECONDARY: secondary})


def test_a_full_turn_apart_is_the_same_position():
    assert angles.difference([179, -179, 10, -90], [-179, 179, 4, -90]).tolist() == [-2, 2, 6, 0]


def test_clustered_mean_by_hand():
    # Liang & Zeger 1986 with the usual correction n/(n − 1) · G/(G − 1) for one parameter: residual sums of the groups, −3, 0 and 3.
    values, groups = np.array([1.0, 2.0, 3.0, 3.0, 4.0, 5.0]), np.array(list("aabbcc"))
    sums = np.array([values[groups == g].sum() - 2 * values.mean() for g in "abc"])
    error = np.sqrt((sums**2).sum() * (3 / 2) * (5 / 5)) / 6
    mean, low, high = angles.clustered_mean(values, groups)
    half = stats.t.ppf(0.975, 2) * error
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half))
    assert np.isnan(angles.clustered_mean(values, np.zeros(6))[1])


def test_groups_that_agree_within_themselves_widen_the_interval():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(10), 20)
    values = rng.normal(0, 3, 10)[patients] + rng.normal(0, 1, 200)
    apart = np.diff(angles.clustered_mean(values, np.arange(200))[1:])
    together = np.diff(angles.clustered_mean(values, patients)[1:])
    assert together > 2 * apart


def test_intervals_over_patients_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(1), []
    for _ in range(400):
        patients = np.repeat(np.arange(8), 6)
        values = rng.normal(0, 2, 8)[patients] + rng.normal(0, 1, 48)
        _, low, high = angles.clustered_mean(values, patients)
        held.append(low <= 0 <= high)
    assert 0.92 <= np.mean(held) <= 0.98  # 95 % of 400: SD 1.1 %


def test_errors_by_hand():
    known = pairs([0, 0, -90, -90, 20])
    judged = angles.Judged(
        pairs([2, -4, -90, -84, 30], [1, 1, 1, np.nan, 1]),
        known,
        np.array(["AC A", "AC A", "AC B", "AC B", "Others"]),
        np.array(list("ppqqr")),
    )
    table = angles.errors({"held-out": judged}).set_index(["scope", "angle"])
    row = table.loc[("overall", PRIMARY)]
    assert (row["mae"], row["bias"]) == pytest.approx((12 / 4, 4 / 4))
    assert (row["images"], row["groups"], row["p90"]) == (4, 2, pytest.approx(np.quantile([2, 4, 0, 6], 0.9)))
    assert table.loc[("Others", PRIMARY), "mae"] == 10  # oblique frames stand apart
    assert table.loc[("AC A", PRIMARY), "bias"] == -1 and np.isnan(table.loc[("AC A", PRIMARY), "mae_low"])
    assert table.loc[("overall", SECONDARY), "images"] == 3  # a reading that does not exist is not an error of 0
    assert ("PC A", PRIMARY) not in table.index
    assert "3.0° over 4 frames of the set “held-out”" in angles.statement(
        pd.concat([table.reset_index(), table.reset_index().assign(set="generated")]), real="held-out"
    )


def test_line_equals_scipy_where_every_image_is_its_own_group():
    rng = np.random.default_rng(2)
    known = rng.uniform(-30, 30, 400)
    judged = 3 + 0.7 * known + rng.normal(0, 5, 400)
    found, reference = angles.line(judged, known, np.arange(400)), stats.linregress(known, judged)
    assert (found["slope"], found["intercept"], found["correlation"]) == pytest.approx(
        (reference.slope, reference.intercept, reference.rvalue)
    )
    half = (found["slope_high"] - found["slope_low"]) / 2
    assert half == pytest.approx(
        stats.t.ppf(0.975, 399) * reference.stderr, rel=0.05
    )  # sandwich and classical error agree for even noise
    assert found["correlation_low"] < reference.rvalue < found["correlation_high"] <= 1


@pytest.mark.parametrize(
    ("known", "groups"), [([0, 1, 2, 3], [0, 0, 0, 0]), ([0, 0, 0, 0], [0, 1, 2, 3]), ([0, 9], [0, 1])]
)
def test_a_line_needs_groups_spread_and_images(known, groups):
    assert np.isnan(list(angles.line(np.array(known) * 0.5, known, groups).values())).all()


SEEN = SeenConditions(
    {
        ("anterior", "A"): [(0, 0), (-30, 0), (30, 0), (0, 20), (0, -20)],
        ("anterior", "B"): [(-90, 0)],
        ("posterior", "A"): [(0, 0), (0, 20), (0, 30)],
    }
)


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        (("anterior", "A", 30, 0), "in training"),
        (("anterior", "A", 2, -3), "in training"),  # drawn to the canonical position
        (("anterior", "A", -26, 3), "within 5°"),
        (("anterior", "A", 10, 0), "between"),
        (("anterior", "A", 20, 15), "beyond"),
        (("anterior", "A", 40, 0), "beyond"),
        (("anterior", "B", -80, 0), "beyond"),  # one position has no between
        (("posterior", "A", 0, 12), "beyond"),  # nor have positions on one line
    ],
)
def test_kinds_of_positions(condition, kind):
    assert angle_sweep.kind(Condition(*condition), SEEN) == kind


def settings():
    return replace(load_profile("smoke").sweep, primary_deg=(-40, -10, 0, 10, 20), secondary_deg=(-10, 0, 10))


def test_positions_move_one_angle_at_a_time_and_seeds_are_shared():
    asked = angle_sweep.positions(settings(), SEEN)
    assert set(asked["cell"]) == {"AC A", "AC B", "PC A"}  # PC B was never in training
    assert len(asked) == 3 * (5 + 3 - 1)
    moved = asked[asked["cell"] == "AC B"]
    assert ((moved[PRIMARY] == -90) | (moved[SECONDARY] == 0)).all() and moved[PRIMARY].min() == -130
    rows = angle_sweep.plan(asked, [7, 8])
    assert rows.groupby(["cell", PRIMARY, SECONDARY])["seed"].agg(set).map(sorted).tolist() == [[7, 8]] * len(asked)
    assert rows["file"].is_unique and rows["sentence"].str.startswith("This is a").all()


def swept(slope, noise, bent=None):
    """A sweep whose images turn by `slope` degrees a degree, each seed with an offset of its own."""
    rng = np.random.default_rng(3)
    rows = angle_sweep.plan(angle_sweep.positions(settings(), SEEN), [1, 2, 3, 4, 5])
    offset = rows["seed"].map(dict(zip([1, 2, 3, 4, 5], rng.normal(0, 1, 5), strict=True)))
    centre = np.where(rows["plane"] == "B", -90, 0)
    read = centre + slope * (rows[PRIMARY] - centre) + offset + rng.normal(0, noise, len(rows))
    return rows.assign(
        judged_primary_angle_deg=read, judged_secondary_angle_deg=rows[SECONDARY] + offset, judged_cell=rows["cell"]
    )


def real(slope=1.0, noise=3.0):
    rng = np.random.default_rng(4)
    known = pairs(rng.uniform(-30, 30, 120))
    judged = pairs(slope * known[PRIMARY] + rng.normal(0, noise, 120), rng.normal(0, 1, 120))
    return {"held-out": angles.Judged(judged, known, np.full(120, "Others"), np.repeat(np.arange(10), 12))}


def verdict(table, frames):
    found = angle_sweep.statements(angle_sweep.following(table, frames, np.full(120, "AC A")), reference="held-out")
    return next(line for line in found if line.startswith("AC A, primary"))


@pytest.mark.parametrize(
    ("slope", "frames", "said"),
    [
        (0.9, real(), "AC A, primary angle: follows (slope 0."),
        (0.0, real(), "does not follow"),
        (0.3, real(), "follows in part"),
        (0.9, real(slope=0.0, noise=8.0), "cannot read this angle off held-out frames either"),
    ],
)
def test_what_a_sweep_is_said_to_show(slope, frames, said):
    assert said in verdict(swept(slope, 0.5), frames)


def test_slopes_of_a_sweep_leave_out_what_lies_beyond():
    table = swept(1.0, 0.0)
    far = table["kind"] == "beyond"
    table.loc[far, "judged_primary_angle_deg"] = 500.0
    found = angle_sweep.following(table, {}, np.array([])).set_index(["cell", "angle", "set"])
    inside = found.loc[("AC A", PRIMARY, "sweep, inside")]
    assert (
        inside["slope"] == pytest.approx(1) and inside["groups"] == 5 and inside["images"] == 4 * 5
    )  # −40° lies beyond
    assert found.loc[("AC A", PRIMARY, "sweep, all"), "slope"] < 0


def test_too_few_positions_are_said_to_be_too_few():
    found = angle_sweep.statements(angle_sweep.following(swept(1.0, 0.5), real(), np.full(120, "AC A")), "held-out")
    assert any(line.startswith("AC B, primary angle: too few") for line in found)


def test_strip_and_points_pick_the_images_of_one_seed_and_angle():
    table = swept(1.0, 0.0)
    strip = angle_sweep.strip(table, PRIMARY, 3)
    assert strip.groupby("cell").size().eq(5).all()
    assert (table.loc[strip["index"], "seed"] == 3).all() and set(strip["moved_by"]) == {-40, -10, 0, 10, 20}
    assert strip.loc[strip["cell"] == "AC B", "asked"].tolist() == [-130, -100, -90, -80, -70]
    points = angle_sweep.points(table, real()["held-out"], np.full(120, "AC A"))
    assert (points["set"] == "real").sum() == 2 * 120 and (points["set"] == "sweep").sum() == 3 * (5 + 3) * 5
