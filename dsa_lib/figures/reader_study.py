"""Figure 4 a-e: the reader study. Each panel takes a DataFrame of `dsa_lib.readers.tables` and draws; `figure4` combines them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dsa_lib.figures.style import CELL_COLOURS, INK, ROLE_LOOKS, Look, dots, key, plain_logarithms

SEGMENTS = ("proximal", "medium", "peripheral")
SEGMENT_TICKS = ("prox.", "med.", "peri.")
# One map for the grades of panel a and the means of panel c: lightness falls from 1 to 5, so that grey print keeps the order.
GRADES = sns.color_palette("YlGnBu", as_cmap=True)
GRADE_COLOURS = tuple(GRADES(i / 4) for i in range(5))
# Raters are told apart by marker (role) and lightness (within a role); conditions by colour and marker. Neither needs colour.
CELL_MARKERS = {"AC A": "o", "AC B": "s", "PC A": "^", "PC B": "D"}
SMALL = 6  # points; the smallest type in print
LIKERT = (0.8, 5.2)


def panel_a(axis, shares: pd.DataFrame, cells: Sequence[str]) -> None:
    """Stacked proportional bars of the raw ratings by condition and segment (`readers.rating_shares`)."""
    placed = _placed(shares, cells)
    grades = list(range(5, 0, -1))  # seaborn stacks from the last to the first
    sns.histplot(
        placed.fillna({"share": 0}), x="place", weights="share", hue="rating", hue_order=grades, palette=[GRADE_COLOURS[grade - 1] for grade in grades],
        multiple="stack", discrete=True, shrink=0.82, alpha=1, edgecolor="#555555", linewidth=0.3, ax=axis,
    )  # fmt: skip
    for container in axis.containers:
        texts = [f"{100 * bar.get_height():.0f}" if bar.get_height() >= 0.07 else "" for bar in container]
        ink = _ink(container[0].get_facecolor())
        axis.bar_label(container, texts, label_type="center", fontsize=SMALL, color=ink)
    for place, total in placed.groupby("place")["count"].sum().items():
        if total:
            axis.text(place, 1.015, f"{total}", ha="center", va="bottom", fontsize=SMALL, color="#555555")
        else:
            axis.text(place, 0.5, "no rating", rotation=90, ha="center", va="center", color="#777777", fontsize=SMALL)
    axis.set(ylim=(0, 1), yticks=np.linspace(0, 1, 5), yticklabels=[f"{v:.0f}" for v in np.linspace(0, 100, 5)])
    axis.set_ylabel("share of ratings (%)")
    _segment_axis(axis, cells)
    handles = [key(str(g), Look("#555555", "s", c), ms=7, mew=0.3) for g, c in enumerate(GRADE_COLOURS, 1)]
    axis.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.06), ncols=5, handlelength=1, columnspacing=1
    )


def panel_b(axis, scores: pd.DataFrame, cells: Sequence[str]) -> None:
    """Boxplots of the image-wise segment scores (`readers.image_scores`): median, quartiles, whiskers to 1.5 IQR."""
    each = _placed(scores.melt("cell", SEGMENTS, var_name="segment", value_name="score").dropna(), cells)
    if len(each):
        sns.boxplot(
            each, x="place", y="score", hue="cell", palette={cell: _tint(_colour(cell)) for cell in cells}, saturation=1,
            order=_places(cells), dodge=False, width=0.62, linewidth=0.9, linecolor=INK, fliersize=2.2, medianprops={"linewidth": 1.5}, legend=False, ax=axis,
        )  # fmt: skip
    for place, count in each.groupby("place").size().items():
        axis.text(place, 5.28, f"{count}", ha="center", va="bottom", fontsize=SMALL, color="#555555")
    _likert(axis, "image-wise score")
    _segment_axis(axis, cells)


def panel_c(axis, means: pd.DataFrame) -> None:
    """Heat map of mean image-wise scores: conditions [rows] by proximal, medium, peripheral [columns], NaN where none."""
    axis.set_facecolor("#EEEEEE")
    bar = {"ticks": range(1, 6), "fraction": 0.08, "pad": 0.04}
    sns.heatmap(means.astype(float), annot=True, fmt=".2f", cmap=GRADES, vmin=1, vmax=5, cbar_kws=bar, ax=axis)
    for row, column in np.argwhere(means.isna().to_numpy()):
        axis.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color=INK)
    axis.set_xticklabels(SEGMENT_TICKS)
    axis.set(xlabel="", ylabel="")
    axis.tick_params(length=0, rotation=0)


def panel_d(axis, means: pd.DataFrame, cells: Sequence[str], raters: Sequence[str]) -> None:
    """Rater-wise mean ratings with 95 % intervals by condition and segment (`readers.rater_means`)."""
    roles = means.drop_duplicates("rater").set_index("rater")["role"].reindex(raters).fillna("other")
    looks = {}
    for rater, role in roles.items():  # filled, open, half: raters of one role
        colour, marker, _ = ROLE_LOOKS.get(role, ROLE_LOOKS["other"])
        face = (None, "white", _tint(colour, 0.45))[(roles.loc[:rater].eq(role).sum() - 1) % 3]
        looks[rater] = Look(colour, marker, face)
    dodge = min(0.2, 0.72 / max(len(looks), 1)) * (len(looks) - 1)
    place = {"orient": "x", "x": "place", "order": _places(cells), "y": "mean"}
    dots(axis, _placed(means, cells), looks, hue="rater", dodge=dodge, size=3.4, **place)
    _likert(axis, "mean rating, 95 % CI")
    if len(means):  # as many whole grades as the intervals reach
        low = np.floor(np.nanmin(means[["mean", "low"]].to_numpy()))
        high = np.ceil(np.nanmax(means[["mean", "high"]].to_numpy()))
        axis.set_ylim(max(low, 1) - 0.2, min(high, 5) + 0.2)
    _segment_axis(axis, cells)
    columns = max(1, min(len(raters), 60 // (6 + max(map(len, raters), default=0))))
    handles = [key(rater, look, ls="-", lw=0.9) for rater, look in looks.items()]
    axis.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=columns, handlelength=1.2, columnspacing=1
    )


def panel_e(axis, table: pd.DataFrame) -> None:
    """Share of a condition among all arterial frames against its mean overall score, 95 % CI (`readers.richness`)."""
    shown = table[np.isfinite(table["mean"])].sort_values("percent", ignore_index=True)
    looks = {cell: Look(_colour(cell), CELL_MARKERS.get(cell, "o")) for cell in shown["cell"]}
    dots(axis, shown, looks, hue="cell", orient="x", native_scale=True, dodge=0, size=5, x="percent", y="mean")
    span = max(shown["percent"].max() if len(shown) else 1.0, 1.0)
    _likert(axis, "mean score, 95 % CI")
    axis.set(xlim=(-0.06 * span, 1.06 * span), xlabel="share of arterial frames (%)")
    if len(shown):
        low, high = shown["low"].fillna(shown["mean"]), shown["high"].fillna(shown["mean"])
        axis.set_ylim(max(LIKERT[0], low.min() - 0.2), min(LIKERT[1], high.max() + 0.2))
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5]))
    handles = [key(f"{row.cell}, n = {row.n:.0f}", looks[row.cell]) for row in shown.itertuples()]
    axis.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.22),
        ncols=2,
        fontsize=7,
        columnspacing=1,
        handletextpad=0.2,
    )


def figure4(
    shares: pd.DataFrame,
    scores: pd.DataFrame,
    rater_means: pd.DataFrame,
    richness: pd.DataFrame | None,
    raters: Sequence[str],
    cells: Sequence[str],
    source: str,
) -> Figure:
    """Figure 4 a-e on one sheet (7.2 in wide, a journal's two columns). `source` names whose ratings they are.

    `richness` None leaves panel e as a sentence: there is no arterial-frame count to set the scores against. With more than
    the paper's four conditions panels a, b and d have the whole width.
    """
    if len(cells) <= 4:
        figure = plt.figure(figsize=(7.2, 7.4))
        grid = figure.add_gridspec(3, 2, width_ratios=(1.85, 1))
        places = (grid[0, :], grid[1, 0], grid[1, 1], grid[2, 0], grid[2, 1])
    else:
        figure = plt.figure(figsize=(7.2, 9.2))
        grid = figure.add_gridspec(4, 2)
        places = (grid[0, :], grid[1, :], grid[3, 0], grid[2, :], grid[3, 1])
    axes = [figure.add_subplot(place) for place in places]
    panel_a(axes[0], shares, cells)
    panel_b(axes[1], scores, cells)
    panel_c(axes[2], mean_scores(scores, cells))
    panel_d(axes[3], rater_means, cells, raters)
    if richness is None:
        axes[4].text(0.5, 0.5, "no arterial-frame counts in this run", ha="center", va="center", color="#777777")
        axes[4].set_axis_off()
    else:
        panel_e(axes[4], richness)
    titles = (
        "Raw ratings, 1 (very poor) to 5 (excellent); their number above",
        "Image-wise scores; number of images above",
        "Mean image-wise score",
        "Raters",
        "Data and overall score",
    )
    for letter, axis, title in zip("abcde", axes, titles, strict=True):
        axis.set_title(title, loc="left", x=0.02, pad=11 if letter in "ab" else 5)
        axis.annotate(
            letter, (0, 1), (-24, 9 if letter in "ab" else 3), xycoords="axes fraction", textcoords="offset points",
            fontsize=11, fontweight="bold", va="bottom",
        )  # fmt: skip
    figure.suptitle(source, fontsize=8, color="#555555", x=0.99, ha="right")
    return figure


def mean_scores(scores: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    """Panel c's matrix: conditions by segments, means over images."""
    return scores.groupby("cell")[list(SEGMENTS)].mean().reindex(list(cells))


def panels(
    shares: pd.DataFrame,
    scores: pd.DataFrame,
    rater_means: pd.DataFrame,
    richness: pd.DataFrame | None,
    raters: Sequence[str],
    cells: Sequence[str],
    source: str,
) -> dict[str, Figure]:
    """The panels as single figures, by letter, each with its `source`; "e" is left out without `richness`."""
    jobs = {
        "a": ((7.2, 2.3), lambda axis: panel_a(axis, shares, cells)),
        "b": ((7.2, 2.3), lambda axis: panel_b(axis, scores, cells)),
        "c": ((3.4, 2.3), lambda axis: panel_c(axis, mean_scores(scores, cells))),
        "d": ((7.2, 2.3), lambda axis: panel_d(axis, rater_means, cells, raters)),
    }
    if richness is not None:
        jobs["e"] = ((3.4, 2.5), lambda axis: panel_e(axis, richness))
    drawn = {}
    for letter, (size, draw) in jobs.items():
        drawn[letter], axis = plt.subplots(figsize=size)
        draw(axis)
        axis.set_title(source, loc="left", fontsize=7, color="#555555", pad=11)
    return drawn


def _places(cells: Sequence[str]) -> list[int]:
    """Places on the axis of conditions and segments: three neighbours a condition and one that stays free between conditions."""
    return list(range(4 * len(cells) - 1))


def _placed(table: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    """`table` with the `place` of each row, by its `cell` and `segment`."""
    where = {(cell, segment): 4 * i + j for i, cell in enumerate(cells) for j, segment in enumerate(SEGMENTS)}
    return table.assign(place=[where[pair] for pair in zip(table["cell"], table["segment"], strict=True)])


def _segment_axis(axis, cells: Sequence[str]) -> None:
    axis.set_xticks([place for place in _places(cells) if place % 4 < 3], SEGMENT_TICKS * len(cells))
    axis.tick_params(axis="x", length=0, pad=2, labelsize=SMALL)
    for i, cell in enumerate(cells):
        axis.annotate(
            cell, (4 * i + 1, 0), (0, -14), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="top", fontweight="bold", color=_shade(_colour(cell)),
        )  # fmt: skip
        if i:
            axis.axvline(4 * i - 1, color="#DDDDDD", linewidth=0.6, zorder=0)
    axis.set(xlim=(-0.7, 4 * len(cells) - 1.3), xlabel="")


def _likert(axis, label: str) -> None:
    axis.set(ylim=LIKERT, yticks=range(1, 6), ylabel=label)
    axis.grid(True, axis="y")


def _colour(cell: str) -> str:
    return CELL_COLOURS.get(cell, CELL_COLOURS["Others"])


def _ink(colour) -> str:
    """Black or white, whichever stands out more from `colour` (relative luminance of WCAG 2.1)."""
    channels = np.asarray(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "white" if linear @ (0.2126, 0.7152, 0.0722) < 0.18 else "#111111"


def _shade(colour: str, share: float = 0.72) -> tuple[float, ...]:
    """Darker, for type: the light colours of two conditions are too faint for letters."""
    return tuple(share * c for c in to_rgb(colour))


def _tint(colour: str, share: float = 0.35) -> tuple[float, ...]:
    return tuple(1 - share * (1 - c) for c in to_rgb(colour))


def half_widths(precision: pd.DataFrame, icc_half: float, mean_half: float, source: str) -> Figure:
    """Two panels from `reader_planning.precision`: ICC(2,k) and a condition's mean; dashed: the half width aimed at.

    Left: the F method's interval by formula. Right: solid for these raters, dotted for other raters too.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.3))
    line = {
        "x": "images",
        "hue": "raters",
        "palette": "crest",
        "estimator": None,
        "marker": "o",
        "ms": 4,
        "mew": 0,
        "legend": False,
    }
    sns.lineplot(precision, y="icc_half", ax=left, **line)
    sns.lineplot(precision, y="mean_half", ax=right, **line)
    sns.lineplot(precision, y="mean_half_other_raters", ax=right, ls=":", **line)
    for axis, target, title, images in (
        (left, icc_half, "Reliability of the mean of k raters, ICC(2,k)", "images rated"),
        (right, mean_half, "Mean score of a condition", "images rated of the condition"),
    ):
        axis.axhline(target, color="#444444", lw=0.8, ls="--")
        axis.annotate(
            f"± {target:g}", (1, target), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="left", va="center", fontsize=7, color="#444444",
        )  # fmt: skip
        axis.set(xscale="log", yscale="log", title=title, xlabel=images, ylabel="half width of the 95 % interval")
        plain_logarithms(axis.xaxis)
        plain_logarithms(axis.yaxis)
        shown = sorted(set(precision["images"]))
        axis.set_xticks(shown, [str(n) for n in shown])
        axis.grid(True)
    icc = precision.drop_duplicates("raters")
    colours = [drawn.get_color() for drawn in left.lines]
    handles = [
        key(f"{row.raters} raters, ICC(2,k) = {row.icc:.2f}", Look(colour), ls="-")
        for row, colour in zip(icc.itertuples(), colours, strict=False)
    ]
    handles += [
        Line2D([], [], color=INK, label="these raters, other images"),
        Line2D([], [], color=INK, ls=":", label="other raters too"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.suptitle(source, fontsize=7, color="#555555", x=0.99, ha="right")
    return figure
