"""Figures 2, 3 and 5, sample grids, reconstructions, training and sampler curves: pictures of what the models make."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dsa_lib.figures.style import (
    BLUE,
    CELL_COLOURS,
    SAMPLER_COLOURS,
    VERMILION,
    picture,
    pictures,
    plain_logarithms,
    row_label,
)


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    titles: Sequence[str] = (),
    size: float = 1.25,
    titled: int = 0,
) -> Figure:
    """uint8 frames in rows with a label each; all at grey 0–255, so that brightness is comparable.

    `titles` head the columns, from row `titled` on: they say nothing of the rows above.
    """
    gap = 0.2 if titled else 0.04 if titles else 0.01
    figure, axes = pictures(len(rows), max(len(row) for row in rows), size, gap=gap)
    for line, row, label in zip(axes, rows, labels, strict=True):
        for axis, frame in zip(line, row, strict=False):
            picture(axis, frame)
        row_label(line[0], label)
    for axis, title in zip(axes[titled], titles, strict=False):
        axis.set_title(title)
    return figure


def figure2(real: Mapping[str, np.ndarray], generated: Mapping[str, np.ndarray], real_name: str) -> Figure:
    """Real (left) beside generated (right) frames, one row a condition; both map a cell of Table 1 to uint8 frames [n, H, W]."""
    cells = list(generated)
    left = max((len(real[cell]) for cell in cells), default=0)
    right = max((len(generated[cell]) for cell in cells), default=0)
    figure, axes = pictures(len(cells), left + right + 1, 1.25, width_ratios=[1] * left + [0.12] + [1] * right)
    figure.set_figwidth(1.25 * (left + right) + 0.7)
    for line, cell in zip(axes, cells, strict=True):
        for shown, first in ((real[cell], 0), (generated[cell], left + 1)):
            for axis, frame in zip(line[first:], shown, strict=False):
                picture(axis, frame)
        row_label(line[0], cell, color=CELL_COLOURS[cell], fontweight="bold")
    axes[0][0].set_title(real_name, loc="left")
    axes[0][left + 1].set_title("generated", loc="left")
    return figure


def flow(steps: Sequence[Sequence[str]], width: float = 7.0, row_height: float = 0.75) -> Figure:
    """Boxes in rows, an arrow from each box to all boxes of the next row: the layout of Figures 3 and 5."""
    figure, axis = plt.subplots(figsize=(width, row_height * len(steps) + 0.2))
    axis.set(xlim=(0, 1), ylim=(-len(steps) + 0.5, 0.5))
    axis.set_axis_off()
    places = []
    for level, boxes in enumerate(steps):
        share = 1 / len(boxes)
        places.append([(share * (index + 0.5), -level) for index in range(len(boxes))])
        for (x, y), text in zip(places[-1], boxes, strict=True):
            half = min(share * 0.46, 0.3)
            axis.add_patch(
                FancyBboxPatch(
                    (x - half, y - 0.27),
                    2 * half,
                    0.54,
                    boxstyle="round,pad=0,rounding_size=0.02",
                    fc="#F3F6F9",
                    ec="#51606E",
                )
            )
            axis.text(x, y, text, ha="center", va="center", fontsize=7)
    for above, below in pairwise(places):
        for x, y in above:
            for u, v in below if len(above) == 1 or len(below) == 1 else [(x, below[0][1])]:
                axis.add_patch(
                    FancyArrowPatch(
                        (x, y - 0.27), (u, v + 0.27), arrowstyle="-|>", mutation_scale=8, color="#51606E", lw=0.8
                    )
                )
    return figure


def figure5(pipeline) -> Figure:
    """The system of a `DSAPipeline`, with the sizes of its parts."""
    unet, vae, bert = pipeline.unet, pipeline.vae, pipeline.text_encoder
    side, layers = unet.config.sample_size, bert.config.num_hidden_layers
    return flow(
        [
            ["frame x", "“This is an anterior DSA scan taken in Plane A, …”"],
            [
                f"encoder of the autoencoder ({parameters(vae.encoder, vae.quant_conv)})",
                f"BERT, {layers} layer{'' if layers == 1 else 's'} ({parameters(bert)})",
            ],
            [
                f"latent z₀: {unet.config.in_channels} × {side} × {side}, noised to z_t (Eq. 3)",
                f"context c: {bert.config.hidden_size} channels",
            ],
            [f"UNet with cross-attention ({parameters(unet)}), T = {pipeline.scheduler.config.num_train_timesteps}"],
            [f"decoder of the autoencoder ({parameters(vae.post_quant_conv, vae.decoder)}) → generated frame (Eq. 6)"],
        ]
    )


def parameters(*modules) -> str:
    """Number of parameters of torch modules (None counts nothing), as "499.6 M", "23.4 k" or "812"."""
    count = sum(p.numel() for module in modules if module is not None for p in module.parameters())
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def quality_against_steps(table: pd.DataFrame, floor: float, distance: str) -> Figure:
    """Feature distance over network evaluations and over seconds an image, a line a sampler.

    `table`: columns sampler, steps, distance, s_per_image; `floor`: the distance of real frames of other patients, a dashed line.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 2.6), sharey=True)
    for axis, x, label in zip(axes, ("steps", "s_per_image"), ("steps", "seconds an image"), strict=True):
        sns.lineplot(
            table, x=x, y="distance", hue="sampler", palette=SAMPLER_COLOURS, estimator=None, marker="o", ms=4, mew=0, lw=1, ax=axis
        )  # fmt: skip
        axis.axhline(floor, color="0.4", lw=0.8, ls="--", label="floor: real frames, other patients")
        axis.set(xscale="log", xlabel=label, ylabel=f"{distance}\nto held-out frames", ylim=(0, None))
        axis.grid(True, axis="y")
        plain_logarithms(axis.xaxis)
    steps = sorted(table["steps"].unique())
    axes[0].set_xticks(steps, [str(step) for step in steps])
    handles, labels = axes[0].get_legend_handles_labels()
    for axis in axes:
        axis.get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def schedule_curves(alphas_cumprod: Mapping[str, Sequence[float]], chosen: str) -> Figure:
    """√ᾱ_t (left) and the signal-to-noise ratio ᾱ_t/(1−ᾱ_t) (right) over t = 1…T, a line a reading of β; `chosen` is the one in use."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.2))
    for (name, values), colour in zip(alphas_cumprod.items(), (BLUE, VERMILION), strict=False):
        alpha_bar = np.asarray(values, dtype=float)
        t = np.arange(1, len(alpha_bar) + 1)
        in_use = name == chosen
        look = {"color": colour, "lw": 1.6 if in_use else 1.0, "ls": "-" if in_use else "--"}
        sns.lineplot(
            estimator=None, x=t, y=np.sqrt(alpha_bar), label=f"{name}{' (in use)' if in_use else ''}", ax=left, **look
        )
        sns.lineplot(x=t, y=alpha_bar / (1 - alpha_bar), estimator=None, ax=right, **look)
    left.set(xlabel="t", ylabel="√ᾱ: signal left", ylim=(0, 1.02))
    right.axhline(1, color="#999999", lw=0.8)
    right.annotate("as strong as the noise", (t[-1], 1), (0, 2), ha="right", textcoords="offset points", color="#666666", fontsize=7)  # fmt: skip
    right.set(xlabel="t", ylabel="ᾱ / (1−ᾱ): signal to noise", yscale="log")
    plain_logarithms(right.yaxis)
    return figure
