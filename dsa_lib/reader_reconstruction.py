"""Reconstructed ratings: whole-number ratings of 239 images by four raters whose Tables 2, 3 and 4 are the published ones (§2.4).

The study's raw ratings are not public. What this module finds is *reconstructed, fitted to the published values, not the readers' own*: one of very many
sets of ratings that lead to the same three tables. It shows that the tables can hold together under the rules of §2.4 as `dsa_lib.readers` has them,
and says nothing about any single rating, image or reader.

    python -m dsa_lib.reader_reconstruction --seed 1 --out data_manifests/reader_study

searches (minutes on one core) and writes `screening.csv`, `ratings.csv` and `residuals.csv` there; `--compare 2 3 4` searches with further seeds and
writes `alternatives.csv`, how much the results differ. Every figure written is computed by the public functions of `dsa_lib.readers` on the files as read back.

How: flags are drawn so that Table 2 holds exactly; ratings are drawn from normal effects whose sizes follow from Tables 3 and 4; then
`dsa_lib._rating_search` moves single ratings by one step until Tables 3 and 4 hold too.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib import tables
from dsa_lib._rating_search import FLAGGED, Found, RunningSums, Targets, anneal
from dsa_lib.conditions import CANONICAL, CELLS
from dsa_lib.errors import StudyError
from dsa_lib.progress import Lines
from dsa_lib.reader_files import RATINGS, RECONSTRUCTED, SCREENING, open_reader_study, write_study
from dsa_lib.readers import (
    EXPERT_ROLES,
    EXTERNAL,
    NOT_RATABLE,
    RATER_SETS,
    REGIONS,
    SEGMENTS,
    SHORT,
    ReaderStudy,
    rating_shares,
    reliability,
    table2,
    table3,
    table4,
)
from dsa_lib.workspace import PROJECT, atomic_write

NAME = "reconstructed, fitted to the published values, not the readers' own"
FOLDER = PROJECT / "data_manifests" / "reader_study"
TABLES = (2, 3, 4)
RATERS = (("NR1", "NR"), ("NR2", "NR"), ("NS1", "NS"), ("IM1", "IM"))  # §2.4, Figure 4d: two NR, one NS, one IM
GENERATED = 100  # images of each condition before screening (§2.3: 10 batches of 10)
LENIENCY_SD = 0.2  # of the raters where the search starts: chosen, Figure 4d prints no digits
LONE_FLAG = 0.02  # chance that one rater alone flags a segment that others rate: chosen, the paper does not say
MOVES, HOT, COLD = 2_000_000, 5.0, 0.001  # of the search: tried on seeds 1 to 5


# --- what the published tables ask for --------------------------------------------------------------------------------------------------------


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
        (r, c): text for number in TABLES for r, c, text in tables.published(number, text=True).itertuples(index=False)
    }


def targets(cells: Mapping[tuple[str, str], str]) -> Targets:
    """Intervals of Tables 3 and 4. Raises StudyError where an ICC(2,1) and its ICC(2,k) exclude each other."""
    scores = [
        [[printed_interval(cells[cell, f"{SHORT[r]} {what}"]) for r in REGIONS] for cell in CELLS]
        for what in ("mean", "SD")
    ]
    icc = np.empty((len(REGIONS), len(RATER_SETS), 2))
    for (region, row), (a, members) in ((x, y) for x in enumerate(REGIONS) for y in enumerate(rater_sets())):
        texts = [cells[row.capitalize(), f"{RATER_SETS[a]} {form}"] for form in ("ICC(2,1)", "ICC(2,k)")]
        icc[region, a] = single_interval(*texts, len(members))
        if icc[region, a, 0] >= icc[region, a, 1]:
            raise StudyError(
                f"published Table 4, {row}, {RATER_SETS[a]}: no ICC(2,1) prints as {texts[0]} and steps up to {texts[1]} with k = {len(members)}"
            )
    return Targets(np.array(scores[0]), np.array(scores[1]), icc)


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


# --- where the search starts ------------------------------------------------------------------------------------------------------------------


def draw_start(cells: Mapping[tuple[str, str], str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(ratings [images, raters, 3], 0 where flagged; condition [images]) of the scored images: Table 2's flags, and normal effects for Tables 3 and 4.

    A rater's impression is the image's quality in that segment times the rater's slope, plus noise. With r the published ICC(2,1) of experts and r' that
    between an expert and the fourth rater (2 r_all - r, by the mean over pairs), slopes are 1 and r'/r, and noise fills up to equal variances.
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
            impression = slope * quality + np.sqrt(1 - slope**2) * rng.normal(size=(n, 3))
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
    start, condition = draw_start(cells, np.random.default_rng([seed, 239]))
    lines = Lines("moves", moves)
    found = anneal(
        RunningSums(start, condition, rater_sets(), targets(cells)),
        seed,
        moves,
        HOT,
        COLD,
        lambda tried, now: lines.at(tried, f"misfit {now:.3f}"),
    )
    return found, condition


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
    """Tables 2, 3 and 4 of a reconstruction beside the published ones, by `dsa_lib.readers`: columns row, column, published, fitted, source (`NAME`)."""
    values = {2: table2(study), 3: table3(study), 4: table4(reliability(study, 0, 0))[0]}
    result = {}
    for number, all_cells in values.items():
        printed = tables.published(number)
        wanted = list(zip(printed["row"], printed["column"], strict=True))  # "Total" and "Not scored" are not in print
        result[number] = tables.fitted(printed, {cell: all_cells[cell] for cell in wanted}).assign(source=NAME)
    return result


def residuals(study: ReaderStudy) -> pd.DataFrame:
    """Every published cell of Tables 2–4 and what the reconstruction gives: table, row, column, published (as printed), fitted, difference, printed_alike."""
    parts = []
    for number, frame in fitted_tables(study).items():
        text = tables.published(number, text=True)["published"].to_numpy()
        digits = [max(0, -Decimal(t).as_tuple().exponent) for t in text]
        alike = [f"{value:.{d}f}" == t for value, d, t in zip(frame["fitted"], digits, text, strict=True)]
        part = frame.assign(
            table=number, printed_alike=alike, difference=frame["fitted"] - frame["published"], published=text
        )
        parts.append(part[["table", "row", "column", "published", "fitted", "difference", "printed_alike"]])
    return pd.concat(parts, ignore_index=True)


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
    write_study(*frames(found.ratings, condition, seed), folder / "screening.csv", folder / "ratings.csv")
    study = open_shipped(folder)
    left = residuals(study)
    line = dict(seed=seed, moves=found.moves, cells=len(left), printed_alike=int(left["printed_alike"].sum()))
    return left, line | undetermined(study)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dsa_lib.reader_reconstruction", description=f"Ratings {NAME}.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--moves", type=int, default=MOVES, help=f"the most steps to try (default {MOVES:,})")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder of the files (default: where the shipped ones lie)"
    )
    parser.add_argument("--compare", type=int, nargs="*", default=[], help="further seeds, for alternatives.csv")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    left, line = reconstruct(given.seed, given.out, given.moves)
    lines = [line]
    for seed in given.compare:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(reconstruct(seed, Path(folder), given.moves)[1])
    written = {"residuals": left} | ({"alternatives": pd.DataFrame(lines)} if given.compare else {})
    for name, frame in written.items():
        with atomic_write(given.out / f"{name}.csv") as temporary:
            frame.round(6).to_csv(temporary, index=False)
    print(pd.DataFrame(lines).round(2).to_string(index=False))
    missed = left[~left["printed_alike"]]
    print(
        f"{len(left) - len(missed)} of {len(left)} cells as printed"
        + (f"; not met:\n{missed.to_string(index=False)}" if len(missed) else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
