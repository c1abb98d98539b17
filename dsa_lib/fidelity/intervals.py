"""How sure a distance is: intervals by subsampling patients, and its extrapolation to endless samples (FID∞).

Frames of a patient are alike, so patients are drawn, never frames. They are drawn *without* replacement, a part of them at a time: a sample with
replacement holds patients twice, its covariance lacks the variation of those left out, and a Fréchet distance, which is biased upwards by every
missing patient, comes out too large; its spread would then be centred on a number that no sample of the study's size gives. A subsample of m of n
patients is a plain smaller sample (Politis & Romano 1994): its statistic varies with variance ∝ 1/m − 1/n around that of all n, and the statistic of all
with ∝ 1/n around its expectation, so that the spread among subsamples times √(m / (n − m)) is the standard error (the delete-d jackknife, Shao & Wu 1989).

FID∞ (Chong & Forsyth 2020): the bias of a Fréchet distance is nearly proportional to 1/N, so the line through distances of growing subsets over 1/N meets
1/N = 0 at the distance of endless samples. Here both sets shrink together, the real one by whole patients, because the number of patients, not of frames,
carries most of the bias.
"""

import numpy as np
import pandas as pd
from scipy import stats

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.statistics import standard_error
from dsa_lib.fidelity.distances import (
    FLOOR,
    LEAST_IMAGES,
    METRICS,
    Comparison,
    ImageSet,
    beside_floor,
    frechet_distance,
    kernel_distances,
    neighbour_scores,
    statistics,
)
from dsa_lib.run.progress import track

LEAST_PATIENTS = 6  # of fewer, leaving one or two out says next to nothing
CONFIDENCE = 0.95
MEDIAN_ERROR = np.sqrt(np.pi / 2)  # of a median against a mean's, normal values
RESAMPLED = ["scope", "set", "replicate", "patients", "of_patients", "images", "reference_images", *METRICS]
COLUMNS = ["scope", "set", "measure", "value", "low", "high", "standard_error", "patients", "line_r2"]
SHARES = ("precision", "recall", "coverage")
NEVER_NEGATIVE = ("distance", "density")


def resample(comparison: Comparison, settings, seed: int, follow: bool = True) -> pd.DataFrame:
    """All metrics of one scope for `settings.subsamples` parts of the patients, and the distance alone for parts of further sizes (for FID∞).

    Every replicate takes m whole patients of the reference, and the same share of each set: of generated images at random, of real ones by whole
    patients. All sets meet the same reference patients, so that their differences are paired. `follow`: the share is taken condition by condition as the
    reference kept it, as `fidelity.evaluate` does with the mix "balanced". Columns RESAMPLED; without rows where a set or the reference has fewer
    than LEAST_PATIENTS patients. A set without patients is one of independent images.
    """
    reference = comparison.reference
    everyone = _patients(reference)
    counted = [everyone, *(_patients(images) for images in comparison.images.values())]
    if min(map(len, counted)) < LEAST_PATIENTS:
        return _typed([])
    sizes = _subset_sizes(len(everyone), settings)
    rows, chosen = [], {name: [] for name in comparison.images}
    what = f"subsamples of patients, {comparison.scope}"
    for replicate, size in enumerate(track(sizes, what=what)):
        rng = np.random.default_rng([seed, replicate])
        kept = np.isin(_owner(reference), rng.choice(everyone, size, replace=False))
        real = reference.at(np.flatnonzero(kept))
        moments = statistics(real.features) if len(real) >= LEAST_IMAGES else None
        for name, images in comparison.images.items():
            positions = _same_share(images, reference.cells, kept, size / len(everyone), follow, rng)
            row = {"scope": comparison.scope, "set": name, "replicate": replicate, "patients": size}
            row |= {"of_patients": len(everyone), "images": len(positions), "reference_images": len(real)}
            row |= dict.fromkeys(METRICS, float("nan"))
            if moments is not None and len(positions) >= LEAST_IMAGES:
                values = images.features[positions]
                row["distance"] = frechet_distance(moments, statistics(values))
                if replicate < settings.subsamples:
                    row |= neighbour_scores(values, real.features, settings.neighbours)
                    chosen[name].append((len(rows), positions, kept))
            rows.append(row)
    for name, members in chosen.items():
        values = _kernel_distances(comparison.images[name], reference, members)
        for (row, *_), value in zip(members, values, strict=True):
            rows[row]["kid"] = value
    return _typed(rows)


def _typed(rows: list[dict]) -> pd.DataFrame:
    # Types are given, because an empty table among others would turn numbers into objects.
    counts = dict.fromkeys(("replicate", "patients", "of_patients", "images", "reference_images"), np.int64)
    return pd.DataFrame(rows, columns=RESAMPLED).astype(counts | dict.fromkeys(METRICS, np.float64))


def _subset_sizes(patients: int, settings) -> list[int]:
    """Patients of each replicate: `subsamples` times `subsample_share` of them; `infinity_repeats` of each size for the line, even in 1/N; then all."""
    part = round(settings.subsample_share * patients)
    others = np.unique(np.round(patients / np.linspace(1, 2, settings.infinity_points)).astype(int))
    return [
        *[part] * settings.subsamples,
        *(int(m) for m in others if m not in (part, patients) for _ in range(settings.infinity_repeats)),
        patients,
    ]


def _owner(images: ImageSet) -> np.ndarray:
    return np.arange(len(images)) if images.patients is None else np.asarray(images.patients)


def _patients(images: ImageSet) -> np.ndarray:
    return np.unique(_owner(images))


def _same_share(
    images: ImageSet, reference_cells: np.ndarray, kept: np.ndarray, share: float, follow: bool, rng
) -> np.ndarray:
    """Positions of a random part of `images`: the `share` of its patients, or images; where `follow`, no more of a cell than the reference kept."""
    owner, patients = _owner(images), _patients(images)
    some = rng.choice(patients, round(share * len(patients)), replace=False)
    if not follow:
        return np.flatnonzero(np.isin(owner, some))
    available = np.isin(owner, some) if images.patients is not None else np.ones(len(images), bool)
    positions = [np.zeros(0, np.int64)]
    for cell in CELLS:
        here = reference_cells == cell
        part = kept[here].mean() if here.any() else share
        members = np.flatnonzero(available & (images.cells == cell))
        wanted = round(part * int((images.cells == cell).sum()))
        positions.append(rng.choice(members, min(wanted, len(members)), replace=False))
    return np.sort(np.concatenate(positions))


def _kernel_distances(images: ImageSet, reference: ImageSet, members: list) -> np.ndarray:
    if not members:
        return np.zeros(0)
    of_images = np.zeros((len(members), len(images)), bool)
    for row, (_, positions, _) in enumerate(members):
        of_images[row, positions] = True
    return kernel_distances(images.features, reference.features, of_images, np.stack([kept for *_, kept in members]))


def infinity(resampled: pd.DataFrame) -> dict[str, float]:
    """FID∞ of one set in one scope: intercept of the least-squares line of the distance over n/m, m the patients of a subset, n all of them.

    `resampled`: its rows of `resample`, that of all patients among them. Distances of equal m are averaged first. Returns `infinity`, the standard error of the
    intercept `infinity_fit_error` and `infinity_r2` (how straight the line is); NaN without at least three sizes.
    """
    names = ("infinity", "infinity_fit_error", "infinity_r2")
    means = resampled.dropna(subset="distance").groupby("patients")["distance"].mean()
    if len(means) < 3:
        return dict.fromkeys(names, float("nan"))
    everyone = resampled["of_patients"].iloc[0]
    line = stats.linregress(everyone / means.index, means)
    return dict(zip(names, (line.intercept, line.intercept_stderr, line.rvalue**2), strict=True))


def intervals(results: pd.DataFrame, resampled: pd.DataFrame, subsamples: int) -> pd.DataFrame:
    """Every metric of `results` (of `fidelity.evaluate`), FID∞ and the excess over the floor with 95 % intervals: one row a scope, set and measure.

    An interval is value ± t · standard error with t of n − 1 degrees of freedom, n the reference patients. The distance's error takes in that of a median of
    few draws; what endless samples take off it is known from the first draw and taken off the median. Around `distance`, `kid` and the scores it
    is one for the expectation at these numbers of patients and images (a distance's bias included), around `infinity` one for endless samples: the bias
    hardly varies, so the distance's error, with that of the line, stands for it. `excess`: the distance less the floor's, for the set that has the
    floor's sizes; its error is that of the paired differences. The first `subsamples` replicates give the errors. NaN where there was nothing to resample.

    Columns COLUMNS; `line_r2`, of `infinity` alone, tells how straight its line is. Intervals end where the measure does (0, and 1 for shares).
    """
    rows = []
    groups = dict(list(resampled.groupby(["scope", "set"])))
    nothing = resampled.iloc[:0]
    for result in results.to_dict("records"):
        scope, name = result["scope"], result["set"]
        mine = groups.get((scope, name), nothing)
        patients = int(mine["of_patients"].iloc[0]) if len(mine) else 0
        t = stats.t.ppf((1 + CONFIDENCE) / 2, patients - 1) if patients else float("nan")
        parts = mine[mine["replicate"] < subsamples].set_index("replicate")
        line = infinity(mine)
        whole = mine.loc[mine["patients"] == mine["of_patients"], "distance"]
        bias = float(whole.iloc[-1]) - line["infinity"] if len(whole) else float("nan")
        values = {metric: result[metric] for metric in METRICS} | {"infinity": result["distance"] - bias}
        errors = {metric: _error(parts, parts[metric]) for metric in METRICS}
        of_draws = MEDIAN_ERROR * result["distance_sd"] / np.sqrt(result["repeats"])
        errors["distance"] = float(np.hypot(errors["distance"], of_draws))
        errors["infinity"] = float(np.hypot(errors["distance"], line["infinity_fit_error"]))
        if name == beside_floor(results):
            values["excess"] = result["excess"]
            others = groups.get((scope, FLOOR), nothing).set_index("replicate")["distance"]
            errors["excess"] = _error(parts, parts["distance"] - others.reindex(parts.index))
        for measure, value in values.items():
            low, high = value - t * errors[measure], value + t * errors[measure]
            low = max(low, 0.0) if measure in (*NEVER_NEGATIVE, *SHARES) else low
            high = min(high, 1.0) if measure in SHARES else high
            r2 = line["infinity_r2"] if measure == "infinity" else float("nan")
            rows.append((scope, name, measure, value, low, high, errors[measure], patients, r2))
    return pd.DataFrame(rows, columns=COLUMNS)


def _error(parts: pd.DataFrame, values: pd.Series) -> float:
    if not len(parts):
        return float("nan")
    return standard_error(values, int(parts["patients"].iloc[0]), int(parts["of_patients"].iloc[0]))


def gaps(intervals: pd.DataFrame) -> list[str]:
    """A sentence naming the scopes of `intervals` that have no interval because their patients are too few; empty where all have one."""
    without = intervals.loc[(intervals["measure"] == "distance") & (intervals["patients"] == 0), "scope"].unique()
    if not len(without):
        return []
    return [
        f"{', '.join(without)}: no interval and no line to endless samples, which need {LEAST_PATIENTS} patients with such frames on either side."
    ]
