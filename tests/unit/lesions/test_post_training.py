"""Image-space losses of post-training: closed forms by hand, gradients where they belong, memory savings that change no number."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dsa_lib.ldm.autoencoder import build_autoencoder, to_model
from dsa_lib.ldm.diffusion import LatentSet, denoising_loss, noise_schedule
from dsa_lib.lesions.post_training import (
    WithDecoder,
    clean_estimate,
    decode,
    gets_gradient,
    image_space_losses,
    training_loss,
)
from dsa_lib.nn.training import Draws
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import PostTraining
from dsa_lib.run.profiles import SMOKE, load_profile

SETTINGS = PostTraining(latest=0.5, decoded_at_once=0)


def schedule_of(prediction):
    return noise_schedule(replace(SMOKE.diffusion, prediction=prediction))


class Tripled(nn.Module):
    """A decoder by hand: D(z) = 3 z, at the latent's own size."""

    def __init__(self, scale=2.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))
        self.config = SimpleNamespace(scaling_factor=scale)

    def decode(self, z):
        return SimpleNamespace(sample=self.gain * z)


def autoencoder(seed=0):
    torch.manual_seed(seed)
    vae = build_autoencoder(replace(SMOKE.autoencoder, image_size=16, block_channels=(8, 8)))
    vae.register_to_config(scaling_factor=1.3)
    return vae.requires_grad_(False)


def test_the_estimate_of_a_perfect_prediction_is_the_latent_itself():
    z_0, noise, t = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.tensor([0, 10, 300, 800])
    for prediction in ("epsilon", "v_prediction"):
        schedule = schedule_of(prediction)
        z_t = schedule.add_noise(z_0, noise, t)
        told = noise if prediction == "epsilon" else schedule.get_velocity(z_0, noise, t)
        assert torch.allclose(clean_estimate(z_t, told, t, schedule), z_0, atol=2e-3)


def test_the_estimate_of_one_number_by_hand():
    """ᾱ = 0.64: from ε̂ = 0.5, (1 − 0.6 · 0.5)/0.8 = 0.875; from v̂ = 0.5, 0.8 · 1 − 0.6 · 0.5 = 0.5."""
    z_t, told, t = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    for prediction, expected in (("epsilon", 0.875), ("v_prediction", 0.5)):
        schedule = SimpleNamespace(
            alphas_cumprod=torch.tensor([0.64]), config=SimpleNamespace(prediction_type=prediction)
        )
        assert float(clean_estimate(z_t, told, t, schedule)) == pytest.approx(expected, abs=1e-6)


def by_hand(t, masks, settings=SETTINGS):
    """Two images of 1 × 2 pixels, ᾱ = 0.64 everywhere, v̂ = 0: ẑ_0 = 0.8 z_t, decoded 3 · 0.8 z_t / 2 = 1.2 z_t."""
    schedule = SimpleNamespace(
        alphas_cumprod=torch.full((10,), 0.64),
        config=SimpleNamespace(prediction_type="v_prediction", num_train_timesteps=10),
    )
    z_t = torch.tensor([[0.5, 0.0], [-0.5, 1.0]]).view(2, 1, 1, 2)
    images = torch.tensor([[0.5, 0.5], [0.0, 0.0]]).view(2, 1, 1, 2)
    return image_space_losses(
        z_t, torch.zeros_like(z_t, requires_grad=True), torch.tensor(t), schedule, Tripled(), images, masks, settings
    )


def test_both_losses_by_hand():
    """Decoded (0.6, 0) and (−0.6, 1.2) against (0.5, 0.5) and (0, 0): errors (0.1, 0.5) and (0.6, 1.2)."""
    masks = torch.tensor([[False, True], [False, False]]).view(2, 1, 1, 2)
    found = by_hand([1, 4], masks)
    assert found["image"].item() == pytest.approx((0.3 + 0.9) / 2)
    assert found["lesion"].item() == pytest.approx((0.5 + 0.0) / 2)  # the image without a lesion adds nothing
    flat = by_hand([1, 4], masks[:, 0])
    assert all(torch.equal(flat[name], found[name]) for name in found)


def test_timesteps_above_the_latest_count_as_nothing_and_their_share_is_not_made_up_for():
    masks = torch.ones(2, 1, 1, 2, dtype=torch.bool)
    found = by_hand([1, 5], masks)  # 5 is half of 10: the first that is too late
    assert found["image"].item() == pytest.approx(0.3 / 2) and found["lesion"].item() == pytest.approx(0.3 / 2)
    none = by_hand([5, 9], masks)
    assert none["image"].item() == none["lesion"].item() == 0.0 and none["image"].requires_grad
    schedule = schedule_of("epsilon")
    assert gets_gradient(torch.tensor([0, 499, 500]), schedule, SETTINGS).tolist() == [True, True, False]
    assert gets_gradient(torch.tensor([999]), schedule, replace(SETTINGS, latest=1.0)).all()


def test_a_batch_is_the_sum_of_its_parts():
    masks = torch.tensor([[False, True], [True, True]]).view(2, 1, 1, 2)
    whole = by_hand([1, 7], masks)
    schedule = SimpleNamespace(
        alphas_cumprod=torch.full((10,), 0.64),
        config=SimpleNamespace(prediction_type="v_prediction", num_train_timesteps=10),
    )
    z_t, image = torch.tensor([[[[0.5, 0.0]]]]), torch.tensor([[[[0.5, 0.5]]]])
    first = image_space_losses(
        z_t, torch.zeros(1, 1, 1, 2), torch.tensor([1]), schedule, Tripled(), image, masks[:1], SETTINGS
    )
    for name in whole:
        assert whole[name].item() == pytest.approx(first[name].item() / 2)  # the second is too late: half the batch


def test_checkpointing_and_parts_change_neither_images_nor_gradients():
    vae, found = autoencoder(), []
    torch.manual_seed(1)
    z = torch.randn(5, 3, 8, 8)
    for at_once, checkpointing in ((0, False), (2, False), (0, True), (2, True)):
        given = z.clone().requires_grad_()
        images = decode(vae, given, at_once, checkpointing)
        images.square().mean().backward()
        found.append((images.detach(), given.grad))
    assert found[0][0].shape == (5, 1, 16, 16)
    for images, gradient in found[1:]:
        assert torch.allclose(images, found[0][0], atol=1e-6)
        assert torch.allclose(gradient, found[0][1], atol=1e-7)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, z_t, t, tokens=None):
        return self.weight * z_t


def problem(settings, gamma=5.0, n=6):
    rng = np.random.default_rng(0)
    data = LatentSet(
        rng.normal(size=(n, 3, 8, 8)).astype(np.float16), np.full((n, 3, 8, 8), 0.1, np.float16), scale=1.3
    )
    targets = rng.integers(0, 255, (n, 16, 16)).astype(np.uint8)
    masks = np.zeros((n, 16, 16), bool)
    masks[::2, 3:6, 4:9] = True
    schedule = schedule_of("v_prediction")
    vae = autoencoder()
    loss = training_loss(
        data,
        lambda model, z_t, t, rows, draws: model(z_t, t),
        schedule,
        vae,
        targets,
        masks,
        settings,
        min_snr_gamma=gamma,
    )
    return loss, data, schedule, vae, targets, masks


def test_the_whole_loss_is_the_weighted_sum_of_its_parts_on_the_same_draws():
    settings = replace(SETTINGS, image_weight=0.7, lesion_weight=0.2)
    loss, data, schedule, vae, targets, masks = problem(settings)
    model, indices = Denoiser(), np.arange(4)
    found = loss(model, indices, Draws(3, 1, range(4)))
    assert float(found["loss"]) == pytest.approx(
        float(found["latent"] + 0.7 * found["image"] + 0.2 * found["lesion"]), rel=1e-6
    )
    draws = Draws(3, 1, range(4))
    z_0 = data.latents(indices, draws.normal(3, 8, 8))
    t = draws.integers(1000, 1)[:, 0]
    noise = draws.normal(3, 8, 8)
    assert float(found["latent"]) == pytest.approx(float(denoising_loss(model, z_0, noise, t, None, schedule, 5.0)))
    z_t = schedule.add_noise(z_0, noise, t)
    expected = image_space_losses(
        z_t, model(z_t, t), t, schedule, vae, to_model(targets[indices]), torch.from_numpy(masks[indices]), settings
    )
    assert found["image"].item() == pytest.approx(float(expected["image"])) and float(expected["lesion"]) > 0
    assert found["lesion"].item() == pytest.approx(float(expected["lesion"]))


def test_without_weights_nothing_is_decoded_and_latent_training_is_left():
    loss, *_ = problem(replace(SETTINGS, image_weight=0.0, lesion_weight=0.0))
    with_images, *_ = problem(SETTINGS)
    model = Denoiser()
    plain, full = (each(model, np.arange(4), Draws(3, 1, range(4))) for each in (loss, with_images))
    assert set(plain) == {"loss", "latent"} and torch.equal(plain["latent"], full["latent"])


def test_gradients_reach_the_denoiser_and_the_decoder_only_where_it_is_trained():
    loss, _, _, vae, *_ = problem(SETTINGS)
    model = Denoiser()
    loss(model, np.arange(4), Draws(3, 1, range(4)))["loss"].backward()
    assert model.weight.grad.abs() > 0
    assert all(parameter.grad is None for parameter in vae.parameters())
    loss, _, _, vae, *_ = problem(replace(SETTINGS, decoder_trained=True))
    joint = WithDecoder(Denoiser(), vae)
    loss(joint, np.arange(4), Draws(3, 1, range(4)))["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in joint.vae.decoder.parameters())
    assert all(parameter.grad is None for parameter in joint.vae.encoder.parameters())


def test_training_by_image_losses_alone_brings_the_estimate_nearer_to_the_image():
    """The v that a constant network should tell is found by descending the loss: the decoded error falls."""
    loss, *_ = problem(replace(SETTINGS, image_weight=50.0))
    model = Denoiser()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    values = []
    for _ in range(12):
        found = loss(model, np.arange(6), Draws(0, 0, range(6)))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        values.append(float(found["image"].detach()))
    assert values[-1] < values[0]


def test_masks_must_be_as_many_as_images():
    with pytest.raises(StudyError, match="2 target images have 3 lesion masks"):
        training_loss(
            SimpleNamespace(mean=np.zeros((2, 3, 8, 8))), None, None, nn.Identity(), np.zeros((2, 4, 4)), np.zeros((3, 4, 4)), SETTINGS
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lesions.source_as", "mean", "is not unshuffle or latent"),
        ("lesions.train_fraction", 0.95, "leave no test patients"),
        ("lesions.base_channels", 50, "normalisation groups"),
        ("lesions.scheduler", "euler", "is not ddpm"),
        ("lesions.lesion_share", 1.5, "not in"),
        ("post_training.latest", 0.0, "share of the timesteps"),
        ("post_training.steps", 0, "post_training.steps is 0"),
        ("post_training.lesion_weight", -1.0, "cannot be negative"),
    ],
)
def test_impossible_numbers_are_refused_before_any_work(name, value, words):
    with pytest.raises(StudyError, match=words):
        load_profile("phantom", {name: value})
