"""Figures of what generated frames give as training data: scores by share of the real patients, paired differences, and the look of the decoder."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

REFERENCE = "real"
# Okabe & Ito's palette; arms of a matched look have the colour of those without it, and open squares.
STYLES = {
    "real": ("#222222", "o"),
    "real + synthetic": ("#D55E00", "o"),
    "real + synthetic, look matched": ("#D55E00", "s"),
    "synthetic for real": ("#0072B2", "o"),
    "synthetic for real, look matched": ("#0072B2", "s"),
    "real, partly decoded": ("#009E73", "D"),
}
METRIC_NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
}
STEP = 0.11  # between the dots of one share


def gains(
    levels: pd.DataFrame, differences: pd.DataFrame, rows: pd.DataFrame, metric: str, titles: Mapping[str, str]
) -> Figure:
    """Above: `metric` by share of the real patients, mean over seeds and every seed; below: paired difference from real frames alone with its interval.

    `levels` and `differences` as `audits.utility` makes them; `rows` one row a training [task, share, arm, metric]; `titles` says of each task what it is
    scored on.
    """
    figure, axes = plt.subplots(2, len(titles), figsize=(3.7 * len(titles), 5.0), squeeze=False)
    for column, (task, title) in enumerate(titles.items()):
        above, below = axes[:, column]
        of_task = levels[levels["task"] == task]
        shares, arms = sorted(of_task["share"].unique()), [arm for arm in STYLES if (of_task["arm"] == arm).any()]
        for arm in arms:
            offset = STEP * (arms.index(arm) - (len(arms) - 1) / 2)
            seen = rows[(rows["task"] == task) & (rows["arm"] == arm)]
            places = [shares.index(share) + offset for share in seen["share"]]
            above.scatter(places, seen[metric], s=9, marker="_", color=STYLES[arm][0], alpha=0.6, lw=1, zorder=1)
            _means(above, of_task[of_task["arm"] == arm], shares, arm, offset)
            gain = differences[(differences["task"] == task) & (differences["arm"] == arm)]
            for row in gain[np.isfinite(gain["low"])].itertuples():
                place = shares.index(row.share) + offset
                below.plot([place, place], [row.low, row.high], color=STYLES[arm][0], lw=1.3, zorder=2)
            _means(below, gain, shares, arm, offset)
        patients = of_task.drop_duplicates("share").set_index("share")["patients"]
        for axis in (above, below):
            axis.set(xticks=range(len(shares)), xlim=(-0.5, len(shares) - 0.5))
            axis.grid(axis="y", color="#E6E6E6", lw=0.6)
            axis.set_axisbelow(True)
        above.set_xticklabels([])
        below.set_xticklabels([f"{share:.0%}\n({patients[share]} patients)" for share in shares])
        below.axhline(0, color="#222222", lw=0.8)
        below.set_xlabel("share of the real training patients")
        above.set_title(title)
    axes[0, 0].set_ylabel(METRIC_NAMES[metric])
    axes[1, 0].set_ylabel(f"difference in {METRIC_NAMES[metric]}\nfrom real frames alone")
    _legend(figure, [arm for arm in STYLES if (levels["arm"] == arm).any()], int(levels["seeds"].max()))
    return figure


def shortcut(table: pd.DataFrame, frames: int, origin: str) -> Figure:
    """False alarms on the same held-out non-arterial frames of `origin`, as acquired (open) and decoded (filled), one row an arm, one panel a share.

    `table` as `dsa_lib.audits.utility.shortcut_table` makes it.
    """
    shares = sorted(table["share"].unique())
    arms = [arm for arm in STYLES if (table["arm"] == arm).any()]
    size = (1.6 + 2.0 * len(shares), 1.3 + 0.3 * len(arms))
    figure, axes = plt.subplots(1, len(shares), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, share in zip(axes[0], shares, strict=True):
        part = table[table["share"] == share].set_index("arm")
        for row, arm in enumerate(arms):
            if arm not in part.index:
                axis.text(0.5, row, "not trained", transform=axis.get_yaxis_transform(), ha="center", va="center", color="#8A8A8A", fontsize=7)  # fmt: skip
                continue
            colour = STYLES[arm][0]
            ends = 100 * part.loc[arm, ["false_alarms", "false_alarms_decoded"]].to_numpy(float)
            axis.plot(ends, [row, row], color=colour, lw=1.2, zorder=1)
            axis.scatter(ends[1], row, s=16, color=colour, zorder=2)
            axis.scatter(ends[0], row, s=44, facecolor="none", edgecolor=colour, zorder=3)
        axis.set(yticks=range(len(arms)), yticklabels=arms, title=f"{share:.0%} of the real patients")
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#E6E6E6", lw=0.6)
        axis.set_xlabel("called arterial (%)")
    axes[0, 0].set_ylim(len(arms) - 0.5, -0.5)
    axes[0, 0].set_xlim(left=0)
    handles = [
        Line2D([], [], ls="", marker="o", ms=6.5, mfc="none", mec="#222222", label=f"{frames} held-out non-arterial frames ({origin})"),
        Line2D([], [], ls="", marker="o", ms=4, color="#222222", label="the same, passed through the autoencoder"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _means(axis: Axes, part: pd.DataFrame, shares: Sequence[float], arm: str, offset: float) -> None:
    colour, marker = STYLES[arm]
    face = "white" if marker == "s" else colour
    for row in part.itertuples():
        place = shares.index(row.share) + offset
        axis.scatter(place, row.mean, s=24, marker=marker, facecolor=face, edgecolor=colour, zorder=3)


def _legend(figure: Figure, arms: Sequence[str], seeds: int) -> None:
    handles = [
        Line2D([], [], ls="", marker=STYLES[arm][1], ms=5, mfc="white" if STYLES[arm][1] == "s" else STYLES[arm][0], mec=STYLES[arm][0], label=arm)
        for arm in arms
    ]  # fmt: skip
    title = f"above: mean and each of {seeds} seeds (patients drawn, initial weights); below: 95 % intervals of differences paired by seed"
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(arms), 3), title=title, title_fontsize=7)
