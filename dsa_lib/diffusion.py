"""Latent diffusion: noise schedule, denoising networks, objective (§4.3–4.5, Eqs. 3–4) and the pipeline from sentence to image (Eqs. 5–6)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from torch import nn
from transformers import BertModel, PreTrainedTokenizerFast

from dsa_lib.autoencoder import to_frames
from dsa_lib.conditions import Condition
from dsa_lib.errors import StudyError
from dsa_lib.profiles import Diffusion, Profile
from dsa_lib.text import encode, tokenize
from dsa_lib.training import Draws, budget, fit

SAMPLERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def build_unet(
    config: Diffusion, latent_channels: int, latent_size: int, context: int | None
) -> UNet2DConditionModel | UNet2DModel:
    """The denoising network of §4.5: conditional with cross-attention to `context` channels, unconditional when `context` is None.

    diffusers counts heads differently in its two networks: `attention_head_dim` is the *number of heads* of each level in UNet2DConditionModel
    (a name kept for compatibility) and the *channels a head* in UNet2DModel. Both come out at `config.head_channels` channels a head here.
    """
    channels = tuple(config.base_channels * multiplier for multiplier in config.multipliers)
    shared = {
        "sample_size": latent_size,
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "block_out_channels": channels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_groups,
    }
    attends = config.attention_levels
    if context is None:
        return UNet2DModel(
            **shared,
            down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
            up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
            attention_head_dim=config.head_channels,
        )
    return UNet2DConditionModel(
        **shared,
        down_block_types=tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        attention_head_dim=tuple(max(width // config.head_channels, 1) for width in channels),
        cross_attention_dim=context,
        transformer_layers_per_block=1,
    )


def noise_schedule(config: Diffusion) -> DDPMScheduler:
    """β_1…β_T and everything derived from them; `linear` is linear in β, `scaled_linear` in √β. Latents are not clipped."""
    return DDPMScheduler(
        num_train_timesteps=config.timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction,
        clip_sample=False,
        timestep_spacing="trailing",  # the first sampling step then starts from pure noise, t = T
    )


def sampler(name: str, schedule: DDPMScheduler):
    """A sampling scheduler with the noise schedule of `schedule`: ddpm (Eq. 5), ddim, dpmsolver++ or unipc."""
    if name not in SAMPLERS:
        raise StudyError(f"the sampler {name!r} does not exist: choose one of {', '.join(SAMPLERS)}")
    config = {key: value for key, value in schedule.config.items() if not key.startswith("_")}
    return SAMPLERS[name].from_config(config, clip_sample=False, timestep_spacing="trailing")


class ConditionalDenoiser(nn.Module):
    """ε_θ(z_t, t, c) with the sentence encoder inside, since both are trained jointly (§4.4)."""

    def __init__(self, unet: UNet2DConditionModel, encoder: BertModel):
        super().__init__()
        self.unet, self.encoder = unet, encoder

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        context, mask = encode(self.encoder, tokens["input_ids"], tokens["attention_mask"])
        return self.unet(z_t, t, encoder_hidden_states=context, encoder_attention_mask=mask).sample


class UnconditionalDenoiser(nn.Module):
    """ε_θ(z_t, t) of Eq. 4."""

    def __init__(self, unet: UNet2DModel):
        super().__init__()
        self.unet = unet

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, tokens: None = None) -> torch.Tensor:
        return self.unet(z_t, t).sample


class LatentSet:
    """Cached latents and sentences of the training frames, as `training.fit` draws from them.

    mean, std: float16 [n, C, h, w]; `scale` is the autoencoder's 1/std; `sentences` has one entry a latent, or is None for the unconditional model.
    """

    def __init__(
        self, mean: np.ndarray, std: np.ndarray, scale: float, sentences: Sequence[str] | None = None, tokenizer=None
    ):
        self.mean, self.std, self.scale = mean, std, scale
        if sentences is None:
            self.tokens = None
        else:
            # The distinct sentences are few: each is tokenized once and looked up by number.
            distinct = sorted(set(sentences))
            self.tokens = tokenize(tokenizer, distinct)
            number = {sentence: index for index, sentence in enumerate(distinct)}
            self.number = np.array([number[sentence] for sentence in sentences])

    def __len__(self) -> int:
        return len(self.mean)

    def latents(self, indices: np.ndarray, noise: torch.Tensor) -> torch.Tensor:
        """z_0 = scale · (mean + std · noise), float32 [n, C, h, w] on the device of `noise`."""
        mean = torch.from_numpy(self.mean[indices].astype(np.float32)).to(noise.device)
        std = torch.from_numpy(self.std[indices].astype(np.float32)).to(noise.device)
        return self.scale * (mean + std * noise)

    def context(self, indices: np.ndarray, device: torch.device) -> dict[str, torch.Tensor] | None:
        if self.tokens is None:
            return None
        chosen = torch.from_numpy(self.number[indices])
        return {name: values[chosen].to(device) for name, values in self.tokens.items()}


def denoising_loss(
    model: nn.Module, z_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, tokens, schedule: DDPMScheduler
) -> torch.Tensor:
    """Eq. 4 (L_cond with `tokens`): mean squared error of the predicted noise, or of v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho 2022)."""
    z_t = schedule.add_noise(z_0, noise, t)  # Eq. 3
    target = noise if schedule.config.prediction_type == "epsilon" else schedule.get_velocity(z_0, noise, t)
    return (model(z_t, t, tokens).float() - target).square().mean()


def training_loss(data: LatentSet, schedule: DDPMScheduler):
    """The loss closure that `training.fit` wants."""
    shape = data.mean.shape[1:]

    def loss(model: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        z_0 = data.latents(indices, draws.normal(*shape))
        t = draws.integers(schedule.config.num_train_timesteps, 1)[:, 0]
        return {
            "loss": denoising_loss(model, z_0, draws.normal(*shape), t, data.context(indices, draws.device), schedule)
        }

    return loss


def validation_loss(data: LatentSet, schedule: DDPMScheduler, seed: int, images: int = 96, batch_size: int = 32):
    """`validate` for `training.fit`: the same loss on held-out latents with noise and timesteps that never change."""

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        chosen = np.linspace(0, len(data) - 1, min(images, len(data))).astype(int)
        total = 0.0
        for first in range(0, len(chosen), batch_size):
            indices = chosen[first : first + batch_size]
            draws = Draws(seed, 0, range(first, first + len(indices)), device)
            total += float(training_loss(data, schedule)(model, indices, draws)["loss"]) * len(indices)
        return {"loss": total / len(chosen)}

    return validate


def train(
    model: nn.Module,
    data: Mapping[str, LatentSet],
    schedule: DDPMScheduler,
    profile: Profile,
    *,
    steps: int,
    epochs: int,
    folder: Path,
    digest: str,
    what: str,
    patience: int = 0,
    weights: np.ndarray | None = None,
) -> pd.DataFrame:
    """Train a denoiser on `data["train"]`, choose its weights on `data["val"]`, return the log. Sizes and rates are the profile's."""
    config = profile.diffusion
    return fit(
        model,
        training_loss(data["train"], schedule),
        size=len(data["train"]),
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        **budget(len(data["train"]), config.batch_size, steps, epochs),
        patience=patience,
        validate=validation_loss(data["val"], schedule, profile.seed),
        ema_decay=config.ema_decay,
        warmup_steps=config.warmup_steps,
        clip_norm=config.clip_norm,
        cosine=not epochs,
        weights=weights,
        seed=profile.seed,
        precision=profile.precision,
        folder=folder,
        digest=digest,
        log_every_s=profile.log_every_s,
        checkpoint_every_s=profile.checkpoint_every_s,
        what=what,
    )


def balancing_weights(cells: Sequence[str], balance: float) -> np.ndarray | None:
    """Drawing weights n_cell^(−balance): None (frames as they occur) at 0, every cell of Table 1 equally often at 1."""
    if balance == 0:
        return None
    cells = np.asarray(cells)
    names, counts = np.unique(cells, return_counts=True)
    weight = dict(zip(names, counts.astype(float) ** -balance, strict=True))
    return np.array([weight[cell] for cell in cells])


class DSAPipeline(DiffusionPipeline):
    """From sentences or conditions to DSA frames: BERT → UNet → sampler → decoder.

    `text_encoder` and `tokenizer` are None in the unconditional pipeline.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["text_encoder", "tokenizer"]  # noqa: RUF012  diffusers adds it to a list

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel | UNet2DModel,
        scheduler: DDPMScheduler,
        text_encoder: BertModel | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
    ):
        super().__init__()
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        for module in (vae, unet, text_encoder):
            if module is not None:
                module.eval()  # BERT has dropout; an image must not depend on it

    @torch.no_grad()
    def __call__(
        self,
        conditions: Sequence[Condition | str] | None = None,
        *,
        seeds: Sequence[int],
        num_inference_steps: int = 25,
    ) -> np.ndarray:
        """uint8 frames [n, H, W], one for each of `seeds`.

        `conditions`: n Conditions or sentences; None for the unconditional pipeline. Image i depends on its seed and condition alone, not on what
        else is in the batch.
        """
        if (conditions is None) != (self.text_encoder is None):
            need = (
                "gives sentences or conditions"
                if self.text_encoder is not None
                else "gives none: the unconditional model has no text encoder"
            )
            raise StudyError(f"this pipeline wants a call that {need}")
        if conditions is not None and len(conditions) != len(seeds):
            raise StudyError(f"{len(conditions)} conditions for {len(seeds)} seeds: give one of each an image")
        device = next(self.unet.parameters()).device
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        shape = (self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size)
        z = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)  # z_T
        context = {}
        if conditions is not None:
            sentences = [item.sentence() if isinstance(item, Condition) else item for item in conditions]
            tokens = {name: values.to(device) for name, values in tokenize(self.tokenizer, sentences).items()}
            states, mask = encode(self.text_encoder, tokens["input_ids"], tokens["attention_mask"])
            context = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        self.scheduler.set_timesteps(num_inference_steps)
        z = z * self.scheduler.init_noise_sigma
        extra = (
            {}
            if isinstance(self.scheduler, DPMSolverMultistepScheduler | UniPCMultistepScheduler)
            else {"generator": generators}
        )
        for t in self.scheduler.timesteps:
            prediction = self.unet(self.scheduler.scale_model_input(z, t), t, **context).sample
            z = self.scheduler.step(prediction, t, z, **extra).prev_sample  # Eq. 5
        return to_frames(self.vae.decode(z / self.vae.config.scaling_factor).sample)  # Eq. 6
