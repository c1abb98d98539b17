"""Six models on one footing: one budget, the same conditions, a stretch from trained weights."""

import dataclasses

import numpy as np
import pytest
import torch

from dsa_lib.core.pairs import AnatomySet
from dsa_lib.ldm import autoencoder
from dsa_lib.maps import map_diffusion, models, spade
from dsa_lib.maps.data import with_edges
from dsa_lib.nn import shipped
from dsa_lib.run.profiles import load_profile

PROFILE = load_profile("smoke", {"text.width": 16, "anatomy.steps": 2, "anatomy.steps_continued": 1})


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    labels = np.zeros((8, 64, 64), np.uint8)
    for n in range(8):
        column = int(rng.integers(10, 50))
        labels[n, :, column : column + 5] = 1
        labels[n, 30:33, :column] = 2
    frames = np.where(labels > 0, 70, 160).astype(np.uint8)
    part = np.array(["train"] * 5 + ["val"] + ["test"] * 2)
    data = AnatomySet(frames, labels, np.arange(8), part, np.full(8, ""), ("proximal", "medium", "peripheral"))
    data = with_edges(data, PROFILE.anatomy, data.patients)
    torch.manual_seed(0)
    return models.material(data, autoencoder.build_autoencoder(PROFILE.autoencoder), PROFILE)


def test_the_halves_differ_by_the_edges_alone(given):
    told, without = given.maps(models.WITH), given.maps(models.WITHOUT)
    assert told.shape == (8, 3, 64, 64) and without.shape == (8, 2, 64, 64)
    assert np.array_equal(told[2:4][:, :2], without[2:4])
    assert len(given.latents("train")) == 5 and given.mean.shape[0] == 8
    assert (
        models.name_of("LDM", models.WITH) == "ldm_edges"
        and models.name_of("SPADE w/ VAE", models.WITHOUT) == "spade_vae"
    )


def test_all_train_with_one_budget_and_an_image_hangs_on_its_seed_and_map(given, tmp_path):
    ldm = "LDM", models.WITH
    model, log, seconds = models.train(given, *ldm, None, folder=tmp_path / "ldm", digest="x")
    assert log["step"].max() == 2 and seconds > 0 and "val_loss" in log
    both = models.generate(given, *ldm, model, np.array([6, 7]))
    alone = models.generate(given, *ldm, model, np.array([7]))
    assert both.shape == (2, 64, 64) and np.abs(both[1].astype(int) - alone[0]).max() <= 1
    for method in models.METHODS[1:]:
        key = method, models.WITHOUT
        spade_model, log, _ = models.train(given, *key, None, folder=tmp_path / method.replace("/", "_"), digest="x")
        assert log["step"].max() == 2
        assert models.generate(given, *key, spade_model, np.array([6, 7])).shape == (2, 64, 64)
        discriminators = sum(p.numel() for p in spade_model.discriminator.parameters())
        whole = sum(p.numel() for p in spade_model.parameters())
        assert 0 < models.generator_parameters(spade_model) == whole - discriminators


def test_a_saved_model_makes_the_same_images(given, tmp_path):
    rows = np.array([6, 7])
    for key in (("LDM", models.WITHOUT), ("SPADE", models.WITH)):
        model, *_ = models.train(given, *key, None, folder=tmp_path / "checkpoints" / key[0], digest="x")
        models.save(given, *key, model, tmp_path / key[0])
        again = (models.open_ldm if key[0] == "LDM" else spade.load)(tmp_path / key[0])
        made = models.generate(given, *key, model, rows)
        assert np.array_equal(models.generate(given, *key, again, rows), made)
    assert map_diffusion.load(tmp_path / "LDM")[1]["edges"] is False


def test_a_sentence_is_told_where_it_is_asked_for(given, monkeypatch):
    heard = []
    monkeypatch.setattr(
        map_diffusion, "generate", lambda model, vae, maps, told, seeds, *rest, **how: heard.append((told, seeds))
    )
    told = dataclasses.replace(given, data=dataclasses.replace(given.data, sentences=np.array(list("abcdefgh"))))
    for asked in (False, True):
        models.generate(told, "LDM", models.WITH, None, np.array([6, 7]), told=asked)
    assert heard == [(["", ""], [6, 7]), (["g", "h"], [6, 7])]


def test_images_are_read_again_under_their_model_and_half(tmp_path):
    outputs = {key: np.full((2, 4, 4), n, np.uint8) for n, key in enumerate(models.EVERY)}
    models.save_images(tmp_path / "images.npz", outputs)
    again = models.load_images(tmp_path / "images.npz")
    assert list(again) == list(outputs) and all(np.array_equal(again[key], outputs[key]) for key in outputs)


def test_from_trained_weights_all_do_the_same_short_stretch(tmp_path):
    whole, stretch = models.budget(PROFILE, None), models.budget(PROFILE, tmp_path)
    assert whole["steps"] == 2 and stretch["steps"] == 1 and stretch["evaluate_first"]
    assert stretch["learning_rate"] == pytest.approx(PROFILE.anatomy.learning_rate * shipped.CONTINUED_RATE)


def test_weights_that_learn_on_have_the_whole_budget_from_where_they_were(given, tmp_path):
    assert models.budget(PROFILE, tmp_path, whole=True) == models.budget(PROFILE, None)
    model, *_ = models.train_spade(given, models.WITH, False, None, folder=tmp_path / "first", digest="x")
    spade.save(model, tmp_path / "spade", PROFILE.spade, given.maps(models.WITH).shape[1], 64)
    options = {"start": tmp_path / "spade", "whole": True, "digest": "x"}
    learned, log, _ = models.train_spade(given, models.WITH, False, None, folder=tmp_path / "second", **options)
    assert log["step"].max() == 2
    before, after = (dict(each.generator.named_parameters()) for each in (model, learned))
    moved = max(float((after[name] - before[name]).abs().max().detach()) for name in before)
    assert (
        0 < moved < 10 * PROFILE.spade.learning_rate
    )  # two steps of Adam away from the first, not from random weights


def test_timesteps_are_weighed_as_its_own_section_says_and_the_held_out_noise_outlives_a_seed(given, tmp_path):
    def held_out_loss(name: str, **changes) -> float:
        profile = load_profile("smoke", {"text.width": 16, "anatomy.steps": 1, **changes})
        start = tmp_path / "start"
        if not start.exists():
            torch.manual_seed(0)
            channels, side = given.mean.shape[1], given.mean.shape[-1]
            map_diffusion.save(
                map_diffusion.build(profile, given.maps(models.WITH).shape[1], channels, side, 64), start, {}
            )
        changed = dataclasses.replace(given, profile=profile)
        how = {"folder": tmp_path / name, "digest": name, "start": start}
        return float(models.train_ldm(changed, models.WITH, **how)[1]["val_loss"].iloc[0])  # before the first step

    plain = held_out_loss("plain")
    assert held_out_loss("seed", seed=5) == pytest.approx(plain, rel=1e-6)
    assert held_out_loss("study", **{"diffusion.min_snr_gamma": 1.0}) == pytest.approx(plain, rel=1e-6)
    assert held_out_loss("own", **{"anatomy.min_snr_gamma": 1.0}) < 0.9 * plain
