"""Figures of notebook 07: distances beside their floor, confusion matrices of the judge, nearest training neighbours."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dsa_lib.conditions import CELLS
from dsa_lib.figures.style import CELL_COLOURS

OVERALL_COLOUR = "#222222"
FLOOR_COLOUR = "#8A8A8A"
TRAINING_COLOUR = "#CC79A7"


def distances(results: pd.DataFrame, distance: str) -> Figure:
    """The table of `fidelity.evaluate` as dots, generated (filled) beside the floor (open): the distance, KID, and the four neighbour scores."""
    scopes = list(dict.fromkeys(results["scope"]))
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.6), width_ratios=[1.15, 1, 1.25])
    table = results.set_index(["scope", "set"])
    for row, scope in enumerate(scopes):
        colour = CELL_COLOURS.get(scope, OVERALL_COLOUR)
        for name, offset, face in (("generated", -0.13, colour), ("floor", 0.13, "white")):
            values = table.loc[(scope, name)]
            edge = colour if name == "generated" else FLOOR_COLOUR
            axes[0].plot(
                [values["distance_low"], values["distance_high"]], [row + offset] * 2, color=edge, lw=1.5, zorder=1
            )
            for axis, column in ((axes[0], "distance"), (axes[1], "kid")):
                axis.scatter(values[column], row + offset, s=26, facecolor=face, edgecolor=edge, zorder=2)
    labels = [_scope_label(table, scope) for scope in scopes]
    for axis, title in ((axes[0], distance), (axes[1], "kernel distance (KID form)")):
        axis.set(yticks=range(len(scopes)), yticklabels=labels if axis is axes[0] else [], title=title)
        axis.set_ylim(len(scopes) - 0.5, -0.5)
        axis.grid(axis="x", color="#E6E6E6", lw=0.6)
        axis.set_axisbelow(True)
        axis.set_xlim(left=min(0, axis.get_xlim()[0]))
    axes[0].set_xlabel("median and range over draws of the reference")
    axes[1].set_xlabel("first draw")
    _neighbour_scores(axes[2], table)
    return figure


def _scope_label(table: pd.DataFrame, scope: str) -> str:
    row = table.loc[(scope, "generated")]
    mark = "*" if row["rank_deficient"] else ""
    return f"{scope}{mark}\n{int(row['images'])} : {int(row['reference_images'])}"


def _neighbour_scores(axis, table: pd.DataFrame) -> None:
    names = ("precision", "recall", "density", "coverage")
    for name, face, edge in (("generated", OVERALL_COLOUR, OVERALL_COLOUR), ("floor", "white", FLOOR_COLOUR)):
        values = [table.loc[("overall", name), column] for column in names]
        label = "generated" if name == "generated" else "floor: real training\nagainst held-out frames"
        axis.scatter(values, range(len(names)), s=26, facecolor=face, edgecolor=edge, label=label, zorder=2)
    axis.set(yticks=range(len(names)), yticklabels=names, title="overall, nearest neighbours", xlabel="first draw")
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0, max(1.05, axis.get_xlim()[1]))
    axis.grid(axis="x", color="#E6E6E6", lw=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handletextpad=0.1, columnspacing=0.8)


def confusions(matrices: Mapping[str, pd.DataFrame]) -> Figure:
    """One matrix a set: rows asked, columns named by the judge; shade is the share of the row, numbers are images."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(2.5 * len(matrices) + 0.4, 2.6), squeeze=False)
    for index, (axis, (name, counts)) in enumerate(zip(axes[0], matrices.items(), strict=True)):
        values = counts.to_numpy(float)
        shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*values.shape):
            colour = "white" if shares[row, column] > 0.6 else "#222222"
            axis.text(column, row, f"{int(values[row, column])}", ha="center", va="center", color=colour, fontsize=8)
        axis.set(xticks=range(len(CELLS)), xticklabels=counts.columns, xlabel="named by the judge", title=name)
        axis.set(yticks=range(len(CELLS)), yticklabels=counts.index if index == 0 else [])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    axes[0][0].set_ylabel("asked for, or true")
    return figure


def nearest(
    generated: np.ndarray, held_out: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray, float]]
) -> Figure:
    """Cumulative distances to the nearest training frame, generated beside held-out real; then the closest pairs, generated above training frame."""
    columns = len(pairs)
    figure = plt.figure(figsize=(2.9 + 1.05 * columns, 2.5))
    grid = figure.add_gridspec(2, columns + 1, width_ratios=[2.6, *[1] * columns])
    axis = figure.add_subplot(grid[:, 0])
    for values, label, colour, style in (
        (generated, "generated", OVERALL_COLOUR, "-"),
        (held_out, "held-out real", TRAINING_COLOUR, "--"),
    ):
        axis.ecdf(values, label=f"{label} (n = {len(values)})", color=colour, ls=style, lw=1.4)
    axis.set(xlabel="distance to the nearest training frame", ylabel="share of the images", xlim=(0, None))
    axis.legend(loc="upper left" if np.median(generated) > axis.get_xlim()[1] / 2 else "lower right")
    for column, (image, neighbour, distance) in enumerate(pairs):
        for row, frame in enumerate((image, neighbour)):
            picture = figure.add_subplot(grid[row, column + 1])
            picture.imshow(frame, cmap="gray", vmin=0, vmax=255)
            picture.set(xticks=[], yticks=[])
            picture.spines[:].set_visible(False)
            if row == 0:
                picture.set_title(f"{distance:.2f}", fontsize=7, pad=2)
            if column == 0:
                picture.set_ylabel(("generated", "nearest\ntraining frame")[row])
    return figure
