"""Which lesion does a frame show? A network that was trained on simulated frames with lesions answers, of patients that no generator has seen.

A U-Net scores every pixel for every kind of lesion; the scores of a kind, pooled over the frame, say how likely the frame shows it. It learns from masks and
from names together: a lesion is a few dozen pixels, and from names alone a thousand frames do not teach where to look. Its answers on acquired frames, right
and wrong, stand beside those on generated ones, for no rate means more than its judge is worth.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from torch import nn

from dsa_lib.core.images import check_frames
from dsa_lib.core.pairs import TranslationSet
from dsa_lib.nn.shipped import ShippedNetwork
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import LesionSentences
from dsa_lib.run.workspace import PROJECT
from dsa_lib.vessels.unet import augment, to_input

KINDS = ("none", "aneurysm", "stenosis", "occlusion", "AVM")  # as in the pairs, where "none" is ""
UNKNOWN = -1  # label of a frame whose lesion augmentation has moved out of the field
LEFT_IN_FIELD = 0.5  # share of a lesion's pixels that must have stayed for the frame to keep its name
RARE = 20.0  # weight of a lesion's pixels in the pixel loss: they are one in a thousand


class Judge(nn.Module):
    """[n, 1, s, s] as `vessels.unet.to_input` makes them, s a multiple of 16 → (logits of KINDS [n, 5], pixel logits of the four lesions [n, 4, s, s])."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.network = BasicUNet(
            spatial_dims=2, in_channels=1, out_channels=len(KINDS) - 1, features=tuple(channels), norm=("batch", {}), act=("relu", {"inplace": True})
        )  # fmt: skip
        self.slope = nn.Parameter(torch.ones(len(KINDS) - 1))
        self.offset = nn.Parameter(torch.zeros(len(KINDS) - 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = self.network(x).float()
        # A smooth maximum: one convinced place is enough, and many of them count more.
        pooled = torch.logsumexp(pixels.flatten(2), dim=2) - 2 * np.log(pixels.shape[-1])
        lesions = self.slope * pooled + self.offset
        return torch.cat([torch.zeros_like(lesions[:, :1]), lesions], 1), pixels


def labels(kinds: np.ndarray) -> np.ndarray:
    """Number in KINDS [n] of each kind, "" being none. Raises StudyError for another kind."""
    number = {"" if name == "none" else name: place for place, name in enumerate(KINDS)}
    if unknown := sorted({str(kind) for kind in kinds} - set(number)):
        raise StudyError(f"the judge knows no lesion {unknown[0]!r}: it names {', '.join(KINDS[1:])}")
    return np.array([number[str(kind)] for kind in kinds])


def losses(
    image: torch.Tensor, pixels: torch.Tensor, names: torch.Tensor, masks: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Cross-entropy of the names [n] (UNKNOWN left out) and, pixel by pixel, of each kind's mask (masks [n, 1, s, s] are of the named kind).

    Pixels inside a lesion weigh RARE times as much.
    """
    known = names != UNKNOWN
    named = F.cross_entropy(image[known], names[known]) if known.any() else 0.0 * image.sum()
    of_kind = F.one_hot(names.clamp(min=0), len(KINDS))[:, 1:, None, None] * masks
    weight = torch.full((), RARE, device=pixels.device)
    where = F.binary_cross_entropy_with_logits(pixels, of_kind.float(), pos_weight=weight)
    return {"loss": named + where, "named": named, "where": where}


def train(
    pairs: TranslationSet, settings: LesionSentences, *, seed: int, folder: Path, digest: str, **options
) -> tuple[Judge, pd.DataFrame]:
    """Train on the targets of the part "train" of `pairs`, their kinds and masks; "val" chooses the weights. Returns (model in eval mode, log).

    `options` go to `training.fit`. The same call continues a training that was broken off.
    """
    size, names = settings.judge_size, torch.from_numpy(labels(pairs.kinds))
    torch.manual_seed(seed)
    model = Judge(settings.judge_channels)
    rows, held_out = pairs.rows("train"), pairs.rows("val")

    def inputs(chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        masks = torch.from_numpy(pairs.lesions[chosen].astype(np.uint8))[:, None]
        return to_input(pairs.targets[chosen], size), F.interpolate(masks, (size, size), mode="nearest-exact")

    def loss(network: Judge, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        x, masks = (part.to(draws.device) for part in inputs(rows[indices]))
        of = names[rows[indices]].to(draws.device)
        with torch.autocast(draws.device.type, enabled=False):  # bfloat16 grid coordinates would be a quarter pixel off
            before = masks.flatten(1).sum(1)
            # The field as a whole, scaled: a lesion moves out of it only at the largest scales.
            x, masks = augment(x, masks, draws, size)
        left = masks.flatten(1).sum(1) < LEFT_IN_FIELD * before
        return losses(*network(x), torch.where(left, UNKNOWN, of), masks)

    def validate(network: Judge) -> dict[str, float]:
        device, totals = next(network.parameters()).device, {}
        for part in np.array_split(held_out, max(len(held_out) // settings.judge_batch, 1)):
            x, masks = (each.to(device) for each in inputs(part))
            image, pixels = network(x)
            found = losses(image, pixels, names[part].to(device), masks)
            found["named right"] = (image.argmax(1).cpu() == names[part]).float().mean()
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(part) / len(held_out)
        return totals | {"loss": totals["named"]}

    log = fit(
        model,
        loss,
        size=len(rows),
        steps=settings.judge_steps,
        batch_size=settings.judge_batch,
        learning_rate=settings.judge_learning_rate,
        seed=seed,
        folder=folder,
        digest=digest,
        validate=validate if len(held_out) else None,
        evaluate_every=max(settings.judge_steps // 10, 1),
        clip_norm=1.0,
        cosine=True,
        what="lesion judge",
        **options,
    )
    return model.eval(), log


@torch.no_grad()
def answers(model: Judge, frames: np.ndarray, size: int, batch_size: int = 32) -> np.ndarray:
    """Probability of each of KINDS for uint8 frames [n, H, W]: float64 [n, 5]."""
    check_frames(frames, "frames to judge")
    device = next(model.parameters()).device
    parts = [
        model(to_input(np.asarray(frames[first : first + batch_size]), size).to(device))[0].softmax(1).cpu()
        for first in range(0, len(frames), batch_size)
    ]
    return torch.cat(parts).double().numpy()


@torch.no_grad()
def places(model: Judge, frames: np.ndarray, kinds: np.ndarray, size: int, batch_size: int = 32) -> np.ndarray:
    """Where in uint8 frames [n, H, W] each one's kind of lesion (of KINDS, not "none") is likeliest: (row, column) in shares of the frame, float64 [n, 2]."""
    check_frames(frames, "frames to judge", least=1)
    channels = torch.from_numpy(labels(np.asarray(kinds)) - 1)
    if (channels < 0).any():
        raise StudyError("a frame without a lesion has no place: ask for the place of frames with one")
    device, found = next(model.parameters()).device, []
    for first in range(0, len(frames), batch_size):
        here = slice(first, first + batch_size)
        _, pixels = model(to_input(np.asarray(frames[here]), size).to(device))
        chosen = pixels.cpu()[torch.arange(len(pixels)), channels[here]]
        found.append(torch.stack(torch.unravel_index(chosen.flatten(1).argmax(1), chosen.shape[1:]), 1))
    return (torch.cat(found).double().numpy() + 0.5) / size


# ---- files -----------------------------------------------------------------------------------------------------------

NETWORK = ShippedNetwork(
    PROJECT / "models" / "lesion_judge",
    build=Judge,
    needs=("size", "channels", "patients"),
    lacks="the judge's card lacks {absent}: add what the network is and whom it has seen",
    what="lesion judge",
    again="run benchmarks/lesion_judge.py",
    seen="{count} patients (first: {first}) were seen in training the lesion judge: give the run another seed",
)
FOLDER, save, load, check_unseen = NETWORK.folder, NETWORK.save, NETWORK.load, NETWORK.check_unseen
