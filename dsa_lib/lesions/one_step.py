"""What the one-step estimate D(ẑ_0(z_t, t)) of an image-to-image model shows at each noise level: why image-space losses stop at a latest timestep."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, DDPMScheduler

from dsa_lib.ldm.autoencoder import to_frames
from dsa_lib.lesions.post_training import clean_estimate
from dsa_lib.lesions.translation import BATCH, Pairs, Translator
from dsa_lib.nn.training import Draws


@torch.no_grad()
def estimates(
    model: Translator,
    pairs: Pairs,
    rows: np.ndarray,
    vae: AutoencoderKL,
    schedule: DDPMScheduler,
    t: int,
    seed: int,
) -> np.ndarray:
    """Decoded estimates uint8 [n, H, W] of the pairs `rows` from one noising to timestep `t` (1 to T, as in the equations); the noise of a row is the same
    at every t."""
    device = next(model.parameters()).device
    model.eval()
    vae.to(device)
    made = []
    for first in range(0, len(rows), BATCH):
        here = np.asarray(rows[first : first + BATCH])
        draws = Draws(seed, 0, range(first, first + len(here)), device)
        shape = pairs.latents.mean.shape[1:]
        z_0 = pairs.latents.latents(here, draws.normal(*shape))
        when = torch.full((len(here),), t - 1, device=device)
        z_t = schedule.add_noise(z_0, draws.normal(*shape), when)
        prediction = model(z_t, when, pairs.condition(here, device))
        z = clean_estimate(z_t, prediction, when, schedule)
        made.append(to_frames(vae.decode(z / vae.config.scaling_factor).sample))
    return np.concatenate(made)


def curve(
    model: Translator,
    pairs: Pairs,
    vae: AutoencoderKL,
    schedule: DDPMScheduler,
    times: Sequence[int],
    seed: int,
    images: int = 32,
) -> pd.DataFrame:
    """Mean absolute error of the estimates in grey levels: a row a time, columns t, mae (over the image) and lesion_mae (inside lesions; NaN without any)."""
    rows = np.unique(np.linspace(0, len(pairs) - 1, min(images, len(pairs))).astype(int))
    inside = pairs.lesions[rows]
    ill = inside.any(axis=(1, 2))
    found = []
    for t in times:
        made = estimates(model, pairs, rows, vae, schedule, int(t), seed)
        error = np.abs(made.astype(float) - pairs.targets[rows])
        of_lesions = (error * inside).sum(axis=(1, 2))[ill] / inside.sum(axis=(1, 2))[ill]
        found.append({"t": int(t), "mae": error.mean(), "lesion_mae": of_lesions.mean() if ill.any() else np.nan})
    return pd.DataFrame(found)


def times(timesteps: int, count: int = 9) -> np.ndarray:
    """Timesteps 1 to T at which the estimate is looked at, evenly spread."""
    return np.unique(np.linspace(1, timesteps, count).round().astype(int))
