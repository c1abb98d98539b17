"""Rates, confusion and verdict of what the DSA network names in an image."""

import numpy as np
import pandas as pd
import pytest

from dsa_lib.audits import adherence
from dsa_lib.core.conditions import CELLS


def certain(named, arterial=1.0):
    """What a network that is sure would say of images that show the cells `named`."""
    named = np.asarray(named)
    return pd.DataFrame(
        {
            "phase": arterial,
            "circulation": [0.99 if cell.startswith("PC") else 0.01 for cell in named],
            "plane": [0.99 if cell.endswith("B") else 0.01 for cell in named],
        }
    )


def test_what_lacks_a_head_or_a_class_is_not_judged():
    assert adherence.cannot_judge({"phase": "x", "primary_angle_deg": "y"}, np.arange(4)) is None
    why = adherence.cannot_judge({"plane": "no training frame that is B"}, np.arange(4))
    assert why == "the network has no head for plane (no training frame that is B)"
    assert "no training frame shows PC A" in adherence.cannot_judge({}, np.array([0, 2, 3]))


def test_rates_and_confusion_by_hand():
    asked = np.array(["AC A", "AC A", "PC A", "AC B", "PC B", "Others"])
    found = certain(["AC A", "PC A", "PC A", "AC A", "PC B", "AC A"], arterial=[1, 1, 0, 1, 1, 0])
    table = adherence.rates({"generated": (found, asked)}).set_index("scope")
    assert (table.loc["overall", "images"], table.loc["overall", "named_right"]) == (5, 3)
    assert table.loc["AC A", "rate"] == 0.5 and table.loc["PC B", "rate"] == 1
    assert table.loc["overall", "circulation_rate"] == pytest.approx(4 / 5)
    assert table.loc["overall", "plane_rate"] == pytest.approx(4 / 5)
    assert table.loc["overall", "arterial_rate"] == pytest.approx(4 / 5) and table.loc["PC A", "arterial_rate"] == 0
    matrix = adherence.confusion(found, asked)
    assert matrix.loc["AC A"].tolist() == [1, 1, 0, 0] and matrix.loc["AC B", "AC A"] == 1
    assert matrix.to_numpy().sum() == 5


def test_without_a_phase_head_no_share_is_called_arterial():
    table = adherence.rates({"generated": (certain(["AC A"], arterial=np.nan), np.array(["AC A"]))})
    assert np.isnan(table["arterial_rate"]).all() and table["rate"].iloc[0] == 1


def test_verdict_needs_every_condition():
    asked = np.repeat(CELLS, 20)
    good = adherence.rates({"generated": (certain(asked), asked)})
    assert adherence.verdict(good).endswith("reached.")
    named = asked.copy()
    named[:5] = "PC A"  # 75 % of one condition, 94 % overall
    assert adherence.verdict(adherence.rates({"generated": (certain(named), asked)})).endswith("missed.")
