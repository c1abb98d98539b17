"""The GAN baselines of anatomy-compliant synthesis: SPADE and SPADE with a VAE (Park et al., CVPR 2019), in MONAI's networks.

A generator whose every normalisation is scaled and shifted by the condition map, against discriminators at two scales. Without the VAE nothing random enters:
the image is a function of the map. With it, an encoder of the image gives z in training, and z ~ N(0, I) is drawn in generation.

Condition maps are taken as given (float32 [n, C, H, W], `map_diffusion.condition_maps`), the same that the diffusion model is told.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from monai.networks.nets import MultiScalePatchDiscriminator, SPADENet
from monai.networks.nets.spade_network import SPADENetResBlock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dsa_lib.core.pairs import AnatomySet
from dsa_lib.core.splits import evenly
from dsa_lib.ldm.autoencoder import to_frames, to_model
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Spade
from dsa_lib.run.workspace import atomic_write

WEIGHTS, FACTS = "spade.safetensors", "spade.json"
VALIDATED = 64  # validation images that choose the weights


class Generator(nn.Module):
    """G(map) or G(map, z): maps [n, C, s, s] → images [n, 1, s, s] in [−1, 1]; `latent` numbers of z, 0 without a VAE.

    MONAI's `SPADENet`, whose last block lies at half resolution. With `full_resolution` its last feature maps go through one SPADE block more, at the
    resolution of the image, as in Park et al. (App. A).
    """

    def __init__(self, settings: Spade, channels: int, size: int, vae: bool):
        super().__init__()
        self.latent = settings.latent if vae else 0
        width = settings.channels[0] if settings.full_resolution else 1
        self.net = SPADENet(
            spatial_dims=2,
            in_channels=1,
            out_channels=width,
            label_nc=channels,
            input_shape=(size, size),
            channels=list(settings.channels),  # a list of its own: MONAI turns it around in place
            z_dim=settings.latent if vae else None,
            is_vae=vae,
            spade_intermediate_channels=settings.hidden,
            last_act="LEAKYRELU" if settings.full_resolution else None,
        )
        self.last = SPADENetResBlock(2, width, width, channels, settings.hidden) if settings.full_resolution else None
        self.to_image = nn.Conv2d(width, 1, 3, padding=1) if settings.full_resolution else None

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance [n, latent] of q(z | image) for images [n, 1, s, s]; for a generator with a VAE."""
        return self.net.encoder(images)

    def forward(self, maps: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        x = self.net.decoder(maps, z)
        if self.last is not None:
            x = self.to_image(F.leaky_relu(self.last(x, maps), 0.2))
        return torch.tanh(x)


class SpadeModel(nn.Module):
    """Generator and discriminators as one module: one optimiser, one checkpoint, one backward pass (see `discriminator.WithDiscriminator`)."""

    def __init__(self, settings: Spade, channels: int, size: int, vae: bool):
        super().__init__()
        self.generator = Generator(settings, channels, size, vae)
        # Normalised within each image, so that an image is judged alike whatever else is in the batch.
        self.discriminator = MultiScalePatchDiscriminator(
            num_d=settings.discriminators,
            num_layers_d=settings.discriminator_layers,
            spatial_dims=2,
            channels=settings.discriminator_channels,
            in_channels=channels + 1,
            norm="INSTANCE",
            minimum_size_im=size,
        )


def build(settings: Spade, channels: int, size: int, vae: bool) -> SpadeModel:
    """The untrained networks for maps of `channels` channels and images of `size`². Raises StudyError where the image cannot be halved so often."""
    if size % 2 ** len(settings.channels):
        raise StudyError(
            f"images of {size}² cannot be halved {len(settings.channels)} times: shorten spade.channels, or crop the images"
        )
    # The coarsest discriminator halves the image in every layer but the last, which takes one pixel off.
    if size >> (settings.discriminators * settings.discriminator_layers) < 3:
        raise StudyError(
            f"images of {size}² are too small for {settings.discriminators} discriminators of {settings.discriminator_layers} layers: lower "
            "spade.discriminators or spade.discriminator_layers"
        )
    return SpadeModel(settings, channels, size, vae)


# ---- losses ----------------------------------------------------------------------------------------------------------


def hinge(real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """The discriminators' loss: E max(0, 1 − D(x)) + E max(0, 1 + D(y)), mean over scales, for logits of true and generated images."""
    parts = [F.relu(1 - a.float()).mean() + F.relu(1 + b.float()).mean() for a, b in zip(real, fake, strict=True)]
    return sum(parts) / len(parts)


def adversarial(fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """The generator's loss: −E D(y), mean over scales."""
    return -sum(logits.float().mean() for logits in fake) / len(fake)


def feature_matching(real: Sequence[Sequence[torch.Tensor]], fake: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Mean absolute difference of the discriminators' inner feature maps, summed over the layers of a scale, mean over scales (Wang et al., CVPR 2018)."""
    parts = [
        sum((a.float() - b.float()).abs().mean() for a, b in zip(layers, others, strict=True))
        for layers, others in zip(real, fake, strict=True)
    ]
    return sum(parts) / len(parts)


def kl(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(q(z | x) ‖ N(0, I)) = −½ Σ (1 + log σ² − μ² − σ²), summed over z [n, latent], mean over images."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).float().sum(dim=1).mean()


def losses(
    model: SpadeModel,
    maps: torch.Tensor,
    images: torch.Tensor,
    noise: torch.Tensor | None,
    settings: Spade,
    perceptual: nn.Module | None,
) -> dict[str, torch.Tensor]:
    """All terms for maps [n, C, s, s] and true images [n, 1, s, s]; "loss" is their sum, in which each network has the gradient of its own loss alone.

    L_G = L_adv + λ_F L_FM + λ_P L_perceptual (+ λ_KL KL); L_D = hinge. noise: N(0, I) [n, latent] with a VAE, else None. `perceptual`: a distance of image
    pairs, such as `autoencoder.FeatureDistance`; None leaves the term out. The generator sees discriminators whose weights are cut off, the
    discriminators see images that are cut off from the generator.
    """
    generator, z, divergence = model.generator, None, None
    if generator.latent:
        mean, log_variance = generator.encode(images)
        z = mean + torch.exp(0.5 * log_variance) * noise
        divergence = kl(mean, log_variance)
    made = generator(maps, z)
    true_pair, made_pair = torch.cat([maps, images], 1), torch.cat([maps, made], 1)
    frozen = {name: value.detach() for name, value in model.discriminator.named_parameters()}
    real, real_features = model.discriminator(true_pair)
    judged, made_features = torch.func.functional_call(model.discriminator, frozen, (made_pair,))
    fake, _ = model.discriminator(made_pair.detach())
    parts = {
        "adversarial": adversarial(judged),
        "features": feature_matching([[each.detach() for each in layers] for layers in real_features], made_features),
        "discriminator": hinge(real, fake),
        "l1": (images - made).abs().float().mean().detach(),  # for the log alone
    }
    total = parts["adversarial"] + settings.feature_weight * parts["features"] + parts["discriminator"]
    if perceptual is not None and settings.perceptual_weight:
        parts["perceptual"] = perceptual.to(images.device)(images, made).mean().float()
        total = total + settings.perceptual_weight * parts["perceptual"]
    if divergence is not None:
        parts["kl"] = divergence
        total = total + settings.kl_weight * divergence
    return {"loss": total} | parts


# ---- training and use ------------------------------------------------------------------------------------------------


def train(
    data: AnatomySet,
    maps,
    settings: Spade,
    *,
    vae: bool,
    perceptual: nn.Module | None,
    seed: int,
    folder: Path,
    digest: str,
    start: Path | None = None,
    rate: float = 1.0,
    **options,
) -> tuple[SpadeModel, pd.DataFrame]:
    """Train on the part "train" of `data` with its condition maps (anything that gives float32 [k, C, H, W] for maps[rows]); returns (model, log).

    The part "val", where there is one, chooses the weights: by `perceptual` distance of generated from true images, by mean absolute error without one.
    `options` go to `training.fit` (steps, batch_size, …); the learning rates are those of `settings` times `rate`, for a stretch that goes on from the
    trained weights in the folder `start`. The same call continues a training that was broken off.
    """
    rows, held_out = data.rows("train"), data.rows("val")
    held_out = evenly(held_out, VALIDATED)
    size, channels = data.frames.shape[-1], maps.shape[1]
    torch.manual_seed(seed)
    model = build(settings, channels, size, vae)
    if start is not None:
        model.load_state_dict(load(start).state_dict())

    def loss(network: SpadeModel, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        chosen = rows[indices]
        images = to_model(data.frames[chosen]).to(draws.device)
        noise = draws.normal(settings.latent) if vae else None
        return losses(network, torch.from_numpy(maps[chosen]).to(draws.device), images, noise, settings, perceptual)

    def validate(network: SpadeModel) -> dict[str, float]:
        made = generate(network, maps, held_out, rows=held_out)
        found = {"l1": float(np.abs(made.astype(float) - data.frames[held_out]).mean() / 127.5)}
        if perceptual is not None:
            device = next(network.parameters()).device
            distance = [
                perceptual.to(device)(
                    *(to_model(each[n : n + 16]).to(device) for each in (data.frames[held_out], made))
                )
                for n in range(0, len(held_out), 16)
            ]
            found["perceptual"] = float(torch.cat(distance).mean())
        return {"loss": found.get("perceptual", found["l1"])} | found

    log = fit(
        model,
        loss,
        size=len(rows),
        learning_rate=rate * settings.learning_rate,
        rates={"discriminator": rate * settings.discriminator_rate},
        betas=tuple(settings.betas),
        validate=validate if len(held_out) else None,
        seed=seed,
        folder=folder,
        digest=digest,
        **{"ema_decay": settings.ema_decay, "what": "SPADE w/ VAE" if vae else "SPADE"} | options,
    )
    return model, log


@torch.no_grad()
def generate(
    model: SpadeModel, maps, seeds: Sequence[int], rows: np.ndarray | None = None, batch_size: int = 32
) -> np.ndarray:
    """Images uint8 [n, H, W] of condition maps [n, C, H, W], or of their `rows` alone; z of image i comes from seeds[i], and from nothing without a VAE."""
    rows = np.arange(len(maps)) if rows is None else np.asarray(rows)
    if len(seeds) != len(rows):
        raise StudyError(f"{len(seeds)} seeds for {len(rows)} condition maps: give one of each an image")
    generator = model.generator
    device, found = next(generator.parameters()).device, []
    for first in range(0, len(rows), batch_size):
        here, z = rows[first : first + batch_size], None
        if generator.latent:
            streams = [torch.Generator().manual_seed(int(seed)) for seed in seeds[first : first + batch_size]]
            z = torch.stack([torch.randn(generator.latent, generator=stream) for stream in streams]).to(device)
        found.append(to_frames(generator(torch.from_numpy(maps[here]).to(device), z)))
    return np.concatenate(found) if found else np.zeros((0, *maps.shape[2:]), np.uint8)


# ---- files -----------------------------------------------------------------------------------------------------------


def save(model: SpadeModel, folder: Path, settings: Spade, channels: int, size: int, half: bool = False) -> None:
    """Weights (safetensors, of half precision where `half`) and what `load` needs to build the networks, in one step."""
    facts = {"settings": asdict(settings), "channels": channels, "size": size, "vae": bool(model.generator.latent)}
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        save_file({name: v.half() if half else v for name, v in weights.items()}, temporary / WEIGHTS)
        (temporary / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def load(folder: Path) -> SpadeModel:
    """The model in eval mode, in single precision, from a folder that `save` wrote. Raises StudyError if it holds none."""
    try:
        facts = json.loads((Path(folder) / FACTS).read_text())
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["settings"].items()}
        model = build(Spade(**settings), facts["channels"], facts["size"], facts["vae"])
        model.load_state_dict({name: v.float() for name, v in load_file(Path(folder) / WEIGHTS).items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise StudyError(
            f"the folder {Path(folder).name!r} holds no SPADE model ({type(error).__name__}): give the one that notebook 21 wrote"
        ) from None
    return model.eval()
