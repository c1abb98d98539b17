"""Edited label maps on trees drawn by hand."""

import numpy as np
import pytest
from scipy.ndimage import label
from skimage.draw import line as draw_line

from dsa_lib.maps.edits import branch_removed, edited, narrowed
from dsa_lib.run.errors import StudyError


def stroke(labels, k, r0, c0, r1, c1, half):
    rows, columns = draw_line(r0, c0, r1, c1)
    for row, column in zip(rows, columns, strict=True):
        labels[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1] = k


def tree():
    """A trunk 7 wide entering from below, a branch of class 2 to the left with a twig of class 3 upon it, and a short stump to the right."""
    labels = np.zeros((128, 128), np.uint8)
    stroke(labels, 3, 44, 30, 20, 30, 0)  # twig on the branch
    stroke(labels, 2, 60, 64, 40, 20, 1)  # branch
    stroke(labels, 1, 127, 64, 30, 64, 3)  # trunk
    stroke(labels, 2, 90, 64, 90, 74, 1)  # stump
    return labels


def test_the_longest_loose_branch_goes_and_what_hung_on_it():
    labels = tree()
    after, removed = branch_removed(labels, classes=(1, 2))
    assert (after[removed] == 0).all() and (after[~removed] == labels[~removed]).all()
    assert removed[40, 20:24].any() and removed[20, 30], "the branch's end and the twig upon it"
    assert not removed[:, 68:].any() and after[120, 64] == 1, "neither stump nor trunk"
    assert label(after > 0, np.ones((3, 3)))[1] == 1
    # Of the whole tree the twig and the branch's end part; one of them goes alone.
    _, twig = branch_removed(labels)
    assert twig.sum() < removed.sum()


def test_without_a_loose_branch_there_is_nothing_to_remove():
    bar = np.zeros((64, 64), np.uint8)
    stroke(bar, 1, 63, 32, 10, 32, 2)
    for labels in (bar, np.zeros((64, 64), np.uint8)):
        with pytest.raises(StudyError, match="choose another image"):
            branch_removed(labels)


@pytest.mark.parametrize("severity, width", [(0.6, 3), (0.9, 1)])
def test_a_stenosis_takes_its_share_of_the_width_and_leaves_the_rest(severity, width):
    labels = tree()
    after, removed = narrowed(labels, severity=severity)
    rows = np.flatnonzero(removed.any(axis=1))
    assert 8 <= len(rows) <= 11 and (np.diff(rows) == 1).all()
    middle = rows[len(rows) // 2]
    assert (labels[middle, 60:69] > 0).sum() == 7 and (after[middle, 60:69] > 0).sum() == width
    assert label(after > 0, np.ones((3, 3)))[1] == 1, "it stays open"
    assert (labels[removed] == 1).all() and (after[~removed] == labels[~removed]).all()


def test_a_trunk_of_one_pixel_cannot_be_narrowed():
    thin = np.zeros((64, 64), np.uint8)
    thin[:, 32] = 1
    with pytest.raises(StudyError, match="nowhere wide"):
        narrowed(thin)
    with pytest.raises(StudyError, match="severity 1"):
        narrowed(tree(), severity=1)


def test_a_set_keeps_the_positions_of_those_that_can_be_edited():
    empty = np.zeros((128, 128), np.uint8)
    rows, maps, regions = edited(np.stack([empty, tree(), empty, tree()]), narrowed)
    assert rows.tolist() == [1, 3] and maps.shape == regions.shape == (2, 128, 128) and regions.dtype == bool
    with pytest.raises(StudyError, match="none of 1 label maps"):
        edited(empty[None], branch_removed)
