"""Figure of the vessels' plausibility: measures beside their floor, power spectra, and the segmentation to look at."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dsa_lib.figures.style import CELL_COLOURS
from dsa_lib.vessels.filters import CLASSES

OVERALL_COLOUR, FLOOR_COLOUR = "#222222", "#8A8A8A"
SET_LINES = {"held-out": ("#CC79A7", "-"), "training": ("#8A8A8A", "--"), "generated": ("#222222", "-")}
CALIBRE_COLOURS = ("#E64B35", "#F0C808", "#21B6A8")  # on grey frames; proximal, medium, peripheral


def effects(table: pd.DataFrame, origin: str) -> Figure:
    """The table of `plausibility.compare`: ratio of means and difference in standard deviations, generated (filled) above the floor (open), 95 % intervals.

    Small dots are the conditions. `origin` names the archive of the real frames ("phantom", "archive").
    """
    measures = list(dict.fromkeys(table["measure"]))
    overall = table[table["scope"] == "overall"].set_index(["set", "measure"])
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.24 * len(measures) + 1.2), sharey=True)
    for axis, value in zip(axes, ("ratio", "difference"), strict=True):
        for name, offset, colour, face in (
            ("generated", -0.16, OVERALL_COLOUR, OVERALL_COLOUR),
            ("floor", 0.2, FLOOR_COLOUR, "white"),
        ):
            rows = overall.loc[name].reindex(measures)
            at = np.arange(len(measures)) + offset
            axis.hlines(at, rows[f"{value}_low"], rows[f"{value}_high"], color=colour, lw=1.4, zorder=2)
            axis.scatter(rows[value], at, s=20, facecolor=face, edgecolor=colour, zorder=3)
        for cell, rows in table[(table["set"] == "generated") & (table["scope"] != "overall")].groupby("scope"):
            values = rows.set_index("measure")[value].reindex(measures)
            axis.scatter(values, np.arange(len(measures)) - 0.16, s=7, color=CELL_COLOURS[cell], zorder=4, lw=0)
        axis.axvline(1 if value == "ratio" else 0, color="#9A9A9A", lw=0.8, zorder=0)
        axis.grid(axis="x", color="#E6E6E6", lw=0.6)
        axis.set_axisbelow(True)
    axes[0].set(
        yticks=range(len(measures)),
        yticklabels=measures,
        xlabel=f"mean / mean of held-out {origin} frames",
        xscale="log",
    )
    axes[0].set_ylim(len(measures) - 0.5, -0.6)
    ends = overall[["ratio_low", "ratio_high"]].to_numpy(float)
    span = 1.1 * np.abs(np.log(ends[np.isfinite(ends) & (ends > 0)])).max(initial=0.2)
    axes[0].set_xlim(np.exp(-span), np.exp(span))
    _plain(
        axes[0].xaxis,
        (0.1, 0.25, 0.5, 1, 2, 4, 10) if span > 0.8 else (0.5, 0.67, 0.8, 1, 1.25, 1.5, 2),
        axes[0].get_xlim(),
    )
    axes[1].set(xlabel="difference of means, SD of held-out frames")
    axes[0].tick_params(axis="y", length=0)
    axes[1].tick_params(axis="y", length=0)
    counts = overall.iloc[0] if len(overall) else None
    made = int(overall.loc["generated", "images"].iloc[0])
    floor = int(overall.loc["floor", "images"].iloc[0])
    handles = [
        Line2D([], [], marker="o", ms=4.5, lw=1.4, color=OVERALL_COLOUR, label=f"generated (n = {made})"),
        Line2D([], [], marker="o", ms=4.5, lw=1.4, color=FLOOR_COLOUR, mfc="white", label=f"floor: {origin} training patients (n = {floor})"),
        *(Line2D([], [], marker="o", ms=2.6, ls="", color=colour, label=cell) for cell, colour in CELL_COLOURS.items() if cell != "Others"),
    ]  # fmt: skip
    title = f"against {int(counts['reference_images'])} held-out frames of {int(counts['reference_patients'])} patients; 95 % intervals"
    look = {"ncols": len(handles), "columnspacing": 0.9, "handletextpad": 0.3, "title_fontsize": 7}
    figure.legend(handles=handles, loc="outside lower center", title=title, **look)
    return figure


def spectra(curves: Mapping[str, tuple[np.ndarray, np.ndarray, int]], origin: str) -> Figure:
    """Mean radial power spectrum of each set: name → (frequency [k], power [k], images); and each over that of the held-out frames."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.6))
    reference = curves["held-out"][1]
    for name, (frequency, power, count) in curves.items():
        colour, style = SET_LINES[name]
        label = f"{name if name == 'generated' else f'{origin} {name}'} (n = {count})"
        left.loglog(frequency, power, color=colour, ls=style, lw=1.3, label=label)
        right.semilogx(frequency, power / reference, color=colour, ls=style, lw=1.3)
    left.set(xlabel="spatial frequency, cycles a pixel", ylabel="power, grey levels²")
    right.set(xlabel="spatial frequency, cycles a pixel", ylabel="power / held-out", yscale="log")
    for axis in (left, right):
        axis.grid(color="#E6E6E6", lw=0.6)
        _plain(axis.xaxis, (0.01, 0.03, 0.1, 0.3), axis.get_xlim())
    _plain(right.yaxis, (0.01, 0.03, 0.1, 0.25, 0.5, 1, 2, 4, 10), right.get_ylim())
    left.legend()
    return figure


def _plain(axis, ticks: Sequence[float], limits: tuple[float, float]) -> None:
    """Those of `ticks` within the limits, as plain numbers on a logarithmic axis."""
    axis.set_major_locator(FixedLocator([tick for tick in ticks if limits[0] <= tick <= limits[1]]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def overlays(rows: Mapping[str, list[tuple[str, np.ndarray, np.ndarray]]]) -> Figure:
    """Frames beside what was segmented in them: a cell of Table 1 → (title, uint8 frame [h, w], class map [h, w]) in columns of pairs."""
    columns = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(
        len(rows), 2 * columns, figsize=(1.5 * 2 * columns + 0.4, 1.5 * len(rows) + 0.5), squeeze=False
    )
    colours = ListedColormap(CALIBRE_COLOURS)
    for row, (axes_row, (cell, shown)) in enumerate(zip(axes, rows.items(), strict=True)):
        for axis in axes_row:
            axis.set_axis_off()
        for column, (title, frame, classes) in enumerate(shown):
            for n in (0, 1):
                axis = axes_row[2 * column + n]
                axis.imshow(frame, cmap="gray", vmin=0, vmax=255)
            axis.imshow(np.ma.masked_equal(classes, 0), cmap=colours, vmin=0.5, vmax=3.5, interpolation="nearest")
            if row == 0:
                axes_row[2 * column].set_title(title, loc="left", fontsize=8)
        axes_row[0].text(
            -0.06, 0.5, cell, transform=axes_row[0].transAxes, rotation=90, ha="right", va="center", color=CELL_COLOURS[cell], fontweight="bold"
        )  # fmt: skip
    handles = [
        Line2D([], [], marker="s", ls="", ms=6, color=c, label=f"{name} artery")
        for c, name in zip(CALIBRE_COLOURS, CLASSES, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    return figure
