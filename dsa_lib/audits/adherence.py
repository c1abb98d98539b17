"""Does an image show what its sentence asked for? The DSA network of notebook 07 (`dsa_lib.fidelity.dsa_network`), trained on real frames alone, is the judge.

Here: circulation and plane, and the phase, in which every generated image ought to be. Angles: `audits.angles`, `audits.angle_sweep`. A judge errs too; its
rates on held-out real frames and on their autoencoder reconstructions, which cost what decoding alone costs, are what a rate on generated images reads beside.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dsa_lib.core.condition_sentences import CANONICAL, CELLS
from dsa_lib.core.images import ImageFiles
from dsa_lib.core.statistics import wilson_interval
from dsa_lib.fidelity.dsa_network import classes, named_cells
from dsa_lib.fidelity.image_sets import RunImages
from dsa_lib.ldm import autoencoder
from dsa_lib.run.session import Study

GENERATED, HELD_OUT, RECONSTRUCTED = "generated", "held-out", "held-out, reconstructed"
TARGET_OVERALL, TARGET_CONDITION = 0.95, 0.90  # what this project asks of its generated images
NEEDED = ("circulation", "plane")


@dataclass(frozen=True)
class Asked:
    """One set of images for the judge: `frames` [n, H, W], and `rows`, a row each, with what was asked for or is known (cell, circulation, plane, angles).

    `groups` names the column of `rows` that images come in (patients; every generated image has its own noise).
    """

    frames: np.ndarray | ImageFiles
    rows: pd.DataFrame
    groups: str


def sets_of_run(study: Study, images: RunImages) -> dict[str, Asked]:
    """GENERATED images, HELD_OUT frames of test patients (`fidelity.real_images` at most, drawn at random) and those RECONSTRUCTED by the autoencoder.

    Test patients alone, since validation patients chose the judge's weights. Without test frames only the first set, without an autoencoder the first two.
    """
    sets = {GENERATED: Asked(images.generated, images.asked, "image_id")}
    rows = images.rows["test"]
    if not len(rows):
        return sets
    count = min(len(rows), study.profile.fidelity.real_images)
    rows = rows.sample(count, random_state=study.profile.seed % 2**32).sort_values("frame_id", ignore_index=True)
    frames = images.frames[rows["frame_id"].to_numpy()]
    sets[HELD_OUT] = Asked(frames, rows, "patient")
    if (decode := autoencoder.round_trip(study)) is not None:
        sets[RECONSTRUCTED] = Asked(decode(frames), rows, "patient")
    return sets


def conditions_asked() -> pd.DataFrame:
    """The four conditions of §2.3 as they are asked for: rows CELLS; columns circulation, plane, both angles (degrees), sentence."""
    rows = {
        cell: (each.circulation, each.plane, *each.canonical_angles(), each.sentence())
        for cell, each in CANONICAL.items()
    }
    columns = ["circulation", "plane", "primary angle (°)", "secondary angle (°)", "sentence"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def cells_by_view(rows: pd.DataFrame) -> np.ndarray:
    """Cell [n] of each row by circulation and plane alone, oblique or not; "" where either is unknown."""
    return np.array([*CELLS, ""])[classes(rows)]


def cannot_judge(absent: dict[str, str], labels: np.ndarray) -> str | None:
    """Why circulation and plane cannot be judged, or None where they can.

    `absent`: heads that the network lacks, and why (`dsa_network.cannot_learn`); `labels` [n]: class of every training frame (`dsa_network.classes`).
    """
    lacking = [f"{name} ({absent[name]})" for name in NEEDED if name in absent]
    if lacking:
        return f"the network has no head for {' and '.join(lacking)}"
    unseen = [cell for index, cell in enumerate(CELLS) if not (np.asarray(labels) == index).any()]
    if unseen:
        return f"no training frame shows {' or '.join(unseen)} (circulation, plane), and a judge that never saw a condition cannot name it"
    return None


def rates(answers: dict[str, tuple[pd.DataFrame, np.ndarray]]) -> pd.DataFrame:
    """How often the judge names what was asked: one row a set and scope (overall, each cell).

    `answers` maps a set's name to (what the network said of n images, `dsa_network.answers`; asked cells [n]); images outside the four cells are left out.
    Columns: set, scope, images, named_right, rate, low, high (Wilson 95 % interval, images taken as independent), circulation_rate, plane_rate,
    arterial_rate (share called arterial; NaN without that head).
    """
    columns = ["set", "scope", "images", "named_right", "rate", "low", "high", "circulation_rate", "plane_rate"]
    columns.append("arterial_rate")
    rows = []
    for name, (found, cells) in answers.items():
        asked, named = np.asarray(cells, dtype=object), named_cells(found)
        arterial = found["phase"].to_numpy()
        for scope in ("overall", *CELLS):
            members = np.isin(asked, CELLS) if scope == "overall" else asked == scope
            a, b = asked[members], named[members]
            right = int((a == b).sum())
            low, high = wilson_interval(right, len(a))
            rows.append(
                {
                    "set": name,
                    "scope": scope,
                    "images": len(a),
                    "named_right": right,
                    "rate": right / len(a) if len(a) else float("nan"),
                    "low": low,
                    "high": high,
                    "circulation_rate": _share(x[:2] == y[:2] for x, y in zip(a, b, strict=True)),
                    "plane_rate": _share(x[-1] == y[-1] for x, y in zip(a, b, strict=True)),
                    "arterial_rate": _share(arterial[members] > 0.5) if np.isfinite(arterial).all() else float("nan"),
                }
            )
    return pd.DataFrame(rows, columns=columns)


def _share(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def confusion(found: pd.DataFrame, cells: np.ndarray) -> pd.DataFrame:
    """Counts: asked cell (rows) by named cell (columns), both in the order of CELLS."""
    named, cells = named_cells(found), np.asarray(cells)
    counts = [[int(((cells == asked) & (named == answer)).sum()) for answer in CELLS] for asked in CELLS]
    return pd.DataFrame(counts, index=pd.Index(CELLS, name="asked"), columns=pd.Index(CELLS, name="named"))


def verdict(table: pd.DataFrame) -> str:
    """One sentence: does the generated set reach the project's targets (`TARGET_OVERALL`, `TARGET_CONDITION`)?"""
    generated = table[table["set"] == "generated"].set_index("scope")
    overall, cells = generated.loc["overall", "rate"], generated.loc[list(CELLS), "rate"]
    reached = overall >= TARGET_OVERALL and (cells >= TARGET_CONDITION).all()
    return (
        f"The judge names the requested condition in {overall:.1%} of {int(generated.loc['overall', 'images'])} generated images; "
        f"the weakest condition is {cells.idxmin()} with {cells.min():.1%}. "
        f"Target (≥ {TARGET_OVERALL:.0%} overall, ≥ {TARGET_CONDITION:.0%} each): {'reached' if reached else 'missed'}."
    )
