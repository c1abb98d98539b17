"""Edited label maps: which edits can be made, what a model is told, and what is said of its answer."""

import numpy as np
import pandas as pd
import pytest

from dsa_lib.core.pairs import AnatomySet
from dsa_lib.maps import data as map_data
from dsa_lib.maps import edits
from dsa_lib.maps.models import WITH, WITHOUT
from dsa_lib.run.profiles import PHANTOM

CLASSES = ("proximal", "medium", "peripheral")


def tree():
    """A trunk of width 7 with one long branch of another class."""
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[:, 4:60, 28:35] = 1
    labels[:, 30:33, 35:58] = 2
    return labels


def held_out(labels, **changed):
    """A set whose last images are held out, one patient an image, after one that is not."""
    n = len(labels) + 1
    labels = np.concatenate([labels[:1], labels])
    frames = np.where(labels > 0, 60, 160).astype(np.uint8)
    part = np.array(["train"] + ["test"] * (n - 1))
    data = AnatomySet(frames, labels, np.arange(n), part, np.full(n, ""), CLASSES)
    return map_data.with_edges(data, PHANTOM.anatomy, data.patients, annotated=("proximal", "medium"), **changed)


def obedient(maps, seeds):
    """Draws what it is told, and nothing else."""
    return np.where(maps.max(axis=1) > 0, 60, 160).astype(np.uint8)


def stubborn(maps, seeds):
    return np.where(tree()[: len(maps)] > 0, 60, 160).astype(np.uint8)


@pytest.mark.parametrize("model, kept, said", [(obedient, 0, "the image follows"), (stubborn, 1, "does not follow")])
def test_an_obedient_model_follows_both_edits_and_a_stubborn_one_neither(model, kept, said):
    data = held_out(tree())
    found, not_made = edits.edits(data, 10)
    assert [edit.name for edit in found] == [edits.REMOVED, edits.NARROWED] and not not_made
    before = {WITHOUT: model(data.conditions(False)[data.held_out], data.held_out)}
    for edit in found:
        assert edit.rows.tolist() == [1, 2] and np.array_equal(edit.before != edit.after, edit.region)
        made = edits.images(edit, data, before, {WITHOUT: model})
        table = edits.responses(edit, made, np.array(["a", "b"]), 50, 0)
        assert table["model"].tolist() == [f"LDM {WITHOUT}"] and table["edges"].tolist() == [edits.NO_EDGES]
        assert table["kept"][0] == pytest.approx(kept, abs=1e-9)
        (told,) = edits.statements(table)
        assert said in told and "0.0 elsewhere" in told


def test_a_model_with_edges_is_told_them_in_both_ways_and_no_image_is_made_twice():
    data, told = held_out(tree()), []
    (edit, *_), _ = edits.edits(data, 1)  # the first held-out image alone

    def spy(maps, seeds):
        told.append((maps, list(seeds)))
        return obedient(maps, seeds)

    before = {WITH: np.stack([np.full((64, 64), n, np.uint8) for n in range(2)])}
    made = edits.images(edit, data, before, {WITH: spy})
    assert list(made) == [(WITH, "withheld"), (WITH, "redrawn")] and len(told) == 2
    assert all(seeds == [1] for _, seeds in told), "the seeds are the places in the set"
    assert all((first == 0).all() for first, _ in made.values()), "before: the image that was made of the same place"
    withheld, redrawn = (maps[:, 2].astype(bool) for maps, _ in told)
    assert not withheld[edit.region].any() and redrawn.sum() > withheld.sum()
    assert told[0][0][:, 1].sum() < (data.labels[[1]] == 2).sum()


def test_the_example_is_the_edit_of_median_size():
    labels = np.concatenate([tree(), tree()[:1]])
    sizes = np.zeros((3, 64, 64), bool)
    for n, pixels in enumerate((9, 3, 6)):
        sizes[n, 0, :pixels] = True
    edit = edits.Edited("an edit", np.arange(3), labels, labels, sizes)
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 64, 64), np.uint8)
    made = {(WITH, "withheld"): (images, images), (WITH, "redrawn"): (images, images + 10)}
    row = edits.example(edit, made | {(WITHOUT, edits.NO_EDGES): (images, images + 20)})
    assert row["title"] == "an edit" and row["region"].sum() == 6
    assert {half: (first[0, 0], second[0, 0]) for half, (first, second) in row["outputs"].items()} == {
        WITH: (2, 12),
        WITHOUT: (2, 22),
    }


def test_an_edit_where_nothing_was_seen_has_no_number():
    row = {"edit": "a branch removed", "model": "LDM", "edges": edits.NO_EDGES, "kept": float("nan")}
    (said,) = edits.statements(pd.DataFrame([row]))
    assert said.endswith("nothing was to be seen there before the edit.") and "nan" not in said


def test_maps_without_a_tree_are_told_of_and_other_organs_have_no_edits():
    found, not_made = edits.edits(held_out(np.zeros((1, 64, 64), np.uint8)), 10)
    assert not found and len(not_made) == 2 and edits.REMOVED in not_made[0]
    assert edits.edits(held_out(tree(), origin=map_data.ACDC), 10) == ([], ["Edits are of vessels: none here."])
