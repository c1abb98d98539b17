"""SPADE: losses by hand, each network's own gradient, what z does, resume, files, and the full-size networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dsa_lib.core.pairs import AnatomySet
from dsa_lib.maps import spade
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Spade
from dsa_lib.run.profiles import PROFILES, SMOKE

SETTINGS = replace(SMOKE.spade, channels=(8, 8))
SIDE = 48


def pairs(n=8):
    """Dark bars on grey, the map says where."""
    labels = np.zeros((n, SIDE, SIDE), np.uint8)
    for k in range(n):
        labels[k, 5 * k : 5 * k + 4, 8:40] = 1 + k % 2
    frames = (160 - 40 * labels).astype(np.uint8)
    part = np.array(["train"] * (n - 2) + ["val"] * 2)
    data = AnatomySet(frames, labels, np.arange(n), part, np.array([""] * n), ("a", "b"))
    return data, np.stack([labels == 1, labels == 2], axis=1).astype(np.float32)


def train(folder, vae=True, perceptual=None, **options):
    data, maps = pairs()
    return spade.train(
        data, maps, SETTINGS, vae=vae, perceptual=perceptual, seed=1, folder=folder, digest="d",
        **{"steps": 6, "batch_size": 4, "checkpoint_every_s": 0.0, "live": False} | options,
    )  # fmt: skip


def test_hinge_and_adversarial_terms_by_hand():
    real = [torch.tensor([2.0, 0.5]), torch.tensor([-1.0])]
    fake = [torch.tensor([-2.0, 0.0]), torch.tensor([1.0])]
    # Scale 1: (0 + 0.5)/2 + (0 + 1)/2; scale 2: 2 + 2.
    assert float(spade.hinge(real, fake)) == pytest.approx((0.75 + 4) / 2)
    assert float(spade.adversarial(fake)) == pytest.approx((1 - 1) / 2)
    assert float(spade.adversarial([torch.tensor([3.0, 1.0])])) == -2


def test_feature_matching_by_hand():
    real = [[torch.zeros(1, 2), torch.ones(1, 4)], [torch.zeros(3)]]
    fake = [[torch.full((1, 2), 2.0), torch.ones(1, 4)], [torch.tensor([3.0, 0.0, -3.0])]]
    assert float(spade.feature_matching(real, fake)) == pytest.approx((2 + 0 + 2) / 2)


def test_kl_by_hand_and_as_torch_has_it():
    mean, log_variance = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, np.log(4.0)], [0.0, 0.0]])
    by_hand = (0.5 + 0.5 * (4 - 1 - np.log(4))) / 2
    assert float(spade.kl(mean, log_variance)) == pytest.approx(by_hand, rel=1e-6)
    q = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    theirs = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert float(spade.kl(mean, log_variance)) == pytest.approx(float(theirs), rel=1e-6)


class Mean(nn.Module):
    """A distance that is easy to work by hand."""

    def forward(self, x, y):
        return (x - y).abs().mean((1, 2, 3))


def batch(vae=True):
    data, maps = pairs()
    images = torch.from_numpy(data.frames[:4] / 127.5 - 1).float()[:, None]
    torch.manual_seed(0)
    model = spade.build(SETTINGS, 2, SIDE, vae)
    return model, torch.from_numpy(maps[:4]), images, torch.randn(4, SETTINGS.latent) if vae else None


def test_the_loss_is_the_weighted_sum_of_its_terms():
    settings = replace(SETTINGS, feature_weight=2.0, perceptual_weight=3.0, kl_weight=0.5)
    model, maps, images, noise = batch()
    parts = {k: float(v.detach()) for k, v in spade.losses(model, maps, images, noise, settings, Mean()).items()}
    total = parts["adversarial"] + 2 * parts["features"] + 3 * parts["perceptual"] + 0.5 * parts["kl"]
    assert parts["loss"] == pytest.approx(total + parts["discriminator"], rel=1e-5)
    assert parts["perceptual"] == pytest.approx(parts["l1"])
    assert set(spade.losses(*batch(vae=False), settings, None)) == {
        "loss",
        "adversarial",
        "features",
        "discriminator",
        "l1",
    }


def test_each_network_has_the_gradient_of_its_own_loss_alone():
    model, maps, images, noise = batch()
    spade.losses(model, maps, images, noise, SETTINGS, None)["loss"].backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    parts = spade.losses(model, maps, images, noise, SETTINGS, None)
    own = parts["adversarial"] + SETTINGS.feature_weight * parts["features"] + SETTINGS.kl_weight * parts["kl"]
    generator = torch.autograd.grad(own, list(model.generator.parameters()), retain_graph=True)
    discriminator = torch.autograd.grad(parts["discriminator"], list(model.discriminator.parameters()))
    for part, gradients in (("generator", generator), ("discriminator", discriminator)):
        names = [f"{part}.{name}" for name, _ in getattr(model, part).named_parameters()]
        assert all(torch.allclose(together[n], g, atol=1e-6) for n, g in zip(names, gradients, strict=True))
    assert not any(
        g is not None
        for g in torch.autograd.grad(
            spade.losses(model, maps, images, noise, SETTINGS, None)["adversarial"],
            list(model.discriminator.parameters()),
            allow_unused=True,
        )
    )


def test_without_a_vae_the_seed_says_nothing_and_with_one_it_is_all_that_does(tmp_path):
    _, maps = pairs()
    plain, vae = batch(vae=False)[0].eval(), batch()[0].eval()
    assert np.array_equal(spade.generate(plain, maps, range(8)), spade.generate(plain, maps, range(10, 18)))
    whole = spade.generate(vae, maps, range(8))
    assert whole.dtype == np.uint8 and whole.shape == (8, SIDE, SIDE)
    assert not np.array_equal(whole, spade.generate(vae, maps, range(10, 18)))
    parts = spade.generate(vae, maps, [2, 5], rows=np.array([2, 5]), batch_size=1).astype(int)
    assert np.abs(parts - whole[[2, 5]]).max() <= 1
    with pytest.raises(StudyError, match="3 seeds for 8"):
        spade.generate(vae, maps, range(3))


def test_the_last_block_sees_the_map_at_full_resolution():
    """A condition of single pixels in odd rows and columns is not there at half resolution: MONAI's generator alone cannot answer to it."""
    maps = np.zeros((1, 2, SIDE, SIDE), np.float32)
    maps[:, :, 1::2, 1::2] = 1
    nothing = np.zeros_like(maps)
    for full, answers in ((True, True), (False, False)):
        torch.manual_seed(0)
        model = spade.build(replace(SETTINGS, full_resolution=full), 2, SIDE, vae=False).generator
        with torch.no_grad():
            a, b = (model(torch.from_numpy(each)) for each in (maps, nothing))
        assert a.shape == (1, 1, SIDE, SIDE) and a.abs().max() <= 1
        assert torch.equal(a, b) is not answers


def test_training_learns_and_resumes_bit_identical(tmp_path):
    whole, log = train(tmp_path / "a", perceptual=Mean())
    assert {"train_kl", "train_features", "val_perceptual", "val_l1"} <= set(log.columns)
    original = spade.losses

    def dies(*arguments):
        dies.calls += 1
        if dies.calls == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    dies.calls = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spade, "losses", dies)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b", perceptual=Mean())
    again, resumed = train(tmp_path / "b", perceptual=Mean())
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert log.equals(resumed)


def test_it_paints_what_the_map_says(tmp_path):
    data, maps = pairs()
    settings = replace(SETTINGS, learning_rate=4e-3, discriminator_rate=4e-3)
    model, _ = spade.train(
        data, maps, settings, vae=False, perceptual=Mean(), seed=1, folder=tmp_path, digest="d", steps=60, batch_size=4,
        live=False,
    )  # fmt: skip
    made = spade.generate(model, maps, range(8)).astype(float)
    assert made[data.labels == 2].mean() < made[data.labels == 1].mean() - 15 < made[data.labels == 0].mean() - 30


def test_saved_and_opened_and_gone_on_from(tmp_path):
    model, _ = train(tmp_path / "training")
    spade.save(model, tmp_path / "model", SETTINGS, 2, SIDE)
    spade.save(model, tmp_path / "half", SETTINGS, 2, SIDE, half=True)
    _, maps = pairs()
    made = spade.generate(model, maps, range(8))
    assert np.array_equal(spade.generate(spade.load(tmp_path / "model"), maps, range(8)), made)
    halved = spade.generate(spade.load(tmp_path / "half"), maps, range(8))
    assert np.abs(halved.astype(int) - made).max() <= 2
    on, log = train(tmp_path / "on", start=tmp_path / "half", rate=0.0, evaluate_first=True)
    assert np.abs(spade.generate(on, maps, range(8)).astype(int) - halved).max() <= 1 and log["step"][0] == 0
    (tmp_path / "half" / spade.WEIGHTS).write_bytes(b"")
    for folder in ("half", "absent"):
        with pytest.raises(StudyError, match="holds no SPADE model"):
            spade.load(tmp_path / folder)


@pytest.mark.parametrize("vae, millions", [(False, 22.7), (True, 35.2)])
def test_the_full_size_networks(vae, millions):
    """On the meta device, so that nothing is allocated: parameters, shapes, and memory of weights, gradients and Adam's moments below 2 GB."""
    with torch.device("meta"):
        model = spade.build(Spade(), 3, 256, vae)
        made = model.generator(torch.zeros(2, 3, 256, 256), torch.zeros(2, Spade().latent) if vae else None)
        logits, _ = model.discriminator(torch.zeros(2, 4, 256, 256))
    assert made.shape == (2, 1, 256, 256) and [tuple(each.shape[2:]) for each in logits] == [(63, 63), (15, 15)]
    count = sum(p.numel() for p in model.generator.parameters())
    assert round(count / 1e6, 1) == millions
    discriminators = sum(p.numel() for p in model.discriminator.parameters())
    assert round(discriminators / 1e6, 1) == 11.8 and 16 * (count + discriminators) < 2e9


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_profile_fits_its_frames(profile):
    with torch.device("meta"):
        side = profile.autoencoder.image_size
        model = spade.build(profile.spade, 3, side, True)
        image = model.generator(torch.zeros(1, 3, side, side), torch.zeros(1, profile.spade.latent))
        assert image.shape == (1, 1, side, side) and len(model.discriminator(torch.zeros(1, 4, side, side))[0]) == 2


def test_images_that_do_not_halve_are_refused():
    with pytest.raises(StudyError, match="halved 2 times"):
        spade.build(SETTINGS, 2, 46, False)
    with pytest.raises(StudyError, match="too small"):
        spade.build(SETTINGS, 2, 16, False)
