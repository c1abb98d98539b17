"""Which images of a run, with which label maps and edges, the models of notebook 21 are told and judged on: a `MapSet`.

Where the label maps of the run's own frames come from is the caller's: the phantom's own truth, or an automatic segmentation of a real archive.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.core.pairs import AnatomySet
from dsa_lib.core.splits import evenly
from dsa_lib.curation.annotations import best_filled
from dsa_lib.maps import acdc, map_diffusion
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Anatomy
from dsa_lib.run.session import Study
from dsa_lib.vessels.filters import CLASSES

PHANTOM, ARCHIVE, ACDC = "phantom", "archive", "ACDC"  # `MapSet.origin`, the `source` of tables
HELD_OUT = ("val", "test")
LabelMaps = Callable[[pd.DataFrame, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class MapSet(AnatomySet):
    """Images and label maps with what the models are told of them, and which of them they are judged on.

    edges: bool [n, H, W], Canny's boundaries of the frames; judged: bool [n], the held-out images that every model makes anew; kinds [n]: what a choice of
    examples varies over, the condition of an image or its patient; annotated: the classes that the models are told; annotation: how the label maps were
    made, in words; origin: PHANTOM, ARCHIVE or ACDC. Raises StudyError as `AnatomySet` does, and for edges of another shape or type.
    """

    edges: np.ndarray
    judged: np.ndarray
    kinds: np.ndarray
    annotated: tuple[str, ...]
    annotation: str
    origin: str

    def __post_init__(self):
        super().__post_init__()
        self._check([self.edges, self.judged, self.kinds], "edges of label maps")
        if self.edges.shape != self.labels.shape or self.edges.dtype != bool or self.judged.dtype != bool:
            raise StudyError(
                f"edges {self.edges.dtype} {self.edges.shape} for label maps {self.labels.shape}: give bool of one shape"
            )

    @property
    def held_out(self) -> np.ndarray:
        """Positions of the images that the models are judged on, in ascending order."""
        return np.flatnonzero(self.judged)

    def conditions(self, with_edges: bool) -> map_diffusion.ConditionMaps:
        """What a model is told of every image: the annotated classes, and the edges or not."""
        return map_diffusion.ConditionMaps(
            self.labels, self.edges if with_edges else None, self.annotated, self.classes
        )


def of_run(study: Study, label_maps: LabelMaps, annotation: str) -> tuple[MapSet, tuple[np.ndarray, np.ndarray]]:
    """(the set of the run's own arterial frames; mean and standard deviation of their latents, [n, C, h, w] each, as notebook 03 wrote them).

    label_maps: as for `of_frames`; annotation: how they are made, in words.
    """
    frames = np.load(study.read("frames.npy"), mmap_mode="r")
    arterial = pd.read_parquet(study.read("arterial.parquet"))
    data, rows = of_frames(arterial, frames, label_maps, study.profile.anatomy)
    origin = PHANTOM if study.archive is None else ARCHIVE
    told = with_edges(data, study.profile.anatomy, rows["cell"].to_numpy(), annotation=annotation, origin=origin)
    index = pd.read_parquet(study.read("latents/index.parquet"))["frame_id"]
    place = pd.Series(index.index, index=index)[rows["frame_id"]].to_numpy()
    mean, std = (np.load(study.read(f"latents/{name}.npy"), mmap_mode="r")[place] for name in ("mean", "std"))
    return told, (mean, std)


def automatic(segment: Callable[[np.ndarray, str], np.ndarray]) -> LabelMaps:
    """Label maps by a segmenter, segment(frames, what) → uint8 [n, H, W], where nobody has drawn any."""
    return lambda rows, frames: segment(frames, "frames to annotate")


def of_acdc(study: Study, folder: Path) -> tuple[MapSet, pd.DataFrame]:
    """(the set of the public ACDC layout in `folder`, its patients that were left out with the reason: columns patient, reason).

    All classes are told, as in the source, and the models are judged on the test part alone. Raises StudyError as `acdc.read` does.
    """
    profile = study.profile
    data, quarantine = acdc.read(Path(folder), profile.autoencoder.image_size, profile.seed, profile.acdc)
    whose = {"annotated": data.classes, "judged": ("test",), "annotation": "manual", "origin": ACDC}
    return with_edges(data, profile.anatomy, data.patients, **whose), quarantine


def with_edges(
    data: AnatomySet,
    settings: Anatomy,
    kinds: np.ndarray,
    *,
    annotated: Sequence[str] = (),
    judged: tuple[str, ...] = HELD_OUT,
    annotation: str = "",
    origin: str = PHANTOM,
) -> MapSet:
    """`data` with the edges of its images, and those of the patients of the parts `judged` marked that models are judged on.

    settings: the profile's `anatomy`, whose `annotated` classes are told unless others are given. Raises StudyError where nobody is held out.
    """
    edges = map_diffusion.edges(data.frames, settings.edge_sigma, settings.edge_low, settings.edge_high)
    chosen = np.zeros(len(data), bool)
    chosen[held_out(data, settings.evaluated, judged)] = True
    values = {item.name: getattr(data, item.name) for item in fields(data)}
    told = tuple(annotated or settings.annotated)
    return MapSet(
        **values, edges=edges, judged=chosen, kinds=kinds, annotated=told, annotation=annotation, origin=origin
    )


def of_frames(
    arterial: pd.DataFrame, frames: np.ndarray, label_maps: LabelMaps, settings: Anatomy
) -> tuple[AnatomySet, pd.DataFrame]:
    """(the set of one run, by its patient split; the rows of `arterial` that it holds, in its order).

    arterial: the table of notebook 02; frames: uint8 [N, H, W], a memory map of which only the chosen are read; label_maps(rows, frames of the rows) gives
    their label maps, uint8 [n, H, W], classes as in `vessels.CLASSES`; settings: the profile's `anatomy`. Frames whose map is empty are left out: there is
    nothing to comply with. Raises StudyError where none is left to train on.
    """
    chosen = best_filled(arterial, settings.frames_per_series, settings.least_share)
    pictures = np.ascontiguousarray(frames[chosen["frame_id"].to_numpy()])
    labels = np.asarray(label_maps(chosen, pictures), np.uint8)
    kept = np.flatnonzero(labels.any(axis=(1, 2)))
    parts = chosen["split"].to_numpy()[kept]
    if not (parts == "train").any():
        raise StudyError(
            "no training frame of this run shows a labelled artery: look at the arterial frames of notebook 02, and at plausibility.segmenter"
        )
    told = chosen["patient"].to_numpy()[kept], parts, chosen["sentence"].to_numpy()[kept]
    return AnatomySet(pictures[kept], labels[kept], *told, tuple(CLASSES)), chosen.iloc[kept].reset_index(drop=True)


def held_out(data: AnatomySet, most: int, parts: tuple[str, ...] = HELD_OUT) -> np.ndarray:
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
