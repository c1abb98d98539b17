"""Reconstructed ratings: whole-number ratings of 239 images by four raters whose Tables 2, 3 and 4 are the published ones (§2.4).

The study's raw ratings are not public. What this module finds is *reconstructed, fitted to the published values, not the readers' own*: one of very many
sets of ratings that lead to the same three tables. It shows that the tables can hold together under the rules of §2.4 as `dsa_lib.readers.tables` has them,
and says nothing about any single rating, image or reader.

    python -m dsa_lib.paper.rating_reconstruction --seed 1 --out data_manifests/reader_study

searches (half a minute of one core) and writes `screening.csv`, `ratings.csv` and `residuals.csv` there; `--compare 2 3 4 5` searches with further seeds and
writes `alternatives.csv`, how much the results differ. Every figure written is computed by the public functions of `readers.tables` on the files as read back.

How: flags are drawn so that Table 2 holds exactly; ratings are drawn from normal effects whose sizes follow from Tables 3 and 4; then
`dsa_lib.paper.rating_search` moves single ratings by one step until Tables 3 and 4 hold too.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.core import published
from dsa_lib.core.condition_sentences import CANONICAL, CELLS
from dsa_lib.paper.constraints import (
    RATERS,
    flag_counts,
    implied_scores,
    printed_interval,
    published_cells,
    rater_sets,
    targets,
)
from dsa_lib.paper.rating_search import FLAGGED, Found, RunningSums, anneal
from dsa_lib.readers import rating_origin
from dsa_lib.readers.rating_files import RATINGS, RECONSTRUCTED, SCREENING, open_reader_study, write_study
from dsa_lib.readers.tables import (
    EXPERT_ROLES,
    EXTERNAL,
    NOT_RATABLE,
    SEGMENTS,
    ReaderStudy,
    rating_shares,
    reliability,
    table2,
    table3,
    table4,
)
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import Lines
from dsa_lib.run.workspace import PROJECT, atomic_write

NAME = "reconstructed, fitted to the published values, not the readers' own"
FOLDER = PROJECT / "data_manifests" / "reader_study"
GENERATED = 100  # images of each condition before screening (§2.3: 10 batches of 10)
LENIENCY_SD = 0.15  # of the raters where the search starts: chosen, Figure 4d prints no digits
LONE_FLAG = 0.02  # chance that one rater alone flags a segment that others rate: chosen, the paper does not say
MOVES = 3_000_000  # at most: a search ends when everything is met
# Stages of the search: (share of the moves, half width below which no ICC interval falls, temperature at the beginning and at the end). With the narrow
# intervals of experts from the start, all other wishes would be met by the one rater who does not enter there, and disfigure him. The last stage
# warms up once more what the second left frozen.
STAGES = ((0.15, 0.004, 2.0, 0.1), (0.5, 0.0, 0.5, 0.003), (0.35, 0.0, 0.1, 0.003))


# --- where the search starts ------------------------------------------------------------------------------------------------------------------


def draw_start(cells: Mapping[tuple[str, str], str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(ratings [images, raters, 3], 0 where flagged; condition [images]) of the scored images: Table 2's flags, and normal effects for Tables 3 and 4.

    A rater's impression is the image's quality in that segment times the rater's slope, plus noise. With r the published ICC(2,1) of experts and r' that
    between an expert and the fourth rater (2 r_all - r, by the mean over pairs), slopes are √r and r'/√r of a rater's SD; noise and leniency fill up to it.
    """
    counts, implied, wanted = flag_counts(cells), implied_scores(cells), targets(cells)
    middle = {name: getattr(wanted, name).mean(axis=-1) for name in ("mean", "sd", "icc")}
    leniency = rng.normal(0, LENIENCY_SD, len(RATERS))
    ratings, condition = [], []
    for c, cell in enumerate(CELLS):
        n = int(counts.loc[cell, "scored"])
        sd, whole = middle["sd"][c, :3], middle["sd"][c, 3]
        # How much segments of an image share, from the SD of their mean.
        shared = np.clip((9 * whole**2 - (sd**2).sum()) / (sd.sum() ** 2 - (sd**2).sum()), 0, 1)
        image = rng.normal(size=n)
        quality = np.sqrt(shared) * image[:, None] + np.sqrt(1 - shared) * rng.normal(size=(n, 3))
        looks = middle["mean"][c, :3] + sd * quality
        absent = _absent_segments(
            looks, counts.loc[cell, list(SEGMENTS)].to_numpy(int), implied.loc[cell, "implied"], rng
        )
        r_all, r_expert = middle["icc"][:3].T
        spread = sd * np.sqrt(4 / (1 + 3 * r_all))  # of one rater, where the mean of four has `sd`
        r_other = np.maximum(2 * r_all - r_expert, 0.05)
        own = np.empty((n, len(RATERS), 3))
        for j, (_, role) in enumerate(RATERS):
            slope = np.sqrt(r_expert) if role in EXPERT_ROLES else r_other / np.sqrt(r_expert)
            noise = np.sqrt(
                np.maximum(1 - slope**2 - (leniency.std(ddof=1) / spread) ** 2, 0.05)
            )  # leniency disagrees too
            impression = slope * quality + noise * rng.normal(size=(n, 3))
            own[:, j] = middle["mean"][c, :3] + leniency[j] + spread * impression
        own = np.clip(np.rint(own), 1, 5).astype(int)
        own[np.broadcast_to(absent[:, None], own.shape)] = FLAGGED
        # Lone flags: one rater sees nothing to grade where the others do.
        lone = (rng.random((n, 3)) < len(RATERS) * LONE_FLAG) & ~absent
        for i, s in np.argwhere(lone):
            own[i, rng.integers(len(RATERS)), s] = FLAGGED
        ratings.append(own)
        condition.append(np.full(n, c))
    return np.concatenate(ratings), np.concatenate(condition)


def _absent_segments(
    looks: np.ndarray, absent: np.ndarray, implied: float, rng: np.random.Generator, draws: int = 500
) -> np.ndarray:
    """Which segments [n, 3] of scored images are NA: `absent` of each, never all three; of many draws the one whose images score nearest to `implied`."""
    n, best, nearest = len(looks), np.zeros(looks.shape, dtype=bool), np.inf
    for _ in range(draws if absent.sum() else 0):
        # Poor images lack more, or fewer: how much so is drawn too.
        weight = np.exp(rng.uniform(-3, 3) * (looks.mean(axis=1) - looks.mean()))
        drawn = np.zeros(looks.shape, dtype=bool)
        for s, count in enumerate(absent):
            drawn[rng.choice(n, count, replace=False, p=weight / weight.sum()), s] = True
        if drawn.all(axis=1).any():
            continue
        left = np.where(drawn, np.nan, looks)
        distance = abs((np.nanmean(left, axis=1) * drawn.sum(axis=1)).sum() / absent.sum() - implied)
        if distance < nearest:
            best, nearest = drawn, distance
    if absent.sum() and not best.any():
        raise StudyError(
            f"no way was found to flag {absent.tolist()} segments of {n} images without emptying one: see flag_counts"
        )
    return best


# --- search, files, comparison ----------------------------------------------------------------------------------------------------------------


def search(seed: int, moves: int = MOVES) -> tuple[Found, np.ndarray]:
    """(what the search found, condition of each scored image) for the published tables. The same seed takes the same path."""
    cells = published_cells()
    wanted = targets(cells)
    ratings, condition = draw_start(cells, np.random.default_rng([seed, 239]))
    tried = 0
    for share, widest, hot, cold in STAGES:
        goal = replace(wanted, icc=_widened(wanted.icc, widest))
        budget = round(share * moves)
        lines = Lines("moves", budget)
        sums = RunningSums(ratings, condition, rater_sets(), goal)
        found = anneal(sums, seed, budget, hot, cold, lambda at, now, lines=lines: lines.at(at, f"misfit {now:.3f}"))
        ratings, tried = found.ratings, tried + found.moves
    return replace(found, moves=tried), condition


def _widened(intervals: np.ndarray, half: float) -> np.ndarray:
    """`intervals` [..., 2], each at least `half` to both sides of its middle."""
    middle, own = intervals.mean(axis=-1), np.diff(intervals, axis=-1)[..., 0] / 2
    return np.stack([middle - np.maximum(own, half), middle + np.maximum(own, half)], axis=-1)


def frames(ratings: np.ndarray, condition: np.ndarray, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The contract's two tables: 400 images in random order, of which Table 2's were kept, and the ratings and flags of those."""
    rng = np.random.default_rng([seed, 400])
    counts = flag_counts(published_cells())
    nothing = np.full((len(RATERS), len(SEGMENTS)), FLAGGED)
    images = []  # (cell, kept, ratings, flag of all unrated segments; empty: either kind of NA)
    for c, cell in enumerate(CELLS):
        images += [(cell, True, own, "") for own in ratings[condition == c]]
        images += [(cell, True, nothing, EXTERNAL)] * counts.loc[cell, "external"]
        images += [(cell, True, nothing, "")] * counts.loc[cell, "empty"]
        images += [(cell, False, nothing, "")] * (GENERATED - counts.loc[cell, "kept"])
    screening, rows = [], []
    for number, index in enumerate(rng.permutation(len(images)), start=1):
        cell, kept, own, mark = images[index]
        image_id = f"{RECONSTRUCTED}{number:03d}"
        screening.append((image_id, CANONICAL[cell].circulation, CANONICAL[cell].plane, kept))
        for j, (rater, role) in enumerate(RATERS if kept else ()):
            for s, segment in enumerate(SEGMENTS):
                rating = float(own[j, s]) if own[j, s] != FLAGGED else np.nan
                flag = "" if own[j, s] != FLAGGED else mark or str(rng.choice(NOT_RATABLE))
                rows.append((image_id, rater, role, segment, rating, flag))
    return pd.DataFrame(screening, columns=list(SCREENING.columns)), pd.DataFrame(rows, columns=list(RATINGS.columns))


def open_shipped(folder: Path = FOLDER) -> ReaderStudy:
    """The reconstruction that ships, checked like any reader study."""
    return open_reader_study(folder / "screening.csv", folder / "ratings.csv")


def fitted_tables(study: ReaderStudy) -> dict[int, pd.DataFrame]:
    """Tables 2, 3 and 4 of a reconstruction beside the published ones, by `dsa_lib.readers.tables`: columns row, column, published, fitted, source (`NAME`)."""
    values = {2: table2(study), 3: table3(study), 4: table4(reliability(study, 0, 0))[0]}
    result = {}
    for number, all_cells in values.items():
        printed = published.published(number)
        wanted = list(zip(printed["row"], printed["column"], strict=True))  # "Total" and "Not scored" are not in print
        result[number] = published.fitted(printed, {cell: all_cells[cell] for cell in wanted}).assign(source=NAME)
    return result


def residuals(study: ReaderStudy) -> pd.DataFrame:
    """Every published cell of Tables 2–4 and what the reconstruction gives: table, row, column, published (as printed), fitted, difference, printed_alike."""
    parts = []
    for number, frame in fitted_tables(study).items():
        text = published.published(number, text=True)["published"].to_numpy()
        digits = [max(0, -Decimal(t).as_tuple().exponent) for t in text]
        alike = [f"{value:.{d}f}" == t for value, d, t in zip(frame["fitted"], digits, text, strict=True)]
        part = frame.assign(
            table=number, printed_alike=alike, difference=frame["fitted"] - frame["published"], published=text
        )
        parts.append(part[["table", "row", "column", "published", "fitted", "difference", "printed_alike"]])
    return pd.concat(parts, ignore_index=True)


def side_by_side(left: pd.DataFrame) -> pd.DataFrame:
    """`residuals` for the eye, as text: published | from the reconstruction | difference, two digits more than printed, counts whole."""
    more = [digits + 2 if (digits := len(text.partition(".")[2])) else 0 for text in left["published"]]
    shown = left.set_index(["table", "row", "column"])[["published"]]
    shown["from the reconstruction"] = [f"{value:.{d}f}" for value, d in zip(left["fitted"], more, strict=True)]
    shown["difference"] = [
        f"{value:+.{d}f}" if d else f"{value:.0f}" for value, d in zip(left["difference"], more, strict=True)
    ]
    return shown


def worst(left: pd.DataFrame) -> pd.DataFrame:
    """By table: number of cells, how many print as published, and the largest difference in units of half the last printed digit."""
    half = [np.diff(printed_interval(text))[0] / 2 for text in left["published"].astype(str)]
    frame = left.assign(largest=left["difference"].abs() / half).groupby("table")
    return frame.agg(cells=("row", "size"), printed_alike=("printed_alike", "sum"), largest=("largest", "max")).round(2)


def alternatives() -> pd.DataFrame:
    """`alternatives.csv` as shipped: one line a seed, the shipped reconstruction first; see `undetermined`."""
    return pd.read_csv(FOLDER / "alternatives.csv")


def undetermined(study: ReaderStudy) -> dict[str, float]:
    """What Tables 2–4 leave open, in one reconstruction: each rater's mean rating (Figure 4d), and the shares of ratings 1–5 in percent (Figure 4a)."""
    means = study.ratings.groupby("rater")["rating"].mean()
    counts = rating_shares(study).groupby("rating")["count"].sum()
    shares = 100 * counts / counts.sum()
    return {f"mean {rater}": float(means[rater]) for rater in study.raters} | {
        f"share of {r} (%)": float(v) for r, v in shares.items()
    }


def reconstruct(seed: int, folder: Path, moves: int = MOVES) -> tuple[pd.DataFrame, dict]:
    """Search, write `screening.csv` and `ratings.csv` into `folder`; returns (`residuals`, a line of `alternatives.csv`), from the files as read back."""
    found, condition = search(seed, moves)
    files = folder / "screening.csv", folder / "ratings.csv"
    write_study(*frames(found.ratings, condition, seed), *files, rating_origin.RECONSTRUCTED)
    study = open_shipped(folder)
    left = residuals(study)
    line = dict(seed=seed, moves=found.moves, cells=len(left), printed_alike=int(left["printed_alike"].sum()))
    return left, line | undetermined(study)


def _write(frame: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as temporary:
        frame.round(6).to_csv(temporary, index=False)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dsa_lib.paper.rating_reconstruction", description=f"Ratings {NAME}."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--moves", type=int, default=MOVES, help=f"the most steps to try (default {MOVES:,})")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder of the files (default: where the shipped ones lie)"
    )
    parser.add_argument("--compare", type=int, nargs="*", default=[], help="further seeds, for alternatives.csv")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    left, line = reconstruct(given.seed, given.out, given.moves)
    _write(left, given.out / "residuals.csv")
    lines = [line]
    for seed in given.compare:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(reconstruct(seed, Path(folder), given.moves)[1])
        _write(pd.DataFrame(lines), given.out / "alternatives.csv")
    print(pd.DataFrame(lines).round(2).to_string(index=False))
    missed = left[~left["printed_alike"]]
    print(
        f"{len(left) - len(missed)} of {len(left)} cells as printed"
        + (f"; not met:\n{missed.to_string(index=False)}" if len(missed) else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
