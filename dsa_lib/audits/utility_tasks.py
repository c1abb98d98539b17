"""What a network is to learn in `utility`: pools of real, decoded, generated and held-out images, and the two tasks made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from dsa_lib.core import images
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.curation import annotations as labels
from dsa_lib.fidelity import dsa_network
from dsa_lib.ldm import autoencoder
from dsa_lib.nn import resnet
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters import Utility
from dsa_lib.run.progress import track
from dsa_lib.run.session import Study

REAL, MIXED, MATCHED = "real", "real + synthetic", "real + synthetic, look matched"
ALONE, ALONE_MATCHED, DECODED = "synthetic for real", "synthetic for real, look matched", "real, partly decoded"
ARMS = (REAL, MIXED, MATCHED, ALONE, ALONE_MATCHED, DECODED)
LEAST_PATIENTS = 2  # of a subset: with one, what is the class and what is this patient's anatomy cannot be told apart


@dataclass(frozen=True)
class Pool:
    """Images of one origin: uint8 [n, 1, s, s] at the network's input size, class indices int64 [n], patients [n] ("" for generated ones)."""

    images: torch.Tensor
    labels: np.ndarray
    patients: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: np.ndarray) -> "Pool":
        """The images that the mask or the positions `chosen` name."""
        positions = np.arange(len(self))[chosen]
        return Pool(self.images[torch.from_numpy(positions)], self.labels[positions], self.patients[positions])

    def of(self, patients: Sequence[str]) -> "Pool":
        """The images of these patients."""
        return self.where(np.isin(self.patients, list(patients)))


@dataclass(frozen=True)
class Task:
    """What a network is to learn: `real`, `synthetic` and `test` images with labels that index `classes`.

    `decoded` holds frames of `real` passed through the autoencoder. `decoys` are frames of test patients in class 0, as acquired and decoded, in the same
    order. With two classes the network has one output (Eq. 1), the probability of class 1. `flip`: whether augmentation may mirror; `against`: where the labels
    of `test` come from.
    """

    name: str
    classes: tuple[str, ...]
    real: Pool
    synthetic: Pool
    test: Pool
    decoded: Pool | None = None
    decoys: tuple[Pool, Pool] | None = None
    flip: bool = True
    against: str = ""

    def arms(self) -> list[str]:
        """The arms that this task allows: a matched look needs decoded frames of each class that was not generated, its control of each class."""
        classes = set(range(len(self.classes)))
        decoded = set() if self.decoded is None else set(self.decoded.labels)
        left = classes - set(self.synthetic.labels)
        out = set() if left and left <= decoded else {MATCHED, ALONE_MATCHED}
        out |= set() if classes <= decoded else {DECODED}
        return [arm for arm in ARMS if arm not in out]


def pool(
    images: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    size: int,
    through: Callable[[np.ndarray], np.ndarray] | None = None,
    what: str = "frames",
) -> Pool:
    """The rows [n] of a uint8 store [N, H, W] (a memory map is read in blocks) at input size, passed `through` the autoencoder first where that is given."""
    blocks = [rows[first : first + 256] for first in range(0, len(rows), 256)]
    parts = []
    for block in track(blocks, what=f"blocks of {what}"):
        block = np.asarray(images[block])
        x = resnet.to_input(block if through is None else through(block), size)
        parts.append((255 * x).round().to(torch.uint8))
    stack = torch.cat(parts) if parts else torch.zeros(0, 1, size, size, dtype=torch.uint8)
    return Pool(stack, np.asarray(labels, dtype=np.int64), np.asarray(patients, dtype=object))


def at_most(table: pd.DataFrame, count: int, seed: int, by: str | None = None) -> pd.DataFrame:
    """At most `count` rows (0: all) drawn at random, of every value of the column `by` where it is named; in the order of the table."""
    shuffled = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    if count:
        shuffled = shuffled.head(count) if by is None else shuffled.groupby(by, sort=False).head(count)
    return table.loc[shuffled.index.sort_values()]


def cannot_compare(task: str, train: pd.DataFrame, test: pd.DataFrame, synthetic: int) -> str | None:
    """Why generated frames cannot be tried on this task, or None; `train` and `test` have the columns patient and label."""
    if not synthetic:
        return f"{task}: there are no generated frames"
    if (patients := train["patient"].nunique()) < LEAST_PATIENTS:
        return f"{task}: {patients} training patient(s) with labelled frames, and at least {LEAST_PATIENTS} are needed"
    for part, rows in (("training", train), ("held-out", test)):
        if rows["label"].nunique() < 2:
            return f"{task}: the {part} frames with a label show fewer than two classes"
    if shared := set(train["patient"]) & set(test["patient"]):
        raise StudyError(
            f"{task}: {len(shared)} patients are in training and test at once; run notebooks/01_curation.ipynb again"
        )
    return None


def phase_task(
    frames: np.ndarray,
    train: pd.DataFrame,
    test: pd.DataFrame,
    generated: np.ndarray,
    settings: Utility,
    seed: int,
    decode: Callable[[np.ndarray], np.ndarray] | None = None,
    decoded_labels: Sequence[int] = (0,),
) -> Task:
    """Arterial phase or not. `train` and `test` [frame_id, label, patient] name rows of the uint8 store `frames`; `generated` [n, H, W] are all arterial.

    `decode` passes frames through the autoencoder: of the patients whom the shares with control arms draw, and of `decoded_labels` alone, because it is slow.
    """
    task = _task(
        "arterial phase",
        ("not arterial", "arterial"),
        frames,
        train,
        test,
        generated,
        np.ones(len(generated)),
        settings,
        seed,
    )
    if decode is None:
        return task
    drawn = {
        patient
        for number in range(settings.seeds)
        for patients in nested_patients(train["patient"], settings.side_shares, seed + number).values()
        for patient in patients
    }
    some = train[train["patient"].isin(drawn) & train["label"].isin(decoded_labels)]
    some = at_most(some, settings.decoded_per_patient, seed, by="patient")
    decoys = at_most(test[test["label"] == 0], settings.decoys, seed)
    return replace(
        task,
        decoded=_of(frames, some, settings, decode, "frames decoded"),
        decoys=(_of(frames, decoys, settings), _of(frames, decoys, settings, decode, "held-out frames decoded")),
    )


def view_task(
    frames: np.ndarray,
    train: pd.DataFrame,
    test: pd.DataFrame,
    generated: np.ndarray,
    cells: Sequence[str],
    settings: Utility,
    seed: int,
) -> Task:
    """Circulation and plane, where the sentence is the label: `label` indexes CELLS, and `cells` [n] were asked of the `generated` frames."""
    asked = np.array([CELLS.index(cell) for cell in cells], dtype=np.int64)
    task = _task("circulation and plane", CELLS, frames, train, test, generated, asked, settings, seed)
    return replace(task, flip=False)  # a mirror turns one side into the other


def _task(name, classes, frames, train, test, generated, labels, settings, seed) -> Task:
    train = at_most(train, settings.frames_per_patient, seed, by="patient")
    test = at_most(test, settings.test_frames, seed)
    nobody = np.full(len(generated), "", dtype=object)
    synthetic = pool(generated, np.arange(len(generated)), labels, nobody, settings.input_size)
    return Task(name, tuple(classes), _of(frames, train, settings), synthetic, _of(frames, test, settings))


def _of(frames: np.ndarray, rows: pd.DataFrame, settings: Utility, through=None, what: str = "frames") -> Pool:
    return pool(frames, rows["frame_id"].to_numpy(), rows["label"], rows["patient"], settings.input_size, through, what)


def nested_patients(patients: Sequence[str], shares: Sequence[float], seed: int) -> dict[float, list[str]]:
    """Patients of each share, at least `LEAST_PATIENTS`: the first of one random order, so that a smaller subset lies within every larger one."""
    order = np.random.default_rng(seed).permutation(sorted(set(patients)))
    return {share: order[: max(LEAST_PATIENTS, round(share * len(order)))].tolist() for share in shares}


# --- of a run ---------------------------------------------------------------------------------------------------------


def library(study: Study) -> tuple[np.ndarray, list[str]]:
    """All generated frames of notebook 05, uint8 [n, H, W], and the condition that each was asked to show."""
    frames, cells = [], []
    for name in ("samples/fid", "samples/reader"):
        manifest = pd.read_parquet(study.read(name) / "manifest.parquet")
        frames.append(images.read_images(study.read(name), manifest["file"].tolist()))
        cells += manifest["cell"].tolist()
    return np.concatenate(frames), cells


def tasks_of_run(
    study: Study,
    frames: np.ndarray,
    arterial: pd.DataFrame,
    generated: np.ndarray,
    cells: Sequence[str],
    settings: Utility,
    decoded_labels: Sequence[int] = (0,),
) -> tuple[list[Task], list[str]]:
    """The tasks that this run's data allow, and for each of the others the sentence why not. `frames` is the run's store, `arterial` its arterial.parquet.

    The phase is learnt from the labels of notebook 02. On the phantom it is scored on all frames of the test patients against the truth, else on the
    labelled ones, which leave out the moments at which the phase changes.
    """
    tasks, reasons, seed = [], [], study.profile.seed
    train, test, against = _phase_labels(study)
    if why := cannot_compare("arterial phase", train, test, len(generated)):
        reasons.append(why)
    else:
        known = (settings, seed, autoencoder.round_trip(study), decoded_labels)
        tasks.append(replace(phase_task(frames, train, test, generated, *known), against=against))
    known = arterial.assign(label=dsa_network.classes(arterial)).query("label >= 0")
    train, test = (known[known["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    if why := cannot_compare("circulation and plane", train, test, len(generated)):
        reasons.append(why)
    else:
        task = view_task(frames, train, test, generated, cells, settings, seed)
        tasks.append(replace(task, against="its DICOM entries"))
    return tasks, reasons


def _phase_labels(study: Study) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Labelled training frames, held-out frames with a reference, and what that reference is."""
    everything = pd.read_parquet(study.read("frames.parquet"))
    labelled = everything.head(0).assign(label=[])  # notebook 02 applied a classifier, or ran before it kept its labels
    if study.has("labelled.parquet"):
        labelled = pd.read_parquet(study.read("labelled.parquet"))
    train, test = (labelled[labelled["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    if study.archive is not None or not study.has("archive_truth.parquet"):
        return train, test, "annotation windows"
    test = everything[everything["split"] == "test"].reset_index(drop=True)
    key = labels.read_key(study.ws.private("series_key.parquet"))
    true = labels.true_phase(test, key, pd.read_parquet(study.read("archive_truth.parquet")))
    return train, test.assign(label=(true == labels.ARTERIAL).astype(int)), "phantom truth"
