"""The models of notebook 23: one latent space, a base that stays as it is under its arms, the decoder that is trained along, and what ships."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_translation import TINY, pairs

from dsa_lib.ldm.autoencoder import build_autoencoder
from dsa_lib.ldm.diffusion import noise_schedule
from dsa_lib.lesions import comparison, lesion_weights, pix2pix, translation
from dsa_lib.lesions.post_training import in_images, without_images

SETTINGS = replace(TINY.post_training, image_weight=1.0, lesion_weight=1.0, latest=1.0, steps=3, batch_size=4)
QUIET = {"live": False}


def study_at(folder, profile=TINY):
    """A run's folder that asks for no manifest; digests name the sections alone."""
    ws = SimpleNamespace(checkpoints=lambda name: folder / "checkpoints" / name, path=lambda name: folder / name)
    read = write = lambda name: folder / name
    digest = lambda *sections, code: " ".join(sections)  # noqa: E731
    return SimpleNamespace(profile=profile, ws=ws, read=read, write=write, digest=digest)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """(study, pairs by part, schedule, base arm) of a few steps."""
    study = study_at(tmp_path_factory.mktemp("run"))
    torch.manual_seed(0)
    build_autoencoder(TINY.autoencoder).save_pretrained(study.write("vae"))
    vae, given = comparison.latent_space(study, pairs(), "pairs", own=False)
    assert given == "pairs" and not any(parameter.requires_grad for parameter in vae.parameters())
    data, schedule = comparison.training_data(pairs(), vae, "unshuffle"), noise_schedule(TINY.diffusion)
    assert (len(data["train"]), len(data["val"]), data["train"].source_channels) == (10, 1, 1)
    return study, data, schedule, comparison.base(study, data, schedule, vae, given, **QUIET)


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_arms_go_on_from_the_base_which_stays_as_it_is(bench):
    study, data, schedule, base = bench
    before = weights(base.model)
    arms = {
        name: comparison.further(study, base, data, schedule, settings, "pairs", what=name, **QUIET)
        for name, settings in (("control", without_images(SETTINGS)), ("post", SETTINGS))
    }
    assert torch.equal(weights(base.model), before)
    assert not torch.equal(weights(arms["control"].model), before)
    assert not torch.equal(weights(arms["control"].model), weights(arms["post"].model))
    assert all(arm.decoder is base.decoder for arm in arms.values())
    parts = comparison.loss_parts(arms)
    assert parts.loc["control", "train_latent"].notna().all() and "train_lesion" not in arms["control"].log
    assert parts.loc["post", "train_lesion"].notna().all()
    made = comparison.translations(arms, schedule, pairs().sources[:2], [5, 6], TINY.lesions)
    assert {name: images.shape for name, images in made.items()} == dict.fromkeys(arms, (2, 16, 16))


def test_a_decoder_is_trained_along_where_it_is_asked_for_and_an_image_loss_reaches_it(bench, tmp_path):
    _, data, schedule, base = bench
    before, wanted = weights(base.decoder.decoder), replace(SETTINGS, decoder_trained=True)
    arms = {
        seen: comparison.further(study_at(tmp_path), base, data, schedule, settings, "", **QUIET)
        for seen, settings in ((True, wanted), (False, without_images(wanted)))
    }
    assert torch.equal(weights(base.decoder.decoder), before)
    assert not torch.equal(weights(arms[True].decoder.decoder), before) and arms[False].decoder is base.decoder


def test_the_control_has_no_loss_in_the_image_and_all_else_alike():
    assert in_images(SETTINGS) and in_images(replace(SETTINGS, lesion_weight=0.0))
    control = without_images(SETTINGS)
    assert not in_images(control)
    assert replace(control, image_weight=1.0, lesion_weight=1.0) == SETTINGS


def test_an_autoencoder_of_its_own_is_written_and_named_by_what_learns_in_it(tmp_path):
    profile = replace(TINY, autoencoder=replace(TINY.autoencoder, steps=2, batch_size=4))
    study = study_at(tmp_path, profile)
    vae, given = comparison.latent_space(study, pairs(), "pairs ", own=True)
    assert given.startswith("pairs ") and len(given) == len("pairs ") + 64
    assert (tmp_path / "lesions/vae/diffusion_pytorch_model.safetensors").exists()
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_what_ships_is_loaded_in_the_place_of_training(bench, tmp_path, monkeypatch, capsys):
    _, data, schedule, base = bench
    translation.save(base.model, tmp_path / lesion_weights.BASE)
    small = replace(TINY.pix2pix, channels=(8, 8), discriminator_width=8, discriminator_levels=1, steps=2, batch_size=2)
    profile = replace(TINY, pix2pix=small, lesions=replace(TINY.lesions, steps_continued=1, learning_rate=1e-9))
    gan, log = comparison.baseline(study_at(tmp_path / "run", profile), pairs(), "", **QUIET)
    assert "val_loss" in log
    pix2pix.save(gan, tmp_path / lesion_weights.PIX2PIX, small, 16)
    monkeypatch.setattr(lesion_weights, "log", lambda name: pd.DataFrame({"step": [7], "name": [name]}))
    monkeypatch.setattr(lesion_weights, "told_of_pix2pix", lambda profile: "as it ships")
    again, log = comparison.baseline(study_at(tmp_path / "other", profile), pairs(), "", tmp_path)
    assert torch.equal(weights(again), weights(gan)) and log["name"].tolist() == ["pix2pix"]
    assert "as it ships" in capsys.readouterr().out
    # A stretch at rest: the weights are those that shipped, up to half precision.
    study = study_at(tmp_path / "third", profile)
    goes_on = comparison.base(study, data, schedule, base.decoder, "", tmp_path, **QUIET)
    np.testing.assert_allclose(weights(goes_on.model), weights(base.model), atol=1e-3)
