"""Trained weights of notebook 21: when a run goes on from them, when it is refused, and how they are written."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from dsa_lib.ldm import autoencoder
from dsa_lib.maps import map_diffusion, map_weights, spade
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PHANTOM, SMOKE, load_profile
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
    monkeypatch.setattr(map_weights, "FOLDER", tmp_path / "weights")
    torch.manual_seed(0)
    channels, side, _ = autoencoder.latent_shape(SMOKE.autoencoder)
    ldm = map_diffusion.build(SMOKE, 2, channels, side, SMOKE.autoencoder.image_size)
    map_diffusion.save(ldm, tmp_path / "ldm", {"edges": False})
    gan = spade.build(SMOKE.spade, 2, 64, vae=False)
    spade.save(gan, tmp_path / "spade", SMOKE.spade, 2, 64)
    log = pd.DataFrame({"step": [4, 8], "train_loss": [2.0, 1.0], "val_loss": [2.5, 1.5]})
    names = ("ldm", "spade")
    card = map_weights.export({name: tmp_path / name for name in names}, {name: log for name in names}, FACTS)
    return SimpleNamespace(folder=tmp_path / "weights", ldm=ldm, gan=gan, card=card, log=log)


def study(tmp_path, profile=PHANTOM, archive=None, patients=("PHANTOM-2-0001",), started_from="vae-card"):
    pd.DataFrame({"patient_id": list(patients)}).to_parquet(tmp_path / "archive_truth.parquet")
    ws = SimpleNamespace(root=tmp_path, manifest=lambda notebook: {"facts": {"started_from": started_from}})
    return SimpleNamespace(profile=profile, archive=archive, ws=ws, note=lambda key, value: None)


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


def test_the_phantom_profile_goes_on_from_them(weights, tmp_path, capsys):
    found = map_weights.start(study(tmp_path), False)
    assert found == weights.folder and "Goes on from" in capsys.readouterr().out
    assert map_weights.of_model(found, "ldm") == weights.folder / "ldm" and map_weights.digest(found)
    assert map_weights.of_model(None, "ldm") is None and map_weights.digest(None) == ""


@pytest.mark.parametrize(
    ("options", "from_scratch", "other_data", "said"),
    [
        ({}, True, False, "from_scratch is set"),
        ({}, False, True, "not frames of this run"),
        ({"profile": SMOKE}, False, False, "this is smoke"),
        ({"archive": "mine"}, False, False, "an archive of its own"),
        ({"started_from": "nothing"}, False, False, "did not go on from the one"),
        ({"profile": load_profile("phantom", {"anatomy.to_latent": "area"})}, False, False, "anatomy.to_latent differ"),
        ({"profile": load_profile("phantom", {"spade.hidden": 8})}, False, False, "spade.hidden differ"),
    ],
)
def test_every_other_run_trains_from_scratch_and_says_why(
    weights, tmp_path, capsys, options, from_scratch, other_data, said
):
    assert map_weights.start(study(tmp_path, **options), from_scratch, other_data) is None
    assert said in capsys.readouterr().out


def test_a_patient_who_was_seen_and_a_damaged_file_are_errors(weights, tmp_path):
    with pytest.raises(StudyError, match=r"PHANTOM-1-0002.*another seed, or set from_scratch"):
        map_weights.start(study(tmp_path, patients=("PHANTOM-1-0002",)), False)
    (weights.folder / "ldm" / "anatomy.json").write_text("{}")
    with pytest.raises(StudyError, match=r"ldm/anatomy.json is not the file"):
        map_weights.start(study(tmp_path), False)


def test_weights_that_are_too_large_or_beyond_half_precision_do_not_ship(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(map_weights, "LARGEST_MB", 0.1)
    with pytest.raises(StudyError, match=r"more than 0\.1"):
        map_weights.export({"ldm": tmp_path / "ldm"}, {"ldm": weights.log}, FACTS)
    with torch.no_grad():
        next(weights.ldm.unet.parameters()).fill_(1e6)
    map_diffusion.save(weights.ldm, tmp_path / "ldm", {})
    with pytest.raises(StudyError, match="beyond half precision"):
        map_weights.export({"ldm": tmp_path / "ldm"}, {"ldm": weights.log}, FACTS)


@pytest.mark.skipif(not (map_weights.FOLDER / "card.json").exists(), reason="no weights in models/anatomy")
def test_the_shipped_files_are_those_of_the_card_and_of_the_profiles_shape():
    card = map_weights.card()
    assert {name: sha256(map_weights.FOLDER / name) for name in card["files"]} == card["files"]
    assert card["shapes"] == map_weights.shapes(PHANTOM)


def test_the_budget_of_a_run_that_went_on_counts_the_shipped_steps_too(weights):
    log = pd.DataFrame({"step": [0, 2, 4]})
    assert map_weights.budget_row(None, "ldm", log, 4, 1.4) == {"steps": 4, "images seen": 16, "seconds": 1}
    whole = map_weights.budget_row(weights.folder, "ldm", log, 4, 1.4)
    assert whole == {"steps": 12, "images seen": 48, "seconds": 4}
