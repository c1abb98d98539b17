"""The tables contract, and the published values against totals and relations printed elsewhere in the paper."""

import pandas as pd
import pytest

from dsa_lib.core import published
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PAPER


def cells(number):
    return published.published(number).set_index(["row", "column"])["published"]


def test_table_1_adds_up_to_the_published_number_of_arterial_frames():
    counts = cells(1).xs("Count", level="column")
    assert counts["Total"] == 99349 == counts.drop("Total").sum()
    shares = cells(1).xs("Proportion (%)", level="column")
    assert (100 * counts / counts["Total"] - shares).abs().max() < 0.06  # printed with one digit; one cell is 0.05 off


def test_table_2_keeps_239_images():
    assert cells(2).xs("N_keep", level="column").sum() == 239


def test_scored_images_of_tables_2_and_3_agree():
    pd.testing.assert_series_equal(
        cells(2).xs("N_scored", level="column").sort_index(), cells(3).xs("N_images", level="column").sort_index(), check_names=False, check_dtype=False
    )  # fmt: skip


def test_table_4_average_coefficients_follow_from_the_single_ones():
    """ICC(2,k) = k·ICC(2,1) / (1 + (k−1)·ICC(2,1)) (Spearman–Brown) with four raters, three of them domain experts."""
    for raters, k in (("All raters", 4), ("Domain experts only", 3)):
        single, average = (cells(4).xs(f"{raters} ICC(2,{which})", level="column") for which in ("1", "k"))
        expected = k * single / (1 + (k - 1) * single)
        assert (expected - average).abs().max() < 0.01


def test_contract_fills_what_was_computed_and_keeps_every_published_cell():
    frame = published.contract(5, {("This run (DSA-feature distance)", "DSA-feature distance"): 3.5}, "phantom")
    assert list(frame.columns) == ["row", "column", "published", "this_run", "source"]
    assert len(frame) == len(published.published(5)) + 1
    ours = frame[frame["row"] == "Ours"].iloc[0]
    assert ours["published"] == 15.27 and pd.isna(ours["this_run"]) and ours["source"] == ""
    assert frame.iloc[-1][["this_run", "source"]].tolist() == [3.5, "phantom"]


def test_only_named_sources_can_fill_a_table():
    with pytest.raises(StudyError, match="published"):
        published.contract(1, {("AC A", "Count"): 9500}, "published")


def test_a_table_survives_writing_and_reading(tmp_path):
    frame = published.contract(1, {("AC A", "Count"): 12, ("PC A", "Count"): 0}, "phantom")
    published.write_table(tmp_path / "table1.csv", frame)
    again = published.read_table(tmp_path / "table1.csv")
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)


def test_other_columns_are_refused(tmp_path):
    with pytest.raises(StudyError, match="contract"):
        published.write_table(tmp_path / "table1.csv", pd.DataFrame({"row": [1]}))
    assert not (tmp_path / "table1.csv").exists()


def test_what_is_fitted_has_a_table_of_its_own(tmp_path):
    printed = published.published(1)
    values = printed.set_index(["row", "column"])["published"].to_dict()
    frame = published.fitted(printed, values)
    assert list(frame.columns) == ["row", "column", "published", "fitted", "source"]
    assert set(frame["source"]) == {"fitted to the published values"}
    published.write_table(tmp_path / "fitted.csv", frame)
    del values["AC A", "Count"]
    with pytest.raises(StudyError, match=r"'AC A', 'Count'.*not both"):
        published.fitted(printed, values)


def test_a_table_is_shown_with_the_digits_of_the_paper_and_nothing_where_nothing_is():
    table = published.contract(
        3, {("AC A", "N_images"): 55.0, ("AC A", "Peri. mean"): 2.004, ("new", "n"): 4.0}, "simulated ratings"
    )
    shown = published.as_printed(3, table)
    assert shown.index.names[1] == "simulated ratings"
    printed = published.published(3, text=True).set_index(["row", "column"])["published"]
    ours, paper = shown.loc[("AC A", "this run")], shown.loc[("AC A", "published")]
    columns = [name for name in shown.columns if ("AC A", name) in printed]
    assert columns and [paper[name] for name in columns] == [printed["AC A", name] for name in columns]
    assert (ours["N_images"], ours["Peri. mean"], ours["n"]) == ("55", "2.00", "")
    assert shown.loc[("new", "this run"), "n"] == "4" and ("new", "published") not in shown.index
    assert not shown.isna().any().any() and "nan" not in shown.to_string().lower()


def test_differences_have_a_sign_and_counts_are_grouped():
    shown = published.as_printed(1, published.contract(1, {("AC A", "Count"): 9600}, "archive"))
    assert shown.loc[("AC A", "published"), "Count"] == "9,500"
    assert shown.loc[("AC A", "this run"), "Count"] == "9,600"
    assert shown.loc[("AC A", "difference"), "Count"] == "+100"


def test_numbers_are_written_for_reading():
    assert published.as_text(-1234.5, 1) == "−1,234.5"
    assert published.as_text(0.004, 2, sign=True) == "0.00"
    assert published.as_text(-0.004, 2, sign=True) == "0.00"
    assert published.as_text(float("nan"), 2) == ""


def test_published_text_keeps_the_printed_digits():
    text = published.published(4, text=True).set_index(["row", "column"])["published"]
    assert text["Proximal", "All raters ICC(2,k)"] == "0.80"


def test_what_the_paper_leaves_open_stands_beside_the_values_of_every_profile():
    table = published.left_open({"autoencoder.kl_weight": "§4.5", "classifier.contiguous": "the paper's"})
    assert list(table.columns) == ["smoke", "phantom", "paper", "why"]
    assert table.loc["autoencoder.kl_weight", "paper"] == f"{PAPER.autoencoder.kl_weight:g}"
    assert table.loc["classifier.contiguous", ["paper", "why"]].tolist() == [PAPER.classifier.contiguous, "the paper's"]
    with pytest.raises(AttributeError):
        published.left_open({"classifier.no_such_number": ""})
