"""The arterial-phase classifier (§2.2, §4.2): a ResNet-18 trained from scratch with binary cross-entropy (Eq. 1), applied to every frame.

The ResNet-18 family here also serves as the run's own feature network: `stage_features` for a perceptual loss and for distances.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.ndimage import median_filter
from torch import nn

from dsa_lib.core.condition_sentences import CELLS, Condition
from dsa_lib.curation.annotations import ARTERIAL, PHASES
from dsa_lib.nn import shipped
from dsa_lib.nn.resnet import build_resnet, to_input
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Classifier, Profile
from dsa_lib.run.progress import track
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import PROJECT, Workspace

# --- network and features ---------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(model: nn.Module, frames: np.ndarray, size: int, batch_size: int = 64) -> np.ndarray:
    """ŷ of Eq. 1: probability in [0, 1] that a frame is arterial, float32 [n], for uint8 frames [n, H, W] (a memory map is read batch by batch)."""
    device = next(model.parameters()).device
    model.eval()
    out = []
    for first in track(range(0, len(frames), batch_size), what="batches of frames classified"):
        x = to_input(np.asarray(frames[first : first + batch_size]), size).to(device)
        out.append(model(x).logits[:, 0].sigmoid().float().cpu().numpy())
    return np.concatenate(out) if out else np.zeros(0, np.float32)


# --- training ---------------------------------------------------------------------------------------------------------


def bce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Eq. 1, the mean binary cross-entropy, with ŷ = sigmoid(logits) taken in logit space, where it does not overflow."""
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


def augment(x: torch.Tensor, draws: Draws, settings: Classifier, background: float, flip: bool = True) -> torch.Tensor:
    """Randomly changed copies of x [n, 1, s, s] in [0, 1]; every image has draws of its own. `background` is the grey of no contrast in [0, 1].

    The paper's (§4.2): random crop of side `crop_fraction`–1, resized back; horizontal flip; intensity jitter (brightness, contrast). Beyond the paper, and
    off where 0: `zoom_out` lets the crop reach beyond the frame, as a wider field of view would; `contrast_range` and `gamma_range` rescale
    and bend the contrast against the background (log-uniform up to these natural logarithms); `sharpness_range` blurs or sharpens;
    `noise_grey` adds white noise of up to so many grey levels (SD). Without `flip` nothing is mirrored, for labels that a mirror would change.
    """
    n, size = x.shape[0], x.shape[-1]
    u = draws.uniform(12).to(x.dtype)
    depth = x - background  # the field beyond an enlarged crop is then 0: background, as in a letterboxed frame
    side = settings.crop_fraction + (1 + settings.zoom_out - settings.crop_fraction) * u[:, 0]
    mirror = 1 - 2 * (u[:, 1] < (0.5 if flip else 0.0)).to(x.dtype)
    zero = torch.zeros_like(side)
    theta = torch.stack(
        [
            torch.stack([side * mirror, zero, (1 - side) * (2 * u[:, 2] - 1)], 1),
            torch.stack([zero, side, (1 - side) * (2 * u[:, 3] - 1)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    # The outermost half pixel of a frame has its edge's value, not a mixture with the outside.
    edge = 1 - 1 / size
    grid = torch.where(grid.abs() <= 1, grid.clamp(-edge, edge), grid)
    depth = F.grid_sample(depth, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def column(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    def around(index: int, spread: float) -> torch.Tensor:
        return column(spread * (2 * u[:, index] - 1))

    if settings.sharpness_range:
        smooth = F.avg_pool2d(F.pad(depth, (1, 1, 1, 1), mode="replicate"), 3, 1)
        depth = depth + around(4, settings.sharpness_range) * (smooth - depth)
    if settings.gamma_range:
        bent = (depth.abs() / background).clamp_min(1e-6) ** torch.exp(around(5, settings.gamma_range))
        depth = depth.sign() * background * bent
    if settings.contrast_range:
        depth = depth * torch.exp(around(6, settings.contrast_range))
    x = background + depth * (1 + around(7, settings.jitter)) + background * around(8, settings.jitter)
    if settings.noise_grey:
        x = x + column(settings.noise_grey / 255 * u[:, 9]) * draws.normal(1, size, size).to(x.dtype)
    return x.clamp(0, 1)


def train(
    frames: np.ndarray,
    train_rows: pd.DataFrame,
    val_rows: pd.DataFrame,
    settings: Classifier,
    background_grey: int,
    start: Path | None = None,
    **how,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train on labelled rows [frame_id, label] of the uint8 store `frames` [n, H, W]; returns model (eval mode) and training log.

    From scratch, or, with `start` (`shipped.start`), a short stretch on from the trained weights there. `val_rows` may be empty; otherwise the weights
    with the lowest validation loss are kept. `how` goes to `training.fit`: seed, folder, digest, precision, log_every_s, checkpoint_every_s.
    """
    # Held at the network's size in half precision: at paper scale the annotated series' frames take 0.4 GB instead of the whole store.
    store, labels = _store(frames, train_rows, settings.input_size), torch.tensor(train_rows["label"].to_numpy())
    val_store, val_labels = _store(frames, val_rows, settings.input_size), torch.tensor(val_rows["label"].to_numpy())
    torch.manual_seed(how["seed"])
    model = build_resnet(settings.width, 1)
    if start is not None:
        shipped.load(model, start / "classifier")
    budget = {"steps": settings.steps, "learning_rate": settings.learning_rate, "cosine": settings.cosine}

    def loss(network, indices, draws):
        with torch.autocast(draws.device.type, enabled=False):  # bfloat16 grid coordinates would be a quarter pixel off
            x = augment(store[indices].to(draws.device).float(), draws, settings, background_grey / 255)
        return {"loss": bce(network(x).logits[:, 0], labels[indices].to(draws.device))}

    def validate(network):
        device = next(network.parameters()).device
        parts = val_store.split(settings.batch_size)
        logits = torch.cat([network(part.to(device).float()).logits[:, 0].float().cpu() for part in parts])
        return {
            "loss": float(bce(logits, val_labels)),
            "accuracy": float(((logits > 0) == (val_labels > 0.5)).float().mean()),
        }

    history = fit(
        model,
        loss,
        size=len(train_rows),
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        **shipped.stretch(start, settings, budget),
        validate=validate if len(val_rows) else None,
        what="classifier",
        **how,
    )
    return model, history


def _store(frames: np.ndarray, rows: pd.DataFrame, size: int) -> torch.Tensor:
    ids = rows["frame_id"].to_numpy()
    parts = [to_input(np.asarray(frames[ids[first : first + 512]]), size).half() for first in range(0, len(ids), 512)]
    return torch.cat(parts) if parts else torch.zeros(0, 1, size, size, dtype=torch.half)


# --- from probabilities to frames -------------------------------------------------------------------------------------


def select_arterial(phases: pd.DataFrame, settings: Classifier) -> np.ndarray:
    """Which rows of `phases` [series, frame, probability] are arterial: bool [n] in the order of the rows.

    A frame is arterial when its probability, after a running median over `median_frames` frames of its series (0 or 1: none), reaches `threshold`. With
    `contiguous`, only the longest uninterrupted run of a series is kept (of equal ones the more probable): contrast passes the arteries once. With
    `frames_per_series` > 0 at most so many frames a series remain, the most probable first (§4.2: "highest predicted arterial probabilities").
    """
    chosen = np.zeros(len(phases), bool)
    probability = phases["probability"].to_numpy()
    positions = pd.Series(np.arange(len(phases)), index=phases.index)
    for _, rows in positions.groupby(phases["series"].to_numpy(), sort=False):
        order = rows.to_numpy()[np.argsort(phases["frame"].to_numpy()[rows.to_numpy()], kind="stable")]
        p = probability[order]
        above = median_filter(p, size=max(settings.median_frames, 1), mode="nearest") >= settings.threshold
        if settings.contiguous and above.any():
            edges = np.flatnonzero(np.diff(np.concatenate([[0], above.astype(int), [0]])))
            runs = list(zip(edges[::2], edges[1::2], strict=True))
            first, last = max(runs, key=lambda run: (run[1] - run[0], p[run[0] : run[1]].sum()))
            above = (np.arange(len(p)) >= first) & (np.arange(len(p)) < last)
        if settings.frames_per_series:
            ranked = np.argsort(-np.where(above, p, -1.0), kind="stable")[: settings.frames_per_series]
            above = above & np.isin(np.arange(len(p)), ranked)
        chosen[order[above]] = True
    return chosen


def published_scores() -> dict[str, float]:
    """Precision, recall and accuracy on the paper's hold-out validation set (§2.2)."""
    table = pd.read_csv(PROJECT / "data_manifests" / "published" / "classifier.csv")
    return dict(zip(table["column"], table["published"], strict=True))


def scores(truth: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """Precision, recall, accuracy (nan where undefined) and the counts behind them, for bool arrays [n]."""
    truth, called = np.asarray(truth, bool), np.asarray(called, bool)
    tp, fp, fn = int((truth & called).sum()), int((~truth & called).sum()), int((truth & ~called).sum())
    tn = len(truth) - tp - fp - fn

    def ratio(a: int, b: int) -> float:
        return a / b if b else float("nan")

    return {
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "accuracy": ratio(tp + tn, len(truth)),
        "n": len(truth),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
    }


def arterial_frames(frames: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """The contract of arterial.parquet: rows of frames.parquet that are arterial, with probability, cell (Table 1) and sentence (§2.3)."""
    arterial = frames.merge(phases.loc[phases["arterial"], ["frame_id", "probability"]], on="frame_id")
    found = conditions(arterial)
    return arterial.assign(cell=[item.cell() for item in found], sentence=[item.sentence() for item in found])


def conditions(frames: pd.DataFrame) -> list[Condition]:
    """The acquisition condition of every row of `frames`."""
    names = ["circulation", "plane", "primary_angle_deg", "secondary_angle_deg"]
    return [Condition(*values) for values in frames[names].itertuples(index=False, name=None)]


def none_arterial(study: Study, applied_only: bool) -> None:
    """End the notebook where no frame was called arterial: a finding when a given classifier was applied, a failed training otherwise."""
    sentence = "the classifier calls no frame arterial: look at figures/classifier_strips.png, then"
    if applied_only:
        study.skip(f"{sentence} lower classifier.threshold, or give annotations of this archive.")
    raise StudyError(f"{sentence} raise classifier.steps or lower classifier.threshold")


def arterial_spans(phases: pd.DataFrame) -> list[str]:
    """For the eye: which frames of each series are called arterial, counted from 1 as viewers do."""
    lines = []
    for name, rows in phases.sort_values("frame").groupby("series"):
        called = rows.loc[rows["arterial"], "frame"].to_numpy() + 1
        runs = np.split(called, np.flatnonzero(np.diff(called) > 1) + 1) if len(called) else []
        spans = ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
        lines.append(f"series {name[:8]}: {spans or 'none'} of {len(rows)} frames called arterial (counted from 1)")
    return lines


def score_table(phases: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """Scores by split against what is known: the phantom's truth on all frames (where `phases` has the column `phase`), and window labels.

    One row a reference and split, columns reference, split, series and those of `scores`; without any reference, no row.
    """
    parts = []
    if "phase" in phases:
        parts.append(("phantom truth, all frames", phases.assign(label=phases["phase"] == ARTERIAL)))
    if len(labelled):
        parts.append(("annotation windows", phases.merge(labelled[["frame_id", "label"]], on="frame_id")))
    rows = []
    for reference, table in parts:
        for split in ("train", "val", "test"):
            part = table[table["split"] == split]
            if len(part):
                counted = {"reference": reference, "split": split, "series": part["series"].nunique()}
                rows.append(counted | scores(part["label"] == 1, part["arterial"]))
    return pd.DataFrame(rows, columns=["reference", "split", "series", *scores([], [])])


def confusion(phases: pd.DataFrame) -> pd.DataFrame:
    """Counts of frames by true phase, in their order in time, and by what they were called."""
    counts = pd.crosstab(phases["phase"], phases["arterial"])
    counts = counts.reindex(
        index=[name for name in PHASES if name in counts.index], columns=[False, True], fill_value=0
    )
    return counts.set_axis(["not arterial", "arterial"], axis=1)


def examples(frames: pd.DataFrame, phases: pd.DataFrame, count: int = 4) -> list[str]:
    """Up to `count` series to look at, of held-out patients where there are any: one a canonical condition first, then others, by name."""
    held_out = phases["split"] == "test"
    first = frames[frames["series"].isin(phases.loc[held_out if held_out.any() else slice(None), "series"])]
    first = first.drop_duplicates("series").sort_values("series")
    cells = [condition.cell() for condition in conditions(first)]
    by_cell = first.assign(cell=cells).groupby("cell")["series"].first()
    chosen = [by_cell[cell] for cell in CELLS if cell in by_cell]
    return (chosen + [name for name in first["series"] if name not in chosen])[:count]


# --- saving and finding a trained classifier --------------------------------------------------------------------------


def facts(run: str, profile: Profile, train_rows: pd.DataFrame) -> dict:
    """What a classifier has to say of itself (classifier.json): what its input must look like, and on what it was trained.

    Its threshold is no part of it: that belongs to the profile which applies it.
    """
    return {
        "trained": f"run {run}, profile {profile.name}",
        "input_size": profile.classifier.input_size,
        "background_grey": profile.curation.background_grey,
        "contrast_per_grey": profile.curation.contrast_per_grey,
        "training_patients": int(train_rows["patient"].nunique()),
        "training_series": int(train_rows["series"].nunique()),
        "training_frames": len(train_rows),
    }


def find_classifier(given: str) -> Path:
    """The classifier folder for what the user gave: a run's name, a run's folder, or the classifier folder itself."""
    places = [Path(given).expanduser(), Path(given).expanduser() / "classifier"]
    if Path(given).name == given:
        places.insert(0, Workspace(given).root / "classifier")
    for place in places:
        if (place / "classifier.json").is_file():
            return place.resolve()
    raise StudyError(
        f"classifier {Path(given).name!r} is neither a run with a trained classifier nor a folder that holds one: run notebook 02 there, or correct the name"
    )
