"""Figure of the vessels' plausibility: measures beside their floor, power spectra, and the segmentation to look at."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from dsa_lib.figures.style import (
    CALIBRE_COLOURS,
    CELL_COLOURS,
    FLOOR_LOOK,
    GENERATED_LOOK,
    GREY,
    PINK,
    SET_COLOURS,
    Look,
    dots,
    key,
    picture,
    pictures,
    plain_logarithms,
    row_label,
)
from dsa_lib.vessels.filters import CLASSES

LOOKS = {"generated": GENERATED_LOOK, "floor": FLOOR_LOOK, "held-out, reconstructed": Look(PINK, "D")}
DASHES = {"held-out": "-", "training": "--", "generated": "-", "held-out, reconstructed": ":"}


def effects(table: pd.DataFrame, origin: str) -> Figure:
    """The table of `plausibility.compare`: ratio of means and difference in standard deviations, generated (filled) above the floor (open), 95 % intervals.

    Small dots are the conditions. `origin` names the archive of the real frames ("phantom", "archive").
    """
    measures = list(dict.fromkeys(table["measure"]))
    overall = table[table["scope"] == "overall"]
    looks = {name: look for name, look in LOOKS.items() if name in set(table["set"])}
    cells = table[(table["set"] == "generated") & (table["scope"] != "overall")]
    colours = {cell: colour for cell, colour in CELL_COLOURS.items() if cell != "Others"}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.26 * len(measures) + 1.3), sharey=True)
    for axis, value in zip(axes, ("ratio", "difference"), strict=True):
        ends = [f"{value}_low", f"{value}_high"]
        dots(axis, overall, looks, hue="set", ends=ends, dodge=0.36, x=value, y="measure", order=measures)
        sns.stripplot(
            cells, x=value, y="measure", order=measures, hue="scope", palette=colours, size=3, jitter=False, legend=False, zorder=4, ax=axis
        )  # fmt: skip
        axis.axvline(1 if value == "ratio" else 0, color=GREY, lw=0.8, zorder=0)
        axis.set_ylabel("")
    shown = table[["ratio", "ratio_low", "ratio_high"]].to_numpy(float)
    span = 1.1 * np.abs(np.log(shown[np.isfinite(shown) & (shown > 0)])).max(initial=0.2)
    axes[0].set(xlabel=f"mean / mean of held-out {origin} frames", xscale="log", xlim=(np.exp(-span), np.exp(span)))
    plain_logarithms(axes[0].xaxis)
    axes[1].set_xlabel("difference of means, SD of held-out frames")
    counts = overall.groupby("set")["images"].first()
    names = {"floor": f"floor: {origin} training patients"}
    handles = [
        *(key(f"{names.get(name, name)} (n = {counts[name]})", look, ls="-", lw=1.3) for name, look in looks.items()),
        *(key(cell, Look(colour), ms=3) for cell, colour in colours.items()),
    ]
    of = overall.iloc[0]
    title = f"against {int(of['reference_images'])} held-out frames of {int(of['reference_patients'])} patients; 95 % intervals"
    figure.legend(
        handles=handles, loc="outside lower center", title=title, ncols=4, columnspacing=0.9, handletextpad=0.3
    )
    return figure


def spectra(curves: Mapping[str, tuple[np.ndarray, np.ndarray, int]], origin: str) -> Figure:
    """Mean radial power spectrum of each set: name → (frequency [k], power [k], images); and each over that of the held-out frames."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.6))
    reference = curves["held-out"][1]
    for name, (frequency, power, count) in curves.items():
        look = {"color": SET_COLOURS[name], "ls": DASHES[name], "lw": 1.3}
        label = f"{name if name == 'generated' else f'{origin} {name}'} (n = {count})"
        sns.lineplot(x=frequency, y=power, estimator=None, label=label, ax=left, **look)
        sns.lineplot(x=frequency, y=power / reference, estimator=None, ax=right, **look)
    for axis, label in ((left, "power, grey levels²"), (right, "power / held-out")):
        axis.set(xscale="log", yscale="log", xlabel="spatial frequency, cycles a pixel", ylabel=label)
        axis.grid(True)
        plain_logarithms(axis.xaxis)
        plain_logarithms(axis.yaxis)
    return figure


def overlays(rows: Mapping[str, list[tuple[str, np.ndarray, np.ndarray]]]) -> Figure:
    """Frames beside what was segmented in them: a cell of Table 1 → (title, uint8 frame [h, w], class map [h, w]) in columns of pairs."""
    columns = max(len(row) for row in rows.values())
    figure, axes = pictures(len(rows), 2 * columns, 1.5)
    colours = ListedColormap(CALIBRE_COLOURS)
    for line, (cell, shown) in zip(axes, rows.items(), strict=True):
        for column, (title, frame, classes) in enumerate(shown):
            for axis in line[2 * column : 2 * column + 2]:
                picture(axis, frame)
            axis.imshow(np.ma.masked_equal(classes, 0), cmap=colours, vmin=0.5, vmax=3.5, interpolation="nearest")
            if cell == next(iter(rows)):
                line[2 * column].set_title(title, loc="left")
        row_label(line[0], cell, color=CELL_COLOURS[cell], fontweight="bold")
    handles = [key(f"{name} artery", Look(c, "s")) for c, name in zip(CALIBRE_COLOURS, CLASSES, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
