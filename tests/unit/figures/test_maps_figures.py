"""Figures of notebooks 21 and 22: what is drawn, where, and in which number; their looks are judged by eye."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dsa_lib.figures import maps
from dsa_lib.maps import models as map_models
from dsa_lib.nn.curve import training_curve

CLASSES = ("proximal", "medium", "peripheral")
SIX = [(m, h) for h in ("w/ edges", "w/o edges") for m in maps.METHOD_COLOURS]


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def pictures(n=2, side=30):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (n, side, side)).astype(np.uint8)
    return (160 - 30 * labels).astype(np.uint8), labels, labels == 1


def shown(axis):
    return np.asarray(axis.images[0].get_array())


def test_conditions_show_the_annotated_classes_alone_as_told():
    frames, labels, edges = pictures()
    figure = maps.conditions(frames, labels, edges, ("proximal", "medium"), CLASSES)
    axes = np.array(figure.axes).reshape(2, 4)
    assert np.array_equal(shown(axes[1, 0]), frames[1]) and np.array_equal(shown(axes[1, 3]), edges[1])
    assert (shown(axes[0, 2])[labels[0] == 3] == 0).all() and (shown(axes[0, 1])[labels[0] == 3] > 0).all()
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["proximal", "medium", "peripheral (not annotated)"]


def test_outputs_stand_beside_the_truth_and_magnified_below():
    frames, labels, edges = pictures()
    outputs = {key: np.full_like(frames, 10 * n) for n, key in enumerate(SIX)}
    figure = maps.qualitative(frames, labels, edges, outputs, ("proximal",), CLASSES, cuts=[(5, 7), (0, 0)])
    axes = np.array(figure.axes).reshape(4, 9)
    assert np.array_equal(shown(axes[1, 0]), frames[0][5:15, 7:17]) and (shown(axes[0, 8]) == 50).all()
    assert axes[0, 4].get_title() == "SPADE\nw/ edges"
    assert len(maps.qualitative(frames, labels, edges, outputs, ("proximal",), CLASSES).axes) == 18


def test_spectra_over_the_truth():
    radius = np.linspace(0.02, 0.5, 10)
    curves = {half: {m: (radius, np.full(10, 2.0)) for m, h in SIX if h == half} for half in ("w/ edges", "w/o edges")}
    figure = maps.spectra(curves, (radius, np.full(10, 4.0)), "phantom")
    below = np.array(figure.axes).reshape(2, 2)[1, 0]
    assert (below.lines[1].get_ydata() == 0.5).all() and len(below.lines) == 4
    beside = maps.spectra(curves, (radius, np.full(10, 4.0)), "phantom", (radius, np.full(10, 3.0)))
    below = np.array(beside.axes).reshape(2, 2)[1, 1]
    assert (below.lines[-1].get_ydata() == 0.75).all() and not below.lines[-1].get_linestyle() == "-"


def table(arms):
    rows = [
        arm | {"of": of, "score": 0.6, "low": 0.5, "high": 0.7} for arm in arms for of in ("any class", "centre line")
    ]
    return pd.DataFrame(rows)


def test_bars_with_intervals_and_ceiling():
    ceiling = pd.DataFrame({"of": ["any class", "centre line"], "score": [0.9, 0.95]})
    axis = maps.compliance(table([{"method": m, "half": h} for m, h in SIX]), ceiling).axes[0]
    assert len(axis.patches) == 12 and all(bar.get_height() == 0.6 for bar in axis.patches)
    assert [line.get_ydata().tolist() for line in axis.lines] == [[0.5, 0.7]] * 12
    ceilings = [segment[:, 1].tolist() for lines in axis.collections for segment in lines.get_segments()]
    assert ceilings == [[0.9, 0.9], [0.95, 0.95]]
    filled = [bar.get_facecolor()[:3] != (1, 1, 1) for bar in axis.patches]
    assert filled == [True, True, False, False] * 3  # with edges, without
    assert len(maps.compliance(table([{"method": "LDM", "half": "w/ edges"}])).axes[0].patches) == 2


def test_edits_are_cut_to_their_region():
    frames, labels, _ = pictures(2, 60)
    region = np.zeros((60, 60), bool)
    region[40:44, 10:14] = True
    row = {"title": "stenosis", "labels": labels[0], "edited": labels[0] * ~region, "region": region}
    row["outputs"] = {half: (frames[0], frames[1]) for half in ("w/ edges", "w/o edges")}
    figure = maps.edited([row, row], CLASSES)
    first = figure.axes[:8]
    assert np.array_equal(shown(first[2]), frames[0][32:52, 2:22]) and shown(first[4]).shape == (20, 20)
    assert np.array_equal(shown(first[7]), frames[1][32:52, 2:22].astype(float) - frames[0][32:52, 2:22])


def test_segmenters_one_mark_an_arm_and_class():
    axis = maps.segmenters(table([{"arm": "real pairs"}, {"arm": "synthetic pairs"}]), "phantom").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["any class", "centre line"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in dots] == [[0.6, 0.6]] * 2
    assert [line.get_xdata().tolist() for line in axis.lines if line not in dots] == [[0.5, 0.7]] * 4


def test_a_gan_curve_shows_the_same_measure_of_both_sets():
    log = pd.DataFrame(
        {"step": [1, 2], "train_loss": [40.0, 30.0], "train_perceptual": [0.4, 0.3], "val_loss": [0.5, 0.4]}
    )
    log["val_perceptual"] = log["val_loss"]
    columns, what = map_models.drawn_of("SPADE", log)
    axis = training_curve(log, "SPADE", None, columns, what).axes[0]
    assert axis.get_ylabel() == "perceptual distance"
    drawn = [line for line in axis.lines if len(line.get_xdata())]  # the others are the legend's
    assert [list(line.get_ydata()) for line in drawn] == [[0.4, 0.3], [0.5, 0.4]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["training", "validation patients"]
    assert map_models.drawn_of("SPADE", log.drop(columns="train_perceptual"))[0] == ("train_l1", "val_l1")
    assert map_models.drawn_of("LDM", log) == (("train_loss", "val_loss"), "loss")
