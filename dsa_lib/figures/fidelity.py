"""Figure of notebook 07: nearest training neighbours. Those of the distances lie in `figures.distances`, of the judge in `figures.faithfulness`."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

OVERALL_COLOUR = "#222222"
HELD_OUT_COLOUR = "#CC79A7"


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
