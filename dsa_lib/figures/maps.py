"""Figures of notebooks 21 and 22: conditions, outputs beside the truth, spectra, compliance, the response to an edited map, segmenters of generated pairs."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation

from dsa_lib.figures.style import (
    BLUE,
    CALIBRE_COLOURS,
    INK,
    METHOD_COLOURS,
    ORANGE,
    PINK,
    SKY,
    Look,
    dots,
    estimates,
    key,
    picture,
    pictures,
    plain_logarithms,
    row_label,
)

ARM_COLOURS = (INK, PINK, BLUE, ORANGE, SKY)
ZOOM = 1 / 3  # side of a magnified cut-out, in sides of the frame
AUTOENCODER = "through the autoencoder alone"
SIZE = 1.18  # inches of a picture's side


def conditions(
    frames: np.ndarray, labels: np.ndarray, edges: np.ndarray, annotated: Sequence[str], classes: Sequence[str]
) -> Figure:
    """What the models are told, a row an image: the frame uint8 [n, H, W], its whole label map uint8 [n, H, W], the annotated part alone, its edges bool.

    Classes that are not annotated are grey in the whole map: the edges must supply them.
    """
    told = np.isin(labels, [classes.index(name) + 1 for name in annotated])
    figure, axes = pictures(len(frames), 4, SIZE, head=0.6)
    titles = ("true frame", "whole label map", "annotated: told", "Canny edges: told")
    for row, frame, whole, known, edge in zip(axes, frames, labels, told, edges, strict=True):
        picture(row[0], frame)
        row[1].imshow(_painted(whole, np.where(known, 1.0, 0.0)))
        row[2].imshow(_painted(np.where(known, whole, 0)))
        row[3].imshow(edge, cmap="gray", vmin=0, vmax=1)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    _class_legend(figure, classes, annotated)
    return figure


def qualitative(
    true: np.ndarray,
    labels: np.ndarray,
    edges: np.ndarray,
    outputs: Mapping[tuple[str, str], np.ndarray],
    annotated: Sequence[str],
    classes: Sequence[str],
    cuts: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Figure 2 of the source with all six models: a row an image, the truth, the annotated map, the edges, then every output (method, half) → uint8 [n, H, W].

    cuts: (row, column) of the upper left corner of the part of each image that is magnified below it; without, no cut-outs. All frames at grey 0–255.
    """
    told = np.where(np.isin(labels, [classes.index(name) + 1 for name in annotated]), labels, 0)
    each = 2 if len(cuts) else 1
    figure, axes = pictures(each * len(true), 3 + len(outputs), SIZE)
    side = round(ZOOM * true.shape[-1])
    for n in range(len(true)):
        layers = [
            true[n],
            _painted(told[n]),
            edges[n].astype(np.uint8) * 255,
            *(frames[n] for frames in outputs.values()),
        ]
        for axis, layer in zip(axes[each * n], layers, strict=True):
            picture(axis, layer)
            if len(cuts):
                _box(axis, *cuts[n], side)
        for axis, layer in zip(axes[each * n + 1], layers, strict=True) if len(cuts) else ():
            down, right = cuts[n]
            picture(axis, layer[down : down + side, right : right + side])
    heads = ["truth", "annotated map", "edges", *(f"{method}\n{half}" for method, half in outputs)]
    for axis, head in zip(axes[0], heads, strict=True):
        colour = METHOD_COLOURS.get(head.partition("\n")[0], INK)
        axis.set_title(head, fontsize=7.5, color=colour)
    _class_legend(figure, annotated, annotated, classes)
    return figure


def spectra(
    curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    true: tuple[np.ndarray, np.ndarray],
    origin: str,
    decoded: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Figure 2 (c, d): mean amplitude over |R| for each half of the table, half → method → (radius, amplitude); and each over that of the truth, below.

    Radius in cycles a pixel, amplitude in grey levels (`spectra.Spectra`). `origin` names the true images' archive; `decoded`: the true images through the
    autoencoder alone, whose losses a latent diffusion shares, dashed.
    """
    figure, axes = plt.subplots(
        2, len(curves), figsize=(3.6 * len(curves), 4.4), sharex=True, sharey="row", squeeze=False
    )
    looks = {name: {"color": colour, "lw": 1.2} for name, colour in METHOD_COLOURS.items()}
    looks |= {f"{origin}, held-out": {"color": INK, "lw": 1.8}, AUTOENCODER: {"color": INK, "lw": 1.0, "ls": "--"}}
    for column, (half, methods) in enumerate(curves.items()):
        top, below = axes[:, column]
        shown = {f"{origin}, held-out": true} | dict(methods) | ({} if decoded is None else {AUTOENCODER: decoded})
        for name, (radius, amplitude) in shown.items():
            sns.lineplot(x=radius, y=amplitude, estimator=None, ax=top, label=name, legend=False, **looks[name])
            sns.lineplot(x=radius, y=amplitude / true[1], estimator=None, ax=below, **looks[name])
        top.set_title(half, loc="left")
        top.set(ylabel="amplitude, grey levels", yscale="log")
        below.set(xlabel="radius |R| from the origin, cycles a pixel", ylabel="amplitude / truth", yscale="log")
    for line in axes:
        plain_logarithms(line[0].yaxis)
    for axis in axes.flat:
        axis.grid(True)
        axis.set_xlim(0, 0.5)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def compliance(table: pd.DataFrame, ceiling: pd.DataFrame | None = None) -> Figure:
    """Dice against the asked map: columns method, half, of, score, low, high (`compliance.of_maps` of each model); with edges filled, without open.

    ceiling: what the segmenter reaches on the true images of the same maps (columns of, score), a dashed line.
    """
    rows, halves = list(dict.fromkeys(table["of"])), list(dict.fromkeys(table["half"]))
    methods = [name for name in METHOD_COLOURS if name in set(table["method"])]
    bars = {f"{method} {half}": METHOD_COLOURS[method] for method in methods for half in halves}
    figure, axis = plt.subplots(figsize=(7.2, 2.9))
    sns.barplot(
        **estimates(table.assign(bar=table["method"] + " " + table["half"])), x="of", y="score", order=rows, hue="bar",
        hue_order=list(bars), palette=list(bars.values()), saturation=1, gap=0.14, linewidth=1, err_kws={"color": INK, "linewidth": 0.9},
        legend=False, ax=axis,
    )  # fmt: skip
    for container, (bar, colour) in zip(axis.containers, bars.items(), strict=True):
        for patch in container:
            patch.set(edgecolor=colour, facecolor=colour if bar.endswith(halves[0]) else "white")
    handles = [key(name, Look(METHOD_COLOURS[name], "s"), ms=6) for name in methods]
    handles += [key(half, Look("#555555", "s", None if half == halves[0] else "white"), ms=6) for half in halves]
    if ceiling is not None:
        best, at = ceiling.set_index("of")["score"].reindex(rows), np.arange(len(rows))
        axis.hlines(best, at - 0.45, at + 0.45, color=INK, ls="--", lw=1)
        handles.append(key("true images", Look(INK, ""), ls="--", lw=1))
    top = 1.0 if ceiling is None else max(1.0, float(ceiling["score"].max()))
    axis.set(xlabel="", ylabel="Dice with the asked map", ylim=(0, top))
    axis.tick_params(axis="x", length=0)
    axis.grid(True, axis="y")
    title = "lines: 95 % intervals over patients"
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), title=title)
    return figure


def edited(
    rows: Sequence[Mapping[str, object]], classes: Sequence[str], halves: Sequence[str] = ("w/ edges", "w/o edges")
) -> Figure:
    """The response to edited maps, a row an edit: map, edited map, then before, after and their difference for each of `halves`, all cut to the edit.

    Each of `rows` has `title`, `labels`, `edited` (uint8 [H, W]), `region` (bool [H, W]) and `outputs`: half → (uint8 [H, W] before, after). The region is
    outlined at a distance. Differences in grey levels: red where the image became brighter (contrast gone), blue where darker.
    """
    figure, axes = pictures(len(rows), 2 + 3 * len(halves), 1.05)
    for axes_row, row in zip(axes, rows, strict=True):
        cut = _around(row["region"])
        around = binary_dilation(row["region"], iterations=2)[cut]  # so that the outline hides nothing of the edit
        axes_row[0].imshow(_painted(row["labels"][cut]))
        axes_row[1].imshow(_painted(row["edited"][cut]))
        for h, half in enumerate(halves):
            before, after = (image[cut] for image in row["outputs"][half])
            picture(axes_row[2 + 3 * h], before)
            picture(axes_row[3 + 3 * h], after)
            shown = axes_row[4 + 3 * h].imshow(after.astype(float) - before, cmap="RdBu_r", vmin=-80, vmax=80)
        for axis in axes_row:
            axis.contour(around, [0.5], colors="#D62FD6", linewidths=0.6)
        row_label(axes_row[0], row["title"])
    heads = ["map", "edited map"] + [
        f"{half}\n{name}" for half in halves for name in ("before", "after", "after − before")
    ]
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=7.5)
    figure.colorbar(shown, ax=axes[:, -1].tolist(), shrink=0.8, pad=0.02, label="grey levels")
    _class_legend(figure, classes, classes)
    return figure


def segmenters(scores: pd.DataFrame, origin: str) -> Figure:
    """Dice of segmenters on held-out frames by the pairs that they learned from: columns arm, of, score, low, high (`synthetic_pairs.evaluate_each`)."""
    looks = {arm: Look(ARM_COLOURS[n % 5]) for n, arm in enumerate(dict.fromkeys(scores["arm"]))}
    figure, axis = plt.subplots(figsize=(4.8, 0.34 * scores["of"].nunique() + 1.1))
    dots(axis, scores, looks, hue="arm", x="score", y="of", order=list(dict.fromkeys(scores["of"])))
    axis.set(xlim=(0, 1), xlabel=f"Dice on held-out {origin} frames, 95 % intervals over patients", ylabel="")
    handles = [key(arm, look) for arm, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(looks))
    return figure


# ---- parts -----------------------------------------------------------------------------------------------------------


def _painted(labels: np.ndarray, strength: np.ndarray | float = 1.0) -> np.ndarray:
    """Label map [H, W] in the colours of the classes on black, float [H, W, 3]; where `strength` is below 1, the class fades to grey."""
    colours = np.array([(0, 0, 0), *(to_rgb(colour) for colour in CALIBRE_COLOURS)])
    strength = np.broadcast_to(strength, labels.shape)[..., None]
    grey = np.where(labels > 0, 0.45, 0.0)[..., None]
    return strength * colours[labels] + (1 - strength) * grey


def _box(axis: Axes, down: int, right: int, side: int) -> None:
    axis.add_patch(plt.Rectangle((right - 0.5, down - 0.5), side, side, fill=False, ec="#F0C808", lw=0.8))


def _around(region: np.ndarray) -> tuple[slice, slice]:
    """A square cut-out about the region, half as large again, at least ZOOM of the frame and within it."""
    down, right = np.nonzero(region)
    side = min(max(int(1.5 * max(np.ptp(down), np.ptp(right))) + 1, round(ZOOM * len(region))), min(region.shape))
    corners = [
        int(np.clip((at.min() + at.max() + 1 - side) // 2, 0, extent - side))
        for at, extent in ((down, region.shape[0]), (right, region.shape[1]))
    ]
    return slice(corners[0], corners[0] + side), slice(corners[1], corners[1] + side)


def _class_legend(
    figure: Figure, shown: Sequence[str], annotated: Sequence[str], classes: Sequence[str] | None = None
) -> None:
    order = list(shown if classes is None else classes)
    handles = [
        key(name, Look(CALIBRE_COLOURS[order.index(name)], "s"), ms=6)
        if name in annotated
        else key(f"{name} (not annotated)", Look("#737373", "s"), ms=6)
        for name in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
