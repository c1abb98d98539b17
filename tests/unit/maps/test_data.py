"""Frames, label maps and edges of notebook 21: which frames of a series, which part, what is left out, what is told and judged."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from folder_run import FolderRun
from test_acdc import write

from dsa_lib.curation import annotations
from dsa_lib.maps import data as map_data
from dsa_lib.maps import map_diffusion
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PHANTOM, SMOKE


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
            "cell": ["AC A"] * 5 + ["PC B"],
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

    found, rows = map_data.of_frames(arterial(), frames, maps, PHANTOM.anatomy)
    assert found.frames[:, 0, 0].tolist() == rows["frame_id"].tolist() == [3, 5]
    assert found.part.tolist() == ["train", "test"] and found.patients.tolist() == ["p", "q"]
    assert found.sentences.tolist() == ["one", "other"] and found.classes == ("proximal", "medium", "peripheral")
    assert map_data.held_out(found, 10).tolist() == [1]


def test_no_labelled_training_frame_and_nobody_held_out_are_errors():
    frames = np.zeros((6, 4, 4), np.uint8)
    with pytest.raises(StudyError, match="no training frame"):
        map_data.of_frames(arterial(), frames, lambda rows, pictures: np.zeros_like(pictures), PHANTOM.anatomy)
    found, _ = map_data.of_frames(arterial(), frames, lambda rows, pictures: np.ones_like(pictures), PHANTOM.anatomy)
    with pytest.raises(StudyError, match="no patient is held out"):
        map_data.held_out(found.at(found.rows("train")), 10)


def test_held_out_frames_are_spread_evenly():
    frames = np.zeros((6, 4, 4), np.uint8)
    table = arterial().assign(
        series=list("ABCDEF"), split=["train", *["val"] * 2, *["test"] * 3], patient=list("abcdef")
    )
    found, _ = map_data.of_frames(table, frames, lambda rows, pictures: np.ones_like(pictures), PHANTOM.anatomy)
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
    first, _ = map_data.of_frames(table, frames, lambda rows, pictures: np.ones_like(pictures), PHANTOM.anatomy)
    second, _ = map_data.of_frames(table, frames, lambda rows, pictures: 2 * np.ones_like(pictures), PHANTOM.anatomy)
    assert map_data.digest(first) != map_data.digest(second)
    assert map_data.digest(first) == map_data.digest(first.at(np.arange(len(first))))


@pytest.fixture
def run(tmp_path):
    """Two series of 16² pixels; the latents of frame k are k, in another order than the frames."""
    frames = np.full((6, 16, 16), 160, np.uint8)
    frames[:, 6:10] = 60
    np.save(tmp_path / "frames.npy", frames)
    arterial().to_parquet(tmp_path / "arterial.parquet")
    (tmp_path / "latents").mkdir()
    arterial().iloc[::-1].reset_index(drop=True).to_parquet(tmp_path / "latents/index.parquet")
    latents = np.arange(6.0)[::-1, None, None, None] * np.ones((1, 1, 2, 2))
    np.save(tmp_path / "latents/mean.npy", latents)
    np.save(tmp_path / "latents/std.npy", latents + 10)
    return FolderRun(tmp_path, PHANTOM)


def drawn(rows, frames):
    return (frames < 100).astype(np.uint8)


def test_a_run_s_frames_come_with_their_latents_edges_conditions_and_held_out_rows(run):
    data, (mean, std) = map_data.of_run(run, drawn, "by hand")
    assert mean[:, 0, 0, 0].tolist() == [2, 3, 5] and std[:, 0, 0, 0].tolist() == [12, 13, 15]
    assert data.held_out.tolist() == [2] and data.kinds.tolist() == ["AC A", "AC A", "PC B"]
    assert (data.annotation, data.origin, data.annotated) == ("by hand", "phantom", PHANTOM.anatomy.annotated)
    edges = map_diffusion.edges(data.frames, 1.0, 0.5, 1.25)
    assert edges.any() and np.array_equal(data.edges, edges)
    assert data.conditions(True).shape == (3, 3, 16, 16) and data.conditions(False).shape == (3, 2, 16, 16)
    assert np.array_equal(data.conditions(True)[1:2][0, 2], edges[1])
    assert map_data.of_run(replace(run, archive=run.folder), drawn, "")[0].origin == "archive"


def test_an_automatic_annotation_is_what_the_segmenter_finds(run):
    data, _ = map_data.of_run(run, map_data.automatic(lambda frames, what: drawn(what, frames)), "automatic")
    assert np.array_equal(data.labels, data.frames < 100)


def test_of_acdc_all_classes_are_told_and_the_testing_folder_alone_is_judged(tmp_path):
    for n in range(1, 4):
        write(tmp_path, f"patient{n:03d}")
    write(tmp_path, "patient101", "testing")
    (tmp_path / "training" / "patient002" / "Info.cfg").unlink()
    write(tmp_path, "patient004")
    data, quarantine = map_data.of_acdc(FolderRun(tmp_path, SMOKE), tmp_path)
    assert quarantine["patient"].tolist() == ["patient002"]
    assert set(data.patients[data.held_out]) == {"patient101"} and data.annotated == data.classes
    assert (data.annotation, data.origin) == ("manual", "ACDC") and np.array_equal(data.kinds, data.patients)


def test_what_is_saved_is_what_is_read_again(run, tmp_path):
    data, _ = map_data.of_run(run, drawn, "the phantom's truth")
    data.save(tmp_path / "set.npz")
    again = map_data.MapSet.load(tmp_path / "set.npz")
    assert (again.annotation, again.origin) == (data.annotation, data.origin)
    assert (again.annotated, again.classes) == (data.annotated, data.classes)
    for name in ("frames", "labels", "edges", "judged", "kinds", "patients", "part", "sentences"):
        assert np.array_equal(getattr(again, name), getattr(data, name)), name
    assert map_data.digest(again) == map_data.digest(data)


def test_edges_of_another_shape_or_type_are_refused(run):
    data, _ = map_data.of_run(run, drawn, "")
    for edges in (data.edges[:, :4], data.edges.astype(np.uint8)):
        with pytest.raises(StudyError, match="give bool of one shape"):
            replace(data, edges=edges)
