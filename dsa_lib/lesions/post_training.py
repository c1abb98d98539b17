"""Lesion-aware post-training of a latent diffusion model: image-space losses through the decoder on the one-step estimate of z_0.

    L = L_latent + λ_image · L_image + λ_lesion · L_lesion

L_latent is the model's own denoising loss; the other two compare the decoded estimate D(ẑ_0(z_t, t)) with the image itself, over all of it and inside the
lesion (Lee et al., Lesion-Aware Post-Training of Latent Diffusion Models, Fig. 2). Nothing here knows what conditions the model: it is given as
`predict`, so that the image-to-image model and the one that reads sentences are post-trained by the same code.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import nn
from torch.utils.checkpoint import checkpoint

from dsa_lib.ldm.autoencoder import to_model
from dsa_lib.ldm.diffusion import squared_error
from dsa_lib.nn.training import Draws
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import PostTraining

# (model, z_t [n, C, h, w], t [n], indices [n] of the training set, draws) → the model's prediction [n, C, h, w]
Predict = Callable[[nn.Module, torch.Tensor, torch.Tensor, np.ndarray, Draws], torch.Tensor]


class Latents(Protocol):
    """What is asked of the training latents; `diffusion.LatentSet` is one."""

    mean: np.ndarray

    def latents(self, indices: np.ndarray, noise: torch.Tensor) -> torch.Tensor: ...


def in_images(settings: PostTraining) -> bool:
    """Whether any loss in the image is on."""
    return settings.image_weight > 0 or settings.lesion_weight > 0


def without_images(settings: PostTraining) -> PostTraining:
    """The settings of the control: the same training by the latent loss alone."""
    return replace(settings, image_weight=0.0, lesion_weight=0.0)


class WithDecoder(nn.Module):
    """A denoiser together with the autoencoder whose decoder is trained along; the encoder stays as it is, since it makes the targets."""

    def __init__(self, denoiser: nn.Module, vae: AutoencoderKL):
        super().__init__()
        self.denoiser, self.vae = denoiser, vae
        vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)
        if vae.post_quant_conv is not None:
            vae.post_quant_conv.requires_grad_(True)


def clean_estimate(
    z_t: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor, schedule: DDPMScheduler
) -> torch.Tensor:
    """ẑ_0(z_t, t), float32 [n, C, h, w], in closed form from the network's prediction at timesteps t [n], 0 to T−1.

    From ε: (z_t − √(1−ᾱ) ε̂) / √ᾱ, which is Eq. 3 solved for z_0; from v: √ᾱ z_t − √(1−ᾱ) v̂ (Salimans & Ho 2022, App. D).
    """
    alpha_bar = schedule.alphas_cumprod.to(z_t.device)[t].view(-1, 1, 1, 1)
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    z_t, prediction = z_t.float(), prediction.float()
    if schedule.config.prediction_type == "epsilon":
        return (z_t - noise * prediction) / signal
    return signal * z_t - noise * prediction


def gets_gradient(t: torch.Tensor, schedule: DDPMScheduler, settings: PostTraining) -> torch.Tensor:
    """Which of the timesteps t [n] have image-space losses, bool [n]: those below `latest` · T."""
    return t < settings.latest * schedule.config.num_train_timesteps


def decode(vae: AutoencoderKL, z: torch.Tensor, at_once: int = 0, checkpointing: bool = True) -> torch.Tensor:
    """D(z), float32 [n, 1, H, W] in about −1 to 1, of latents at the diffusion's scale, `at_once` images at a time (0: all).

    With `checkpointing` a part's activations are dropped and computed again on the way back, so that memory holds those of one part alone, however
    large the batch; the gradients are the same numbers.
    """

    def decoder(part: torch.Tensor) -> torch.Tensor:
        return vae.decode(part).sample

    parts = []
    for part in (z / vae.config.scaling_factor).split(at_once or len(z)):
        again = checkpointing and torch.is_grad_enabled()
        parts.append(checkpoint(decoder, part, use_reentrant=False) if again else decoder(part))
    return torch.cat(parts).float()


def image_space_losses(
    z_t: torch.Tensor,
    prediction: torch.Tensor,
    t: torch.Tensor,
    schedule: DDPMScheduler,
    vae: AutoencoderKL,
    target_images: torch.Tensor,
    masks: torch.Tensor,
    settings: PostTraining,
) -> dict[str, torch.Tensor]:
    """L_image and L_lesion of a batch, as the entries "image" and "lesion".

    z_t, prediction: [n, C, h, w]; t: [n], 0 to T−1; target_images: [n, 1, H, W] in −1 to 1; masks: bool [n, 1, H, W] or [n, H, W], empty where an image has no
    lesion. "image" is the mean absolute error over the image, "lesion" that inside the mask (0 without one). Both are averaged over all n images, those
    whose timestep gets no gradient counting as 0: a sum over images over a fixed number is the same however a batch is split into micro-batches.
    The loss of a rare lesion pixel then weighs as the inverse of the lesion's size, which the plain image loss does not.
    """
    masks = masks.reshape(target_images.shape).to(target_images.device)
    chosen = torch.nonzero(gets_gradient(t, schedule, settings))[:, 0]
    if not len(chosen):
        nothing = 0.0 * prediction.float().sum()  # hangs on the network, so that a backward pass finds its way
        return {"image": nothing, "lesion": nothing}
    z_0 = clean_estimate(z_t[chosen], prediction[chosen], t[chosen], schedule)
    decoded = decode(vae, z_0, settings.decoded_at_once, settings.checkpointing)
    error = (decoded - target_images[chosen].float()).abs()
    inside = masks[chosen].float()
    lesion = (error * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)
    return {"image": error.mean((1, 2, 3)).sum() / len(t), "lesion": lesion.sum() / len(t)}


def training_loss(
    data: Latents,
    predict: Predict,
    schedule: DDPMScheduler,
    vae: AutoencoderKL,
    targets: np.ndarray,
    masks: np.ndarray,
    settings: PostTraining,
    *,
    min_snr_gamma: float = 0.0,
):
    """The loss closure that `training.fit` wants, L of the module's head with its parts.

    data: latents of the training images; targets uint8 [n, H, W] and masks bool [n, H, W]: those images and where their lesions lie, in the same order.
    With both weights 0 nothing is decoded, and the closure is plain latent training with the same draws of noise and timesteps: the fair control.
    The model may be a denoiser, whose images `vae` decodes as it is, or `WithDecoder`.
    """
    if len(targets) != len(masks):
        raise StudyError(f"{len(targets)} target images have {len(masks)} lesion masks: give one of each")
    shape = data.mean.shape[1:]
    if not settings.decoder_trained:
        vae.requires_grad_(False)
    decoded = in_images(settings)

    def loss(model: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        denoiser, decoder = (model.denoiser, model.vae) if isinstance(model, WithDecoder) else (model, vae)
        z_0 = data.latents(indices, draws.normal(*shape))
        t = draws.integers(schedule.config.num_train_timesteps, 1)[:, 0]
        noise = draws.normal(*shape)
        z_t = schedule.add_noise(z_0, noise, t)
        prediction = predict(denoiser, z_t, t, indices, draws).float()
        parts = {"latent": squared_error(prediction, z_0, noise, t, schedule, min_snr_gamma)}
        if not decoded:
            return {"loss": parts["latent"], **parts}
        decoder.to(draws.device)
        images = to_model(targets[indices]).to(draws.device)
        inside = torch.from_numpy(np.ascontiguousarray(masks[indices]))
        parts |= image_space_losses(z_t, prediction, t, schedule, decoder, images, inside, settings)
        total = parts["latent"] + settings.image_weight * parts["image"] + settings.lesion_weight * parts["lesion"]
        return {"loss": total, **parts}

    return loss
