"""Frames and label maps of notebook 08: which frames of a series, which part, what is left out."""

import numpy as np
import pandas as pd
import pytest

from dsa_lib.curation import annotations
from dsa_lib.maps import data as map_data
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PHANTOM


def arterial():
    """Two series: in A the best frames are 2 and 3, in B only one frame is arterial."""
    return pd.DataFrame(
        {
            "frame_id": range(6),
            "series": ["A"] * 5 + ["B"],
            "frame": [0, 1, 2, 3, 4, 7],
            "probability": [0.55, 0.95, 0.99, 0.97, 0.6, 0.7],
            "patient": ["p"] * 5 + ["q"],
            "split": ["train"] * 5 + ["test"],
            "sentence": ["one"] * 5 + ["other"],
        }
    )


def test_the_latest_of_the_surest_frames_are_taken():
    assert annotations.best_filled(arterial(), 1, 0.9)["frame_id"].tolist() == [3, 5]
    assert annotations.best_filled(arterial(), 2, 0.9)["frame_id"].tolist() == [2, 3, 5]
    assert annotations.best_filled(arterial(), 2, 0.5)["frame_id"].tolist() == [3, 4, 5]
    with pytest.raises(StudyError, match="frames_per_series is 0"):
        annotations.best_filled(arterial(), 0, 0.9)


def test_a_set_holds_the_chosen_frames_with_their_maps_and_leaves_out_empty_maps():
    frames = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)

    def maps(rows, pictures):
        assert (pictures[:, 0, 0] == rows["frame_id"]).all()
        labels = np.zeros(pictures.shape, np.uint8)
        labels[rows["frame_id"] != 2, 0, 0] = 3
        return labels

    found, rows = map_data.of_run(arterial(), frames, maps, PHANTOM.anatomy)
    assert found.frames[:, 0, 0].tolist() == rows["frame_id"].tolist() == [3, 5]
    assert found.part.tolist() == ["train", "test"] and found.patients.tolist() == ["p", "q"]
    assert found.sentences.tolist() == ["one", "other"] and found.classes == ("proximal", "medium", "peripheral")
    assert map_data.held_out(found, 10).tolist() == [1]


def test_no_labelled_training_frame_and_nobody_held_out_are_errors():
    frames = np.zeros((6, 4, 4), np.uint8)
    with pytest.raises(StudyError, match="no training frame"):
        map_data.of_run(arterial(), frames, lambda rows, pictures: np.zeros_like(pictures), PHANTOM.anatomy)
    found, _ = map_data.of_run(arterial(), frames, lambda rows, pictures: np.ones_like(pictures), PHANTOM.anatomy)
    with pytest.raises(StudyError, match="no patient is held out"):
        map_data.held_out(found.at(found.rows("train")), 10)


def test_held_out_frames_are_spread_evenly():
    frames = np.zeros((6, 4, 4), np.uint8)
    table = arterial().assign(
        series=list("ABCDEF"), split=["train", *["val"] * 2, *["test"] * 3], patient=list("abcdef")
    )
    found, _ = map_data.of_run(table, frames, lambda rows, pictures: np.ones_like(pictures), PHANTOM.anatomy)
    assert map_data.held_out(found, 3).tolist() == [1, 3, 5]
    assert set(found.part[map_data.held_out(found, 9, ("test",))]) == {"test"}


def test_the_busiest_square_holds_the_most_edges():
    edges = np.zeros((12, 10), bool)
    edges[7:10, 4:7] = True
    edges[0, :] = True
    assert map_data.busiest(edges, 3) == (7, 4)


def test_images_to_show_come_from_every_group():
    groups = np.array(["a"] * 6 + ["b"] * 3 + ["c"])
    assert set(groups[map_data.varied(groups, 3)]) == {"a", "b", "c"}
    assert len(map_data.varied(groups, 5)) == 5
    assert map_data.varied(groups[:1], 4).tolist() == [0]


def test_another_image_label_or_part_is_another_digest():
    table = arterial()
    frames = np.zeros((6, 4, 4), np.uint8)
    first, _ = map_data.of_run(table, frames, lambda rows, pictures: np.ones_like(pictures), PHANTOM.anatomy)
    second, _ = map_data.of_run(table, frames, lambda rows, pictures: 2 * np.ones_like(pictures), PHANTOM.anatomy)
    assert map_data.digest(first) != map_data.digest(second)
    assert map_data.digest(first) == map_data.digest(first.at(np.arange(len(first))))
