"""Segmenters of different training pairs, tested alike: pairs whose labels are right teach, pairs whose labels are wrong do not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dsa_lib.maps import synthetic_pairs
from dsa_lib.maps.synthetic_pairs import REAL, SYNTHETIC
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import SMOKE

SETTINGS = replace(
    SMOKE.plausibility, network_channels=(4, 4, 8, 8, 8, 4), network_size=64, network_crop=48, network_steps=60,
    network_batch=6, network_learning_rate=1e-2,
)  # fmt: skip


def made(n, seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, 64, 64), np.uint8)
    for one in labels:
        for k, width in ((1, 6), (2, 4), (3, 2)):
            at = rng.integers(4, 56)
            one[at : at + width] = k
    frames = 162 - np.array([0, 80, 50, 25])[labels] + rng.normal(0, 3, labels.shape)
    return frames.clip(0, 255).astype(np.uint8), labels


def test_arms_differ_in_their_pairs_alone(tmp_path):
    frames, labels = made(24, 0)
    arms = {REAL: (frames, labels), "shuffled": (frames, labels[::-1].copy())}
    how = dict(seed=3, folder=tmp_path, digest="d", live=False, checkpoint_every_s=1e9)
    models, log = synthetic_pairs.train_each(arms, SETTINGS, **how)
    assert set(log["arm"]) == set(arms) and (tmp_path / "real_pairs").is_dir()
    test = made(8, 9)
    scores, differences, found = synthetic_pairs.evaluate_each(models, *test, np.repeat(np.arange(4), 2), 64, draws=50)
    table = scores.set_index(["arm", "of"])
    assert table.score[(REAL, "any class")] > 0.6 > table.score[("shuffled", "any class")]
    gap = differences.set_index("of").loc["any class"]
    assert gap["difference"] == pytest.approx(table.score[("shuffled", "any class")] - table.score[(REAL, "any class")])
    assert gap["against"] == REAL and gap["high"] < 0 and found[REAL].shape == test[0].shape
    # Equal pairs give equal networks: nothing else differs between arms.
    again, _ = synthetic_pairs.train_each({SYNTHETIC: arms[REAL]}, SETTINGS, **how | {"folder": tmp_path / "again"})
    same, _, _ = synthetic_pairs.evaluate_each(again, *test, np.repeat(np.arange(4), 2), 64, draws=50)
    assert same.score.tolist() == table.loc[REAL].score.tolist()


def table(difference, low, high):
    scores = pd.DataFrame(
        [(REAL, "any class", 0.8, 0.7, 0.9), (SYNTHETIC, "any class", 0.8 + difference, 0.6, 0.9)],
        columns=["arm", "of", "score", "low", "high"],
    )
    gap = pd.DataFrame(
        [(SYNTHETIC, REAL, "any class", difference, low, high)],
        columns=["arm", "against", "of", "difference", "low", "high"],
    )
    return scores, gap


@pytest.mark.parametrize(
    "difference, low, high, says",
    [(-0.1, -0.2, -0.01, "worse than"), (0.05, 0.01, 0.1, "better than"), (-0.02, -0.1, 0.03, "not shown from")],
)
def test_the_verdict_follows_the_interval(difference, low, high, says):
    sentence = synthetic_pairs.verdict(*table(difference, low, high))
    assert says in sentence and f"{difference:+.3f}" in sentence and "0.800" in sentence


def test_bad_pairs_are_refused(tmp_path):
    how = dict(seed=3, folder=tmp_path, digest="d")
    frames, labels = made(2, 0)
    with pytest.raises(StudyError, match="unlike sizes"):
        synthetic_pairs.train_each(
            {REAL: (frames, labels), SYNTHETIC: (frames[:, :32], labels[:, :32])}, SETTINGS, **how
        )
    with pytest.raises(StudyError, match="synthetic pairs: no label map holds a vessel"):
        synthetic_pairs.train_each({REAL: (frames, labels), SYNTHETIC: (frames, 0 * labels)}, SETTINGS, **how)
