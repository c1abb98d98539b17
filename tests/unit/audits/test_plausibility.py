"""The comparison of measured sets: known effects come out, intervals draw patients, missing conditions are left out."""

import numpy as np
import pandas as pd
import pytest
from folder_run import with_images
from scipy.stats import wasserstein_distance

from dsa_lib.audits import plausibility
from dsa_lib.audits.plausibility import MEASURES, Measured
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import image_sets
from dsa_lib.figures import plausibility as figures
from dsa_lib.run.profiles import load_profile
from dsa_lib.vessels import filters as vessel_filters
from dsa_lib.vessels import segmenters


def made_up(
    seed: int,
    per_cell=(30, 30, 30, 30),
    shift: float = 0.0,
    factor: float = 1.0,
    patients: int = 0,
    spread: float = 0.0,
) -> Measured:
    """Measures that are normal about 10 (+ shift in SD of 1, all times `factor`); frames of one patient share a draw of SD `spread`."""
    rng = np.random.default_rng(seed)
    cells = np.repeat(CELLS, per_cell)
    whose = rng.integers(0, patients, len(cells)) if patients else np.arange(len(cells))
    common = (
        rng.normal(0, spread, (whose.max() + 1, len(MEASURES)))
        if spread
        else np.zeros((whose.max() + 1, len(MEASURES)))
    )
    values = (rng.normal(10 + shift, 1, (len(cells), len(MEASURES))) + common[whose]) * factor
    power = np.ones((len(cells), 4))
    return Measured(
        pd.DataFrame(values, columns=list(MEASURES)),
        power,
        np.arange(1, 5) / 8,
        np.zeros((len(cells), 8, 8), np.uint8),
        cells,
        whose,
    )


def overall(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[(table["scope"] == "overall") & (table["set"] == name)].set_index("measure")


def test_a_known_shift_and_factor_come_out_and_the_floor_stays_at_none():
    held_out, training = made_up(0, patients=12), made_up(1, patients=30)
    table = plausibility.compare(made_up(2, shift=2.0), held_out, training, draws=200, seed=0)
    found = overall(table, "generated")
    assert found["difference"].mean() == pytest.approx(2, abs=0.1) and found["ratio"].mean() == pytest.approx(
        1.2, abs=0.02
    )
    assert (found["difference_low"] > 0).all() and (found["ratio_low"] > 1).all()
    assert ((found["ratio_low"] < found["ratio"]) & (found["ratio"] < found["ratio_high"])).all()
    floor = overall(table, "floor")
    assert floor["difference"].abs().mean() < 0.2 and (floor["difference_low"] < 0).mean() > 0.8
    twice = overall(plausibility.compare(made_up(3, factor=2.0), held_out, training, draws=50, seed=0), "generated")
    assert twice["ratio"].mean() == pytest.approx(2, abs=0.04)
    assert set(table["scope"]) == {"overall", *CELLS} and len(table) == 2 * 5 * len(MEASURES)


def test_effects_by_hand_and_wasserstein_against_scipy():
    generated, held_out = made_up(4), made_up(5, patients=6)
    table = plausibility.compare(generated, held_out, held_out, draws=10, seed=0)
    row = table[(table["scope"] == "PC A") & (table["set"] == "generated") & (table["measure"] == "pieces")].iloc[0]
    a = generated.values["pieces"][generated.cells == "PC A"]
    b = held_out.values["pieces"][held_out.cells == "PC A"]
    assert row["mean"] == pytest.approx(a.mean()) and row["reference_mean"] == pytest.approx(b.mean())
    assert row["ratio"] == pytest.approx(a.mean() / b.mean())
    assert row["difference"] == pytest.approx((a.mean() - b.mean()) / b.std(ddof=1))
    assert row["wasserstein"] == pytest.approx(wasserstein_distance(a, b) / b.std(ddof=1))
    patients = len(set(held_out.patients[held_out.cells == "PC A"]))
    assert (row["images"], row["reference_images"], row["reference_patients"]) == (30, 30, patients)


def test_intervals_draw_patients_and_cover_the_truth():
    """Held-out patients who differ by one SD: over many repetitions about 95 % of the intervals hold no difference, which frames as units would not reach."""
    covered, by_frame = [], []
    for seed in range(40):
        held_out = made_up(seed, patients=12, spread=1.0)
        generated = made_up(100 + seed, spread=1.0)
        of_patients = overall(plausibility.compare(generated, held_out, generated, draws=200, seed=seed), "generated")
        covered.append(((of_patients["difference_low"] < 0) & (of_patients["difference_high"] > 0)).mean())
        alone = Measured(
            held_out.values,
            held_out.power,
            held_out.frequency,
            held_out.classes,
            held_out.cells,
            np.arange(len(held_out.cells)),
        )
        of_frames = overall(plausibility.compare(generated, alone, generated, draws=200, seed=seed), "generated")
        by_frame.append(((of_frames["difference_low"] < 0) & (of_frames["difference_high"] > 0)).mean())
    assert np.mean(covered) > 0.85  # twelve patients: a percentile bootstrap falls a little short of 95 %
    assert np.mean(by_frame) < np.mean(covered) - 0.2


def test_unlike_mixes_of_conditions_are_no_difference():
    """A measure that hangs on the condition alone: sets of another mix agree overall."""
    held_out, generated = made_up(6, (60, 4, 20, 8), patients=8), made_up(7, (20, 20, 20, 20))
    for one in (held_out, generated):
        one.values.loc[:, "length"] += 20 * np.array([CELLS.index(cell) for cell in one.cells])
    found = overall(plausibility.compare(generated, held_out, held_out, draws=50, seed=0), "generated").loc["length"]
    assert found["ratio"] == pytest.approx(1, abs=0.02)


def test_a_condition_without_frames_is_left_out_and_nothing_at_all_is_said_so():
    held_out = made_up(8, (30, 0, 30, 1), patients=6)
    table = plausibility.compare(made_up(9), held_out, held_out, draws=50, seed=0)
    assert table[table["scope"].isin([CELLS[1], CELLS[3]])]["ratio"].isna().all()
    assert overall(table, "generated")["ratio"].notna().all()
    none = plausibility.compare(made_up(9, (0, 9, 0, 0)), held_out, held_out, draws=20, seed=0)
    assert overall(none, "generated")["ratio"].isna().all()
    assert "Nothing can be said" in plausibility.verdict(none)
    figures.effects(none, "phantom")  # does not fail on it


def test_values_that_an_image_lacks_do_not_count():
    generated, held_out = made_up(10), made_up(11, patients=8)
    generated.values.loc[generated.cells == "AC A", "tortuosity"] = np.nan
    generated.values.loc[np.flatnonzero(generated.cells == "AC B")[:15], "tortuosity"] = np.nan
    row = overall(plausibility.compare(generated, held_out, held_out, draws=50, seed=0), "generated").loc["tortuosity"]
    mean = np.mean([generated.values["tortuosity"][generated.cells == cell].mean() for cell in CELLS[1:]])
    assert row["mean"] == pytest.approx(mean) and np.isfinite(row["ratio_low"])


def test_the_verdict_names_what_differs_and_no_more():
    held_out, training = made_up(12, patients=20), made_up(13, patients=40)
    generated = made_up(14)
    generated.values["loose ends"] += 3
    said = plausibility.verdict(plausibility.compare(generated, held_out, training, draws=200, seed=0))
    named = said.partition(": ")[2].partition(". That")[0].split("; ")
    assert named[0].startswith("loose ends 1.") and "not shown" in said
    assert len(named) <= 3  # by chance one interval in twenty leaves out 0
    # A floor that differs as much takes the finding away.
    training.values["loose ends"] += 3.5
    said = plausibility.verdict(plausibility.compare(generated, held_out, training, draws=200, seed=0))
    assert "loose ends" not in said.partition(". That")[0]
    same = plausibility.verdict(plausibility.compare(held_out, held_out, training, draws=200, seed=0))
    assert same.startswith("None of 15 measures")


def test_measuring_is_that_of_each_image_and_of_the_spectrum():
    frame = np.full((64, 64), 162, np.uint8)
    frame[20:23, 8:56] -= 80
    measured = plausibility.measure(
        np.stack([frame, np.full_like(frame, 162)]),
        np.array(["AC A", "PC B"]),
        segmenters.open_segmenter("classical", None).segment,
    )
    assert list(measured.values.columns) == list(MEASURES)
    assert measured.values.loc[0, "area"] == pytest.approx((vessel_filters.calibres(frame) > 0).mean())
    assert measured.values.loc[1, "pieces"] == 0 and np.isnan(measured.values.loc[1, "tortuosity"])
    assert measured.power[1] == pytest.approx(np.zeros(32), abs=1e-9)
    assert plausibility.measure(frame[None][:0], np.array([]), None).values.empty


def test_examples_are_the_median_images_and_spectra_weigh_conditions_alike():
    one, other = made_up(15, (5, 3, 0, 1)), made_up(16, (9, 3, 2, 1))
    found = plausibility.examples({"held-out": one, "generated": other})
    assert set(found) == {CELLS[0], CELLS[1], CELLS[3]}
    areas = one.values["area"][:5]
    assert areas[found[CELLS[0]]["held-out"]] == np.median(areas)
    one.power[:5] = 4.0
    _, power, count = plausibility.mean_spectra({"held-out": one, "generated": other})["held-out"]
    assert power == pytest.approx(np.full(4, (4 + 1 + 1) / 3)) and count == 9


def test_the_sets_of_a_run_are_drawn_alike_and_keep_their_patients(tmp_path):
    overrides = {"plausibility.images": 8, "plausibility.segmenter": "classical"}
    study = with_images(tmp_path, profile=load_profile("smoke", overrides))
    images = image_sets.of_run(study)
    frames, measured = plausibility.measure_run(study, images, segmenters.of_run(study))
    assert list(measured) == ["generated", "held-out", "training"]
    for name, one in measured.items():
        assert one.cells.tolist() == [cell for cell in one.cells if cell in CELLS] and len(one.cells) == 8
        assert frames[name].shape == one.classes.shape
    assert set(measured["training"].patients) <= {"p0", "p1"} and len(set(measured["generated"].patients)) == 8
    rows = images.rows["train"].set_index("frame_id")
    first = next(n for n in rows.index if (images.frames[n] == frames["training"][0]).all())
    assert rows.loc[first, "cell"] == measured["training"].cells[0]


def test_the_autoencoder_alone_stands_beside_and_is_paired_with_its_patients():
    held_out, training, generated = made_up(20, patients=12), made_up(21, patients=30), made_up(22, factor=0.5)
    decoded = Measured(held_out.values * 0.8, *(getattr(held_out, name) for name in ("power", "frequency", "classes", "cells", "patients")))  # fmt: skip
    table = plausibility.compare(generated, held_out, training, 50, 0, decoded)
    alone = overall(table, plausibility.RECONSTRUCTED)
    # The same patients are drawn on both sides, so that the ratio of the same frames has no spread.
    assert alone[["ratio", "ratio_low", "ratio_high"]].to_numpy() == pytest.approx(0.8)
    said = plausibility.verdict(table)
    assert said.count("(the autoencoder alone: 0.80 times)") == 15 and "0.50 times" in said
    figure = figures.effects(table, "phantom")
    written = [text.get_text() for text in figure.legends[0].get_texts()]
    assert f"held-out, reconstructed (n = {len(held_out.cells)})" in written
    without = figures.effects(plausibility.compare(generated, held_out, training, 50, 0), "phantom")
    assert len(without.legends[0].get_texts()) == len(written) - 1


def test_held_out_frames_of_a_run_go_through_its_autoencoder(tmp_path, monkeypatch):
    overrides = {"plausibility.images": 8, "plausibility.segmenter": "classical"}
    study = with_images(tmp_path, profile=load_profile("smoke", overrides))
    monkeypatch.setattr(plausibility.autoencoder, "round_trip", lambda _study: lambda frames: 255 - frames)
    frames, measured = plausibility.measure_run(study, image_sets.of_run(study), segmenters.of_run(study))
    assert np.array_equal(frames[plausibility.RECONSTRUCTED], 255 - frames["held-out"])
    assert measured[plausibility.RECONSTRUCTED].patients.tolist() == measured["held-out"].patients.tolist()
