"""Image-to-image conditional latent diffusion: the target image's latent is denoised beside the source image (base model of notebook 23).

The source study conditions a latent diffusion model in the latent space of a VQGAN; ours takes the KL autoencoder that the run has (§4.3), whose latents every
other model of the run shares. The source image enters at latent resolution as further input channels of the denoising network, at every step alike.
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.core.splits import evenly
from dsa_lib.ldm import autoencoder, sampler
from dsa_lib.ldm.diffusion import HELD_OUT, LatentSet, UnconditionalDenoiser, build_unet
from dsa_lib.ldm.latents import posteriors
from dsa_lib.lesions.post_training import WithDecoder, clean_estimate, training_loss
from dsa_lib.nn import shipped
from dsa_lib.nn.training import Draws, fit, held_out, run_options
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Lesions, PostTraining
from dsa_lib.run.profiles import Profile
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import atomic_write, write_json

WEIGHTS, CARD = "model.safetensors", "config.json"
BATCH = 32  # images encoded, or translated, at a time


class Translator(nn.Module):
    """ε_θ(z_t, t, y) for a source image y, already at latent size: [n, C, h, w] beside [n, further, h, w]."""

    def __init__(self, unet: UNet2DModel):
        super().__init__()
        self.denoiser = UnconditionalDenoiser(unet)

    @property
    def unet(self) -> UNet2DModel:
        return self.denoiser.unet

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.denoiser(torch.cat([z_t, condition.to(z_t.dtype)], 1), t)


def build(profile: Profile, source_channels: int, latent_channels: int, latent_size: int) -> Translator:
    """The untrained network for source images of `source_channels` channels, at the size of the profile's `lesions` section."""
    config = profile.lesions
    network = dataclasses.replace(
        profile.diffusion,
        base_channels=config.base_channels,
        multipliers=config.multipliers,
        layers_per_block=config.layers_per_block,
        # Attention on the coarsest level alone: what belongs together lies at the same place in source and target.
        attention_levels=(False,) * (len(config.multipliers) - 1) + (True,),
    )
    unet = build_unet(network, latent_channels, latent_size, context=None)
    further = condition_channels(config, source_channels, latent_channels, profile.curation.image_size, latent_size)
    first = unet.conv_in
    unet.conv_in = nn.Conv2d(latent_channels + further, first.out_channels, first.kernel_size, padding=first.padding)
    unet.register_to_config(in_channels=latent_channels + further)
    return Translator(unet)


def condition_channels(config: Lesions, source_channels: int, latent_channels: int, size: int, latent_size: int) -> int:
    """Channels that the source image has at latent size."""
    if config.source_as == "latent":
        return source_channels * latent_channels
    return source_channels * (size // latent_size) ** 2


@torch.no_grad()
def condition(sources: torch.Tensor, vae: AutoencoderKL, latent_size: int, source_as: str) -> torch.Tensor:
    """Source images [n, C, H, W] in −1 to 1 at latent size.

    "unshuffle" puts the pixels of every f × f block side by side as channels, [n, C f², h, w]: nothing of a vessel of one pixel is lost. "latent" encodes each
    channel as the target is encoded (posterior mean, at the diffusion's scale), [n, C c, h, w]: closer to the usual recipe, but
    the encoder was trained on subtracted frames and has never seen bone.
    """
    if source_as == "unshuffle":
        return F.pixel_unshuffle(sources, sources.shape[-1] // latent_size)
    if source_as != "latent":
        raise StudyError(f"lesions.source_as {source_as!r} is not unshuffle or latent")
    n, channels = sources.shape[:2]
    mean = vae.encode(sources.flatten(0, 1)[:, None]).latent_dist.mean * vae.config.scaling_factor
    return mean.reshape(n, channels * mean.shape[1], *mean.shape[2:])


class Pairs:
    """The pairs of one part as `training.fit` draws from them: target latents, source images at latent size, target images and lesion masks."""

    def __init__(self, pairs: TranslationSet, vae: AutoencoderKL, source_as: str):
        self.targets, self.lesions, self._sources = pairs.targets, pairs.lesions, pairs.sources
        self.latents = LatentSet(*posteriors(vae, pairs.targets), vae.config.scaling_factor)
        self.size = self.latents.mean.shape[-1]
        self.source_as = source_as
        # Few numbers when encoded, and the encoder is slow: kept. Unshuffled pixels are the image itself and are laid out anew at every use.
        self._encoded = self._encode(vae) if source_as == "latent" else None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def source_channels(self) -> int:
        return self._sources.shape[1]

    def _encode(self, vae: AutoencoderKL) -> torch.Tensor:
        device = next(vae.parameters()).device
        parts = np.array_split(self._sources, -(-len(self._sources) // BATCH))
        return torch.cat(
            [condition(autoencoder.to_floats(part).to(device), vae, self.size, "latent").cpu() for part in parts]
        )

    def condition(self, indices: np.ndarray, device: torch.device) -> torch.Tensor:
        """The source images at latent size, [n, further, h, w]."""
        if self._encoded is not None:
            return self._encoded[torch.from_numpy(np.asarray(indices))].to(device)
        return condition(autoencoder.to_floats(self._sources[indices]).to(device), None, self.size, self.source_as)

    def predict(
        self, model: nn.Module, z_t: torch.Tensor, t: torch.Tensor, indices: np.ndarray, draws: Draws
    ) -> torch.Tensor:
        """`post_training.Predict` for these pairs."""
        return model(z_t, t, self.condition(indices, z_t.device))


def loss(pairs: Pairs, schedule: DDPMScheduler, vae: AutoencoderKL, settings: PostTraining, min_snr_gamma: float):
    """The loss closure of base training (both weights of `settings` 0) and of post-training, see `post_training.training_loss`."""
    return training_loss(
        pairs.latents, pairs.predict, schedule, vae, pairs.targets, pairs.lesions, settings, min_snr_gamma=min_snr_gamma
    )


LATENT_ALONE = PostTraining(image_weight=0.0, lesion_weight=0.0)


def train(
    model: Translator,
    data: dict[str, Pairs],
    schedule: DDPMScheduler,
    vae: AutoencoderKL,
    profile: Profile,
    *,
    folder: Path,
    digest: str,
    start: Path | None = None,
    **options,
) -> pd.DataFrame:
    """Train the base model on `data["train"]`, choose its weights on `data["val"]`, return the log.

    `start`, where the model already holds trained weights, makes it a short stretch (`shipped.stretch`); `options` go to `training.fit`.
    """
    config, gamma = profile.lesions, profile.lesions.min_snr_gamma
    chosen = evenly(np.arange(len(data["val"])), HELD_OUT)
    whole = {
        "steps": config.steps,
        "learning_rate": config.learning_rate,
        "cosine": True,
        "warmup_steps": min(profile.diffusion.warmup_steps, config.steps // 10),
    }
    return fit(
        model,
        loss(data["train"], schedule, vae, LATENT_ALONE, gamma),
        size=len(data["train"]),
        batch_size=config.batch_size,
        **shipped.stretch(start, config, whole),
        validate=held_out(loss(data["val"], schedule, vae, LATENT_ALONE, gamma), chosen, profile.seed),
        ema_decay=config.ema_decay,
        clip_norm=profile.diffusion.clip_norm,
        folder=folder,
        digest=digest,
        **({"what": "image-to-image diffusion", **run_options(profile)} | options),
    )


def train_further(
    model: Translator | WithDecoder,
    data: dict[str, Pairs],
    schedule: DDPMScheduler,
    vae: AutoencoderKL,
    profile: Profile,
    settings: PostTraining,
    *,
    folder: Path,
    digest: str,
    **options,
) -> pd.DataFrame:
    """Train a trained model for `settings.steps` more: post-training, or with both weights 0 its control, which differs in nothing but the image losses.

    The last weights (averaged) are kept and no held-out loss chooses among them: the two arms are judged by different losses, and a choice by either
    would favour one. Returns the log.
    """
    gamma = profile.lesions.min_snr_gamma
    return fit(
        model,
        loss(data["train"], schedule, vae, settings, gamma),
        size=len(data["train"]),
        batch_size=settings.batch_size,
        steps=settings.steps,
        evaluate_every=max(settings.steps // 5, 1),
        learning_rate=settings.learning_rate,
        cosine=True,
        ema_decay=profile.lesions.ema_decay,
        clip_norm=profile.diffusion.clip_norm,
        folder=folder,
        digest=digest,
        **({"what": "post-training", **run_options(profile), "seed": profile.seed + 1} | options),
    )


@torch.no_grad()
def translate(
    model: Translator,
    vae: AutoencoderKL,
    schedule: DDPMScheduler,
    sources: np.ndarray,
    *,
    seeds: Sequence[int],
    steps: int,
    source_as: str = "unshuffle",
    scheduler: str = "ddim",
    batch_size: int = BATCH,
) -> np.ndarray:
    """Target images uint8 [n, H, W] for the source images uint8 [n, C, H, W], one for each of `seeds`.

    Image i depends on its source and seed alone, not on what else is in the batch. Raises StudyError where seeds and sources are not as many.
    """
    seeds = list(seeds)
    if len(seeds) != len(sources):
        raise StudyError(f"{len(seeds)} seeds for {len(sources)} source images: give one of each an image")
    device, unet = next(model.parameters()).device, model.unet
    model.eval()
    vae.to(device)
    size, solver, frames = unet.config.sample_size, sampler.make_scheduler(scheduler, schedule), []
    for first in track(range(0, len(seeds), batch_size), what="batches of frames translated"):
        here = slice(first, first + batch_size)
        y = condition(autoencoder.to_floats(sources[here]).to(device), vae, size, source_as)
        predict = partial(model, condition=y)
        shape = (unet.config.out_channels, size, size)
        z = sampler.sample(predict, solver, seeds[here], shape, steps, device, network=model)
        frames.append(autoencoder.decode(vae, z))
    return np.concatenate(frames)


def save(model: Translator, folder: Path, facts: dict | None = None) -> None:
    """Write the network to `folder` in one step: half-precision weights, the network's config, and `facts`."""
    weights = {name: value.half().contiguous().cpu() for name, value in model.state_dict().items()}
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise StudyError("the translation network holds weights beyond half precision: train it again")
    with atomic_write(Path(folder)) as temporary:
        temporary.mkdir(parents=True)
        save_file(weights, temporary / WEIGHTS)
        kept = {name: value for name, value in dict(model.unet.config).items() if not name.startswith("_")}
        write_json(temporary / CARD, {"unet": kept, "facts": facts or {}})


def load(folder: Path) -> Translator:
    """The inverse of `save`, in single precision; raises StudyError where the folder holds no such network."""
    try:
        config = json.loads((Path(folder) / CARD).read_text())["unet"]
        weights = load_file(Path(folder) / WEIGHTS)
    except (OSError, KeyError, ValueError):
        raise StudyError(
            f"{Path(folder).name} holds no translation network: run notebooks/23_lesion_post_training.ipynb again"
        ) from None
    model = Translator(UNet2DModel.from_config(config))
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model.eval()


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
        made.append(autoencoder.decode(vae, z))
    return np.concatenate(made)


def examples(
    model: Translator,
    pairs: Pairs,
    vae: AutoencoderKL,
    schedule: DDPMScheduler,
    times: Sequence[int],
    seed: int,
    count: int = 5,
) -> list[tuple[int, np.ndarray]]:
    """(t, estimate uint8 [H, W]) of one pair, the first with a lesion where there is one, at `count` of the `times` spread from the first to the last."""
    row = [int(pairs.lesions.any(axis=(1, 2)).argmax())]
    chosen = np.quantile(times, np.linspace(0, 1, count), method="nearest").astype(int)
    return [(int(t), estimates(model, pairs, row, vae, schedule, int(t), seed)[0]) for t in chosen]


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
    rows = evenly(np.arange(len(pairs)), images)
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
