"""Memorisation: do generated images lie closer to training frames than unseen real frames do?

Nearest training neighbours in feature space, for generated images and for held-out real frames of other patients. A model that copies puts its images
nearer to training frames than any real patient's frame comes. What this cannot show: copying that the features do not see (a small region, an
identifying device), or that the images are anonymous in a legal sense.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from dsa_lib.errors import StudyError

NEAR_QUANTILE = 0.05  # "near" means nearer than the nearest 5 % of held-out frames come to a training frame


@dataclass(frozen=True)
class Neighbours:
    """For every image of a set: the distance [n] to its nearest training frame and that frame's position [n]."""

    distance: np.ndarray
    position: np.ndarray


def nearest_neighbours(features: np.ndarray, training: np.ndarray) -> Neighbours:
    """Nearest row of `training` [m, d] for each row of `features` [n, d], Euclidean; in blocks, so that memory stays flat in n."""
    if len(training) == 0 or len(features) == 0:
        raise StudyError("a memorisation audit needs at least one training frame and one image to look up")
    reference = torch.as_tensor(np.asarray(training, np.float64))
    distance, position = [], []
    for start in range(0, len(features), 512):
        block = torch.as_tensor(np.asarray(features[start : start + 512], np.float64))
        # Differences, not the expanded square: of an exact copy the distance must come out as zero.
        nearest = torch.cdist(block, reference, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        distance.append(nearest.values.numpy())
        position.append(nearest.indices.numpy())
    return Neighbours(np.concatenate(distance), np.concatenate(position))


def summary(generated: Neighbours, held_out: Neighbours) -> pd.DataFrame:
    """Distances to the nearest training frame, generated beside held-out real, and their ratio.

    Rows: `median_distance`, `smallest_distance`, and `share_near`, the share of a set that is nearer to a training frame than the nearest 5 % of held-out
    frames. Equal distributions give a ratio of 1 for the first two and a share of 5 %; a copying model a ratio far below 1 and a share far above 5 %.
    """
    limit = np.quantile(held_out.distance, NEAR_QUANTILE)
    rows = []
    for name, value in (
        ("median_distance", lambda n: float(np.median(n.distance))),
        ("smallest_distance", lambda n: float(n.distance.min())),
        ("share_near", lambda n: float((n.distance < limit).mean())),
    ):
        a, b = value(generated), value(held_out)
        rows.append({"measure": name, "generated": a, "held_out": b, "ratio": a / b if b > 0 else float("nan")})
    table = pd.DataFrame(rows)
    table["generated_images"], table["held_out_images"] = len(generated.distance), len(held_out.distance)
    return table


def closest_pairs(generated: Neighbours, count: int = 5) -> pd.DataFrame:
    """The `count` generated images nearest to a training frame, nearest first; a training frame appears once. Columns generated, training, distance."""
    table = pd.DataFrame(
        {
            "generated": np.arange(len(generated.distance)),
            "training": generated.position,
            "distance": generated.distance,
        }
    )
    return table.sort_values("distance", kind="stable").drop_duplicates("training").head(count).reset_index(drop=True)


def statement(table: pd.DataFrame) -> str:
    """One sentence with its limits: what the summary says about copying."""
    row = table.set_index("measure")
    ratio, share = row.loc["median_distance", "ratio"], row.loc["share_near", "generated"]
    return (
        f"The median generated image lies at {ratio:.2f} times the distance from its nearest training frame at which the median held-out real frame lies, "
        f"and {share:.0%} of the generated are nearer than the nearest {NEAR_QUANTILE:.0%} of held-out frames. "
        f"Ratios well below 1 and shares well above {NEAR_QUANTILE:.0%} point to copying. "
        "This is a screening in one feature space, without a test of significance; it does not show that the images are anonymous."
    )
