"""Figures of what generated frames give as training data: scores by share of the real patients, paired differences, and the look of the decoder."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dsa_lib.figures.style import ARM_LOOKS as STYLES
from dsa_lib.figures.style import GREY, INK, Look, dots, key

METRIC_NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
}
WIDTH = 0.8  # of the arms of one share, in shares; that of `sns.stripplot`


def gains(
    levels: pd.DataFrame, differences: pd.DataFrame, rows: pd.DataFrame, metric: str, titles: Mapping[str, str]
) -> Figure:
    """Above: `metric` by share of the real patients, mean over seeds and every seed; below: paired difference from real frames alone with its interval.

    `levels` and `differences` as `audits.utility` makes them; `rows` one row a training [task, share, arm, metric]; `titles` says of each task what it is
    scored on.
    """
    looks = {arm: look for arm, look in STYLES.items() if (levels["arm"] == arm).any()}
    figure, axes = plt.subplots(2, len(titles), figsize=(3.6 * len(titles), 5.0), squeeze=False)
    place = {"dodge": WIDTH * (1 - 1 / len(looks)), "orient": "x", "x": "share", "hue": "arm"}
    for (above, below), (task, title) in zip(axes.T, titles.items(), strict=True):
        level, gain, seen = (table[table["task"] == task] for table in (levels, differences, rows))
        patients = level.drop_duplicates("share").set_index("share")["patients"].sort_index()
        order = list(patients.index)
        sns.stripplot(
            seen, x="share", y=metric, order=order, hue="arm", hue_order=list(looks), palette=[look.colour for look in looks.values()],
            dodge=len(looks) > 1, jitter=False, marker="_", size=5, linewidth=1, alpha=0.6, legend=False, ax=above,
        )  # fmt: skip
        dots(above, level, looks, y="mean", order=order, ends=None, **place)
        dots(below, gain, looks, y="mean", order=order, **place)
        for axis in (above, below):
            axis.set(xlim=(-0.5, len(order) - 0.5), xlabel="", ylabel="")
        above.set_xticklabels([])
        below.set_xticks(range(len(order)), [f"{share:.0%}\n({count} patients)" for share, count in patients.items()])
        below.axhline(0, color=INK, lw=0.8)
        below.set_xlabel("share of the real training patients")
        above.set_title(title)
    axes[0, 0].set_ylabel(METRIC_NAMES[metric])
    axes[1, 0].set_ylabel(f"difference in {METRIC_NAMES[metric]}\nfrom real frames alone")
    title = f"above: mean and each of {int(levels['seeds'].max())} seeds (patients drawn, initial weights)\nbelow: 95 % intervals of differences paired by seed"
    handles = [key(arm, look) for arm, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3), title=title)
    return figure


def shortcut(table: pd.DataFrame, frames: int, origin: str) -> Figure:
    """False alarms on the same held-out non-arterial frames of `origin`, as acquired (open) and decoded (filled), one row an arm, one panel a share.

    `table` as `dsa_lib.audits.utility.shortcut_table` makes it.
    """
    shares = sorted(table["share"].unique())
    looks = {arm: look for arm, look in STYLES.items() if (table["arm"] == arm).any()}
    size = (2.1 + 1.7 * len(shares), 1.3 + 0.3 * len(looks))
    figure, axes = plt.subplots(1, len(shares), figsize=size, sharex=True, sharey=True, squeeze=False)
    percent = table.assign(acquired=100 * table["false_alarms"], decoded=100 * table["false_alarms_decoded"])
    for axis, share in zip(axes[0], shares, strict=True):
        part = percent[percent["share"] == share]
        filled = {arm: Look(look.colour) for arm, look in looks.items()}
        open_ones = {arm: Look(look.colour, face="none") for arm, look in looks.items()}
        rows = {"y": "arm", "hue": "arm", "order": list(looks), "dodge": 0}
        dots(axis, part, filled, x="decoded", ends=("acquired", "decoded"), **rows)
        dots(axis, part, open_ones, x="acquired", ends=None, size=7, **rows)
        for row, arm in enumerate(looks):
            if arm not in set(part["arm"]):
                axis.text(0.5, row, "not trained", transform=axis.get_yaxis_transform(), ha="center", va="center", color=GREY)  # fmt: skip
        axis.set(title=f"{share:.0%} of the real patients", xlabel="called arterial (%)", ylabel="")
    axes[0, 0].set_xlim(left=-0.03 * axes[0, 0].get_xlim()[1])  # an open dot at 0 is whole
    handles = [
        key(f"{frames} held-out non-arterial frames ({origin})", Look(INK, face="none"), ms=7),
        key("the same, passed through the autoencoder", Look(INK)),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
