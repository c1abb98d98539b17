"""The DSA network: one ResNet-18 that reads off a frame what is known of its acquisition. It judges generated frames, and its features measure distances.

It is trained in notebook 07 on real frames of the training patients, apart from the autoencoder and the diffusion model, with one head each for the phase
(arterial or not), the circulation, the plane and both positioner angles. It sees no flips, which would turn one plane or side into another,
but blurred, noisy, rescaled and differently contrasted copies, so that it judges decoded images, which are smoother than acquired ones, by their anatomy.
A label that is unknown for a frame has no part in its loss; one that the training frames do not tell apart at all has no head.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from scipy.special import expit
from torch import nn
from transformers.utils import logging

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.images import check_frames
from dsa_lib.core.splits import SPLITS
from dsa_lib.nn import augmentation, resnet, training
from dsa_lib.nn.augmentation import between, blurred
from dsa_lib.nn.processes import default_device
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters import Network
from dsa_lib.run.progress import track
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import atomic_write

# A head each. A class head gives the probability of what it names here; an angle head has one output a plane, because the frontal and the lateral view
# show a rotation in other ways, and because a single output would have to learn the 90° between them as exactly as a few degrees within each.
CLASS_HEADS = {"phase": "arterial", "circulation": "posterior", "plane": "B"}
ANGLE_HEADS = ("primary_angle_deg", "secondary_angle_deg")
HEADS = (*CLASS_HEADS, *ANGLE_HEADS)
_CELL_OF = {
    ("anterior", "A"): "AC A",
    ("posterior", "A"): "PC A",
    ("anterior", "B"): "AC B",
    ("posterior", "B"): "PC B",
}
FACTS = "dsa_network.json"
CODE = (sys.modules[__name__], augmentation, resnet, training)  # what decides its weights: for `Study.digest`
ANGLE_UNIT_DEG = 10.0  # the angle loss is quadratic below this error and linear above it, so that a wrong plane's 90° do not outweigh the rest
LEAST_SPREAD_DEG = 1.0  # training angles that spread less teach nothing

# Ranges of the augmentation, at the network's own input size.
BLUR_SIGMA = 1.0  # pixels, up to
CONTRAST = (0.6, 1.4)  # factor about the image's own mean
BRIGHTNESS = 0.08  # added grey, ±, of the range [0, 1]
NOISE_SIGMA = 0.03  # of the range [0, 1], up to
SCALE = (0.85, 1.15)
SHIFT = 0.08  # of the image side, ±


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled_frames(frames: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """Rows of frames.parquet with the column `arterial`: what notebook 02's classifier called them (phases.parquet), right or wrong."""
    return frames.merge(phases[["frame_id", "arterial"]], on="frame_id", validate="one_to_one")


def labelled_parts(study: Study) -> dict[str, pd.DataFrame]:
    """`labelled_frames` of a run by split (train, val, test)."""
    frames, phases = (pd.read_parquet(study.read(f"{name}.parquet")) for name in ("frames", "phases"))
    every = labelled_frames(frames, phases)
    return {split: every[every["split"] == split].reset_index(drop=True) for split in SPLITS}


def classes(table: pd.DataFrame) -> np.ndarray:
    """Index into CELLS by circulation and plane, −1 where either is unknown: oblique frames count too, they only lack the canonical angles."""
    pairs = zip(table["circulation"], table["plane"], strict=True)
    return np.array([CELLS.index(_CELL_OF[pair]) if pair in _CELL_OF else -1 for pair in pairs], dtype=np.int64)


def targets(table: pd.DataFrame) -> pd.DataFrame:
    """What the heads are to say of every row of `table`, columns HEADS: 1 or 0 for a class, degrees for an angle, NaN where it is unknown.

    `table` has the columns circulation, plane and both angles of frames.parquet, and `arterial` (bool; all True where it is absent). Of a frame outside the
    arterial phase only that is learned: before contrast it shows no vessel, and none of the generated frames is to be such a one.
    """
    arterial = table["arterial"].astype(bool) if "arterial" in table else pd.Series(True, index=table.index)
    found = pd.DataFrame({"phase": arterial.astype(float)}, index=table.index)
    for name, values in (("circulation", ("anterior", "posterior")), ("plane", ("A", "B"))):
        found[name] = table[name].map(dict(zip(values, (0.0, 1.0), strict=True))).astype(float).where(arterial)
    for name in ANGLE_HEADS:
        found[name] = table[name].astype(float).where(arterial)
    return found[list(HEADS)]


def cannot_learn(known: pd.DataFrame) -> dict[str, str]:
    """Heads that cannot be trained on `targets` of the training frames, and why: a class that never occurs could never be named."""
    why = {}
    for name, positive in CLASS_HEADS.items():
        values = set(known[name].dropna())
        if values != {0.0, 1.0}:
            lacking = "of either kind" if not values else f"that is {'' if 0.0 in values else 'not '}{positive}"
            why[name] = f"no training frame {lacking}"
    for name in ANGLE_HEADS:
        if not _angle_outputs(known, name):
            why[name] = f"the angles of the training frames spread less than {LEAST_SPREAD_DEG:g}° within each plane"
    return why


def _angle_outputs(known: pd.DataFrame, angle: str) -> list[str]:
    """Outputs "angle plane" of an angle head: the planes in which the training angles spread."""
    spread = {plane: known.loc[known["plane"] == value, angle].std() for plane, value in (("A", 0.0), ("B", 1.0))}
    return [f"{angle} {plane}" for plane, value in spread.items() if value >= LEAST_SPREAD_DEG]


def _by_output(known: pd.DataFrame, outputs: tuple[str, ...]) -> pd.DataFrame:
    """`targets` with one column an output: an angle is known to the output of its frame's plane alone."""
    columns = {}
    for output in outputs:
        name, _, plane = output.partition(" ")
        columns[output] = known[name].where(known["plane"] == float(plane == "B")) if plane else known[name]
    return pd.DataFrame(columns, index=known.index)


@dataclass(frozen=True)
class Facts:
    """What the network has to say of itself: its `outputs` in order (a class head's name, or "angle plane"), centre and spread of its angles by output
    (mean and SD of the training frames, degrees), and its input size."""

    outputs: tuple[str, ...]
    centre_deg: dict[str, float]
    spread_deg: dict[str, float]
    input_size: int
    training_frames: int
    training_patients: int

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that it has, of HEADS."""
        return tuple(name for name in HEADS if any(output.partition(" ")[0] == name for output in self.outputs))


# --- augmentation -----------------------------------------------------------------------------------------------------


def augment(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Randomly scaled, shifted, blurred, contrasted and noisy copies of images [n, 1, s, s] in [0, 1]; never mirrored or turned."""
    u = draws.uniform(7)
    with torch.autocast(
        images.device.type, enabled=False
    ):  # half precision would round the images to their grey levels
        theta = torch.zeros(len(images), 2, 3, device=images.device)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / between(SCALE, u[:, 0])
        theta[:, :, 2] = (2 * u[:, 1:3] - 1) * 2 * SHIFT  # affine_grid's unit is half a side
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        images = blurred(images, BLUR_SIGMA * u[:, 3])
        gain, lift, noise = (x[:, None, None, None] for x in (between(CONTRAST, u[:, 4]), 2 * u[:, 5] - 1, u[:, 6]))
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * gain + BRIGHTNESS * lift
        return (images + NOISE_SIGMA * noise * draws.normal(1, *images.shape[-2:])).clamp(0, 1)


# --- training ---------------------------------------------------------------------------------------------------------


def losses(outputs: torch.Tensor, known: torch.Tensor, facts: Facts) -> dict[str, torch.Tensor]:
    """Loss by output, the mean over the frames whose label is known (0 where none is), and their sum as "loss".

    `outputs` of the network and `known` labels (NaN: unknown), both [n, outputs] in the order of `facts.outputs`. Classes: binary cross-entropy in logits.
    Angles: smooth L1 (Huber 1964) of the error in units of ANGLE_UNIT_DEG.
    """
    parts = {}
    for column, name in enumerate(facts.outputs):
        there = known[:, column].isfinite()
        answer, truth = outputs[there, column].float(), known[there, column]
        if not there.any():
            parts[name] = outputs[:, column].float().sum() * 0
        elif name in CLASS_HEADS:
            parts[name] = F.binary_cross_entropy_with_logits(answer, truth)
        else:
            degrees = facts.centre_deg[name] + facts.spread_deg[name] * answer
            parts[name] = F.smooth_l1_loss(degrees / ANGLE_UNIT_DEG, truth / ANGLE_UNIT_DEG)
    return {"loss": sum(parts.values())} | parts


def frame_weights(table: pd.DataFrame, known: pd.DataFrame, other_share: float) -> np.ndarray:
    """How often each training frame is drawn, float [n] of sum 1: `other_share` for frames outside the arterial phase, and the rest in equal shares for the
    classes of circulation and plane (frames of unknown class as one more class), so that a scarce class is learned as well as the others."""
    group = np.where(known["phase"].to_numpy() == 0, len(CELLS), classes(table))
    kinds, index = np.unique(group, return_inverse=True)
    share = np.where(kinds == len(CELLS), other_share, (1 - other_share) / max((kinds != len(CELLS)).sum(), 1))
    weights = (share / np.bincount(index))[index]
    return weights / weights.sum()


def train(
    frames: np.ndarray,
    train_rows: pd.DataFrame,
    val_rows: pd.DataFrame,
    settings: Network,
    *,
    seed: int,
    **how,
) -> tuple[nn.Module, Facts, pd.DataFrame]:
    """Train on `train_rows` [frame_id, patient and the columns of `targets`] of the uint8 store `frames` [N, H, W]: the network, its facts and the log.

    `settings` is the profile's `network` section. Validation frames (`val_rows`, may be empty) choose the best weights. `how` goes to `training.fit`: folder,
    digest, precision, log_every_s, checkpoint_every_s. Frames are read batch by batch: memory does not grow with their number. Raises StudyError where
    no head can be trained (see `cannot_learn`).
    """
    check_frames(frames, "the DSA network's training frames")
    known = targets(train_rows)
    absent = cannot_learn(known)
    outputs = tuple(name for name in CLASS_HEADS if name not in absent)
    outputs += tuple(output for name in ANGLE_HEADS for output in _angle_outputs(known, name))
    if not outputs:
        raise StudyError(
            f"the DSA network has nothing to learn ({'; '.join(f'{name}: {why}' for name, why in absent.items())}): use a larger archive"
        )
    by_output = _by_output(known, outputs)
    angles = by_output[[output for output in outputs if output not in CLASS_HEADS]]
    facts = Facts(
        outputs,
        {name: round(float(value), 3) for name, value in angles.mean().items()},
        {name: round(float(value), 3) for name, value in angles.std().items()},
        settings.input_size,
        len(train_rows),
        int(train_rows["patient"].nunique()),
    )
    torch.manual_seed(seed)
    model = resnet.build_resnet(settings.width, len(outputs))
    ids, labels = train_rows["frame_id"].to_numpy(), torch.tensor(by_output.to_numpy(), dtype=torch.float32)
    val_ids = val_rows["frame_id"].to_numpy()
    val_labels = torch.tensor(_by_output(targets(val_rows), outputs).to_numpy(), dtype=torch.float32)

    def loss(network: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        images = resnet.to_input(frames[ids[indices]], settings.input_size).to(draws.device)
        return losses(network(augment(images, draws)).logits, labels[indices].to(draws.device), facts)

    def validate(network: nn.Module) -> dict[str, torch.Tensor]:
        return losses(_outputs(network, frames, val_ids, settings.input_size), val_labels, facts)

    history = fit(
        model,
        loss,
        size=len(ids),
        steps=settings.steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=seed,
        validate=validate if len(val_ids) else None,
        evaluate_every=max(settings.steps // settings.evaluations, 1),
        cosine=True,
        weights=frame_weights(train_rows, known, settings.other_share),
        what="DSA network",
        **how,
    )
    return model.eval(), facts, history


# --- answers ----------------------------------------------------------------------------------------------------------


def answers(
    model: nn.Module, facts: Facts, frames: np.ndarray, rows: np.ndarray | None = None, what: str = "frames"
) -> pd.DataFrame:
    """What the network says of uint8 frames [n, H, W] (or of their `rows` alone), columns HEADS: the probability that a frame is arterial, posterior, in
    plane B, and its angles in degrees, read by the outputs of the likelier plane; NaN where it has no output for that. `what` names the set in messages."""
    check_frames(frames, what)
    rows = np.arange(len(frames)) if rows is None else np.asarray(rows)
    outputs = _outputs(model, frames, rows, facts.input_size, what)
    found = pd.DataFrame(np.nan, index=range(len(rows)), columns=list(HEADS))
    by_output = dict(zip(facts.outputs, outputs.double().numpy().T, strict=True))
    for name in CLASS_HEADS:
        if name in by_output:
            found[name] = expit(by_output.pop(name))
    named_b = found["plane"].to_numpy() > 0.5
    for output, values in by_output.items():
        name, _, plane = output.partition(" ")
        # Without a head for the plane the training frames were of one plane alone.
        here = np.ones(len(rows), bool) if "plane" not in facts.outputs else named_b == (plane == "B")
        found.loc[here, name] = facts.centre_deg[output] + facts.spread_deg[output] * values[here]
    return found


@torch.no_grad()
def _outputs(
    model: nn.Module, frames: np.ndarray, rows: np.ndarray, size: int, what: str = "", batch_size: int = 128
) -> torch.Tensor:
    model.eval()
    device = next(model.parameters()).device
    starts = range(0, len(rows), batch_size)
    batches = [
        model(resnet.to_input(frames[rows[s : s + batch_size]], size).to(device)).logits.float().cpu()
        for s in (track(starts, what=f"batches judged, {what}") if what else starts)
    ]
    return torch.cat(batches) if batches else torch.zeros(0, model.config.num_labels)


def scores(found: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """How right the network is: one row a head that it has and that has known labels, columns head, frames, measure, value.

    `found` as from `answers`, `known` as from `targets`, both in the same order. Classes: the share named right; angles: the mean absolute error in degrees.
    """
    rows = []
    for name in HEADS:
        answer, truth = found[name].to_numpy(), known[name].to_numpy()
        there = np.isfinite(answer) & np.isfinite(truth)
        if not there.any():
            continue
        if name in CLASS_HEADS:
            measure, value = "share named right", ((answer > 0.5) == (truth > 0.5))[there].mean()
        else:
            measure, value = "mean absolute error (°)", np.abs(answer - truth)[there].mean()
        rows.append({"head": name, "frames": int(there.sum()), "measure": measure, "value": float(value)})
    return pd.DataFrame(rows, columns=["head", "frames", "measure", "value"])


def cell_probabilities(found: pd.DataFrame) -> np.ndarray:
    """Probabilities [n, 4], in the order of CELLS, from the heads for circulation and plane (`answers`), taken as independent given the frame."""
    posterior, plane_b = found["circulation"].to_numpy(), found["plane"].to_numpy()
    of = {"A": 1 - plane_b, "B": plane_b, "AC": 1 - posterior, "PC": posterior}
    return np.stack([of[cell[:2]] * of[cell[-1]] for cell in CELLS], axis=1)


def named_cells(found: pd.DataFrame) -> np.ndarray:
    """The likeliest cell [n] of each image, by what the network said of it (`dsa_network.answers`)."""
    return np.array(CELLS, dtype=object)[cell_probabilities(found).argmax(axis=1)]


# --- saving and opening -----------------------------------------------------------------------------------------------


def save(model: nn.Module, facts: Facts, path: Path) -> None:
    """Write the network as a folder that `ResNetForImageClassification.from_pretrained` opens (safetensors), with its facts (dsa_network.json)."""
    logging.disable_progress_bar()
    with atomic_write(path) as temporary:
        model.config.id2label = dict(enumerate(facts.outputs))
        model.config.label2id = {name: index for index, name in enumerate(facts.outputs)}
        model.save_pretrained(temporary)
        (temporary / FACTS).write_text(json.dumps(asdict(facts), indent=1, sort_keys=True) + "\n")


def load(folder: Path) -> tuple[nn.Module, Facts]:
    """The network in eval mode and its facts from a folder written by `save`; StudyError where the folder holds none."""
    from transformers import ResNetForImageClassification

    logging.disable_progress_bar()
    try:
        found = json.loads((Path(folder) / FACTS).read_text())
        model = ResNetForImageClassification.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise StudyError(
            f"the folder {Path(folder).name!r} does not hold a DSA network ({type(error).__name__}): run notebooks/07_fid.ipynb, which trains it"
        ) from None
    return model.eval(), Facts(**{**found, "outputs": tuple(found["outputs"])})


def of_run(study: Study) -> tuple[nn.Module, Facts] | None:
    """The network that notebook 07 trained in this run, on the device that computes, and its facts; None where it could train none."""
    if not study.has("dsa_network"):
        return None
    model, facts = load(study.read("dsa_network"))
    return model.to(default_device()), facts
