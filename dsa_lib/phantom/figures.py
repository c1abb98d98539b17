"""Pictures of the phantom archive for notebook 00: subtracted for show only, by the mask named in the file."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pydicom
from matplotlib.colors import ListedColormap

GREY, GREYS_PER_LOG = 162, 125
TITLES = {
    ("anterior", "A"): "anterior, plane A", ("anterior", "B"): "anterior, plane B",
    ("posterior", "A"): "posterior, plane A", ("posterior", "B"): "posterior, plane B",
}  # fmt: skip


def subtracted(ds: pydicom.Dataset) -> np.ndarray:
    """Frames [frames, rows, columns] in grey levels, vessels dark: logarithm, then minus the mean of the mask frames."""
    log = np.log(np.maximum(ds.pixel_array.astype(np.float32) - 24, 1))
    mask = np.atleast_1d(ds.MaskSubtractionSequence[0].MaskFrameNumbers).astype(int) - 1
    return np.clip(GREY + GREYS_PER_LOG * (log - log[mask].mean(axis=0)), 0, 255)


def _example(plan: pd.DataFrame, circulation: str, plane: str) -> pd.Series:
    rows = plan[(plan["circulation"] == circulation) & (plan["plane"] == plane)]
    off = (rows["primary_angle_deg"] - (-90 if plane == "B" else 0)).abs() + rows["secondary_angle_deg"].abs()
    return rows.loc[off.idxmin()]


def moments(phase: np.ndarray, best: int) -> list[int]:
    """Seven frames that tell a run: before contrast, filling to the representative frame `best`, middle of the capillary phase, first venous frame, last."""
    before = np.flatnonzero(phase == "before_contrast")
    capillary, venous = np.flatnonzero(phase == "capillary"), np.flatnonzero(phase == "venous")
    first = int(before[-1]) if len(before) else 0
    blush = int(capillary[len(capillary) // 2]) if len(capillary) else best
    filling = np.linspace(first, best, 4).round().astype(int)
    return [*filling.tolist(), blush, int(venous[0]) if len(venous) else len(phase) - 1, len(phase) - 1]


def draw_conditions(plan: pd.DataFrame, truth: pd.DataFrame, folder: Path) -> plt.Figure:
    """One simulated series of each circulation and plane over time, the phase above every frame."""
    columns = 7
    fig, axes = plt.subplots(4, columns, figsize=(1.9 * columns, 8.2), squeeze=False)
    for line, (circulation, plane) in zip(axes, TITLES, strict=True):
        row = _example(plan, circulation, plane)
        frames = subtracted(pydicom.dcmread(folder / row["file"]))
        own = truth[truth["series_instance_uid"] == row["series_instance_uid"]]
        phase = own["phase"].to_numpy()
        show = moments(phase, int(own["representative"].to_numpy().argmax()))
        for ax, n in zip(line, show, strict=True):
            ax.imshow(frames[n], cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
            ax.set_title(f"{n + 1}: {phase[n].replace('_', ' ')}", fontsize=7)
            ax.set(xticks=[], yticks=[], frame_on=False)
        line[0].set_ylabel(TITLES[circulation, plane], fontsize=8)
    fig.suptitle("Phantom (simulated): four conditions over time", fontsize=10)
    return fig


def draw_run(plan: pd.DataFrame, truth: pd.DataFrame, folder: Path, masks: Path) -> plt.Figure:
    """Both planes of one simulated run: raw frame, subtracted frame, true artery mask."""
    row = _example(plan, "anterior", "B")
    pair = plan[plan["run"] == row["run"]]
    fig, axes = plt.subplots(len(pair), 3, figsize=(7.5, 2.6 * len(pair)), squeeze=False)
    colours = ListedColormap(["white", "#7a1f1f", "#d1603d", "#f0b67f"])
    with np.load(masks) as maps:
        for line, series in zip(axes, pair.itertuples(), strict=True):
            ds = pydicom.dcmread(folder / series.file)
            own = truth[truth["series_instance_uid"] == series.series_instance_uid]
            best = int(own.loc[own["representative"], "frame"].iloc[0])
            line[0].imshow(ds.pixel_array[best], cmap="gray", vmin=0, vmax=4095)
            line[1].imshow(subtracted(ds)[best], cmap="gray", vmin=0, vmax=255)
            line[2].imshow(maps[series.series_instance_uid], cmap=colours, vmin=0, vmax=3, interpolation="nearest")
            for ax, title in zip(line, ("raw, 12 bits", "subtracted", "proximal, medium, peripheral"), strict=True):
                ax.set_title(title, fontsize=8)
                ax.set(xticks=[], yticks=[], frame_on=False)
            line[0].set_ylabel(
                f"plane {series.plane} ({series.primary_angle_deg + 0:g}°/{series.secondary_angle_deg + 0:g}°)",
                fontsize=8,
            )
    fig.suptitle("Phantom (simulated): one run in both planes", fontsize=10)
    return fig


def draw_side_by_side(runs, frames: list[list[int]]) -> plt.Figure:
    """Frames of runs (`measures.Run`) one run a row, pixel for pixel at equal scale and window."""
    columns = len(frames[0])
    fig, axes = plt.subplots(len(runs), columns, figsize=(2 * columns, 2.12 * len(runs)), squeeze=False)
    for line, run, shown in zip(axes, runs, frames, strict=True):
        for ax, n in zip(line, shown, strict=True):
            ax.imshow(run.frames[n], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            truth = "" if run.phase is None else f", {run.phase[n].replace('_', ' ')}"
            ax.set_title(f"{run.times[n]:.1f} s{truth}", fontsize=6, pad=2)
            ax.set(xticks=[], yticks=[], frame_on=False)
        line[0].set_ylabel(run.name, fontsize=7)
    fig.subplots_adjust(0.02, 0.005, 0.995, 0.985, 0.03, 0.08)
    return fig
