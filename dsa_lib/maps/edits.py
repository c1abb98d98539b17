"""Edits of a label map of arteries: a distal branch removed, the trunk narrowed over a stretch. What a generator makes of them is measured in `compliance`."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt, label
from skimage.morphology import skeletonize

from dsa_lib.run.errors import StudyError
from dsa_lib.vessels import filters as vessel_filters
from dsa_lib.vessels.measures import transitions

EVERYWHERE = np.ones((3, 3), bool)
# Pixels at vessels.REFERENCE_SIDE.
GAP = 4  # a break of the drawn line where vessels are fainter than a pixel
LEAST_BRANCH = 8  # of centre line: a shorter stump would hardly be missed
STENOSIS = 9  # length of the narrowed stretch
SEVERITY = 0.6  # share of the width that a stenosis takes: above 0.5 it counts as significant


def branch_removed(
    labels: np.ndarray, classes: Sequence[int] = (1, 2, 3), least: float = LEAST_BRANCH
) -> tuple[np.ndarray, np.ndarray]:
    """(label map without one distal branch, the pixels that were removed, bool), both [h, w], of a label map uint8 [h, w].

    Of the tree that `classes` make up the longest stretch of centre line is taken that begins at a branching and ends loose, of `least` pixels (at
    vessels.REFERENCE_SIDE) or more, not of the first class where there are several (the trunk's own end), and away from the frame's border, where an
    end is only the field's. What hung on it alone goes with it, whatever its
    class: no blood reaches it any more. Raises StudyError where no branch is of that kind.
    """
    tree = np.isin(labels, list(classes))
    line = skeletonize(tree)
    turns = transitions(line)
    nodes = binary_dilation(line & (turns > 2), EVERYWHERE) & line
    stretches, count = label(line & ~nodes, EVERYWHERE)
    inner = np.zeros(labels.shape, bool)
    inner[2:-2, 2:-2] = True
    at_branching = np.unique(stretches[binary_dilation(nodes, EVERYWHERE)])
    loose = np.bincount(stretches[line & (turns == 1) & inner], minlength=count + 1)
    ends = np.bincount(stretches[line & (turns == 1)], minlength=count + 1)
    length = np.bincount(stretches.ravel(), minlength=count + 1)
    first = np.bincount(stretches.ravel(), (labels == min(classes)).ravel(), minlength=count + 1) / np.maximum(
        length, 1
    )
    distal = (first < 0.5) | (len(classes) == 1)
    enough = length >= least * _scale(labels)
    fit = [k for k in at_branching if k and loose[k] == 1 == ends[k] and enough[k] and distal[k]]
    if not fit:
        raise StudyError(
            "no branch of this label map begins at a branching and ends inside the field: choose another image"
        )
    branch = max(fit, key=lambda k: length[k])
    _, nearest = distance_transform_edt(~line, return_indices=True)
    removed = tree & (stretches[tuple(nearest)] == branch)
    # What is cut off from the largest remaining part, and pieces behind a gap of the drawing that lie nearer to the branch than to that part.
    parts, count = label((labels > 0) & ~removed, EVERYWHERE)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    to_rest = distance_transform_edt(parts != sizes.argmax())
    while count > 1:
        to_branch = distance_transform_edt(~removed)
        near = [
            k
            for k in set(parts[(to_branch <= GAP * _scale(labels)) & (parts > 0) & ~removed]) - {sizes.argmax()}
            if to_branch[parts == k].min() < to_rest[parts == k].min()
        ]
        if not near:
            break
        removed |= np.isin(parts, near)
    return np.where(removed, 0, labels).astype(labels.dtype), removed


def narrowed(
    labels: np.ndarray, trunk: int = 1, length: float = STENOSIS, severity: float = SEVERITY
) -> tuple[np.ndarray, np.ndarray]:
    """(label map with a stenosis of the trunk, the pixels that were taken away, bool), both [h, w], of a label map uint8 [h, w].

    Where class `trunk` is widest, away from branchings and from the frame's border, its width is taken down by the share `severity` over `length` pixels
    (at vessels.REFERENCE_SIDE) along the centre line, and never below the centre line itself. Raises StudyError where the trunk is nowhere wide and
    straight enough for that.
    """
    if not 0 < severity < 1:
        raise StudyError(
            f"a stenosis of severity {severity} is not between 0 and 1: give the share of the width it takes"
        )
    tree = labels > 0
    line = skeletonize(tree)
    radius = distance_transform_edt(tree)
    reach = length * _scale(labels) / 2
    branching = line & (transitions(line) > 2)
    away = distance_transform_edt(~branching) if branching.any() else np.full(labels.shape, np.inf)
    inner = np.zeros(labels.shape, bool)
    border = int(np.ceil(reach)) + 1
    inner[border:-border, border:-border] = True
    places = line & (labels == trunk) & inner & (away > reach + radius)
    down, right = np.indices(labels.shape)
    _, nearest = distance_transform_edt(~line, return_indices=True)
    off_line = np.hypot(down - nearest[0], right - nearest[1])
    # The distance transform counts from a pixel's middle to the first one outside, half a pixel beyond the wall.
    half_width = (radius - 0.5)[tuple(nearest)]
    for middle in sorted(map(tuple, np.argwhere(places)), key=lambda at: (-radius[at], at)):
        near = np.hypot(nearest[0] - middle[0], nearest[1] - middle[1]) <= reach
        connected, _ = label(near & tree, EVERYWHERE)
        removed = (connected == connected[middle]) & (off_line > np.maximum((1 - severity) * half_width, 0.5))
        if removed.any():
            return np.where(removed, 0, labels).astype(labels.dtype), removed
    raise StudyError(
        "the trunk of this label map is nowhere wide and straight enough for a stenosis: choose another image"
    )


def edited(
    labels: np.ndarray, edit: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(positions [m] of the label maps [n, h, w] that `edit` can edit, the edited maps [m, h, w], the regions changed [m, h, w] bool).

    Raises StudyError where it can edit none.
    """
    rows, maps, regions = [], [], []
    for n, one in enumerate(labels):
        try:
            changed, region = edit(one)
        except StudyError as error:
            reason = error
            continue
        rows.append(n)
        maps.append(changed)
        regions.append(region)
    if not rows:
        raise StudyError(
            f"none of {len(labels)} label maps can be edited ({reason})" if len(labels) else "no label map to edit"
        )
    return np.array(rows), np.stack(maps), np.stack(regions)


def _scale(labels: np.ndarray) -> float:
    return max(labels.shape) / vessel_filters.REFERENCE_SIDE
