"""Figures 1 and 3, drawn from counts: from files to arterial frames, and from generated images to scores; and the pictures of notebook 01."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from dsa_lib.figures.style import CELL_COLOURS, picture, pictures
from dsa_lib.run.workspace import PROJECT

_INK, _PALE, _SIDE, _GREY, _WARNING = "#1f2933", "#eef3f8", "#fbf1e6", "#6b7785", "#9b1c1c"
_LINE = 0.155  # height of a line of text, inches
_LISTED = 6  # reasons shown by name
_COLOURS = {"anterior": CELL_COLOURS["AC A"], "posterior": CELL_COLOURS["PC A"]}


def published_counts() -> dict[str, int]:
    """Counts of the paper's Figure 1 and §2.1–2.2 by stage."""
    frame = pd.read_csv(PROJECT / "data_manifests" / "published" / "figure1.csv")
    return {row.stage: int(row.published) for row in frame.itertuples()}


def draw_flow(flow: Mapping, archive: str, arterial: Mapping | None = None, heading: str = ""):
    """The filter flow as boxes: what went on in the middle, what was left out at the right, the study's published number in grey beneath ours.

    `flow`: counts of `dsa_lib.curation.cohort` (flow.json); `archive`: what was counted, in words; `arterial`: `filter_flow.count_arterial` of the arterial
    frames, once notebook 02 has run: the splits then count these. `heading` stands above the boxes. Returns the matplotlib figure.
    """
    paper = published_counts()
    figure, ax = plt.subplots(figsize=(7.2, 6.2 if arterial is None else 7.6))
    ax.axis("off")
    quarantined, excluded = sum(flow["quarantined"].values()), sum(flow["excluded"].values())
    share = _share(excluded, flow["series read"])
    published_share = f"study: {paper['excluded']:,}{_share(paper['excluded'], paper['series read'])}"
    x, width, side_x, side_width = 1.85, 2.9, 5.45, 3.1
    halves_x, thirds_x, centre = [1.85, 5.55], [1.4, 3.7, 6.0], 3.7
    y = 0.0
    if heading:
        ax.text(0.4, 0.12, heading, size=9, weight="bold", color=_WARNING, va="bottom")
    left_out = flow.get("files left out", 0)
    texts = [f"{flow['files found']:,} files {'read' if left_out else 'found'}"]
    bottom = _box(ax, x, y, width, texts + [f"{left_out:,} further files left out by request"] * bool(left_out), bold=1)
    y = _branch(ax, x, bottom, side_x, side_width, [f"{quarantined:,} quarantined", *_reasons(flow["quarantined"])])
    texts = [f"{flow['series read']:,} DSA series read", f"study: {paper['series read']:,}"]
    bottom = _box(ax, x, y, width, texts, bold=1)
    texts = [f"{excluded:,} excluded{share}", published_share, *_reasons(flow["excluded"])]
    y = _branch(ax, x, bottom, side_x, side_width, texts)
    kept = f"{flow['series kept']:,} series of anterior or posterior circulation"
    above = [centre]
    facts = f"{_plural(flow['patients'], 'patient')} · {flow['studies']:,} {'study' if flow['studies'] == 1 else 'studies'} · {flow['frames']:,} frames"
    published = (
        f"study: {paper['series kept']:,} series · {paper['patients']:,} patients · {paper['studies']:,} studies"
    )
    bottom = _box(ax, centre, y, 5.2, [kept, facts, published], bold=1)
    if arterial is not None:
        # As the paper counts them: the network is applied to the annotated series as well, whose frames are classified like all others.
        rest = flow["series kept"] - arterial["annotated"]
        further = "further series" if arterial["annotated"] else "series"
        lines = [
            [f"{arterial['annotated']:,} series annotated", f"study: {paper['annotated']:,}"],
            [f"{rest:,} {further} classified", f"study: {paper['classified']:,} further series"],
        ]
        bottom = _row(ax, bottom, above, lines, halves_x, 2.9)
        total = arterial["anterior"] + arterial["posterior"]
        lines = [f"{total:,} arterial-phase frames", f"study: {paper['arterial']:,}"]
        bottom = _row(ax, bottom, halves_x, [lines], [centre], 5.2)
    halves = []
    for name in ("anterior", "posterior"):
        counted = flow.get(name, {"series": 0, "frames": 0})
        lines = [f"{name} circulation", f"{counted['series']:,} series · {counted['frames']:,} frames"]
        if arterial is not None:
            shares = [_share(arterial[name], total), _share(paper[name], paper["arterial"])]
            lines = [
                f"{name} circulation",
                f"{arterial[name]:,} arterial-phase frames{shares[0]}",
                f"study: {paper[name]:,}{shares[1]}",
            ]
        halves.append(lines)
    bottom = _row(ax, bottom, above, halves, halves_x, 2.9, [_COLOURS["anterior"], _COLOURS["posterior"]])
    unit = "frames" if arterial is None else "arterial frames"
    names = {"train": "training", "val": "validation", "test": "test"}
    shown = [
        [title, _plural(part["patients"], "patient"), f"{part['series']:,} series · {part['frames']:,} {unit}"]
        for name, title in names.items()
        for part in [(flow if arterial is None else arterial).get("split", {}).get(name)]
        if part is not None
    ]
    bottom = _row(ax, bottom, halves_x, shown, thirds_x, 2.0)
    below = textwrap.wrap(f"Counted in: {archive}. Grey: published counts of the study.", 135)
    ax.text(0.4, bottom - 0.12, "\n".join(below), color=_GREY, size=7, va="top")
    bottom -= _LINE * (len(below) - 1)
    ax.set_xlim(0.3, 7.1)
    top = 0.35 if heading else 0.1
    ax.set_ylim(bottom - 0.35, top)
    figure.set_size_inches(7.2, (top + 0.35 - bottom) * 7.2 / 6.8)
    ax.set_aspect("equal")
    return figure


def _reasons(counts: Mapping[str, int]) -> list[str]:
    """Lines "n reason", most frequent first, long ones wrapped."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = _LISTED if len(ordered) > _LISTED + 1 else len(ordered)
    lines = [f"{count:,}  {reason}" for reason, count in ordered[:listed]]
    if rest := ordered[listed:]:
        lines.append(f"{sum(count for _, count in rest):,}  for {len(rest)} further reasons")
    return [part for line in lines for part in textwrap.wrap(line, 50, subsequent_indent="     ")]


def _box(
    ax, x: float, top: float, width: float, lines: list[str], bold: int = 1, side: bool = False, edge: str = _INK
) -> float:
    """A box centred on `x` with its upper edge at `top`; the first `bold` lines bold, lines of the study grey. Returns its lower edge."""
    height = _LINE * len(lines) + 0.16
    style = "round,pad=0,rounding_size=0.06"
    patch = FancyBboxPatch(
        (x - width / 2, top - height), width, height, boxstyle=style, fc=_SIDE if side else _PALE, ec=edge, lw=0.9
    )
    ax.add_patch(patch)
    for index, line in enumerate(lines):
        ax.text(
            x - width / 2 + 0.1 if side else x, top - 0.08 - _LINE * (index + 0.5), line, size=7.5 if index < bold else 7,
            ha="left" if side else "center", va="center", weight="bold" if index < bold else "normal",
            color=_GREY if line.startswith("study:") else _INK,
        )  # fmt: skip
    return top - height


def _arrow(ax, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": _INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0})


def _branch(ax, x: float, top: float, side_x: float, side_width: float, lines: list[str]) -> float:
    """Arrow down from a box's lower edge `top`, with a side box of what is left out. Returns where the next box begins."""
    side_top = top + 0.14
    side_bottom = _box(ax, side_x, side_top, side_width, lines, side=True)
    end = min(side_bottom - 0.14, top - 0.4)
    middle = min(top - 0.12, (side_top + side_bottom) / 2)
    _arrow(ax, (x, top), (x, end))
    _arrow(ax, (x, middle), (side_x - side_width / 2, middle))
    return end


def _row(
    ax,
    top: float,
    above: list[float],
    boxes: list[list[str]],
    xs: list[float],
    width: float,
    edges: list[str] | None = None,
) -> float:
    """Boxes side by side, reached by a fork of arrows from the boxes that end at `top` with centres `above`. Returns the lower edge."""
    if not boxes:
        return top
    xs = xs[: len(boxes)]
    fork, start = top - 0.15, top - 0.34
    for x in above:
        ax.plot([x, x], [top, fork], color=_INK, lw=0.9)
    ax.plot([min(*xs, *above), max(*xs, *above)], [fork, fork], color=_INK, lw=0.9)
    bottoms = []
    for index, lines in enumerate(boxes):
        _arrow(ax, (xs[index], fork), (xs[index], start))
        bottoms.append(_box(ax, xs[index], start, width, lines, edge=edges[index] if edges else _INK))
    return min(bottoms)


def _share(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.1f} %)" if whole else ""


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# ---- Figure 3: from generation conditions to evaluation outcomes ------------------------------------------------------

STAGES = ("generated", "screening", "ratings", "overall score")
_WIDTH, _GAP = 0.06, 0.09  # width of a stage's bar, and the empty space between bars as a share of all images


def figure3(counts: pd.DataFrame, source: str) -> Figure:
    """Generated images of each condition, through screening and ratings, as bands whose height is the number of images.

    `counts`: index condition; columns generated, kept, scored (images), mean and sd (of the overall score, 1–5). `source`: whose ratings they are.
    """
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    axis.set_axis_off()
    gap = _GAP * counts["generated"].sum()
    parts = {
        "screening": {"kept": counts["kept"], "rejected": counts["generated"] - counts["kept"]},
        "ratings": {"scored": counts["scored"], "not scored": counts["kept"] - counts["scored"]},
    }
    height = counts["generated"].sum() + gap * (len(counts) - 1)
    left = _stacked(counts["generated"], height, gap)
    for cell, (low, high) in zip(counts.index, left, strict=True):
        _stage_bar(axis, 0, low, high, _colour(cell))
        axis.text(-0.03, (low + high) / 2, f"{cell}\n{high - low:,.0f}", ha="right", va="center", size=7)
    start = {
        cell: low for cell, (low, _) in zip(counts.index, left, strict=True)
    }  # where a condition's images leave from
    for place, stage in enumerate(parts.values(), 1):
        onward, left_out = stage
        ends = _stacked([part.sum() for part in stage.values()], height, gap)
        following = {}
        for (name, part), (low, high) in zip(stage.items(), ends, strict=True):
            _stage_bar(axis, place, low, high, _INK if name == onward else _GREY)
            label = f"{name} {part.sum():,.0f}"
            axis.text(place + _WIDTH / 2, high + 0.01 * height, label, ha="center", va="bottom", size=7)
            top = high
            for cell, count in part.items():
                top -= count
                above = stage[left_out][cell] if name == onward else 0  # what goes on lies above what is left out
                _band(axis, place, (start[cell] + above, top), count, _colour(cell), name == onward)
                following.setdefault(cell, top)
        start = following
    for cell, row in counts.iterrows():
        score = f"{row['mean']:.2f} ± {row['sd']:.2f}" if np.isfinite(row["mean"]) else "no score"
        _band(axis, 3, (start[cell], start[cell]), row["scored"], _colour(cell), True)
        axis.text(3.03, start[cell] + row["scored"] / 2, f"{cell}  {score}", ha="left", va="center", size=7)
    for place, title in enumerate(STAGES):
        axis.text(place + _WIDTH / 2, -0.04 * height, title, ha="center", va="top", size=7, weight="bold")
    axis.text(3.6, -0.13 * height, f"numbers of images; {source}", ha="right", va="top", size=6.5, color=_GREY)
    axis.set(xlim=(-0.35, 3.65), ylim=(-0.2 * height, 1.08 * height))
    return figure


def _stacked(sizes: Sequence[float], height: float, gap: float) -> list[tuple[float, float]]:
    """(low, high) of bars of these sizes from the top down, `gap` apart, centred in `height`."""
    top = height - (height - sum(sizes) - gap * (len(sizes) - 1)) / 2
    places = []
    for size in sizes:
        places.append((top - size, top))
        top -= size + gap
    return places


def _stage_bar(axis: Axes, place: float, low: float, high: float, colour: str) -> None:
    axis.add_patch(Rectangle((place, low), _WIDTH, high - low, fc=colour, ec="none", zorder=3))


def _band(axis: Axes, place: float, lows: tuple[float, float], size: float, colour: str, onward: bool) -> None:
    """A band of height `size` from the stage before to the one at `place`; what is left out is paler."""
    if size:
        x = np.linspace(place - 1 + _WIDTH, place, 60)
        share = (x - x[0]) / (x[-1] - x[0])
        low = lows[0] + (lows[1] - lows[0]) * share**2 * (3 - 2 * share)
        axis.fill_between(x, low, low + size, color=colour, alpha=0.45 if onward else 0.15, lw=0)


def _colour(cell: str) -> str:
    return CELL_COLOURS.get(cell, CELL_COLOURS["Others"])


# ---- pictures of notebook 01 ------------------------------------------------------------------------------------------


def draw_subtraction(planes: Mapping[str, np.ndarray], grey: np.ndarray, units: str):
    """Raw frame, its mask and their difference at full size, and the frame as the study keeps it.

    `planes` from `dicom.example`, `grey` uint8 [H, W], `units` what the planes' values are. Each plane has a grey scale of its own.
    """
    names = [name for name in ("raw", "mask", "subtracted") if name in planes]
    figure, axes = pictures(1, len(names) + 1, 2.0)
    for ax, name in zip(axes[0], names, strict=False):
        low, high = np.percentile(planes[name], [0.5, 99.5])
        ax.imshow(planes[name], vmin=low, vmax=high)
        ax.set_title(f"{name} ({units})" if "mask" in planes else "stored subtracted")
    picture(axes[0][-1], grey)
    axes[0][-1].set_title(f"frame of the study, {grey.shape[0]}²")
    return figure


def draw_series(frames: np.ndarray, times_s: np.ndarray, title: str, columns: int = 7):
    """One series over time: at most two rows of frames, equally spaced, with the time of each."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 2 * columns)).round().astype(int))
    figure, axes = pictures(-(-len(chosen) // columns), columns, 1.2, gap=0.03)
    for ax, index in zip(axes.flat, chosen, strict=False):
        picture(ax, frames[index])
        ax.set_title(f"{times_s[index]:.1f} s", size=7, pad=2)
    figure.suptitle(title)
    return figure


def draw_excluded(planes: Mapping[str, np.ndarray], counts: Mapping[str, int], title: str):
    """One unsubtracted frame of a series for each reason of exclusion; `planes` and `counts` (series) by reason, most frequent first."""
    reasons = sorted(planes, key=lambda reason: (-counts[reason], reason))
    figure, axes = pictures(1, len(reasons), 1.5, head=0.7)
    for ax, reason in zip(axes[0], reasons, strict=True):
        low, high = np.percentile(planes[reason], [0.5, 99.5])
        ax.imshow(planes[reason], vmin=low, vmax=high)
        ax.set_title("\n".join(textwrap.wrap(f"{counts[reason]:,} × {reason}", 24)), size=6.5, pad=3)
    figure.suptitle(title)
    return figure
