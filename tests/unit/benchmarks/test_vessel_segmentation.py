"""Frangi's filter as benchmarks/vessel_segmentation.py tunes it, the frames it takes of a series, and paired differences; its figures hold together."""

import json

import benchmark_script
import numpy as np
import pytest

from dsa_lib.vessels import overlap
from dsa_lib.vessels import unet as vessel_unet

benchmark = benchmark_script.load("vessel_segmentation")


def test_frames_of_a_series_are_spread():
    assert benchmark.spread(np.arange(3, 10), 3).tolist() == [3, 6, 9]
    assert benchmark.spread(np.array([4]), 3).tolist() == [4]
    assert benchmark.spread(np.array([], int), 3).size == benchmark.spread(np.arange(3), 0).size == 0


def test_frangi_is_tuned_to_find_bars_and_their_calibre(monkeypatch):
    monkeypatch.setattr(benchmark, "SIGMAS", ((1.0,), (1.0, 2.0)))
    monkeypatch.setattr(benchmark, "BETAS", (0.5,))
    rng = np.random.default_rng(0)
    frames = rng.normal(162, 1, (3, 96, 96))
    true = np.zeros((3, 96, 96), np.uint8)
    for n in range(3):
        for k, row, width, deep in ((1, 20 + n, 4, 90), (2, 45 + n, 2, 30), (3, 70 + n, 1, 14)):
            frames[n, row : row + width] -= deep
            true[n, row : row + width] = k
    frames = frames.round().astype(np.uint8)
    tuned = benchmark.tune_frangi(frames, true)
    assert tuned["dice"] > 0.85
    found = benchmark.cut(
        benchmark.filtered(frames, tuned["sigmas"], tuned["beta"], tuned["gamma"]),
        tuned["low"],
        tuned["high"],
        tuned["smallest"],
    )
    classes = benchmark.by_depth(found, benchmark.relative_depths(found, frames), tuned["medium"], tuned["proximal"])
    dice = overlap.ratio(overlap.counts(classes, true).sum(axis=0))
    assert dice[0] == pytest.approx(tuned["dice"]) and dice[1] > 0.85 and dice[2] > 0.7


def test_paired_differences_are_those_of_the_scores_and_none_of_a_segmenter_with_itself():
    rng = np.random.default_rng(1)
    true = (rng.random((8, 16, 16)) < 0.3).astype(np.uint8)
    worse = np.where(rng.random(true.shape) < 0.2, 0, true).astype(np.uint8)
    patients = np.repeat([1, 2, 3, 4], 2)
    a, b = overlap.counts(true, true), overlap.counts(worse, true)
    table = benchmark.paired(a, b, patients, draws=200)
    assert table.loc["vessel", "difference"] == pytest.approx(1 - overlap.ratio(b.sum(axis=0))[0])
    assert 0 < table.loc["vessel", "low"] < table.loc["vessel", "high"]
    assert np.nanmax(np.abs(benchmark.paired(a, a, patients, draws=50).to_numpy())) == 0


@pytest.mark.skipif(not benchmark.OUT.exists(), reason="the benchmark has not been run")
def test_the_recorded_figures_are_of_the_weights_that_ship_and_name_the_better_segmenter():
    report = json.loads(benchmark.OUT.read_text())
    _, card = vessel_unet.load()
    assert report["network"] == card["sha256"][:16]
    better = report["network less classical, acquired, paired over patients"]["vessel"]
    assert better["low"] > 0, "plausibility.segmenter is network because it is better on held-out truth"
    for kind in ("acquired", "decoded"):
        scores = {name: of["vessel"]["score"] for name, of in report["scores"][kind].items()}
        assert max(scores, key=scores.get) == "network"
