"""The KL autoencoder of the latent space (§4.3, Eq. 2; §4.5, L_VAE): build, loss, training. `latents` keeps what it encodes, `reconstruction` measures it."""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from dsa_lib.core.splits import evenly
from dsa_lib.nn import public_weights, resnet, shipped
from dsa_lib.nn.discriminator import WithDiscriminator
from dsa_lib.nn.memory_format import channels_last
from dsa_lib.nn.processes import default_device
from dsa_lib.nn.training import Draws, budget, fit, held_out, run_options
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Autoencoder, Profile
from dsa_lib.run.session import Study

CROP_GREY_LEVELS = 12  # darker than the field by so much: a pixel that a training crop may be centred on
CROPS_AT_VESSELS = 0.8  # share of the training crops (`crops`) that are centred on such a pixel


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


def summary(model: AutoencoderKL, config: Autoencoder) -> pd.Series:
    """The network in words: shapes of image and latent, channels, number of parameters, and the perceptual loss it is trained with."""
    size = config.image_size
    return pd.Series(
        {
            "image": f"1 × {size} × {size}",
            "latent": " × ".join(map(str, latent_shape(config))),
            "channels": ", ".join(map(str, config.block_channels)),
            "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
            "perceptual loss": config.perceptual,
        }
    )


def to_floats(images: np.ndarray) -> torch.Tensor:
    """uint8 images of any shape → float32 in [−1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1.0)


def to_model(frames: np.ndarray) -> torch.Tensor:
    """uint8 frames [n, H, W] → float32 [n, 1, H, W] in [−1, 1]."""
    return to_floats(frames)[:, None]


def to_frames(images: torch.Tensor) -> np.ndarray:
    """Float [n, 1, H, W] in [−1, 1] → uint8 frames [n, H, W], rounded and clipped."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).squeeze(1).cpu().numpy()


class FeatureDistance(nn.Module):
    """Perceptual distance on the stages of a frozen network: LPIPS's form (Zhang et al. 2018, Eq. 1) with unit weights.

    `stages(x)` maps images [n, 1, H, W] in [−1, 1] to feature maps. Features are normalised over channels at every place, squared differences are
    summed over channels, averaged over places and stages. With the run's own phase network it is *not* LPIPS and is never called so.
    """

    def __init__(self, stages: Callable[[torch.Tensor], list[torch.Tensor]], network: nn.Module | None = None):
        super().__init__()
        self.stages = stages
        self.network = network  # of the stages, so that it moves to the device with this module

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


def open_perceptual(study: Study) -> nn.Module:
    """The perceptual distance that `autoencoder.perceptual` names: on the run's classifier ("phase-network"), "lpips", or LPIPS at "random" weights."""
    kind = study.profile.autoencoder.perceptual
    if kind != "phase-network":
        return Lpips(public_weights.load("vgg16") if kind == "lpips" else None)
    network, _ = resnet.load_classifier(study.read("classifier"))
    network.eval().requires_grad_(False)
    return FeatureDistance(lambda x: resnet.stage_features(network, (x + 1) / 2), network)


def _vgg_slice(layer: int) -> int:
    """Which of the five slices of the LPIPS backbone a layer of torchvision's `vgg16().features` lies in."""
    return 1 + sum(layer >= first for first in (4, 9, 16, 23))


def vae_loss(model: nn.Module, x: torch.Tensor, noise: torch.Tensor, config: Autoencoder, perceptual: nn.Module | None):
    """L_VAE of §4.5 on a batch x [n, 1, H, W]: perceptual distance (+ L1, Eq. 2) + λ_KL · KL(q(z|x) ‖ N(0, I)).

    `noise` [n, C, h, w] draws the latent. KL is summed over the latents of an image ("sum") or averaged ("mean"), then averaged over images.
    """
    return _vae_loss(model, x, noise, config, perceptual)[0]


def _vae_loss(
    model: nn.Module, x: torch.Tensor, noise: torch.Tensor, config: Autoencoder, perceptual: nn.Module | None
):
    """(`vae_loss`, decoded images)."""
    posterior = model.encode(x).latent_dist
    mean, std = posterior.mean, posterior.std
    y = model.decode(mean + std * noise).sample
    kl = 0.5 * (mean.square() + posterior.var - 1.0 - posterior.logvar).float()
    kl = (kl.sum((1, 2, 3)) if config.kl_reduction == "sum" else kl.mean((1, 2, 3))).mean()
    parts = {"kl": kl, "l1": (x - y).abs().mean().float()}
    loss = config.l1_weight * parts["l1"] + config.kl_weight * kl
    if perceptual is not None and config.perceptual_weight:
        parts["perceptual"] = perceptual.to(x.device)(x, y).mean().float()
        loss = loss + config.perceptual_weight * parts["perceptual"]
    return {"loss": loss, **parts}, y


def training_loss(frames: np.ndarray, rows: np.ndarray, config: Autoencoder, perceptual: nn.Module | None):
    """The loss closure that `training.fit` wants; `rows` are the training rows of `frames`.

    The model is the autoencoder, or `WithDiscriminator` around it: then the adversarial terms come to the loss.
    """
    shape = latent_shape(config, config.crop)

    def loss(model: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        chosen = frames[np.sort(rows[indices])]
        if config.crop:
            chosen = crops(chosen, config.crop, draws.uniform(4).cpu().numpy())
        x = to_model(chosen).to(draws.device)
        noise = draws.normal(*shape)
        if not isinstance(model, WithDiscriminator):
            return vae_loss(model, x, noise, config, perceptual)
        parts, y = _vae_loss(model.autoencoder, x, noise, config, perceptual)
        weight = config.discriminator_weight if draws.step >= config.discriminator_start else 0.0
        adversarial = model.losses(x, y)
        total = parts["loss"] + weight * adversarial["generator"] + adversarial["discriminator"]
        return parts | adversarial | {"loss": total}

    return loss


def crops(frames: np.ndarray, side: int, u: np.ndarray) -> np.ndarray:
    """One square crop of `side` pixels out of each uint8 frame [n, H, W]; `u` [n, 4] are uniform draws in [0, 1).

    Most of a frame is empty field: CROPS_AT_VESSELS of the crops are centred on a pixel darker than the frame's median by CROP_GREY_LEVELS (where there
    is one), the others anywhere. The networks are convolutional, so that what they learn on crops they do on whole frames.
    """
    n, height, width = frames.shape
    out = np.empty((n, side, side), frames.dtype)
    for k, frame in enumerate(frames):
        row, column = int(u[k, 1] * height), int(u[k, 2] * width)
        if u[k, 3] < CROPS_AT_VESSELS:
            at = np.flatnonzero(frame < np.median(frame) - CROP_GREY_LEVELS)
            if len(at):
                row, column = divmod(int(at[int(u[k, 0] * len(at))]), width)
        top, left = (min(max(c - side // 2, 0), extent - side) for c, extent in ((row, height), (column, width)))
        out[k] = frame[top : top + side, left : left + side]
    return out


def validation_loss(
    frames: np.ndarray, rows: np.ndarray, config: Autoencoder, perceptual, seed: int, images: int = 128
):
    """`validate` for `training.fit`: L_VAE on held-out frames, with latent noise that never changes.

    Without adversarial terms, which say how a contest stands and not how good the images are.
    """

    def loss(model: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        model = model.autoencoder if isinstance(model, WithDiscriminator) else model
        x = to_model(frames[indices]).to(draws.device)
        return vae_loss(model, x, draws.normal(*latent_shape(config)), config, perceptual)

    return held_out(loss, np.sort(evenly(rows, images)), seed, config.batch_size)


def samples(frames: np.ndarray, rows: np.ndarray, count: int = 6):
    """`sample` for `training.fit`: the same held-out frames at every evaluation, originals first, then decoded; uint8 [2·count, H, W]."""
    original = frames[np.sort(evenly(rows, count))]

    def sample(model: nn.Module) -> np.ndarray:
        model = model.autoencoder if isinstance(model, WithDiscriminator) else model
        return np.concatenate([original, reconstruct(model, original)])

    return sample


class Timed:
    """A loss closure that notes when it is called: what a step takes, for benchmarks."""

    def __init__(self, loss: Callable):
        self.loss, self.calls = loss, []

    def __call__(self, *arguments):
        self.calls.append(time.perf_counter())
        return self.loss(*arguments)

    def seconds(self) -> float:
        """Median time from one call to the next, in s: forward, backward and update of one batch, once the first few are done."""
        return float(np.median(np.diff(self.calls[len(self.calls) // 10 :]))) if len(self.calls) > 2 else float("nan")


def peak_memory_gb() -> float:
    """Most memory in use so far, in GB (10⁹ bytes): of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # kB on Linux


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
        with channels_last(model):
            parts.append(to_frames(model.decode(model.encode(x).latent_dist.mean).sample))
    return np.concatenate(parts)


def round_trip(study: Study) -> Callable[[np.ndarray], np.ndarray] | None:
    """`reconstruct` with the autoencoder of the run, frames → frames; None where the run has none."""
    if not study.has("vae"):
        return None
    model = AutoencoderKL.from_pretrained(study.read("vae")).eval()
    return partial(reconstruct, model.to(default_device()))


@torch.no_grad()
def perceptual_distance(
    perceptual: nn.Module, frames: np.ndarray, decoded: np.ndarray, device: torch.device | str, batch_size: int = 32
) -> float:
    """Mean distance of original and decoded frames, uint8 [n, H, W] each: LPIPS, or whatever `perceptual` is."""
    total = 0.0
    for first in range(0, len(frames), batch_size):
        pair = (to_model(images[first : first + batch_size]).to(device) for images in (frames, decoded))
        total += float(perceptual.to(device)(*pair).sum())
    return total / len(frames)


def fit_weights(
    model: nn.Module,
    images: np.ndarray,
    rows: Mapping[str, np.ndarray],
    config: Autoencoder,
    perceptual: nn.Module | None,
    profile: Profile,
    *,
    loss: Callable | None = None,
    start: Path | None = None,
    **options,
) -> pd.DataFrame:
    """Train `model`, the autoencoder or `WithDiscriminator` around it, on uint8 images [n, H, W]: `rows["train"]` of them; `rows["val"]` choose its weights.

    How long and how follows `config`; from weights in the folder `start`, which `model` already holds, it is a short stretch (`shipped.stretch`).
    loss: in the place of `training_loss`; `options` go to `training.fit`. Returns the log.
    """
    size = len(rows["train"])
    whole = budget(size, config.batch_size, config.steps, config.epochs, config.accumulate) | {
        "learning_rate": config.learning_rate,
        "cosine": bool(config.steps),
        "warmup_steps": config.warmup_steps,
        "patience": config.patience if config.epochs else 0,
    }
    return fit(
        model,
        loss or training_loss(images, rows["train"], config, perceptual),
        size=size,
        batch_size=config.batch_size,
        **shipped.stretch(start, config, whole),
        validate=validation_loss(images, rows["val"], config, perceptual, profile.seed),
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        clip_norm=config.clip_norm,
        **run_options(profile),
        **options,
    )


def settings_of(profile: Profile):
    """The profile's `autoencoder` section for images of another kind than the run's: no network of the run judges those, so that where no LPIPS is asked
    for the loss is L1 and KL."""
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
        perceptual = Lpips(public_weights.load("vgg16"))
    torch.manual_seed(profile.seed)
    model = build_autoencoder(config)
    log = fit_weights(
        model,
        images,
        {"train": train_rows, "val": val_rows},
        config,
        perceptual,
        profile,
        folder=folder,
        digest=digest,
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
    """Posterior mean and standard deviation, float32 [n, C, h, w], of one batch of uint8 images [n, H, W]; `latents.posteriors` takes any number."""
    device = next(model.parameters()).device
    with channels_last(model):
        posterior = model.encode(to_model(images).to(device)).latent_dist
    return posterior.mean.float().cpu().numpy(), posterior.std.float().cpu().numpy()


@torch.no_grad()
def decode(model: AutoencoderKL, z: torch.Tensor) -> np.ndarray:
    """Eq. 6: uint8 frames [n, H, W] of latents [n, C, h, w] at the scale of the diffusion."""
    with channels_last(model):
        return to_frames(model.decode((z / model.config.scaling_factor).to(model.dtype)).sample)


def latent_scale(mean: np.ndarray, std: np.ndarray, rows: np.ndarray) -> float:
    """1 / standard deviation of the latents of the training rows (Rombach et al. 2022, App. G): the diffusion sees unit variance.

    The variance of a drawn latent is that of the means plus the mean posterior variance.
    """
    means, deviations = mean[rows].astype(np.float64), std[rows].astype(np.float64)
    return float(1.0 / np.sqrt(means.var() + np.square(deviations).mean()))


def scale_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """The fixed subset of training `rows` over which the latent scale is taken: at most `count`, evenly spread."""
    return evenly(rows, count)
