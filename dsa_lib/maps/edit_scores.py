"""Does the image follow when its label map is edited? A branch removed, the trunk narrowed: images of the same noise before and after, measured there.

The edges of the unedited image contradict the edited map, so that they are taken away along the edit, or drawn anew after the map (`anatomy.edited_edges`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dsa_lib.core.statistics import of_means
from dsa_lib.maps import compliance, map_diffusion
from dsa_lib.maps import edits as map_edits
from dsa_lib.run.errors import StudyError

REMOVED, NARROWED = "branch removed", "trunk narrowed"
NO_EDGES = "none"  # what a model without edges is told along an edit


@dataclass(frozen=True)
class Edited:
    """One kind of edit on the maps it could be made on: positions `rows` [m] in the set, label maps before and `after` (uint8 [m, H, W]), `region` bool."""

    name: str
    rows: np.ndarray
    before: np.ndarray
    after: np.ndarray
    region: np.ndarray


def edits(labels: np.ndarray, rows: np.ndarray, annotated: Sequence[int]) -> tuple[list[Edited], list[str]]:
    """(the edits that could be made, sentences on those that could not) of the maps labels[rows]; annotated: numbers of the classes that models are told.

    A branch is removed from the tree of the annotated classes: what a model was never told of cannot be taken back.
    """
    kinds = {
        REMOVED: lambda one: map_edits.branch_removed(one, classes=annotated),
        NARROWED: lambda one: map_edits.narrowed(one, trunk=min(annotated)),
    }
    found, not_made = [], []
    for name, edit in kinds.items():
        try:
            chosen, after, region = map_edits.edited(labels[rows], edit)
        except StudyError as error:
            not_made.append(f"No map could be edited ({name}): {error}")
            continue
        found.append(Edited(name, rows[chosen], labels[rows[chosen]], after, region))
    return found, not_made


def images(
    edit: Edited,
    edge_maps: np.ndarray,
    classes: Sequence[str],
    annotated: Sequence[str],
    make: Mapping[tuple[str, bool], Callable[[np.ndarray, np.ndarray], np.ndarray]],
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(model, edges along the edit) → images before and after, uint8 [m, H, W] each, from the same seeds.

    edge_maps: bool [N, H, W] of the whole set; make: (model's name, whether it is told edges) → make(maps float32 [m, C, H, W], seeds [m]). The seeds are the
    positions in the set, so that "before" is the image that the table scored.
    """
    found = {}
    for (name, with_edges), generate in make.items():
        own = edge_maps[edit.rows] if with_edges else None
        first = generate(map_diffusion.condition_maps(edit.before, own, annotated, classes), edit.rows)
        for how in map_diffusion.EDITED if with_edges else (NO_EDGES,):
            told = map_diffusion.edited_edges(own, edit.after, edit.region, how) if with_edges else None
            found[name, how] = (
                first,
                generate(map_diffusion.condition_maps(edit.after, told, annotated, classes), edit.rows),
            )
    return found


def responses(
    edit: Edited,
    made: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]],
    patients: np.ndarray,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """How far each model followed: one row a model and way of telling edges, from `compliance.response`.

    patients: of the edited images [m]. `kept`: contrast of the edited pixels against their surroundings afterwards, over that before, as a ratio of
    means with its 95 % interval over patients `low`, `high` (1: ignored, 0: the vessel is gone); `inside`, `outside`: mean absolute change in grey levels along
    the edit and elsewhere.
    """
    rows = []
    for (model, how), (before, after) in made.items():
        of = compliance.response(before, after, edit.region, vessel=edit.before > 0)
        pair = of[["darkness_before", "darkness_after"]].to_numpy()
        (kept,), (low,), (high,) = of_means(pair, patients, draws, seed, lambda means: means[..., 1:] / means[..., :1])
        row = {
            "edit": edit.name,
            "model": model,
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
