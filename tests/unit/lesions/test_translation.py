"""Image-to-image diffusion: the source at latent size by hand, images that hang on source and seed alone, training on pairs, save and load, paper size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.ldm import autoencoder
from dsa_lib.ldm.autoencoder import build_autoencoder
from dsa_lib.ldm.diffusion import noise_schedule
from dsa_lib.lesions import translation
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import PostTraining
from dsa_lib.run.profiles import PAPER, SMOKE

TINY = replace(
    SMOKE,
    curation=replace(SMOKE.curation, image_size=16),
    autoencoder=replace(SMOKE.autoencoder, image_size=16, block_channels=(8, 8), crop=0),
    diffusion=replace(SMOKE.diffusion, norm_groups=8, head_channels=8, warmup_steps=0, timesteps=50),
    lesions=replace(SMOKE.lesions, base_channels=8, steps=6, batch_size=4),
)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = build_autoencoder(TINY.autoencoder).eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1.5)
    return vae


def pairs(n=12):
    rng = np.random.default_rng(1)
    lesions = np.zeros((n, 16, 16), bool)
    lesions[::2, 4:8, 4:8] = True
    return TranslationSet(
        sources=rng.integers(0, 255, (n, 1, 16, 16)).astype(np.uint8),
        targets=rng.integers(100, 200, (n, 16, 16)).astype(np.uint8),
        lesions=lesions,
        kinds=np.where(np.arange(n) % 2, "", "AVM"),
        patients=np.arange(n).astype(str),
        part=np.array(["train"] * (n - 2) + ["val", "test"]),
        sentences=np.full(n, ""),
    )


def model(profile=TINY, seed=0):
    torch.manual_seed(seed)
    return translation.build(profile, 1, 3, 8)


def test_every_pixel_of_a_block_becomes_a_channel():
    source = torch.arange(16.0).view(1, 1, 4, 4)
    found = translation.condition(source, None, 2, "unshuffle")
    assert found.shape == (1, 4, 2, 2)
    assert found[0, :, 0, 0].tolist() == [0, 1, 4, 5] and found[0, :, 1, 1].tolist() == [10, 11, 14, 15]


def test_an_encoded_source_is_the_scaled_posterior_mean_channel_by_channel(vae):
    source = torch.rand(2, 2, 16, 16) * 2 - 1
    found = translation.condition(source, vae, 8, "latent")
    assert found.shape == (2, 6, 8, 8)
    alone = vae.encode(source[1:, 1:]).latent_dist.mean * 1.5
    assert torch.allclose(found[1:, 3:], alone, atol=1e-5)
    with pytest.raises(StudyError, match="source_as 'mean' is not unshuffle"):
        translation.condition(source, vae, 8, "mean")


@pytest.mark.parametrize("source_as", ["unshuffle", "latent"])
def test_the_network_takes_what_the_condition_has(vae, source_as):
    profile = replace(TINY, lesions=replace(TINY.lesions, source_as=source_as))
    data = translation.Pairs(pairs(), vae, source_as)
    network = model(profile)
    z_t, t = torch.randn(3, 3, 8, 8), torch.tensor([0, 10, 40])
    out = data.predict(network, z_t, t, np.array([1, 4, 5]), None)
    assert out.shape == z_t.shape
    assert network.unet.config.in_channels == 3 + data.condition(np.array([0]), torch.device("cpu")).shape[1]


def test_grey_values_of_the_source_are_those_of_the_target():
    assert autoencoder.to_floats(np.array([[[[0, 255]]]], np.uint8)).tolist() == [[[[-1.0, 1.0]]]]


def test_an_image_hangs_on_its_source_and_seed_alone(vae):
    network, some = model(), pairs()
    torch.nn.init.normal_(network.unet.conv_in.weight)
    made = {
        batch: translation.translate(
            network, vae, noise_schedule(TINY.diffusion), some.sources[:5], seeds=[3, 1, 4, 1, 5], steps=3, batch_size=batch
        )
        for batch in (2, 5)
    }  # fmt: skip
    assert made[5].shape == (5, 16, 16) and made[5].dtype == np.uint8
    assert np.abs(made[2].astype(int) - made[5]).max() <= 1
    one = translation.translate(
        network, vae, noise_schedule(TINY.diffusion), some.sources[2:3], seeds=[4], steps=3, scheduler="ddpm"
    )
    both = translation.translate(
        network, vae, noise_schedule(TINY.diffusion), some.sources[1:3], seeds=[9, 4], steps=3, scheduler="ddpm"
    )
    assert np.abs(one[0].astype(int) - both[1]).max() <= 1
    with pytest.raises(StudyError, match="2 seeds for 1 source images"):
        translation.translate(network, vae, None, some.sources[:1], seeds=[1, 2], steps=3)


def test_base_training_and_both_arms_run_on_and_the_arms_start_alike(vae, tmp_path):
    some = pairs()
    data = {part: translation.Pairs(some.at(some.rows(part)), vae, "unshuffle") for part in ("train", "val")}
    schedule, base = noise_schedule(TINY.diffusion), model()
    log = translation.train(base, data, schedule, vae, TINY, folder=tmp_path / "base", digest="a")
    assert log["step"].iloc[-1] == 6 and np.isfinite(log["val_loss"]).all()
    kept = {name: value.clone() for name, value in base.state_dict().items()}
    ended = {}
    for name, weight in (("control", 0.0), ("post-trained", 1.0)):
        network = model()
        network.load_state_dict(kept)
        settings = PostTraining(image_weight=weight, lesion_weight=weight, steps=3, batch_size=4, learning_rate=1e-3)
        log = translation.train_further(
            network, data, schedule, vae, TINY, settings, folder=tmp_path / name, digest="a", what=name
        )
        assert ("train_lesion" in log) == (weight > 0)
        ended[name] = network.state_dict()["denoiser.unet.conv_in.weight"]
    assert not torch.equal(ended["control"], ended["post-trained"])
    assert not torch.equal(ended["control"], kept["denoiser.unet.conv_in.weight"])
    # At rest (a rate of 0) both arms meet the same batches, noise and timesteps: their latent losses are the same numbers.
    latent = {}
    for weight in (0.0, 1.0):
        network = model()
        network.load_state_dict(kept)
        settings = PostTraining(image_weight=weight, lesion_weight=weight, steps=3, batch_size=4, learning_rate=0.0)
        folder = tmp_path / f"at rest {weight}"
        log = translation.train_further(
            network, data, schedule, vae, TINY, settings, folder=folder, digest="a", what="at rest"
        )
        latent[weight] = log["train_latent"].tolist()
    assert latent[0.0] == pytest.approx(latent[1.0], rel=1e-6) and len(latent[0.0])


def test_timesteps_are_weighed_as_its_own_section_says_and_not_as_the_study_s(vae, tmp_path):
    some = pairs()
    data = {part: translation.Pairs(some.at(some.rows(part)), vae, "unshuffle") for part in ("train", "val")}

    def at_rest(name: str, study: float, own: float) -> list[float]:
        profile = replace(
            TINY,
            diffusion=replace(TINY.diffusion, min_snr_gamma=study),
            lesions=replace(TINY.lesions, min_snr_gamma=own),
        )
        settings = PostTraining(image_weight=0.0, lesion_weight=0.0, steps=3, batch_size=4, learning_rate=0.0)
        how = {"folder": tmp_path / name, "digest": name, "what": name}
        schedule = noise_schedule(profile.diffusion)
        log = translation.train_further(model(), data, schedule, vae, profile, settings, **how)
        return log["train_latent"].tolist()

    plain = at_rest("plain", 0.0, 0.0)
    assert at_rest("of the study", 1.0, 0.0) == pytest.approx(plain, rel=1e-6)
    assert np.mean(at_rest("its own", 0.0, 1.0)) < 0.9 * np.mean(plain)


def test_a_saved_network_is_the_same_up_to_half_precision(tmp_path):
    network = model()
    translation.save(network, tmp_path / "base", {"steps": 3})
    again = translation.load(tmp_path / "base")
    z, t, y = torch.randn(1, 3, 8, 8), torch.tensor([7]), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.allclose(network.eval()(z, t, y), again(z, t, y), atol=2e-2)
    with pytest.raises(StudyError, match="holds no translation network"):
        translation.load(tmp_path)


def test_at_paper_size_it_is_the_study_s_network_with_the_source_beside():
    """Built without memory: 64² latents of 256² frames, four times four pixels of the source as channels. 310 M parameters, 1.2 GB in single precision."""
    with torch.device("meta"):
        network = translation.build(PAPER, 1, 3, 64)
        out = network(torch.empty(2, 3, 64, 64), torch.empty(2, dtype=torch.long), torch.empty(2, 16, 64, 64))
    assert out.shape == (2, 3, 64, 64)
    assert network.unet.config.in_channels == 3 + 16
    assert sum(parameter.numel() for parameter in network.parameters()) == 309_589_059
