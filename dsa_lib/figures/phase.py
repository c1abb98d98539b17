"""Figures of the arterial-phase classifier: frames of a series with their probability over time, training curve, confusion by true phase."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

CALLED = "#D55E00"  # frames called arterial
TRUE = "#56B4E9"  # frames that are arterial in truth
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

    `shipped`: the log of the trained weights that this training went on from, in a panel to the left.
    """
    if shipped is None:
        figure, axes = plt.subplots(figsize=(4.2, 2.8))
        _cross_entropy(axes, history)
        return figure
    figure, (before, after) = plt.subplots(1, 2, figsize=(7.0, 2.8), width_ratios=[2, 1], layout="constrained")
    _cross_entropy(before, shipped)
    before.set_title("weights that ship, trained on other patients")
    _cross_entropy(after, history)
    after.set(title="this run goes on", ylabel="")
    return figure


def _cross_entropy(axes: Axes, history: pd.DataFrame) -> None:
    trained = history.dropna(subset="train_loss")  # a training that goes on is evaluated before its first step
    axes.plot(trained["step"], trained["train_loss"], color="0.3", label="training, augmented")
    if "val_loss" in history:
        axes.plot(history["step"], history["val_loss"], color=CALLED, label="validation patients")
        best = history.loc[history["val_loss"].idxmin()]
        axes.scatter(best["step"], best["val_loss"], color=CALLED, s=20, zorder=3, label="weights kept")
    axes.set_xlabel("update")
    axes.set_ylabel("binary cross-entropy (Eq. 1)")
    axes.set_ylim(bottom=0)
    axes.legend()


def confusion(counts: pd.DataFrame, title: str) -> Figure:
    """`counts` [reference phase × (not arterial, arterial)] as row shares with the counts written in."""
    share = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    figure, axes = plt.subplots(figsize=(3.6, 0.8 + 0.5 * len(counts)))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i in range(len(counts)):
        for j in range(counts.shape[1]):
            colour = "white" if share.iloc[i, j] > 0.55 else "black"
            text = f"{counts.iloc[i, j]:,}\n{share.iloc[i, j]:.1%}"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(counts.shape[1]), [f"called\n{name}" for name in counts.columns])
    axes.set_yticks(range(len(counts)), [str(name).replace("_", " ") for name in counts.index])
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure
