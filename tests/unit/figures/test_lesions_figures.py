"""The pictures of notebooks 23 and 24 hold what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_lesion_requests import pairs
from test_lesion_scores import scores

from dsa_lib.figures import lesions
from dsa_lib.figures.adherence import confusions
from dsa_lib.lesions.lesion_requests import confusion
from dsa_lib.lesions.lesion_scores import paired, table


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    every = [axis for part in (figure, *figure.subfigs) for axis in part.axes]
    return {text.get_text() for axis in every for text in (*axis.texts, axis.title, axis.xaxis.label)}


def test_pairs_and_translations():
    given = pairs()
    figure = lesions.pairs(given, [0, 1, 2], source="native frame")
    assert {"native frame", "target", "no lesion", "aneurysm", "stenosis"} <= texts(figure)
    made = {"cLDM": given.targets[[0, 1]], "pix2pix": given.targets[[2, 3]]}
    figure = lesions.translations(given, [0, 1], made, {"cLDM": [np.nan, 12.34]})
    assert {"source", "truth", "cLDM", "pix2pix", "12.3"} <= texts(figure)
    insets = [child for axis in figure.axes for child in axis.child_axes]
    assert len(insets) == 4  # of the one case with a lesion
    assert np.array_equal(insets[0].images[0].get_array().shape, lesions._box(given.lesions[1])[2:] * 2)


def test_the_enlarged_square_lies_in_the_frame():
    mask = np.zeros((64, 64), bool)
    mask[0:4, 60:64] = True
    assert lesions._box(mask) == (0, 54, 10) and lesions._box(np.zeros((64, 64), bool)) is None
    mask[:] = True
    assert lesions._box(mask) == (0, 0, 64)


def test_scores_and_timesteps():
    given = scores({"base": 1.0, "new": 0.8})
    figure = lesions.scores(table(given), paired(given, "base"))
    assert "lesion MAE,\ngrey levels" in texts(figure) and "change from\n“base”, %" in texts(figure)
    curve = pd.DataFrame({"t": [1, 500, 1000], "mae": [1.0, 3, 9], "lesion_mae": [2.0, 8, 20]})
    figure = lesions.timesteps(curve, 0.5, [(0, np.zeros((8, 8), np.uint8)), (500, np.zeros((8, 8), np.uint8))])
    assert {"truth", "t = 500"} <= texts(figure)


def test_before_and_after_and_on_request():
    rows = [
        (arm, measure, 3, 0.5, 0.4, 0.6)
        for measure in ("peripheral area", "condition rate")
        for arm in ("before", "post-trained")
    ]
    given = pd.DataFrame(rows, columns=["arm", "measure", "images", "value", "low", "high"])
    frames = {arm: np.zeros((3, 8, 8), np.uint8) for arm in ("before", "post-trained")}
    assert {"peripheral area\n/ held-out", "condition rate", "before"} <= texts(lesions.before_after(given, frames))
    assert "condition rate" in texts(lesions.before_after(given))
    named = {"aneurysm": ["aneurysm", "none"], "AVM": ["AVM", "AVM"]}
    figure = lesions.on_request({kind: np.zeros((2, 8, 8), np.uint8) for kind in named}, named)
    colours = [text.get_color() for text in figure.axes[1].texts]
    assert lesions.WRONG in colours and {"aneurysm", "AVM", "none"} <= texts(figure)


def test_a_confusion_of_five_kinds():
    figure = confusions({"held-out": confusion(["none", "AVM"], np.array([0, 4]))}, size=3.2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["none", "aneurysm", "stenosis", "occlusion", "AVM"]  # fmt: skip
