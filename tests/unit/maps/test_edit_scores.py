"""Edited label maps: which edits can be made, what a model is told, and what is said of its answer."""

import numpy as np
import pandas as pd
import pytest

from dsa_lib.maps import edits, map_diffusion

CLASSES = ("proximal", "medium", "peripheral")


def tree():
    """A trunk of width 7 with one long branch of another class."""
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[:, 4:60, 28:35] = 1
    labels[:, 30:33, 35:58] = 2
    return labels


def obedient(maps, seeds):
    """Draws what it is told, and nothing else."""
    return np.where(maps.max(axis=1) > 0, 60, 160).astype(np.uint8)


def stubborn(maps, seeds):
    return np.where(tree()[: len(maps)] > 0, 60, 160).astype(np.uint8)


def test_an_obedient_model_follows_both_edits_and_a_stubborn_one_neither():
    labels = tree()
    found, not_made = edits.edits(labels, np.array([0, 1]), (1, 2))
    assert [edit.name for edit in found] == [edits.REMOVED, edits.NARROWED] and not not_made
    make = {("obedient", False): obedient, ("stubborn", False): stubborn}
    for edit in found:
        assert np.array_equal(edit.before != edit.after, edit.region)
        made = edits.images(edit, np.zeros(labels.shape, bool), CLASSES, ("proximal", "medium"), make)
        table = edits.responses(edit, made, np.array(["a", "b"]), 50, 0).set_index("model")
        assert table.loc["obedient", "kept"] == pytest.approx(0, abs=1e-9)
        assert table.loc["stubborn", "kept"] == pytest.approx(1)
        said = edits.statements(table.reset_index())
        assert "the image follows" in said[0] and "does not follow" in said[1]
        assert "0.0 elsewhere" in said[0]


def test_a_model_with_edges_is_told_them_in_both_ways_and_the_seeds_are_the_places():
    labels, told = tree(), []
    boundaries = map_diffusion.edges(np.where(labels > 0, 60, 160).astype(np.uint8), 1.0, 0.5, 1.25)
    (edit, *_), _ = edits.edits(labels, np.array([1]), (1, 2))

    def spy(maps, seeds):
        told.append((maps, list(seeds)))
        return obedient(maps, seeds)

    made = edits.images(edit, boundaries, CLASSES, ("proximal", "medium"), {("spy", True): spy})
    assert list(made) == [("spy", "withheld"), ("spy", "redrawn")]
    assert all(seeds == [1] for _, seeds in told)
    assert np.array_equal(told[0][0][:, 2], boundaries[[1]])
    assert not (told[1][0][:, 2][edit.region]).any(), "withheld along the edit"
    assert told[1][0][:, 1].sum() < told[0][0][:, 1].sum()


def test_an_edit_where_nothing_was_seen_has_no_number():
    row = {"edit": "a branch removed", "model": "LDM", "edges": edits.NO_EDGES, "kept": float("nan")}
    (said,) = edits.statements(pd.DataFrame([row]))
    assert said.endswith("nothing was to be seen there before the edit.") and "nan" not in said


def test_maps_without_a_tree_are_told_of():
    found, not_made = edits.edits(np.zeros((1, 64, 64), np.uint8), np.array([0]), (1, 2))
    assert not found and len(not_made) == 2 and edits.REMOVED in not_made[0]
