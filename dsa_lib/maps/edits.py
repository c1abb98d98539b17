"""Edits of a label map of arteries: a distal branch removed, the trunk narrowed over a stretch; and what a generator makes of the edited map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation, distance_transform_edt, label
from skimage.morphology import skeletonize

from dsa_lib.core.splits import evenly
from dsa_lib.core.statistics import of_means
from dsa_lib.maps import compliance, map_diffusion
from dsa_lib.maps.data import ACDC, MapSet
from dsa_lib.maps.models import WITH, WITHOUT
from dsa_lib.run.errors import StudyError
from dsa_lib.vessels import filters as vessel_filters
from dsa_lib.vessels.measures import transitions

REMOVED, NARROWED = "branch removed", "trunk narrowed"
NO_EDGES = "none"  # what a model without edges is told along an edit
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


# ---- edits of a whole set, and the images that follow ----------------------------------------------------------------


@dataclass(frozen=True)
class Edited:
    """One kind of edit on the maps it could be made on: positions `rows` [m] in the set, label maps before and `after` (uint8 [m, H, W]), `region` bool."""

    name: str
    rows: np.ndarray
    before: np.ndarray
    after: np.ndarray
    region: np.ndarray


def edits(data: MapSet, most: int) -> tuple[list[Edited], list[str]]:
    """(the edits that could be made, sentences on those that could not) of at most `most` of the maps that models are judged on, evenly spread.

    A branch is removed from the tree of the annotated classes: what a model was never told of cannot be taken back. Other organs than vessels have neither.
    """
    if data.origin == ACDC:
        return [], ["Edits are of vessels: none here."]
    labels, rows = data.labels, evenly(data.held_out, most)
    annotated = [data.classes.index(name) + 1 for name in data.annotated]
    kinds = {
        REMOVED: lambda one: branch_removed(one, classes=annotated),
        NARROWED: lambda one: narrowed(one, trunk=min(annotated)),
    }
    found, not_made = [], []
    for name, edit in kinds.items():
        try:
            chosen, after, region = edited(labels[rows], edit)
        except StudyError as error:
            not_made.append(f"No map could be edited ({name}): {error}")
            continue
        found.append(Edited(name, rows[chosen], labels[rows[chosen]], after, region))
    return found, not_made


def images(
    edit: Edited,
    data: MapSet,
    before: Mapping[str, np.ndarray],
    generate: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]],
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(half of the table, edges along the edit) → images before and after, uint8 [m, H, W] each, from the same seeds.

    before: half → the images uint8 [k, H, W] that were made of the unedited maps of `data.held_out` [k], each with its position in the set as the seed, so
    that these are the images that the table scored; generate: half → generate(maps float32 [m, C, H, W], seeds [m]).
    """
    at, found = np.searchsorted(data.held_out, edit.rows), {}
    for half, make in generate.items():
        own = data.edges[edit.rows]
        for how in map_diffusion.EDITED if half == WITH else (NO_EDGES,):
            told = map_diffusion.edited_edges(own, edit.after, edit.region, how) if half == WITH else None
            maps = map_diffusion.condition_maps(edit.after, told, data.annotated, data.classes)
            found[half, how] = before[half][at], make(maps, edit.rows)
    return found


def example(edit: Edited, made: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]) -> dict[str, object]:
    """The edit of median size with its images before and after (of `images`; with edges those redrawn), as `figures.maps.edited` takes a row."""
    middle = int(np.argsort(edit.region.sum(axis=(1, 2)), kind="stable")[len(edit.rows) // 2])
    pairs = {WITH: made[WITH, "redrawn"], WITHOUT: made[WITHOUT, NO_EDGES]}
    return {
        "title": edit.name,
        "labels": edit.before[middle],
        "edited": edit.after[middle],
        "region": edit.region[middle],
        "outputs": {half: (first[middle], second[middle]) for half, (first, second) in pairs.items()},
    }


def responses(
    edit: Edited,
    made: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]],
    patients: np.ndarray,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """How far the LDM of each half followed: one row a model and way of telling edges of `made` (by `images`), from `compliance.response`.

    patients: of the edited images [m]. `kept`: contrast of the edited pixels against their surroundings afterwards, over that before, as a ratio of
    means with its 95 % interval over patients `low`, `high` (1: ignored, 0: the vessel is gone); `inside`, `outside`: mean absolute change in grey levels along
    the edit and elsewhere.
    """
    rows = []
    for (half, how), (before, after) in made.items():
        of = compliance.response(before, after, edit.region, vessel=edit.before > 0)
        pair = of[["darkness_before", "darkness_after"]].to_numpy()
        (kept,), (low,), (high,) = of_means(pair, patients, draws, seed, lambda means: means[..., 1:] / means[..., :1])
        row = {
            "edit": edit.name,
            "model": f"LDM {half}",
            "edges": how,
            "images": len(of),
            "kept": kept,
            "low": low,
            "high": high,
        }
        rows.append(row | {name: float(of[name].mean()) for name in ("inside", "outside")})
    return pd.DataFrame(rows)


def statements(table: pd.DataFrame) -> list[str]:
    """One sentence a row of `responses`: whether the image followed the edit."""
    said = []
    for row in table.to_dict("records"):
        told = "without edges" if row["edges"] == NO_EDGES else f"edges {row['edges']}"
        asked = f"{row['edit']}, {row['model']}, {told}: "
        if not np.isfinite(row["kept"]):
            said.append(f"{asked}nothing was to be seen there before the edit.")
            continue
        if row["high"] < 0.5:
            verdict = "the image follows"
        elif row["low"] > 0.5:
            verdict = "the image does not follow"
        else:
            verdict = "whether the image follows is not shown"
        said.append(
            f"{asked}{row['kept']:.2f} of the contrast is left ({row['low']:.2f} to {row['high']:.2f}, "
            f"{row['images']} images), {verdict}; "
            f"change {row['inside']:.1f} grey levels along the edit, {row['outside']:.1f} elsewhere."
        )
    return said
