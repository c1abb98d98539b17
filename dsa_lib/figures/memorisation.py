"""Figures of the memorisation audit: distances to the nearest training frame, and the closest pairs for the eye."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dsa_lib.figures.style import SET_COLOURS, picture

DASHES = {"generated": "-", "held-out": "--", "same patient": ":"}


def nearest(distances: Mapping[str, Mapping[str, np.ndarray]], origin: str) -> Figure:
    """Cumulative distances to the nearest training frame, one panel a space.

    `distances`: space → "generated", "held-out" and "same patient" (training frames to another frame of their own patient) → [n]. `origin` names the
    archive that the real frames come from ("phantom", "archive").
    """
    figure, axes = plt.subplots(1, len(distances), figsize=(2.5 * len(distances), 2.9), sharey=True, squeeze=False)
    named = {
        "generated": "generated",
        "held-out": f"held-out {origin} frames",
        "same patient": f"{origin} training frames, to others of their own patient",
    }
    for axis, (space, values) in zip(axes[0], distances.items(), strict=True):
        for kind, style in DASHES.items():
            label = f"{named[kind]} (n = {len(values[kind])})"
            sns.ecdfplot(x=values[kind], label=label, color=SET_COLOURS[kind], ls=style, lw=1.4, ax=axis)
        axis.set(title=space, xlabel="distance", ylabel="share of the images", xlim=(0, None))
        axis.grid(True, axis="x")
    figure.suptitle("Distance to the nearest training frame")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def gallery(groups: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], pairs: pd.DataFrame, space: str) -> Figure:
    """The closest pairs of one space: an image above its nearest training frame, a block a set, nearest first.

    `groups`: set ("generated", "held-out") → (image, training frame), uint8 [H, W] each, in the order of `pairs` (`memorisation.closest_pairs`). Above
    each pair stand rank, relative and absolute distance. A training frame that was found mirrored is shown mirrored, and marked.
    """
    columns = max(len(shown) for shown in groups.values())
    figure = plt.figure(figsize=(0.86 * columns + 0.5, 1.95 * len(groups) + 0.35))
    blocks = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for block, (kind, shown) in zip(blocks, groups.items(), strict=True):
        table = pairs[(pairs["space"] == space) & (pairs["set"] == kind)].sort_values("rank")
        axes = block.subplots(2, columns, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for column, ((image, training), pair) in enumerate(zip(shown, table.itertuples(), strict=True)):
            picture(axes[0, column], image)
            picture(axes[1, column], training[:, ::-1] if pair.mirrored else training)
            axes[0, column].set_title(f"{pair.rank}: {pair.relative:.2f}\n({pair.distance:.3g})", fontsize=6.5, pad=2)
            if pair.mirrored:
                axes[1, column].set_xlabel("mirrored", fontsize=6, labelpad=1)
        axes[0, 0].set_ylabel(kind, fontsize=7)
        axes[1, 0].set_ylabel("training", fontsize=7)
    figure.suptitle(f"{space}: the closest pairs; rank: nearest over second nearest patient (distance)", fontsize=8)
    return figure
