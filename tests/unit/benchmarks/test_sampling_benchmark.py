"""How the default fast sampler is chosen: conditions in proportion, paired errors, and an honest word where they are too large."""

import sys

import numpy as np
import pandas as pd
import pytest

from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import sampling as benchmark


def test_conditions_in_proportion_from_every_beginning_on():
    order = benchmark.in_proportion({"AC A": 50, "PC A": 30, "AC B": 20}, 100)
    assert {cell: order.count(cell) for cell in set(order)} == {"AC A": 50, "PC A": 30, "AC B": 20}
    for made in (7, 20, 33):
        shares = [order[:made].count(cell) / made for cell in ("AC A", "PC A", "AC B")]
        assert np.allclose(shares, [0.5, 0.3, 0.2], atol=1 / made)
    assert order[:40] == benchmark.in_proportion({"AC A": 50, "PC A": 30, "AC B": 20}, 40)


class Pipeline:
    def __init__(self):
        self.made = []

    def __call__(self, sentences, seeds, num_inference_steps, guidance_scale):
        self.made += list(seeds)
        return np.stack([np.full((4, 4), seed % 251, np.uint8) for seed in seeds])


def test_images_are_kept_and_more_images_make_only_the_further_ones(tmp_path):
    pipeline = Pipeline()
    cells = benchmark.in_proportion({"AC A": 1, "PC A": 1}, 48)
    first = benchmark.images_of(pipeline, 5, 1.0, cells[:32], tmp_path)
    assert len(pipeline.made) == 32
    again = benchmark.images_of(pipeline, 5, 1.0, cells[:32], tmp_path)
    assert len(pipeline.made) == 32 and np.array_equal(first, again)
    more = benchmark.images_of(pipeline, 5, 1.0, cells, tmp_path)
    assert len(pipeline.made) == 48 and np.array_equal(more[:32], first)
    benchmark.images_of(pipeline, 5, 1.0, cells[::-1], tmp_path)  # other conditions
    assert len(pipeline.made) > 48


def test_pace_is_the_line_through_two_numbers_of_steps(monkeypatch):
    """A clock that a made-up pipeline moves: 0.5 s an image beside 0.2 s a step, and now and then a pause, which the best of several times leaves out."""
    clock, pauses = [0.0], iter([3.0, 0.0, 0.0, 7.0, 0.0, 0.0])

    class Timed:
        scheduler = None

        def __call__(self, sentences, seeds, num_inference_steps, guidance_scale):
            clock[0] += len(sentences) * (0.5 + 0.2 * num_inference_steps) + next(pauses)
            return np.zeros((len(sentences), 4, 4), np.uint8)

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    assert benchmark.pace(Timed(), None, 1.0, ["AC A"] * 4) == pytest.approx((0.5, 0.2))


def compared(shifts, images=600):
    """Samplers whose features are those of the reference, shifted: distances known in closed form up to what sampling adds."""
    rng = np.random.default_rng(0)
    real = fidelity_distances.statistics(rng.normal(size=(4000, 4)))
    drawn = rng.normal(size=(images, 4)) + [1.0, 0, 0, 0]
    values = {key: drawn + np.array([shift, 0, 0, 0]) for key, shift in shifts.items()}
    distances = [
        fidelity_distances.frechet_distance(fidelity_distances.statistics(value), real) for value in values.values()
    ]
    table = pd.DataFrame(list(shifts), columns=["sampler", "steps"]).assign(distance=distances, s_per_image=1.0)
    return benchmark.compare(table, values, real, ("ddpm", 1000))


def test_ratio_and_its_error_against_a_case_worked_by_hand():
    """Means 1 and 1.1 apart from the real one: squared distances 1 and 1.21. The same images, so that the error is far below that of either distance."""
    table = compared({("ddpm", 1000): 0.0, ("ddim", 20): 0.1}).set_index("sampler")
    assert table.loc["ddpm", "ratio"] == 1 and table.loc["ddpm", "ratio_error"] == 0
    assert table.loc["ddim", "ratio"] == pytest.approx(1.21, abs=0.03)
    # d(m)/d(m₀) with m = m₀ + 0.1: its log varies by 2·0.1/1.1 times the relative error of the mean, 1/√600.
    assert table.loc["ddim", "ratio_error"] == pytest.approx(1.96 * 1.21 * 0.1818 / np.sqrt(600), rel=0.35)


def test_the_fewest_steps_within_the_margin_are_chosen():
    table = compared(
        {
            ("ddpm", 1000): 0.0,
            ("ddim", 20): 0.005,
            ("unipc", 10): 0.01,
            ("ddpm", 10): 0.013,
            ("ddim", 5): 0.3,
            ("unipc", 50): 0,
        }
    )
    chosen = benchmark.choose(table)
    assert (chosen["sampler"], chosen["steps"], chosen["within"], chosen["resolved"]) == ("unipc", 10, True, True)
    assert benchmark.statement(chosen, 600).startswith("Default fast sampler: unipc with 10 steps")


def test_it_says_when_none_is_near_and_when_there_are_too_few_images():
    table = pd.DataFrame(
        [("ddpm", 1000, 1.0, 1.0, 0.0), ("ddim", 20, 1.3, 1.3, 0.2), ("unipc", 5, 1.6, 1.6, 0.1)],
        columns=["sampler", "steps", "distance", "ratio", "ratio_error"],
    )
    chosen = benchmark.choose(table)
    assert (chosen["sampler"], chosen["within"], chosen["resolved"]) == ("ddim", False, False)
    text = benchmark.statement(chosen, 64)
    assert (
        "No sampler of at most 25 steps comes within 3%" in text
        and "cannot be resolved with 64 images; about 2848" in text
    )
    with pytest.raises(StudyError, match="at most 25 steps"):
        benchmark.choose(table[table["steps"] > 25])
