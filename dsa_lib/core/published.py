"""Published tables beside this run's: DataFrame in, table out, no computation of results.

The contract of `tables/table<n>.csv`: long form, columns row, column, published, this_run, source. `source` says what `this_run` was computed from
(phantom, archive, simulated ratings, reader ratings, …). What is fitted to the published values never fills `this_run`.
"""

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path

import pandas as pd

from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PROFILES
from dsa_lib.run.workspace import PROJECT, atomic_write

COLUMNS = ["row", "column", "published", "this_run", "source"]
FITTED = "fitted to the published values"
FITTED_COLUMNS = ["row", "column", "published", "fitted", "source"]
# What Tables 2–4 can be computed from, and the sentence that says so.
RATING_SOURCES = {
    "simulated ratings": "The reader ratings are simulated by a model of readers; no clinician rated these images.",
    "reader ratings": "The ratings come from the readers' files given to notebook 06.",
    "reader ratings, origin not stated": "The files given to notebook 06 do not state the origin of their ratings, which are taken as readers' ratings.",
}
SOURCES = ("phantom", "archive", *RATING_SOURCES)
DECIMALS = {1: 1, 2: 0, 3: 2, 4: 3, 5: 2}  # of this run's values, as the paper prints its own
TITLES = {
    1: "Circulation–plane–angle combinations among arterial-phase frames",
    2: "Screening retention and scored images",
    3: "Image-wise quality by condition (Likert 1–5)",
    4: "Inter-rater reliability",
    5: "Fréchet distances; values are not comparable across works or feature sets",
}

# Stands wherever the shares of Table 1 do.
LARGEST_REMAINDER = "Shares of this run are rounded so that they add up to 100 (largest remainder)."

# The two neighbouring studies. Capitão et al.: FID, SSIM and NMSE on ACDC. Lee et al.: DWI and ADC from CT perfusion of 817 patients; our text of it has the
# metrics and the ranking and no figure, so its published cells are empty and stay so.
ANATOMY, LESIONS = "anatomy_table1", "lesion_post_training"
NEIGHBOURS = (ANATOMY, LESIONS)
NEIGHBOUR_SOURCES = ("phantom", "archive", "ACDC", "CT perfusion")


def published(table: int | str, text: bool = False) -> pd.DataFrame:
    """The paper's table number `table`, or that of a neighbouring study (ANATOMY or LESIONS): columns row, column, published, and `ranking` for LESIONS.

    As numbers (NaN where our text has none), or with `text` as they were printed. Raises StudyError for a table that does not exist.
    """
    if table in TITLES:
        path = PROJECT / "data_manifests" / "published" / f"table{table}.csv"
    elif table in NEIGHBOURS:
        path = PROJECT / "data_manifests" / "neighbours" / f"{table}.csv"
    else:
        raise StudyError(f"no published table {table!r}: choose {', '.join(map(str, (*TITLES, *NEIGHBOURS)))}")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False) if text else pd.read_csv(path)
    return frame[[name for name in ("row", "column", "published", "ranking") if name in frame]]


def contract(table: int | str, this_run: Mapping[tuple[str, str], float], source: str) -> pd.DataFrame:
    """Every published cell, and every further cell of this run, in the tables contract. `this_run` maps (row, column) to a value.

    A distance in DSA features is no FID: give it a column of its own. Raises StudyError for a `source` that such a table cannot have.
    """
    known = NEIGHBOUR_SOURCES if table in NEIGHBOURS else SOURCES
    if source not in known:
        raise StudyError(
            f"source {source!r} is not one of {', '.join(known)}: name what table {table} was computed from"
        )
    return beside(published(table)[["row", "column", "published"]], this_run, source)


def beside(printed: pd.DataFrame, this_run: Mapping[tuple[str, str], float], source: str) -> pd.DataFrame:
    """`printed` [row, column, published] with the values of this run, and its further cells after them, in the tables contract."""
    frame = printed.copy()
    frame["this_run"] = [this_run.get((row, column)) for row, column in zip(frame["row"], frame["column"], strict=True)]
    known = set(zip(frame["row"], frame["column"], strict=True))
    extra = [
        {"row": row, "column": column, "this_run": value}
        for (row, column), value in this_run.items()
        if (row, column) not in known
    ]
    frame = (
        pd.concat([frame, pd.DataFrame(extra, columns=["row", "column", "published", "this_run"])], ignore_index=True)
        if extra
        else frame
    )
    frame["this_run"] = pd.to_numeric(frame["this_run"])
    frame["source"] = [source if pd.notna(value) else "" for value in frame["this_run"]]
    return frame[COLUMNS]


def fitted(printed: pd.DataFrame, values: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """What was fitted to published values beside them: a table of its own, with no column that reads as a result.

    `printed` [row, column, published]; `values`: (row, column) → value. Raises StudyError unless both have the same cells.
    """
    cells = list(zip(printed["row"], printed["column"], strict=True))
    if set(cells) != set(values):
        odd = sorted(set(cells) ^ set(values))[0]
        raise StudyError(f"the cell {odd} is published or fitted, not both: fit every published cell and no other")
    frame = printed[["row", "column", "published"]].assign(
        fitted=[float(values[cell]) for cell in cells], source=FITTED
    )
    return frame[FITTED_COLUMNS]


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a contract table, or one of fitted values; raises StudyError if its columns are not the contract's."""
    if list(frame.columns) not in (COLUMNS, FITTED_COLUMNS):
        raise StudyError(f"{Path(path).name} has columns {list(frame.columns)}: the tables contract wants {COLUMNS}")
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, keep_default_na=True)
    frame["source"] = frame["source"].fillna("")
    return frame


def as_printed(number: int, frame: pd.DataFrame) -> pd.DataFrame:
    """The contract table `frame` as the paper prints table `number`: text, a row with up to three lines (published, this run, difference).

    Published cells have the digits that were printed (0.49 does not become 0.490), counts are whole, and what does not exist is empty.
    """
    columns = list(dict.fromkeys(frame["column"]))
    printed = {
        (row, column): _grouped(text) for row, column, text in published(number, text=True).itertuples(index=False)
    }
    whole = (
        frame.melt("column", ["published", "this_run"])
        .dropna()
        .groupby("column")["value"]
        .apply(lambda v: (v % 1 == 0).all())
    )
    decimals = {name: 0 if whole.get(name) else DECIMALS[number] for name in columns}
    lines = {}
    for row, part in frame.groupby("row", sort=False):
        cells = part.set_index("column").reindex(columns)
        ours, apart = cells["this_run"], cells["this_run"] - cells["published"]
        if cells["published"].notna().any():
            lines[row, "published"] = [printed.get((row, name), "") for name in columns]
        for label, values in (("this run", ours), ("difference", apart)):
            if values.notna().any():
                lines[row, label] = [as_text(values[name], decimals[name], label == "difference") for name in columns]
    index = pd.MultiIndex.from_tuples(lines, names=["", " · ".join(s for s in dict.fromkeys(frame["source"]) if s)])
    return pd.DataFrame(list(lines.values()), index=index, columns=columns)


def as_in_paper(number: int, frame: pd.DataFrame) -> pd.DataFrame:
    """`as_printed` with a mean and its SD in one cell, as the paper sets Table 3 ("3.34 ± 0.50"); a difference is then that of the means."""
    shown = as_printed(number, frame)
    for name in [column.removesuffix(" SD") for column in shown if column.endswith(" SD")]:
        mean, sd = shown[f"{name} mean"], shown.pop(f"{name} SD")
        line = shown.index.get_level_values(1)
        paired = (line != "difference") & (mean != "") & (sd != "")
        shown[f"{name} mean"] = [
            f"{m} ±\N{NO-BREAK SPACE}{s}" if both else m for m, s, both in zip(mean, sd, paired, strict=True)
        ]
        shown = shown.rename(columns={f"{name} mean": name})
    return shown


def as_text(value: float, decimals: int, sign: bool = False) -> str:
    """A number with so many decimals, thousands in groups and a true minus; zero has no sign, and what is not known is empty."""
    if pd.isna(value):
        return ""
    text = f"{value:{'+' if sign else ''},.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("+-")


def _grouped(text: str) -> str:
    return f"{int(text):,}" if text.lstrip("-").isdigit() else text


def left_open(reasons: Mapping[str, str]) -> pd.DataFrame:
    """Numbers that the paper leaves open or gives in two ways: a row each (`section.field` of the profile), its value in every profile, and `why`."""

    def shown(value: object) -> object:
        return f"{value:g}" if isinstance(value, float) else value

    values = {name: [shown(attrgetter(field)(profile)) for field in reasons] for name, profile in PROFILES.items()}
    return pd.DataFrame(values | {"why": reasons.values()}, index=list(reasons))
