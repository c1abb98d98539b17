"""The noise schedule of §4.5: how much of a latent is left, and how much stronger it is than the noise."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def schedule_curves(alphas_cumprod: Mapping[str, Sequence[float]], chosen: str) -> Figure:
    """√ᾱ_t (left) and the signal-to-noise ratio ᾱ_t/(1−ᾱ_t) (right) over t = 1…T, a line a reading of β; `chosen` is the one in use."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.2))
    for (name, values), colour in zip(alphas_cumprod.items(), ("#0072B2", "#D55E00"), strict=False):
        alpha_bar = np.asarray(values, dtype=float)
        t = np.arange(1, len(alpha_bar) + 1)
        in_use = name == chosen
        look = {"color": colour, "lw": 1.6 if in_use else 1.0, "ls": "-" if in_use else "--"}
        left.plot(t, np.sqrt(alpha_bar), label=f"{name}{' (in use)' if in_use else ''}", **look)
        right.plot(t, alpha_bar / (1 - alpha_bar), **look)
    left.set(xlabel="t", ylabel="√ᾱ: signal left", ylim=(0, 1.02))
    left.legend()
    right.axhline(1, color="#999999", lw=0.8)
    right.annotate(
        "as strong as the noise",
        (t[-1], 1),
        xytext=(0, 2),
        ha="right",
        textcoords="offset points",
        fontsize=6,
        color="#666666",
    )
    right.set(xlabel="t", ylabel="ᾱ / (1−ᾱ): signal to noise", yscale="log")
    return figure
