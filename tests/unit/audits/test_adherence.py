"""Rates, confusion and verdict of what the DSA network names in an image."""

import numpy as np
import pandas as pd
import pytest
from folder_run import with_images

from dsa_lib.audits import adherence, angles
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import image_sets
from dsa_lib.ldm import autoencoder


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


def test_the_judge_is_asked_about_test_patients_alone(tmp_path, monkeypatch):
    study = with_images(tmp_path)
    images = image_sets.of_run(study)
    plain = adherence.sets_of_run(study, images)
    assert list(plain) == ["generated", "held-out"]
    held_out = plain["held-out"]
    assert set(held_out.rows["patient"]) == {"p4", "p5"} and held_out.rows["frame_id"].is_monotonic_increasing
    assert len(held_out.rows) == min(24, study.profile.fidelity.real_images)
    assert (held_out.frames == images.frames[held_out.rows["frame_id"].to_numpy()]).all()
    monkeypatch.setattr(autoencoder, "round_trip", lambda study: lambda frames: 255 - frames)
    decoded = adherence.sets_of_run(study, images)["held-out, reconstructed"]
    assert (decoded.frames == 255 - held_out.frames).all() and decoded.rows.equals(held_out.rows)


def test_answers_stand_beside_what_was_asked_in_groups_of_patients_or_images(tmp_path):
    study = with_images(tmp_path)
    sets = adherence.sets_of_run(study, image_sets.of_run(study))
    answers = {name: one.rows[list(angles.ANGLE_HEADS)] + 3 for name, one in sets.items()}
    judged = angles.of_answers(answers, sets)
    table = angles.errors(judged).set_index(["set", "scope", "angle"])
    assert table["bias"].to_numpy() == pytest.approx(3)
    primary = table.xs("primary_angle_deg", level="angle")
    assert primary.loc[("generated", "overall"), "groups"] == 12 and primary.loc[("held-out", "overall"), "groups"] == 2


def test_conditions_asked_are_the_four_of_the_paper():
    table = adherence.conditions_asked()
    assert list(table.index) == list(CELLS) and table.loc["PC B", "primary angle (°)"] == -90
    rows = pd.DataFrame({"circulation": ["anterior", "posterior", "anterior"], "plane": ["A", "B", None]})
    assert adherence.cells_by_view(rows).tolist() == ["AC A", "PC B", ""]
