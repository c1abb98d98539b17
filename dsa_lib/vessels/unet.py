"""A small U-Net that names arteries of three calibres, for frames of which no truth is known: acquired, decoded and generated ones alike.

Ronneberger et al., MICCAI 2015, in MONAI's `BasicUNet`: four halvings, two convolutions at full resolution on either side, since most arteries of these frames
are one or two pixels wide. Trained on frames with label maps, by Dice and cross-entropy, on copies that are blurred, noisy, turned, rescaled and
differently contrasted: a decoded frame lacks the noise and some of the sharpness of an acquired one and must not be told from it by that.

The weights that ship (`NETWORK`) were trained by benchmarks/vessel_segmentation.py on simulated vessels alone. What they make of clinical frames is
not measured. The same functions train a network on any other pairs, for instance on generated frames and the masks that they were asked for.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from torch import nn

from dsa_lib.core.images import check_frames
from dsa_lib.nn.augmentation import between, blurred
from dsa_lib.nn.shipped import ShippedNetwork
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import PROJECT

OUTPUTS = 4  # none, then the classes of `dsa_lib.vessels.filters.CLASSES`
GREY_UNIT = 64.0  # grey levels that the network sees as 1

# Ranges of the augmentation, in pixels and grey levels of the network's own size.
SCALE = (0.75, 1.35)
TURN = 0.35  # radians, ±
MIRRORED = 0.5  # share of the copies that are mirrored left to right
CONTRAST = (0.5, 1.5)  # factor about the background, log-uniform
BLUR_SIGMA = 0.9  # pixels, up to: a decoded frame's
NOISE_SIGMA = 3.0  # grey levels, up to
HAZE = 6.0  # grey levels, ±, of a smooth background
AUGMENTATION = (
    "SCALE",
    "TURN",
    "MIRRORED",
    "CONTRAST",
    "BLUR_SIGMA",
    "NOISE_SIGMA",
    "HAZE",
)  # what a training's digest names


def build(settings) -> nn.Module:
    """The untrained network for `settings` (the profile's `plausibility` section): [n, 1, s, s] → logits [n, 4, s, s]; s a multiple of 16."""
    return build_network(settings.network_channels)


def build_network(channels: tuple[int, ...]) -> nn.Module:
    """`build` by its numbers: channels of the five levels, from full resolution down, and of the last convolutions."""
    # Batch normalisation: at use, what is said of one vessel then does not hang on what else the frame shows.
    return BasicUNet(
        spatial_dims=2, in_channels=1, out_channels=OUTPUTS, features=tuple(channels), norm=("batch", {}), act=("relu", {"inplace": True})
    )  # fmt: skip


def to_input(frames: np.ndarray, size: int) -> torch.Tensor:
    """uint8 frames [n, H, W] → float [n, 1, size, size]: grey levels above the frame's own background (its median) in units of GREY_UNIT."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).float()[:, None]
    x = (x - x.flatten(1).median(dim=1).values[:, None, None, None]) / GREY_UNIT
    if x.shape[-1] == size and x.shape[-2] == size:
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def augment(x: torch.Tensor, classes: torch.Tensor, draws: Draws, crop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Randomly placed, turned, mirrored, rescaled, blurred, contrasted and noisy crops of x [n, 1, s, s], with their labels [n, 1, s, s] moved alike.

    Returns ([n, 1, crop, crop], [n, 1, crop, crop]). Beyond the frame lies background without vessels.
    """
    u, side = draws.uniform(8), x.shape[-1]
    scale = between(SCALE, u[:, 0])
    half = crop / side / scale  # half a crop in affine_grid's unit, half a side of the frame
    angle = TURN * (2 * u[:, 1] - 1)
    mirror = 1 - 2 * (u[:, 2] < MIRRORED).float()
    room = (1 - half).abs()
    theta = torch.stack(
        [
            torch.stack([half * angle.cos() * mirror, -half * angle.sin(), room * (2 * u[:, 3] - 1)], 1),
            torch.stack([half * angle.sin() * mirror, half * angle.cos(), room * (2 * u[:, 4] - 1)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [len(x), 1, crop, crop], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    labels = F.grid_sample(classes.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    x = blurred(x, BLUR_SIGMA * u[:, 5])
    low, high = np.log(CONTRAST)
    x = x * torch.exp(between((low, high), u[:, 6]))[:, None, None, None]
    haze = F.interpolate(draws.normal(1, 3, 3), (crop, crop), mode="bicubic", align_corners=False)
    noise = NOISE_SIGMA * u[:, 7][:, None, None, None] * draws.normal(1, crop, crop)
    return x + (HAZE / 3 * haze + noise) / GREY_UNIT, labels


def check_pairs(frames: np.ndarray, classes: np.ndarray, what: str = "training pairs") -> None:
    """Raise StudyError unless frames and classes are uint8 of one shape [n, H, W], n > 0, with classes 0–3 of which at least one pixel is a vessel."""
    check_frames(frames, what)
    if frames.shape != classes.shape:
        raise StudyError(
            f"{what}: frames of shape {frames.shape} have label maps of shape {classes.shape}: give one map of the frame's size for each"
        )
    if classes.dtype != np.uint8 or int(classes.max()) >= OUTPUTS:
        raise StudyError(
            f"{what}: label maps of {classes.dtype} up to {classes.max()}: give uint8 with 0 none, 1 proximal, 2 medium, 3 peripheral"
        )
    if not classes.any():
        raise StudyError(f"{what}: no label map holds a vessel: give the masks of the frames' arteries")


def train(
    frames: np.ndarray,
    classes: np.ndarray,
    settings,
    *,
    seed: int,
    folder: Path,
    digest: str,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    **options,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train a network on frames [n, H, W] uint8 and their label maps `classes` [n, H, W] uint8 (0 none, 1–3 as in `vessels.CLASSES`), from scratch.

    settings: the profile's `plausibility` section (network_*); validation: such a pair of arrays of other patients, whose loss chooses the weights, or
    None; `options` go to `dsa_lib.nn.training.fit`. Returns (model in eval mode, log). The same call continues a training that was broken off. Raises
    StudyError for pairs that do not fit together.
    """
    check_pairs(frames, classes)
    if validation is not None:
        check_pairs(*validation, "validation pairs")
    size, crop = settings.network_size, settings.network_crop
    torch.manual_seed(seed)
    model = build(settings)
    criterion = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)

    def pairs(rows: np.ndarray, of: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.from_numpy(np.ascontiguousarray(of[1][rows]))[:, None]
        return to_input(of[0][rows], size), F.interpolate(labels, (size, size), mode="nearest-exact")

    def loss(network: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        x, labels = (part.to(draws.device) for part in pairs(indices, (frames, classes)))
        with torch.autocast(draws.device.type, enabled=False):  # bfloat16 grid coordinates would be a quarter pixel off
            x, labels = augment(x, labels, draws, crop)
        return {"loss": criterion(network(x).float(), labels)}

    def validate(network: nn.Module) -> dict[str, float]:
        device, total = next(network.parameters()).device, 0.0
        batches = np.array_split(np.arange(len(validation[0])), max(len(validation[0]) // settings.network_batch, 1))
        for rows in batches:
            x, labels = (part.to(device) for part in pairs(rows, validation))
            total += len(rows) * float(criterion(network(x).float(), labels))
        return {"loss": total / len(validation[0])}

    history = fit(
        model,
        loss,
        size=len(frames),
        steps=settings.network_steps,
        batch_size=settings.network_batch,
        learning_rate=settings.network_learning_rate,
        seed=seed,
        folder=folder,
        digest=digest,
        validate=validate if validation is not None else None,
        evaluate_every=max(settings.network_steps // 4, 1),
        cosine=True,
        what="vessel network",
        **options,
    )
    return model.eval(), history


@torch.no_grad()
def segment(
    model: nn.Module, frames: np.ndarray, size: int = 128, batch_size: int = 32, what: str = "frames"
) -> np.ndarray:
    """Class of every pixel of uint8 frames [n, H, W]: uint8 [n, H, W], 0 none, 1 proximal, 2 medium, 3 peripheral.

    The network sees frames at its own `size` (card.json); its scores are brought to the frame's size before the largest is taken. Computes where the
    model lies, batch by batch: a memory map is never read whole.
    """
    check_frames(frames, f"{what} to segment")
    device, shape = next(model.parameters()).device, tuple(frames.shape[1:])
    model.eval()
    out = np.empty(frames.shape, np.uint8)
    for first in track(range(0, len(frames), batch_size), what=f"batches of {what} segmented"):
        scores = model(to_input(np.asarray(frames[first : first + batch_size]), size).to(device)).float()
        if scores.shape[2:] != shape:
            scores = F.interpolate(scores, shape, mode="bilinear", antialias=True, align_corners=False)
        out[first : first + batch_size] = scores.argmax(dim=1).to(torch.uint8).cpu().numpy()
    return out


# ---- files -----------------------------------------------------------------------------------------------------------

NETWORK = ShippedNetwork(
    PROJECT / "models" / "vessels",
    build=build_network,
    needs=("size", "patients"),
    lacks="the vessel network's card lacks {absent}: say what size it sees, and which patients it has seen",
    what="vessel network",
    again="write it again with dsa_lib.vessels.unet.save",
    seen="{count} patients of this archive (first: {first}) were seen in training the vessel network, which would know their vessels: "
    "give the archive another seed, or set plausibility.segmenter to classical",
)
FOLDER, load, check_unseen = NETWORK.folder, NETWORK.load, NETWORK.check_unseen


def save(model: nn.Module, folder: Path, facts: dict) -> dict:
    """`ShippedNetwork.save`, with the network's `channels` and `parameters` in the card.

    facts: what else the card has to say; it needs `size` (pixels a side that the network sees) and `patients`, the identifiers of all phantom patients seen
    (empty where none was).
    """
    levels = [model.conv_0, *(getattr(model, f"down_{n}").convs for n in range(1, 5))]
    channels = [*(level.conv_0.conv.out_channels for level in levels), model.final_conv.in_channels]
    return NETWORK.save(
        model, folder, facts | {"channels": channels, "parameters": sum(p.numel() for p in model.parameters())}
    )
