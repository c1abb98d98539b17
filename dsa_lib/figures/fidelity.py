"""Figures of the distances of notebook 07: values with intervals beside their floor, and what they do as patients are left out."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsa_lib.fidelity.distances import FLOOR, GENERATED, OVERALL, beside_floor
from dsa_lib.figures.style import CELL_COLOURS

OVERALL_COLOUR = "#222222"
FLOOR_COLOUR = "#8A8A8A"
OFFSETS = {GENERATED: -0.14, FLOOR: 0.14}  # rows apart, so that equal values stay visible
SCORES = ("precision", "recall", "density", "coverage")


def distances(results: pd.DataFrame, intervals: pd.DataFrame, distance: str, origin: str) -> Figure:
    """Generated (filled) beside the floor (open): the distance, KID, and the four neighbour scores, with 95 % intervals over patients.

    `results`: of `fidelity.evaluate`; `intervals`: of `fidelity_intervals.intervals`. Both sets have the same sizes; what else the tables hold (all generated
    images, where they are more than the floor has) is not drawn. `origin` names the archive of the compared frames ("phantom", "archive").
    """
    table = results.set_index(["scope", "set"])
    paired, values = _paired(results, intervals)
    scopes = list(dict.fromkeys(results["scope"]))
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 3.0), width_ratios=[1.2, 1, 1])
    for row, scope in enumerate(scopes):
        colour = CELL_COLOURS.get(scope, OVERALL_COLOUR)
        _pair(axes[0], row, values, scope, "distance", colour)
        _pair(axes[1], row, values, scope, "kid", colour)
    for row, score in enumerate(SCORES):
        _pair(axes[2], row, values, OVERALL, score, OVERALL_COLOUR)
    _rows(axes[0], [_scope_label(table.loc[(scope, paired)], scope) for scope in scopes], distance, "value")
    _rows(axes[1], [""] * len(scopes), "kernel distance (KID form)", "value")
    _rows(axes[2], SCORES, "neighbour scores, overall", "value")
    axes[0].set_ylabel("condition\nimages : reference images")
    axes[0].set_xlim(0, axes[0].get_xlim()[1])
    axes[2].set_xlim(0, max(1.02, axes[2].get_xlim()[1]))
    axes[1].axvline(0, color="#9A9A9A", lw=0.8, zorder=0)
    notes = (
        ["lines: 95 % intervals over patients,\nnone where these are too few"] if values["low"].notna().any() else []
    )
    if results.loc[results["set"] == paired, "rank_deficient"].any():
        notes.append("* images ≤ feature dimensions")
    _legend(figure, paired, origin, notes)
    return figure


def patients(
    results: pd.DataFrame, intervals: pd.DataFrame, resampled: pd.DataFrame, distance: str, origin: str
) -> Figure:
    """Left: overall distance of random parts of the patients, with the line to endless samples. Middle: FID∞ per condition. Right: excess over the floor.

    `resampled`: of `fidelity_intervals.resample`, all scopes; the other arguments as for `distances`. Needs replicates of the scope `overall`.
    """
    paired, values = _paired(results, intervals)
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 3.0), width_ratios=[1.25, 1, 1])
    count = int(resampled.loc[resampled["scope"] == OVERALL, "of_patients"].iloc[0])
    jitter = np.random.default_rng(0)
    for name, source, aside in ((GENERATED, paired, -0.04), (FLOOR, FLOOR, 0.04)):
        colour, face = (OVERALL_COLOUR, OVERALL_COLOUR) if name == GENERATED else (FLOOR_COLOUR, "white")
        mine = resampled[(resampled["scope"] == OVERALL) & (resampled["set"] == source)]
        means = mine.groupby(mine["of_patients"] / mine["patients"])["distance"].mean()
        mine = mine[mine["patients"] < mine["of_patients"]]
        x = mine["of_patients"] / mine["patients"]
        spread = x + aside + jitter.uniform(-0.025, 0.025, len(x))
        axes[0].scatter(spread, mine["distance"], s=6, color=colour, alpha=0.35, lw=0)
        axes[0].scatter(means.index[1:], means.iloc[1:], s=36, marker="_", color=colour, zorder=3)
        axes[0].scatter(1, means.loc[1.0], s=26, facecolor=face, edgecolor=colour, zorder=3)
        end = values.loc[(OVERALL, name, "infinity")]
        slope = (means.mean() - end["value"]) / means.index.to_numpy().mean()  # it goes through the mean of its points
        last = x.max()
        axes[0].plot([0, last], [end["value"], end["value"] + last * slope], color=colour, lw=1.2)
        axes[0].errorbar(aside, end["value"], _arms(end), fmt="o", ms=5, mfc=face, color=colour, capsize=2, lw=1)
    axes[0].axhline(0, color="#9A9A9A", lw=0.8, zorder=0)
    axes[0].set(
        xlabel="all patients / patients kept",
        ylabel=distance,
        title=f"overall, leaving patients out (n = {count})",
        xlim=(-0.15, None),
    )
    axes[0].set_xticks([0, 1, 1.5, 2], ["0\n(endless)", "1\n(all)", "1.5", "2\n(half)"])
    scopes = [scope for scope in dict.fromkeys(results["scope"])]
    for row, scope in enumerate(scopes):
        colour = CELL_COLOURS.get(scope, OVERALL_COLOUR)
        _pair(axes[1], row, values, scope, "infinity", colour)
        if (scope, GENERATED, "excess") in values.index:
            _interval(axes[2], row, values.loc[(scope, GENERATED, "excess")], colour, colour)
    _rows(axes[1], scopes, "endless samples (FID∞ form)", "value")
    _rows(axes[2], [""] * len(scopes), "excess over the floor", "difference")
    for axis in axes[1:]:
        axis.axvline(0, color="#9A9A9A", lw=0.8, zorder=0)
    _legend(figure, paired, origin, ["bars: 95 % intervals over patients;\nnone where patients are too few"])
    return figure


def _paired(results: pd.DataFrame, intervals: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The set that goes with the floor, and the intervals of both, indexed by scope, set (`generated` or `floor`) and measure."""
    paired = beside_floor(results)
    kept = intervals[intervals["set"].isin([paired, FLOOR])].replace({"set": {paired: GENERATED}})
    return paired, kept.set_index(["scope", "set", "measure"]).sort_index()


def _pair(axis: Axes, row: int, values: pd.DataFrame, scope: str, measure: str, colour: str) -> None:
    """A filled dot with its interval for `generated` above an open one for `floor`, both in `row`."""
    for name, offset in OFFSETS.items():
        face, edge = (colour, colour) if name == GENERATED else ("white", FLOOR_COLOUR)
        _interval(axis, row + offset, values.loc[(scope, name, measure)], face, edge)


def _interval(axis: Axes, height: float, value: pd.Series, face: str, edge: str) -> None:
    axis.plot([value["low"], value["high"]], [height, height], color=edge, lw=1.2, zorder=1)
    axis.scatter(value["value"], height, s=26, facecolor=face, edgecolor=edge, zorder=2)


def _arms(value: pd.Series) -> np.ndarray:
    return np.array([[value["value"] - value["low"]], [value["high"] - value["value"]]])


def _rows(axis: Axes, labels: Sequence[str], title: str, xlabel: str) -> None:
    axis.set(yticks=range(len(labels)), yticklabels=labels, title=title, xlabel=xlabel)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#E6E6E6", lw=0.6)
    axis.set_axisbelow(True)


def _scope_label(row: pd.Series, scope: str) -> str:
    return f"{scope}{'*' if row['rank_deficient'] else ''}\n{int(row['images'])} : {int(row['reference_images'])}"


def _legend(figure: Figure, paired: str, origin: str, notes: Sequence[str]) -> None:
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=OVERALL_COLOUR, label=f"{paired}, against held-out {origin} frames"),
        Line2D([], [], ls="", marker="o", ms=5, mfc="white", mec=FLOOR_COLOUR, label=f"floor: {origin} training against held-out frames"),
        *(Line2D([], [], ls="", label=note) for note in notes),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.0, handletextpad=0.2)
