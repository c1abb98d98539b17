"""Planning figures: expected half widths against the number of images, one line a number of raters."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

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
