"""One look for all figures: type, sizes, a colour a condition (distinguishable with colour-vision deficiency)."""

from pathlib import Path

import matplotlib.pyplot as plt

from dsa_lib.run.workspace import atomic_write

# Okabe & Ito's palette: hue for the circulation, lightness for the plane.
CELL_COLOURS = {"AC A": "#0072B2", "AC B": "#56B4E9", "PC A": "#D55E00", "PC B": "#E69F00", "Others": "#999999"}


def apply() -> None:
    """Set the matplotlib defaults of this project."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "font.size": 8,
            "axes.titlesize": 9,
            "axes.labelsize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "pdf.fonttype": 42,  # type that a journal can edit
        }
    )


def save(figure, path: Path, dpi: int = 200) -> None:
    """Write `figure` to `path` (.png or .pdf) atomically; no software tag or date, so that equal figures are equal bytes."""
    metadata = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata=metadata)
