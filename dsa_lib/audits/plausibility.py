"""Are the vessels possible? What a segmentation and the spectrum say of each image, generated frames held against held-out real ones.

The measures of one image (`vessel_measures.MEASURES`) need no truth, so that generated and real frames are measured alike. The segmenter's errors are in
both; they cancel in a comparison only as far as it errs on both alike.

The comparison gives effects with intervals, not p-values: with enough images every difference is significant, and what matters is how large it is beside
that between two sets of real patients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.statistics import interval, whole_and_drawn
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity.image_sets import GENERATED, HELD_OUT, TRAINING, RunImages
from dsa_lib.ldm import autoencoder
from dsa_lib.run.progress import track
from dsa_lib.run.session import Study
from dsa_lib.vessels.measures import MEASURES, of_classes, of_spectrum
from dsa_lib.vessels.segmenters import Segmenter
from dsa_lib.vessels.spectra import spectrum

OVERALL = "overall"
SCOPES = (OVERALL, *CELLS)
FLOOR = "floor"
RECONSTRUCTED = "held-out, reconstructed"  # the control: what the autoencoder alone does to the vessels
LEAST_IMAGES = 2  # of a set in a scope: a spread needs two


# ---- one set of images -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One set: values (a row an image, columns MEASURES), power spectra [n, k] over `frequency` [k], class maps, the cell of each image, and the patient of
    each where it is real (else every image counts as one of its own)."""

    values: pd.DataFrame
    power: np.ndarray
    frequency: np.ndarray
    classes: np.ndarray
    cells: np.ndarray
    patients: np.ndarray


def measure(
    frames: np.ndarray,
    cells: np.ndarray,
    segment: Callable[[np.ndarray, str], np.ndarray],
    patients: np.ndarray | None = None,
    what: str = "frames",
) -> Measured:
    """All measures of uint8 frames [n, s, s] of the canonical conditions `cells` [n]; `segment(frames, what)` gives their class maps (`open_segmenter`)."""
    classes = segment(frames, what) if len(frames) else np.zeros(frames.shape, np.uint8)
    rows, powers, frequency = [], [], np.zeros(0)
    for frame, found in track(zip(frames, classes, strict=True), len(frames), f"{what} measured"):
        frequency, power = spectrum(frame)
        rows.append(of_classes(found) | of_spectrum(frequency, power))
        powers.append(power)
    whose = np.arange(len(frames)) if patients is None else np.asarray(patients)
    return Measured(
        pd.DataFrame(rows, columns=list(MEASURES), dtype=float), np.array(powers), frequency, classes, np.asarray(cells), whose
    )  # fmt: skip


def mean_spectra(sets: Mapping[str, Measured]) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Set → (frequency [k], mean power [k], images): the mean over the conditions that all sets have of the mean over their images."""
    shared = [cell for cell in CELLS if all((one.cells == cell).any() for one in sets.values())]
    if not shared:
        return {}
    return {
        name: (
            one.frequency,
            np.mean([one.power[one.cells == cell].mean(axis=0) for cell in shared], axis=0),
            int(np.isin(one.cells, shared).sum()),
        )
        for name, one in sets.items()
    }


def examples(sets: Mapping[str, Measured]) -> dict[str, dict[str, int]]:
    """Cell → set → position of its image of median arterial area (so that nobody chose it), for the conditions that all `sets` have."""
    found: dict[str, dict[str, int]] = {}
    for cell in CELLS:
        members = {name: np.flatnonzero(one.cells == cell) for name, one in sets.items()}
        if all(len(rows) for rows in members.values()):
            order = {
                name: rows[np.argsort(sets[name].values["area"].to_numpy()[rows], kind="stable")]
                for name, rows in members.items()
            }
            found[cell] = {name: int(rows[len(rows) // 2]) for name, rows in order.items()}
    return found


# ---- two sets --------------------------------------------------------------------------------------------------------


def compare(
    generated: Measured,
    held_out: Measured,
    training: Measured,
    draws: int,
    seed: int,
    reconstructed: Measured | None = None,
) -> pd.DataFrame:
    """Every measure of the generated images, of training patients (the floor) and of held-out frames through the autoencoder (the control), each against
    held-out frames; overall and by condition.

    Overall is the mean over conditions, so that sets of unlike mix compare. Intervals are 95 % percentile bootstrap: patients are drawn with replacement
    where frames are real, since frames of one patient are alike, and images within their condition where they are generated. One row a measure, scope
    and set (GENERATED, FLOOR, RECONSTRUCTED): `images`, `reference_images`, `reference_patients`, `mean`, `reference_mean`, `ratio` of the means with
    `ratio_low`, `ratio_high`, `difference` of the means in standard deviations of the held-out frames (within a condition) with `difference_low`,
    `difference_high`, and `wasserstein`, the distance between the two distributions in the same unit. NaN where a set has fewer than two such images.
    """
    reference = _draw(held_out, draws, np.random.default_rng([seed, 0]), by_image=False)
    rows = []
    sets = [(GENERATED, 1, generated, True), (FLOOR, 2, training, False)]
    if reconstructed is not None:
        # Drawn with the patients of the reference, whose frames these are.
        sets.append((RECONSTRUCTED, 0, reconstructed, False))
    for name, stream, images, by_image in sets:
        drawn = _draw(images, draws, np.random.default_rng([seed, stream]), by_image)
        for index, scope in enumerate(SCOPES):
            pick = slice(None) if scope == OVERALL else slice(index - 1, index)
            effects = _effects(drawn, reference, pick)
            distance = _wasserstein(images, held_out, CELLS[pick])
            members = [np.isin(one.cells, CELLS[pick]) for one in (images, held_out)]
            counts = {
                "images": int(members[0].sum()),
                "reference_images": int(members[1].sum()),
                "reference_patients": len(np.unique(held_out.patients[members[1]])),
            }
            for column, measure_name in enumerate(MEASURES):
                row = {"measure": measure_name, "scope": scope, "set": name} | counts
                row |= {key: values[column] for key, values in effects.items()} | {"wasserstein": distance[column]}
                rows.append(row)
    return pd.DataFrame(rows)


def _draw(images: Measured, draws: int, rng: np.random.Generator, by_image: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of every measure by condition, [1 + draws, cells, measures] each: first of the set as it is, then of every draw. NaN below
    LEAST_IMAGES images."""
    values = images.values.to_numpy(float)
    valid = np.isfinite(values)
    cell = np.array([CELLS.index(c) if c in CELLS else -1 for c in images.cells])
    names, group = np.unique(images.patients, return_inverse=True)
    blocks = [np.flatnonzero(cell == k) for k in range(len(CELLS))]
    moments = np.stack([valid, np.where(valid, values, 0), np.where(valid, values, 0) ** 2]).astype(float)
    sums = np.full((3, 1 + draws, len(CELLS), values.shape[1]), np.nan)
    chosen = None if by_image else whole_and_drawn(len(names), draws, rng)
    for k, rows in enumerate(blocks):
        if len(rows) == 0:
            continue
        weight = whole_and_drawn(len(rows), draws, rng) if by_image else chosen[:, group[rows]]
        sums[:, :, k] = np.einsum("dn,mnv->mdv", weight, moments[:, rows])
    with np.errstate(invalid="ignore", divide="ignore"):
        count = np.where(sums[0] >= LEAST_IMAGES, sums[0], np.nan)
        mean = sums[1] / count
        variance = np.clip(sums[2] / count - mean**2, 0, None) * count / (count - 1)
    return mean, variance


def _effects(
    drawn: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray], pick: slice
) -> dict[str, np.ndarray]:
    """Effects of every measure over the conditions `pick`, from what `_draw` gives of both sets; a condition that a draw misses is left out of both."""
    both = np.isfinite(drawn[0][:, pick]) & np.isfinite(reference[0][:, pick])

    def over_cells(values: np.ndarray) -> np.ndarray:
        count = both.sum(axis=1)
        return np.where(both, values[:, pick], 0).sum(axis=1) / np.where(count, count, np.nan)

    mean, expected, variance = over_cells(drawn[0]), over_cells(reference[0]), over_cells(reference[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(expected != 0, mean / expected, np.nan)
        difference = np.where(variance > 0, (mean - expected) / np.sqrt(variance), np.nan)
    out = {"mean": mean[0], "reference_mean": expected[0]}
    for name, values in (("ratio", ratio), ("difference", difference)):
        out[name] = values[0]
        out[f"{name}_low"], out[f"{name}_high"] = interval(values[1:])
    return out


def _wasserstein(images: Measured, held_out: Measured, cells: tuple[str, ...]) -> np.ndarray:
    """First Wasserstein distance of every measure in standard deviations of the held-out frames, mean over the conditions that both sets have."""
    parts = []
    for cell in cells:
        a = images.values[images.cells == cell].to_numpy(float)
        b = held_out.values[held_out.cells == cell].to_numpy(float)
        row = np.full(len(MEASURES), np.nan)
        for column in range(len(MEASURES)):
            x, y = (values[np.isfinite(values[:, column]), column] for values in (a, b))
            if min(len(x), len(y)) >= LEAST_IMAGES and (spread := y.std(ddof=1)) > 0:
                row[column] = wasserstein_distance(x, y) / spread
        parts.append(row)
    known = np.isfinite(parts)
    count = known.sum(axis=0)
    return np.where(known, parts, 0).sum(axis=0) / np.where(count, count, np.nan)


def verdict(table: pd.DataFrame) -> str:
    """Two sentences from the table of `compare`: which measures differ overall, and what the comparison cannot exclude.

    A measure counts as different where the whole interval of its difference lies beyond 0 and beyond the floor's difference, on the same side; the floor's own
    uncertainty is left aside.
    """
    overall = table[table["scope"] == OVERALL].pivot(index="measure", columns="set")
    rows = overall.xs(GENERATED, axis=1, level="set").reindex(list(MEASURES))
    floor = overall["difference"][FLOOR].reindex(rows.index).fillna(0)
    known = rows["difference_low"].notna()
    if not known.any():
        return (
            "Nothing can be said of the vessels: no condition has two generated and two held-out frames with arteries."
        )
    above = rows["difference_low"] > floor.clip(lower=0)
    below = rows["difference_high"] < floor.clip(upper=0)
    unlike = known & (above | below)
    named = rows[unlike].assign(size=rows["difference"].abs()).sort_values("size", ascending=False)
    patients = int(rows["reference_patients"].iloc[0])
    images = int(rows["images"].iloc[0])
    alone = overall["ratio"].get(RECONSTRUCTED, pd.Series(dtype=float))
    if unlike.any():
        listed = "; ".join(
            f"{name} {row['ratio']:.2f} times ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}), {row['difference']:+.1f} SD"
            + (f" (the autoencoder alone: {alone[name]:.2f} times)" if name in alone else "")
            for name, row in named.iterrows()
        )
        first = (
            f"{int(unlike.sum())} of {int(known.sum())} measures of {images} generated frames differ from {patients} held-out patients "
            f"by more than training patients were found to: {listed}."
        )
    else:
        first = (
            f"None of {int(known.sum())} measures of {images} generated frames differs from {patients} held-out patients "
            "by more than training patients were found to."
        )
    rest = rows[known & ~unlike]
    if not len(rest):
        return first
    reach = rest[["difference_low", "difference_high"]].abs().max(axis=1)
    open_to = f"the widest interval of the others reaches {reach.max():.1f} SD ({reach.idxmax()})"
    return f"{first} That the others are equal is not shown: {open_to}; and by chance alone about one in twenty intervals leaves out 0."


# ---- of a run --------------------------------------------------------------------------------------------------------


def measure_run(
    study: Study, images: RunImages, segmenter: Segmenter
) -> tuple[dict[str, np.ndarray], dict[str, Measured]]:
    """Frames [n, H, W] of GENERATED, HELD_OUT and TRAINING that were drawn (`draw`, `plausibility.images` of each), and their measures, by set.

    The held-out ones once more through the autoencoder, as RECONSTRUCTED, where the run has one.
    """
    rng = np.random.default_rng(study.profile.seed)
    looked_at, measured = {}, {}
    for name, table in ((GENERATED, images.asked), (HELD_OUT, images.held_out), (TRAINING, images.rows["train"])):
        chosen = draw(table["cell"], study.profile.plausibility.images, rng)
        some = table.iloc[chosen]
        made = name == GENERATED
        frames = images.generated[chosen] if made else images.frames[some["frame_id"].to_numpy()]
        whose = None if made else some["patient"].to_numpy()
        looked_at[name] = frames
        measured[name] = measure(frames, some["cell"].to_numpy(), segmenter.segment, whose, name)
    if (through := autoencoder.round_trip(study)) is not None:
        of = measured[HELD_OUT]
        looked_at[RECONSTRUCTED] = through(looked_at[HELD_OUT])
        measured[RECONSTRUCTED] = measure(looked_at[RECONSTRUCTED], of.cells, segmenter.segment, of.patients, RECONSTRUCTED)  # fmt: skip
    return looked_at, measured


def draw(cells: np.ndarray, images: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most `images` of the frames whose cells are `cells` [n], equally many a canonical condition where there are so many."""
    return fidelity_distances.draw(np.asarray(cells), images, "balanced", rng)
