"""The KL autoencoder of the latent space (§4.3, Eq. 2; §4.5, L_VAE): build, loss, training, evaluation, latents."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from skimage.metrics import structural_similarity
from torch import nn

from dsa_lib.profiles import Autoencoder
from dsa_lib.training import Draws

# Contrast, in grey levels below the background, from which a pixel counts as vessel when errors are reported apart from the background.
VESSEL_GREY_LEVELS = 12
CROPS_AT_VESSELS = 0.8  # share of training crops (`crops`) that are centred on a vessel pixel


def build_autoencoder(config: Autoencoder) -> AutoencoderKL:
    """1 × H × W in [−1, 1] ↔ latent_channels × H/f × W/f with f = 2^(levels − 1); no attention anywhere (§4.5)."""
    levels = len(config.block_channels)
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=config.latent_channels,
        block_out_channels=config.block_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_groups,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        mid_block_add_attention=False,
        sample_size=config.image_size,
        scaling_factor=1.0,  # set from the training latents once trained: the library's default belongs to another model
    )


def to_model(frames: np.ndarray) -> torch.Tensor:
    """uint8 frames [n, H, W] → float32 [n, 1, H, W] in [−1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).float().div_(127.5).sub_(1.0)[:, None]


def to_frames(images: torch.Tensor) -> np.ndarray:
    """Float [n, 1, H, W] in [−1, 1] → uint8 frames [n, H, W], rounded and clipped."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).squeeze(1).cpu().numpy()


class FeatureDistance(nn.Module):
    """Perceptual distance on the stages of a frozen network: LPIPS's form (Zhang et al. 2018, Eq. 1) with unit weights.

    `stages(x)` maps images [n, 1, H, W] in [−1, 1] to feature maps. Features are normalised over channels at every place, squared differences are
    summed over channels, averaged over places and stages. With the run's own phase network it is *not* LPIPS and is never called so.
    """

    def __init__(self, stages: Callable[[torch.Tensor], list[torch.Tensor]]):
        super().__init__()
        self.stages = stages

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Distance of each pair, [n]."""
        with torch.no_grad():
            target = self.stages(x)
        total = torch.zeros(len(x), device=x.device)
        for a, b in zip(target, self.stages(y), strict=True):
            total = total + (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
        return total / len(target)


class Lpips(nn.Module):
    """LPIPS with a VGG-16 backbone, on one-channel images repeated to three. `backbone_weights` is torchvision's vgg16 state dict."""

    def __init__(self, backbone_weights: dict[str, torch.Tensor] | None):
        super().__init__()
        import lpips

        # `pnet_rand` keeps the package from downloading a backbone by itself; the checked file is loaded into it afterwards.
        self.network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        if backbone_weights is not None:
            backbone = {f"slice{_vgg_slice(int(key.split('.')[1]))}.{key.split('.', 1)[1]}": value
                        for key, value in backbone_weights.items() if key.startswith("features.")}  # fmt: skip
            self.network.net.load_state_dict(backbone)
        self.requires_grad_(False).eval()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.network(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)).flatten()


def _vgg_slice(layer: int) -> int:
    """Which of the five slices of the LPIPS backbone a layer of torchvision's `vgg16().features` lies in."""
    return 1 + sum(layer >= first for first in (4, 9, 16, 23))


def vae_loss(model: nn.Module, x: torch.Tensor, noise: torch.Tensor, config: Autoencoder, perceptual: nn.Module | None):
    """L_VAE of §4.5 on a batch x [n, 1, H, W]: perceptual distance (+ L1, Eq. 2) + λ_KL · KL(q(z|x) ‖ N(0, I)).

    `noise` [n, C, h, w] draws the latent. KL is summed over the latents of an image ("sum") or averaged ("mean"), then averaged over images.
    """
    posterior = model.encode(x).latent_dist
    mean, std = posterior.mean, posterior.std
    y = model.decode(mean + std * noise).sample
    kl = 0.5 * (mean.square() + posterior.var - 1.0 - posterior.logvar).float()
    kl = (kl.sum((1, 2, 3)) if config.kl_reduction == "sum" else kl.mean((1, 2, 3))).mean()
    parts = {"kl": kl, "l1": (x - y).abs().mean().float()}
    loss = config.l1_weight * parts["l1"] + config.kl_weight * kl
    if perceptual is not None and config.perceptual_weight:
        parts["perceptual"] = perceptual(x, y).mean().float()
        loss = loss + config.perceptual_weight * parts["perceptual"]
    return {"loss": loss, **parts}


def training_loss(frames: np.ndarray, rows: np.ndarray, config: Autoencoder, perceptual: nn.Module | None):
    """The loss closure that `training.fit` wants; `rows` are the training rows of `frames`."""
    shape = latent_shape(config, config.crop)

    def loss(model: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        chosen = np.stack([frames[row] for row in rows[indices]])
        if config.crop:
            chosen = crops(chosen, config.crop, draws.uniform(4).cpu().numpy())
        return vae_loss(model, to_model(chosen).to(draws.device), draws.normal(*shape), config, perceptual)

    return loss


def crops(frames: np.ndarray, side: int, u: np.ndarray) -> np.ndarray:
    """One square crop of `side` pixels out of each uint8 frame [n, H, W]; `u` [n, 4] are uniform draws in [0, 1).

    Most of a frame is empty field: CROPS_AT_VESSELS of the crops are centred on a pixel darker than the frame's median by VESSEL_GREY_LEVELS (where there
    is one), the others anywhere. The networks are convolutional, so that what they learn on crops they do on whole frames.
    """
    n, height, width = frames.shape
    out = np.empty((n, side, side), frames.dtype)
    for k, frame in enumerate(frames):
        row, column = int(u[k, 1] * height), int(u[k, 2] * width)
        if u[k, 3] < CROPS_AT_VESSELS:
            at = np.flatnonzero(frame < np.median(frame) - VESSEL_GREY_LEVELS)
            if len(at):
                row, column = divmod(int(at[int(u[k, 0] * len(at))]), width)
        top, left = (min(max(c - side // 2, 0), extent - side) for c, extent in ((row, height), (column, width)))
        out[k] = frame[top : top + side, left : left + side]
    return out


def validation_loss(
    frames: np.ndarray, rows: np.ndarray, config: Autoencoder, perceptual, seed: int, images: int = 128
):
    """`validate` for `training.fit`: the same loss on held-out frames, with latent noise that never changes."""
    chosen = np.sort(rows[np.linspace(0, len(rows) - 1, min(images, len(rows))).astype(int)])

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        totals: dict[str, float] = {}
        for first in range(0, len(chosen), config.batch_size):
            x = to_model(frames[chosen[first : first + config.batch_size]]).to(device)
            noise = Draws(seed, 0, range(first, first + len(x)), device).normal(*latent_shape(config))
            for name, value in vae_loss(model, x, noise, config, perceptual).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(x) / len(chosen)
        return totals

    return validate


def latent_shape(config: Autoencoder, side: int = 0) -> tuple[int, int, int]:
    """Channels, height and width of the latent of a square of `side` pixels (0: a whole frame)."""
    side = (side or config.image_size) // 2 ** (len(config.block_channels) - 1)
    return config.latent_channels, side, side


@torch.no_grad()
def reconstruct(model: AutoencoderKL, frames: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """D(E(x)) from the posterior mean, uint8 [n, H, W]."""
    device = next(model.parameters()).device
    parts = []
    for first in range(0, len(frames), batch_size):
        x = to_model(frames[first : first + batch_size]).to(device)
        parts.append(to_frames(model.decode(model.encode(x).latent_dist.mean).sample))
    return np.concatenate(parts)


def reconstruction_quality(frames: np.ndarray, decoded: np.ndarray, background_grey: int) -> dict[str, float]:
    """PSNR [dB] over all pixels and over vessel pixels, SSIM, and the share of vessel contrast kept, on uint8 [n, H, W].

    Most of a DSA frame is background, so that PSNR over all pixels says little about vessels: both are given. Vessel pixels are those darker than
    the background by VESSEL_GREY_LEVELS or more in the original. Contrast kept = Σ decoded depth / Σ original depth over those pixels.
    """
    x, y = frames.astype(np.float64), decoded.astype(np.float64)
    vessel = x <= background_grey - VESSEL_GREY_LEVELS
    error = (x - y) ** 2

    def psnr(mean_square: float) -> float:
        return float(10 * np.log10(255**2 / mean_square)) if mean_square > 0 else float("inf")

    return {
        "psnr_db": psnr(error.mean()),
        "psnr_vessel_db": psnr(error[vessel].mean()) if vessel.any() else float("nan"),
        "ssim": float(
            np.mean([structural_similarity(a, b, data_range=255) for a, b in zip(frames, decoded, strict=True)])
        ),
        "vessel_contrast_kept": float((background_grey - y[vessel]).sum() / (background_grey - x[vessel]).sum())
        if vessel.any()
        else float("nan"),
    }


@torch.no_grad()
def encode_latents(
    model: AutoencoderKL, frames: np.ndarray, rows: np.ndarray, mean: np.ndarray, std: np.ndarray, progress=iter
) -> None:
    """Fill `mean` and `std` [n, C, h, w] (float16 memmaps) with the posteriors of `frames[rows]`.

    Both are kept, and a latent is drawn anew at every use: one frozen sample an image would set a floor under the diffusion loss.
    """
    device = next(model.parameters()).device
    for first in progress(range(0, len(rows), 32)):
        posterior = model.encode(to_model(frames[rows[first : first + 32]]).to(device)).latent_dist
        mean[first : first + 32] = posterior.mean.float().cpu().numpy()
        std[first : first + 32] = posterior.std.float().cpu().numpy()


def latent_scale(mean: np.ndarray, std: np.ndarray, rows: np.ndarray) -> float:
    """1 / standard deviation of the latents of the training rows (Rombach et al. 2022, App. G): the diffusion sees unit variance.

    The variance of a drawn latent is that of the means plus the mean posterior variance.
    """
    means, deviations = mean[rows].astype(np.float64), std[rows].astype(np.float64)
    return float(1.0 / np.sqrt(means.var() + np.square(deviations).mean()))
