"""The search for nearest training frames against brute force, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from dsa_lib.audits import copy_search, planted_copies
from dsa_lib.audits.copy_search import Nearest, embed, search
from dsa_lib.nn import resnet
from dsa_lib.run.errors import StudyError

VECTORS = copy_search.feature_space("values")


def vectors(n, d=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_search_equals_brute_force_patient_by_patient(monkeypatch):
    monkeypatch.setattr(copy_search, "BLOCK", 7)  # several blocks a patient
    training, images, patients = vectors(60), vectors(25, seed=1), np.array(list("abc") * 20)
    rows = np.arange(3, 60)
    found = search(VECTORS, embed(VECTORS, images), training, rows, patients[rows])
    distances = cdist(images.astype(float), training[rows].astype(float))
    for column, name in enumerate("abc"):
        here = np.flatnonzero(patients[rows] == name)
        assert np.allclose(found.distance[:, column], distances[:, here].min(axis=1), rtol=1e-5)
        assert (found.position[:, column] == here[distances[:, here].argmin(axis=1)]).all()
    ordered = np.sort(found.distance, axis=1)
    assert np.allclose(found.relative(), ordered[:, 0] / ordered[:, 1])
    assert (found.at_best("position") == distances.argmin(axis=1)).all()
    assert (found.among(np.array(["b"])).distance[:, 0] == found.distance[:, 1]).all()


def test_an_exact_copy_lies_at_zero_and_a_frame_is_not_compared_with_itself():
    training, patients = vectors(40) * 100 + 1000, np.arange(40) // 10
    own = embed(VECTORS, training[17:18])
    assert search(VECTORS, own, training, np.arange(40), patients).at_best("distance")[0] == 0
    found = search(VECTORS, own, training, np.arange(40), patients, itself=np.array([17]))
    assert found.distance[0, 1] > 0 and found.position[0, 1] != 17
    assert found.without(np.array([1])).best()[0] != 1


def frames_of(n, seed=0, size=64):
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(n, size, size)), (0, 3, 3))
    return np.clip(140 + 400 * values, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("network") / "classifier"
    facts = {"background_grey": 162, "contrast_per_grey": 0.008, "input_size": 32}
    resnet.save_classifier(folder, resnet.build_resnet(8, 1), facts)
    return copy_search.map_space(folder)


@pytest.mark.parametrize("name", ["pixels", "network maps"])
def test_mirrored_and_brighter_copies_are_found(name, network):
    space = {"pixels": copy_search.pixel_space(), "network maps": network}[name]
    training, patients = frames_of(40), np.arange(40) // 4
    copies = training[::5, :, ::-1]
    found = search(space, embed(space, copies), training, np.arange(40), patients)
    assert (found.at_best("position") == np.arange(0, 40, 5)).all() and found.at_best("mirrored").all()
    assert found.at_best("distance").max() < 1e-3
    if name == "pixels":  # contrast and brightness do not count
        changed = (20 + 0.8 * training[::5].astype(float)).round().astype(np.uint8)
        found = search(space, embed(space, changed), training, np.arange(40), patients)
        assert (found.at_best("position") == np.arange(0, 40, 5)).all() and found.relative().max() < 0.1


def test_map_distance_is_lpipss_form(network):
    # Of maps no larger than their grid nothing is averaged: the squared distance is the mean over places and stages of summed squared differences.
    from dsa_lib.ldm.autoencoder import FeatureDistance

    a, b = frames_of(3, 1, 32), frames_of(3, 2, 32)
    torch.manual_seed(0)
    stages = resnet.build_resnet(8, 1).eval()
    distance = FeatureDistance(lambda x: resnet.stage_features(stages, (x + 1) / 2)[:3])
    images = [torch.from_numpy(each[:, None].copy()).float() / 127.5 - 1 for each in (a, b)]
    with torch.no_grad():
        expected = distance(*images).numpy()
    squared = ((embed(network, a)[0] - embed(network, b)[0]) ** 2).sum(axis=1)
    assert np.allclose(squared, expected, rtol=1e-3)


def test_what_cannot_be_searched_is_refused():
    training = vectors(6)
    with pytest.raises(StudyError, match="no training frame"):
        search(VECTORS, embed(VECTORS, training), training, np.zeros(0, int), np.zeros(0))
    with pytest.raises(StudyError, match="compute both alike"):
        search(VECTORS, embed(VECTORS, training[:, :3]), training, np.arange(6), np.arange(6))
    with pytest.raises(StudyError, match="are missing"):
        embed(VECTORS, training[:0], what="generated images")
    broken = training.copy()
    broken[2, 1] = np.nan
    with pytest.raises(StudyError, match="not finite"):
        search(VECTORS, embed(VECTORS, training), broken, np.arange(6), np.arange(6))
    with pytest.raises(StudyError, match="8-bit grey"):
        embed(copy_search.pixel_space(), np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(StudyError, match="one patient only"):
        Nearest(np.ones((3, 1)), np.zeros((3, 1)), np.zeros((3, 1), bool), np.array(["a"])).relative()


def test_frames_to_learn_are_one_a_patient_and_in_all_cells():
    index = pd.DataFrame(
        {
            "split": ["train"] * 40 + ["val"] * 8,
            "cell": ["AC A", "AC B", "PC A", "PC B", "Others", "AC A", "AC B", "AC A"] * 6,
            "patient": [f"P{i // 4}" for i in range(48)],
            "probability": np.linspace(0.5, 1, 48),
        }
    )
    rows = planted_copies.frames_to_learn(index, 8, seed=0)
    found = index.iloc[rows]
    assert len(set(rows)) == 8 and found["patient"].is_unique
    assert (found["split"] == "train").all() and (found["cell"] != "Others").all()
    assert len(planted_copies.frames_to_learn(index, 15, seed=0)) == 15  # more than there are patients: second frames
    assert sorted(planted_copies.chosen(np.array(["a"] * 3), np.array([1, 1, 2]), 9, 0)) == [0, 1, 2]
    with pytest.raises(StudyError, match="no training frame"):
        planted_copies.chosen(np.zeros(0), np.zeros(0), 3, 0)
