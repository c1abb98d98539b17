"""The audit on planted cases: a model that copies, and one that draws anew."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from dsa_lib import privacy
from dsa_lib.errors import StudyError


def sets(copies, seed=0, n=200, d=8):
    rng = np.random.default_rng(seed)
    training, held_out, generated = (rng.normal(size=(n, d)) for _ in range(3))
    generated[:copies] = training[:copies] + rng.normal(size=(copies, d)) * 0.01
    return training, held_out, generated


def test_nearest_neighbours_equal_brute_force():
    training, held_out, _ = sets(0)
    found = privacy.nearest_neighbours(held_out, training)
    distances = cdist(held_out, training)
    assert np.allclose(found.distance, distances.min(axis=1), rtol=1e-12)
    assert (found.position == distances.argmin(axis=1)).all()


def test_an_exact_copy_lies_at_zero():
    training, *_ = sets(0)
    found = privacy.nearest_neighbours(training[17:18].astype(np.float32), training.astype(np.float32))
    assert found.distance[0] == 0 and found.position[0] == 17


def test_summary_tells_a_copying_model_from_an_honest_one():
    tables = {}
    for copies in (0, 150):
        training, held_out, generated = sets(copies)
        near = [privacy.nearest_neighbours(x, training) for x in (generated, held_out)]
        tables[copies] = privacy.summary(*near).set_index("measure")
    honest, copying = tables[0], tables[150]
    assert honest.loc["median_distance", "ratio"] == pytest.approx(1, abs=0.1)
    assert honest.loc["share_near", "generated"] < 0.12 and honest.loc["share_near", "held_out"] == pytest.approx(0.05)
    assert copying.loc["median_distance", "ratio"] < 0.1 and copying.loc["share_near", "generated"] > 0.7
    assert "does not show that the images are anonymous" in privacy.statement(copying.reset_index())


def test_closest_pairs_are_sorted_and_name_each_training_frame_once():
    near = privacy.Neighbours(np.array([0.5, 0.1, 0.2, 0.3]), np.array([7, 4, 4, 9]))
    pairs = privacy.closest_pairs(near, 3)
    assert pairs["training"].tolist() == [4, 9, 7] and pairs["generated"].tolist() == [1, 3, 0]


def test_empty_sets_are_refused():
    with pytest.raises(StudyError, match="at least one"):
        privacy.nearest_neighbours(np.zeros((3, 2)), np.zeros((0, 2)))
