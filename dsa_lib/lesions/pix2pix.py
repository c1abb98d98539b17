"""The GAN baseline of image-to-image translation: a U-Net generator against a conditional patch discriminator (Isola et al., CVPR 2017).

Its noise z is dropout, while sampling too. Here every image draws its masks from its own seed, so that a translation does not depend on its batch. Both
networks learn in one backward pass, as in `discriminator.WithDiscriminator`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.ldm.autoencoder import to_floats, to_frames, to_model
from dsa_lib.nn.discriminator import PatchDiscriminator
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Pix2Pix
from dsa_lib.run.workspace import atomic_write

WEIGHTS, FACTS = "pix2pix.safetensors", "pix2pix.json"
SLOPE = 0.2  # of the leaky rectifiers


class Generator(nn.Module):
    """G(x, z): source images [n, C, H, W] in [−1, 1] → target images [n, 1, H, W] in [−1, 1]; H and W are multiples of 2^levels, and twice that or more.

    Every level halves the image by a strided convolution and is joined to its mirror image in the decoder by a skip connection (§2.2.1).
    """

    def __init__(self, config: Pix2Pix, source_channels: int):
        super().__init__()
        self.rate, self.dropped = config.dropout, min(config.dropped_levels, len(config.channels) - 1)
        widths = (source_channels, *config.channels)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        # From the innermost level out: all but the innermost get the encoder's maps beside their own.
        wide = config.channels[::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width * (1 if level == 0 else 2), out, 4, 2, 1)
            for level, (width, out) in enumerate(zip(wide, (*wide[1:], 1), strict=True))
        )

    def noise_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Shapes [channels, h, w] of the uniform draws that the dropout of one image takes."""
        levels = len(self.down)
        return [
            (self.up[level].out_channels, height >> (levels - 1 - level), width >> (levels - 1 - level))
            for level in range(self.dropped)
        ]

    def forward(self, x: torch.Tensor, u: Sequence[torch.Tensor]) -> torch.Tensor:
        """`u`: uniform draws in [0, 1), one tensor [n, …] a dropped level as `noise_shapes` gives them."""
        kept = []
        for level, layer in enumerate(self.down):
            x = layer(x if level == 0 else F.leaky_relu(x, SLOPE))
            if 0 < level < len(self.down) - 1:  # neither the first nor the innermost is normalised
                x = F.instance_norm(x)
            kept.append(x)
        for level, layer in enumerate(self.up):
            x = layer(F.relu(x if level == 0 else torch.cat([x, kept[-1 - level]], 1)))
            if level == len(self.up) - 1:
                break
            x = F.instance_norm(x)
            if level < self.dropped and self.rate:
                x = x * (u[level] >= self.rate) / (1 - self.rate)
        return torch.tanh(x)


class Pix2PixModel(nn.Module):
    """Generator and discriminator as one module: one optimiser, one checkpoint, one backward pass."""

    def __init__(self, config: Pix2Pix, source_channels: int):
        super().__init__()
        self.generator = Generator(config, source_channels)
        self.discriminator = PatchDiscriminator(
            config.discriminator_width, config.discriminator_levels, source_channels + 1
        )


def build(config: Pix2Pix, source_channels: int, size: int) -> Pix2PixModel:
    """The untrained pair of networks for images of `size`². Raises StudyError where the generator would halve them too often."""
    smallest = size >> len(config.channels)
    if smallest < 2 or size % 2 ** len(config.channels):
        raise StudyError(
            f"pix2pix.channels has {len(config.channels)} levels, and images of {size}² cannot be halved so often to 2² or more: shorten it"
        )
    return Pix2PixModel(config, source_channels)


def losses(model: Pix2PixModel, source: torch.Tensor, target: torch.Tensor, made: torch.Tensor, l1_weight: float):
    """The parts of Eq. 4 for sources [n, C, H, W], true and generated targets [n, 1, H, W].

    generator: −E log D(x, G(x, z)), which has a gradient where log(1 − D) has none (§3.3); l1: E|y − G(x, z)|; discriminator: −½ E log D(x, y)
    − ½ E log(1 − D(x, G(x, z))), halved so that it learns no faster than the generator. Each network has the gradient of its own loss alone.
    """
    frozen = {name: value.detach() for name, value in model.discriminator.named_parameters()}
    judged = torch.func.functional_call(model.discriminator, frozen, (torch.cat([source, made], 1),)).float()
    real = model.discriminator(torch.cat([source, target], 1)).float()
    fake = model.discriminator(torch.cat([source, made.detach()], 1)).float()
    generator = F.softplus(-judged).mean()  # −log sigmoid
    discriminator = 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
    l1 = (target - made).abs().float().mean()
    return {
        "loss": generator + l1_weight * l1 + discriminator,
        "generator": generator,
        "l1": l1,
        "discriminator": discriminator,
    }


def train(
    pairs: TranslationSet, config: Pix2Pix, *, seed: int, folder: Path, digest: str, **options
) -> tuple[Pix2PixModel, pd.DataFrame]:
    """Train on the part "train" of `pairs`; the part "val", where there is one, chooses the weights by its mean absolute error. Returns (model, log).

    `options` go to `training.fit`. The same call continues a training that was broken off.
    """
    rows, held_out = pairs.rows("train"), pairs.rows("val")
    torch.manual_seed(seed)
    model = build(config, pairs.sources.shape[1], pairs.targets.shape[-1])
    shapes = model.generator.noise_shapes(*pairs.targets.shape[1:])

    def loss(network: Pix2PixModel, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        chosen = rows[indices]
        source = to_floats(pairs.sources[chosen]).to(draws.device)
        target = to_model(pairs.targets[chosen]).to(draws.device)
        made = network.generator(source, [draws.uniform(*shape) for shape in shapes])
        return losses(network, source, target, made, config.l1_weight)

    def validate(network: Pix2PixModel) -> dict[str, float]:
        made = generate(network, pairs.sources[held_out], seeds=held_out)
        return {"loss": float(np.abs(made.astype(float) - pairs.targets[held_out]).mean() / 127.5)}

    log = fit(
        model,
        loss,
        size=len(rows),
        validate=validate if len(held_out) else None,
        seed=seed,
        folder=folder,
        digest=digest,
        **{"what": "pix2pix", "steps": config.steps, "batch_size": config.batch_size}
        | {"learning_rate": config.learning_rate, "betas": (config.beta_1, 0.999)}
        | options,
    )
    return model, log


@torch.no_grad()
def generate(model: Pix2PixModel, sources: np.ndarray, seeds: Sequence[int], batch_size: int = 32) -> np.ndarray:
    """Translations uint8 [n, H, W] of sources uint8 [n, C, H, W]; image i draws its dropout from seeds[i] alone."""
    if len(seeds) != len(sources):
        raise StudyError(f"{len(seeds)} seeds for {len(sources)} source images: give one of each an image")
    generator = model.generator
    device = next(generator.parameters()).device
    shapes, found = generator.noise_shapes(*sources.shape[2:]), []
    for first in range(0, len(sources), batch_size):
        streams = [torch.Generator().manual_seed(int(seed)) for seed in seeds[first : first + batch_size]]
        u = [
            torch.stack([torch.rand(shape, generator=stream) for stream in streams]).to(device) for shape in shapes
        ]  # an image's stream gives its levels in turn
        found.append(to_frames(generator(to_floats(sources[first : first + batch_size]).to(device), u)))
    return np.concatenate(found) if found else np.zeros((0, *sources.shape[2:]), np.uint8)


def save(model: Pix2PixModel, folder: Path, config: Pix2Pix, size: int) -> None:
    """Weights (float32, safetensors) and what `load` needs to build the networks, in one step."""
    facts = {"config": asdict(config), "source_channels": model.generator.down[0].in_channels, "size": size}
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary / WEIGHTS)
        (temporary / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def load(folder: Path) -> Pix2PixModel:
    """The model in eval mode from a folder that `save` wrote, or with weights of half precision. Raises StudyError if it holds none."""
    try:
        facts = json.loads((Path(folder) / FACTS).read_text())
        weights = {name: value.float() for name, value in load_file(Path(folder) / WEIGHTS).items()}
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["config"].items()}
        model = build(Pix2Pix(**config), facts["source_channels"], facts["size"])
        model.load_state_dict(weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise StudyError(
            f"the folder {Path(folder).name!r} holds no pix2pix model ({type(error).__name__}): give the one that notebook 23 wrote"
        ) from None
    return model.eval()
