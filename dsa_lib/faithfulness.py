"""Does an image show what its sentence asked for? An independent judge of circulation and plane answers.

The judge is a ResNet-18 trained here, on real training frames only, apart from the diffusion model and the autoencoder. It sees no flips, which would
turn one plane or side into another. It is trained on blurred, noisy, rescaled and differently contrasted copies, so that it judges decoded images, which are
smoother than acquired ones, by their anatomy; its rate on autoencoder reconstructions of real frames shows whether that worked.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from dsa_lib import phase
from dsa_lib.conditions import CELLS
from dsa_lib.errors import StudyError
from dsa_lib.features import check_frames
from dsa_lib.progress import track
from dsa_lib.training import Draws, fit
from dsa_lib.workspace import atomic_write

TARGET_OVERALL, TARGET_CONDITION = 0.90, 0.80  # what this project asks of its generated images
_CELL_OF = {
    ("anterior", "A"): "AC A",
    ("posterior", "A"): "PC A",
    ("anterior", "B"): "AC B",
    ("posterior", "B"): "PC B",
}

# Ranges of the judge's augmentation, at its own input size.
BLUR_SIGMA = 1.0  # pixels, up to
CONTRAST = (0.6, 1.4)  # factor about the image's own mean
BRIGHTNESS = 0.08  # added grey, ±, of the range [0, 1]
NOISE_SIGMA = 0.03  # of the range [0, 1], up to
SCALE = (0.85, 1.15)
SHIFT = 0.08  # of the image side, ±


def classes(table: pd.DataFrame) -> np.ndarray:
    """Index into CELLS by circulation and plane, −1 where either is unknown: oblique frames count too, they only lack the canonical angles."""
    pairs = zip(table["circulation"], table["plane"], strict=True)
    return np.array([CELLS.index(_CELL_OF[pair]) if pair in _CELL_OF else -1 for pair in pairs], dtype=np.int64)


def augment(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Randomly scaled, shifted, blurred, contrasted and noisy copies of images [n, 1, s, s] in [0, 1]; never mirrored or turned."""
    u = draws.uniform(7)
    with torch.autocast(
        images.device.type, enabled=False
    ):  # half precision would round the images to their grey levels
        theta = torch.zeros(len(images), 2, 3, device=images.device)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / _between(SCALE, u[:, 0])
        theta[:, :, 2] = (2 * u[:, 1:3] - 1) * 2 * SHIFT  # affine_grid's unit is half a side
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        images = _blurred(images, BLUR_SIGMA * u[:, 3])
        gain, lift, noise = (x[:, None, None, None] for x in (_between(CONTRAST, u[:, 4]), 2 * u[:, 5] - 1, u[:, 6]))
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * gain + BRIGHTNESS * lift
        return (images + NOISE_SIGMA * noise * draws.normal(1, *images.shape[-2:])).clamp(0, 1)


def _between(limits: tuple[float, float], u: torch.Tensor) -> torch.Tensor:
    return limits[0] + (limits[1] - limits[0]) * u


def _blurred(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with one standard deviation an image, in pixels (kernel of ±3 pixels; zero leaves the image as it is)."""
    offsets = torch.arange(-3.0, 4.0, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    n = len(images)
    stacked = F.pad(images.transpose(0, 1), (3, 3, 3, 3), mode="replicate")  # one group an image: [1, n, h, w]
    stacked = F.conv2d(stacked, kernel[:, None, None, :], groups=n)
    return F.conv2d(stacked, kernel[:, None, :, None], groups=n).transpose(0, 1)


def cannot_judge(labels: np.ndarray) -> str | None:
    """Why no judge can be trained from class labels [n] (see `classes`), or None: a class without a training frame could never be named."""
    absent = [cell for index, cell in enumerate(CELLS) if not (np.asarray(labels) == index).any()]
    if not absent:
        return None
    return f"no training frame shows {' or '.join(absent)} (circulation, plane), and a judge that never saw a condition cannot name it"


def train_judge(
    frames: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    settings,
    *,
    seed: int,
    folder: Path,
    digest: str,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    **options,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train the judge on the real frames `rows` [n] of the store `frames` (uint8 [N, H, W]) with class labels [n]; classes are drawn equally often.

    `settings` is the profile's `fidelity` section; `validation` is (rows, labels) that choose the best weights, or None; `options` go to
    `dsa_lib.training.fit`. Raises StudyError when a class has no training frame.
    """
    check_frames(frames, "the judge's training frames")
    if why := cannot_judge(labels):
        raise StudyError(f"{why}: use a larger archive")
    torch.manual_seed(seed)
    model = phase.build_resnet(settings.judge_width, len(CELLS))
    size = settings.judge_size
    inputs, targets = _inputs(frames, rows, size), torch.from_numpy(labels)
    held_inputs = _inputs(frames, validation[0], size) if validation is not None and len(validation[0]) else None

    def loss(network: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        images = augment(inputs[indices].float().to(draws.device), draws)
        return {"loss": F.cross_entropy(network(images).logits.float(), targets[indices].to(draws.device))}

    def validate(network: nn.Module) -> dict[str, float]:
        probabilities, truth = _answers(network, held_inputs.split(settings.batch_size)), validation[1]
        right = probabilities[np.arange(len(truth)), truth]
        return {
            "loss": float(-np.log(np.clip(right, 1e-12, None)).mean()),
            "accuracy": float((probabilities.argmax(axis=1) == truth).mean()),
        }

    history = fit(
        model,
        loss,
        size=len(rows),
        steps=settings.judge_steps,
        batch_size=settings.judge_batch,
        learning_rate=settings.judge_learning_rate,
        seed=seed,
        folder=folder,
        digest=digest,
        validate=validate if held_inputs is not None else None,
        evaluate_every=max(settings.judge_steps // 8, 1),
        cosine=True,
        weights=1 / np.bincount(labels, minlength=len(CELLS))[labels],
        what="judge",
        **options,
    )
    return model.eval(), history


def save_judge(model: nn.Module, path: Path) -> None:
    """Write the judge as a folder that `ResNetForImageClassification.from_pretrained` opens (safetensors)."""
    with atomic_write(path) as temporary:
        model.config.id2label = dict(enumerate(CELLS))
        model.config.label2id = {cell: index for index, cell in enumerate(CELLS)}
        model.save_pretrained(temporary)


def judge(
    model: nn.Module, frames: np.ndarray, size: int, batch_size: int = 64, rows: np.ndarray | None = None
) -> np.ndarray:
    """Probabilities [n, 4], in the order of CELLS, that uint8 frames [n, H, W] (or their `rows` alone) show each circulation and plane."""
    check_frames(frames, "frames to judge")
    rows = np.arange(len(frames)) if rows is None else np.asarray(rows)
    starts = track(range(0, len(rows), batch_size), what="batches of frames judged")
    return _answers(model, (phase.to_input(frames[rows[s : s + batch_size]], size) for s in starts))


@torch.no_grad()
def _answers(model: nn.Module, batches: Iterable[torch.Tensor]) -> np.ndarray:
    model.eval()
    device = next(model.parameters()).device
    answers = [model(batch.float().to(device)).logits.float().softmax(dim=1).cpu() for batch in batches]
    return torch.cat(answers).numpy() if answers else np.zeros((0, len(CELLS)), np.float32)


def _inputs(frames: np.ndarray, rows: np.ndarray, size: int) -> torch.Tensor:
    """Network inputs [n, 1, size, size] in half precision, made in blocks: a memory map is never read whole."""
    blocks = np.array_split(rows, max(len(rows) // 512, 1))
    return torch.cat([phase.to_input(frames[block], size).half() for block in blocks])


def rates(answers: dict[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """How often the judge names what was asked: one row a set and scope (overall, each cell).

    `answers` maps a set's name to (probabilities [n, 4], asked cells [n]); frames outside the four cells are left out. Columns: set, scope, images,
    named_right, rate, low, high (Wilson 95 % interval, images taken as independent), circulation_rate, plane_rate.
    """
    columns = ["set", "scope", "images", "named_right", "rate", "low", "high", "circulation_rate", "plane_rate"]
    rows = []
    for name, (probabilities, cells) in answers.items():
        asked, named = np.asarray(cells, dtype=object), np.array(CELLS, dtype=object)[probabilities.argmax(axis=1)]
        for scope in ("overall", *CELLS):
            members = np.isin(asked, CELLS) if scope == "overall" else asked == scope
            a, b = asked[members], named[members]
            right = int((a == b).sum())
            low, high = wilson_interval(right, len(a))
            rows.append(
                {
                    "set": name,
                    "scope": scope,
                    "images": len(a),
                    "named_right": right,
                    "rate": right / len(a) if len(a) else float("nan"),
                    "low": low,
                    "high": high,
                    "circulation_rate": _share(x[:2] == y[:2] for x, y in zip(a, b, strict=True)),
                    "plane_rate": _share(x[-1] == y[-1] for x, y in zip(a, b, strict=True)),
                }
            )
    return pd.DataFrame(rows, columns=columns)


def _share(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), 95 % by default; (nan, nan) without trials."""
    if trials == 0:
        return float("nan"), float("nan")
    p, shrink = successes / trials, 1 + z**2 / trials
    centre = (p + z**2 / (2 * trials)) / shrink
    half = z * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / shrink
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def confusion(probabilities: np.ndarray, cells: np.ndarray) -> pd.DataFrame:
    """Counts: asked cell (rows) by named cell (columns), both in the order of CELLS."""
    named = np.array(CELLS, dtype=object)[probabilities.argmax(axis=1)]
    counts = [[int(((cells == asked) & (named == answer)).sum()) for answer in CELLS] for asked in CELLS]
    return pd.DataFrame(counts, index=pd.Index(CELLS, name="asked"), columns=pd.Index(CELLS, name="named"))


def verdict(table: pd.DataFrame) -> str:
    """One sentence: does the generated set reach the project's targets (`TARGET_OVERALL`, `TARGET_CONDITION`)?"""
    generated = table[table["set"] == "generated"].set_index("scope")
    overall, cells = generated.loc["overall", "rate"], generated.loc[list(CELLS), "rate"]
    reached = overall >= TARGET_OVERALL and (cells >= TARGET_CONDITION).all()
    return (
        f"The judge names the requested condition in {overall:.1%} of {int(generated.loc['overall', 'images'])} generated images; "
        f"the weakest condition is {cells.idxmin()} with {cells.min():.1%}. "
        f"Target (≥ {TARGET_OVERALL:.0%} overall, ≥ {TARGET_CONDITION:.0%} each): {'reached' if reached else 'missed'}."
    )
