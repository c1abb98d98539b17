"""Metrics against hand-worked Gaussians, scipy's matrix root and torch-fidelity's own functions on the same features."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch

import dsa_lib  # noqa: F401  before torch_fidelity: it makes torchvision importable
from dsa_lib.core import published
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import table5
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile


def features(n, d, seed, shift=0.0, mix_seed=1):
    """Correlated, skewed and positive like pooled activations; unequal spreads."""
    mixing = np.random.default_rng(mix_seed).normal(size=(d, d)) / np.sqrt(d) * np.linspace(0.2, 2, d)
    return np.maximum(np.random.default_rng(seed).normal(size=(n, d)) @ mixing + 0.5 + shift, 0).astype(np.float32)


def test_frechet_distance_of_hand_worked_gaussians():
    # Diagonal covariances: Σ (μa − μb)² + (σa − σb)² = 3² + (1 − 2)² + (4 − 1)² = 9 + 1 + 9.
    a = fidelity_distances.Statistics.of_gaussian(np.array([3.0, 0.0]), np.diag([1.0, 16.0]), 100)
    b = fidelity_distances.Statistics.of_gaussian(np.array([0.0, 0.0]), np.diag([4.0, 1.0]), 100)
    assert fidelity_distances.frechet_distance(a, b) == pytest.approx(19.0, rel=1e-12)
    assert fidelity_distances.frechet_distance(b, a) == pytest.approx(19.0, rel=1e-12)
    assert fidelity_distances.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("n", [400, 40])  # 40 images in 64 dimensions: rank-deficient covariances
def test_frechet_distance_equals_torch_fidelity_and_the_matrix_root(n):
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = features(n, 64, 2), features(n + 10, 64, 3, shift=0.4, mix_seed=5)
    ours = fidelity_distances.frechet_distance(fidelity_distances.statistics(a), fidelity_distances.statistics(b))
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (a, b)), verbose=False
    )[KEY_METRIC_FID]
    assert ours > 1
    assert ours == pytest.approx(theirs, rel=1e-3)
    if n > 64:
        sa, sb = np.cov(a.astype(float), rowvar=False), np.cov(b.astype(float), rowvar=False)
        root = scipy.linalg.sqrtm(sa @ sb).real
        reference = ((a.mean(0, float) - b.mean(0, float)) ** 2).sum() + np.trace(sa + sb - 2 * root)
        assert ours == pytest.approx(reference, rel=1e-6)


def test_kid_equals_torch_fidelity_on_whole_sets():
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    a, b = features(80, 16, 2).astype(np.float64), features(80, 16, 3, shift=0.3).astype(np.float64)
    theirs = kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=80, verbose=False
    )[KEY_METRIC_KID_MEAN]
    assert fidelity_distances.kernel_distance(a, b, subset=80)[0] == pytest.approx(theirs, rel=1e-9)
    mean, spread = fidelity_distances.kernel_distance(a, b, subset=60, subsets=200, seed=4)
    assert mean == pytest.approx(theirs, abs=4 * spread / np.sqrt(200) + 1e-12)


def test_kid_of_one_distribution_is_centred_on_zero():
    values = [
        fidelity_distances.kernel_distance(features(40, 8, s), features(30, 8, 100 + s), subset=100)[0]
        for s in range(60)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_precision_and_recall_equal_torch_fidelity():
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    fake, real = features(150, 12, 2), features(130, 12, 3, shift=0.15)
    ours = fidelity_distances.neighbour_scores(fake, real, neighbours=3)
    precision, recall = calculate_precision_recall_full(
        torch.from_numpy(fake).double(), torch.from_numpy(real).double(), neighborhood=3
    )
    assert (ours["precision"], ours["recall"]) == (pytest.approx(precision), pytest.approx(recall))
    assert 0 < ours["precision"] < 1


def test_density_and_coverage_by_hand():
    # Real points 0, 1, 10 on a line with k = 1: balls of radius 1, 1 and 9. A fake at 0.5 lies in the first two, one at 5 in the last.
    # The fakes' own balls (radius 4.5) hold 0 and 1, not 10.
    real, fake = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [5.0]])
    scores = fidelity_distances.neighbour_scores(fake, real, neighbours=1)
    assert scores == {
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "density": pytest.approx(3 / 2),
        "coverage": 1.0,
    }
    far = fidelity_distances.neighbour_scores(np.array([[30.0], [31.0]]), real, neighbours=1)
    assert far == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}
    assert np.isnan(fidelity_distances.neighbour_scores(fake, real, neighbours=2)["density"])


def test_draw_mixes():
    cells = np.array(["AC A"] * 50 + ["PC A"] * 5 + ["AC B"] * 30 + ["PC B"] * 15 + ["Others"] * 40)
    rng = np.random.default_rng(0)
    balanced = pd.Series(cells[fidelity_distances.draw(cells, 40, "balanced", rng)]).value_counts()
    assert balanced.to_dict() == {"AC A": 10, "AC B": 10, "PC B": 10, "PC A": 5}  # PC A has no more: never filled up
    natural = cells[fidelity_distances.draw(cells, 60, "as-is", rng)]
    assert len(natural) == 60 and "Others" not in natural and (natural == "AC A").sum() > 20
    exact = cells[fidelity_distances.draw(cells, {"AC A": 3, "PC B": 1}, "balanced", rng)]
    assert sorted(exact) == ["AC A"] * 3 + ["PC B"]
    with pytest.raises(StudyError, match="reference_mix"):
        fidelity_distances.draw(cells, 40, "equal", rng)


def image_set(per_cell, d, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    values = [rng.normal(index + shift, 1, size=(per_cell, d)) for index in range(len(CELLS))]
    return fidelity_distances.ImageSet(np.concatenate(values), np.repeat(CELLS, per_cell))


def test_evaluate_tells_a_shifted_generator_from_the_floor():
    settings = replace(load_profile("smoke").fidelity, real_images=160, repeats=3)
    generated, held_out, training = image_set(30, 6, 1, shift=1.0), image_set(60, 6, 2), image_set(80, 6, 3)
    table = table5.evaluate(generated, held_out, training, settings, seed=7).set_index(["scope", "set"])
    assert list(table.loc[("overall", "generated"), ["images", "reference_images"]]) == [120, 160]
    assert list(table.loc[("PC B", "floor"), ["images", "reference_images"]]) == [30, 40]
    for scope in fidelity_distances.SCOPES:
        generated_row, floor_row = table.loc[(scope, "generated")], table.loc[(scope, "floor")]
        # The means differ by 1 in each of 6 dimensions, so the distance lies near 6 per condition.
        assert generated_row["distance"] > 4 > floor_row["distance"]
        assert generated_row["kid"] > floor_row["kid"] and generated_row["density"] < floor_row["density"]
        assert generated_row["distance_low"] <= generated_row["distance"] <= generated_row["distance_high"]
    assert not table["rank_deficient"].any()


def test_as_is_takes_every_generated_image_and_matches_the_floor_apart():
    # §2.5: all generated images (there 10,000) against the archive's own mix of held-out frames (there 5,000).
    settings = replace(load_profile("smoke").fidelity, reference_mix="as-is", real_images=90, repeats=2)
    assert load_profile("paper").fidelity.reference_mix == "as-is"
    generated, held_out, training = image_set(40, 6, 1, shift=1.0), image_set(60, 6, 2), image_set(80, 6, 3)
    held_out = held_out.at(np.flatnonzero((held_out.cells != "PC A") | (np.arange(240) < 63)))  # 3 frames of PC A
    training = training.at(np.flatnonzero((training.cells != "PC A") | (np.arange(320) < 95)))  # 15 of PC A
    results = table5.evaluate(generated, held_out, training, settings, seed=7)
    table = results.set_index(["scope", "set"])
    assert table.loc["overall", "images"].to_dict() == {"generated": 160, fidelity_distances.MATCHED: 135, "floor": 135}
    assert table.loc["PC A", "images"].to_dict() == {"generated": 40, fidelity_distances.MATCHED: 15, "floor": 15}
    assert (table.loc["overall", "reference_images"] == 90).all()
    row = table.loc[("overall", "generated")]
    draws = [
        held_out.at(fidelity_distances.draw(held_out.cells, 90, "as-is", np.random.default_rng([7, r])))
        for r in range(2)
    ]
    whole = fidelity_distances.statistics(generated.features)
    distances = [
        fidelity_distances.frechet_distance(fidelity_distances.statistics(each.features), whole) for each in draws
    ]
    assert (row["distance_low"], row["distance_high"]) == pytest.approx((min(distances), max(distances)))
    cells = table5.cells(results, "inception", "FID")
    assert cells["Ours", "FID"] == row["distance"]
    assert cells["Ours, sizes of the floor", "FID"] == table.loc[("overall", fidelity_distances.MATCHED), "distance"]
    assert fidelity_distances.beside_floor(results) == fidelity_distances.MATCHED


def test_as_is_stays_defined_where_a_condition_is_scarce_or_absent():
    settings = replace(load_profile("smoke").fidelity, reference_mix="as-is", real_images=500, repeats=2)
    held_out, training = image_set(30, 6, 2), image_set(30, 6, 3)
    held_out, training = (images.at(np.flatnonzero(images.cells != "PC A")) for images in (held_out, training))
    table = table5.evaluate(image_set(20, 6, 1), held_out, training, settings, seed=7).set_index(["scope", "set"])
    assert table.loc["overall", "distance"].notna().all() and table.loc["AC A", "distance"].notna().all()
    assert table.loc["PC A", "distance"].isna().all()


def test_a_scarce_condition_does_not_read_as_a_difference():
    # The same distribution everywhere, cells far apart; held-out frames of one cell are scarce, training frames of it too.
    settings = replace(load_profile("smoke").fidelity, real_images=240, repeats=1)
    generated, held_out, training = (image_set(80, 4, seed) for seed in (1, 2, 3))
    for images in (generated, held_out, training):
        images.features[images.cells == "PC B"] += 10
    held_out = held_out.at(np.flatnonzero((held_out.cells != "PC B") | (np.arange(320) >= 310)))
    training = training.at(np.flatnonzero((training.cells != "PC B") | (np.arange(320) >= 300)))
    table = table5.evaluate(generated, held_out, training, settings, seed=7).set_index(["scope", "set"])
    # Reference 60, 60, 60 and 10; of the generated and the training frames as many a cell as keep that mix: 80, 80, 80, 13.
    assert table.loc["overall", "images"].tolist() == [253, 253]
    assert table.loc["PC B", "images"].tolist() == [20, 20]
    assert table.loc[("overall", "generated"), "distance"] < 1
    plain = fidelity_distances.frechet_distance(
        *(fidelity_distances.statistics(x.scope("overall")) for x in (generated, held_out))
    )
    assert plain > 5  # what the unequal mix alone would have added


def test_matched_counts_keep_the_reference_mix():
    reference = np.repeat(["AC A", "PC A", "AC B"], [105, 24, 125])
    counts = fidelity_distances.matched_counts({"AC A": 250, "PC A": 60, "AC B": 250, "PC B": 250}, reference)
    assert counts == {"AC A": 210, "PC A": 48, "AC B": 250, "PC B": 0}


def test_evaluate_flags_and_survives_small_cells():
    settings = replace(load_profile("smoke").fidelity, repeats=1)
    held_out = image_set(30, 6, 2)
    few = held_out.at(np.flatnonzero((held_out.cells != "PC A") | (np.arange(120) == 30)))
    table = table5.evaluate(image_set(5, 6, 1), few, image_set(9, 6, 3), settings, seed=7).set_index(["scope", "set"])
    assert np.isnan(table.loc[("PC A", "generated"), "distance"])
    assert table.loc[("AC A", "generated"), "rank_deficient"] and table.loc[("AC A", "generated"), "distance"] > 0


def test_bad_sets_are_refused():
    with pytest.raises(StudyError, match="too few"):
        fidelity_distances.statistics(np.zeros((1, 4)))
    with pytest.raises(StudyError, match="not finite"):
        fidelity_distances.statistics(np.array([[0.0, np.nan], [1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(StudyError, match="same extractor"):
        fidelity_distances.frechet_distance(
            fidelity_distances.statistics(features(9, 4, 1)), fidelity_distances.statistics(features(9, 5, 1))
        )
    real = pd.DataFrame({"cell": ["AC A", "AC A"], "patient": ["p1", "p2"]})
    with pytest.raises(StudyError, match="1 patients"):
        table5.check_sets(np.array(CELLS), real, pd.DataFrame({"cell": ["AC A"], "patient": ["p2"]}))
    with pytest.raises(StudyError, match="0 held-out"):
        table5.check_sets(np.array(["AC A"] * 3), real.assign(cell="Others"), real)
    with pytest.raises(StudyError, match="1 generated images"):
        table5.check_sets(np.array(["AC A"]), real, real)
    others = pd.DataFrame({"cell": ["AC A"], "patient": ["p3"]})
    with pytest.raises(StudyError, match=r"no generated image of PC A, PC B: .*05_sampling"):
        table5.check_sets(np.array(["AC A", "AC B"]), real, others)
    with pytest.raises(StudyError, match="generated 128×128, real 144×144"):
        table5.check_sets(np.array(CELLS), real, others, {"generated": (9, 128, 128), "real": (5, 144, 144)})
    table5.check_sets(np.array(CELLS), real, others, {"generated": (9, 128, 128), "real": (5, 128, 128)})


def test_what_could_not_be_computed_is_said():
    settings = replace(load_profile("smoke").fidelity, repeats=1, real_images=120)
    held_out = image_set(30, 6, 2)
    few = held_out.at(np.flatnonzero((held_out.cells != "PC A") | (np.arange(120) == 30)))
    few = few.at(np.flatnonzero((few.cells != "AC B") | (np.cumsum(few.cells == "AC B") <= 4)))
    table = table5.evaluate(image_set(20, 6, 1), few, image_set(20, 6, 3), settings, seed=7)
    said = table5.gaps(table, settings.neighbours)
    assert any(line.startswith("PC A, generated: 20 images against 1; no distance") for line in said)
    assert any(line.startswith("AC B, floor: 20 images against 4; no precision") for line in said)
    assert said[-1].startswith("PC A, AC B: no more images on one side than the 6 feature dimensions")
    whole = table5.evaluate(image_set(20, 6, 1), held_out, image_set(20, 6, 3), settings, seed=7)
    assert table5.gaps(whole, settings.neighbours) == []


def test_a_dead_channel_leaves_the_distance_defined():
    a, b = features(300, 12, 2).astype(float), features(300, 12, 3, shift=0.4).astype(float)
    plain = fidelity_distances.frechet_distance(fidelity_distances.statistics(a), fidelity_distances.statistics(b))
    dead = [
        np.column_stack([x, np.full(300, 2.0), x[:, 0]]) for x in (a, b)
    ]  # one constant channel, one that repeats another
    doubled = fidelity_distances.frechet_distance(*(fidelity_distances.statistics(x) for x in dead))
    sa, sb = (np.cov(x, rowvar=False) for x in dead)
    shift = dead[0].mean(0) - dead[1].mean(0)
    values = np.linalg.eigvals(sa @ sb).astype(complex)
    assert doubled == pytest.approx(shift @ shift + np.trace(sa + sb) - 2 * np.sqrt(values).real.sum(), rel=1e-5)
    assert doubled > plain


def test_kid_of_many_subsets_equals_one_at_a_time(monkeypatch):
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    monkeypatch.setattr(fidelity_distances, "BLOCK", 7)  # several blocks, the last one short
    rng = np.random.default_rng(0)
    a, b = features(40, 9, 2).astype(float), features(25, 9, 3, shift=0.3).astype(float)
    of_a, of_b = np.zeros((5, 40), bool), np.zeros((5, 25), bool)
    for row in range(5):
        of_a[row, rng.choice(40, 20, replace=False)] = of_b[row, rng.choice(25, 20, replace=False)] = True
    ours = fidelity_distances.kernel_distances(a, b, of_a, of_b)
    theirs = [
        kid_features_to_metric(
            torch.from_numpy(a[i]), torch.from_numpy(b[j]), kid_subsets=1, kid_subset_size=20, verbose=False
        )[KEY_METRIC_KID_MEAN]
        for i, j in zip(of_a, of_b, strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_statistics_in_blocks_are_numpys(monkeypatch):
    monkeypatch.setattr(fidelity_distances, "BLOCK", 37)
    x = features(200, 10, 4)
    found = fidelity_distances.statistics(x)
    np.testing.assert_allclose(found.mean, x.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(float), rowvar=False), rtol=1e-9, atol=1e-12)
    few = fidelity_distances.statistics(x[:6])
    np.testing.assert_allclose(few.covariance, np.cov(x[:6].astype(float), rowvar=False), rtol=1e-9, atol=1e-12)


def test_scores_do_not_depend_on_the_block(monkeypatch):
    fake, real = features(50, 5, 2), features(45, 5, 3, shift=0.1)
    whole = fidelity_distances.neighbour_scores(fake, real, 3)
    monkeypatch.setattr(fidelity_distances, "BLOCK", 8)
    assert fidelity_distances.neighbour_scores(fake, real, 3) == pytest.approx(whole)


def test_own_features_never_stand_in_the_column_fid():
    settings = replace(load_profile("smoke").fidelity, repeats=1)
    results = table5.evaluate(image_set(20, 6, 1), image_set(20, 6, 2), image_set(20, 6, 3), settings, seed=1)
    own = published.contract(5, table5.cells(results, "phase-network", "DSA-feature distance"), "phantom")
    assert own.loc[own["column"] == "FID", "this_run"].isna().all()
    assert "This run (DSA-feature distance, phase network)" in set(own["row"])
    inception = published.contract(5, table5.cells(results, "inception", "FID"), "archive")
    ours = inception[(inception["row"] == "Ours") & (inception["column"] == "FID")].iloc[0]
    assert ours["published"] == 15.27 and ours["this_run"] > 0


def test_every_metric_is_its_median_over_draws_and_the_excess_is_paired():
    """By hand: distances 5, 7, 9 less floors 6, 2, 3 of the same draws are −1, 5, 6; the median is 5, not 7 − 3."""
    draws = [
        {"scope": "AC A", "set": name, "repeat": k, "images": 9, "reference_images": 9, "dimension": 2, "rank_deficient": False, "distance": d, "kid": d / 2}
        for name, values in ((fidelity_distances.GENERATED, (5.0, 7.0, 9.0)), (fidelity_distances.FLOOR, (6.0, 2.0, 3.0)))
        for k, d in enumerate(values)
    ]  # fmt: skip
    rows = pd.DataFrame(
        draws, columns=["scope", "set", "repeat", *fidelity_distances.SIZES, *fidelity_distances.METRICS]
    )
    table = table5._summary(rows).set_index("set")
    assert table.loc[fidelity_distances.GENERATED, ["distance", "kid", "excess"]].tolist() == [7.0, 3.5, 5.0]
    assert table.loc[fidelity_distances.GENERATED, "distance_sd"] == 2.0 and np.isnan(
        table.loc[fidelity_distances.FLOOR, "excess"]
    )


def test_density_is_over_the_number_of_neighbours():
    """With k = 3, from the definition: how many of the real points have the generated one within their distance to the third nearest other."""
    rng = np.random.default_rng(5)
    real, fake = rng.normal(size=(40, 2)), rng.normal(size=(30, 2))
    apart = np.linalg.norm(real[:, None] - real[None], axis=2)
    radius = np.sort(apart, axis=1)[:, 3]  # the nearest is the point itself
    inside = np.linalg.norm(fake[:, None] - real[None], axis=2) <= radius
    found = fidelity_distances.neighbour_scores(fake, real, neighbours=3)
    assert found["density"] == pytest.approx(inside.sum() / 30 / 3)
    assert 0.6 < found["density"] < 1.5
