"""An autoencoder for images that the study's own has never seen (diffusion MRI, cardiac MRI): trained where a neighbouring system runs on its source's data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL

from dsa_lib.ldm import autoencoder
from dsa_lib.ldm.latents import latent_scale, scale_rows
from dsa_lib.nn.training import budget, fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile


def settings_of(profile: Profile):
    """The profile's `autoencoder` section as it is for such images: a network of the DSA run says nothing of them, so that where no LPIPS is asked for the
    loss is L1 and KL."""
    config = profile.autoencoder
    if config.perceptual == "lpips":
        return config
    return replace(config, perceptual_weight=0.0, l1_weight=config.l1_weight or 1.0)


def train(
    images: np.ndarray, train_rows: np.ndarray, val_rows: np.ndarray, profile: Profile, *, folder: Path, digest: str
) -> tuple[AutoencoderKL, pd.DataFrame]:
    """Train the study's autoencoder (§4.3) on uint8 `images` [n, H, W] of the rows `train_rows`; `val_rows` choose its weights. Returns (model, log).

    Its latent scale is set from the training rows, as notebook 03 does. The same call goes on after a kill. Raises StudyError for images of another size
    than the profile's.
    """
    config = settings_of(profile)
    if images.shape[1:] != (config.image_size, config.image_size):
        raise StudyError(
            f"images of {images.shape[1]}×{images.shape[2]} pixels for an autoencoder of {config.image_size}²: set curation.image_size and "
            "autoencoder.image_size alike"
        )
    perceptual = None
    if config.perceptual == "lpips":
        from dsa_lib.nn.public_weights import load

        perceptual = autoencoder.Lpips(load("vgg16"))
    torch.manual_seed(profile.seed)
    model = autoencoder.build_autoencoder(config)
    log = fit(
        model,
        autoencoder.training_loss(images, train_rows, config, perceptual),
        size=len(train_rows),
        batch_size=config.batch_size,
        **budget(len(train_rows), config.batch_size, config.steps, config.epochs, config.accumulate),
        learning_rate=config.learning_rate,
        cosine=bool(config.steps),
        warmup_steps=config.warmup_steps,
        patience=config.patience if config.epochs else 0,
        validate=autoencoder.validation_loss(images, val_rows, config, perceptual, profile.seed),
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        clip_norm=config.clip_norm,
        seed=profile.seed,
        precision=profile.precision,
        folder=folder,
        digest=digest,
        log_every_s=profile.log_every_s,
        checkpoint_every_s=profile.checkpoint_every_s,
        what="autoencoder of the target images",
    )
    model.requires_grad_(False)
    rows = scale_rows(train_rows, config.scale_images)
    posterior = [encode(model, images[rows[k : k + 32]]) for k in range(0, len(rows), 32)]
    mean, std = (np.concatenate(values) for values in zip(*posterior, strict=True))
    model.register_to_config(scaling_factor=latent_scale(mean, std, np.arange(len(rows))))
    return model, log


@torch.no_grad()
def encode(model: AutoencoderKL, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation, float32 [n, C, h, w], of uint8 images [n, H, W]."""
    device = next(model.parameters()).device
    posterior = model.encode(autoencoder.to_model(images).to(device)).latent_dist
    return posterior.mean.float().cpu().numpy(), posterior.std.float().cpu().numpy()
