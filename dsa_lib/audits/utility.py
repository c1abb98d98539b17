"""Are generated frames of use as training data? The paper's motivation (§1, §4.1), which it leaves untested.

The same network is trained with the same steps, batches, augmentation and equal drawing of the classes on different mixtures of real, generated and
decoded real frames (`ARMS`), at nested shares of the training patients, and scored on patients that no network was trained on. The unit of the comparison
is a pair of trainings that share seed and patients (`differences`).

Generated frames are all arterial. Where they are mixed into one class only, a network may learn the look of the decoder in the place of the vessels;
`shortcut` measures that on real non-arterial frames passed through the autoencoder, and the arms of a matched look take it away.
"""

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import nn

from dsa_lib.audits import utility_tasks
from dsa_lib.audits.utility_tasks import (
    ALONE,
    ALONE_MATCHED,
    ARMS,
    DECODED,
    MATCHED,
    MIXED,
    REAL,
    Pool,
    Task,
    nested_patients,
)
from dsa_lib.curation import phase
from dsa_lib.nn import resnet, training
from dsa_lib.nn.training import Draws, fit
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters import Classifier, Utility
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import write_json

METRICS = ("auc", "average_precision", "f1", "balanced_accuracy")
COLUMNS = (
    "task", "share", "patients", "arm", "seed", *METRICS, "false_alarms", "false_alarms_decoded", "real_images", "synthetic_images", "test_images",
)  # fmt: skip
LEVEL = 0.95  # of all intervals
CODE = (sys.modules[__name__], utility_tasks, phase, training)  # what decides a row: for `Study.digest`


# --- mixtures ---------------------------------------------------------------------------------------------------------


def mixture(arm: str, generated: bool, share: float) -> tuple[float, float, float]:
    """Shares of (real, decoded real, generated) images among what `arm` draws of a class, which was `generated` or not; `share`: `synthetic_share`.

    In the arms of a matched look a decoded image is equally frequent in all classes, so that its look tells none of them. `DECODED` is their
    control: as many decoded images, and nothing new in them.
    """
    added = {MIXED: share, MATCHED: share, ALONE: 1.0, ALONE_MATCHED: 1.0}.get(arm, 0.0)
    if arm == DECODED:
        return 1 - share, share, 0.0
    if generated:
        return 1 - added, 0.0, added
    return (1 - added, added, 0.0) if arm in (MATCHED, ALONE_MATCHED) else (1.0, 0.0, 0.0)


def mixtures(share: float) -> pd.DataFrame:
    """`mixture` of every arm, for the eye: rows ARMS; columns (class that was generated or not, origin of the image)."""
    of = {"generated class": True, "other class": False}
    origins = ("real", "decoded", "generated")
    rows = {
        arm: {(kind, origin): value for kind, made in of.items() for origin, value in zip(origins, mixture(arm, made, share), strict=True)}
        for arm in ARMS
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def drawing_weights(labels: Sequence[np.ndarray], arm: str, classes: int, share: float) -> np.ndarray:
    """How often each image of (real, decoded, generated), their labels [n] each, is drawn, in that order; the sum is 1.

    Every class is drawn equally often. Where a source lacks a class its share goes to the others; a class that none has is not drawn at all.
    """
    weights = [np.zeros(len(part)) for part in labels]
    for index in range(classes):
        members = [part == index for part in labels]
        shares = np.array(mixture(arm, bool(members[2].any()), share)) * [mask.any() for mask in members]
        if shares.sum() == 0:
            continue
        for weight, mask, portion in zip(weights, members, shares / shares.sum(), strict=True):
            weight[mask] = portion / max(mask.sum(), 1)
    whole = np.concatenate(weights)
    if whole.sum() == 0:
        raise StudyError(f"{arm}: there is no image to train on")
    return whole / whole.sum()


# --- scores -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def probabilities(model: nn.Module, images: torch.Tensor, batch_size: int = 256) -> np.ndarray:
    """Class probabilities [n, classes] for uint8 images [n, 1, s, s]; a network of one output gives [1 − ŷ, ŷ]."""
    device = next(model.parameters()).device
    model.eval()
    logits = [model(part.to(device).float() / 255).logits.float().cpu() for part in images.split(batch_size)]
    logits = torch.cat(logits).double() if len(images) else torch.zeros(0, 2).double()
    if logits.shape[1] == 1:
        positive = logits[:, 0].sigmoid()
        return torch.stack([1 - positive, positive], 1).numpy()
    return logits.softmax(1).numpy()


def scores(truth: np.ndarray, answers: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """AUC, average precision, F1 and balanced accuracy of answers [n, classes] to class indices [n], by scikit-learn.

    Two classes: class 1 is called from `threshold` on. More: the likeliest class is called, and the first three are means over the classes that `truth`
    shows (one against the rest).
    """
    present = [1] if answers.shape[1] == 2 else sorted(set(truth))
    called = (answers[:, 1] >= threshold).astype(int) if answers.shape[1] == 2 else answers.argmax(1)
    one = {
        "auc": [roc_auc_score(truth == c, answers[:, c]) for c in present],
        "average_precision": [average_precision_score(truth == c, answers[:, c]) for c in present],
        "f1": [f1_score(truth == c, called == c, zero_division=0) for c in present],
    }
    recalls = [float((called[truth == c] == c).mean()) for c in sorted(set(truth))]
    return {name: float(np.mean(values)) for name, values in one.items()} | {
        "balanced_accuracy": float(np.mean(recalls))
    }


def shortcut(model: nn.Module, decoys: tuple[Pool, Pool], threshold: float) -> dict[str, float]:
    """Share of real non-arterial frames that are called arterial as they are, and after a pass through the autoencoder, which changes their look alone.

    A network that took the decoder's look for a sign of the arterial phase calls more of the decoded ones.
    """
    rates = [float((probabilities(model, part.images)[:, 1] >= threshold).mean()) for part in decoys]
    return dict(zip(("false_alarms", "false_alarms_decoded"), rates, strict=True))


# --- trainings --------------------------------------------------------------------------------------------------------


def compare(
    tasks: Sequence[Task],
    settings: Utility,
    classifier: Classifier,
    *,
    background_grey: int,
    seed: int,
    folder: Path,
    digest: str,
    only: Sequence[str] = ARMS,
    **how,
) -> pd.DataFrame:
    """Train and score every arm of every task (of `only`) at every share and seed: one row each, columns COLUMNS.

    `classifier` gives augmentation and threshold, `how` goes to `training.fit`. An arm leaves a row file in `folder`; the same call again reads the rows that
    bear the same digest and goes on with the arm that was interrupted.
    """
    if unknown := set(settings.side_arms) - set(ARMS):
        raise StudyError(f"utility.side_arms names {min(unknown)!r}: choose among {'; '.join(ARMS[2:])}")
    plan = [
        (task, share, patients, arm, seed + number)
        for task in tasks
        for number in range(settings.seeds)
        for share, patients in nested_patients(task.real.patients, settings.shares, seed + number).items()
        for arm in task.arms()
        if arm in only and (arm in (REAL, MIXED) or (arm in settings.side_arms and share in settings.side_shares))
    ]
    rows = []
    for task, share, patients, arm, number in track(plan, what="trainings of the comparison"):
        name = "-".join(_slug(part) for part in (task.name, f"{share:g}", arm, str(number)))
        mixed, weights, counts = _mixed(task, patients, arm, settings.synthetic_share)
        told = [_budget(settings), asdict(classifier), background_grey, arm, digest, _fingerprint(task, mixed, weights)]
        key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        row = _kept(folder / f"{name}.json", key)
        if row is None:
            where = {"seed": number, "folder": folder / name, "digest": key}
            model = _train(task, mixed, weights, settings, classifier, background_grey, **where, **how)
            row = {"task": task.name, "share": share, "patients": len(patients), "arm": arm, "seed": number}
            row |= scores(task.test.labels, probabilities(model, task.test.images), classifier.threshold)
            if task.decoys is not None:
                row |= shortcut(model, task.decoys, classifier.threshold)
            row |= {"real_images": counts[0], "synthetic_images": counts[2], "test_images": len(task.test)}
            write_json(folder / f"{name}.json", {"digest": key, "row": row})
            shutil.rmtree(folder / name, ignore_errors=True)  # the row is what remains
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _mixed(task: Task, patients: Sequence[str], arm: str, share: float) -> tuple[Pool, np.ndarray, list[int]]:
    """The images that `arm` draws, the weights of the draw, and how many are real, decoded and generated."""
    none = task.real.where(np.zeros(len(task.real), bool))
    parts = [task.real.of(patients), none if task.decoded is None else task.decoded.of(patients), task.synthetic]
    weights = drawing_weights([part.labels for part in parts], arm, len(task.classes), share)
    counts = [int((each > 0).sum()) for each in np.split(weights, np.cumsum([len(part) for part in parts])[:-1])]
    whole = Pool(*(np.concatenate(of) for of in zip(*((p.images, p.labels, p.patients) for p in parts), strict=True)))
    whole = replace(whole, images=torch.from_numpy(whole.images))
    return whole.where(weights > 0), weights[weights > 0], counts


def _train(
    task: Task, mixed: Pool, weights: np.ndarray, settings: Utility, classifier: Classifier, background_grey: int, **how
) -> nn.Module:
    labels, outputs = torch.from_numpy(mixed.labels), 1 if len(task.classes) == 2 else len(task.classes)
    torch.manual_seed(how["seed"])
    model = resnet.build_resnet(settings.width, outputs)

    def loss(network: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        truth = labels[indices].to(draws.device)
        with torch.autocast(draws.device.type, enabled=False):  # bfloat16 grid coordinates would be a quarter pixel off
            x = mixed.images[indices].to(draws.device).float() / 255
            x = phase.augment(x, draws, classifier, background_grey / 255, flip=task.flip)
        logits = network(x).logits.float()
        return {"loss": phase.bce(logits[:, 0], truth) if outputs == 1 else F.cross_entropy(logits, truth)}

    with contextlib.redirect_stdout(None):  # a line of each of so many trainings would bury the notebook
        fit(
            model,
            loss,
            size=len(mixed),
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            cosine=True,
            evaluate_every=settings.steps,
            weights=weights,
            live=False,
            what="utility",
            **how,
        )
    return model


def _kept(path: Path, key: str) -> dict | None:
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return found["row"] if found["digest"] == key else None


def _budget(settings: Utility) -> dict[str, object]:
    """What of the settings a single training depends on: with more seeds or shares the rows that are there stay."""
    return {name: getattr(settings, name) for name in ("input_size", "width", "batch_size", "learning_rate", "steps")}


def _fingerprint(task: Task, mixed: Pool, weights: np.ndarray) -> str:
    digest = hashlib.sha256(f"{task.name} {task.classes} {task.flip}".encode() + weights.tobytes())
    for part in (mixed, task.test, *(task.decoys or ())):
        digest.update(part.images.numpy().tobytes() + part.labels.tobytes() + "\n".join(part.patients).encode())
    return digest.hexdigest()


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "." else "_" for letter in text)


# --- from rows to findings --------------------------------------------------------------------------------------------


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and Student t interval at LEVEL of independent values [n]; the ends are nan for fewer than two, or where all are equal: nothing to estimate from."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2 or np.ptp(values) == 0:
        return mean, float("nan"), float("nan")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(LEVEL)
    return mean, float(low), float(high)


def levels(rows: pd.DataFrame, metric: str, least: float = 0.0) -> pd.DataFrame:
    """Mean of `metric` over the seeds, with its t interval: one row a task, share and arm, columns mean, low, high, seeds.

    Intervals end at `least` and at 1.
    """
    found = []
    for (task, share, arm), group in rows.groupby(["task", "share", "arm"], sort=False):
        mean, *ends = interval(group[metric].dropna())
        low, high = np.clip(ends, least, 1.0)
        base = {"task": task, "share": share, "patients": int(group["patients"].iloc[0]), "arm": arm}
        found.append(base | {"mean": mean, "low": low, "high": high, "seeds": int(group[metric].notna().sum())})
    return pd.DataFrame(found, columns=["task", "share", "patients", "arm", "mean", "low", "high", "seeds"])


def differences(rows: pd.DataFrame, metric: str, reference: str = REAL) -> pd.DataFrame:
    """Arm minus `reference`, paired by seed (same patients, same initial weights): the columns of `levels`, mean being that of the differences."""
    keys = ["task", "share", "patients", "seed"]
    base = rows.loc[rows["arm"] == reference, [*keys, metric]].rename(columns={metric: "base"})
    joined = rows[rows["arm"] != reference].merge(base, on=keys)
    return levels(joined.assign(difference=joined[metric] - joined["base"]), "difference", -1.0)


def all_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean paired differences from real frames alone in every measure, for the eye: one row a task, share and arm, one column a measure."""
    parts = [differences(rows, metric).assign(measure=metric) for metric in METRICS]
    index = ["task", "share", "patients", "arm"]
    return pd.concat(parts).pivot(index=index, columns="measure", values="mean")[list(METRICS)]


def shortcut_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How many more non-arterial frames are called arterial once they are decoded: one row a share and arm of the tasks where that was measured.

    `shift` is the mean rise of the false-alarm rate by decoding, over seeds; `excess`, with its interval, how much larger it is than with real frames alone:
    what decoding does to any network is taken off.
    """
    known = rows.dropna(subset="false_alarms")
    known = known.assign(shift=known["false_alarms_decoded"] - known["false_alarms"])
    keys = ["task", "share", "arm"]
    if known.empty:
        return pd.DataFrame(
            columns=[*keys, "false_alarms", "false_alarms_decoded", "shift", "excess", "low", "high", "seeds"]
        )
    means = known.groupby(keys, sort=False)[["false_alarms", "false_alarms_decoded", "shift"]].mean().reset_index()
    excess = differences(known, "shift").rename(columns={"mean": "excess"})
    return means.merge(excess[[*keys, "excess", "low", "high", "seeds"]], on=keys, how="left")


def verdict(rows: pd.DataFrame, metric: str = "auc", arm: str = MIXED) -> list[str]:
    """One sentence a task and share: what `arm` gains or loses against real frames alone, by the interval of the paired difference."""
    level = levels(rows, metric).set_index(["task", "share", "arm"])["mean"]
    score = "AUC" if metric == "auc" else metric.replace("_", " ")
    told = []
    for row in differences(rows, metric).query("arm == @arm").itertuples():
        with_, without = (level[row.task, row.share, name] for name in (arm, REAL))
        if np.isnan(row.low):
            finding = "a single seed says nothing of chance"
        elif row.low > 0:
            finding = "a gain"
        elif row.high < 0:
            finding = "a loss"
        else:
            finding = "no difference is shown"
        told.append(
            f"{row.task}, {row.share:.0%} of the patients ({row.patients}): {score} {with_:.3f} with {arm} against {without:.3f} with {REAL} alone, "
            f"difference {row.mean:+.3f} (95 % interval {row.low:+.3f} to {row.high:+.3f} over {row.seeds} seeds): {finding}."
        )
    return told
