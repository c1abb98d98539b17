"""Noise schedule and objective against the paper's equations in closed form."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.ldm import diffusion
from dsa_lib.ldm.autoencoder import build_autoencoder
from dsa_lib.ldm.diffusion import (
    ConditionalDenoiser,
    LatentSet,
    UnconditionalDenoiser,
    balancing_weights,
    build_unet,
    denoising_loss,
    fixed_samples,
    min_snr_weights,
    noise_schedule,
    training_loss,
)
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.ldm.sampler import make_scheduler
from dsa_lib.ldm.text import build_encoder, build_tokenizer, tokenize
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.profiles import PAPER, SMOKE


def test_beta_is_linear_as_the_text_says():
    schedule = noise_schedule(PAPER.diffusion)
    expected = np.linspace(0.0015, 0.0195, 1000)
    assert np.allclose(schedule.betas, expected, atol=1e-7)
    assert np.allclose(schedule.alphas_cumprod, np.cumprod(1 - expected), rtol=1e-4)


def test_the_other_reading_is_linear_in_the_root_of_beta():
    schedule = noise_schedule(replace(PAPER.diffusion, beta_schedule="scaled_linear"))
    assert np.allclose(schedule.betas, np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2, atol=1e-7)


def test_equation_3():
    schedule = noise_schedule(PAPER.diffusion)
    z_0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    t = torch.tensor([0, 700])
    alpha_bar = torch.tensor(np.cumprod(1 - np.linspace(0.0015, 0.0195, 1000))[t.numpy()], dtype=torch.float32).view(
        2, 1, 1, 1
    )
    assert torch.allclose(
        schedule.add_noise(z_0, noise, t), alpha_bar.sqrt() * z_0 + (1 - alpha_bar).sqrt() * noise, atol=1e-5
    )


def test_equation_3_in_its_moments_and_as_the_chain_it_sums_up():
    """q(z_t|z_0) = N(√ᾱ z_0, (1−ᾱ) I): by Monte Carlo, and from t single steps z ← √(1−β) z + √β η."""
    schedule, draws, z_0 = noise_schedule(PAPER.diffusion), 40_000, 1.7
    rng = np.random.default_rng(0)
    beta = np.linspace(0.0015, 0.0195, 1000)
    chain = np.full(draws, z_0)
    for t in range(400):
        chain = np.sqrt(1 - beta[t]) * chain + np.sqrt(beta[t]) * rng.standard_normal(draws)
    noise = torch.from_numpy(rng.standard_normal((draws, 1)).astype(np.float32))
    closed = schedule.add_noise(torch.full((draws, 1), z_0), noise, torch.full((draws,), 399)).numpy()[:, 0]
    alpha_bar = np.prod(1 - beta[:400])
    error = np.sqrt((1 - alpha_bar) / draws)
    for sample in (chain, closed):
        assert sample.mean() == pytest.approx(np.sqrt(alpha_bar) * z_0, abs=5 * error)
        assert sample.var() == pytest.approx(1 - alpha_bar, abs=5 * (1 - alpha_bar) * np.sqrt(2 / draws))


def test_v_is_a_rotation_of_noise_and_latent():
    """v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho 2022), so that z_0 = √ᾱ z_t − √(1−ᾱ) v and ε = √(1−ᾱ) z_t + √ᾱ v."""
    schedule = noise_schedule(replace(PAPER.diffusion, prediction="v_prediction"))
    z_0, noise, t = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4), torch.tensor([5, 500, 990])
    signal = schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    other = (1 - signal**2).sqrt()
    z_t, v = schedule.add_noise(z_0, noise, t), schedule.get_velocity(z_0, noise, t)
    assert torch.allclose(signal * z_t - other * v, z_0, atol=1e-5)
    assert torch.allclose(other * z_t + signal * v, noise, atol=1e-5)


def test_min_snr_weights_worked_by_hand():
    """At t = 1 SNR = 0.9985/0.0015 = 665.67, far above γ = 5; late, where SNR < γ, ε keeps weight 1 and v has SNR/(SNR+1) = ᾱ."""
    t, alpha_bar = torch.tensor([0, 900]), np.prod(1 - np.linspace(0.0015, 0.0195, 1000)[:901])
    epsilon = noise_schedule(PAPER.diffusion)
    v = noise_schedule(replace(PAPER.diffusion, prediction="v_prediction"))
    assert min_snr_weights(t, epsilon, 5.0).tolist() == pytest.approx([5 / 665.6667, 1.0], rel=1e-3)
    assert min_snr_weights(t, v, 5.0).tolist() == pytest.approx([5 / 666.6667, alpha_bar], rel=1e-3)


def test_min_snr_makes_both_predictions_weigh_the_latents_error_alike():
    z_0, noise, t = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.tensor([3, 200, 500, 800])
    wrong = z_0 + 0.1 * torch.randn(4, 3, 8, 8)  # the z_0 that a model takes the truth for
    losses = {}
    for prediction in ("epsilon", "v_prediction"):
        schedule = noise_schedule(replace(PAPER.diffusion, prediction=prediction))
        signal = schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
        eps = (schedule.add_noise(z_0, noise, t) - signal * wrong) / (1 - signal**2).sqrt()
        told = eps if prediction == "epsilon" else signal * eps - (1 - signal**2).sqrt() * wrong
        arguments = (lambda z, s, c, told=told: told, z_0, noise, t, None, schedule)
        losses[prediction] = float(denoising_loss(*arguments, 5.0))
        assert float(denoising_loss(*arguments)) > losses[prediction]
    snr = (schedule.alphas_cumprod[t] / (1 - schedule.alphas_cumprod[t])).clamp(max=5).view(-1, 1, 1, 1)
    assert list(losses.values()) == pytest.approx([float((snr * (wrong - z_0).square()).mean())] * 2, rel=1e-2)


def test_a_perfect_denoiser_has_no_loss_in_either_prediction():
    z_0, noise, t = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.tensor([0, 10, 500, 999])
    for prediction in ("epsilon", "v_prediction"):
        schedule = noise_schedule(replace(PAPER.diffusion, prediction=prediction))
        alpha_bar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        target = noise if prediction == "epsilon" else alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * z_0
        assert float(denoising_loss(lambda z, s, c, target=target: target, z_0, noise, t, None, schedule)) < 1e-10
        assert float(denoising_loss(lambda z, s, c: torch.zeros_like(z), z_0, noise, t, None, schedule)) > 0.5


def test_balancing_weights():
    cells = ["AC A"] * 8 + ["PC A"] * 2
    assert balancing_weights(cells, 0.0) is None
    full = balancing_weights(cells, 1.0)
    assert full[:8].sum() == pytest.approx(full[8:].sum())
    half = balancing_weights(cells, 0.5)
    assert half[8:].sum() / half[:8].sum() == pytest.approx(np.sqrt(2) / np.sqrt(8))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def denoiser(tokenizer):
    torch.manual_seed(0)
    encoder = build_encoder(SMOKE.text, len(tokenizer))
    return ConditionalDenoiser(build_unet(SMOKE.diffusion, 3, 16, SMOKE.text.width), encoder).eval()


@torch.no_grad()
def test_the_sentence_reaches_the_prediction_and_padding_does_not(denoiser, tokenizer):
    z, t = torch.randn(1, 3, 16, 16), torch.tensor([500])
    tokens, other = (tokenize(tokenizer, [CANONICAL[cell].sentence()]) for cell in ("AC A", "PC A"))
    ids = torch.cat([tokens["input_ids"], torch.zeros(1, 5, dtype=torch.long)], 1)
    mask = torch.cat([tokens["attention_mask"], torch.zeros(1, 5, dtype=torch.long)], 1)
    plain = denoiser(z, t, tokens)
    assert torch.allclose(plain, denoiser(z, t, {"input_ids": ids, "attention_mask": mask}), atol=1e-5)
    assert not torch.allclose(plain, denoiser(z, t, {"input_ids": ids, "attention_mask": mask | 1}), atol=1e-5)
    assert not torch.allclose(plain, denoiser(z, t, other), atol=1e-6)


def dataset(tokenizer, n=2, side=8):
    """n latents without posterior spread, under the first n canonical sentences."""
    mean = np.random.default_rng(0).normal(size=(n, 3, side, side)).astype(np.float16)
    return LatentSet(mean, np.zeros_like(mean), 1.0, [c.sentence() for c in CANONICAL.values()][:n], tokenizer)


def test_rows_of_one_store_are_a_set_of_their_own(tokenizer):
    whole = dataset(tokenizer, n=4)
    rows = np.array([1, 3])
    sentences = [c.sentence() for c in CANONICAL.values()]
    part = LatentSet(whole.mean, whole.std, 1.0, sentences, tokenizer, rows)
    assert len(part) == 2 and part.mean is whole.mean  # nothing is copied
    noise = torch.randn(2, 3, 8, 8)
    assert torch.equal(part.latents(np.array([0, 1]), noise), whole.latents(rows, noise))
    found, expected = part.context(np.array([0, 1]), noise.device), whole.context(rows, noise.device)
    length = found["input_ids"].shape[1]
    assert torch.equal(found["input_ids"], expected["input_ids"][:, :length])


def test_condition_dropout_is_drawn_by_sample_and_off_without(tokenizer):
    data, schedule, heard = dataset(tokenizer), noise_schedule(SMOKE.diffusion), []

    def model(z_t, t, tokens):
        heard.append((z_t, tokens["attention_mask"].sum(1)))
        return z_t

    indices = np.zeros(400, int)
    for share, positions in ((0.0, range(400)), (0.25, range(400)), (0.25, range(200, 400))):
        training_loss(data, schedule, condition_dropout=share)(
            model, indices[: len(positions)], Draws(3, 7, positions, "cpu")
        )
    (z, without), (z_dropped, whole), (_, half) = heard
    assert torch.equal(z, z_dropped), "dropout changes neither noise nor timestep"
    assert int(without.min()) > 2 and set(whole.tolist()) == {2, int(without[0])}, "[CLS] [SEP], or the whole sentence"
    assert 0.25 == pytest.approx(float((whole == 2).float().mean()), abs=0.08)
    assert torch.equal(whole[200:], half), "a sample's lot does not depend on what else is in the batch"


def test_the_average_of_weights_covers_the_unet_and_the_sentence_encoder(tokenizer, tmp_path):
    """EMA by hand over the weights after 0, 1, 2 and 3 steps: w̄ ← d w̄ + (1−d) w with d = min(decay, (1+k)/(10+k)) after step k."""

    def weights(steps, decay):
        torch.manual_seed(0)
        config = replace(SMOKE.diffusion, multipliers=(1,), attention_levels=(True,))
        encoder = build_encoder(SMOKE.text, len(tokenizer))
        model = ConditionalDenoiser(build_unet(config, 3, 4, SMOKE.text.width), encoder)
        if steps:
            options = dict(size=2, batch_size=2, learning_rate=1e-2, seed=0, digest="x", ema_decay=decay)
            loss = training_loss(dataset(tokenizer, side=4), noise_schedule(config))
            fit(model, loss, steps=steps, folder=tmp_path / f"{steps} {decay}", **options)
        return {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}

    decay, averaged = 0.2, weights(0, 0.0)
    for k in (1, 2, 3):
        d, last = min(decay, (1 + k) / (10 + k)), weights(k, 0.0)
        averaged = {name: d * averaged[name] + (1 - d) * last[name] for name in averaged}
    got = weights(3, decay)
    for part in ("unet.", "encoder.encoder.", "encoder.embeddings."):
        names = [name for name in got if name.startswith(part)]
        assert names and all(torch.allclose(got[name], averaged[name], atol=1e-5) for name in names)
        assert any(not torch.allclose(got[name], last[name], atol=1e-4) for name in names)


def test_the_plain_attention_kernel_gives_what_the_fused_one_does(denoiser, tokenizer, monkeypatch):
    data, gradients = dataset(tokenizer, side=16), []
    with torch.autocast("cpu", torch.bfloat16):
        with diffusion._attention_kernel(denoiser.unet, torch.zeros(1, 3, 16, 16)):
            assert not torch.backends.cuda.flash_sdp_enabled(), "64 tokens at the attended level"
        with diffusion._attention_kernel(denoiser.unet, torch.zeros(1, 3, 32, 32)):
            assert torch.backends.cuda.flash_sdp_enabled(), "256 tokens"
        for _ in range(2):
            loss = training_loss(data, noise_schedule(SMOKE.diffusion))(denoiser, np.arange(2), Draws(0, 0, range(2)))
            weight = denoiser.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_v.weight
            gradients.append(torch.autograd.grad(loss["loss"], weight)[0])
            monkeypatch.setattr(diffusion, "_attention_kernel", lambda unet, z_t: nullcontext())
    apart = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert apart < 0.05


def test_samples_shown_in_training_start_from_the_same_noise(denoiser, tokenizer):
    vae, schedule = build_autoencoder(SMOKE.autoencoder), noise_schedule(SMOKE.diffusion)
    sample = fixed_samples(vae, schedule, "dpmsolver++", 2, list(CANONICAL.values()), tokenizer)
    frames = sample(denoiser)
    assert frames.shape == (4, 64, 64) and np.array_equal(frames, sample(denoiser))
    unconditional = UnconditionalDenoiser(build_unet(SMOKE.diffusion, 3, 16, None))
    assert fixed_samples(vae, schedule, "ddim", 2, 3)(unconditional).shape == (3, 64, 64)


def test_two_latents_are_learnt_by_heart_and_sampled(tokenizer, tmp_path):
    torch.manual_seed(0)
    data, shape = dataset(tokenizer, side=4), dict(multipliers=(1,), attention_levels=(True,))
    config = replace(SMOKE.diffusion, base_channels=32, prediction="v_prediction", **shape)
    encoder = build_encoder(SMOKE.text, len(tokenizer))
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = ConditionalDenoiser(build_unet(config, 3, 4, SMOKE.text.width), encoder)
    options = dict(batch_size=16, learning_rate=5e-3, seed=0, digest="x", cosine=True, evaluate_every=100)
    loss = training_loss(data, noise_schedule(config))
    log = fit(model, loss, size=2, steps=400, folder=tmp_path, ema_decay=0.98, **options)
    assert log["train_loss"].iloc[-1] < 0.02 * log["train_loss"].iloc[0] + 0.02
    vae = build_autoencoder(replace(SMOKE.autoencoder, image_size=16))
    vae.register_to_config(scaling_factor=1.0)
    pipeline = DSAPipeline(vae, model.unet, make_scheduler("ddim", noise_schedule(config)), encoder, tokenizer)
    drawn = pipeline([CANONICAL["AC A"], CANONICAL["PC A"]] * 2, seeds=range(4), num_inference_steps=20)
    learnt = pipeline.decode(torch.from_numpy(data.mean.astype(np.float32))).astype(float)
    apart = np.array([[np.abs(image - one).mean() for one in learnt] for image in drawn])
    assert (apart.argmin(1) == [0, 1, 0, 1]).all()
    assert apart.min(1).max() < 0.25 * np.abs(learnt[0] - learnt[1]).mean()


def test_latents_are_drawn_from_the_posterior_at_the_scale_of_the_diffusion(tokenizer):
    """z_0 = scale · (mean + std · noise), with a scale that is not 1 and a standard deviation that is not 0."""
    rng = np.random.default_rng(2)
    mean, std = rng.normal(size=(3, 2, 4, 4)).astype(np.float32), rng.uniform(0.2, 0.6, (3, 2, 4, 4)).astype(np.float32)
    data = LatentSet(mean, std, 0.4, [CANONICAL["AC A"].sentence()] * 3, tokenizer)
    noise = torch.randn(2, 2, 4, 4)
    expected = 0.4 * (mean[[2, 0]] + std[[2, 0]] * noise.numpy())
    assert np.allclose(data.latents(np.array([2, 0]), noise), expected, atol=1e-6)


def test_training_sees_every_timestep_and_latents_of_the_posterior(tokenizer):
    """Of latents of mean 0, SD 0.5 and scale 4 the noised ones have E[z_t²] = 4 ᾱ + 1 − ᾱ at every t, in all of 0 … T−1."""
    zero = np.zeros((1, 1, 8, 8), np.float32)
    data = LatentSet(zero, zero + 0.5, 4.0, [CANONICAL["AC A"].sentence()], tokenizer)
    schedule, seen = noise_schedule(SMOKE.diffusion), []

    def model(z_t, t, _tokens):
        seen.append((t, z_t.square().mean((1, 2, 3))))
        return z_t

    training_loss(data, schedule)(model, np.zeros(3000, int), Draws(3, 7, range(3000)))
    ((t, power),) = seen
    count = schedule.config.num_train_timesteps
    counts = np.histogram(t.numpy(), bins=10, range=(0, count))[0]
    assert counts.min() > 220 and counts.max() < 390 and int(t.min()) >= 0 and int(t.max()) < count
    alpha_bar = schedule.alphas_cumprod[t]
    assert float((power / (4 * alpha_bar + 1 - alpha_bar)).mean()) == pytest.approx(1, abs=0.02)
    early = t < count // 10
    assert float((power / (4 * alpha_bar + 1 - alpha_bar))[early].mean()) == pytest.approx(1, abs=0.05)
