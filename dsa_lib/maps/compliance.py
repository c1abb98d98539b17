"""Does a generated image keep to the anatomy it was asked for? Agreement of its segmentation with the given label map, and its answer to an edited map.

Dice by class and centre-line Dice (Shit et al., CVPR 2021) are those of `overlap`, here between what a segmenter finds in the generated image and the map
that the image was generated from. The segmenter errs too: what it reaches on the true images of the same maps is the ceiling, to be shown beside.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation, distance_transform_edt

from dsa_lib.core.images import check_frames
from dsa_lib.core.statistics import interval
from dsa_lib.run.errors import StudyError
from dsa_lib.vessels import filters as vessel_filters
from dsa_lib.vessels import overlap

ANY, CENTRE_LINE = "any class", "centre line"
# Pixels at vessels.REFERENCE_SIDE: the ring in which a region's surroundings are measured, and how far around it nothing counts as "elsewhere".
RING, MARGIN = 4, 6


def of_maps(
    found: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    classes: Sequence[str] = vessel_filters.CLASSES,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Agreement of the maps `found` in generated images, uint8 [n, H, W], with the label maps uint8 [n, H, W] that these were generated from.

    Rows: ANY, each of `classes`, CENTRE_LINE; columns: `score` of all images pooled, `low` and `high` of its 95 % bootstrap interval over `patients` [n].
    """
    return overlap.summary(overlap.counts(found, labels, len(classes)), patients, draws, seed, _rows(classes))


def difference(
    one: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    classes: Sequence[str] = vessel_filters.CLASSES,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How much better map set `one` agrees with `labels` than `other` does: rows as in `of_maps`, columns `difference`, `low`, `high`.

    Both were found in images of the same label maps, so that patients are drawn for both together: the interval is that of the paired difference.
    """
    (score, drawn), (other_score, other_drawn) = (
        overlap.pooled(overlap.counts(found, labels, len(classes)), patients, draws, seed) for found in (one, other)
    )
    low, high = interval(drawn - other_drawn)
    return pd.DataFrame(
        {"difference": score - other_score, "low": low, "high": high}, index=pd.Index(_rows(classes), name="of")
    )


def _rows(classes: Sequence[str]) -> tuple[str, ...]:
    return (ANY, *classes, CENTRE_LINE)


def response(
    before: np.ndarray, after: np.ndarray, region: np.ndarray, vessel: np.ndarray | None = None
) -> pd.DataFrame:
    """What an edit of the map did to the image: one row an image, of uint8 images [n, H, W] generated before and after it from the same noise.

    region: bool [n, H, W], where the map was changed; vessel: bool [n, H, W], vessels of the unedited map, which are no surroundings (None: none).
    `darkness_before`, `darkness_after`: mean of the surroundings (a ring around the region) less the mean of the region, grey levels, so that contrast
    counts positive; `kept`: the second over the first (1: the edit was ignored, 0: the vessel is gone; NaN where there was no contrast); `inside`,
    `outside`: mean absolute change in the region and elsewhere, beyond a margin; `focus`: the first over the second. Raises StudyError for a region
    that is empty or leaves no elsewhere.
    """
    check_frames(before, "images before the edit", least=1)
    check_frames(after, "images after the edit", least=1)
    if not before.shape == after.shape == region.shape or region.dtype != bool:
        raise StudyError(
            f"images {before.shape} and {after.shape} with regions {region.dtype} {region.shape}: give one bool region and two images of one size for each edit"
        )
    scale = max(before.shape[1:]) / vessel_filters.REFERENCE_SIDE
    rows = []
    for n, (x, y, here) in enumerate(zip(before.astype(float), after.astype(float), region, strict=True)):
        if not here.any():
            raise StudyError(f"the region of edit {n} is empty: leave images out whose map could not be edited")
        away = distance_transform_edt(~here)
        ring = (away > 1) & (away <= max(RING * scale, 2))
        if vessel is not None:
            ring &= ~binary_dilation(vessel[n])
        elsewhere = away > max(MARGIN * scale, 2)
        if not ring.any() or not elsewhere.any():
            raise StudyError(
                f"the region of edit {n} has no surroundings to compare with: edit a smaller part of the map"
            )
        dark_before, dark_after = (float(image[ring].mean() - image[here].mean()) for image in (x, y))
        change = np.abs(y - x)
        inside, outside = float(change[here].mean()), float(change[elsewhere].mean())
        rows.append(
            {
                "darkness_before": dark_before,
                "darkness_after": dark_after,
                "kept": dark_after / dark_before if dark_before > 0 else np.nan,
                "inside": inside,
                "outside": outside,
                "focus": inside / outside if outside > 0 else np.inf if inside > 0 else np.nan,
            }
        )
    return pd.DataFrame(rows)
