"""Agreement with the asked label map and the response to an edit, by hand."""

import numpy as np
import pytest

from dsa_lib.maps import compliance
from dsa_lib.run.errors import StudyError


def label_map(n=4, side=32):
    labels = np.zeros((n, side, side), np.uint8)
    labels[:, 10:14, 4:28] = 1
    labels[:, 20:22, 4:28] = 2
    return labels


def darker(labels):
    return (160 - 40 * (labels > 0)).astype(np.uint8)


def test_what_the_segmenter_finds_is_held_against_the_map_that_was_asked_for():
    labels = label_map()
    found = labels.copy()
    found[:, 20:22, 4:16] = 0  # half of class 2 is missed
    table = compliance.of_maps(found, labels, np.arange(4), ("a", "b"))
    assert list(table.index) == ["any class", "a", "b", "centre line"]
    assert table.score["a"] == 1 and table.score["b"] == pytest.approx(2 * 24 / (24 + 48))
    assert (table.low <= table.score).all() and (table.score <= table.high).all()


def test_the_paired_difference_of_two_sets_by_hand():
    labels = label_map()
    half = labels.copy()
    half[:, 20:22, 4:16] = 0
    table = compliance.difference(labels, half, labels, np.arange(4), ("a", "b"), draws=50)
    assert table.loc["a"].tolist() == [0, 0, 0]
    assert table.loc["b"].tolist() == pytest.approx([1 / 3] * 3)  # all images alike: no spread
    back = compliance.difference(half, labels, labels, np.arange(4), ("a", "b"), draws=50)
    assert back.difference["b"] == pytest.approx(-1 / 3)


def test_a_vessel_that_goes_leaves_no_darkness_and_nothing_else_changes():
    labels = label_map(1, 64)
    region = np.zeros(labels.shape, bool)
    region[:, 20:22, 10:20] = True
    before = darker(labels)
    gone = np.where(region, 160, before).astype(np.uint8)
    row = compliance.response(before, gone, region, labels > 0).iloc[0]
    assert row.darkness_before == 40 and row.darkness_after == 0 and row.kept == 0
    assert row.inside == 40 and row.outside == 0 and row.focus == np.inf
    ignored = compliance.response(before, before, region, labels > 0).iloc[0]
    assert ignored.kept == 1 and ignored.inside == 0 and np.isnan(ignored.focus)
    half = np.where(region, 140, before).astype(np.uint8)
    half[:, 50:60] += 2
    row = compliance.response(before, half, region, labels > 0).iloc[0]
    assert row.kept == 0.5 and 0 < row.outside < 2 and row.focus == pytest.approx(20 / row.outside)


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda x, y, r: (x, y[:, :8], r), "one bool region"),
        (lambda x, y, r: (x, y, r.astype(int)), "one bool region"),
        (lambda x, y, r: (x, y, np.zeros_like(r)), "is empty"),
        (lambda x, y, r: (x, y, np.ones_like(r)), "no surroundings"),
        (lambda x, y, r: (x.astype(float), y, r), "8-bit grey"),
    ],
)
def test_bad_edits_are_refused(change, fault):
    x = darker(label_map())
    with pytest.raises(StudyError, match=fault):
        compliance.response(*change(x, x, label_map() == 2))
