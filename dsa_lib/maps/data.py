"""Which frames of a run, with which label maps, the models of notebook 08 are trained and judged on: an `AnatomySet` of arterial frames.

Where the label maps come from is the caller's: the phantom's own truth, or an automatic segmentation of a real archive.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd

from dsa_lib.core.pairs import AnatomySet
from dsa_lib.core.splits import evenly
from dsa_lib.curation.annotations import best_filled
from dsa_lib.run.errors import StudyError
from dsa_lib.vessels.filters import CLASSES


def of_run(
    arterial: pd.DataFrame,
    frames: np.ndarray,
    maps: Callable[[pd.DataFrame, np.ndarray], np.ndarray],
    settings,
) -> tuple[AnatomySet, pd.DataFrame]:
    """(the set of one run, by its patient split; the rows of `arterial` that it holds, in its order).

    arterial: the table of notebook 02; frames: uint8 [N, H, W], a memory map of which only the chosen are read; maps(rows, frames of the rows) gives their
    label maps, uint8 [n, H, W], classes as in `vessels.CLASSES`; settings: the profile's `anatomy`. Frames whose map is empty are left out: there is nothing
    to comply with. Raises StudyError where none is left to train on.
    """
    chosen = best_filled(arterial, settings.frames_per_series, settings.least_share)
    pictures = np.ascontiguousarray(frames[chosen["frame_id"].to_numpy()])
    labels = np.asarray(maps(chosen, pictures), np.uint8)
    kept = np.flatnonzero(labels.any(axis=(1, 2)))
    parts = chosen["split"].to_numpy()[kept]
    if not (parts == "train").any():
        raise StudyError(
            "no training frame of this run shows a labelled artery: look at the arterial frames of notebook 02, and at plausibility.segmenter"
        )
    told = chosen["patient"].to_numpy()[kept], parts, chosen["sentence"].to_numpy()[kept]
    return AnatomySet(pictures[kept], labels[kept], *told, tuple(CLASSES)), chosen.iloc[kept].reset_index(drop=True)


def held_out(data: AnatomySet, most: int, parts: tuple[str, ...] = ("val", "test")) -> np.ndarray:
    """Positions of the frames that the models are judged on: of the patients of `parts`, at most `most`, spread evenly over the set.

    No model learned from validation patients, but they chose which weights were kept. Raises StudyError where nobody is held out.
    """
    rows = np.sort(np.concatenate([data.rows(part) for part in parts]))
    if not len(rows):
        raise StudyError("no patient is held out: lower curation.train_fraction, or give an archive of more patients")
    return evenly(rows, most)


def varied(groups: np.ndarray, count: int) -> np.ndarray:
    """At most `count` positions of images to show, of as many of the `groups` [n] as there are: the middle one of each, then further ones, in order."""
    places = [np.flatnonzero(groups == name) for name in dict.fromkeys(groups)]
    share = -(-count // len(places))
    spread = [of[np.linspace(0, len(of) - 1, min(share, len(of)) + 2).round().astype(int)[1:-1]] for of in places]
    ordered = [of[turn] for turn in range(share) for of in spread if turn < len(of)]
    rest = np.setdiff1d(np.arange(len(groups)), ordered)  # a small group leaves room to the others
    return np.sort(np.array([*ordered, *rest], int)[:count])


def digest(data: AnatomySet) -> str:
    """What a training on `data` belongs to: sha256 of its images, label maps and parts."""
    found = hashlib.sha256()
    for values in (data.frames, data.labels, data.part.astype(str)):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def busiest(edges: np.ndarray, side: int) -> tuple[int, int]:
    """(row, column) of the upper left corner of the square of `side` pixels with the most edges, bool [H, W]: what is worth magnifying, chosen by nobody."""
    sums = np.zeros((edges.shape[0] + 1, edges.shape[1] + 1), int)
    sums[1:, 1:] = edges.cumsum(axis=0).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return tuple(int(at) for at in np.unravel_index(inside.argmax(), inside.shape))
