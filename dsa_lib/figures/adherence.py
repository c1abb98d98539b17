"""Figures of what the DSA network reads off images: confusion matrices, errors of the angles, and the angle sweep as a strip and as curves."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dsa_lib.figures.style import (
    BLUE,
    CELL_COLOURS,
    GREY,
    INK,
    SET_LOOKS,
    VERMILION,
    Look,
    dots,
    key,
    picture,
    pictures,
    row_label,
    shares,
)

ANGLE_NAMES = {"primary_angle_deg": "primary angle", "secondary_angle_deg": "secondary angle"}
MEASURE_NAMES = {"bias": "bias (°)", "mae": "mean absolute error (°)"}
KIND_COLOURS = {"in training": INK, "within 5°": INK, "between": BLUE, "beyond": VERMILION}
KIND_NAMES = {INK: "within 5° of a training angle", BLUE: "between training angles", VERMILION: "beyond them"}


def confusions(matrices: Mapping[str, pd.DataFrame], size: float = 2.5) -> Figure:
    """One matrix a set: rows asked, columns named by the judge; shade is the share of the row, numbers are images."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(size * len(matrices) + 0.4, size + 0.3), squeeze=False)
    for axis, (name, counts) in zip(axes[0], matrices.items(), strict=True):
        first = axis is axes[0][0]
        shares(axis, counts, square=True, yticklabels=counts.index if first else False)
        right, total = np.trace(counts.to_numpy()), counts.to_numpy().sum()
        axis.set_title(f"{name}\n{right / max(total, 1):.1%} of {int(total)} named right")
        axis.set(xlabel="named by the judge", ylabel="asked for, or true" if first else "")
    return figure


def angle_errors(table: pd.DataFrame) -> Figure:
    """The table of `angles.errors`: bias and mean absolute error with their intervals, a column an angle, a row a scope, a marker a set."""
    angles = [angle for angle in ANGLE_NAMES if angle in set(table["angle"])]
    scopes, looks = list(dict.fromkeys(table["scope"])), dict(zip(dict.fromkeys(table["set"]), SET_LOOKS, strict=False))
    figure, axes = plt.subplots(1, 2 * len(angles), figsize=(1.8 * 2 * len(angles), 3.1), sharey=True, squeeze=False)
    panels = [(angle, measure) for angle in angles for measure in MEASURE_NAMES]
    for axis, (angle, measure) in zip(axes[0], panels, strict=True):
        ends = [f"{measure}_low", f"{measure}_high"]
        of_angle = table[table["angle"] == angle]
        dots(axis, of_angle, looks, hue="set", ends=ends, dodge=0.44, x=measure, y="scope", order=scopes)
        axis.axvline(0, color=GREY, lw=0.8, zorder=0)
        axis.set(title=ANGLE_NAMES[angle], xlabel=MEASURE_NAMES[measure], ylabel="")
        if measure == "mae":
            axis.set_xlim(0, None)
    counts = table[(table["angle"] == angles[0]) & table["scope"].isin(["overall", "Others"])]
    counts = counts.groupby("set").agg(images=("images", "sum"), groups=("groups", "max"))
    handles = [key(f"{name} ({_images(counts, name)})", look) for name, look in looks.items()]
    handles.append(key("95 % intervals", SET_LOOKS[0], marker="", ls="-", lw=1.3))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2))
    return figure


def _images(counts: pd.DataFrame, name: str) -> str:
    row = counts.loc[name]
    images, groups = int(row["images"]), int(row["groups"])
    return f"{images} images" if groups == images else f"{images} images, {groups} patient{'s' if groups > 1 else ''}"


def strip(rows: pd.DataFrame, frames: np.ndarray, angle: str) -> Figure:
    """The table of `angle_sweep.strip` with its uint8 frames [n, H, W]: a row a cell, a column a shift of `angle`; the colour of a title tells whether such an
    angle occurred in training."""
    cells, shifts = list(dict.fromkeys(rows["cell"])), sorted(set(rows["moved_by"]))
    figure, axes = pictures(len(cells), len(shifts), 1.0, head=0.6 + 0.17 * len(cells))
    for row in rows.itertuples():
        axis = axes[cells.index(row.cell)][shifts.index(row.moved_by)]
        picture(axis, frames[row.index])
        asked = f"{row.asked:+.0f}°".replace("-", "−").replace("+0°", "0°")
        axis.set_title(asked, fontsize=7, pad=2, color=KIND_COLOURS[row.kind])
    for axis, cell in zip(axes[:, 0], cells, strict=True):
        row_label(axis, cell)
    figure.suptitle(f"{ANGLE_NAMES[angle].capitalize()} asked for; one noise for all images")
    used = {KIND_COLOURS[kind] for kind in rows["kind"]}
    handles = [key(text, Look(colour, "s")) for colour, text in KIND_NAMES.items() if colour in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def following(points: pd.DataFrame, lines: pd.DataFrame, real: str) -> Figure:
    """Angle read by the network over the angle asked for: a row an angle, a column a cell.

    `points`: the table of `angle_sweep.points`; `lines`: that of `angle_sweep.following`, whose slopes head the panels; `real` names the real frames.
    """
    cells, angles = list(dict.fromkeys(points["cell"])), list(dict.fromkeys(points["angle"]))
    figure, axes = plt.subplots(
        len(angles), len(cells), figsize=(2.1 * len(cells) + 0.4, 2.35 * len(angles) + 0.6), squeeze=False
    )
    of = lines.set_index(["cell", "angle", "set"])
    for (cell, angle), found in points.groupby(["cell", "angle"], sort=False):
        axis, colour = axes[angles.index(angle)][cells.index(cell)], CELL_COLOURS[cell]
        frames, swept = found[found["set"] == "real"], found[found["set"] == "sweep"]
        line = {"x": "known", "y": "read", "color": colour, "errorbar": None, "ax": axis}
        sns.scatterplot(frames, x="known", y="read", s=7, color="#BBBBBB", lw=0, zorder=1, ax=axis)
        sns.lineplot(swept, **line, units="seed", estimator=None, lw=0.5, alpha=0.5, zorder=2)
        sns.lineplot(swept, **line, lw=1.4, zorder=3)  # the mean of the seeds
        means = swept.groupby("known", as_index=False).agg(read=("read", "mean"), kind=("kind", "first"))
        for beyond, rows in means.groupby(means["kind"] == "beyond"):
            axis.plot(rows["known"], rows["read"], "o", ms=4, mec=colour, mfc="white" if beyond else colour, zorder=4)
        limits = swept["known"].min() - 8, swept["known"].max() + 8
        axis.plot(limits, limits, color="#9A9A9A", lw=0.8, ls="--", zorder=0)
        low, high = swept["read"].min() - 3, swept["read"].max() + 3  # every reading of the sweep is inside the panel
        axis.set(xlim=limits, ylim=(min(limits[0], low), max(limits[1], high)))
        title = f"{cell}\nsweep {_slope(of, (cell, angle, 'sweep, inside'))}"
        axis.set_title(title + (f"\nreal {_slope(of, (cell, angle, real))}" if real else ""), size=7)
        axis.set_xlabel("asked or true (°)")
        axis.set_ylabel(f"{ANGLE_NAMES[angle]},\nread off the image (°)" if cell == cells[0] else "")
    handles = [
        key("asked for: mean of the seeds", Look(INK), ls="-", lw=1.4),
        key("beyond the training angles", Look(INK, face="white")),
        key("one seed", Look(INK), marker="", ls="-", lw=0.5, alpha=0.5),
        key("read as asked", Look("#9A9A9A"), marker="", ls="--", lw=0.8),
    ]
    if real:
        handles.insert(3, key(f"real frames, {real}", Look("#BBBBBB"), ms=2.6))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _slope(lines: pd.DataFrame, key: tuple[str, str, str]) -> str:
    row = lines.loc[key]
    if not np.isfinite(row["slope"]):
        return "slope –"
    return f"slope {row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}]".replace("-", "−")
