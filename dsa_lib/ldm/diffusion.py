"""Latent diffusion: noise schedule, denoising networks, objective and training (§4.3–4.5, Eqs. 3–4). Sampling (Eqs. 5–6) is in `pipeline`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertModel, PreTrainedTokenizerFast

from dsa_lib.core.condition_sentences import Condition
from dsa_lib.core.splits import evenly
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.ldm.sampler import make_scheduler
from dsa_lib.ldm.text import EMPTY, encode, tokenize
from dsa_lib.nn import shipped
from dsa_lib.nn.training import Draws, budget, fit, held_out, run_options
from dsa_lib.run.profiles import Diffusion, Profile

HELD_OUT = 96  # latents that the held-out loss is the mean of, at most


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


def _attention_kernel(unet: nn.Module, z_t: torch.Tensor) -> AbstractContextManager:
    """Plain attention instead of the fused kernel where that one is slow: its bf16 backward pass on CPU, up to 64 tokens.

    17 ms against 3 ms for 16 × 8 heads of 64 tokens, a tenth of a training step of profile `phantom`; from 256 tokens on the fused one is faster.
    """
    blocks = unet.config.down_block_types
    level = next((index for index, name in enumerate(blocks) if "Attn" in name), len(blocks) - 1)
    few = (z_t.shape[-1] >> level) ** 2 <= 64
    if few and z_t.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


class ConditionalDenoiser(nn.Module):
    """ε_θ(z_t, t, c) with the sentence encoder inside, since both are trained jointly (§4.4)."""

    def __init__(self, unet: UNet2DConditionModel, encoder: BertModel):
        super().__init__()
        self.unet, self.encoder = unet, encoder

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        context, mask = encode(self.encoder, tokens["input_ids"], tokens["attention_mask"])
        with _attention_kernel(self.unet, z_t):
            return self.unet(z_t, t, encoder_hidden_states=context, encoder_attention_mask=mask).sample


class UnconditionalDenoiser(nn.Module):
    """ε_θ(z_t, t) of Eq. 4."""

    def __init__(self, unet: UNet2DModel):
        super().__init__()
        self.unet = unet

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, tokens: None = None) -> torch.Tensor:
        with _attention_kernel(self.unet, z_t):
            return self.unet(z_t, t).sample


class LatentSet:
    """Cached latents and sentences of the training frames, as `training.fit` draws from them.

    mean, std: float16 [N, C, h, w], memory maps of which a batch at a time is read; `scale` is the autoencoder's 1/std; `sentences` has one entry a
    latent, or is None for the unconditional model; `rows` [n] are those of the N latents (and sentences) that belong to the set, by default all.
    """

    def __init__(
        self,
        mean: np.ndarray,
        std: np.ndarray,
        scale: float,
        sentences: Sequence[str] | None = None,
        tokenizer=None,
        rows: np.ndarray | None = None,
    ):
        self.mean, self.std, self.scale = mean, std, scale
        self.rows = np.arange(len(mean)) if rows is None else np.asarray(rows)
        if sentences is None:
            self.tokens = None
        else:
            # The distinct sentences are few: each is tokenized once and looked up by number; the last one is empty.
            sentences = [sentences[row] for row in self.rows]
            distinct = [*sorted(set(sentences)), EMPTY]
            self.tokens = tokenize(tokenizer, distinct)
            number = {sentence: index for index, sentence in enumerate(distinct)}
            self.number = np.array([number[sentence] for sentence in sentences])
            self.number_of_empty = number[EMPTY]

    def __len__(self) -> int:
        return len(self.rows)

    def latents(self, indices: np.ndarray, noise: torch.Tensor) -> torch.Tensor:
        """z_0 = scale · (mean + std · noise), float32 [n, C, h, w] on the device of `noise`."""
        mean = torch.from_numpy(self.mean[self.rows[indices]].astype(np.float32)).to(noise.device)
        std = torch.from_numpy(self.std[self.rows[indices]].astype(np.float32)).to(noise.device)
        return self.scale * (mean + std * noise)

    def context(
        self, indices: np.ndarray, device: torch.device, dropped: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor] | None:
        """Tokens of the sentences, [n, tokens]; the empty sentence where `dropped`, bool [n], is set. None without sentences."""
        if self.tokens is None:
            return None
        chosen = torch.from_numpy(self.number[indices])
        if dropped is not None:
            chosen[dropped.cpu()] = self.number_of_empty
        return {name: values[chosen].to(device) for name, values in self.tokens.items()}


def min_snr_weights(t: torch.Tensor, schedule: DDPMScheduler, gamma: float) -> torch.Tensor:
    """Weight of each timestep's loss, [n]: min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR + 1) for v, with SNR = ᾱ/(1−ᾱ) (Hang et al. 2023, §3.4).

    Both are the weight min(SNR, γ) on the squared error of z_0. Without it ε-prediction weighs z_0 by SNR, v-prediction by SNR + 1, so that
    nearly clean latents, whose details are easy, outweigh the noisy ones in which vessels take shape.
    """
    alpha_bar = schedule.alphas_cumprod.to(t.device)[t]
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / (snr if schedule.config.prediction_type == "epsilon" else snr + 1)


def denoising_loss(
    model: nn.Module,
    z_0: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    told: Mapping | None,
    schedule: DDPMScheduler,
    min_snr_gamma: float = 0.0,
) -> torch.Tensor:
    """Eq. 4 (L_cond where the model is `told` something): mean squared error of the predicted noise, or of v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho 2022).

    z_0, noise: [n, C, h, w]; t: [n], 0 to T−1 for the paper's 1 to T. `min_snr_gamma` above 0 weighs the timesteps, see `min_snr_weights`.
    """
    z_t = schedule.add_noise(z_0, noise, t)  # Eq. 3
    return squared_error(model(z_t, t, told), z_0, noise, t, schedule, min_snr_gamma)


def squared_error(
    prediction: torch.Tensor,
    z_0: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    schedule: DDPMScheduler,
    min_snr_gamma: float = 0.0,
) -> torch.Tensor:
    """`denoising_loss` of a `prediction` [n, C, h, w] that is there already."""
    target = noise if schedule.config.prediction_type == "epsilon" else schedule.get_velocity(z_0, noise, t)
    squared = (prediction.float() - target).square()
    if min_snr_gamma:
        squared = squared * min_snr_weights(t, schedule, min_snr_gamma).view(-1, 1, 1, 1)
    return squared.mean()


def training_loss(
    data: LatentSet,
    schedule: DDPMScheduler,
    *,
    min_snr_gamma: float = 0.0,
    condition_dropout: float = 0.0,
    further: Callable[[np.ndarray, torch.device], Mapping[str, torch.Tensor]] | None = None,
):
    """The loss closure that `training.fit` wants.

    `condition_dropout` is the share of samples that see the empty sentence instead of their own (Ho & Salimans 2022), for guidance later.
    `further(indices, device)` is what else the model is told: it then gets a mapping of that and its "tokens" in the place of the tokens.
    """
    shape = data.mean.shape[1:]

    def loss(model: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        z_0 = data.latents(indices, draws.normal(*shape))
        t = draws.integers(schedule.config.num_train_timesteps, 1)[:, 0]
        noise = draws.normal(*shape)
        dropped = draws.uniform(1)[:, 0] < condition_dropout if condition_dropout else None
        told = data.context(indices, draws.device, dropped)
        if further is not None:
            told = {"tokens": told, **further(indices, draws.device)}
        return {"loss": denoising_loss(model, z_0, noise, t, told, schedule, min_snr_gamma)}

    return loss


def validation_loss(
    data: LatentSet,
    schedule: DDPMScheduler,
    seed: int,
    images: int = HELD_OUT,
    *,
    min_snr_gamma: float = 0.0,
):
    """`validate` for `training.fit`: the same loss on held-out latents with noise and timesteps that never change, and every sentence told."""
    return held_out(
        training_loss(data, schedule, min_snr_gamma=min_snr_gamma), evenly(np.arange(len(data)), images), seed
    )


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
    start: Path | None = None,
    **options,
) -> pd.DataFrame:
    """Train a denoiser on `data["train"]`, choose its weights on `data["val"]`, return the log. Sizes and rates are the profile's.

    `start`, where the model already holds trained weights, makes it a short stretch (`shipped.stretch`). `options` are passed on to `training.fit`.
    """
    config = profile.diffusion
    whole = budget(len(data["train"]), config.batch_size, steps, epochs, config.accumulate) | {
        "learning_rate": config.learning_rate,
        "cosine": not epochs,
        "warmup_steps": config.warmup_steps,
        "patience": patience,
    }
    return fit(
        model,
        training_loss(
            data["train"],
            schedule,
            min_snr_gamma=config.min_snr_gamma,
            condition_dropout=config.condition_dropout,
        ),
        size=len(data["train"]),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        **shipped.stretch(start, config, whole),
        validate=validation_loss(data["val"], schedule, profile.seed, min_snr_gamma=config.min_snr_gamma),
        ema_decay=config.ema_decay,
        clip_norm=config.clip_norm,
        weights=weights,
        folder=folder,
        digest=digest,
        what=what,
        **run_options(profile),
        **options,
    )


def fixed_samples(
    vae: AutoencoderKL,
    schedule: DDPMScheduler,
    name: str,
    steps: int,
    conditions: Sequence[Condition] | int,
    tokenizer: PreTrainedTokenizerFast | None = None,
    guidance: float = 1.0,
):
    """What a training shows at intervals: `sample(model)`, uint8 frames [n, H, W], one a condition, of the same noise every time.

    `conditions` is their number for the unconditional model. `name` and `steps` as in `sampler`, `guidance` as
    the pipeline takes it (1: none).
    """
    count, asked = (conditions, None) if isinstance(conditions, int) else (len(conditions), conditions)

    def sample(model: nn.Module) -> np.ndarray:
        vae.to(next(model.parameters()).device)
        pipeline = DSAPipeline(
            vae, model.unet, make_scheduler(name, schedule), getattr(model, "encoder", None), tokenizer
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(asked, seeds=range(count), num_inference_steps=steps, guidance_scale=guidance)

    return sample


def balancing_weights(cells: Sequence[str], balance: float) -> np.ndarray | None:
    """Drawing weights n_cell^(−balance): None (frames as they occur) at 0, every cell of Table 1 equally often at 1."""
    if balance == 0:
        return None
    cells = np.asarray(cells)
    names, counts = np.unique(cells, return_counts=True)
    weight = dict(zip(names, counts.astype(float) ** -balance, strict=True))
    return np.array([weight[cell] for cell in cells])
