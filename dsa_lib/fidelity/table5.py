"""Table 5: the published distances as cited context, and this run's with interval, floor and feature set (§2.5).

`cells` fills the tables contract; `context` is the table to read: a distance says nothing without its features, its sizes and its floor.
"""

import pandas as pd

from dsa_lib.core.conditions import CELLS
from dsa_lib.core.published import published
from dsa_lib.fidelity.distances import FLOOR, GENERATED, MATCHED, OVERALL, SCOPES, beside_floor
from dsa_lib.fidelity.features import FID
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
