"""The source's table on this run's images: scores by model, distances with intervals over patients, differences and what is said of them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dsa_lib.core import published
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.maps import map_scores as scoring
from dsa_lib.maps.models import METHODS, WITH, WITHOUT
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile

PATIENTS = np.repeat(list("abcdefgh"), 4)
rng = np.random.default_rng(0)
TRUE = rng.integers(100, 200, (32, 16, 16)).astype(np.uint8)


def noisy(sd, seed):
    noise = np.random.default_rng(seed).normal(0, sd, TRUE.shape)
    return np.clip(TRUE + noise, 0, 255).astype(np.uint8)


def outputs():
    """Noise grows from the LDM with edges to SPADE without."""
    return {(method, half): noisy(3 + 6 * m + 20 * h, 10 * m + h) for m, method in enumerate(METHODS) for h, half in enumerate((WITH, WITHOUT))}  # fmt: skip


def features(frames):
    return np.stack([frames.mean((1, 2)), frames.std((1, 2)), frames[:, 3, 3]], axis=1)


@pytest.fixture(scope="module")
def measured():
    made = outputs()
    scores = scoring.of_images(TRUE, made, PATIENTS)
    found = scoring.Distances({key: features(frames) for key, frames in made.items()}, features(TRUE), PATIENTS)
    return scores, found


def test_scores_stand_beside_their_model_image_and_patient(measured):
    scores, _ = measured
    assert len(scores) == 6 * 32
    one = scores[(scores["method"] == "SPADE") & (scores["half"] == WITHOUT) & (scores["image"] == 5)].iloc[0]
    x, y = TRUE[5].astype(float), outputs()["SPADE", WITHOUT][5].astype(float)
    assert one["patient"] == "b" and one["nmse"] == pytest.approx(((x - y) ** 2).sum() / (x**2).sum())


def test_a_distance_is_frechets_and_its_error_the_spread_of_parts_of_the_patients(measured):
    _, found = measured
    key = ("LDM", WITH)
    expected = fidelity_distances.frechet_distance(
        fidelity_distances.statistics(features(TRUE)), fidelity_distances.statistics(features(outputs()[key]))
    )
    assert found.whole[key] == pytest.approx(expected)
    drawn = found.subsampled(12, 3)
    assert drawn.shape == (12, 6) and found.taken == 6
    spread = (drawn[key] - drawn["LDM", WITHOUT]).std(ddof=1)
    assert found.errors(drawn, key, ("LDM", WITHOUT)) == pytest.approx(np.sqrt(6 / 2) * spread)
    few = scoring.Distances({key: features(TRUE)}, features(TRUE), np.repeat(["a", "b"], 16))
    assert np.isnan(few.errors(few.subsampled(5, 0), key))
    with pytest.raises(StudyError, match="another shape"):
        scoring.Distances({key: features(TRUE)[:5]}, features(TRUE), PATIENTS)


def test_differences_have_the_sign_of_first_less_second_and_say_who_is_better(measured):
    scores, found = measured
    table = scoring.differences(scores, found, subsamples=20, bootstrap=200, seed=1)
    assert len(table) == 7 * 3
    rows = table[table["comparison"] == "LDM with edges against without"].set_index("measure")
    means = scores.groupby(["method", "half"])[["ssim", "nmse"]].mean()
    for measure in ("ssim", "nmse"):
        expected = means.loc[("LDM", WITH), measure] - means.loc[("LDM", WITHOUT), measure]
        assert rows.loc[measure, "difference"] == pytest.approx(expected)
        assert rows.loc[measure, "low"] < expected < rows.loc[measure, "high"]
        assert rows.loc[measure, "better"] is True
    said = scoring.verdicts(table, "DSA-feature distance")
    assert len(said) == 7 and "SSIM better" in said[0]
    assert ("all 3 measures: yes" in said[0]) == bool(rows["better"].all())


def test_an_interval_across_zero_shows_nothing_and_the_wrong_side_is_worse():
    assert scoring._better("ssim", -0.1, 0.1) is None and scoring._better("ssim", np.nan, np.nan) is None
    assert scoring._better("ssim", 0.1, 0.2) is True and scoring._better("nmse", 0.1, 0.2) is False
    table = pd.DataFrame(
        [
            {
                "comparison": "A against B",
                "measure": name,
                "difference": 1.0,
                "low": 0.5,
                "high": 1.5,
                "better": better,
                "source": "",
            }
            for name, better in (("distance", False), ("ssim", True), ("nmse", None))
        ]
    )
    (said,) = scoring.verdicts(table, "DSA-feature distance")
    assert said.startswith("A against B: better on all 3 measures: no. DSA-feature distance worse (+1, 0.5 to 1.5)")
    assert "NMSE not shown" in said


def test_a_distance_that_is_no_fid_never_fills_a_published_cell(measured):
    scores, found = measured
    values = scoring.cells(scores, found, "DSA-feature distance")
    whole = published.contract(published.ANATOMY, values, "phantom")
    table = whole.set_index(["row", "column"])
    assert pd.isna(table.loc[("LDM", f"FID, {WITH}"), "this_run"])
    assert pd.isna(table.loc[("LDM", f"DSA-feature distance, {WITH}"), "published"])
    assert table.loc[("LDM", f"SSIM, {WITH}"), "published"] == 0.608
    ours = scores[(scores["method"] == "LDM") & (scores["half"] == WITH)]["ssim"]
    assert table.loc[("LDM", f"SSIM, {WITH}"), "this_run"] == pytest.approx(ours.mean())
    assert table.loc[("LDM", f"SSIM SD, {WITH}"), "this_run"] == pytest.approx(ours.std())
    assert (
        table["published"].notna().sum() == 30 and table.loc[table["published"].notna(), "this_run"].notna().sum() == 24
    )
    assert scoring.cells(scores, found, "FID")["LDM", f"FID, {WITH}"] == found.whole["LDM", WITH]
    grid = scoring.shown(whole)
    assert list(grid.index) == list(METHODS) and grid.loc["LDM", (WITH, "FID")] == "61.9 | –"
    assert grid.loc["LDM", (WITH, "SSIM")].startswith("0.608 ± 0.123 | ")


def test_too_few_patients_for_an_interval_are_said_to_be_so():
    row = {
        "comparison": "A against B",
        "measure": "ssim",
        "difference": 1.0,
        "low": np.nan,
        "high": np.nan,
        "source": "",
    }
    (said,) = scoring.verdicts(pd.DataFrame([row | {"better": None}]), "DSA-feature distance")
    assert "SSIM not shown (+1, too few patients for an interval)" in said


def test_without_features_there_is_no_distance_and_two_measures_are_left(measured):
    scores, found = measured
    known, without = (scoring.cells(scores, each, "feature distance") for each in (found, None))
    assert without == {key: value for key, value in known.items() if "distance" not in key[1]} != known
    table = scoring.differences(scores, None, subsamples=5, bootstrap=50, seed=1)
    whole = scoring.differences(scores, found, subsamples=5, bootstrap=50, seed=1)
    without_it = whole[whole["measure"] != "distance"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, without_it, check_dtype=False)
    assert "better on all 2 measures" in scoring.verdicts(table, "feature distance")[0]


def test_the_autoencoder_alone_is_measured_like_the_models_and_fills_no_cell_of_the_table():
    true, decoded = np.full((4, 16, 16), 100, np.uint8), np.full((4, 16, 16), 110, np.uint8)
    assert "alone: SSIM" in scoring.of_autoencoder(true, true, None, "FID")
    assert "NMSE 0.01;" in scoring.of_autoencoder(true, decoded, None, "FID")  # (10 / 100)²
    made = outputs()
    of_all = {key: features(frames) for key, frames in (made | {scoring.AUTOENCODER: noisy(1, 5)}).items()}
    found = scoring.Distances(of_all, features(TRUE), PATIENTS)
    assert f"FID {found.whole[scoring.AUTOENCODER]:.3g}," in scoring.of_autoencoder(true, decoded, found, "FID")
    rows = {row for row, _ in scoring.cells(scoring.of_images(TRUE, made, PATIENTS), found, "FID")}
    assert rows == set(METHODS)


def test_the_source_s_own_answer_stands_beside_each(measured):
    """Table 1 of Capitão et al.: with edges the LDM is first in all three; without, its SSIM is the lowest (0.283; 0.328 and 0.338)."""
    assert scoring.published_answer(("LDM", WITH), ("SPADE", WITH), "distance") == "better"  # 61.9, 109.8
    assert scoring.published_answer(("LDM", WITHOUT), ("SPADE", WITHOUT), "ssim") == "worse"
    assert scoring.published_answer(("LDM", WITHOUT), ("SPADE", WITHOUT), "nmse") == "worse"  # 0.136, 0.132
    assert scoring.published_answer(("LDM", WITHOUT), ("SPADE w/ VAE", WITHOUT), "nmse") == "better"  # 0.136, 0.145
    assert scoring.published_answer((scoring.SENTENCE, WITH), ("LDM", WITH), "ssim") == ""
    scores, found = measured
    said = scoring.verdicts(scoring.differences(scores, found, 5, 50, seed=1), "DSA-feature distance")
    assert said[0].count("; source: better)") == 3


def test_patients_who_chose_the_weights_are_told_apart_from_those_who_did_not(measured):
    scores, found = measured
    settings = SimpleNamespace(subsamples=5, bootstrap=50)
    part = np.where(np.isin(PATIENTS, list("efgh")), "test", "val")
    table, said = scoring.answers(scores, found, "FID", part, settings, 1)
    pd.testing.assert_frame_equal(table, scoring.differences(scores, found, 5, 50, seed=1))
    assert said[:-1] == scoring.verdicts(table, "FID") and said[-1].startswith("Over the 4 test patients alone")
    for whole in ("test", "val"):
        assert len(scoring.answers(scores, found, "FID", np.full(32, whole), settings, 1)[1]) == 7


def test_the_floor_is_the_distance_of_real_images_and_few_images_are_told_of(measured):
    class Extractor:
        distance = "FID"

        def __call__(self, frames, what):
            return features(frames)

    data = SimpleNamespace(frames=TRUE, rows=lambda part: np.arange(32))
    _, found = measured
    (said,) = scoring.of_floor(Extractor(), data, found)
    assert said.startswith("FID of as many real images of other (training) patients: ") and "followed nearer" in said
    few = scoring.Distances({}, features(TRUE[:3]), PATIENTS[:3])
    assert scoring.of_floor(Extractor(), data, few)[1].startswith("3 images, 3 dimensions: distances are too large")


@pytest.mark.parametrize(
    "kind, origin, opened, words",
    [
        ("dsa-network", "phantom", "dsa-network", ""),
        ("phase-network", "archive", "dsa-network", "cannot judge it"),
        ("inception", "ACDC", "inception", ""),
        ("dsa-network", "ACDC", None, "know angiograms alone"),
    ],
)
def test_no_network_judges_that_sits_in_the_loss_or_has_never_seen_such_images(
    kind, origin, opened, words, tmp_path, monkeypatch, capsys
):
    asked = []

    def open_extractor(name, **how):
        asked.append((name, how["network"], len(how["training_frames"])))
        return SimpleNamespace(digest="")

    monkeypatch.setattr(scoring.features, "open_extractor", open_extractor)
    data = SimpleNamespace(origin=origin, frames=TRUE, rows=lambda part: np.arange(20))
    study = SimpleNamespace(
        profile=load_profile("smoke", {"fidelity.features": kind}),
        read=lambda name: name,
        ws=SimpleNamespace(checkpoints=lambda name: tmp_path),
    )
    found = scoring.open_extractor(study, data)
    assert (found is None) == (opened is None) and words in capsys.readouterr().out
    assert asked == ([(opened, "dsa_network" if opened == "dsa-network" else None, 20)] if opened else [])


def test_spectra_are_of_the_six_models_and_the_autoencoder_alone():
    made = outputs() | {(scoring.SENTENCE, WITH): noisy(1, 9)}
    drawn, table = scoring.radial_spectra(TRUE, made, TRUE, PATIENTS, 20, 0)
    assert list(drawn["curves"]) == [WITH, WITHOUT] and list(drawn["curves"][WITH]) == list(METHODS)
    assert all(len(radius) == len(amplitude) for radius, amplitude in (drawn["true"], drawn["decoded"]))
    assert list(table["set"].unique()) == [" ".join(key) for key in outputs()] + ["autoencoder alone"]
    assert (table.loc[table["set"] == "autoencoder alone", "distance_db"] == 0).all()


def test_answers_of_a_part_are_those_of_its_images_alone(measured):
    scores, found = measured
    rows = np.flatnonzero(np.isin(PATIENTS, list("efgh")))
    part, distances = scoring.of_part(scores, found, rows)
    assert set(part["patient"]) == set("efgh") and distances.true.shape[0] == 16
    table = scoring.differences(part, distances, 5, 50, seed=1)
    same = scoring.alike_on_test(table, table, 4)
    assert same == "Over the 4 test patients alone, who chose no weights, 21 of 21 answers are the same."
    flipped = table.assign(better=[not table["better"].iloc[0], *table["better"].iloc[1:]])
    assert "20 of 21 answers are the same; others: LDM with edges against without in distance" in scoring.alike_on_test(
        table, flipped, 4
    )
