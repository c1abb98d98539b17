"""Tables for reading: words and units in place of names of columns, an interval beside its estimate, identifiers without separators."""

import numpy as np
import pandas as pd
import pytest

from dsa_lib.report import columns


@pytest.mark.parametrize(
    "name, told",
    [
        ("error_deg", "error (°)"),
        ("psnr_truth_db", "psnr truth (dB)"),
        ("s_per_image", "s per image"),
        ("p_holm", "p, Holm"),
        ("mixed_icc", "ICC, mixed model"),
        ("difference", "difference"),
    ],
)
def test_headings_are_words_with_units(name, told):
    assert columns.label(name) == told


def test_an_estimate_and_its_interval_share_a_cell():
    frame = pd.DataFrame(
        {"value": [12.345, 0.5], "low": [3.0, np.nan], "high": [22.4, np.nan], "floor": [8.7, 1.0], "floor_low": [0.0, 0.25], "floor_high": [16.0, 2.0]}
    )  # fmt: skip
    shown = columns.readable(frame)
    assert list(shown) == ["value", "floor"]
    assert list(shown["value"]) == ["12.35 [3.000, 22.40]", "0.500"]
    assert list(shown["floor"]) == ["8.700 [0.000, 16.00]", "1.000 [0.250, 2.000]"]


def test_bounds_without_an_estimate_keep_a_column():
    frame = pd.DataFrame({"icc": [0.5], "boot_low": [0.4], "boot_high": [0.6]})
    assert columns.readable(frame).iloc[0].to_dict() == {"ICC": "0.500", "interval over images": "[0.400, 0.600]"}


def test_counts_are_grouped_and_identifiers_are_not():
    frame = pd.DataFrame({"seed": [20260101, 7], "images": [4638, 12], "share": [0.5, 1.0], "p": [0.00001, 0.04]})
    row = columns.readable(frame).iloc[0]
    assert row["seed"] == "20260101" and row["images"] == "4,638" and row["share"] == "0.500" and row["p"] == "1.0e−05"


def test_what_every_row_says_is_told_once_and_empty_columns_are_left_out():
    frame = pd.DataFrame({"source": ["phantom"] * 3, "x": [1.0, 2.5, 3.0], "reason": [np.nan] * 3, "flag": [True, False, True]})  # fmt: skip
    kept, told = columns.shared(frame)
    assert list(kept) == ["x", "flag"] and told == "All rows: source: phantom."
    assert list(columns.shared(frame.head(2))[0]) == ["source", "x", "flag"]  # two rows that agree say little


def test_names_of_the_code_are_words_in_cells_and_sentences_are_left():
    shown = columns.readable(pd.DataFrame({"measure": ["vessel_area_px", "a sentence_of text", "AC A"], "ok": [True, False, True]}))  # fmt: skip
    assert list(shown["measure"]) == ["vessel area (pixels)", "a sentence_of text", "AC A"]
    assert list(shown["ok"]) == ["yes", "no", "yes"]
