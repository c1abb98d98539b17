"""Table 5: published context is never mixed with this run's numbers, and every number of this run has its floor, interval and features."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.published import published
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import intervals as fidelity_intervals
from dsa_lib.fidelity import table5
from dsa_lib.fidelity.distances import ImageSet
from dsa_lib.run.profiles import load_profile


def real(seed, patients, per_cell, first):
    rng = np.random.default_rng(seed)
    owner = np.tile(np.repeat([f"p{first + i}" for i in range(patients)], per_cell), len(CELLS))
    return ImageSet(rng.normal(size=(len(owner), 3)), np.repeat(CELLS, patients * per_cell), owner)


@pytest.fixture(params=["balanced", "as-is"])
def study(request):
    settings = replace(load_profile("phantom").fidelity, reference_mix=request.param, subsamples=5, infinity_repeats=2)
    generated = ImageSet(np.random.default_rng(1).normal(0.5, 1, (120, 3)), np.repeat(CELLS, 30))
    sets = (generated, real(2, 8, 3, 0), real(3, 10, 2, 100))
    results = table5.evaluate(*sets, settings, seed=5)
    resampled = pd.concat(
        [fidelity_intervals.resample(each, settings, 5, request.param == "balanced") for each in fidelity_distances.comparisons(*sets, settings, 5)]
    )  # fmt: skip
    return results, fidelity_intervals.intervals(results, resampled, settings.subsamples)


def test_context_keeps_published_and_own_rows_apart(study):
    table = table5.context(*study, "dsa-network", "DSA-feature distance", "phantom")
    cited, own = table[table["source"] == "published"], table[table["source"] == "phantom"]
    assert len(cited) + len(own) == len(table)
    assert (
        cited.set_index("row")["value"].rename({"This paper": "Ours"}).to_dict()
        == published(5).set_index("row")["published"].to_dict()
    )
    assert cited["reference"].str.len().gt(20).all() and own["reference"].isna().all()
    assert cited[["low", "floor", "endless"]].isna().all(axis=None)
    assert set(cited["measure"]) == {"FID"} and set(own["measure"]) == {"DSA-feature distance"}
    results, _ = study
    paired = fidelity_distances.beside_floor(results)
    value = results.set_index(["scope", "set"])["distance"]
    for scope in fidelity_distances.SCOPES:
        row = own.set_index("row").loc[
            f"This run, {scope}" + (", sizes of the floor" if paired == fidelity_distances.MATCHED else "")
        ]
        assert row["value"] == value[scope, paired] and row["floor"] == value[scope, fidelity_distances.FLOOR]
        assert row["low"] <= row["value"] <= row["high"] and row["floor_low"] <= row["floor"] <= row["floor_high"]
        assert row["patients"] == 8 and row["features"] == "dsa-network"
    if paired == fidelity_distances.MATCHED:
        whole = own.set_index("row").loc["This run, overall"]
        assert whole["images"] == 120 and np.isnan(whole["floor"])  # other sizes: no floor to read beside


def test_shown_has_one_line_a_row_and_no_empty_brackets(study):
    table = table5.context(*study, "dsa-network", "DSA-feature distance", "phantom")
    shown = table5.shown(table)
    assert len(shown) == len(table) and not shown.apply(lambda column: column.str.contains("nan")).any(axis=None)
    assert shown.loc["DARL", "value [95 %]"] == "177.59"
    assert shown.loc["This paper", "images : real"] == "10000 : 5000"
    assert shown["value [95 %]"].str.contains(r"\[").sum() == (table["source"] == "phantom").sum()


def test_interval_as_text():
    assert table5.interval(-1.234, -2, 3.456) == "−1.23 [−2.00, 3.46]"
    assert table5.interval(3, float("nan"), float("nan")) == "3.00"
    assert table5.interval(float("nan"), 1, 2) == ""


def test_intervals_for_the_eye_keep_the_order_of_scopes(study):
    shown = table5.intervals_shown(study[1], ["distance", "excess", "kid"])
    assert list(dict.fromkeys(shown.index.get_level_values("scope"))) == list(fidelity_distances.SCOPES)
    assert list(shown.columns) == ["distance", "excess", "kid"]
    assert shown.loc[("overall", fidelity_distances.FLOOR), "excess"] == ""
