"""Shared marks draw what the table holds: estimates and intervals are taken over, never computed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns

from dsa_lib.figures import style

LOOKS = {"a": style.Look("#000000"), "b": style.Look("#888888", "s", "white")}


@pytest.fixture
def axis():
    _, axis = plt.subplots()
    yield axis
    plt.close("all")


def table():
    """Intervals to one side, one that leaves out its estimate, and one that is not known."""
    return pd.DataFrame(
        {
            "row": ["x", "y", "x", "y"],
            "set": ["a", "a", "b", "b"],
            "value": [1.0, 2.0, 3.0, 4.0],
            "low": [0.9, 2.5, np.nan, 3.0],
            "high": [5.0, 2.9, np.nan, 4.1],
        },
        index=[7, 7, 3, 0],  # as a table is left by a selection
    )


def test_dots_and_intervals_are_the_tables_own(axis):
    style.dots(axis, table(), LOOKS, hue="set", x="value", y="row")
    dots = [line for line in axis.lines if line.get_marker() != "None"]
    assert [line.get_xdata().tolist() for line in dots] == [[1, 2], [3, 4]]
    assert [line.get_markerfacecolor() for line in dots] == ["#000000", "white"]
    ends = [line.get_xdata() for line in axis.lines if line not in dots]
    np.testing.assert_array_equal(ends, table()[["low", "high"]])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["x", "y"] and axis.yaxis_inverted()


def test_bars_too(axis):
    sns.barplot(**style.estimates(table().query("set == 'a'")), x="row", y="value", ax=axis)
    assert [bar.get_height() for bar in axis.patches] == [1, 2]
    assert [line.get_ydata().tolist() for line in axis.lines] == [[0.9, 5.0], [2.5, 2.9]]


def test_two_rows_for_one_mark_are_refused(axis):
    with pytest.raises(ValueError):
        style.dots(axis, pd.concat([table(), table()]), LOOKS, hue="set", x="value", y="row")


def test_a_set_without_rows_keeps_the_others_in_place(axis):
    style.dots(axis, table().query("set == 'b'"), LOOKS, hue="set", x="value", y="row", order=["x", "y", "z"])
    (drawn,) = [line for line in axis.lines if line.get_marker() == "s"]
    np.testing.assert_allclose(drawn.get_ydata(), [0.15, 1.15])
    style.dots(axis, table().iloc[:0], LOOKS, hue="set", x="value", y="row")  # nothing to draw


def test_heat_map_shades_shares_of_a_row_and_writes_counts(axis):
    style.shares(axis, pd.DataFrame([[3, 1], [0, 0]], index=["p", "q"], columns=["p", "q"]))
    assert axis.collections[0].get_array().ravel().tolist() == [0.75, 0.25, 0, 0]
    assert [text.get_text() for text in axis.texts] == ["3", "1", "0", "0"]


@pytest.mark.parametrize(
    "limits, ticks", [((0.5, 1.1), [0.6, 0.8, 1.0]), ((0.3, 12), [0.5, 1, 2, 5, 10]), ((0.002, 3000), [0.01, 1, 100])]
)
def test_logarithmic_axes_have_few_plain_numbers(axis, limits, ticks):
    axis.set(xscale="log", xlim=limits)
    style.plain_logarithms(axis.xaxis)
    shown = [tick for tick in axis.get_xticks() if limits[0] <= tick <= limits[1]]
    assert set(ticks) <= set(np.round(shown, 6)) and len(shown) <= 8
