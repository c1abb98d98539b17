"""From noise to latents (Eqs. 5–6): the samplers to choose from, and the one loop of denoising steps that all diffusion models here share."""

import inspect
from collections.abc import Callable, Iterable, Sequence

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler
from torch import nn

from dsa_lib.nn.memory_format import channels_last
from dsa_lib.run.errors import StudyError

SAMPLERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
_SPACING = {"dpmsolver++": {"use_lu_lambdas": True}, "unipc": {"use_exponential_sigmas": True}}


def make_scheduler(name: str, schedule: DDPMScheduler) -> SchedulerMixin:
    """A sampling scheduler with the noise schedule of `schedule`: ddpm (Eq. 5), ddim, dpmsolver++ or unipc. Raises StudyError for any other name.

    The two solvers of high order take steps that are even in log-SNR (Lu et al. 2022, §5). Evenly spaced timesteps would end 20 steps with a jump
    from t = 50, where the noise's SD is 0.3, to a mean over all latents it could have been: detail fainter than that noise, as small vessels are, is lost.
    """
    if name not in SAMPLERS:
        raise StudyError(f"the sampler {name!r} does not exist: choose one of {', '.join(SAMPLERS)}")
    config = {key: value for key, value in schedule.config.items() if not key.startswith("_")}
    return SAMPLERS[name].from_config(config, clip_sample=False, timestep_spacing="trailing", **_SPACING.get(name, {}))


def noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
    """z_T, float32 [n, *shape]: one generator an image, on the CPU, so that an image starts alike on every device."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def sample(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: SchedulerMixin,
    seeds: Sequence[int],
    shape: Sequence[int],
    steps: int,
    device: torch.device | str,
    *,
    network: nn.Module | None = None,
    after_step: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> torch.Tensor:
    """Latents z_0, float32 [n, *shape] on `device`, one for each of `seeds`, after `steps` steps of `scheduler`.

    `predict(z, t)` is the network's answer at timestep t, [n, *shape], guidance included; where the `network` is named, it works in the memory format
    that is faster for it. `after_step(step, t, z)` gives back the latents to go on with. Latent i depends on its seed and on what `predict` makes of it
    alone: all its noise comes from a generator of its own.
    """
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    # Solvers of high order remember earlier steps; setting the timesteps makes them forget.
    scheduler.set_timesteps(steps, device=device)
    z = noise(generators, shape).to(device) * scheduler.init_noise_sigma
    draws_noise = "generator" in inspect.signature(scheduler.step).parameters
    further = {"generator": generators} if draws_noise else {}
    with channels_last(*[network] * (network is not None)):
        for step, t in enumerate(progress(scheduler.timesteps)):
            prediction = predict(scheduler.scale_model_input(z, t), t).float()
            z = scheduler.step(prediction, t, z, **further).prev_sample  # Eq. 5
            if after_step is not None:
                z = after_step(step, t, z)
    return z
