"""The two kinds of paired data of the neighbouring systems: label maps with images, and source with target images. Where they come from, no model knows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.core.splits import SPLITS
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import atomic_write

LEAST_PATIENTS = 3  # one to train on, one to choose the weights, one to test


class _Set:
    """What both have in common: arrays of one length, split by patient."""

    def __len__(self) -> int:
        return len(self.patients)

    def rows(self, part: str) -> np.ndarray:
        """Positions of the images of `part` ("train", "val" or "test")."""
        return np.flatnonzero(self.part == part)

    def at(self, rows: np.ndarray):
        """The images at `rows`, as a set of their own."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        n = len(self)
        return replace(self, **{k: v[rows] for k, v in values.items() if isinstance(v, np.ndarray) and len(v) == n})

    def save(self, path: Path) -> None:
        """Write the set to one .npz file, in one step."""
        values = {item.name: np.asarray(getattr(self, item.name)) for item in fields(self)}
        values = {name: value.astype(str) if value.dtype == object else value for name, value in values.items()}
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, **values)

    @classmethod
    def load(cls, path: Path):
        """The inverse of `save`."""
        with np.load(path, allow_pickle=False) as content:
            values = {item.name: content[item.name] for item in fields(cls)}
        for item in fields(cls):
            if item.type is not np.ndarray:  # a text, or names in order
                value = values[item.name]
                values[item.name] = tuple(str(name) for name in value) if value.ndim else str(value)
        return cls(**values)

    def _check(self, arrays: Sequence[np.ndarray], what: str) -> None:
        lengths = {len(each) for each in arrays}
        if lengths != {len(self.patients)} or not len(self.patients):
            raise StudyError(f"{what}: arrays of {sorted(lengths)} images: give as many of each, at least one")
        if unknown := set(self.part) - set(SPLITS):
            raise StudyError(f"{what}: unknown part {sorted(unknown)[0]!r}: choose {', '.join(SPLITS)}")
        homes: dict[object, str] = {}
        for patient, part in zip(self.patients, self.part, strict=True):
            if homes.setdefault(patient, part) != part:
                raise StudyError(f"{what}: a patient lies in {homes[patient]} and in {part}: split by patient")


@dataclass(frozen=True)
class AnatomySet(_Set):
    """Images with label maps.

    frames: uint8 [n, H, W]; labels: uint8 [n, H, W], 0 nothing, k the k-th of `classes`; patients [n]; part [n] of SPLITS; sentences [n], or "" where there is
    none; classes: names of the labels from 1 on. Raises StudyError where shapes, types or the split by patient are not so.
    """

    frames: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    part: np.ndarray
    sentences: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self):
        self._check([self.frames, self.labels, self.part, self.sentences], "label maps with images")
        if self.frames.shape != self.labels.shape or self.frames.dtype != np.uint8 or self.labels.dtype != np.uint8:
            raise StudyError(
                f"label maps {self.labels.dtype} {self.labels.shape} for images {self.frames.dtype} {self.frames.shape}: give uint8 of one shape"
            )
        if self.labels.max() > len(self.classes):
            raise StudyError(f"a label map holds {self.labels.max()}, but there are {len(self.classes)} classes")


@dataclass(frozen=True)
class TranslationSet(_Set):
    """Source images, the target images that belong to them, and where a lesion lies in the target.

    sources: uint8 [n, C, H, W]; targets: uint8 [n, H, W]; lesions: bool [n, H, W], empty where there is none; kinds [n]: name of the lesion, "" for none;
    patients [n]; part [n] of SPLITS; sentences [n], or "". Raises StudyError where shapes, types or the split by patient are not so.
    """

    sources: np.ndarray
    targets: np.ndarray
    lesions: np.ndarray
    kinds: np.ndarray
    patients: np.ndarray
    part: np.ndarray
    sentences: np.ndarray

    def __post_init__(self):
        self._check(
            [self.sources, self.targets, self.lesions, self.kinds, self.part, self.sentences], "pairs of images"
        )
        if self.sources.dtype != np.uint8 or self.targets.dtype != np.uint8 or self.lesions.dtype != bool:
            raise StudyError("pairs of images: give sources and targets as uint8 and lesions as bool")
        if not (self.sources.shape[2:] == self.targets.shape[1:] == self.lesions.shape[1:]):
            raise StudyError(
                f"pairs of images: sources {self.sources.shape}, targets {self.targets.shape}, lesions {self.lesions.shape}: give one height and width"
            )


def read_patients(
    folders: Iterable[Path], read: Callable[[Path], object], what: str, mend: str
) -> tuple[dict[str, object], pd.DataFrame]:
    """(what `read` makes of each patient's folder, by its name; quarantine [patient, reason]: one row a patient that it refused with a StudyError).

    Raises StudyError where fewer than LEAST_PATIENTS remain; `what` names the patients there, `mend` says what to do.
    """
    found, refused = {}, []
    for folder in track(list(folders), what=what):
        try:
            found[folder.name] = read(folder)
        except StudyError as error:
            refused.append({"patient": folder.name, "reason": str(error)})
    if len(found) < LEAST_PATIENTS:
        why = f" (the first of {len(refused)} left out: {refused[0]['reason']})" if refused else ""
        raise StudyError(
            f"{len(found)} {what} can be used, and {LEAST_PATIENTS} are needed to train, choose and test{why}: {mend}"
        )
    return found, pd.DataFrame(refused, columns=["patient", "reason"])
