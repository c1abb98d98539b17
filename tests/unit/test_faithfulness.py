"""The judge's labels, augmentation, training and tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest

from dsa_lib import faithfulness
from dsa_lib.conditions import CELLS
from dsa_lib.errors import StudyError
from dsa_lib.profiles import load_profile
from dsa_lib.training import Draws


def test_classes_are_circulation_by_plane_whatever_the_angle():
    table = pd.DataFrame(
        {
            "circulation": ["anterior", "posterior", "anterior", "posterior", None],
            "plane": ["A", "A", "B", "B", "A"],
            "cell": ["Others", "PC A", "AC B", "Others", "Others"],
        }
    )
    assert faithfulness.classes(table).tolist() == [0, 1, 2, 3, -1]


def test_augmentation_never_mirrors():
    # A dark spot left of and above the middle: scaled and shifted it stays there, mirrored or turned it would not.
    images = torch.full((200, 1, 64, 64), 0.6)
    images[:, :, 12:18, 8:14] = 0.1
    changed = faithfulness.augment(images, Draws(3, 0, range(200)))
    darkest = changed.flatten(2).argmin(dim=2)[:, 0]
    rows, columns = darkest // 64, darkest % 64
    assert (rows < 32).all() and (columns < 32).all()
    assert changed.std(dim=0).mean() > 0.01 and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(changed, faithfulness.augment(images, Draws(3, 0, range(200))))


def test_blur_equals_scipy():
    image = np.random.default_rng(0).random((2, 40, 40)).astype(np.float32)
    ours = faithfulness._blurred(torch.from_numpy(image)[:, None], torch.tensor([0.9, 0.0]))[:, 0].numpy()
    np.testing.assert_allclose(ours[0], gaussian_filter(image[0], 0.9, mode="nearest", radius=3), atol=1e-5)
    np.testing.assert_allclose(ours[1], image[1], atol=1e-6)


def patterned(n, seed):
    """Four classes told apart only by where a dark bar lies: orientation for the plane, side for the circulation."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    frames = rng.normal(160, 6, size=(n, 32, 32))
    for frame, label in zip(frames, labels, strict=True):
        place = slice(6, 11) if label % 2 == 0 else slice(21, 26)
        if label < 2:
            frame[:, place] -= 80
        else:
            frame[place, :] -= 80
    return frames.clip(0, 255).astype(np.uint8), labels


def test_a_judge_learns_sides_and_orientations(tmp_path):
    settings = replace(load_profile("smoke").fidelity, judge_steps=60, judge_batch=32, judge_learning_rate=3e-3)
    frames, labels = patterned(160, 1)
    rows = np.arange(160)
    model, history = faithfulness.train_judge(
        frames,
        rows[:128],
        labels[:128],
        settings,
        seed=1,
        folder=tmp_path / "c",
        digest="x",
        validation=(rows[128:], labels[128:]),
    )
    unseen, truth = patterned(80, 2)
    faithfulness.save_judge(model, tmp_path / "judge")
    from transformers import ResNetForImageClassification

    again = ResNetForImageClassification.from_pretrained(tmp_path / "judge").eval()
    probabilities = faithfulness.judge(again, unseen, settings.judge_size, batch_size=16)
    assert again.config.id2label[3] == "PC B"
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == truth).mean() > 0.95
    assert history["val_accuracy"].iloc[-1] > 0.9


def test_a_class_without_frames_is_refused(tmp_path):
    frames, labels = patterned(16, 1)
    rows = np.flatnonzero(labels != 1)
    assert faithfulness.cannot_judge(labels) is None
    with pytest.raises(StudyError, match="no training frame shows PC A"):
        faithfulness.train_judge(
            frames, rows, labels[rows], load_profile("smoke").fidelity, seed=1, folder=tmp_path, digest="x"
        )


def certain(named):
    return np.eye(4)[[CELLS.index(cell) for cell in named]]


def test_rates_and_confusion_by_hand():
    asked = np.array(["AC A", "AC A", "PC A", "AC B", "PC B", "Others"])
    probabilities = certain(["AC A", "PC A", "PC A", "AC A", "PC B", "AC A"])
    table = faithfulness.rates({"generated": (probabilities, asked)}).set_index("scope")
    assert (table.loc["overall", "images"], table.loc["overall", "named_right"]) == (5, 3)
    assert table.loc["AC A", "rate"] == 0.5 and table.loc["PC B", "rate"] == 1
    assert table.loc["overall", "circulation_rate"] == pytest.approx(4 / 5)
    assert table.loc["overall", "plane_rate"] == pytest.approx(4 / 5)
    matrix = faithfulness.confusion(probabilities, asked)
    assert matrix.loc["AC A"].tolist() == [1, 1, 0, 0] and matrix.loc["AC B", "AC A"] == 1
    assert matrix.to_numpy().sum() == 5


def test_verdict_needs_every_condition():
    asked = np.repeat(CELLS, 20)
    good = faithfulness.rates({"generated": (certain(asked), asked)})
    assert faithfulness.verdict(good).endswith("reached.")
    named = asked.copy()
    named[:5] = "PC A"  # 75 % of one condition, 94 % overall
    assert faithfulness.verdict(faithfulness.rates({"generated": (certain(named), asked)})).endswith("missed.")


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (118, 125), (125, 125)])
def test_wilson_interval_equals_scipy(k, n):
    reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert faithfulness.wilson_interval(k, n) == pytest.approx((reference.low, reference.high), abs=1e-7)
