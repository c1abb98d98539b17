"""Table 5 (§2.5): the protocol of its distances (draws of the reference, the floor, medians), and the published ones as cited context.

`evaluate` measures, by the metrics of `distances`. `cells` fills the tables contract. `context` is the table to read: a distance says nothing without its
features, its sizes and its floor.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.published import published
from dsa_lib.fidelity.distances import (
    FLOOR,
    GENERATED,
    LEAST_IMAGES,
    MATCHED,
    METRICS,
    OVERALL,
    SCOPES,
    SIZES,
    ImageSet,
    beside_floor,
    comparisons,
    frechet_distance,
    kernel_distance,
    neighbour_scores,
    statistics,
)
from dsa_lib.fidelity.features import FID
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import PROJECT

PAPER = "Ours"  # the row of the paper's own result
BOUNDS = ["low", "high"]
CONTEXT = [
    "row",
    "measure",
    "features",
    "images",
    "reference_images",
    "patients",
    "value",
    *BOUNDS,
    "endless",
    "endless_low",
    "endless_high",
    "floor",
    "floor_low",
    "floor_high",
    "rank_deficient",
    "source",
    "reference",
]


def cells(results: pd.DataFrame, extractor_name: str, distance: str) -> dict[tuple[str, str], float]:
    """This run's cells of Table 5 in the tables contract, from the table of `fidelity.evaluate`.

    Only an Inception distance stands where the paper's does (row "Ours", column "FID"). A distance in other features has a row and column of its own name.
    """
    value = results.set_index(["scope", "set"])["distance"]
    published_row = distance == FID
    whole = PAPER if published_row else f"This run ({distance}, {extractor_name.replace('-', ' ')})"
    found = {(whole, distance): value[OVERALL, GENERATED]}
    found |= {(f"{PAPER if published_row else 'This run'}, {cell}", distance): value[cell, GENERATED] for cell in CELLS}
    if beside_floor(results) == MATCHED:
        found[f"{whole}, sizes of the floor", distance] = value[OVERALL, MATCHED]
    return found | {("Floor: training against held-out frames", distance): value[OVERALL, FLOOR]}


def context(
    results: pd.DataFrame, intervals: pd.DataFrame, extractor_name: str, distance: str, source: str
) -> pd.DataFrame:
    """Published rows with their works, then this run's: overall and per condition, value, interval, FID∞ (`endless`), floor, features. Columns CONTEXT.

    `intervals`: of `fidelity_intervals.intervals`. `source`: what this run's were computed from ("phantom", "archive"). This run's value is that of the set
    with the floor's sizes; where all generated images are a set of their own, they have a row without a floor before it. Nothing published fills it.
    """
    works = pd.read_csv(PROJECT / "data_manifests" / "table5_works.csv").set_index("row")
    rows = []
    for name, value in published(5).set_index("row")["published"].items():
        work = works.loc[name]
        rows.append(
            {
                "row": "This paper" if name == PAPER else name,
                "measure": FID,
                **work[["features", "images", "reference_images"]],
                "value": value,
                "source": "published",
                "reference": f"{work['reference']}: {work['task']}",
            }
        )
    table = results.set_index(["scope", "set"])
    bounds = intervals.set_index(["scope", "set", "measure"])
    for scope in SCOPES:
        for name in dict.fromkeys([GENERATED, beside_floor(results)]):
            row = table.loc[(scope, name)]
            paired = name == beside_floor(results)
            rows.append(
                {
                    "row": f"This run, {scope}" + (", sizes of the floor" if name == MATCHED else ""),
                    "measure": distance,
                    "features": extractor_name,
                    "images": row["images"],
                    "reference_images": row["reference_images"],
                    **_ends(bounds.loc[(scope, name, "distance")], "value", BOUNDS),
                    **_ends(bounds.loc[(scope, name, "infinity")], "endless", ["endless_low", "endless_high"]),
                    **(_ends(bounds.loc[(scope, FLOOR, "distance")], "floor", ["floor_low", "floor_high"]) if paired else {}),
                    "patients": bounds.loc[(scope, name, "distance"), "patients"],
                    "rank_deficient": bool(row["rank_deficient"]),
                    "source": source,
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=CONTEXT)


def _ends(row: pd.Series, name: str, ends: list[str]) -> dict[str, float]:
    return {name: row["value"], ends[0]: row["low"], ends[1]: row["high"]}


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `context` for the eye: a value and its interval in one cell, sizes as images : reference images, empty where there is none."""
    lines = []
    for row in table.to_dict("records"):
        lines.append(
            {
                "": row["row"] + ("*" if row["rank_deficient"] is True else ""),
                "measure": row["measure"],
                "features": row["features"],
                "images : real": f"{row['images']:.0f} : {row['reference_images']:.0f}" if row["images"] > 0 else "",
                "value [95 %]": interval(row["value"], row["low"], row["high"]),
                "endless samples [95 %]": interval(row["endless"], row["endless_low"], row["endless_high"]),
                "floor [95 %]": interval(row["floor"], row["floor_low"], row["floor_high"]),
                "from": row["source"],
                "context": "" if pd.isna(row["reference"]) else row["reference"],
            }
        )
    return pd.DataFrame(lines).set_index("")


def interval(value: float, low: float, high: float, places: int = 2) -> str:
    """ "3.10 [2.00, 4.20]"; the value alone where there is no interval, empty where there is no value."""
    if pd.isna(value):
        return ""
    text = f"{value:.{places}f}"
    return (text if pd.isna(low) else f"{text} [{low:.{places}f}, {high:.{places}f}]").replace("-", "−")


def intervals_shown(intervals: pd.DataFrame, measures: list[str], places: int = 2) -> pd.DataFrame:
    """The table of `fidelity_intervals.intervals` for the eye: a row a scope and set, a column for each of `measures`."""
    cell = intervals.assign(
        shown=[
            interval(*ends, places)
            for ends in zip(intervals["value"], intervals["low"], intervals["high"], strict=True)
        ]
    )
    order = list(dict.fromkeys(zip(cell["scope"], cell["set"], strict=True)))
    wide = cell.pivot(index=["scope", "set"], columns="measure", values="shown").fillna("")
    return wide.loc[order, [measure for measure in measures if measure in wide]]


def check_sets(
    generated_cells: np.ndarray,
    held_out: pd.DataFrame,
    training: pd.DataFrame,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Before the long part: enough images, of every condition that was to be generated, of one size (`shapes`: what → [n, H, W]), and no patient in both
    the held-out and the training frames (columns cell, patient). Raises StudyError."""
    generated_cells = np.asarray(generated_cells)
    for what, cells in (("generated images", generated_cells), ("held-out real frames", held_out["cell"])):
        count = int(np.isin(np.asarray(cells), CELLS).sum())
        if count < LEAST_IMAGES:
            raise StudyError(
                f"there are {count} {what} in the four canonical conditions, and a distance needs at least {LEAST_IMAGES}: use a larger archive or profile"
            )
    if empty := [cell for cell in CELLS if not (generated_cells == cell).any()]:
        raise StudyError(
            f"there is no generated image of {', '.join(empty)}: the set is incomplete: run notebooks/05_sampling.ipynb again"
        )
    sizes = {what: shape[-2:] for what, shape in (shapes or {}).items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{what} {width}×{height}" for what, (height, width) in sizes.items())
        raise StudyError(
            f"the images to compare differ in size ({told}), and a distance would measure that: bring them to one size"
        )
    shared = set(held_out["patient"]) & set(training["patient"])
    if shared:
        raise StudyError(
            f"{len(shared)} patients are both in the training and in the held-out frames: run notebooks/01_curation.ipynb again"
        )


def gaps(results: pd.DataFrame, neighbours: int) -> list[str]:
    """Sentences: what of the table of `evaluate` could not be computed, or reads only beside the floor, and why. Empty where nothing is amiss."""
    said = []
    for row in results.to_dict("records"):
        smaller = int(min(row["images"], row["reference_images"]))
        who = f"{row['scope']}, {row['set']}: {int(row['images'])} images against {int(row['reference_images'])}"
        if smaller < LEAST_IMAGES:
            said.append(f"{who}; no distance, which needs {LEAST_IMAGES} on each side.")
        elif smaller <= neighbours:
            said.append(f"{who}; no precision, recall, density and coverage, which need more than {neighbours}.")
    if deficient := [
        row["scope"] for row in results[results["set"] == GENERATED].to_dict("records") if row["rank_deficient"]
    ]:
        dimension = int(results["dimension"].iloc[0])
        said.append(
            f"{', '.join(deficient)}: no more images on one side than the {dimension} feature dimensions; the covariance is rank-deficient and "
            "the distance is biased upwards: read it beside the floor of the same sizes alone."
        )
    return said


def evaluate(generated: ImageSet, held_out: ImageSet, training: ImageSet, settings, seed: int) -> pd.DataFrame:
    """All metrics of the generated images and of the floor, overall and per condition.

    `settings` is the profile's `fidelity` section. Every repeat draws a reference from `held_out` (`real_images`, `reference_mix`), and equally many
    generated images and, for the floor, real training frames (other patients than the reference). The floor is what a generator would score that
    hands out real frames of the training patients; its sizes are the same because a Fréchet distance depends on them. Per condition as many images
    are taken as both sets have. Overall, with the mix "balanced", both follow the reference's counts, so that a condition of which few held-out
    frames exist does not read as a difference of the images; with "as-is" they keep the generated set's own mix.

    With "as-is" the set "generated" is every generated image, as in §2.5 (10,000 against 5,000), and the images that go with the floor are a set of
    their own, "generated, sizes of the floor"; with "balanced" the set "generated" goes with the floor (`beside_floor` tells which).

    Returns one row a scope and set: every metric is its median over repeats; `distance_low` and `distance_high` are the extremes, `distance_sd` the SD
    between draws, and `excess` the median of the distance less the floor's of the same draw (of the set that has the floor's sizes).
    `rank_deficient` marks sets no larger than the feature dimension: their Fréchet distance is biased upwards and reads only beside the floor.
    """
    rows = []
    for repeat in track(range(settings.repeats), what="draws of the reference"):
        for drawn in comparisons(generated, held_out, training, settings, seed, repeat):
            real = drawn.reference.features
            moments = statistics(real) if len(real) >= LEAST_IMAGES else None
            for name, images in drawn.images.items():
                row = {"scope": drawn.scope, "set": name, **_sizes(images.features, real), "distance": float("nan")}
                if moments is not None and len(images) >= LEAST_IMAGES:
                    row["distance"] = frechet_distance(moments, statistics(images.features))
                    row |= _further(images.features, real, settings, seed)
                rows.append(row | {"repeat": repeat})
    return _summary(pd.DataFrame(rows, columns=["scope", "set", "repeat", *SIZES, *METRICS]))


def _sizes(images: np.ndarray, reference: np.ndarray) -> dict[str, int | bool]:
    dimension = images.shape[1]
    deficient = min(len(images), len(reference)) <= dimension
    return dict(zip(SIZES, (len(images), len(reference), dimension, deficient), strict=True))


def _further(images: np.ndarray, reference: np.ndarray, settings, seed: int) -> dict[str, float]:
    kid, _ = kernel_distance(images, reference, settings.kid_subset, settings.kid_subsets, seed)
    return {"kid": kid} | neighbour_scores(images, reference, settings.neighbours)


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby(["scope", "set"], sort=False)
    table = groups[list(SIZES)].first()  # the same in all draws
    table[list(METRICS)] = groups[list(METRICS)].median()
    table["distance_low"], table["distance_high"] = groups["distance"].min(), groups["distance"].max()
    table["distance_sd"] = groups["distance"].std(ddof=1).fillna(0.0)
    by_set = rows.pivot(index=["scope", "repeat"], columns="set", values="distance")
    paired = MATCHED if MATCHED in by_set else GENERATED
    table["excess"] = float("nan")
    if {paired, FLOOR} <= set(by_set):
        excess = (by_set[paired] - by_set[FLOOR]).groupby("scope").median()
        of_paired = table.index.get_level_values("set") == paired
        table.loc[of_paired, "excess"] = excess.reindex(table.index[of_paired].get_level_values("scope")).to_numpy()
    table["repeats"] = groups.size()
    return table.reset_index()
