"""The autoencoder for other images: the loss that is left without a perceptual network, the latent scale, sizes that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsa_lib.ldm import autoencoder
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PAPER, SMOKE

TINY = replace(
    SMOKE,
    curation=replace(SMOKE.curation, image_size=16),
    autoencoder=replace(SMOKE.autoencoder, image_size=16, block_channels=(8, 8), crop=0, batch_size=4, steps=6),
)


def test_without_lpips_the_error_itself_is_the_loss():
    config = autoencoder.settings_of(TINY)
    assert config.perceptual_weight == 0 and config.l1_weight == TINY.autoencoder.l1_weight == 1.0
    assert autoencoder.settings_of(PAPER) == PAPER.autoencoder


def test_latents_of_the_trained_model_have_unit_variance_at_its_scale(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 16, 16)).astype(np.uint8)
    model, log = autoencoder.train(images, np.arange(9), np.arange(9, 12), TINY, folder=tmp_path, digest="a")
    assert log["step"].iloc[-1] == 6 and not any(parameter.requires_grad for parameter in model.parameters())
    mean, std = autoencoder.encode(model, images[:9])
    drawn = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).numpy()
    assert (model.config.scaling_factor * drawn).std() == pytest.approx(1.0, rel=0.15)
    with pytest.raises(StudyError, match="8×8 pixels for an autoencoder of 16²"):
        autoencoder.train(images[:, :8, :8], np.arange(9), np.arange(9, 12), TINY, folder=tmp_path, digest="b")


def test_weights_that_were_trained_before_get_a_short_stretch_and_cannot_end_worse(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 16, 16)).astype(np.uint8)
    config = replace(autoencoder.settings_of(TINY), steps_continued=2)
    rows = {"train": np.arange(9), "val": np.arange(9, 12)}
    model = autoencoder.build_autoencoder(config)
    judge = torch.no_grad()(autoencoder.validation_loss(images, rows["val"], config, None, TINY.seed))
    before = judge(model)["loss"]
    how = {"folder": tmp_path, "digest": "a", "start": tmp_path, "live": False}
    log = autoencoder.fit_weights(model, images, rows, config, None, TINY, **how)
    assert log["step"].tolist()[0] == 0 and log["step"].iloc[-1] == 2
    assert judge(model)["loss"] <= before + 1e-6
