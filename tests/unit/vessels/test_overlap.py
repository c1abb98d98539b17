"""Dice against MONAI's and by hand, clDice by hand, intervals over patients."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice

from dsa_lib.run.errors import StudyError
from dsa_lib.vessels import overlap


def maps(seed: int, n: int = 6, side: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice(4, (n, side, side), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)


def test_dice_is_monais():
    found, true = maps(0), maps(1)
    of_frames = overlap.ratio(overlap.counts(found, true))
    one_hot = [torch.nn.functional.one_hot(torch.from_numpy(m).long(), 4).permute(0, 3, 1, 2) for m in (found, true)]
    assert of_frames[:, 1:4] == pytest.approx(compute_dice(*one_hot, include_background=False).numpy())
    vessel = [torch.from_numpy(m > 0)[:, None] for m in (found, true)]
    assert of_frames[:, 0] == pytest.approx(compute_dice(*vessel).numpy()[:, 0])


def test_centre_line_dice_by_hand():
    """Found: a part of a bar three pixels wide, and a line elsewhere.

    Precision 9 of 19 pixels; sensitivity 9 of 20, since thinning takes one of the bar's 21.
    """
    true = np.zeros((1, 20, 30), np.uint8)
    true[0, 4:7, 4:25] = 1
    found = np.zeros_like(true)
    found[0, 5, 5:14] = 2
    found[0, 15, 5:15] = 2
    inside, line, sensed, true_line = overlap.counts(found, true)[0, -1]
    assert (inside, line) == (9, 19) and (sensed, true_line) == (9, 20)
    assert overlap.ratio(overlap.counts(found, true))[0, -1] == pytest.approx(2 * 9 / (19 + 20))
    assert overlap.ratio(overlap.counts(true, true))[0, -1] == 1


def test_pooled_over_frames_and_bootstrapped_over_patients():
    found, true = maps(2, 12), maps(3, 12)
    patients = np.repeat(["a", "b", "c", "d"], 3)
    table = overlap.scores(found, true, patients, draws=300)
    assert list(table.index) == list(overlap.SCORES)
    a, b = found > 0, true > 0
    assert table.loc["vessel", "score"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert (table["low"] <= table["score"]).all() and (table["score"] <= table["high"]).all()
    # Patients alike within and unlike between: frames as units would give a narrower interval.
    mixed = np.concatenate([true[:6], found[6:]])
    by_patient = overlap.scores(mixed, true, np.repeat(["a", "b"], 6), draws=300).loc["vessel"]
    by_frame = overlap.scores(mixed, true, np.arange(12), draws=300).loc["vessel"]
    assert by_patient["high"] - by_patient["low"] > 1.5 * (by_frame["high"] - by_frame["low"])


def test_a_class_that_neither_holds_has_no_score_and_one_that_is_missed_scores_0():
    true = np.zeros((1, 16, 16), np.uint8)
    true[0, 5:8, 2:14] = 2
    score = overlap.ratio(overlap.counts(np.zeros_like(true), true))[0]
    assert score[[0, 2, 4]].tolist() == [0, 0, 0] and np.isnan(score[[1, 3]]).all()
    with pytest.raises(StudyError, match="cannot be compared"):
        overlap.counts(true, true[:, :8])
