"""What the figures of the distances draw is what the tables hold, also where patients are too few for an interval."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import intervals as fidelity_intervals
from dsa_lib.fidelity import table5
from dsa_lib.figures import fidelity as distance_figures
from dsa_lib.run.profiles import load_profile


def real(seed, patients, per_cell, first):
    rng = np.random.default_rng(seed)
    owner = np.tile(np.repeat([f"p{first + i}" for i in range(patients)], per_cell), len(CELLS))
    return fidelity_distances.ImageSet(rng.normal(size=(len(owner), 3)), np.repeat(CELLS, patients * per_cell), owner)


def tables(patients):
    settings = replace(load_profile("phantom").fidelity, subsamples=6, infinity_repeats=3)
    generated = fidelity_distances.ImageSet(np.random.default_rng(1).normal(0.5, 1, (40, 3)), np.repeat(CELLS, 10))
    sets = (generated, real(2, patients, 2, 0), real(3, patients, 2, 100))
    results = table5.evaluate(*sets, settings, seed=5)
    drawn = pd.concat(
        [fidelity_intervals.resample(each, settings, 5) for each in fidelity_distances.comparisons(*sets, settings, 5)]
    )
    return results, fidelity_intervals.intervals(results, drawn, settings.subsamples), drawn


def dots(axis):
    """(x, y) of every dot, set by set, row by row."""
    points = [point for line in axis.lines if line.get_marker() == "o" for point in line.get_xydata()]
    return [tuple(np.round(point, 6)) for point in points]


def ends(axis):
    """(low, high) of every interval, set by set, row by row."""
    return [line.get_xdata() for line in axis.lines if line.get_marker() == "None" and np.ptp(line.get_ydata()) == 0]


@pytest.mark.parametrize("patients", [8, 3])
def test_dots_are_the_values_and_lines_their_intervals(patients):
    results, intervals, _ = tables(patients)
    figure = distance_figures.distances(results, intervals, "DSA-feature distance", "phantom")
    first = figure.axes[0]
    value = results.set_index(["scope", "set"])["distance"]
    expected = [
        (round(value[scope, name], 6), round(row + offset, 6))
        for name, offset in zip(distance_figures.LOOKS, (-0.15, 0.15), strict=True)
        for row, scope in enumerate(fidelity_distances.SCOPES)
    ]
    assert dots(first) == expected
    of_distance = intervals[intervals["measure"] == "distance"].set_index(["set", "scope"])[["low", "high"]]
    wanted = [of_distance.loc[(name, scope)] for name in distance_figures.LOOKS for scope in fidelity_distances.SCOPES]
    np.testing.assert_allclose(ends(first), wanted)
    assert np.isnan(wanted).all() == (patients == 3)
    assert [text.get_text().split("\n")[0] for text in first.get_yticklabels()] == list(fidelity_distances.SCOPES)
    plt.close(figure)


def test_the_line_of_the_figure_is_the_line_of_the_table():
    results, intervals, drawn = tables(8)
    figure = distance_figures.patients(results, intervals, drawn, "DSA-feature distance", "phantom")
    end = intervals.set_index(["scope", "set", "measure"]).loc[("overall", "generated", "infinity"), "value"]
    mine = drawn[(drawn["scope"] == "overall") & (drawn["set"] == "generated")]
    means = mine.groupby("patients")["distance"].mean()
    whole = results.set_index(["scope", "set"]).loc[("overall", "generated"), "distance"]
    slope, intercept = np.polyfit(8 / means.index, means, 1)
    line = next(
        line
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] == 0 and line.get_xdata()[1] == 2
    )
    assert intercept == pytest.approx(end)
    np.testing.assert_allclose(line.get_ydata(), [end, end + 2 * slope], rtol=1e-6)
    excess = dots(figure.axes[2])
    floor = results.set_index(["scope", "set"])["distance"]
    assert excess[0][0] == pytest.approx(whole - floor["overall", "floor"], abs=1e-5)
    plt.close(figure)


def test_an_archive_with_a_condition_missing_still_has_its_tables_and_figure():
    settings = replace(load_profile("smoke").fidelity, repeats=1)
    keep = lambda images: images.at(np.flatnonzero(images.cells != "PC A"))  # noqa: E731
    generated = fidelity_distances.ImageSet(np.random.default_rng(1).normal(0.5, 1, (16, 3)), np.repeat(CELLS, 4))
    sets = (generated, keep(real(2, 2, 2, 0)), keep(real(3, 3, 1, 100)))
    results = table5.evaluate(*sets, settings, seed=5)
    drawn = pd.concat(
        [fidelity_intervals.resample(each, settings, 5) for each in fidelity_distances.comparisons(*sets, settings, 5)],
        ignore_index=True,
    )
    intervals = fidelity_intervals.intervals(results, drawn, settings.subsamples)
    plt.close(distance_figures.distances(results, intervals, "DSA-feature distance", "phantom"))
    shown = table5.shown(table5.context(results, intervals, "dsa", "DSA-feature distance", "phantom"))
    assert (shown.loc[shown.index.str.startswith("This run, PC A"), "value [95 %]"] == "").all()
    assert any(line.startswith("PC A, generated: 4 images against 0; no distance") for line in table5.gaps(results, 5))
    assert "PC A" in fidelity_intervals.gaps(intervals)[0]
