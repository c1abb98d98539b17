"""The published tables of the neighbouring studies: every cell as printed, empty ones stay empty, this run's beside them."""

import numpy as np
import pandas as pd
import pytest

from dsa_lib.core import published
from dsa_lib.run.errors import StudyError

PRINTED = """
LDM          61.9  0.608 0.123 0.071 0.035   98.1  0.283 0.094 0.136 0.080
SPADE        109.8 0.556 0.119 0.117 0.041   160.3 0.328 0.093 0.132 0.077
SPADE w/ VAE 101.9 0.556 0.128 0.104 0.034   161.4 0.338 0.090 0.145 0.093
"""


def test_the_anatomy_table_is_as_printed():
    wide = published.published("anatomy_table1").pivot(index="row", columns="column", values="published")
    scores = ("FID", "SSIM", "SSIM SD", "NMSE", "NMSE SD")
    columns = [f"{score}, {half}" for half in ("w/ edges", "w/o edges") for score in scores]
    for line in PRINTED.strip().splitlines():
        name, values = line[:13].strip(), [float(value) for value in line[13:].split()]
        assert wide.loc[name, columns].tolist() == values
    assert wide.size == 30 and wide.notna().all().all()


def test_the_lesion_study_has_a_ranking_and_no_figures():
    table = published.published("lesion_post_training")
    assert table["published"].isna().all() and len(table) == 20
    best = table.groupby("column", sort=False)["ranking"].agg(lambda ranks: (ranks == "best").sum())
    assert (best == 1).all() and set(table.loc[table["ranking"] == "best", "row"]) == {"cLDM-PT"}


def test_this_run_lies_beside_and_fills_nothing_published(tmp_path):
    run = {("LDM", "SSIM, w/ edges"): 0.7, ("LDM", "DSA-feature distance, w/ edges"): 0.2}
    table = published.contract("anatomy_table1", run, "phantom")
    published.write_table(tmp_path / "maps_scores.csv", table)
    cells = published.read_table(tmp_path / "maps_scores.csv").set_index(["row", "column"])
    assert cells.loc[("LDM", "SSIM, w/ edges"), ["published", "this_run"]].tolist() == [0.608, 0.7]
    own = cells.loc[("LDM", "DSA-feature distance, w/ edges")]
    assert np.isnan(own["published"]) and own["this_run"] == 0.2 and own["source"] == "phantom"
    assert pd.isna(cells.loc[("SPADE", "FID, w/ edges"), "this_run"]) and len(cells) == 31


def test_names_that_do_not_exist():
    with pytest.raises(
        StudyError, match="no published table 'table1': choose 1, 2, 3, 4, 5, anatomy_table1, lesion_post_training"
    ):
        published.published("table1")
    with pytest.raises(StudyError, match="source 'reader ratings' is not one of phantom, archive, ACDC, CT perfusion"):
        published.contract("anatomy_table1", {}, "reader ratings")
