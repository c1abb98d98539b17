"""Figures of the arterial-phase classifier: frames of a series with their probability over time, training curve, confusion by true phase."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dsa_lib.figures.style import SKY, VERMILION, row_shares, shares
from dsa_lib.nn.curve import training_curve

CALLED, TRUE = VERMILION, SKY  # frames called arterial, frames that are arterial in truth
PICTURES = 14  # thumbnails a strip at most
WIDTH = 10.0  # inches


def strips(frames: np.ndarray, phases: pd.DataFrame, series: list[str], threshold: float) -> Figure:
    """Each of `series`: its frames over time, those called arterial framed, above the probability and, where known, the true arterial span.

    `phases` has the columns of phases.parquet [frame_id, series, frame, time_s, circulation, plane, probability, arterial] and may have `phase` (truth)
    and `annotated` (the representative frame).
    """
    shown = {name: _evenly(phases[phases["series"] == name].sort_values("frame")) for name in series}
    side = min(
        1.6, WIDTH / max(len(rows) for rows in shown.values())
    )  # inches a picture: square ones, in step with the time axis below
    figure = plt.figure(figsize=(WIDTH + 0.6, (side + 1.4) * len(series) + 0.3))
    grid = figure.add_gridspec(2 * len(series), 1, height_ratios=[side + 0.25, 1.0] * len(series), hspace=0.02)
    for row, name in enumerate(series):
        rows = phases[phases["series"] == name].sort_values("frame")
        pictures, curve = figure.add_subplot(grid[2 * row]), figure.add_subplot(grid[2 * row + 1])
        _pictures(pictures, frames, shown[name])
        _curve(curve, rows, threshold)
        first = rows.iloc[0]
        pictures.set_title(
            f"{first['circulation']} circulation, plane {first['plane']}, series {name[:8]}", loc="left", pad=2
        )
        curve.set_xlim(pictures.get_xlim())
        if row == len(series) - 1:
            curve.set_xlabel("time since the first frame (s)")
        if row == 0:
            curve.legend(loc="center right", frameon=True, framealpha=0.85, edgecolor="none")
    return figure


def _evenly(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[:: -(-len(rows) // PICTURES)]


def _pictures(axes, frames: np.ndarray, shown: pd.DataFrame) -> None:
    times = shown["time_s"].to_numpy()
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    half = 0.47 * step
    for time, (_, item) in zip(times, shown.iterrows(), strict=True):
        # A fixed window around the background: contrast reads alike in every strip.
        axes.imshow(frames[item["frame_id"]], vmin=40, vmax=200, extent=(time - half, time + half, -half, half))
        if item["arterial"]:
            axes.add_patch(
                Rectangle((time - half, -half), 2 * half, 2 * half, fill=False, edgecolor=CALLED, linewidth=1.8)
            )
    axes.set_xlim(times[0] - 0.55 * step, times[-1] + 0.55 * step)
    axes.set_ylim(-0.51 * step, 0.51 * step)
    axes.set_aspect("equal", anchor="S")
    axes.axis("off")


def _curve(axes, rows: pd.DataFrame, threshold: float) -> None:
    times, probability = rows["time_s"].to_numpy(), rows["probability"].to_numpy()
    if "phase" in rows and (rows["phase"] == "arterial").any():
        true = times[rows["phase"].to_numpy() == "arterial"]
        half = float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.5
        axes.axvspan(true[0] - half, true[-1] + half, color=TRUE, alpha=0.35, linewidth=0, label="truly arterial")
    axes.axhline(threshold, color="0.6", linewidth=0.8, linestyle="--")
    axes.plot(times, probability, color="0.35", linewidth=1, zorder=2)
    called = rows["arterial"].to_numpy(bool)
    axes.scatter(times[~called], probability[~called], s=10, color="0.35", zorder=3)
    axes.scatter(times[called], probability[called], s=14, color=CALLED, zorder=3, label="called arterial")
    if "annotated" in rows and rows["annotated"].any():
        at = rows["annotated"].to_numpy(bool)
        axes.scatter(
            times[at], np.full(at.sum(), 1.1), s=26, marker="v", color="black", clip_on=False, label="annotated"
        )
    axes.set_ylim(-0.05, 1.1)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("probability")


def training(history: pd.DataFrame, shipped: pd.DataFrame | None = None) -> Figure:
    """Binary cross-entropy over the updates: training (mean since the last record) and, where there are any, annotated validation series.

    `shipped`: the log of the trained weights that this training went on from, in a panel to the left. Both mark the weights that were kept.
    """
    figure = training_curve(history, "Phase classifier", shipped, what="binary cross-entropy (Eq. 1)")
    for axis, log in zip(figure.axes, (history,) if shipped is None else (shipped, history), strict=True):
        if "val_loss" in log:
            best = log.loc[log["val_loss"].idxmin()]
            axis.scatter(best["step"], best["val_loss"], color=VERMILION, s=20, zorder=3, label="weights kept")
        axis.set(yscale="linear", ylim=(0, None))
    figure.axes[0].legend()
    return figure


def confusion(counts: pd.DataFrame, title: str) -> Figure:
    """`counts` [reference phase × (not arterial, arterial)] as row shares with the counts written in."""
    figure, axis = plt.subplots(figsize=(3.6, 0.8 + 0.5 * len(counts)))
    written = counts.map("{:,}".format) + "\n" + row_shares(counts).map("{:.1%}".format)
    shares(axis, counts, annot=written, fmt="")
    axis.set_xticklabels([f"called\n{name}" for name in counts.columns])
    axis.set_yticklabels([str(name).replace("_", " ") for name in counts.index])
    axis.set_title(title)
    return figure
