"""The GAN baseline: losses by hand, each network its own gradient, images keyed by seed, a training that learns, saving, and full size."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.ldm.autoencoder import to_floats
from dsa_lib.lesions.pix2pix import build, generate, load, losses, save, train
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Pix2Pix
from dsa_lib.run.profiles import PAPER, SMOKE, load_profile

CONFIG = Pix2Pix(
    channels=(8, 16, 16), dropped_levels=1, discriminator_width=8, discriminator_levels=2, batch_size=4, learning_rate=3e-3
)  # fmt: skip


def made_up_pairs(count=24, size=32, channels=2) -> TranslationSet:
    """The target is the source's first channel turned light for dark."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 235, (count, channels, 4, 4)).astype(np.uint8)
    sources = coarse.repeat(size // 4, 2).repeat(size // 4, 3)
    patients = np.array([f"p{k // 2}" for k in range(count)], object)
    part = np.array(["train" if k < count - 8 else "val" if k < count - 4 else "test" for k in range(count)], object)
    text = np.full(count, "", object)
    masks = np.zeros((count, size, size), bool)
    return TranslationSet(sources, 255 - sources[:, 0], masks, text, patients, part, text)


def test_losses_by_hand(monkeypatch):
    """With a discriminator that always says 1 for targets of 0.5 and −1 for others, every term follows from logs of sigmoids."""
    model = build(CONFIG, 1, 32)
    monkeypatch.setattr(
        type(model.discriminator), "forward", lambda _, x: torch.where(x[:, 1:].mean((2, 3)) == 0.5, 1.0, -1.0)
    )
    source = torch.zeros(2, 1, 32, 32)
    target, made = torch.full_like(source, 0.5), torch.full_like(source, 0.25)
    found = losses(model, source, target, made, 100.0)
    sure = -math.log(1 / (1 + math.exp(-1)))  # −log D of a pair rightly seen with a logit of ±1
    assert float(found["discriminator"]) == pytest.approx(sure)
    assert float(found["generator"]) == pytest.approx(-math.log(1 / (1 + math.exp(1))))
    assert float(found["l1"]) == pytest.approx(0.25)
    assert float(found["loss"]) == pytest.approx(sure + sure + 1 + 25)


def test_each_network_has_the_gradient_of_its_own_loss():
    torch.manual_seed(0)
    model, pairs = build(CONFIG, 2, 32), made_up_pairs()
    source, target = to_floats(pairs.sources[:2]), to_floats(pairs.targets[:2, None])
    u = [torch.rand(2, *shape) for shape in model.generator.noise_shapes(32, 32)]

    def gradients(wanted):
        model.zero_grad()
        wanted(losses(model, source, target, model.generator(source, u), 100.0)).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    both = gradients(lambda parts: parts["loss"])
    of_generator = gradients(lambda parts: parts["generator"] + 100 * parts["l1"])
    of_discriminator = gradients(lambda parts: parts["discriminator"])
    assert {name.split(".")[0] for name in of_generator} == {"generator"}
    assert {name.split(".")[0] for name in of_discriminator} == {"discriminator"}
    assert all(torch.allclose(both[n], g, atol=1e-6) for n, g in (of_generator | of_discriminator).items())


def test_an_image_depends_on_its_seed_alone():
    torch.manual_seed(0)
    model, pairs = build(CONFIG, 2, 32).eval(), made_up_pairs()
    together = generate(model, pairs.sources[:5], seeds=[5, 6, 7, 8, 9])
    alone = generate(model, pairs.sources[3:4], seeds=[8])
    assert together.shape == (5, 32, 32) and together.dtype == np.uint8
    assert np.abs(together[3].astype(int) - alone[0]).max() <= 1
    assert (generate(model, pairs.sources[3:4], seeds=[9]) != alone).any()
    with pytest.raises(StudyError, match="2 seeds for 3"):
        generate(model, pairs.sources[:3], seeds=[1, 2])


def test_training_learns_and_is_saved(tmp_path):
    pairs = made_up_pairs()
    model, log = train(pairs, replace(CONFIG, steps=200), seed=1, folder=tmp_path / "work", digest="a", live=False)
    test = pairs.rows("test")
    made = generate(model, pairs.sources[test], seeds=test)
    error = np.abs(made.astype(float) - pairs.targets[test]).mean()
    assert error < 0.5 * np.abs(pairs.targets[test] - pairs.targets[pairs.rows("train")].mean(axis=0)).mean()
    assert {"train_generator", "train_l1", "train_discriminator", "val_loss"} <= set(log.columns)
    save(model, tmp_path / "gan", CONFIG, 32)
    assert (generate(load(tmp_path / "gan"), pairs.sources[test], seeds=test) == made).all()
    with pytest.raises(StudyError, match="holds no pix2pix"):
        load(tmp_path / "work")


def test_sizes_of_the_profiles():
    with torch.device("meta"):
        model = build(PAPER.pix2pix, 1, 256)
        image = torch.empty(1, 1, 256, 256)
        u = [torch.empty(1, *shape) for shape in model.generator.noise_shapes(256, 256)]
        assert model.generator(image, u).shape == (1, 1, 256, 256)
        assert model.discriminator(torch.cat([image, image], 1)).shape == (1, 1, 16, 16)
    count = sum(p.numel() for p in model.parameters())
    assert 40e6 < count < 60e6  # the source's generator has 54 M with one level more
    build(SMOKE.pix2pix, 1, SMOKE.autoencoder.image_size)
    with pytest.raises(StudyError, match="shorten it"):
        build(PAPER.pix2pix, 1, 64)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("pix2pix.channels", (8,) * 6, "shorten pix2pix.channels"),
        ("pix2pix.dropout", 1.0, "not in"),
        ("ct_perfusion.target", "flair", "not dwi or adc"),
        ("ct_perfusion.hu_window", (5.0, 5.0), "two rising numbers"),
        ("ct_perfusion.val_fraction", 0.3, "no patients to test"),
        ("lesion_sentences.judge_size", 40, "multiple of 16"),
    ],
)
def test_profiles_refuse_what_cannot_work(name, value, sentence):
    with pytest.raises(StudyError, match=sentence):
        load_profile("smoke", {name: value})
