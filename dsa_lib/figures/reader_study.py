"""Figure 4 a-e: the reader study. Each panel takes a DataFrame of `dsa_lib.readers.tables` and draws; `figure4` combines them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from dsa_lib.figures.style import CELL_COLOURS

SEGMENTS = ("proximal", "medium", "peripheral")
SEGMENT_TICKS = ("prox.", "med.", "peri.")
# One map for the grades of panel a and the means of panel c: lightness falls from 1 to 5, so that grey print keeps the order.
GRADES = plt.get_cmap("YlGnBu")
GRADE_COLOURS = tuple(GRADES(i / 4) for i in range(5))
# Raters are told apart by marker (role) and lightness (within a role); conditions by colour and marker. Neither needs colour.
ROLE_MARKERS = {"NR": "o", "NS": "s", "IM": "^", "other": "D"}
ROLE_COLOURS = {"NR": "#1B1B1B", "NS": "#7B3F98", "IM": "#1B7F5C", "other": "#9A6A00"}
CELL_MARKERS = {"AC A": "o", "AC B": "s", "PC A": "^", "PC B": "D"}
SMALL = 6  # points; the smallest type in print
LIKERT = (0.8, 5.2)


def panel_a(axis, shares: pd.DataFrame, cells: Sequence[str]) -> None:
    """Stacked proportional bars of the raw ratings by condition and segment (`readers.rating_shares`)."""
    positions, gap = _positions(cells)
    table = shares.pivot_table(index=["cell", "segment"], columns="rating", values="share")
    total = shares.groupby(["cell", "segment"])["count"].sum()
    for (cell, segment), x in positions.items():
        bottom = 0.0
        if total.get((cell, segment), 0) == 0:
            axis.text(x, 0.5, "no rating", rotation=90, ha="center", va="center", color="#777777", fontsize=SMALL)
            continue
        for grade, colour in enumerate(GRADE_COLOURS, start=1):
            share = table.loc[(cell, segment), grade]
            axis.bar(x, share, 0.82, bottom=bottom, color=colour, edgecolor="#555555", linewidth=0.3)
            if share >= 0.07:
                axis.text(
                    x,
                    bottom + share / 2,
                    f"{100 * share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=SMALL,
                    color=_ink(colour),
                )
            bottom += share
        axis.text(x, 1.015, f"{total[cell, segment]}", ha="center", va="bottom", fontsize=SMALL, color="#555555")
    axis.set(ylim=(0, 1), yticks=np.linspace(0, 1, 5), yticklabels=[f"{v:.0f}" for v in np.linspace(0, 100, 5)])
    axis.set_ylabel("share of ratings (%)")
    _segment_axis(axis, positions, cells, gap)
    handles = [
        Patch(facecolor=c, edgecolor="#555555", linewidth=0.3, label=str(g)) for g, c in enumerate(GRADE_COLOURS, 1)
    ]
    axis.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.06),
        ncols=5,
        handlelength=1,
        handleheight=1,
        columnspacing=1,
    )


def panel_b(axis, scores: pd.DataFrame, cells: Sequence[str]) -> None:
    """Boxplots of the image-wise segment scores (`readers.image_scores`): median, quartiles, whiskers to 1.5 IQR."""
    positions, gap = _positions(cells)
    for (cell, segment), x in positions.items():
        values = scores.loc[scores["cell"].eq(cell), segment].dropna().to_numpy()
        if len(values) == 0:
            continue
        colour = CELL_COLOURS.get(cell, CELL_COLOURS["Others"])
        axis.boxplot(
            values,
            positions=[x],
            widths=0.62,
            patch_artist=True,
            manage_ticks=False,
            boxprops=dict(facecolor=_tint(colour), edgecolor=colour, linewidth=0.9),
            medianprops=dict(color="#111111", linewidth=1.3),
            whiskerprops=dict(color=colour, linewidth=0.9),
            capprops=dict(color=colour, linewidth=0.9),
            flierprops=dict(marker="o", markersize=2.2, markerfacecolor=colour, markeredgecolor="none", alpha=0.7),
        )
        axis.text(x, 5.28, f"{len(values)}", ha="center", va="bottom", fontsize=SMALL, color="#555555")
    _likert(axis, "image-wise score")
    _segment_axis(axis, positions, cells, gap)


def panel_c(axis, means: pd.DataFrame) -> None:
    """Heat map of mean image-wise scores: conditions [rows] by proximal, medium, peripheral [columns], NaN where none."""
    values = means.to_numpy(float)
    image = axis.imshow(
        np.ma.masked_invalid(values),
        cmap=GRADES.with_extremes(bad="#EEEEEE"),
        vmin=1,
        vmax=5,
        aspect="auto",
    )
    for i, j in np.ndindex(values.shape):
        missing = np.isnan(values[i, j])
        ink = "#222222" if missing else _ink(image.cmap(image.norm(values[i, j])))
        axis.text(j, i, "–" if missing else f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
    axis.set(
        xticks=range(values.shape[1]), xticklabels=SEGMENT_TICKS, yticks=range(len(means)), yticklabels=means.index
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = axis.figure.colorbar(image, ax=axis, ticks=range(1, 6), fraction=0.08, pad=0.04)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=6.5, length=2)


def panel_d(axis, means: pd.DataFrame, cells: Sequence[str], raters: Sequence[str]) -> None:
    """Rater-wise mean ratings with 95 % intervals by condition and segment (`readers.rater_means`)."""
    positions, gap = _positions(cells)
    shift = (np.arange(len(raters)) - (len(raters) - 1) / 2) * min(0.2, 0.72 / max(len(raters), 1))
    handles, of_role = [], {}
    for j, rater in enumerate(raters):
        own = means[means["rater"].eq(rater)]
        role = own["role"].iloc[0] if len(own) else "other"
        colour, marker = ROLE_COLOURS.get(role, "#555555"), ROLE_MARKERS.get(role, "D")
        tint = (1.0, 0.0, 0.45)[of_role.setdefault(role, 0) % 3]  # filled, open, half: raters of one role
        of_role[role] += 1
        look = dict(marker=marker, color=colour, markerfacecolor=_tint(colour, tint), markeredgewidth=0.8)
        x = np.array([positions[c, s] for c, s in zip(own["cell"], own["segment"], strict=True)]) + shift[j]
        half = (own["high"] - own["mean"]).fillna(0)
        axis.errorbar(x, own["mean"], yerr=half, ls="", ms=3.2, elinewidth=0.8, capsize=0, **look)
        handles.append(Line2D([], [], ms=4, linewidth=0.9, label=rater, **look))
    _likert(axis, "mean rating, 95 % CI")
    if len(means):  # as many whole grades as the intervals reach
        low = np.floor(np.nanmin(means[["mean", "low"]].to_numpy()))
        high = np.ceil(np.nanmax(means[["mean", "high"]].to_numpy()))
        axis.set_ylim(max(low, 1) - 0.2, min(high, 5) + 0.2)
    _segment_axis(axis, positions, cells, gap)
    axis.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=max(1, min(len(raters), 60 // (6 + max(map(len, raters), default=0)))),
        handlelength=1.2,
        columnspacing=1,
    )


def panel_e(axis, table: pd.DataFrame) -> None:
    """Share of a condition among all arterial frames against its mean overall score, 95 % CI (`readers.richness`)."""
    shown = table[np.isfinite(table["mean"])].sort_values("percent", ignore_index=True)
    low, high = shown["low"].fillna(shown["mean"]), shown["high"].fillna(shown["mean"])
    span = max(shown["percent"].max() if len(shown) else 1.0, 1.0)
    axis.set_xlim(-0.14 * span, 1.14 * span)
    axis.set_xlabel("share of arterial frames (%)")
    _likert(axis, "mean overall score, 95 % CI")
    if len(shown):
        axis.set_ylim(max(LIKERT[0], low.min() - 0.45), min(LIKERT[1], high.max() + 0.45))
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5]))
    for i, row in shown.iterrows():
        colour = CELL_COLOURS.get(row["cell"], CELL_COLOURS["Others"])
        bars = [[row["mean"] - low[i]], [high[i] - row["mean"]]]
        marker = CELL_MARKERS.get(row["cell"], "o")
        axis.errorbar(row["percent"], row["mean"], yerr=bars, fmt=marker, ms=5, color=colour, elinewidth=1.2, capsize=0)
    texts = [f"{cell}\nn = {n:.0f}" for cell, n in zip(shown["cell"], shown["n"], strict=True)]
    _label_bars(axis, texts, shown["percent"].to_numpy(float), low.to_numpy(float), high.to_numpy(float))


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
        figure = plt.figure(figsize=(7.2, 7.0))
        grid = figure.add_gridspec(3, 2, width_ratios=(1.7, 1))
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
        "Data and quality",
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


def _positions(cells: Sequence[str]) -> tuple[dict[tuple[str, str], float], float]:
    """x of every (cell, segment): three neighbours a condition and a gap between conditions."""
    gap = 0.7
    return {(c, s): i * (3 + gap) + j for i, c in enumerate(cells) for j, s in enumerate(SEGMENTS)}, gap


def _segment_axis(axis, positions: dict, cells: Sequence[str], gap: float) -> None:
    axis.set_xticks(list(positions.values()), [SEGMENT_TICKS[SEGMENTS.index(s)] for _, s in positions])
    axis.tick_params(axis="x", length=0, pad=2, labelsize=6)
    for i, cell in enumerate(cells):
        middle = i * (3 + gap) + 1
        axis.annotate(
            cell, (middle, 0), (0, -14), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="top", fontsize=8, fontweight="bold", color=_shade(CELL_COLOURS.get(cell, "#444444")),
        )  # fmt: skip
        if i:
            axis.axvline(middle - 2 + 0.5 - gap / 2, color="#DDDDDD", linewidth=0.6, zorder=0)
    axis.set_xlim(-0.7, (len(cells) - 1) * (3 + gap) + 2.7)


def _likert(axis, label: str) -> None:
    axis.set(ylim=LIKERT, yticks=range(1, 6), ylabel=label)
    axis.grid(axis="y", color="#E8E8E8", linewidth=0.6)
    axis.set_axisbelow(True)


def _label_bars(
    axis, texts: Sequence[str], x: np.ndarray, low: np.ndarray, high: np.ndarray, size: float = 6.5
) -> None:
    """Write a label at each vertical bar (x, low to high), where it touches no bar and no other label.

    Of the places around its own bar the first free one is taken, near ones before far ones (those with a thin line to the
    bar); where none is free, the one that overlaps least. Works in points on the page, so the axis must have its final size:
    the canvas is laid out once for that.
    """
    axis.figure.draw_without_rendering()
    to_points = 72 / axis.figure.dpi
    frame = axis.get_window_extent().extents * to_points
    ends = [axis.transData.transform(np.column_stack([x, y])) * to_points for y in (low, high)]
    taken = [(a[0] - 3, a[1], a[0] + 3, b[1]) for a, b in zip(*ends, strict=True)]
    for text, bottom, top in zip(texts, *ends, strict=True):
        lines = text.split("\n")
        width, height = 0.62 * size * max(map(len, lines)), 1.25 * size * len(lines)
        (centre, middle), half = (bottom + top) / 2, (top[1] - bottom[1]) / 2
        around = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)]
        places = [
            (centre + right * (5 + width / 2 + far), middle + up * ((0 if right else 3) + half + height / 2 + far / 2))
            for far in (0, 12, 24, 36)
            for right, up in around
        ]
        boxes = [(px - width / 2, py - height / 2, px + width / 2, py + height / 2) for px, py in places]
        cost = [
            sum(_overlap(box, other) for other in taken) + width * height - _overlap(box, tuple(frame)) for box in boxes
        ]
        best = int(np.argmin(np.round(cost, 3)))
        taken.append(boxes[best])
        axis.annotate(
            text,
            axis.transData.inverted().transform((centre / to_points, middle / to_points)),
            np.subtract(places[best], (centre, middle)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color="#333333",
            arrowprops=dict(arrowstyle="-", color="#999999", linewidth=0.5, shrinkA=0, shrinkB=4)
            if best >= len(around)
            else None,
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Area shared by two boxes (left, bottom, right, top)."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


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


MARKERS = "os^Dvp"


def half_widths(precision: pd.DataFrame, icc_half: float, mean_half: float, source: str) -> Figure:
    """Two panels from `reader_planning.precision`: ICC(2,k) and a condition's mean; dashed: the half width aimed at.

    Left: the F method's interval by formula. Right: solid for these raters, dotted for other raters too.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9))
    raters = list(dict.fromkeys(precision["raters"]))
    shades = plt.get_cmap("viridis")(np.linspace(0.05, 0.8, len(raters)))
    for i, (k, colour) in enumerate(zip(raters, shades, strict=True)):
        own = precision[precision["raters"].eq(k)]
        n = own["images"].to_numpy(float)
        look = dict(color=colour, marker=MARKERS[i % len(MARKERS)], ms=3.5, lw=1.2)
        left.plot(n, own["icc_half"], label=f"{k} raters, ICC(2,k) = {own['icc'].iloc[0]:.2f}", **look)
        right.plot(n, own["mean_half"], label=f"{k} raters", **look)
        right.plot(n, own["mean_half_other_raters"], **look | dict(ls=":", ms=2.5))
    for axis, target, title in (
        (left, icc_half, "Reliability of the mean of k raters, ICC(2,k)"),
        (right, mean_half, "Mean score of a condition"),
    ):
        axis.axhline(target, color="#444444", lw=0.8, ls="--", zorder=0)
        axis.annotate(
            f"± {target:g}", (1, target), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="left", va="center", fontsize=6.5, color="#444444",
        )  # fmt: skip
        axis.set(xscale="log", yscale="log", title=title, ylabel="half width of the 95 % interval")
        axis.set_xlabel("images rated" + (" of the condition" if axis is right else ""))
        images = sorted(set(precision["images"]))
        axis.set_xticks(images, [str(n) for n in images])
        axis.xaxis.set_minor_locator(NullLocator())
        marks = [x for x in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if axis.get_ylim()[0] <= x <= axis.get_ylim()[1]]
        axis.set_yticks(marks)
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.grid(color="#EAEAEA", lw=0.5)
    left.legend(fontsize=6, loc="upper right", handlelength=1.6)
    right.legend(
        handles=[
            plt.Line2D([], [], color="#333333", lw=1.2, label="these raters, other images"),
            plt.Line2D([], [], color="#333333", lw=1.2, ls=":", label="other raters too"),
        ],
        fontsize=6,
        loc="lower left",
        handlelength=1.8,
    )
    figure.suptitle(source, fontsize=7, color="#555555", x=0.99, ha="right")
    return figure
