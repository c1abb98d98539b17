"""Vessels of subtracted frames found without any truth, alike on acquired and on generated frames: pixels, calibre classes, area, centre lines.

A vessel is darker than its surroundings and narrow (black top-hat). Shallow structures must be narrower than deep ones: the edges that motion leaves in a
subtraction, and the capillary blush, are wide and shallow, while a round vessel is as deep as it is wide.

Calibre follows from depth along the centre line, not from the width seen. A round vessel's contrast path at its centre is its diameter, and at the study's
frame sizes most arteries are one or two pixels wide: on phantom frames of 128² width tells medium from peripheral arteries hardly better than chance
(Dice of peripheral 0.13), relative depth does so much better. Depth is taken relative to the deepest vessel of the frame, so that dose of contrast cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import (
    distance_transform_edt,
    gaussian_filter,
    grey_closing,
    maximum_filter,
)
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import remove_small_objects, skeletonize

from dsa_lib.core.statistics import times_drawn

CLASSES = ("proximal", "medium", "peripheral")  # 1, 2, 3 in maps, the labels of the phantom's truth

# Sizes are of frames REFERENCE_SIDE pixels a side and scale with the frame.
REFERENCE_SIDE = 128
NARROW, WIDE = 5, 11  # pixels: structures narrower than these are told from their surroundings
LOW, HIGH = 2.5, 4.5  # grey levels below the surroundings: hysteresis thresholds of narrow structures
LOW_WIDE, HIGH_WIDE = 6.0, 12.0  # ... and of wide ones
EDGE, REACH = 0.4, 3  # a vessel ends where it falls to this share of the darkest pixel in a window of so many pixels
SMALLEST = 7  # pixels of the smallest piece that counts as vessel

# Depth of the centre line relative to the deepest vessel of the frame from which an artery is medium and proximal: the thresholds of highest mean Dice against
# the truth of phantom training patients. On test patients vessels agree with filled arteries at Dice 0.81, and on pixels that both call vessel the classes
# at Dice 0.83 (proximal), 0.72 (medium) and 0.49 (peripheral).
MEDIUM_FROM, PROXIMAL_FROM = 0.12, 0.47
ALONG = 1.0  # pixels (SD) over which depth is averaged along the centre line
DEEPEST = 99.0  # percentile of depth along the centre lines that counts as the frame's deepest; the maximum itself hangs on one crossing of two vessels


def surroundings(frame: np.ndarray, closing: int) -> np.ndarray:
    """Grey level around the vessels [h, w]: what is left when dark structures narrower than `closing` pixels are closed, smoothed."""
    return gaussian_filter(
        grey_closing(gaussian_filter(frame.astype(np.float32), 0.6), closing, mode="nearest"), closing / 6
    )


def depth(frame: np.ndarray, closing: int) -> np.ndarray:
    """How many grey levels each pixel lies below its surroundings: vessels without the blush behind them (black top-hat)."""
    return np.clip(surroundings(frame, closing) - frame.astype(np.float32), 0, None)


def above(darkness: np.ndarray, low: float, high: float, edge: float, reach: int, smallest: int) -> np.ndarray:
    """Vessel pixels [h, w] bool of a `depth` image: above `high`, or above `low` and joined to such a pixel; pieces below `smallest` pixels are noise.

    Blurred flanks are no vessel: a pixel also needs `edge` of the depth of the darkest one in a window of `reach` pixels.
    """
    smoothed = gaussian_filter(darkness, 0.5)
    core = np.where(smoothed >= edge * maximum_filter(smoothed, reach), smoothed, 0)
    return remove_small_objects(apply_hysteresis_threshold(core, low, high), max_size=smallest - 1, connectivity=2)


def widths(vessels: np.ndarray) -> np.ndarray:
    """Width in pixels [h, w] of the vessel that each pixel belongs to (0 outside): twice the distance from its centre line to the outside, less one."""
    if not vessels.any():
        return np.zeros(vessels.shape)
    line = skeletonize(vessels)
    values = np.where(line, 2 * distance_transform_edt(vessels) - 1, 0)
    return np.where(vessels, _along(line, values, 2.0), 0)  # along the line: pixels are coarse


def _along(line: np.ndarray, values: np.ndarray, sd: float) -> np.ndarray:
    """`values` on the centre line [h, w], averaged along it over `sd` pixels, at every pixel those of the nearest point of the line."""
    smooth = gaussian_filter(np.where(line, values, 0).astype(float), sd)
    smooth /= np.maximum(gaussian_filter(line.astype(float), sd), 1e-9)
    nearest = distance_transform_edt(~line, return_distances=False, return_indices=True)
    return smooth[tuple(nearest)]


def window(pixels: float, side: int) -> int:
    """A window of `pixels` at REFERENCE_SIDE on a frame of `side`: an odd number of pixels, three at least."""
    return max(2 * round((pixels * side / REFERENCE_SIDE - 1) / 2) + 1, 3)


def segment(frame: np.ndarray) -> np.ndarray:
    """Vessel pixels [h, w] bool of one frame (uint8 or float, vessels dark on a grey background; acquired, decoded or generated)."""
    return _segment(frame)[0]


def areas(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Share of each frame's pixels that are vessel [n]: how far a frame is filled with contrast."""
    return np.array([segment(frame).mean() for frame in frames])


def _segment(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(vessel pixels, depth below the surroundings of wide structures) of one frame."""
    side = max(frame.shape)
    smallest = round(SMALLEST * (side / REFERENCE_SIDE))  # thin pieces: their pixels grow with the side, not its square
    narrow, wide = depth(frame, window(NARROW, side)), depth(frame, window(WIDE, side))
    reach = window(REACH, side)
    found = above(narrow, LOW, HIGH, EDGE, reach, smallest) | above(wide, LOW_WIDE, HIGH_WIDE, EDGE, reach, smallest)
    return found, wide


def calibres(frame: np.ndarray) -> np.ndarray:
    """Calibre class uint8 [h, w] of every vessel pixel: 0 none, 1 proximal, 2 medium, 3 peripheral, by relative depth of its centre line."""
    vessels, darkness = _segment(frame)
    return _classes(vessels, skeletonize(vessels), darkness)


def _classes(vessels: np.ndarray, line: np.ndarray, darkness: np.ndarray) -> np.ndarray:
    relative = relative_depth(vessels, line, darkness)
    classes = np.where(relative >= PROXIMAL_FROM, 1, np.where(relative >= MEDIUM_FROM, 2, 3))
    return np.where(vessels, classes, 0).astype(np.uint8)


def relative_depth(vessels: np.ndarray, line: np.ndarray, darkness: np.ndarray) -> np.ndarray:
    """Depth [h, w] of the vessel that each pixel belongs to, in shares of the frame's deepest: `darkness` along the centre line `line` (0 without any)."""
    if not line.any():
        return np.zeros(vessels.shape)
    ridge = maximum_filter(gaussian_filter(darkness, 0.5), 3)  # the skeleton may run a pixel beside the darkest line
    along = _along(line, ridge, ALONG * max(vessels.shape) / REFERENCE_SIDE)
    return along / max(float(np.percentile(ridge[line], DEEPEST)), 1e-9)


def area_fractions(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Share of each frame's pixels that are vessel of each calibre class, [n, 3] in the order of CLASSES."""
    return np.array([[(c == k).mean() for k in (1, 2, 3)] for c in map(calibres, frames)]).reshape(-1, len(CLASSES))


def line_lengths(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Length of centre line of each calibre class in a frame, as a share of its pixels, [n, 3] in the order of CLASSES.

    Beside the area: blur makes vessels wider and so hides in the area those that are missing.
    """
    found = []
    for frame in frames:
        vessels, darkness = _segment(frame)
        line = skeletonize(vessels)
        classes = np.where(line, _classes(vessels, line, darkness), 0)
        found.append([(classes == k).mean() for k in (1, 2, 3)])
    return np.array(found).reshape(-1, len(CLASSES))


def compare_areas(
    reference: Sequence[np.ndarray],
    frames: Sequence[np.ndarray],
    patients: Sequence | None = None,
    seed: int = 0,
    draws: int = 1000,
    measure: Callable[[Sequence[np.ndarray]], np.ndarray] = area_fractions,
) -> pd.DataFrame:
    """Vessel area by calibre class of `frames` (for instance generated) against `reference` (held-out) frames, one row a class.

    Columns: `reference_percent`, `frames_percent` (mean share of the frame), `ratio`, `low` and `high` (95 % bootstrap interval of the ratio).
    `patients`: of the reference frames; given, patients are drawn and not frames, since frames of one patient are much alike.
    `measure`: `area_fractions`, or `line_lengths`.
    """
    a, b = measure(reference), measure(frames)
    rng = np.random.default_rng(seed)
    groups = pd.factorize(np.arange(len(a)) if patients is None else np.asarray(patients))[0]
    # Sums and counts by patient: a draw of patients is a weighting of these.
    sums = np.stack([np.bincount(groups, weights=column) for column in a.T], axis=1)
    counts = np.bincount(groups)
    drawn = []
    for _ in range(draws):
        (of_groups,), (of_frames,) = (times_drawn(n, 1, rng, one_by_one=True) for n in (len(counts), len(b)))
        drawn.append((of_frames @ b / len(b)) / np.maximum(of_groups @ sums / max(of_groups @ counts, 1), 1e-12))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    means = a.mean(axis=0), b.mean(axis=0)
    return pd.DataFrame(
        {"reference_percent": 100 * means[0], "frames_percent": 100 * means[1], "ratio": means[1] / np.maximum(means[0], 1e-12),
         "low": low, "high": high}, index=pd.Index(CLASSES, name="calibre"),
    )  # fmt: skip
