"""Trained weights of label maps: what is written of them, and what they have cost. When a run goes on from them: see nn/test_shipped.py."""

import json
from types import SimpleNamespace

import benchmark_script
import numpy as np
import pandas as pd
import pytest
import torch

from dsa_lib.ldm import autoencoder
from dsa_lib.maps import map_diffusion, map_weights, spade
from dsa_lib.nn import export
from dsa_lib.run.profiles import PHANTOM, SMOKE
from dsa_lib.run.workspace import sha256

FACTS = {
    "run": "w", "shapes": map_weights.shapes(PHANTOM), "patients": {"train": ["PHANTOM-1-0001"], "val": ["PHANTOM-1-0002"]},
    "archive": {"patients": 2, "seed": 1}, "autoencoder": "vae-card", "steps": 8, "stages": {"ldm": [8], "spade": [3, 5]}, "batch_size": 4,
    "calls": ["train", "train --more 5"],
    "seconds": {"ldm": 3.0, "spade": 2.0}, "device": "CPU", "commit": "abc",
}  # fmt: skip


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """models/anatomy with one small diffusion and one small SPADE model, as the benchmark writes it."""
    monkeypatch.setattr(map_weights.WEIGHTS, "folder", tmp_path / "weights")
    torch.manual_seed(0)
    channels, side, _ = autoencoder.latent_shape(SMOKE.autoencoder)
    ldm = map_diffusion.build(SMOKE, 2, channels, side, SMOKE.autoencoder.image_size)
    map_diffusion.save(ldm, tmp_path / "ldm", {"edges": False})
    gan = spade.build(SMOKE.spade, 2, 64, vae=False)
    spade.save(gan, tmp_path / "spade", SMOKE.spade, 2, 64)
    log = pd.DataFrame({"step": [4, 8], "train_loss": [2.0, 1.0], "val_loss": [2.5, 1.5]})
    names = ("ldm", "spade")
    parts, logs = {name: tmp_path / name for name in names}, {name: log for name in names}
    card = export.write(map_weights.WEIGHTS, parts, logs, FACTS, benchmark_script.load("anatomy").readme)
    return SimpleNamespace(folder=tmp_path / "weights", ldm=ldm, gan=gan, card=card, log=log)


def test_what_is_written_is_read_in_half_precision_with_card_log_and_readme(weights):
    assert weights.card == map_weights.card() and weights.card["parameters"]["ldm"] > 1000
    assert all(sha256(weights.folder / name) == digest for name, digest in weights.card["files"].items())
    loaded, _ = map_diffusion.load(weights.folder / "ldm")
    for name, value in loaded.unet.state_dict().items():
        torch.testing.assert_close(value, weights.ldm.unet.state_dict()[name].half().float())
    gan = spade.load(weights.folder / "spade")
    name, value = next(iter(gan.state_dict().items()))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, weights.gan.state_dict()[name].half().float())
    assert map_weights.log("ldm")["val_loss"].tolist() == [2.5, 1.5]
    assert "| `ldm/` |" in (weights.folder / "README.md").read_text()
    told = (weights.folder / "README.md").read_text()
    assert "Every model saw 32 images (8 steps)" in told and "`train` and then `train --more 5`" in told
    assert "`ldm/` | " in told and " | 8 | 3 |" in told and " | 3 + 5 | 2 |" in told
    assert np.isclose(json.loads((weights.folder / "card.json").read_text())["seconds"]["ldm"], 3.0)


def test_the_log_of_a_further_stage_counts_its_steps_on(weights):
    longer = map_weights.longer_log("ldm", pd.DataFrame({"step": [2, 5], "val_loss": [1.4, 1.2]}))
    assert longer["step"].tolist() == [4, 8, 10, 13] and longer["val_loss"].tolist() == [2.5, 1.5, 1.4, 1.2]


def test_each_model_has_its_folder(weights):
    assert map_weights.of_model(weights.folder, "ldm") == weights.folder / "ldm"
    assert map_weights.of_model(None, "ldm") is None


def test_the_budget_of_a_run_that_went_on_counts_the_shipped_steps_too(weights):
    log = pd.DataFrame({"step": [0, 2, 4]})
    assert map_weights.budget_row(None, "ldm", log, 4, 1.4) == {"steps": 4, "images seen": 16, "seconds": 1}
    whole = map_weights.budget_row(weights.folder, "ldm", log, 4, 1.4)
    assert whole == {"steps": 12, "images seen": 48, "seconds": 4}
