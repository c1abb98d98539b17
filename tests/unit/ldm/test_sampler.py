"""The samplers against Eq. 5 and against distributions whose denoiser is known, and the loop that all models share."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsa_lib.ldm.diffusion import noise_schedule
from dsa_lib.ldm.sampler import SAMPLERS, make_scheduler, noise, sample
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PAPER, PHANTOM, SMOKE


def test_equation_5_one_reverse_step():
    """By hand, with σ_t² = β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) β_t, the posterior variance (Ho et al. 2020, Eq. 7); no noise at the last step."""
    schedule = make_scheduler("ddpm", noise_schedule(PAPER.diffusion))
    schedule.set_timesteps(1000)
    beta = np.linspace(0.0015, 0.0195, 1000)
    alpha_bar = np.cumprod(1 - beta)
    z, eps, t = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8), 600
    eta = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    mean = (z - beta[t] / np.sqrt(1 - alpha_bar[t]) * eps) / np.sqrt(1 - beta[t])
    sigma = np.sqrt((1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t])
    step = schedule.step(eps, t, z, generator=torch.Generator().manual_seed(0)).prev_sample
    assert torch.allclose(step, (mean + sigma * eta).float(), atol=1e-5)
    last = schedule.step(eps, 0, z).prev_sample
    assert torch.allclose(
        last, ((z - beta[0] / np.sqrt(1 - alpha_bar[0]) * eps) / np.sqrt(1 - beta[0])).float(), atol=1e-5
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spread", [0.3, 0.1])
@pytest.mark.parametrize("name, steps", [("ddpm", 1000), ("ddim", 1000), ("dpmsolver++", 20), ("unipc", 20)])
def test_every_sampler_finds_a_distribution_whose_denoiser_is_known(name, steps, spread, prediction):
    """Of z_0 ~ N(μ, s²) the best prediction has a closed form; sampled with it, the numbers must have that mean and spread again.

    A small spread stands for faint detail: steps even in t would leave the fast solvers a third of it.
    """
    mu, draws = 0.8, 2000
    schedule = make_scheduler(name, noise_schedule(replace(PAPER.diffusion, prediction=prediction)))
    schedule.set_timesteps(steps)
    z = torch.randn(draws, 1, generator=torch.Generator().manual_seed(1))
    assert int(schedule.timesteps[0]) == 999
    for t in schedule.timesteps:
        alpha_bar = schedule.alphas_cumprod[t]
        eps = (1 - alpha_bar).sqrt() * (z - alpha_bar.sqrt() * mu) / (alpha_bar * spread**2 + 1 - alpha_bar)
        z_0 = (z - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
        told = eps if prediction == "epsilon" else alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * z_0
        z = schedule.step(told, t, z).prev_sample
    assert float(z.mean()) == pytest.approx(mu, abs=0.03)
    expected = ancestral_spread(schedule, spread) if name == "ddpm" else spread
    assert expected == pytest.approx(spread, rel=0.15)
    assert float(z.std()) == pytest.approx(expected, rel=0.08)


def ancestral_spread(schedule, spread):
    """What Eq. 5 itself ends at, whose σ_t² = β̃_t is the right one for a z_0 without spread: Var_{t−1} = k_t² Var_t + β̃_t with the exact denoiser."""
    alpha_bar = np.concatenate([[1.0], schedule.alphas_cumprod.double().numpy()])
    variance = 1.0
    for t in range(len(alpha_bar) - 1, 0, -1):
        alpha = alpha_bar[t] / alpha_bar[t - 1]
        beta = 1 - alpha
        gain = (1 - beta / (alpha_bar[t] * spread**2 + 1 - alpha_bar[t])) / np.sqrt(alpha)
        variance = gain**2 * variance + (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta
    return float(np.sqrt(variance))


def test_an_unknown_sampler_is_refused():
    with pytest.raises(StudyError, match="sampler 'euler'"):
        make_scheduler("euler", noise_schedule(SMOKE.diffusion))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_loop_is_the_schedulers_steps_one_image_at_a_time(name):
    """Each image alone, step by step by hand, with a generator of its own, ends where the loop brings all of them at once."""
    schedule = noise_schedule(SMOKE.diffusion)

    def predict(z, t):
        return z * (0.5 + float(t) / 2000)

    drawn = sample(predict, make_scheduler(name, schedule), [3, 4, 3], (2, 4, 4), 5, "cpu")
    for z, seed in zip(drawn, [3, 4, 3], strict=True):
        generator, solver = torch.Generator().manual_seed(seed), make_scheduler(name, schedule)
        solver.set_timesteps(5)
        alone = torch.randn(1, 2, 4, 4, generator=generator)
        for t in solver.timesteps:
            further = {"generator": generator} if name in ("ddpm", "ddim") else {}
            alone = solver.step(predict(alone, t), t, alone, **further).prev_sample
        torch.testing.assert_close(z, alone[0])


def test_a_scheduler_forgets_the_images_before():
    solver = make_scheduler("unipc", noise_schedule(SMOKE.diffusion))
    first, second = (sample(lambda z, t: z / 2, solver, [1], (2, 4, 4), 4, "cpu") for _ in range(2))
    assert torch.equal(first, second)


def test_what_follows_a_step_may_change_the_latents_and_progress_sees_every_step():
    steps, counted = [], []

    def after_step(step, t, z):
        steps.append((step, int(t)))
        return torch.zeros_like(z)

    def progress(times):
        for t in times:
            counted.append(int(t))
            yield t

    solver = make_scheduler("ddim", noise_schedule(SMOKE.diffusion))
    z = sample(lambda z, t: z, solver, [5], (1, 2, 2), 3, "cpu", after_step=after_step, progress=progress)
    assert steps == list(enumerate(counted)) and counted == solver.timesteps.tolist() and not z.any()


def test_noise_hangs_on_the_seed_alone():
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both, alone = noise(seeds, (3, 4, 4)), noise([torch.Generator().manual_seed(2)], (3, 4, 4))
    assert both.shape == (2, 3, 4, 4) and torch.equal(both[1:], alone)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [7, 20])
def test_sampling_starts_from_pure_noise(name, steps):
    """The last timestep of the schedule is the first of the sampling; "leading" spacing would begin where signal is left that z_T does not have."""
    scheduler = make_scheduler(name, noise_schedule(PAPER.diffusion))
    scheduler.set_timesteps(steps)
    assert int(scheduler.timesteps[0]) == PAPER.diffusion.timesteps - 1 and len(scheduler.timesteps) == steps


@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_beyond_one_are_not_clipped(name):
    """Latents are no pixels: a quarter of them lies beyond ±1. Of z_0 = 2.5 everywhere the exact noise is known, and 2.5 must come out."""
    scheduler = make_scheduler(name, noise_schedule(PAPER.diffusion))

    def exact(z, t):
        alpha_bar = scheduler.alphas_cumprod[t]
        return (z - alpha_bar.sqrt() * 2.5) / (1 - alpha_bar).sqrt()

    found = sample(exact, scheduler, [1, 2], (1, 2, 2), 20, "cpu")
    assert torch.allclose(found, torch.full_like(found, 2.5), atol=0.02)


def kept(name, steps, spread, diffusion):
    """Share of the standard deviation of z_0 ~ N(0, spread²) that sampling with the exact denoiser leaves, from how each step scales z and adds noise."""
    scheduler = make_scheduler(name, noise_schedule(diffusion))

    def exact(z, t):
        alpha_bar = scheduler.alphas_cumprod[t]
        z_0 = alpha_bar.sqrt() * spread**2 / (alpha_bar * spread**2 + 1 - alpha_bar) * z
        eps = (z - alpha_bar.sqrt() * z_0) / (1 - alpha_bar).sqrt()
        return eps if diffusion.prediction == "epsilon" else alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * z_0

    found = sample(exact, scheduler, [1], (1, 64, 64), steps, "cpu")
    return float(found.std()) / spread


@pytest.mark.parametrize("profile", [PHANTOM, PAPER], ids=lambda profile: profile.name)
def test_the_sampler_of_the_study_keeps_faint_detail(profile):
    """Detail of SD 0.2 in latents of SD 1, as small vessels are."""
    assert kept(profile.sampling.scheduler, profile.sampling.steps, 0.2, profile.diffusion) >= 0.9


def test_ddim_with_few_steps_does_not():
    assert kept("ddim", 20, 0.2, PAPER.diffusion) < 0.6
