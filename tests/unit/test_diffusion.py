"""Noise schedule, objective and pipeline against the paper's equations in closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsa_lib.autoencoder import build_autoencoder
from dsa_lib.conditions import CANONICAL
from dsa_lib.diffusion import (
    SAMPLERS,
    ConditionalDenoiser,
    DSAPipeline,
    LatentSet,
    balancing_weights,
    build_unet,
    denoising_loss,
    noise_schedule,
    sampler,
    training_loss,
)
from dsa_lib.errors import StudyError
from dsa_lib.profiles import PAPER, SMOKE
from dsa_lib.text import build_encoder, build_tokenizer
from dsa_lib.training import fit


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


def test_equation_5_one_reverse_step():
    """Mean of the ancestral step, by hand; the added noise has variance β̃_t (Ho et al. 2020, Eq. 7), and none at the last step."""
    schedule = sampler("ddpm", noise_schedule(PAPER.diffusion))
    schedule.set_timesteps(1000)
    beta = np.linspace(0.0015, 0.0195, 1000)
    alpha_bar = np.cumprod(1 - beta)
    z, eps, t = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32), 600
    mean = (z - beta[t] / np.sqrt(1 - alpha_bar[t]) * eps) / np.sqrt(1 - beta[t])
    step = schedule.step(eps, t, z, generator=torch.Generator().manual_seed(0)).prev_sample
    variance = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t]
    assert float((step - mean).std()) == pytest.approx(np.sqrt(variance), rel=0.05)
    assert abs(float((step - mean).mean())) < 4 * np.sqrt(variance / z.numel())
    last = schedule.step(eps, 0, z).prev_sample
    assert torch.allclose(
        last, ((z - beta[0] / np.sqrt(1 - alpha_bar[0]) * eps) / np.sqrt(1 - beta[0])).float(), atol=1e-5
    )


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
def pipeline():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    return DSAPipeline(
        build_autoencoder(SMOKE.autoencoder),
        build_unet(SMOKE.diffusion, 3, 16, SMOKE.text.width),
        noise_schedule(SMOKE.diffusion),
        build_encoder(SMOKE.text, len(tokenizer)),
        tokenizer,
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(pipeline, name):
    pipeline.scheduler = sampler(name, noise_schedule(SMOKE.diffusion))
    together = pipeline([CANONICAL["AC A"], CANONICAL["PC B"]], seeds=[11, 12], num_inference_steps=4)
    alone = pipeline([CANONICAL["PC B"].sentence()], seeds=[12], num_inference_steps=4)
    assert together.shape == (2, 64, 64) and together.dtype == np.uint8
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1


def test_save_load_round_trip(pipeline, tmp_path):
    pipeline.scheduler = noise_schedule(SMOKE.diffusion)
    pipeline.save_pretrained(tmp_path)
    again = DSAPipeline.from_pretrained(tmp_path)
    for each in (pipeline, again):
        each.scheduler = sampler("dpmsolver++", each.scheduler)
    asked = [CANONICAL["AC B"]]
    assert np.array_equal(
        pipeline(asked, seeds=[3], num_inference_steps=3), again(asked, seeds=[3], num_inference_steps=3)
    )
    assert again.scheduler.config.beta_end == SMOKE.diffusion.beta_end


def test_wrong_calls_say_what_is_wrong(pipeline):
    with pytest.raises(StudyError, match="sentences or conditions"):
        pipeline(seeds=[1])
    with pytest.raises(StudyError, match="1 conditions for 2 seeds"):
        pipeline([CANONICAL["AC A"]], seeds=[1, 2])
    with pytest.raises(StudyError, match="not in the grammar"):
        pipeline(["a cat"], seeds=[1])
    with pytest.raises(StudyError, match="sampler 'euler'"):
        sampler("euler", noise_schedule(SMOKE.diffusion))


def test_the_sentence_reaches_the_image_and_padding_does_not(pipeline):
    tokenizer = build_tokenizer()
    denoiser = ConditionalDenoiser(pipeline.unet, pipeline.text_encoder).eval()
    z, t = torch.randn(1, 3, 16, 16), torch.tensor([500])
    tokens = {
        name: tensor
        for name, tensor in tokenizer([CANONICAL["AC A"].sentence()], return_tensors="pt").items()
        if name != "token_type_ids"
    }
    other = {
        name: tensor
        for name, tensor in tokenizer([CANONICAL["PC A"].sentence()], return_tensors="pt").items()
        if name != "token_type_ids"
    }
    padded = {
        "input_ids": torch.cat([tokens["input_ids"], torch.zeros(1, 5, dtype=torch.long)], 1),
        "attention_mask": torch.cat([tokens["attention_mask"], torch.zeros(1, 5, dtype=torch.long)], 1),
    }
    with torch.no_grad():
        plain = denoiser(z, t, tokens)
        assert torch.allclose(plain, denoiser(z, t, padded), atol=1e-5)
        assert not torch.allclose(plain, denoiser(z, t, other), atol=1e-6)


def test_two_latents_are_learnt_by_heart(tmp_path):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    sentences = [CANONICAL["AC A"].sentence(), CANONICAL["PC B"].sentence()]
    mean = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float16)
    data = LatentSet(mean, np.zeros_like(mean), 1.0, sentences, tokenizer)
    config = replace(SMOKE.diffusion, base_channels=16, head_channels=16)
    model = ConditionalDenoiser(build_unet(config, 3, 8, SMOKE.text.width), build_encoder(SMOKE.text, len(tokenizer)))
    loss = training_loss(data, noise_schedule(config))
    log = fit(
        model,
        loss,
        size=2,
        steps=300,
        batch_size=16,
        learning_rate=2e-3,
        seed=0,
        folder=tmp_path,
        digest="x",
        evaluate_every=50,
    )
    assert log["train_loss"].iloc[-1] < 0.2 * log["train_loss"].iloc[0]
