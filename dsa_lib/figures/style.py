"""One look for all figures: seaborn's theme, the colours of conditions, sets, methods and raters, and the marks and grids that several figures share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from dsa_lib.run.workspace import atomic_write

INK, GREY, FAINT = "#222222", "#8A8A8A", "#E6E6E6"
# Okabe & Ito's palette: its colours are told apart with colour-vision deficiency.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"


class Look(NamedTuple):
    """Colour and marker of one set, arm or rater; `face` fills the marker where that is another colour."""

    colour: str
    marker: str = "o"
    face: str | None = None


# Conditions: hue for the circulation, lightness for the plane.
CELL_COLOURS = {"AC A": BLUE, "AC B": SKY, "PC A": VERMILION, "PC B": ORANGE, "Others": "#999999"}
GENERATED_LOOK, FLOOR_LOOK = Look(INK), Look(GREY, face="white")
SET_COLOURS = {
    "generated": INK,
    "held-out": PINK,
    "training": GREY,
    "same patient": GREEN,
    "held-out, reconstructed": PINK,
}
METHOD_COLOURS = {"LDM": BLUE, "SPADE": VERMILION, "SPADE w/ VAE": GREEN}
SAMPLER_COLOURS = {"ddpm": BLUE, "ddim": ORANGE, "dpmsolver++": VERMILION, "unipc": GREEN}
# Models and judged sets have no fixed names: in the order in which they stand in the table.
MODEL_COLOURS = (GREY, BLUE, SKY, VERMILION, GREEN)
SET_LOOKS = (Look(INK), Look(GREY, "s"), Look(PINK, "D"), Look(GREEN, "^"), Look("#999900", "v"))
CALIBRE_COLOURS = ("#E64B35", "#F0C808", "#21B6A8")  # on grey frames; proximal, medium, peripheral
ARM_LOOKS = {  # arms of a matched look have the colour of those without it, and open squares
    "real": Look(INK),
    "real + synthetic": Look(VERMILION),
    "real + synthetic, look matched": Look(VERMILION, "s", "white"),
    "synthetic for real": Look(BLUE),
    "synthetic for real, look matched": Look(BLUE, "s", "white"),
    "real, partly decoded": Look(GREEN, "D"),
}
ROLE_LOOKS = {"NR": Look("#1B1B1B"), "NS": Look("#7B3F98", "s"), "IM": Look("#1B7F5C", "^"), "other": Look("#9A6A00", "D")}  # fmt: skip


def apply() -> None:
    """Set seaborn's theme with the sizes and colours of this project; one font everywhere, so that equal figures are equal bytes."""
    sns.set_theme(
        context="paper",
        style="ticks",
        palette=[BLUE, VERMILION, GREEN, PINK, ORANGE, SKY],
        font="DejaVu Sans",
        font_scale=0.84,
        rc={
            "figure.dpi": 100,
            "figure.titlesize": "medium",
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.linewidth": 0.8,
            "xtick.major.width": 0.8,
            "ytick.major.width": 0.8,
            "grid.color": FAINT,
            "grid.linewidth": 0.6,
            "figure.constrained_layout.use": True,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "pdf.fonttype": 42,  # type that a journal can edit
        },
    )


def save(figure, *paths: Path, dpi: int = 200) -> None:
    """Write `figure` to each of `paths` (.png or .pdf) atomically; no software tag or date, so that equal figures are equal bytes."""
    for path in paths:
        metadata = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=dpi, metadata=metadata)


def estimates(table: pd.DataFrame, ends: Sequence[str] = ("low", "high")) -> dict:
    """Arguments with which `sns.pointplot` and `sns.barplot` draw estimates and intervals as they stand in `table`, one row a mark.

    Nothing is averaged and no interval is computed here; a row with NaN in the columns `ends` has none. ValueError where two rows share a mark.
    """
    table = table.reset_index(drop=True)

    def interval(values: pd.Series) -> tuple[float, float]:
        (row,) = set(values.index % len(table))
        return tuple(table.loc[row, list(ends)])

    twice = pd.concat([table, table], ignore_index=True)  # seaborn asks for an interval only where a mark has two rows
    return {"data": twice, "estimator": lambda values: values.iloc[0], "errorbar": interval}


def dots(
    axis: Axes,
    table: pd.DataFrame,
    looks: Mapping[str, Look],
    *,
    hue: str,
    orient: str = "y",
    ends: Sequence[str] | None = ("low", "high"),
    dodge: float = 0.3,
    size: float = 4.5,
    **variables,
) -> None:
    """A point plot of `table`, one row a dot, with its own intervals (`estimates`; `ends` None: without), dodged and drawn by `hue` as `looks` says.

    `orient`: the axis of the categories, which loses its tick marks; the other one gets a grid. `dodge`: from the first look to the last, in categories.
    `variables`: x, y and further arguments of `sns.pointplot`.
    """
    first = len(axis.lines)
    sns.pointplot(
        **(estimates(table, ends) if ends else {"data": table, "errorbar": None}),
        hue=hue,
        hue_order=list(looks),
        palette=[look.colour for look in looks.values()],
        markers=[look.marker for look in looks.values()],
        orient=orient,
        dodge=dodge if len(looks) > 1 else False,
        linestyle="none",
        markersize=size,
        markeredgewidth=1.0,
        zorder=3,
        err_kws={"linewidth": 1.3, "zorder": 2},
        legend=False,
        ax=axis,
        **variables,
    )
    marked = [line for line in axis.lines[first:] if line.get_marker() != "None"]
    for line, look in zip(marked, looks.values(), strict=not table.empty):
        line.set_markerfacecolor(look.face or look.colour)
    axis.tick_params(axis=orient, length=0)
    axis.grid(True, axis="x" if orient == "y" else "y")


def pictures(
    rows: int, columns: int, size: float, gap: float = 0.01, head: float = 0.4, **layout
) -> tuple[Figure, np.ndarray]:
    """A figure of rows × columns axes for images, `size` inches a side, without frames and close together.

    `gap`: inches between rows; `head`: inches that titles and legends need in all; `layout`: further arguments of `plt.subplots`.
    """
    size = (size * columns + 0.4, size * rows + head)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **layout)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.get_layout_engine().set(w_pad=0.01, h_pad=gap, wspace=0.01, hspace=0.01)
    return figure, axes


def picture(axis: Axes, image: np.ndarray) -> None:
    """An image at grey 0–255, so that brightness is comparable from one to the next; a picture in colours keeps its own."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)


def row_label(axis: Axes, text: str, **look) -> None:
    """`text`, upright, to the left of the first image of a row."""
    axis.text(-0.06, 0.5, text, transform=axis.transAxes, rotation=90, ha="right", va="center", **look)


def row_shares(counts: pd.DataFrame) -> pd.DataFrame:
    """Each count over the sum of its row; 0 in a row without any."""
    return counts.div(counts.sum(axis=1).clip(lower=1), axis=0)


def shares(axis: Axes, counts: pd.DataFrame, **look) -> None:
    """Heat map of counts: shade is the share of the row, the counts are written in; `look`: arguments of `sns.heatmap` that change this."""
    look = {"annot": counts, "fmt": ",d", "cmap": "Blues", "vmin": 0, "vmax": 1, "cbar": False} | look
    sns.heatmap(row_shares(counts), ax=axis, **look)
    axis.tick_params(length=0, rotation=0)


def plain_logarithms(axis: Axis) -> None:
    """A logarithmic axis with few ticks as plain numbers: powers of ten, 1–2–5, or even steps, by how much it spans."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    sparse = LogLocator(subs=(1,) if decades > 2.5 else (1, 2, 5))
    axis.set_major_locator(sparse if decades > 0.8 else MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def key(label: str, look: Look, **line) -> Line2D:
    """The entry of a legend for what is drawn as `look`; `line` makes it another line or size."""
    marked = {"ls": "", "color": look.colour, "marker": look.marker, "ms": 4.5, "mfc": look.face or look.colour}
    return Line2D([], [], **marked | line, label=label)
