"""What a segmentation and the spectrum say of one image's vessels: area, centre lines, branching, continuity, fineness. None of it needs a truth.

Measures come from the class map of an image (`vessels.CLASSES`; pieces smaller than `vessels.SMALLEST` pixels are left out as noise), from the centre lines of
that, and from the power spectrum of its grey values (`spectra.spectrum`).
"""

import numpy as np
from scipy.ndimage import binary_dilation, label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from skimage.morphology import remove_small_objects, skeletonize

from dsa_lib.vessels import filters as vessel_filters

# What each measure is: lengths in sides of the frame, so that frame sizes compare.
MEASURES = {
    "area": "share of the frame that is artery",
    **{f"area {name}": f"share of the frame that is {name} artery" for name in vessel_filters.CLASSES},
    "length": "centre line, in sides of the frame",
    **{f"length {name}": f"centre line of {name} arteries, in sides of the frame" for name in vessel_filters.CLASSES},
    "pieces": "connected pieces (8 neighbours)",
    "largest piece": "share of the arterial area in the largest piece",
    "branchings": "branchings and crossings of the centre line per side of length",
    "loose ends": "ends of the centre line per side of length",
    "tortuosity": "length along the centre line over the straight distance, between branchings and ends",
    "spectral slope": "exponent of the power spectrum between SLOPE_BAND",
    "fine power": "power above FINE_FROM: noise and the finest detail, grey levels squared",
}
LEAST_BRANCH = 8  # pixels at vessels.REFERENCE_SIDE: in shorter stretches the grid of pixels decides what is straight
CHORD = 4  # pixels between the corners of the polygon whose length counts
SLOPE_BAND = (1 / 32, 1 / 4)  # cycles a pixel
FINE_FROM = 0.35  # cycles a pixel


def of_classes(classes: np.ndarray) -> dict[str, float]:
    """The measures that come from one class map [h, w] (0 none, 1–3 as in `vessels.CLASSES`).

    Without any artery, what is per length or per area is NaN, not 0.
    """
    side = max(classes.shape)
    smallest = round(vessel_filters.SMALLEST * side / vessel_filters.REFERENCE_SIDE)
    everywhere = np.ones((3, 3), bool)
    found = remove_small_objects(classes > 0, max_size=smallest - 1, connectivity=2)
    pieces, count = label(found, everywhere)
    line = skeletonize(found)
    classes = np.where(found, classes, 0)
    lengths = _line_lengths(line, classes) / side
    length = float(lengths.sum())
    crossings = transitions(line)
    branchings = label(line & (crossings > 2), everywhere)[1]
    out = {"area": float(found.mean()), "length": length, "pieces": count}
    for k, name in enumerate(vessel_filters.CLASSES, 1):
        out |= {f"area {name}": float((classes == k).mean()), f"length {name}": float(lengths[k])}
    out["largest piece"] = float(np.bincount(pieces[found]).max() / found.sum()) if count else np.nan
    out["branchings"] = branchings / length if length else np.nan
    out["loose ends"] = int((line & (crossings == 1)).sum()) / length if length else np.nan
    out["tortuosity"] = _tortuosity(line, crossings, LEAST_BRANCH * side / vessel_filters.REFERENCE_SIDE)
    return out


_RING = (
    (-1, 0),
    (-1, 1),
    (0, 1),
    (1, 1),
    (1, 0),
    (1, -1),
    (0, -1),
    (-1, -1),
)  # the eight neighbours in their order around a pixel


def transitions(line: np.ndarray) -> np.ndarray:
    """How many branches leave each pixel of a centre line [h, w]: Rutovitz' crossing number (1966), 0 outside.

    The number of times the eight neighbours, taken around, turn from background to line: 1 at an end, 2 along a line, 3 or more where it branches. Unlike a
    count of neighbours it is not misled by a staircase.
    """
    padded = np.pad(line, 1)
    height, width = line.shape
    ring = [padded[1 + down : 1 + down + height, 1 + right : 1 + right + width] for down, right in _RING]
    turns = sum((~ring[n - 1] & ring[n]).astype(np.uint8) for n in range(8))
    return np.where(line, turns, 0)


def _links(line: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Pairs of neighbouring pixels of a centre line as (flat indices, flat indices, distance); a diagonal only where no corner pixel already joins the two."""
    height, width = line.shape
    index = np.arange(line.size).reshape(line.shape)
    found = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        rows, here = slice(0, height - down), slice(max(-right, 0), width - max(right, 0))
        below, there = slice(down, height), slice(max(right, 0), width - max(-right, 0))
        joined = line[rows, here] & line[below, there]
        if down and right:
            joined &= ~(line[rows, there] | line[below, here])
        found.append((index[rows, here][joined], index[below, there][joined], float(np.hypot(down, right))))
    return found


def _line_lengths(line: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Length in pixels of the centre line by class, [4]: every link between neighbours counts half for either end's class."""
    flat, total = classes.ravel(), np.zeros(len(vessel_filters.CLASSES) + 1)
    for a, b, distance in _links(line):
        for end in (a, b):
            total += np.bincount(flat[end], minlength=len(total)) * distance / 2
    return total


def _tortuosity(line: np.ndarray, crossings: np.ndarray, least: float) -> float:
    """Σ length along / Σ straight distance over the stretches of centre line between branchings and ends, of `least` pixels or more; NaN without any.

    The length is that of the polygon through every CHORD-th pixel: steps from pixel to pixel overstate a curve, a half circle by 7 %.
    """
    everywhere = np.ones((3, 3), bool)
    # The neighbours of a branching touch one another: without them the stretches part.
    stretches, count = label(line & ~binary_dilation(crossings > 2, everywhere), everywhere)
    of = stretches.ravel()
    ends = np.flatnonzero((stretches > 0) & (transitions(stretches > 0) == 1))
    ends = ends[np.argsort(of[ends], kind="stable")]
    paired = np.flatnonzero(np.bincount(of[ends], minlength=count + 1) == 2)  # a ring has no end
    if not len(paired):
        return np.nan
    first = ends[np.searchsorted(of[ends], paired)]
    links = [(a, b, np.full(len(a), distance)) for a, b, distance in _links(stretches > 0)]
    a, b, distance = (np.concatenate(part) for part in zip(*links, strict=True))
    graph = coo_array((distance, (a, b)), shape=(line.size, line.size)).tocsr()
    along = dijkstra(graph, directed=False, indices=first, min_only=True)
    pixels = np.flatnonzero(np.isfinite(along))
    pixels = pixels[np.lexsort((along[pixels], of[pixels]))]  # each stretch from its first end on
    begins = np.flatnonzero(np.diff(of[pixels], prepend=0))
    rank = np.arange(len(pixels)) - np.repeat(begins, np.diff([*begins, len(pixels)]))
    pixels = pixels[(rank % CHORD == 0) | (np.diff(of[pixels], append=0) != 0)]
    places = np.column_stack(np.unravel_index(pixels, line.shape))
    within = np.diff(of[pixels]) == 0
    chords = np.linalg.norm(np.diff(places, axis=0), axis=1)[within]
    length = np.bincount(of[pixels][1:][within], chords, minlength=count + 1)[paired]
    last = pixels[np.append(np.diff(of[pixels]) != 0, True)]
    straight = np.linalg.norm(
        np.subtract(np.unravel_index(first, line.shape), np.unravel_index(last, line.shape)), axis=0
    )
    long = length >= least
    return float(length[long].sum() / straight[long].sum()) if straight[long].sum() else np.nan


def of_spectrum(frequency: np.ndarray, power: np.ndarray) -> dict[str, float]:
    """`spectral slope` (least squares of log power on log frequency within SLOPE_BAND) and `fine power` (mean from FINE_FROM on)."""
    band = (frequency >= SLOPE_BAND[0]) & (frequency <= SLOPE_BAND[1]) & (power > 0)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0] if band.sum() > 1 else np.nan
    return {"spectral slope": float(slope), "fine power": float(power[frequency >= FINE_FROM].mean())}
