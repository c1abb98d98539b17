"""What the published Tables 2–4 ask of any ratings behind them (§2.4): intervals that rounding leaves, and ties between tables that could have failed.

Nothing here needs a rating. `dsa_lib.paper.rating_reconstruction` searches for ratings that meet all of it.
"""

from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pandas as pd

from dsa_lib.core import published
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.paper.rating_search import Targets
from dsa_lib.readers.tables import EXPERT_ROLES, RATER_SETS, REGIONS, SEGMENTS, SHORT
from dsa_lib.run.errors import StudyError

TABLES = (2, 3, 4)
RATERS = (("NR1", "NR"), ("NR2", "NR"), ("NS1", "NS"), ("IM1", "IM"))  # §2.4, Figure 4d: two NR, one NS, one IM


def printed_interval(text: str) -> tuple[float, float]:
    """The values that print as `text`: "0.49" -> (0.485, 0.495)."""
    value = Decimal(text)
    half = Decimal(5).scaleb(value.as_tuple().exponent - 1)
    return float(value - half), float(value + half)


def single_interval(single: str, average: str, k: int) -> tuple[float, float]:
    """The values of ICC(2,1) that print as `single` and whose ICC(2,k) prints as `average`; low >= high: there are none.

    ICC(2,k) is the Spearman–Brown step of ICC(2,1), r -> k r / (1 + (k-1) r), by their definitions; so r = a / (k - (k-1) a).
    """
    (low, high), ends = printed_interval(single), printed_interval(average)
    from_average = [a / (k - (k - 1) * a) for a in ends]
    return max(low, from_average[0]), min(high, from_average[1])


def published_cells() -> dict[tuple[str, str], str]:
    """Every printed cell of Tables 2–4 as text, keyed by (row, column); no key occurs in two tables."""
    return {
        (r, c): text
        for number in TABLES
        for r, c, text in published.published(number, text=True).itertuples(index=False)
    }


def icc_intervals(cells: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """The ICC(2,1) that Table 4 allows, one row a region and set of raters: both printed coefficients, number of raters k, low, high (low >= high: none)."""
    rows = []
    for region in REGIONS:
        for name, members in zip(RATER_SETS, rater_sets(), strict=True):
            single, average = (cells[region.capitalize(), f"{name} {form}"] for form in ("ICC(2,1)", "ICC(2,k)"))
            low, high = single_interval(single, average, len(members))
            rows.append(
                {
                    "region": region.capitalize(),
                    "raters": name,
                    "ICC(2,1)": single,
                    "ICC(2,k)": average,
                    "k": len(members),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def targets(cells: Mapping[tuple[str, str], str]) -> Targets:
    """Intervals of Tables 3 and 4. Raises StudyError where an ICC(2,1) and its ICC(2,k) exclude each other."""
    scores = [
        [[printed_interval(cells[cell, f"{SHORT[r]} {what}"]) for r in REGIONS] for cell in CELLS]
        for what in ("mean", "SD")
    ]
    icc = icc_intervals(cells)
    for row in icc[icc["low"] >= icc["high"]].to_dict("records"):
        single, average, k = (row[name] for name in ("ICC(2,1)", "ICC(2,k)", "k"))
        raise StudyError(
            f"published Table 4, {row['region']}, {row['raters']}: no ICC(2,1) prints as {single} and steps up to {average} with k = {k}"
        )
    return Targets(
        np.array(scores[0]), np.array(scores[1]), icc[["low", "high"]].to_numpy().reshape(len(REGIONS), -1, 2)
    )


def rater_sets() -> tuple[tuple[int, ...], ...]:
    """Indices into RATERS of all raters, and of the domain experts."""
    return tuple(range(len(RATERS))), tuple(j for j, (_, role) in enumerate(RATERS) if role in EXPERT_ROLES)


def flag_counts(cells: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Table 2 read as §2.4 has it, one row a condition: images by what is flagged.

    kept, scored, external: as printed. empty: kept, neither scored nor external; read as NA in all three segments by all raters, so that each counts once
    in every NA column. proximal, medium, peripheral: scored images of which that segment is NA. missing: their sum. Raises StudyError for a count below
    zero, or more flags than the scored images can bear.
    """
    rows = []
    for cell in CELLS:
        kept, scored, external = (int(cells[cell, name]) for name in ("N_keep", "N_scored", "Ext. circ."))
        empty = kept - scored - external
        na = {s: int(cells[cell, f"{SHORT[s]} NA"]) - empty for s in SEGMENTS}
        if min(empty, *na.values()) < 0 or sum(na.values()) > 2 * scored or max(na.values()) > scored:
            raise StudyError(
                f"published Table 2, {cell}: its counts of NA and of external images do not fit {kept - scored} images without a score"
            )
        rows.append(
            dict(cell=cell, kept=kept, scored=scored, external=external, empty=empty)
            | na
            | {"missing": sum(na.values())}
        )
    return pd.DataFrame(rows).set_index("cell")


def implied_scores(cells: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """What Tables 2 and 3 say together about images that lack a segment: their overall score, one row a condition.

    An image's overall score o is the mean of the a segments that it has, so its segment scores sum to a·o. Summed over a condition,
    Σ o·(3 - a) = 3 Σ o - Σ (segment scores): the mean of o, each image counting once for each segment it lacks. `implied` with the bounds that the rounding
    of the printed means leaves; `overall`: the printed mean of all images. A value outside 1–5 would be a contradiction between the tables.
    """
    counts = flag_counts(cells)
    rows = []
    for cell, row in counts.iterrows():
        parts = {"overall": 3 * row["scored"]} | {s: -(row["scored"] - row[s]) for s in SEGMENTS}
        ends = np.array(
            [
                sorted(np.array(printed_interval(cells[cell, f"{SHORT[name]} mean"])) * factor)
                for name, factor in parts.items()
            ]
        )
        low, high = ends.sum(axis=0) / row["missing"] if row["missing"] else (np.nan, np.nan)
        rows.append(
            dict(
                cell=cell,
                segments_missing=row["missing"],
                overall=float(cells[cell, "Overall mean"]),
                implied=(low + high) / 2,
                low=low,
                high=high,
            )
        )
    return pd.DataFrame(rows).set_index("cell")
