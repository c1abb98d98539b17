"""Curves of a training: finished, and while it runs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

LOSSES = ("train_loss", "val_loss")  # columns of the log: of training, of held-out patients
NAMES = {"training": "C0", "validation patients": "C1"}


def training_curve(
    log: pd.DataFrame,
    title: str,
    shipped: pd.DataFrame | None = None,
    columns: tuple[str, str] = LOSSES,
    what: str = "loss",
) -> Figure:
    """Training and held-out loss over steps; `shipped`: the log of the trained weights that this training went on from, to the left of it. Which weights
    were kept is then marked and said: those that ship, where no later ones are better.

    columns: what is drawn of the log, named `what` on the axis. Of a GAN that is one part of the generator's loss: the sum holds what the discriminator
    answers, which has no counterpart on held-out patients.
    """
    if shipped is None:
        figure, axis = plt.subplots(figsize=(4.2, 2.4))
        _losses(axis, log, title, columns, what)
        return figure
    figure, (before, axis) = plt.subplots(1, 2, figsize=(6.6, 2.4), width_ratios=[2, 1], layout="constrained")
    _losses(before, shipped, f"{title}: shipped weights, other patients", columns, what)
    _losses(axis, log, "continued in this run", columns, what)
    axis.set_ylabel("")
    judged = "val_loss" in log  # without held-out patients `training.fit` keeps the last weights
    kept = log.loc[log["val_loss"].idxmin()] if judged else log.iloc[-1]
    which = f"step {kept['step']:.0f}" if kept["step"] else "the shipped weights"
    if judged:
        axis.scatter(kept["step"], kept[columns[1]], s=60, facecolors="none", edgecolors="C1", linewidths=1.5, zorder=3)
    axis.get_legend().remove()  # the colours are those of the left panel
    axis.set_title(f"continued in this run\nkept: {which}")
    return figure


def training_progress(log: pd.DataFrame, title: str, samples: np.ndarray | None = None) -> Figure:
    """`training_curve` of a training that goes on: `log` may have no row yet; `samples`, a uint8 picture [H, W], stands beside the curve."""
    panels = 1 if samples is None else 2
    figure, axes = plt.subplots(1, panels, figsize=(1.8 + 2.4 * panels, 2.4), squeeze=False, layout="constrained")
    _losses(axes[0][0], log, title)
    if samples is not None:
        axes[0][1].imshow(samples, cmap="gray", vmin=0, vmax=255)
        axes[0][1].set_axis_off()
    return figure


def _losses(axis: Axes, log: pd.DataFrame, title: str, columns: tuple[str, str] = LOSSES, what: str = "loss") -> None:
    axis.set(xlabel="step", ylabel=what, title=title)
    if log.empty:
        return
    losses = log.rename(columns=dict(zip(columns, NAMES, strict=True))).reindex(columns=["step", *NAMES])
    losses = losses.melt("step", var_name="of", value_name=what)
    losses = losses.dropna()  # a training that goes on is evaluated before its first step
    few = {"marker": "o", "markersize": 4, "markeredgewidth": 0} if len(log) <= 2 else {}
    sns.lineplot(losses, x="step", y=what, hue="of", palette=NAMES, estimator=None, ax=axis, **few)
    axis.legend(title=None)
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    if losses[what].min() > 0 and losses[what].max() / losses[what].min() > 10:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
