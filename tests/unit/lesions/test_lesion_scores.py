"""Scores by patient: means, paired differences, tests and verdicts against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from dsa_lib.core.statistics import holm
from dsa_lib.lesions.lesion_scores import by_kind, of_patients, paired, paired_each, ranking, table, verdict, verdicts
from dsa_lib.run.errors import StudyError


def scores(models: dict[str, float], patients=8, seed=0) -> pd.DataFrame:
    """Two images a patient, one with a lesion; a model's errors are the base's times its factor."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        for image in range(2):
            kind = ("aneurysm", "stenosis")[patient % 2] if image else ""
            mae, lesion = rng.uniform(4, 6), rng.uniform(10, 30)
            for model, factor in models.items():
                row = {"patient": f"p{patient}", "kind": kind, "model": model, "mae": mae, "psnr": 30.0, "ms_ssim": 0.9}
                rows.append(row | {"lesion_mae": lesion * factor if kind else np.nan})
    return pd.DataFrame(rows)


def test_a_patient_counts_once():
    given = pd.DataFrame(
        [("a", "", "base", 2.0), ("a", "", "base", 4.0), ("b", "", "base", 9.0), ("b", "", "new", 6.0),
         ("a", "", "new", 1.0), ("c", "", "new", 5.0)],
        columns=["patient", "kind", "model", "mae"],
    )  # fmt: skip
    wide = of_patients(given, "mae")  # c has no value for the base
    assert wide.to_dict("list") == {"base": [3.0, 9.0], "new": [1.0, 6.0]}
    found = table(given, ["mae"]).set_index("model")
    assert found.loc["base"].drop("measure").to_list() == pytest.approx([6.0, np.sqrt(18), 2, 3])
    row = paired(given, "base", ["mae"]).iloc[0]
    assert row["difference"] == pytest.approx(-2.5) and row["relative"] == pytest.approx(3.5 / 6 - 1)
    # Two patients: a bootstrap draws −2, −2.5 or −3.
    assert (row["low"], row["high"]) == (-3.0, -2.0)


def test_paired_differences_test_and_correction():
    given = scores({"base": 1.0, "new": 0.8, "worse": 1.1})
    found = paired(given, "base").set_index(["model", "measure"])
    new = found.loc["new", "lesion_mae"]
    assert new["relative"] == pytest.approx(-0.2) and new["relative_high"] == pytest.approx(-0.2)
    base = of_patients(given, "lesion_mae")["base"]
    assert new["difference"] == pytest.approx(-0.2 * base.mean())
    # Eight patients who all change alike: 2 / 2^8 by enumeration of signs.
    assert new["p"] == pytest.approx(2 / 2**8) == wilcoxon(base * 0.8, base).pvalue
    assert np.isnan(found.loc["new", "mae"]["p"]) and found.loc["new", "mae"]["difference"] == 0
    assert new["p_holm"] == pytest.approx(2 * 2 / 2**8)  # two tests are defined
    assert found.equals(paired(given, "base").set_index(["model", "measure"]))


def test_holm_by_hand():
    assert holm(pd.Series([0.01, np.nan, 0.04, 0.03])) == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)


def test_kinds():
    found = by_kind(scores({"base": 1.0, "new": 0.5}), "base", "new").set_index("kind")
    assert found["patients"].to_dict() == {"aneurysm": 4, "stenosis": 4} and found["images"].tolist() == [4, 4]
    assert found["relative"].to_numpy() == pytest.approx([-0.5, -0.5])
    none = scores({"base": 1.0, "new": 0.5}).query("kind == ''")
    assert by_kind(none, "base", "new").empty


def test_verdicts():
    given = scores({"base": 1.0, "new": 0.8})
    lesion, whole = verdict(paired(given, "base"), "new")
    assert "inside the lesion changes by -20.0%" in lesion and "lower: reached, and by the whole" in lesion
    assert "whole image changes by +0.0%" in whole and "reached" in whole
    lesion, whole = verdict(paired(scores({"base": 1.0, "new": 0.95}), "base"), "new")
    assert "missed, and by the whole interval" in lesion
    raised = given.assign(mae=np.where(given["model"] == "new", given["mae"] * 1.05, given["mae"]))
    assert "missed" in verdict(paired(raised, "base"), "new")[1]
    nothing = given.assign(lesion_mae=np.nan)
    assert "cannot be compared" in verdict(paired(nothing, "base"), "new")[0]


def test_what_is_absent_is_named():
    with pytest.raises(StudyError, match="no scores of 'other'"):
        paired(scores({"base": 1.0}), "base", models=["other"])
    with pytest.raises(StudyError, match="no column 'lesion_mae'"):
        of_patients(scores({"base": 1.0}).drop(columns="lesion_mae"), "lesion_mae")


def test_all_comparisons_of_a_table_are_corrected_together():
    given = scores({"base": 1.0, "gan": 1.2, "new": 0.8})
    found = paired_each(given, {"base": ["gan", "new"], "gan": ["new"]}, seed=3)
    assert list(zip(found["reference"], found["model"], strict=True))[::4] == [("base", "gan"), ("base", "new"), ("gan", "new")]  # fmt: skip
    assert found["p_holm"].dropna().tolist() == pytest.approx(holm(found["p"])[found["p"].notna()].tolist())
    # Eight patients that all move one way: p = 2 / 2⁸, three such tests, Holm three times that.
    assert found["p"].dropna().tolist() == pytest.approx([2 / 256] * 3)
    assert found["p_holm"].dropna().tolist() == pytest.approx([6 / 256] * 3)


def test_the_ranking_names_every_measure_in_which_another_model_is_first():
    given = table(scores({"base": 1.0, "new": 0.8}))
    (said,) = ranking(given, "new")
    assert "here new is first in lesion_mae, another one in mae (base)" in said


def test_all_that_is_said_is_the_rank_and_then_both_targets_against_each_reference():
    given = scores({"base": 1.0, "gan": 1.2, "new": 0.8})
    told = verdicts(table(given), paired_each(given, {"base": ["gan", "new"], "gan": ["new"]}), "new")
    assert [line.split(":")[0] for line in told[1:]] == ["new against base"] * 2 + ["new against gan"] * 2
    assert told[0] == ranking(table(given), "new")[0]
