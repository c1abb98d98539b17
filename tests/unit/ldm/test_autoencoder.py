"""Autoencoder loss and measures against hand-worked values and other libraries."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dsa_lib.ldm import autoencoder
from dsa_lib.ldm.autoencoder import (
    CROPS_AT_VESSELS,
    FeatureDistance,
    Lpips,
    Timed,
    build_autoencoder,
    crops,
    latent_shape,
    perceptual_distance,
    reconstruct,
    samples,
    to_frames,
    to_model,
    vae_loss,
    validation_loss,
)
from dsa_lib.nn import resnet
from dsa_lib.nn.discriminator import WithDiscriminator
from dsa_lib.run.profiles import SMOKE

CONFIG = SMOKE.autoencoder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_autoencoder(CONFIG).eval()


def test_the_network_in_words(model):
    told = autoencoder.summary(model, CONFIG)
    assert (told["image"], told["latent"]) == ("1 × 64 × 64", "3 × 16 × 16")
    assert int(told["parameters"].replace(",", "")) == sum(p.numel() for p in model.parameters())


def test_the_perceptual_distance_is_the_one_that_the_profile_names(tmp_path, monkeypatch):
    def study(kind):
        profile = SimpleNamespace(autoencoder=replace(CONFIG, perceptual=kind))
        return SimpleNamespace(profile=profile, read=lambda name: tmp_path / name)

    torch.manual_seed(0)
    network = resnet.build_resnet(8, 1).eval()
    resnet.save_classifier(tmp_path / "classifier", network, {"input_size": 32})
    x, y = torch.rand(2, 3, 1, 64, 64) * 2 - 1
    own = FeatureDistance(lambda image: resnet.stage_features(network, (image + 1) / 2), network)
    with torch.no_grad():
        torch.testing.assert_close(autoencoder.open_perceptual(study("phase-network"))(x, y), own(x, y))
    monkeypatch.setattr(autoencoder, "Lpips", lambda weights: ("LPIPS", weights))
    monkeypatch.setattr(autoencoder.public_weights, "load", lambda name: f"weights of {name}")
    assert autoencoder.open_perceptual(study("lpips")) == ("LPIPS", "weights of vgg16")
    assert autoencoder.open_perceptual(study("random")) == ("LPIPS", None)


def test_grey_values_survive_the_round_trip():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(to_frames(to_model(frames)), frames)


def test_the_kl_term_is_torch_distributions(model):
    x = torch.rand(2, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        posterior = model.encode(x).latent_dist
        reference = torch.distributions.kl_divergence(
            torch.distributions.Normal(posterior.mean, posterior.std), torch.distributions.Normal(0.0, 1.0)
        )
        noise = torch.zeros(2, *latent_shape(CONFIG))
        summed = vae_loss(model, x, noise, CONFIG, None)["kl"]
        averaged = vae_loss(model, x, noise, replace(CONFIG, kl_reduction="mean"), None)["kl"]
    assert float(summed) == pytest.approx(float(reference.sum((1, 2, 3)).mean()), rel=1e-4)
    assert float(averaged) == pytest.approx(float(reference.mean()), rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_parts(model):
    x = torch.rand(2, 1, 64, 64) * 2 - 1
    config = replace(CONFIG, l1_weight=0.7, kl_weight=0.01, perceptual_weight=0.3)
    distance = FeatureDistance(lambda image: [torch.cat([image, image**2, image - 1], 1)])
    with torch.no_grad():
        parts = vae_loss(model, x, torch.zeros(2, *latent_shape(CONFIG)), config, distance)
    expected = 0.7 * parts["l1"] + 0.01 * parts["kl"] + 0.3 * parts["perceptual"]
    assert float(parts["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_feature_distance_by_hand():
    """Two orthogonal unit vectors at every place differ by 2; equal directions by 0, whatever their length."""
    a, b = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    a[:, 0], b[:, 1] = 5.0, 0.1
    distance = FeatureDistance(lambda x: [x])
    assert float(distance(a, b)) == pytest.approx(2.0)
    assert float(distance(a, 3 * a)) == pytest.approx(0.0, abs=1e-6)


def test_lpips_agrees_with_its_package_for_the_same_backbone():
    import lpips
    import torchvision

    torch.manual_seed(1)
    vgg = torchvision.models.vgg16(weights=None)
    ours = Lpips(vgg.state_dict())
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    layers = [m for s in range(1, 6) for m in getattr(theirs.net, f"slice{s}") if isinstance(m, torch.nn.Conv2d)]
    convolutions = [m for m in vgg.features if isinstance(m, torch.nn.Conv2d)]
    for target, source in zip(layers, convolutions, strict=True):
        target.load_state_dict(source.state_dict())
    x, y = torch.rand(1, 1, 64, 64) * 2 - 1, torch.rand(1, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        assert float(ours(x, y)) == pytest.approx(
            float(theirs(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1))), rel=1e-5
        )


def test_a_distance_of_many_frames_is_the_mean_of_its_pairs():
    rng = np.random.default_rng(0)
    frames, decoded = rng.integers(0, 255, (2, 5, 16, 16)).astype(np.uint8)
    distance = FeatureDistance(lambda image: [torch.cat([image, image**2], 1)])
    by_pair = [float(distance(to_model(frames[n : n + 1]), to_model(decoded[n : n + 1]))) for n in range(5)]
    assert perceptual_distance(distance, frames, decoded, "cpu", batch_size=2) == pytest.approx(np.mean(by_pair))


def test_samples_are_the_same_frames_every_time_and_their_decoding(model):
    frames = np.random.default_rng(0).integers(0, 255, (9, 64, 64)).astype(np.uint8)
    sample = samples(frames, np.array([8, 2, 4]), count=2)
    shown = sample(model)
    assert np.array_equal(shown[:2], frames[[4, 8]]) and np.array_equal(shown[2:], reconstruct(model, frames[[4, 8]]))
    assert np.array_equal(sample(WithDiscriminator(model)), shown)


def test_held_out_loss_knows_no_contest(model):
    frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64)).astype(np.uint8)
    validate = validation_loss(frames, np.arange(4), replace(CONFIG, perceptual_weight=0.0), None, seed=3)
    with torch.no_grad():
        assert validate(WithDiscriminator(model)) == validate(model)


def test_a_timed_loss_gives_the_time_from_call_to_call():
    timed = Timed(lambda seconds: time.sleep(seconds) or seconds)
    assert np.isnan(timed.seconds())
    assert [timed(0.02) for _ in range(5)] == [0.02] * 5
    assert 0.02 <= timed.seconds() < 1


def test_crops_lie_in_the_frame_and_mostly_at_vessels():
    frames = np.full((400, 64, 64), 162, np.uint8)
    frames[:, 40:43, 50:53] = 60  # one small vessel
    u = np.random.default_rng(0).random((400, 4))
    found = crops(frames, 32, u)
    assert found.shape == (400, 32, 32)
    assert set(np.unique(found)) == {60, 162}
    with_vessel = (found == 60).any(axis=(1, 2)).mean()
    # By chance alone a crop of half the side reaches the vessel in about 0.66 × 0.5 of the cases.
    assert CROPS_AT_VESSELS < with_vessel < 1
    np.testing.assert_array_equal(crops(frames[:3, :, :], 64, u[:3]), frames[:3])


def test_an_empty_frame_is_cropped_anywhere():
    frames = np.full((3, 32, 32), 162, np.uint8)
    assert crops(frames, 16, np.full((3, 4), 0.999)).shape == (3, 16, 16)
