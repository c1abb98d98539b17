"""The images of a run: which frame belongs to which set, and what is refused before anything long begins."""

import numpy as np
import pandas as pd
import pytest
from folder_run import SIZE, with_images

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import image_sets
from dsa_lib.fidelity.extractor import Extractor
from dsa_lib.run.errors import StudyError


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return with_images(tmp_path_factory.mktemp("run"))


def mean_grey(frames):
    return frames.reshape(len(frames), -1).mean(axis=1, keepdims=True).astype(np.float32)


def test_sets_are_of_their_splits_and_features_of_their_frames(study):
    images = image_sets.of_run(study)
    assert set(images.rows["train"]["patient"]) == {"p0", "p1"} and set(images.held_out["patient"]) == {
        "p2",
        "p3",
        "p4",
        "p5",
    }
    sets = images.features(Extractor("grey", "x", mean_grey, batch_size=5), "phantom")
    assert list(sets) == ["generated", "training", "held-out"]
    np.testing.assert_allclose(sets["generated"].features, mean_grey(np.asarray(images.generated)), rtol=1e-6)
    assert sets["generated"].cells.tolist() == images.asked["cell"].tolist() and sets["generated"].patients is None
    for name, rows in (("training", images.rows["train"]), ("held-out", images.held_out)):
        np.testing.assert_allclose(
            sets[name].features, mean_grey(images.frames[rows["frame_id"].to_numpy()]), rtol=1e-6
        )
        assert sets[name].patients.tolist() == rows["patient"].tolist()


def test_counts_are_by_condition_and_split(study):
    counts = image_sets.of_run(study).counts("phantom")
    assert list(counts.columns) == ["generated", "phantom, train", "phantom, val", "phantom, test"]
    assert counts.loc[list(CELLS), "generated"].tolist() == [3] * 4
    assert counts.loc["Others"].tolist() == [0, 1, 0, 0] and counts["phantom, train"].sum() == 24


def test_a_patient_in_two_splits_and_frames_of_another_size_are_refused(tmp_path):
    study = with_images(tmp_path)
    np.save(tmp_path / "frames.npy", np.zeros((72, SIZE // 2, SIZE // 2), np.uint8))
    with pytest.raises(StudyError, match=f"generated {SIZE}×{SIZE}, real {SIZE // 2}×{SIZE // 2}"):
        image_sets.of_run(study)
    np.save(tmp_path / "frames.npy", np.zeros((72, SIZE, SIZE), np.uint8))
    arterial = pd.read_parquet(tmp_path / "arterial.parquet")
    arterial["patient"] = arterial["patient"].replace("p5", "p0")
    arterial.to_parquet(tmp_path / "arterial.parquet")
    with pytest.raises(StudyError, match="1 patients are both in the training and in the held-out frames"):
        image_sets.of_run(study)
