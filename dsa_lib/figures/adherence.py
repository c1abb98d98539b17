"""Figures of what the DSA network reads off images: confusion matrices, errors of the angles, and the angle sweep as a strip and as curves."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsa_lib.figures.style import CELL_COLOURS

ANGLE_NAMES = {"primary_angle_deg": "primary angle", "secondary_angle_deg": "secondary angle"}
# Sets of images: a colour and a marker each, so that they are told apart in grey too.
SET_STYLES = (("#222222", "o"), ("#8A8A8A", "s"), ("#CC79A7", "D"), ("#009E73", "^"), ("#999900", "v"))
KIND_COLOURS = {"in training": "#222222", "within 5°": "#222222", "between": "#0072B2", "beyond": "#D55E00"}


def confusions(matrices: Mapping[str, pd.DataFrame], size: float = 2.5) -> Figure:
    """One matrix a set: rows asked, columns named by the judge; shade is the share of the row, numbers are images."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(size * len(matrices) + 0.4, size + 0.3), squeeze=False)
    for index, (axis, (name, counts)) in enumerate(zip(axes[0], matrices.items(), strict=True)):
        values = counts.to_numpy(float)
        shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*values.shape):
            colour = "white" if shares[row, column] > 0.6 else "#222222"
            axis.text(column, row, f"{int(values[row, column])}", ha="center", va="center", color=colour, fontsize=8)
        axis.set(xticks=range(len(counts.columns)), xticklabels=counts.columns, xlabel="named by the judge")
        axis.set_title(f"{name}\n{np.trace(values) / max(values.sum(), 1):.1%} of {int(values.sum())} named right")
        axis.set(yticks=range(len(counts)), yticklabels=counts.index if index == 0 else [])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    axes[0][0].set_ylabel("asked for, or true")
    return figure


def angle_errors(table: pd.DataFrame) -> Figure:
    """The table of `angles.errors`: bias and mean absolute error with their intervals, a column an angle, a row a scope, a marker a set."""
    angles = [angle for angle in ANGLE_NAMES if angle in set(table["angle"])]
    scopes, sets = list(dict.fromkeys(table["scope"])), list(dict.fromkeys(table["set"]))
    figure, axes = plt.subplots(1, 2 * len(angles), figsize=(2.1 * 2 * len(angles), 3.0), sharey=True, squeeze=False)
    for column, (angle, measure) in enumerate((angle, measure) for angle in angles for measure in ("bias", "mae")):
        axis = axes[0][column]
        for index, name in enumerate(sets):
            colour, marker = SET_STYLES[index % len(SET_STYLES)]
            for row, scope in enumerate(scopes):
                found = table[(table["set"] == name) & (table["scope"] == scope) & (table["angle"] == angle)]
                if found.empty:
                    continue
                y = row + 0.18 * (index - (len(sets) - 1) / 2)
                value = found.iloc[0]
                axis.plot([value[f"{measure}_low"], value[f"{measure}_high"]], [y, y], color=colour, lw=1.2)
                axis.plot(value[measure], y, marker, color=colour, ms=4)
        axis.set_xlabel({"bias": "bias (°)", "mae": "mean absolute error (°)"}[measure])
        axis.set_title(ANGLE_NAMES[angle])
        axis.grid(axis="x", color="#E6E6E6", lw=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)
        if measure == "bias":
            axis.axvline(0, color="#9A9A9A", lw=0.8, zorder=0)
        else:
            axis.set_xlim(0, None)
    axes[0][0].set(yticks=range(len(scopes)), yticklabels=scopes, ylim=(len(scopes) - 0.5, -0.5))
    counts = table[(table["angle"] == angles[0]) & table["scope"].isin(["overall", "Others"])]
    counts = counts.groupby("set").agg(images=("images", "sum"), groups=("groups", "max"))
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, ms=4, label=f"{name} ({_images(counts, name)})")
        for name, (colour, marker) in zip(sets, SET_STYLES, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))
    return figure


def _images(counts: pd.DataFrame, name: str) -> str:
    row = counts.loc[name]
    images, groups = int(row["images"]), int(row["groups"])
    return f"{images} images" if groups == images else f"{images} images, {groups} patients"


def strip(rows: pd.DataFrame, frames: np.ndarray, angle: str) -> Figure:
    """The table of `angle_sweep.strip` with its uint8 frames [n, H, W]: a row a cell, a column a shift of `angle`; the colour of a title tells whether such an
    angle occurred in training."""
    cells, shifts = list(dict.fromkeys(rows["cell"])), sorted(set(rows["moved_by"]))
    figure, axes = plt.subplots(
        len(cells), len(shifts), figsize=(0.95 * len(shifts) + 0.5, 1.12 * len(cells) + 0.6), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row in rows.itertuples():
        axis = axes[cells.index(row.cell)][shifts.index(row.moved_by)]
        axis.imshow(frames[row.index], cmap="gray", vmin=0, vmax=255)
        axis.set_title(
            f"{row.asked:+.0f}°".replace("-", "−").replace("+0°", "0°"), fontsize=7, pad=2, color=KIND_COLOURS[row.kind]
        )
    for axis, cell in zip(axes[:, 0], cells, strict=True):
        axis.text(-0.08, 0.5, cell, transform=axis.transAxes, rotation=90, ha="right", va="center", fontsize=8)
    figure.suptitle(f"{ANGLE_NAMES[angle].capitalize()} asked for; one noise for all images", fontsize=8)
    labels = {
        "#222222": "within 5° of a training angle",
        "#0072B2": "between training angles",
        "#D55E00": "beyond them",
    }
    used = {KIND_COLOURS[kind] for kind in rows["kind"]}
    handles = [Line2D([], [], ls="", marker="s", ms=4, color=colour, label=text) for colour, text in labels.items() if colour in used]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    return figure


def following(points: pd.DataFrame, lines: pd.DataFrame, real: str) -> Figure:
    """Angle read by the network over the angle asked for: a row an angle, a column a cell.

    `points`: the table of `angle_sweep.points`; `lines`: that of `angle_sweep.following`, whose slopes head the panels; `real` names the real frames.
    """
    cells, angles = list(dict.fromkeys(points["cell"])), list(dict.fromkeys(points["angle"]))
    figure, axes = plt.subplots(
        len(angles), len(cells), figsize=(2.1 * len(cells) + 0.4, 2.35 * len(angles) + 0.6), squeeze=False
    )
    of = lines.set_index(["cell", "angle", "set"])
    for (cell, angle), found in points.groupby(["cell", "angle"], sort=False):
        axis, colour = axes[angles.index(angle)][cells.index(cell)], CELL_COLOURS[cell]
        frames, swept = found[found["set"] == "real"], found[found["set"] == "sweep"]
        axis.scatter(frames["known"], frames["read"], s=5, color="#BBBBBB", lw=0, zorder=1)
        for _, rows in swept.groupby("seed"):
            rows = rows.sort_values("known")
            axis.plot(rows["known"], rows["read"], color=colour, lw=0.5, alpha=0.5, zorder=2)
        mean = swept.groupby("known")["read"].mean()
        inside = (swept.groupby("known")["kind"].first() != "beyond").to_numpy()
        axis.plot(mean.index, mean, color=colour, lw=1.4, zorder=3)
        for kept, face in ((inside, colour), (~inside, "white")):
            axis.plot(mean.index[kept], mean[kept], "o", ms=4, mec=colour, mfc=face, zorder=4)
        limits = swept["known"].min() - 8, swept["known"].max() + 8
        axis.plot(limits, limits, color="#9A9A9A", lw=0.8, ls="--", zorder=0)
        low, high = swept["read"].min() - 3, swept["read"].max() + 3  # every reading of the sweep is inside the panel
        axis.set(xlim=limits, ylim=(min(limits[0], low), max(limits[1], high)))
        title = f"{cell}\nsweep {_slope(of, (cell, angle, 'sweep, inside'))}"
        axis.set_title(title + (f"\nreal {_slope(of, (cell, angle, real))}" if real else ""), fontsize=7)
        axis.set_xlabel(f"{ANGLE_NAMES[angle]}, asked or true (°)", fontsize=7)
        if cell == cells[0]:
            axis.set_ylabel("read off the image (°)")
    handles = [
        Line2D([], [], color="#222222", lw=1.4, marker="o", ms=4, label="asked for: mean of the seeds"),
        Line2D([], [], ls="", marker="o", ms=4, mec="#222222", mfc="white", label="beyond the training angles"),
        Line2D([], [], color="#222222", lw=0.5, alpha=0.5, label="one seed"),
        Line2D([], [], color="#9A9A9A", lw=0.8, ls="--", label="read as asked"),
    ]
    if real:
        handles.insert(3, Line2D([], [], ls="", marker="o", ms=2.5, color="#BBBBBB", label=f"real frames, {real}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _slope(lines: pd.DataFrame, key: tuple[str, str, str]) -> str:
    row = lines.loc[key]
    if not np.isfinite(row["slope"]):
        return "slope –"
    return f"slope {row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}]".replace("-", "−")
