"""Weights of the lesion translation that ship: what their card and README.md say. When a run goes on from them: see nn/test_shipped.py."""

import benchmark_script
import pandas as pd
import pytest

from dsa_lib.lesions import lesion_weights
from dsa_lib.nn import export, shipped
from dsa_lib.run.profiles import PHANTOM


@pytest.fixture
def card(tmp_path, monkeypatch):
    """models/lesions with the base model alone, as the benchmark writes it."""
    monkeypatch.setattr(lesion_weights.WEIGHTS, "folder", tmp_path / "lesions")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text("{}")
    facts = {
        "patients": {"train": ["P1", "P2"], "val": ["P3"]}, "seed": 1, "steps": {lesion_weights.BASE: 5000, lesion_weights.PIX2PIX: 1500},
        "shapes": lesion_weights.shapes(PHANTOM), "autoencoder": shipped.digest(shipped.FOLDER), "calls": ["train", "train --more 1000"],
    }  # fmt: skip
    parts, logs = {lesion_weights.BASE: tmp_path / "net"}, {lesion_weights.BASE: pd.DataFrame({"step": [5]})}
    return export.write(lesion_weights.WEIGHTS, parts, logs, facts, benchmark_script.load("lesions").readme)


def test_the_card_names_files_and_what_the_weights_depend_on(card):
    assert card == lesion_weights.card() and set(card["files"]) == {"base/config.json", "logs/base.jsonl"}
    assert card["shapes"]["lesions.base_channels"] == PHANTOM.lesions.base_channels
    assert card["shapes"]["diffusion.prediction"] == PHANTOM.diffusion.prediction
    assert "diffusion.base_channels" not in card["shapes"]  # of the study's own network, which has no part in these
    assert lesion_weights.log(lesion_weights.BASE)["step"].tolist() == [5]


def test_readme_and_report_say_what_the_weights_have_seen(card):
    text = (lesion_weights.WEIGHTS.folder / "README.md").read_text()
    assert "on 2 phantom patients (1 more chose" in text.replace("\n", " ")
    assert "| `base/` | conditional latent diffusion, source beside the latent | 5,000 |" in text
    assert "`train` and then `train --more 1000`" in text
    seen = 1500 * PHANTOM.pix2pix.batch_size, 5000 * PHANTOM.lesions.batch_size
    told = lesion_weights.told_of_pix2pix(PHANTOM)
    assert f"it has seen {seen[0]:,} images of the patients of which the base model has seen {seen[1]:,}" in told
