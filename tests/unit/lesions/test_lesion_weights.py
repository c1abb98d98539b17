"""Weights of notebook 23 that ship: written whole with a card, refused where they would not fit or know the patients, and when a run takes them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dsa_lib.lesions import lesion_weights
from dsa_lib.nn import shipped
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PHANTOM, SMOKE
from dsa_lib.run.workspace import sha256


@pytest.fixture
def written(tmp_path, monkeypatch):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "log.jsonl").write_text('{"step": 5, "train_loss": 0.5}\n')
    folder = tmp_path / "lesions"
    facts = {"patients": {"train": ["P1", "P2"], "val": ["P3"]}, "seed": 1, "steps": {lesion_weights.BASE: 5000}}
    lesion_weights.write(
        {lesion_weights.BASE: tmp_path / "net"}, {lesion_weights.BASE: tmp_path / "log.jsonl"}, PHANTOM, facts, folder
    )
    monkeypatch.setattr(lesion_weights, "FOLDER", folder)
    return folder


def study(profile=PHANTOM, made=None):
    notes = {}
    made = sha256(shipped.FOLDER / "card.json") if made is None else made
    ws = SimpleNamespace(manifest=lambda notebook: {"facts": {"started_from": made}})
    return SimpleNamespace(profile=profile, ws=ws, note=notes.__setitem__, notes=notes)


def test_the_card_names_files_shapes_patients_and_the_autoencoder(written):
    card = lesion_weights.card()
    assert set(card["files"]) == {"base/model.safetensors", "logs/base.jsonl"}
    assert card["files"]["base/model.safetensors"] == sha256(written / "base" / "model.safetensors")
    assert card["shapes"]["lesions.base_channels"] == PHANTOM.lesions.base_channels
    assert card["shapes"]["diffusion.prediction"] == PHANTOM.diffusion.prediction
    assert "diffusion.base_channels" not in card["shapes"]  # of the study's own network, which has no part in these
    assert card["autoencoder"] == sha256(shipped.FOLDER / "card.json")
    text = (written / "README.md").read_text()
    assert "on 2 phantom patients (1 more chose" in text.replace("\n", " ") and "| 5,000 |" in text
    assert lesion_weights.log(lesion_weights.BASE)["step"].tolist() == [5]


def test_a_run_goes_on_from_them_and_says_so(written, capsys):
    given = study()
    assert lesion_weights.start(given, ["P9"], from_scratch=False) == written
    assert given.notes["started_from"] == sha256(written / "card.json") == lesion_weights.digest(written)
    assert "Goes on from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "scratch", "why"),
    [
        (study(), True, "from_scratch is set"),
        (study(SMOKE), False, "this is smoke"),
        (study(replace(PHANTOM, lesions=replace(PHANTOM.lesions, source_as="latent"))), False, "source_as differ"),
        (study(made="nothing"), False, "autoencoder did not go on"),
    ],
)
def test_else_it_trains_from_scratch_and_says_why(written, given, scratch, why, capsys):
    assert lesion_weights.start(given, ["P9"], from_scratch=scratch) is None
    assert why in capsys.readouterr().out and given.notes["started_from"] == "nothing"
    assert lesion_weights.digest(None) == ""


def test_nobody_they_have_seen_is_evaluated_and_damage_is_found(written):
    with pytest.raises(StudyError, match=r"1 patients of these pairs \(first: P3\) were seen"):
        lesion_weights.start(study(), ["P9", "P3"], from_scratch=False)
    (written / "base" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(StudyError, match=r"models/lesions/base/model.safetensors is not the file"):
        lesion_weights.start(study(), ["P9"], from_scratch=False)


def test_what_is_too_large_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(lesion_weights, "LARGEST_MB", 0)
    facts = {"patients": {"train": [], "val": []}, "steps": {"base": 1}}
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.bin").write_bytes(b"0" * 10)
    with pytest.raises(StudyError, match="more than 0: shrink the networks"):
        lesion_weights.write({"base": tmp_path / "net"}, {}, PHANTOM, facts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_ships_is_whole_and_fits_the_profile():
    if not (lesion_weights.FOLDER / "card.json").exists():
        pytest.skip("models/lesions is not there yet")
    card = json.loads((lesion_weights.FOLDER / "card.json").read_text())
    assert card["shapes"] == lesion_weights.shapes(PHANTOM)
    assert all(sha256(lesion_weights.FOLDER / name) == digest for name, digest in card["files"].items())
    size = sum(path.stat().st_size for path in lesion_weights.FOLDER.rglob("*") if path.is_file())
    assert size < lesion_weights.LARGEST_MB * 2**20
