"""Tests between conditions, segments and raters against published values, scipy and hand-worked corrections."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_tables import P, make, random_study

from dsa_lib.readers import comparisons as compare
from dsa_lib.readers import tables as reader_tables
from dsa_lib.readers.tables import SEGMENTS

# R package irr, data(anxiety), raters 1 and 2.
ANXIETY = np.array([[int(d) for d in s] for s in "33 36 34 46 52 54 22 34 53 23 22 63 13 53 22 22 11 23 43 34".split()])
# Hollander & Wolfe (1973), p. 116: mucociliary efficiency in three groups.
MUCUS = {"normal": (2.9, 3.0, 2.5, 2.6, 3.2), "airway": (3.8, 2.7, 4.0, 2.4), "asbestosis": (2.8, 3.4, 3.7, 2.2, 2.0)}


def scores(by_cell: dict) -> pd.DataFrame:
    rows = [(cell, value) for cell, values in by_cell.items() for value in values]
    table = pd.DataFrame(rows, columns=["cell", "overall"])
    return table.assign(**{segment: table["overall"] for segment in SEGMENTS})


def test_kruskal_wallis_is_the_published_one():
    """Hollander & Wolfe: H = 0.7714, 2 degrees of freedom, p = 0.68."""
    table = compare.conditions(scores(MUCUS), list(MUCUS)).set_index("region")
    row = table.loc["overall"]
    assert row["h"] == pytest.approx(0.77143, abs=5e-6)
    assert (row["df"], round(row["p"], 2), row["n_images"], row["conditions"]) == (2, 0.68, 14, 3)
    assert row["epsilon_squared"] == pytest.approx(0.77143 / 13, abs=1e-5)
    assert "fewer than 5 images: airway (4)" in row["reason"]
    assert table["p_holm"].tolist() == [1.0] * 4  # four equal p of 0.68


def test_pairs_equal_scipy_and_holm_by_hand():
    groups = {"A": [1, 2, 3, 4, 5, 6.0], "B": [4, 5, 6, 7, 8, 9.0], "C": [7, 8, 9, 10, 11, 12.0]}
    table = compare.condition_pairs(scores(groups), list(groups)).query("region == 'overall'").set_index(["a", "b"])
    for (a, b), row in table.iterrows():
        u, p = stats.mannwhitneyu(groups[a], groups[b])
        assert (row["u"], row["p"]) == pytest.approx((u, p))
        wins = np.mean([(x > y) + 0.5 * (x == y) for x in groups[a] for y in groups[b]])
        assert (row["superiority"], row["rank_biserial"]) == pytest.approx((wins, 2 * wins - 1))
        assert row["difference"] == pytest.approx(np.mean(groups[a]) - np.mean(groups[b]))
    p = table["p"].sort_values()
    steps = np.maximum.accumulate(p.to_numpy() * [3, 2, 1]).clip(max=1)
    assert table.loc[p.index, "p_holm"].to_numpy() == pytest.approx(steps)


def test_a_condition_without_a_scored_image_is_left_out_by_name():
    groups = {"A": [1, 2, 3, 4, 5.0], "B": [], "C": [2, 3, 4, 5, 5.0]}
    row = compare.conditions(scores(groups), list(groups)).iloc[0]
    assert row["conditions"] == 2 and np.isfinite(row["p"]) and row["reason"] == "without a scored image: B"
    pairs = compare.condition_pairs(scores(groups), list(groups)).query("region == 'overall'").set_index(["a", "b"])
    assert pairs.loc[("A", "B"), "reason"] == "no scored image: B" and np.isnan(pairs.loc[("A", "B"), "p"])
    assert pairs.loc[("A", "C"), "p_holm"] == pairs.loc[("A", "C"), "p"]  # the only test of its family


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"A": [1, 2.0]}, "fewer than two conditions"),
        ({"A": [], "B": []}, "fewer than two conditions"),
        ({"A": [3, 3.0], "B": [3, 3.0]}, "all scores are equal"),
    ],
)
def test_undefined_tests_are_nan_with_a_reason(groups, reason):
    table = compare.conditions(scores(groups), list(groups))
    assert table[["h", "p", "p_holm", "epsilon_squared"]].isna().all(axis=None)
    assert table["reason"].str.contains(reason).all()


def test_segments_equal_scipy():
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(3, 1, (40, 3)) + [0.8, 0.2, 0], columns=list(SEGMENTS))
    table.loc[3, "medium"] = np.nan
    result = compare.segments(table).set_index(["a", "b"])
    full = table.dropna()
    chi2, p = stats.friedmanchisquare(*full.to_numpy().T)
    assert result.loc[("all", ""), ["n_images", "statistic", "p"]].tolist() == pytest.approx([39, chi2, p])
    row = result.loc[("proximal", "peripheral")]
    assert row["p"] == pytest.approx(
        stats.wilcoxon(full["proximal"], full["peripheral"], correction=True).pvalue, rel=0.05
    )
    assert row["difference"] > 0 and row["effect"] > 0
    pair_p = result["p"].iloc[1:].sort_values()
    assert result.loc[pair_p.index, "p_holm"].to_numpy() == pytest.approx(
        np.maximum.accumulate(pair_p.to_numpy() * [3, 2, 1]).clip(max=1)
    )


def test_segments_undefined():
    one = compare.segments(pd.DataFrame([[3, 3, 3.0]], columns=list(SEGMENTS)))
    assert one["p"].isna().all() and one["reason"].str.contains("fewer than two images").all()
    same = compare.segments(pd.DataFrame([[3, 3, 3.0], [4, 4, 4]], columns=list(SEGMENTS)))
    assert same["p"].isna().all() and "never differ" in same["reason"].iloc[0]


def test_weighted_kappa_is_that_of_irr():
    """R package irr, its own example kappa2(anxiety[, 1:2], "squared"): 20 subjects, kappa = 0.297."""
    pair = compare.weighted_kappa(*ANXIETY.T, grades=6)
    assert (round(pair["kappa"], 3), pair["n_images"]) == (0.297, 20)
    assert pair["low"] < pair["kappa"] < pair["high"]
    assert pair["equal"] == np.mean(ANXIETY[:, 0] == ANXIETY[:, 1])


def test_weighted_kappa_interval_covers_and_equals_sklearn():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    quality = rng.normal(3, 1, (200_000, 1))
    grades = np.clip(np.rint(quality + rng.normal(0, 0.8, (200_000, 2))), 1, 5)
    truth = cohen_kappa_score(*grades.T, weights="quadratic")
    assert compare.weighted_kappa(*grades.T)["kappa"] == pytest.approx(truth, abs=1e-9)
    hits = 0
    for part in grades[: 400 * 100].reshape(400, 100, 2):
        pair = compare.weighted_kappa(part[:, 0], part[:, 1])
        hits += pair["low"] <= truth <= pair["high"]
    assert 0.91 <= hits / 400 <= 0.98


@pytest.mark.parametrize(
    ("a", "b", "kappa", "reason"),
    [
        ([1, np.nan], [np.nan, 2], np.nan, "no image was rated by both"),
        ([3, 3, 3], [3, 3, 3], np.nan, "both gave 3 throughout"),
        ([3, 3, 3, 3], [1, 2, 4, 5], 0.0, "the first rater gave one rating throughout"),
        ([1, 2, 4, 5], [1, 2, 4, 5], 1.0, ""),
    ],
)
def test_kappa_of_odd_pairs(a, b, kappa, reason):
    pair = compare.weighted_kappa(np.array(a, float), np.array(b, float))
    assert pair["kappa"] == pytest.approx(kappa, nan_ok=True) and pair["reason"].startswith(reason)


def test_all_comparisons_of_an_ordinary_study():
    study = random_study()
    tables = compare.all_comparisons(study)
    assert (
        len(tables["condition_pairs"]) == 4 * 6 and len(tables["leniency"]) == 4 * 4 and len(tables["kappa"]) == 3 * 6
    )
    proximal = tables["leniency"].query("region == 'proximal'")
    assert proximal["n"].sum() == (study.ratings.query("segment == 'proximal'")["rating"].notna()).sum()
    shown = compare.readable(tables["conditions"].assign(p=[1e-9, 0.5, 0.04, np.nan]))
    assert shown["p"].tolist() == ["<0.001", "0.500", "0.040", ""] and "reason" not in shown


@pytest.mark.parametrize(
    "study",
    [
        make({}, {"a": "AC A", "b": "PC B"}),
        make({"a": {"NR1": (1, 2, 3)}}, {"a": "vertebral C"}),
        make({i: {"NR1": (3, 3, 3), "NR2": (1, 2, P)} for i in "abcdef"}, dict.fromkeys("abc", "AC A") | dict.fromkeys("def", "PC A")),
    ],
    ids=["nothing rated", "one rater, one image", "a constant rater"],
)  # fmt: skip
def test_every_study_gives_tables_with_reasons_for_what_is_nan(study):
    tables = compare.all_comparisons(study)
    for name, column in (("conditions", "p"), ("condition_pairs", "p"), ("segments", "p"), ("leniency", "effect"), ("kappa", "kappa")):  # fmt: skip
        undefined = tables[name][tables[name][column].isna()]
        assert (undefined["reason"] != "").all(), name
    assert len(tables["kappa"]) >= 3 and list(compare.readable(tables["kappa"][:0])) == list(tables["kappa"])
    _, details = reader_tables.table4(
        reader_tables.reliability(study, 20, 0), reader_tables.mixed_reliability(study, 20, 0)
    )
    assert (details.loc[details["icc"].isna() | details["mixed_icc"].isna(), "reason"] != "").all()
