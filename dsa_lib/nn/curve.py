"""Curves of a training: finished, and while it runs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LOSSES = ("train_loss", "val_loss")  # columns of the log: of training, of held-out patients


def training_curve(
    log: pd.DataFrame,
    title: str,
    shipped: pd.DataFrame | None = None,
    columns: tuple[str, str] = LOSSES,
    what: str = "loss",
) -> Figure:
    """Training and held-out loss over steps; `shipped`: the log of the trained weights that this training went on from, to the left of it.

    columns: what is drawn of the log, named `what` on the axis. Of a GAN that is one part of the generator's loss: the sum holds what the discriminator
    answers, which has no counterpart on held-out patients.
    """
    if shipped is None:
        figure, axis = plt.subplots(figsize=(4.2, 2.4))
        _losses(axis, log, title, columns, what)
        return figure
    figure, (before, axis) = plt.subplots(1, 2, figsize=(6.6, 2.4), width_ratios=[2, 1], layout="constrained")
    _losses(before, shipped, f"{title}: weights that ship, other patients", columns, what)
    _losses(axis, log, "this run goes on", columns, what)
    axis.set_ylabel("")
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
    train, held_out = columns
    marker = "." if len(log) <= 2 else ""
    trained = log.dropna(subset=train)  # a training that goes on is evaluated before its first step
    axis.plot(trained["step"], trained[train], color="#0072B2", marker=marker, label="training")
    if held_out in log:
        axis.plot(log["step"], log[held_out], color="#D55E00", marker=marker, label="held-out patients")
    low, high = axis.get_ylim()
    if low > 0 and high / low > 10:
        axis.set_yscale("log")
    axis.legend()
