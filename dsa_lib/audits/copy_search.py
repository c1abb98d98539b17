"""Nearest training frames of any frames, patient by patient, in spaces that a copy cannot easily leave.

A space turns frames into vectors whose Euclidean distance is small for a copy. In pixels and network maps a frame is looked up as it is and mirrored left
to right, in pixels shifted as well, so that an altered copy is found too. What is kept is the distance to the nearest frame of *every* training patient:
frames of one patient resemble each other, and how much nearer the nearest patient is than the second nearest says more about a copy than a distance alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dsa_lib.core.images import check_frames
from dsa_lib.fidelity.extractor import check_features
from dsa_lib.nn import resnet
from dsa_lib.nn.processes import default_device
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track

BLOCK = 256  # frames in memory at a time
PIXEL_SIZE, PIXEL_MARGIN, PIXEL_BLUR = (
    32,
    2,
    0.8,
)  # px: side, largest shift (in steps of 1) and SD of the blur, at that side
MAP_STAGES = ((0, 8), (1, 8), (2, 4))  # stage of the phase network, and the largest grid on which its map is kept


@dataclass(frozen=True)
class Space:
    """`embed`: uint8 frames [b, H, W] → float32 [b, d]; `views`: training frames in every form that is searched, [b, d] each.

    `mirrored`: frames are looked up left to right and right to left. `embed` is None where the vectors come from elsewhere (`feature_space`).
    `what` says in a few words what is compared.
    """

    name: str
    what: str
    embed: Callable[[np.ndarray], np.ndarray] | None
    views: Callable[[np.ndarray], Iterator[np.ndarray]]
    mirrored: bool = True


@dataclass(frozen=True)
class Nearest:
    """Of every looked-up frame [n] the nearest frame of every training patient [P]: `distance`, `position` in the training rows, whether `mirrored`.

    A patient without any frame that could be compared has distance inf and position −1.
    """

    distance: np.ndarray
    position: np.ndarray
    mirrored: np.ndarray
    patients: np.ndarray

    def without(self, own: np.ndarray) -> "Nearest":
        """The same with the column of the patient `own` [n] left out in every row (inf)."""
        hide = np.asarray(own)[:, None] == self.patients[None, :]
        return Nearest(np.where(hide, np.inf, self.distance), self.position, self.mirrored, self.patients)

    def among(self, patients: np.ndarray) -> "Nearest":
        """The same among these training patients alone."""
        kept = np.isin(self.patients, patients)
        return Nearest(self.distance[:, kept], self.position[:, kept], self.mirrored[:, kept], self.patients[kept])

    def at(self, images: np.ndarray) -> "Nearest":
        """Of the `images` (positions) alone."""
        return Nearest(self.distance[images], self.position[images], self.mirrored[images], self.patients)

    def replaced(self, images: np.ndarray, other: "Nearest") -> "Nearest":
        """The same with the rows of `other` in the place of those of `images` (positions)."""
        parts = []
        for mine, theirs in zip(
            (self.distance, self.position, self.mirrored), (other.distance, other.position, other.mirrored), strict=True
        ):
            parts.append(mine.copy())
            parts[-1][images] = theirs
        return Nearest(*parts, self.patients)

    def best(self) -> np.ndarray:
        """Which patient (column) is nearest, [n]."""
        return self.distance.argmin(axis=1)

    def at_best(self, name: str) -> np.ndarray:
        """`distance`, `position` or `mirrored` at the nearest patient, [n]."""
        return np.take_along_axis(getattr(self, name), self.best()[:, None], axis=1)[:, 0]

    def relative(self) -> np.ndarray:
        """Distance to the nearest patient over that to the second nearest, [n] in [0, 1]: 0 for an exact copy, near 1 where no patient stands out.

        The ratio is free of scale: frames that are smoother or fainter than others lie nearer to all patients alike. With a third as the limit it is
        the criterion of memorised samples of Yoon et al. (2023), there for single training images, here for patients.
        """
        if self.distance.shape[1] < 2:
            raise StudyError("training frames of one patient only: a second one is needed to say how near is near")
        two = np.partition(self.distance, 1, axis=1)[:, :2]
        return two[:, 0] / np.maximum(two[:, 1], np.finfo(np.float32).tiny)


# ---- spaces ----------------------------------------------------------------------------------------------------------


def spaces_of(classifier: Path, extractor: str) -> list[Space]:
    """The spaces of the audit: pixels, maps of the run's phase network in the folder `classifier`, and the features of the `extractor` of that name."""
    return [pixel_space(), map_space(classifier), feature_space(extractor)]


def pixel_space() -> Space:
    """Greys at 32 × 32, blurred, the margin cut off, each frame with mean 0 and length 1: brightness and contrast do not count.

    The squared distance is then 2 − 2 r with r the correlation of the two frames. The margin (2 px, a sixteenth of the frame) is how far a copy may be
    shifted, in steps of 1 px. Vessels are so thin that a shift halfway between two steps takes a copy out of reach.
    """

    def small(frames: np.ndarray) -> torch.Tensor:
        x = resnet.to_input(frames, PIXEL_SIZE).to(default_device())
        reach = torch.arange(-3, 4, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-0.5 * (reach / PIXEL_BLUR) ** 2)
        kernel = kernel / kernel.sum()
        x = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), kernel.view(1, 1, 1, -1))
        return F.conv2d(x, kernel.view(1, 1, -1, 1))[:, 0]

    def unit(x: torch.Tensor) -> np.ndarray:
        x = x.flatten(1)
        x = x - x.mean(1, keepdim=True)
        return (x / x.norm(dim=1, keepdim=True).clamp_min(1e-6)).cpu().numpy()

    side = PIXEL_SIZE - 2 * PIXEL_MARGIN
    shifts = range(2 * PIXEL_MARGIN + 1)

    def embed(frames: np.ndarray) -> np.ndarray:
        return unit(small(frames)[:, PIXEL_MARGIN : PIXEL_MARGIN + side, PIXEL_MARGIN : PIXEL_MARGIN + side])

    def views(frames: np.ndarray) -> Iterator[np.ndarray]:
        x = small(frames)
        for top in shifts:
            for left in shifts:
                yield unit(x[:, top : top + side, left : left + side])

    return Space("pixels", "greys at 32 × 32, shifted and mirrored too", embed, views)


def map_space(classifier: Path) -> Space:
    """Maps of the first three stages of the run's phase network in the folder `classifier`, at its own input size: what lies where.

    LPIPS's form (Zhang et al. 2018, Eq. 1) with unit weights: channels normalised at every place, squared differences averaged over places and stages. The
    network is the run's own, and the distance is not LPIPS.
    """
    model, facts = resnet.load_classifier(classifier)
    model = model.to(default_device())

    @torch.no_grad()
    def embed(frames: np.ndarray) -> np.ndarray:
        maps = resnet.stage_features(model, resnet.to_input(frames, facts["input_size"]).to(default_device()))
        parts = []
        for stage, grid in MAP_STAGES:
            here = F.normalize(maps[stage], dim=1)
            if here.shape[-1] > grid:
                here = F.adaptive_avg_pool2d(here, grid)
            parts.append(here.flatten(1) / (here.shape[-1] * len(MAP_STAGES) ** 0.5))
        return torch.cat(parts, 1).float().cpu().numpy()

    return Space(
        "network maps", "maps of the run's phase network, mirrored too", embed, lambda frames: iter([embed(frames)])
    )


def feature_space(name: str) -> Space:
    """Vectors computed before, one an image (`features.Extractor` called `name`): the space of notebook 07's distances. Not mirrored."""
    return Space(
        name, "the vector of an image that the distances are computed of", None, lambda vectors: iter([vectors]), False
    )


# ---- search ----------------------------------------------------------------------------------------------------------


def embed(space: Space, frames: np.ndarray, rows: np.ndarray | None = None, what: str = "frames") -> np.ndarray:
    """Vectors [2, n, d] of uint8 frames [N, H, W] or of their `rows`, as they are and mirrored; [1, n, d] in a space that does not mirror.

    `frames` are the vectors [N, d] themselves in a `feature_space`. A memory map is read in batches. Raises StudyError on what cannot be used.
    """
    rows = np.arange(len(frames)) if rows is None else np.asarray(rows)
    if len(rows) == 0:
        raise StudyError(f"{what} are missing: there is nothing to look up in the training frames")
    if space.embed is None:
        return check_features(np.asarray(frames[rows], np.float32), f"{space.name} of the {what}")[None]
    check_frames(frames, what)
    ways = (slice(None), slice(None, None, -1)) if space.mirrored else (slice(None),)
    parts = [
        np.stack([space.embed(np.ascontiguousarray(batch[:, :, way])) for way in ways])
        for batch in (frames[rows[start : start + BLOCK]] for start in range(0, len(rows), BLOCK))
    ]
    vectors = np.concatenate(parts, axis=1)
    for way in vectors:
        check_features(way, f"{space.name} of the {what}")
    return vectors


def search(
    space: Space,
    queries: np.ndarray,
    frames: np.ndarray,
    rows: np.ndarray,
    patients: np.ndarray,
    itself: np.ndarray | None = None,
) -> Nearest:
    """The nearest frame of every training patient for each of the vectors `queries` [1 or 2, n, d] (`embed`).

    `frames` [N, H, W] (vectors [N, d] in a `feature_space`) holds the training frames in its `rows` [m], of the `patients` [m]. `itself` [n]: the row of
    `frames` that a query is itself, which is then not compared with (−1: none). Training frames are read in blocks of one patient; beyond the queries and the
    n × P result memory does not grow. Raises StudyError without training frames.
    """
    rows, patients = np.asarray(rows), np.asarray(patients)
    if len(rows) == 0:
        raise StudyError("there is no training frame to compare with: look at the counts that notebook 01 printed")
    names = np.unique(patients)
    ways = [torch.from_numpy(np.ascontiguousarray(way, np.float32)).to(default_device()) for way in queries]
    shape = (len(ways[0]), len(names))
    found = [torch.full(shape, torch.inf), torch.full(shape, -1), torch.zeros(shape, dtype=torch.bool)]
    for column, name in enumerate(track(names, what=f"training patients searched, {space.name}")):
        here = np.flatnonzero(patients == name)
        for start in range(0, len(here), BLOCK):
            positions = here[start : start + BLOCK]
            hidden = None if itself is None else torch.from_numpy(np.asarray(itself)[:, None] == rows[positions])
            for view in space.views(np.ascontiguousarray(frames[rows[positions]])):
                view = torch.from_numpy(check_features(view, f"{space.name} of the training frames")).float()
                for mirrored, q in enumerate(ways):
                    if view.shape[1] != q.shape[1]:
                        raise StudyError(
                            f"{space.name}: training frames give {view.shape[1]} values and the others {q.shape[1]}: compute both alike"
                        )
                    distance, place = _nearest(q, view.to(q.device), hidden)
                    better = distance < found[0][:, column]
                    found[0][better, column] = distance[better]
                    found[1][better, column] = torch.from_numpy(positions)[place[better]]
                    found[2][better, column] = bool(mirrored)
    return Nearest(*(value.numpy() for value in found), names)


def _nearest(
    q: torch.Tensor, reference: torch.Tensor, hidden: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to the nearest row of `reference` and its place, for each row of q; not to rows that are `hidden` [n, b]."""
    own, other = q.square().sum(1), reference.square().sum(1)
    squared = own[:, None] + other - 2 * (q @ reference.T)
    if hidden is not None:
        squared = squared.masked_fill(hidden.to(squared.device), torch.inf)
    least, place = squared.min(dim=1)
    # The expanded square loses digits where both are nearly equal; there the difference itself is taken, so that an exact copy lies at zero.
    close = least < 1e-3 * (own + other[place])
    if close.any():
        least[close] = (q[close] - reference[place[close]]).square().sum(1)
    return least.clamp_min(0).sqrt().cpu(), place.cpu()
