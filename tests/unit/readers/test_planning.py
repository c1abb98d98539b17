"""Planning formulas against simulated studies: of mean squares, and of whole grades 1-5 rated by simulated raters."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dsa_lib.figures import reader_study
from dsa_lib.readers import planning
from dsa_lib.readers.mixed_model import MixedFit, mixed_icc
from dsa_lib.readers.planning import Components
from dsa_lib.readers.reliability import bootstrap, icc2, mean_squares, percentile_interval
from dsa_lib.run.errors import StudyError

STUDY = Components(image_sd=0.7, rater_sd=0.2, error_sd=0.6)


def rate(c, n, k, rng, rater=None):
    rater = rng.normal(0, c.rater_sd, (1, k)) if rater is None else rater
    return 3 + rng.normal(0, c.image_sd, (n, 1)) + rater + rng.normal(0, c.error_sd, (n, k))


def test_simulated_mean_squares_are_those_of_simulated_ratings():
    rng = np.random.default_rng(0)
    drawn = planning.simulate_mean_squares(STUDY, 30, 4, 4000, 1)
    rated = np.array([[x[0] for x in mean_squares(rate(STUDY, 30, 4, rng))] for _ in range(4000)]).T
    for ours, theirs in zip(drawn, rated, strict=True):
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.06)
        assert np.quantile(ours, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(theirs, [0.1, 0.5, 0.9]), rel=0.08)
    fixed = np.array([[-1.0, -1, 1, 1]]) * STUDY.rater_sd * np.sqrt(3 / 4)  # standard deviation (ddof 1) as planned
    assert fixed.std(ddof=1) == pytest.approx(STUDY.rater_sd)
    rated = np.array([mean_squares(rate(STUDY, 30, 4, rng, fixed)).raters[0] for _ in range(4000)])
    drawn = planning.simulate_mean_squares(STUDY, 30, 4, 4000, 1, same_raters=True).raters
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(rated, [0.1, 0.5, 0.9]), rel=0.08)


@pytest.mark.parametrize(("images", "raters"), [(50, 3), (100, 4), (239, 4), (100, 6), (400, 3)])
def test_formula_of_the_icc_half_width_agrees_with_simulated_studies(images, raters):
    simulated = planning.simulated_icc_half_width(STUDY, images, raters, 4000, 2)
    assert planning.icc_half_width(STUDY, images, raters) == pytest.approx(simulated["mean"], rel=0.1)
    assert simulated["median"] < simulated["p90"]


def test_formula_holds_for_whole_grades():
    """Ratings rounded and clipped to 1-5: planned from a pilot's own components, as from the real thing."""
    rng = np.random.default_rng(5)
    c = Components(0.8, 0.25, 0.7)
    pilot = np.clip(np.rint(rate(c, 4000, 12, rng)), 1, 5)
    found, sentence = planning.from_pilot(mixed_icc(pilot), "pilot")
    assert "those of the pilot" in sentence
    half = [np.ptp(icc2(np.clip(np.rint(rate(c, 120, 4, rng)), 1, 5)).average_ci) / 2 for _ in range(400)]
    assert planning.icc_half_width(found, 120, 4) == pytest.approx(np.mean(half), rel=0.12)


def test_same_raters_half_width_is_what_the_bootstrap_shows():
    rng = np.random.default_rng(7)
    fixed = np.array([[-1.0, -1, 1, 1]]) * STUDY.rater_sd * np.sqrt(3 / 4)
    widths = [
        np.ptp(percentile_interval(bootstrap(rate(STUDY, 100, 4, rng, fixed), 400, seed)[1])) / 2 for seed in range(60)
    ]
    planned = planning.simulated_icc_half_width(STUDY, 100, 4, 8000, 3)["same_raters"]
    assert planned == pytest.approx(np.mean(widths), rel=0.08)


@pytest.mark.parametrize("other_raters", [False, True])
def test_interval_of_a_mean_covers_as_it_promises(other_raters):
    """Interval mean ± half width, with the half width that these data give, over 3000 studies of 40 images and 5 raters."""
    rng = np.random.default_rng(11)
    n, k, studies = 40, 5, 3000
    fixed = None if other_raters else np.zeros((1, k))
    hits, widths = 0, []
    for _ in range(studies):
        y = rate(STUDY, n, k, rng, fixed)
        msr, msc, mse = (float(x[0]) for x in mean_squares(y))
        # components of this study; mean squares below error count as error alone
        own = Components(np.sqrt(max((msr - mse) / k, 1e-9)), np.sqrt(max((msc - mse) / n, 0)), np.sqrt(mse))
        half = planning.mean_half_width(own, n, k, other_raters)
        hits += abs(y.mean() - 3) <= half
        widths.append(half)
    assert hits / studies == pytest.approx(0.95, abs=0.025)
    assert planning.mean_half_width(STUDY, n, k, other_raters) == pytest.approx(np.mean(widths), rel=0.15)


def test_fewest_images_meets_the_target_and_one_less_does_not():
    for half in (
        lambda n: planning.icc_half_width(STUDY, n, 4),
        lambda n: planning.mean_half_width(STUDY, n, 4),
        lambda n: planning.mean_half_width(STUDY, n, 6, other_raters=True),
    ):
        target = half(57) * 1.0001
        n = int(planning.fewest_images(half, target))
        assert half(n) <= target < half(n - 1)
    assert np.isnan(planning.fewest_images(lambda n: planning.mean_half_width(STUDY, n, 2, other_raters=True), 0.1))


def test_power_is_reached_in_simulated_studies():
    n = int(planning.images_for_difference(STUDY, 4, 0.4, power=0.8, comparisons=1))
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(1500):
        rater = rng.normal(0, STUDY.rater_sd, (1, 4))  # the same raters for both conditions
        a, b = rate(STUDY, n, 4, rng, rater).mean(axis=1), rate(STUDY, n, 4, rng, rater).mean(axis=1) + 0.4
        found += stats.ttest_ind(a, b).pvalue < 0.05
    assert found / 1500 == pytest.approx(0.8, abs=0.04)
    assert planning.images_for_difference(STUDY, 4, 0.4) > n  # six comparisons cost images


def test_requirements_and_figure():
    table = planning.requirements(STUDY, (2, 4, 8), 0.05, 0.15, 0.3, yield_share=0.5)
    assert table.index.tolist() == [2, 4, 8]
    assert table["ICC(2,k)"].tolist() == pytest.approx([STUDY.icc(k) for k in (2, 4, 8)])
    images = table.iloc[:, 1]
    assert images[8] < images[4]
    same = table.filter(like="these raters").iloc[:, 0]
    assert (table["… to generate for the mean"] == 2 * same).all()
    precision = planning.precision(STUDY, (25, 100), (3, 4), studies=200)
    figure = reader_study.half_widths(precision, 0.05, 0.15, "planned from a test")
    figure.canvas.draw()
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_marker() != "None"]
    assert [line.get_ydata().tolist() for line in lines] == [
        precision.loc[precision["raters"].eq(k), "icc_half"].tolist() for k in (3, 4)
    ]
    plt.close(figure)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (lambda: Components(0, 0.1, 0.5), "an image_sd and an error_sd above 0"),
        (lambda: Components(0.5, float("nan"), 0.5), "an image_sd and an error_sd above 0"),
        (lambda: planning.icc_half_width(STUDY, 100, 1), "at least two images and two raters"),
        (lambda: planning.fewest_images(lambda n: 1 / n, 0), "give one above 0"),
        (lambda: planning.images_for_difference(STUDY, 4, -1), "a difference of -1"),
        (lambda: planning.requirements(STUDY, (4,), 0.05, 0.15, 0.3, 0), "share of generated images"),
        (lambda: Components.of(mixed_icc(np.full((5, 3), 2.0))), "all ratings are equal"),
    ],
)
def test_impossible_plans_are_one_sentence(plan, sentence):
    with pytest.raises(StudyError) as fault:
        plan()
    assert sentence in str(fault.value) and "\n" not in str(fault.value)


def test_a_pilot_that_determines_nothing_leaves_the_stated_assumption():
    found, sentence = planning.from_pilot(mixed_icc(np.array([[1.0], [2], [3]])), "reader ratings")
    assert found == planning.ASSUMED and "assumed" in sentence and "fewer than two raters" in sentence


@pytest.mark.parametrize("image_var, yield_share", [(0.36, 0.25), (0.0, 1 / 40)])
def test_a_pilot_survives_its_file(tmp_path, image_var, yield_share):
    fit = MixedFit(40, 4, 160, image_var=image_var, rater_var=0.09, error_var=0.49)
    scores = pd.DataFrame({"scored": [True] * round(40 * yield_share) if image_var else [False]})
    planning.pilot_table(fit, "reader ratings", scores, 40).to_csv(tmp_path / "pilot.csv", index=False)
    found = planning.read_pilot(tmp_path / "pilot.csv")
    components, origin = planning.from_pilot(fit, "reader ratings")
    assert vars(found.components) == pytest.approx(vars(components))
    assert (found.origin, found.source, found.yield_share) == (origin, "reader ratings", pytest.approx(yield_share))


def test_without_a_pilot_the_plan_says_that_its_values_are_assumed():
    found = planning.read_pilot(None)
    assert found.components == planning.ASSUMED and "assumed" in found.origin and "assumed" in found.source
