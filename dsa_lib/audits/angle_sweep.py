"""Angle interpolation: does the image turn with the angle that is asked for, also between and beyond the angles of the training sentences?

One angle at a time is moved from a plane's canonical position while the noise of each seed stays the same, and the DSA network reads the angle off the
image. It reads angles of real frames with an error of its own; a slope is therefore held against the slope that the network shows on held-out frames.
Beyond the training angles neither the model nor the network has seen anything, and a reading there is an extrapolation of both.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from scipy.spatial import Delaunay, QhullError

from dsa_lib.audits import angles
from dsa_lib.core import images
from dsa_lib.core.condition_sentences import CANONICAL, Condition, SeenConditions
from dsa_lib.fidelity.dsa_network import ANGLE_HEADS, answers, named_cells
from dsa_lib.ldm import pipeline, sampler, sampling
from dsa_lib.run.hyperparameters import Sweep
from dsa_lib.run.progress import track
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import sha256

# Where an asked position lies among the angles of the training sentences of its circulation and plane.
TRAINED, NEAR, BETWEEN, BEYOND = "in training", "within 5°", "between", "beyond"
INSIDE = (TRAINED, NEAR, BETWEEN)
FOLLOWS_SHARE = 0.5  # of the network's own slope on held-out frames that the sweep's must exceed to be said to follow


def positions(settings: Sweep, seen: SeenConditions, planes: tuple[str, ...] = ("A", "B")) -> pd.DataFrame:
    """One row an asked position: cell, circulation, plane, both angles (degrees), and `kind`, where it lies among the training angles.

    From the canonical position of each cell whose circulation and plane occur in training: the primary angle moved by `primary_deg`, the secondary by
    `secondary_deg`, the other left as it is.
    """
    rows = []
    for cell, centre in CANONICAL.items():
        if centre.plane not in planes or not seen.angles.get((centre.circulation, centre.plane)):
            continue
        primary, secondary = centre.canonical_angles()
        moved = [(primary + by, secondary) for by in settings.primary_deg]
        moved += [(primary, secondary + by) for by in settings.secondary_deg]
        for pair in dict.fromkeys(moved):
            condition = Condition(centre.circulation, centre.plane, *pair)
            rows.append((cell, centre.circulation, centre.plane, *map(float, pair), kind(condition, seen)))
    return pd.DataFrame(rows, columns=["cell", "circulation", "plane", *ANGLE_HEADS, "kind"])


def kind(condition: Condition, seen: SeenConditions) -> str:
    """Where the angles of `condition` lie among those of the training sentences of its circulation and plane: one of them, within 5° of one
    (`SeenConditions.covers`), else between them (in their convex hull in the plane of both angles), else beyond."""
    pairs = seen.angles.get((condition.circulation, condition.plane), [])
    asked = condition.canonical_angles()
    if asked in pairs:
        return TRAINED
    if seen.covers(condition):
        return NEAR
    try:
        hull = Delaunay(np.array(pairs, float).reshape(-1, 2))
    except (QhullError, ValueError):  # fewer than three, or all on one line
        return BEYOND
    return BETWEEN if hull.find_simplex(np.array([asked], float))[0] >= 0 else BEYOND


def plan(asked: pd.DataFrame, seeds: list[int]) -> pd.DataFrame:
    """The plan of `sampling.generate`: every position of `positions` with every seed, and the columns of `positions` beside it."""
    rows = asked.loc[asked.index.repeat(len(seeds))].reset_index(drop=True)
    rows["seed"] = seeds * len(asked)
    rows["image_id"] = [f"sweep{number:05d}" for number in range(len(rows))]
    rows["file"], rows["batch"] = rows["image_id"] + ".png", 0
    conditions = rows[["circulation", "plane", *ANGLE_HEADS]].itertuples(index=False, name=None)
    rows["sentence"] = [Condition(*values).sentence() for values in conditions]
    return rows


def make(study: Study, sentences: Iterable[str], device: torch.device) -> tuple[pd.DataFrame, np.ndarray]:
    """(plan, its uint8 frames [n, H, W]): the run's model asked for every position and seed of the profile's sweep, from `sentences` of its training set.

    Frames are kept as PNG among the run's checkpoints: a call that was interrupted goes on. Unseen angles are asked for on purpose.
    """
    source, settings = study.read("ldm"), study.profile.sampling
    dsa = pipeline.DSAPipeline.from_pretrained(source).to(device)
    dsa.set_progress_bar_config(disable=True)
    dsa.scheduler = sampler.make_scheduler(settings.scheduler, dsa.scheduler)
    seeds = np.random.default_rng([study.profile.seed, 7]).integers(2**31, size=study.profile.sweep.seeds)
    rows = plan(positions(study.profile.sweep, SeenConditions.of(sentences)), seeds.tolist())
    folder = study.ws.checkpoints("angle_sweep")
    manifest = sampling.generate(
        dsa,
        rows,
        folder,
        steps=settings.steps,
        guidance=settings.guidance,
        batch_size=settings.batch_size,
        model=sha256(source),
        digest=sampling.code_digest(pipeline.CODE),
        allow_unseen=True,
        track=lambda batches: track(batches, what="batches of the angle sweep"),
    )
    return rows, images.read_images(folder, manifest["file"].tolist(), "images of the angle sweep")


def judged(rows: pd.DataFrame, frames: np.ndarray, model, facts) -> pd.DataFrame:
    """The plan `rows` with what the network read off each image: judged_primary_angle_deg, judged_secondary_angle_deg, judged_cell."""
    found = answers(model, facts, frames, what="images of the angle sweep")
    table = rows[["cell", "circulation", "plane", *ANGLE_HEADS, "kind", "seed"]].reset_index(drop=True)
    for angle in ANGLE_HEADS:
        table[f"judged_{angle}"] = found[angle]
    return table.assign(judged_cell=named_cells(found))


def along(table: pd.DataFrame, cell: str, angle: str) -> pd.DataFrame:
    """The rows of the sweep in which `angle` of `cell` was moved: the other angle is at its canonical value."""
    other = next(name for name in ANGLE_HEADS if name != angle)
    fixed = dict(zip(ANGLE_HEADS, CANONICAL[cell].canonical_angles(), strict=True))[other]
    return table[(table["cell"] == cell) & (table[other] == fixed)]


def strip(table: pd.DataFrame, angle: str, seed: int) -> pd.DataFrame:
    """The images of one seed in which `angle` was moved, for the eye: columns cell, moved_by (degrees), asked (degrees), kind, index (row of `table`)."""
    rows = []
    for cell in dict.fromkeys(table["cell"]):
        centre = dict(zip(ANGLE_HEADS, CANONICAL[cell].canonical_angles(), strict=True))[angle]
        part = along(table, cell, angle)
        part = part[part["seed"] == seed].sort_values(angle)
        rows += [
            (cell, asked - centre, asked, kind, index)
            for asked, kind, index in zip(part[angle], part["kind"], part.index, strict=True)
        ]
    return pd.DataFrame(rows, columns=["cell", "moved_by", "asked", "kind", "index"])


def points(table: pd.DataFrame, real: angles.Judged | None, planes: np.ndarray) -> pd.DataFrame:
    """What was read over what was known, one row an image, for the eye: columns cell, angle, set ("sweep", "real"), known, read, seed, kind.

    `planes` as in `following`.
    """
    parts = []
    for cell in dict.fromkeys(table["cell"]):
        for angle in ANGLE_HEADS:
            swept = along(table, cell, angle)
            values = {
                "known": swept[angle],
                "read": swept[f"judged_{angle}"],
                "seed": swept["seed"],
                "kind": swept["kind"],
            }
            parts.append(pd.DataFrame(values).assign(cell=cell, angle=angle, set="sweep"))
            if real is not None:
                members = np.asarray(planes) == cell
                values = {"known": real.known.loc[members, angle], "read": real.judged.loc[members, angle]}
                parts.append(pd.DataFrame(values).assign(cell=cell, angle=angle, set="real"))
    return pd.concat(parts, ignore_index=True)


def following(table: pd.DataFrame, real: dict[str, angles.Judged], planes: np.ndarray) -> pd.DataFrame:
    """How the read angle follows the asked one: one row a cell, angle and set.

    Sets: "sweep, inside" (asked angles among the training angles, the one that reads beside the real frames), "sweep, all", and those of `real` (all
    held-out frames of the cell's circulation and plane, canonical or oblique; `planes` [n] gives the cell of each by circulation and plane alone).
    Columns: cell, angle, set, images, groups, mae, and those of `angles.line`.
    """
    rows = []
    for cell in dict.fromkeys(table["cell"]):
        for angle in ANGLE_HEADS:
            swept = along(table, cell, angle)
            compared = {
                "sweep, inside": swept[swept["kind"].isin(INSIDE)],
                "sweep, all": swept,
            }
            points = {name: (part[f"judged_{angle}"], part[angle], part["seed"]) for name, part in compared.items()}
            for name, frames in real.items():
                members = np.asarray(planes) == cell
                points[name] = (
                    frames.judged.loc[members, angle],
                    frames.known.loc[members, angle],
                    frames.groups[members],
                )
            for name, values in points.items():
                read, known, groups = map(np.asarray, values)
                there = np.isfinite(read) & np.isfinite(known)
                read, known, groups = read[there], known[there], groups[there]
                mae = np.abs(angles.difference(read, known)).mean() if len(read) else np.nan
                row = {
                    "cell": cell,
                    "angle": angle,
                    "set": name,
                    "images": len(read),
                    "groups": len(set(groups)),
                    "mae": mae,
                }
                rows.append(row | angles.line(read, known, groups))
    return pd.DataFrame(rows)


def statements(table: pd.DataFrame, reference: str = "held-out, reconstructed") -> list[str]:
    """One sentence a cell and angle, from the table of `following`: whether the image follows the angle, as far as the network can tell."""
    found = []
    for (cell, angle), rows in table.groupby(["cell", "angle"], sort=False):
        of = rows.set_index("set")
        swept, own = of.loc["sweep, inside"], of.loc[reference] if reference in of.index else of.loc["held-out"]
        what = f"{cell}, {angle.split('_')[0]} angle"
        if not np.isfinite(swept["slope_low"]):
            found.append(f"{what}: too few training angles lie along this sweep to say anything.")
            continue
        numbers = f"slope {swept['slope']:.2f} [{swept['slope_low']:.2f}, {swept['slope_high']:.2f}] over {int(swept['groups'])} seeds"
        if not own["slope_low"] > 0:
            found.append(
                f"{what}: {numbers}, but the network cannot read this angle off held-out frames either (slope not above 0): not decided."
            )
            continue
        numbers += f", beside {own['slope']:.2f} on held-out frames"
        if swept["slope_low"] >= FOLLOWS_SHARE * own["slope"]:
            verdict = "follows"
        elif swept["slope_low"] > 0:
            verdict = "follows in part"
        elif swept["slope_high"] < FOLLOWS_SHARE * own["slope"]:
            verdict = "does not follow"
        else:
            verdict = "not decided by so few images"
        found.append(f"{what}: {verdict} ({numbers}).")
    return found
