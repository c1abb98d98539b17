"""Figures 2 and 5, sample grids, reconstructions, training and sampler curves: pictures of what the models make."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dsa_lib.figures.style import (
    BLUE,
    CELL_COLOURS,
    FAINT,
    SAMPLER_COLOURS,
    VERMILION,
    picture,
    pictures,
    plain_logarithms,
    row_label,
)

_EDGE = "#51606E"
_BOX = {"boxstyle": "round,pad=0,rounding_size=0.05", "fc": "#EEF3F8", "ec": _EDGE, "lw": 0.8}  # of Figure 5


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


def figure5(pipeline, steps: int, sampler: str) -> Figure:
    """Training and sampling of a `DSAPipeline`, with the sizes of its parts; `steps` of `sampler` make an image."""
    unet, vae, bert = pipeline.unet, pipeline.vae, pipeline.text_encoder
    side, layers = unet.config.sample_size, bert.config.num_hidden_layers
    frame = side * 2 ** (len(vae.config.block_out_channels) - 1)
    latent = f"{unet.config.in_channels} × {side} × {side}"
    encoder, decoder = parameters(vae.encoder, vae.quant_conv), parameters(vae.post_quant_conv, vae.decoder)
    text = f"BERT, {layers} layer{'' if layers == 1 else 's'}\n{parameters(bert)}"
    figure, axis = plt.subplots(figsize=(7.2, 4.6))
    axis.set(xlim=(0, 7.2), ylim=(0, 4.6))
    axis.set_axis_off()
    for low, title in ((2.42, "Training"), (0.1, "Sampling")):
        axis.add_patch(FancyBboxPatch((0.08, low), 7.04, 2.1, boxstyle="round,pad=0,rounding_size=0.08", fc="#FAFBFC", ec=FAINT))  # fmt: skip
        axis.text(0.2, low + 1.98, title, weight="bold", size=8, va="top")

    target = "v" if pipeline.scheduler.config.prediction_type == "v_prediction" else "ε"
    y, below = 3.75, 2.85
    _chain(
        axis,
        y,
        [
            (0.6, f"frame x\n{frame} × {frame}", 0.8),
            (1.72, f"encoder, frozen\n{encoder}", 1.0),
            (2.88, f"latent z₀\n{latent}", 0.9),
            (4.03, "noised latent z_t\nEq. 3", 1.0),
            (5.1, f"UNet {target}_θ\n{parameters(unet)}", 0.8),
            (6.38, f"loss, L_cond of §4.5\n‖{target} − {target}_θ(z_t, t, c)‖²", 1.3),
        ],
    )
    axis.text(4.03, y + 0.42, f"noise ε, t = 1 … {pipeline.scheduler.config.num_train_timesteps}", ha="center", va="bottom", size=6.5)  # fmt: skip
    _arrow(axis, (4.03, y + 0.4), (4.03, y + 0.21))
    sentence = "“This is an anterior DSA scan\ntaken in Plane A, …”"
    _chain(axis, below, [(1.1, sentence, 1.8), (3.0, text, 1.2), (5.1, f"context c\n{bert.config.hidden_size} channels", 1.1)])  # fmt: skip
    _arrow(axis, (5.1, below + 0.21), (5.1, y - 0.21), "cross-attention")

    step = "Eq. 5" if sampler == "ddpm" else f"{sampler}, for Eq. 5"
    y, below = 1.3, 0.45
    _chain(
        axis,
        y,
        [
            (0.9, f"noise z_T\n{latent}", 1.0),
            (3.0, f"UNet {target}_θ\n{parameters(unet)}", 0.9),
            (4.35, f"z_t → z_t−1\n{step}", 1.25),
            (5.62, f"decoder\n{decoder}", 0.75),
            (6.6, f"frame, Eq. 6\n{frame} × {frame}", 0.85),
        ],
    )
    axis.text(5.1, y + 0.04, "z₀", ha="center", va="bottom", size=6.5)
    loop = {"connectionstyle": "arc3,rad=0.32", "arrowstyle": "-|>", "mutation_scale": 9, "color": _EDGE, "lw": 1.0}
    axis.add_patch(FancyArrowPatch((4.35, y + 0.21), (3.0, y + 0.21), **loop))
    axis.text(3.68, y + 0.5, f"denoising loop, {steps} steps", ha="center", va="bottom", size=6.5)
    _chain(axis, below, [(1.1, sentence, 1.8), (3.0, text, 1.2)])
    _arrow(axis, (3.0, below + 0.21), (3.0, y - 0.21), "context c, cross-attention")
    return figure


def _chain(axis: Axes, y: float, boxes: Sequence[tuple[float, str, float]]) -> None:
    """Boxes (centre, text, width) in a row at height `y`, an arrow from each to the next."""
    ends = []
    for x, text, width in boxes:
        axis.add_patch(FancyBboxPatch((x - width / 2, y - 0.21), width, 0.42, **_BOX))
        axis.text(x, y, text, ha="center", va="center", size=6.5)
        ends.append((x - width / 2, x + width / 2))
    for (_, right), (left, _) in pairwise(ends):
        _arrow(axis, (right, y), (left, y))


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": _EDGE, "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8})  # fmt: skip
    if text:
        axis.text((start[0] + end[0]) / 2 + 0.06, (start[1] + end[1]) / 2, text, va="center", size=6.5)


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
