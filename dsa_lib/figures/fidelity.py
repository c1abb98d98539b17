"""Figures of notebook 07: confusion matrices of the judge, nearest training neighbours. Those of the distances lie in `figures.distances`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dsa_lib.conditions import CELLS

OVERALL_COLOUR = "#222222"
HELD_OUT_COLOUR = "#CC79A7"


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


def nearest(
    generated: np.ndarray, held_out: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray, float]], origin: str
) -> Figure:
    """Cumulative distances to the nearest training frame, generated beside held-out ones of `origin`; then the closest pairs, the training frame below."""
    columns = len(pairs)
    figure = plt.figure(figsize=(2.9 + 1.05 * columns, 2.5))
    grid = figure.add_gridspec(2, columns + 1, width_ratios=[2.6, *[1] * columns])
    axis = figure.add_subplot(grid[:, 0])
    for values, label, colour, style in (
        (generated, "generated", OVERALL_COLOUR, "-"),
        (held_out, f"held-out {origin}", HELD_OUT_COLOUR, "--"),
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
