"""Figures of notebook 07: distances beside their floor, confusion matrices of the judge."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsa_lib.conditions import CELLS
from dsa_lib.fidelity import FLOOR, GENERATED, beside_floor
from dsa_lib.figures.style import CELL_COLOURS

OVERALL_COLOUR = "#222222"
FLOOR_COLOUR = "#8A8A8A"
OFFSETS = {GENERATED: -0.14, FLOOR: 0.14}  # rows apart, so that equal values stay visible
SCORES = ("precision", "recall", "density", "coverage")


def distances(results: pd.DataFrame, distance: str, origin: str) -> Figure:
    """The table of `fidelity.evaluate` as dots, generated (filled) beside the floor (open): the distance, KID, and the four neighbour scores.

    Both have the same sizes; what else the table holds (all generated images, where they are more than the floor has) is not drawn.
    `origin` names the archive that the compared frames come from ("phantom", "archive").
    """
    paired = results[results["set"].isin([beside_floor(results), FLOOR])]
    table = paired.replace({"set": {beside_floor(results): GENERATED}}).set_index(["scope", "set"])
    scopes = list(dict.fromkeys(results["scope"]))
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.8), width_ratios=[1.2, 1, 1])
    for row, scope in enumerate(scopes):
        colour = CELL_COLOURS.get(scope, OVERALL_COLOUR)
        low, high = (table.loc[scope, f"distance_{end}"] for end in ("low", "high"))
        for name, offset in OFFSETS.items():
            edge = colour if name == GENERATED else FLOOR_COLOUR
            axes[0].plot([low[name], high[name]], [row + offset] * 2, color=edge, lw=1.5, zorder=1)
        _pair(axes[0], row, table.loc[scope, "distance"], colour)
        _pair(axes[1], row, table.loc[scope, "kid"], colour)
    for row, score in enumerate(SCORES):
        _pair(axes[2], row, table.loc["overall", score], OVERALL_COLOUR)
    labels = [_scope_label(table, scope) for scope in scopes]
    _rows(axes[0], labels, distance, "median and range over draws")
    _rows(axes[1], [""] * len(scopes), "kernel distance (KID form)", "first draw")
    _rows(axes[2], SCORES, "neighbour scores, overall", "first draw")
    axes[0].set_ylabel("condition\nimages : reference images")
    for axis in (axes[0], axes[2]):
        axis.set_xlim(0, axis.get_xlim()[1])
    axes[1].axvline(0, color="#9A9A9A", lw=0.8, zorder=0)
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=OVERALL_COLOUR, label=f"{beside_floor(results)}, against held-out {origin} frames"),
        Line2D([], [], ls="", marker="o", ms=5, mfc="white", mec=FLOOR_COLOUR, label=f"floor: {origin} training against held-out frames"),
    ]  # fmt: skip
    if paired["rank_deficient"].any():
        handles.append(Line2D([], [], ls="", label="* images ≤ feature dimensions"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.0, handletextpad=0.2)
    return figure


def _pair(axis, row: int, values: pd.Series, colour: str) -> None:
    """A filled dot for `generated` above an open one for `floor`, both in `row`."""
    for name, offset in OFFSETS.items():
        face, edge = (colour, colour) if name == GENERATED else ("white", FLOOR_COLOUR)
        axis.scatter(values[name], row + offset, s=26, facecolor=face, edgecolor=edge, zorder=2)


def _rows(axis, labels: Sequence[str], title: str, xlabel: str) -> None:
    axis.set(yticks=range(len(labels)), yticklabels=labels, title=title, xlabel=xlabel)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#E6E6E6", lw=0.6)
    axis.set_axisbelow(True)


def _scope_label(table: pd.DataFrame, scope: str) -> str:
    row = table.loc[(scope, GENERATED)]
    return f"{scope}{'*' if row['rank_deficient'] else ''}\n{int(row['images'])} : {int(row['reference_images'])}"


def confusions(matrices: Mapping[str, pd.DataFrame]) -> Figure:
    """One matrix a set: rows asked, columns named by the judge; shade is the share of the row, numbers are images."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(2.5 * len(matrices) + 0.4, 2.8), squeeze=False)
    for index, (axis, (name, counts)) in enumerate(zip(axes[0], matrices.items(), strict=True)):
        values = counts.to_numpy(float)
        shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*values.shape):
            colour = "white" if shares[row, column] > 0.6 else "#222222"
            axis.text(column, row, f"{int(values[row, column])}", ha="center", va="center", color=colour, fontsize=8)
        axis.set(xticks=range(len(CELLS)), xticklabels=counts.columns, xlabel="named by the judge")
        axis.set_title(f"{name}\n{np.trace(values) / max(values.sum(), 1):.1%} of {int(values.sum())} named right")
        axis.set(yticks=range(len(CELLS)), yticklabels=counts.index if index == 0 else [])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    axes[0][0].set_ylabel("asked for, or true")
    return figure
