"""Pictures of notebooks 23 and 24: pairs, translations, scores, timesteps of the image losses, peripheral arteries before and after, lesions on request."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.figures.style import GREY, INK, MODEL_COLOURS, SKY, Look, dots, key, picture, pictures, row_label

OUTLINE, INSET = "#E64B35", "#F0C808"
RIGHT, WRONG = "#007A5E", "#B2182B"
MEASURE_NAMES = {
    "mae": "MAE, grey levels",
    "psnr": "PSNR, dB",
    "ms_ssim": "MS-SSIM",
    "lesion_mae": "lesion MAE, grey levels",
}
ZOOM_MARGIN = 1.6  # side of the enlarged square over the lesion's longer side
LEAST_ZOOM = 1 / 6  # ... and at least this share of the frame
INSET_SHARE = 0.44  # of the frame's side


def pairs(given: TranslationSet, rows: Sequence[int], titles: Sequence[str] = (), source: str = "source") -> Figure:
    """One column a pair: source (its middle channel), target, and the target with the lesion outlined."""
    labels = (source, "target", "lesion outlined")
    figure, axes = pictures(3, len(rows), 1.5, gap=0.03)
    for column, row in enumerate(rows):
        sources = given.sources[row]
        shown = (sources[len(sources) // 2], given.targets[row], given.targets[row])
        for axis, image in zip(axes[:, column], shown, strict=True):
            picture(axis, image)
        _outline(axes[2, column], given.lesions[row])
        axes[0, column].set_title(titles[column] if len(titles) else given.kinds[row] or "no lesion", fontsize=8)
    _label_rows(axes, labels)
    return figure


def translations(
    given: TranslationSet,
    rows: Sequence[int],
    made: Mapping[str, np.ndarray],
    errors: Mapping[str, Sequence[float]] | None = None,
    source: str = "source",
) -> Figure:
    """One row a case: source, truth with the lesion outlined, and each model's image; the square about the lesion enlarged in a corner of all.

    made: model → uint8 frames [len(rows), H, W], in the order of `rows`; errors: model → its error inside the lesion in each case, written below the image.
    """
    names = [source, "truth", *made]
    figure, axes = pictures(len(rows), len(names), 1.75, gap=0.03)
    for line, row in enumerate(rows):
        sources = given.sources[row]
        images = [sources[len(sources) // 2], given.targets[row], *(frames[line] for frames in made.values())]
        box = _box(given.lesions[row])
        for axis, image, name in zip(axes[line], images, names, strict=True):
            picture(axis, image)
            mask = given.lesions[row] if name == "truth" else None
            if mask is not None:
                _outline(axis, mask)
            if box is not None:
                _enlarged(axis, image, box, mask)
            if errors and name in errors and np.isfinite(errors[name][line]):
                text = f"{errors[name][line]:.1f}"
                axis.text(0.03, 0.02, text, transform=axis.transAxes, color="white", fontsize=7, va="bottom")
            if line == 0:
                axis.set_title(name, fontsize=8)
    _label_rows(axes, [str(given.kinds[row]) or "no lesion" for row in rows])
    return figure


def scores(table: pd.DataFrame, differences: pd.DataFrame) -> Figure:
    """Left: mean and SD over patients of every measure and model (`lesion_scores.table`). Right: relative change from the reference, 95 % intervals."""
    models, measures = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["measure"]))
    looks = dict(zip(models, map(Look, MODEL_COLOURS * 2), strict=False))
    figure, axes = plt.subplots(
        1, len(measures) + 1, figsize=(1.2 * len(measures) + 2.8, 0.3 * len(models) + 1.8), layout="constrained",
        width_ratios=[1] * len(measures) + [1.8],
    )  # fmt: skip
    spread = table.assign(low=table["mean"] - table["sd"], high=table["mean"] + table["sd"])
    for axis, measure in zip(axes, measures, strict=False):
        rows = spread[spread["measure"] == measure]
        dots(axis, rows, looks, hue="model", dodge=0, x="mean", y="model", order=models)
        axis.set(xlabel=MEASURE_NAMES.get(measure, measure).replace(", ", ",\n"), ylabel="")
        if axis is not axes[0]:
            axis.set_yticklabels([])
    changed = differences.assign(
        **{name: 100 * differences[name] for name in ("relative", "relative_low", "relative_high")},
        measure=[MEASURE_NAMES.get(name, name).partition(",")[0] for name in differences["measure"]],
    )
    shown = {model: look for model, look in looks.items() if model in set(differences["model"])}
    ends = ("relative_low", "relative_high")
    order = [MEASURE_NAMES.get(name, name).partition(",")[0] for name in measures]
    dots(axes[-1], changed, shown, hue="model", ends=ends, x="relative", y="measure", order=order)
    axes[-1].axvline(0, color=GREY, lw=0.8, zorder=0)
    reference = differences["reference"].iloc[0] if len(differences) else ""
    axes[-1].set(xlabel=f"change from\n“{reference}”, %", ylabel="")
    handles = [key(model, look) for model, look in shown.items()]
    title = f"left: mean and SD over patients (at most {table['patients'].max()}); right: 95 % intervals of changes paired by patient"
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title)
    return figure


def timesteps(curve: pd.DataFrame, latest: float, estimates: Sequence[tuple[int, np.ndarray]] = ()) -> Figure:
    """Why image losses stop at `latest` · T: the error of the one-step estimate over t, and the estimate itself at some t.

    curve: columns t (1 to T), mae (of the decoded estimate over the image) and, where known, lesion_mae, in grey levels; estimates: (t, uint8 frame [H, W]).
    """
    figure = plt.figure(figsize=(1.15 * max(len(estimates), 1) + 3.4, 2.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[3.2, max(1.15 * len(estimates), 0.1)])
    axis = left.subplots()
    for name, colour, label in (("mae", INK, "image"), ("lesion_mae", OUTLINE, "lesion")):
        if name in curve:
            sns.lineplot(
                curve,
                x="t",
                y=name,
                estimator=None,
                marker="o",
                ms=3.5,
                mew=0,
                lw=1.2,
                color=colour,
                label=label,
                ax=axis,
            )
    end = latest * curve["t"].max()
    axis.axvspan(0, end, color=SKY, alpha=0.18, lw=0, label="gets image-space gradient")
    axis.set(xlabel="t", ylabel=r"MAE of $\mathcal{D}(\hat z_0)$, grey levels", xlim=(0, None), ylim=(0, None))
    axis.legend(loc="lower center", bbox_to_anchor=(0.45, 1), ncols=3, columnspacing=1, handlelength=1.2)
    if len(estimates):
        for one, (t, frame) in zip(np.atleast_1d(right.subplots(1, len(estimates))), estimates, strict=True):
            picture(one, frame)
            one.set_axis_off()
            one.set_title(f"t = {t}" if t else "truth")
    return figure


def before_after(table: pd.DataFrame, frames: Mapping[str, np.ndarray] | None = None) -> Figure:
    """The table of `peripheral.compare`: a panel a measure, an arm a marker, 95 % intervals; below, images of one seed in every arm.

    frames: arm → uint8 frames [n, H, W], the same sentences and seeds in each.
    """
    measures, arms = list(dict.fromkeys(table["measure"])), list(dict.fromkeys(table["arm"]))
    looks = dict(zip(arms, map(Look, MODEL_COLOURS), strict=False))
    rows = 1 if not frames else 2
    figure = plt.figure(figsize=(7.2, 1.8 + (1.25 * len(frames) if frames else 0)), layout="constrained")
    parts = figure.subfigures(rows, 1, height_ratios=[1.8, 1.25 * len(frames)] if frames else [1], squeeze=False)[:, 0]
    axes = parts[0].subplots(1, len(measures), squeeze=False)[0]
    for axis, measure in zip(axes, measures, strict=True):
        of = table[table["measure"] == measure]
        dots(axis, of, looks, hue="arm", orient="x", dodge=0, x="arm", y="value", order=arms)
        relative = "area" in measure or "contrast" in measure
        if relative:
            axis.axhline(1, color="#9A9A9A", lw=0.8, ls="--", zorder=0)
        axis.set_xticks(range(len(arms)), [arm.replace(" ", "\n").replace("-", "-\n") for arm in arms])
        axis.set(xlim=(-0.6, len(arms) - 0.4), xlabel="", ylabel="")
        axis.set_title(f"{measure}\n/ held-out" if relative else measure)
    axes[0].set_ylabel("value, 95 % interval")
    if frames:
        grid = parts[1].subplots(len(frames), len(next(iter(frames.values()))), squeeze=False)
        for line, shown in zip(grid, frames.values(), strict=True):
            for axis, frame in zip(line, shown, strict=True):
                picture(axis, frame)
        _label_rows(grid, list(frames))
    return figure


def on_request(
    frames: Mapping[str, np.ndarray], named: Mapping[str, Sequence[str]], titles: Sequence[str] = ()
) -> Figure:
    """Generated frames, one row a lesion that was asked for; below each what the judge names in it, green where it is what was asked for.

    frames: kind → uint8 frames [n, H, W]; named: kind → n kinds.
    """
    columns = max(len(row) for row in frames.values())
    figure, axes = pictures(len(frames), columns, 1.5, gap=0.03, head=0.4 + 0.15 * len(frames))
    for line, (kind, row) in zip(axes, frames.items(), strict=True):
        for axis, frame, name in zip(line, row, named[kind], strict=False):
            picture(axis, frame)
            colour = RIGHT if name == kind else WRONG
            axis.text(0.5, -0.02, name, transform=axis.transAxes, ha="center", va="top", fontsize=7, color=colour)
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=7)
    _label_rows(axes, list(frames))
    figure.legend(
        handles=[
            key("judge names what was asked for", Look(RIGHT, "s")),
            key("judge names another", Look(WRONG, "s")),
        ],
        loc="outside lower center",
        ncols=1,
    )
    return figure


def _label_rows(axes: np.ndarray, labels: Sequence[str]) -> None:
    for axis, label in zip(axes[:, 0], labels, strict=True):
        row_label(axis, label)
    for axis in axes.flat:
        axis.set_axis_off()


def _outline(axis, mask: np.ndarray) -> None:
    if mask.any():
        axis.contour(mask, [0.5], colors=OUTLINE, linewidths=0.7)


def _box(mask: np.ndarray) -> tuple[int, int, int] | None:
    """(top, left, side) of the square to enlarge about a lesion; None without one."""
    if not mask.any():
        return None
    at = np.argwhere(mask)
    low, high = at.min(axis=0), at.max(axis=0) + 1
    side = int(min(max(ZOOM_MARGIN * (high - low).max(), LEAST_ZOOM * max(mask.shape)), min(mask.shape)))
    top, left = (
        int(np.clip((a + b - side) // 2, 0, extent - side)) for a, b, extent in zip(low, high, mask.shape, strict=True)
    )
    return top, left, side


def _enlarged(axis, image: np.ndarray, box: tuple[int, int, int], mask: np.ndarray | None) -> None:
    """The square `box` of an image, drawn large in whichever upper corner is farther from it."""
    top, left, side = box
    axis.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, ec=INSET, lw=0.6))
    at_left = left + side / 2 > image.shape[1] / 2
    inset = axis.inset_axes([0 if at_left else 1 - INSET_SHARE, 1 - INSET_SHARE, INSET_SHARE, INSET_SHARE])
    picture(inset, image[top : top + side, left : left + side])
    if mask is not None:
        _outline(inset, mask[top : top + side, left : left + side])
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set(visible=True, color=INSET, linewidth=0.8)
