"""Figures of the distances of notebook 07: values with intervals beside their floor, and what they do as patients are left out."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dsa_lib.fidelity.distances import FLOOR, GENERATED, OVERALL, beside_floor
from dsa_lib.figures.style import FLOOR_LOOK, GENERATED_LOOK, GREY, dots, key

LOOKS = {GENERATED: GENERATED_LOOK, FLOOR: FLOOR_LOOK}
SCORES = ("precision", "recall", "density", "coverage")


def distances(results: pd.DataFrame, intervals: pd.DataFrame, distance: str, origin: str) -> Figure:
    """Generated (filled) beside the floor (open): the distance, KID, and the four neighbour scores, with 95 % intervals over patients.

    `results`: of `fidelity.evaluate`; `intervals`: of `fidelity_intervals.intervals`. Both sets have the same sizes; what else the tables hold (all generated
    images, where they are more than the floor has) is not drawn. `origin` names the archive of the compared frames ("phantom", "archive").
    """
    table = results.set_index(["scope", "set"])
    paired, values = _paired(results, intervals)
    scopes = list(dict.fromkeys(results["scope"]))
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 3.1), width_ratios=[1.2, 1, 1])
    for axis, measure, title in ((axes[0], "distance", distance), (axes[1], "kid", "kernel distance (KID form)")):
        _rows(axis, values[values["measure"] == measure], "scope", scopes, title)
    _rows(axes[2], values[values["scope"] == OVERALL], "measure", SCORES, "neighbour scores, overall")
    axes[0].set_yticks(range(len(scopes)), [_scope_label(table.loc[(scope, paired)], scope) for scope in scopes])
    axes[0].set_ylabel("condition\nimages : reference images")
    axes[1].set_yticklabels([])
    axes[0].set_xlim(left=min(0, axes[0].get_xlim()[0]))
    axes[2].set_xlim(0, max(1.02, axes[2].get_xlim()[1]))
    known = values["low"].notna().any()
    notes = ["lines: 95 % intervals over patients, none where these are too few"] if known else []
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
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 3.1), width_ratios=[1.25, 1, 1])
    ends = values[(values["scope"] == OVERALL) & (values["measure"] == "infinity")].set_index("set")
    overall = resampled[resampled["scope"] == OVERALL]
    overall = overall.assign(times=overall["of_patients"] / overall["patients"])
    for (name, look), source, aside in zip(LOOKS.items(), (paired, FLOOR), (-0.04, 0.04), strict=True):
        mine = overall[overall["set"] == source]
        means = mine.groupby("times")["distance"].mean()
        parts = mine[mine["times"] > 1]
        sns.scatterplot(x=parts["times"] + aside, y=parts["distance"], s=9, color=look.colour, alpha=0.4, lw=0, ax=axes[0])  # fmt: skip
        axes[0].scatter(means.index[1:], means.iloc[1:], s=36, marker="_", color=look.colour, zorder=3)
        end, last = ends.loc[name], parts["times"].max()
        slope = (means.mean() - end["value"]) / means.index.to_numpy().mean()  # it goes through the mean of its points
        axes[0].plot([0, last], [end["value"], end["value"] + last * slope], color=look.colour, lw=1.2)
        known = pd.DataFrame({"times": [aside, 1.0], "value": [end["value"], means.loc[1.0]], "set": name})
        known["low"], known["high"] = [end["low"], None], [end["high"], None]
        dots(axes[0], known, {name: look}, hue="set", x="times", y="value", orient="x", native_scale=True)
    axes[0].axhline(0, color=GREY, lw=0.8, zorder=0)
    count = int(overall["of_patients"].iloc[0])
    axes[0].set(xlabel="all patients / patients kept", ylabel=distance, xlim=(-0.15, None))
    axes[0].set_title(f"overall, leaving patients out (n = {count})")
    axes[0].set_xticks([0, 1, 1.5, 2], ["0\n(endless)", "1\n(all)", "1.5", "2\n(half)"])
    scopes = list(dict.fromkeys(results["scope"]))
    _rows(axes[1], values[values["measure"] == "infinity"], "scope", scopes, "endless samples (FID∞ form)")
    excess = values[(values["measure"] == "excess") & (values["set"] == GENERATED)]
    _rows(axes[2], excess, "scope", scopes, "excess over the floor", {GENERATED: GENERATED_LOOK})
    axes[2].set_yticklabels([])
    notes = ["small dots: random parts of the patients; dashes: their means"]
    _legend(figure, paired, origin, [*notes, "lines: 95 % intervals over patients, none where these are too few"])
    return figure


def _paired(results: pd.DataFrame, intervals: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The set that goes with the floor, and the intervals of both, its own called `generated`."""
    paired = beside_floor(results)
    return paired, intervals[intervals["set"].isin([paired, FLOOR])].replace({"set": {paired: GENERATED}})


def _rows(axis: Axes, values: pd.DataFrame, rows: str, order: Sequence[str], title: str, looks=LOOKS) -> None:
    """A row for each of `order`: a filled dot with its interval for `generated` above an open one for `floor`."""
    dots(axis, values, looks, hue="set", x="value", y=rows, order=order)
    axis.axvline(0, color=GREY, lw=0.8, zorder=0)
    axis.set(xlabel=title, ylabel="")


def _scope_label(row: pd.Series, scope: str) -> str:
    return f"{scope}{'*' if row['rank_deficient'] else ''}\n{int(row['images'])} : {int(row['reference_images'])}"


def _legend(figure: Figure, paired: str, origin: str, notes: Sequence[str]) -> None:
    handles = [
        key(f"{paired}, against held-out {origin} frames", GENERATED_LOOK),
        key(f"floor: {origin} training against held-out frames", FLOOR_LOOK),
        *(Line2D([], [], ls="", label=note) for note in notes),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.0, handletextpad=0.2)
