"""The panels of Figure 4 draw the tables' numbers, each at its condition and segment."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dsa_lib.figures import reader_study

CELLS = ["AC A", "PC B"]
PLACES = [0, 1, 2, 4, 5, 6]  # of three segments in two conditions


@pytest.fixture
def axis():
    _, axis = plt.subplots()
    yield axis
    plt.close("all")


def each():
    return pd.MultiIndex.from_product([CELLS, reader_study.SEGMENTS], names=["cell", "segment"]).to_frame(index=False)


def test_bars_are_the_shares_stacked_from_one_to_five(axis):
    table = each().merge(pd.DataFrame({"rating": range(1, 6), "count": [1, 2, 3, 4, 0]}), how="cross")
    table["share"] = table["count"] / 10
    last = table["cell"].eq("PC B") & table["segment"].eq("peripheral")
    table.loc[last, ["count", "share"]] = [0, np.nan]  # no rating
    reader_study.panel_a(axis, table, CELLS)
    for patches, grade in zip(axis.containers, range(1, 6), strict=True):
        bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in patches if bar.get_height()}
        wanted = [0.1, 0.2, 0.3, 0.4, 0.0][grade - 1]
        assert [bar.get_height() for bar in bars.values()] == pytest.approx([wanted] * (5 if wanted else 0))
        assert set(bars) == (set(PLACES[:5]) if wanted else set())
        assert all(
            bar.get_facecolor()[:3] == pytest.approx(reader_study.GRADE_COLOURS[grade - 1][:3]) for bar in patches
        )
    written = [text.get_text() for text in axis.texts]
    assert (
        written.count("40") == 5 and written.count("no rating") == 1 and written.count("10") == 10
    )  # shares and counts


def test_raters_stand_at_their_means_with_their_intervals(axis):
    table = each().merge(pd.DataFrame({"rater": ["R1", "R2"], "role": ["NR", "NR"]}), how="cross")
    table["mean"] = 2 + np.arange(len(table)) / 10
    table["low"], table["high"] = table["mean"] - 0.5, table["mean"] + 0.25
    table.loc[0, ["low", "high"]] = np.nan  # one rated image
    reader_study.panel_d(axis, table, CELLS, ["R1", "R2"])
    drawn = [line for line in axis.lines if line.get_marker() == "o"]
    for line, rater, aside in zip(drawn, ("R1", "R2"), (-0.1, 0.1), strict=True):
        points = line.get_xydata()[np.isfinite(line.get_ydata())]
        np.testing.assert_allclose(points[:, 0], np.add(PLACES, aside))
        np.testing.assert_allclose(points[:, 1], table.loc[table["rater"] == rater, "mean"])
    ends = {tuple(np.round(line.get_ydata(), 6)) for line in axis.lines if len(line.get_xdata()) == 2}
    assert set(table[["low", "high"]].round(6).dropna().itertuples(index=False, name=None)) <= ends
    assert [line.get_markerfacecolor() == "white" for line in drawn] == [False, True]  # told apart within a role


def test_boxes_stand_at_the_medians(axis):
    values = pd.DataFrame({"cell": ["AC A"] * 3 + ["PC B"] * 3, "proximal": [1, 2, 5, 3, 3, 4.0]})
    scores = values.assign(medium=np.nan, peripheral=values["proximal"] - 0.5)  # no image with a medium segment
    reader_study.panel_b(axis, scores, CELLS)
    medians = [line.get_xydata().mean(axis=0) for line in axis.lines if line.get_linewidth() == 1.5]
    np.testing.assert_allclose(sorted(map(tuple, medians)), [(0, 2), (2, 1.5), (4, 3), (6, 2.5)])
    assert sorted(text.get_text() for text in axis.texts if text.get_text() == "3") == ["3"] * 4
