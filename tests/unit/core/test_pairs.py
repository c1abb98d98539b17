"""Sets of paired images: parts and rows by hand, and what is refused."""

import numpy as np
import pytest

from dsa_lib.core.pairs import AnatomySet, TranslationSet
from dsa_lib.run.errors import StudyError


def anatomy(**changed):
    given = {
        "frames": np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4),
        "labels": np.ones((3, 4, 4), np.uint8),
        "patients": np.array(["a", "b", "b"]),
        "part": np.array(["train", "test", "test"]),
        "sentences": np.array(["", "", ""]),
        "classes": ("artery",),
    }
    return AnatomySet(**given | changed)


def translation(**changed):
    given = {
        "sources": np.zeros((2, 3, 4, 4), np.uint8),
        "targets": np.zeros((2, 4, 4), np.uint8),
        "lesions": np.zeros((2, 4, 4), bool),
        "kinds": np.array(["", "aneurysm"]),
        "patients": np.array([1, 2]),
        "part": np.array(["train", "val"]),
        "sentences": np.array(["", ""]),
    }
    return TranslationSet(**given | changed)


def test_rows_of_a_part_and_a_set_of_them():
    whole = anatomy()
    assert whole.rows("test").tolist() == [1, 2] and len(whole) == 3
    test = whole.at(whole.rows("test"))
    assert np.array_equal(test.frames, whole.frames[1:]) and test.classes == ("artery",)
    assert len(translation().at(np.array([1]))) == 1


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"part": np.array(["train", "train", "test"])}, "split by patient"),
        ({"part": np.array(["train", "test", "later"])}, "unknown part"),
        ({"labels": np.ones((3, 4, 5), np.uint8)}, "one shape"),
        ({"labels": np.full((3, 4, 4), 2, np.uint8)}, "holds 2"),
        ({"frames": np.zeros((3, 4, 4), np.float32)}, "uint8"),
        ({"sentences": np.array([""])}, "as many of each"),
    ],
)
def test_bad_label_maps_are_refused(changed, fault):
    with pytest.raises(StudyError, match=fault):
        anatomy(**changed)


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"lesions": np.zeros((2, 4, 4), np.uint8)}, "bool"),
        ({"targets": np.zeros((2, 4, 5), np.uint8)}, "one height and width"),
        ({"patients": np.array([1, 1])}, "split by patient"),
    ],
)
def test_bad_pairs_are_refused(changed, fault):
    with pytest.raises(StudyError, match=fault):
        translation(**changed)
