"""Tests of copying on distances to training frames: AuthPct, C_T, the same with frames clustered by patient, and an exceedance test for single near copies.

Held-out frames of one patient are not independent: two hundred of them can be worth a dozen. C_T as published takes them as independent. What decides here is
therefore `nearer_test`, whose variance comes from patients, and `exceedance_test`, which counts frames at their measured worth.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import gammaln

from dsa_lib.run.errors import StudyError

LEAST_PATIENTS = 4  # a variance between fewer held-out patients says nothing: no test then
LEAST_IN_CELL = 3  # images of each kind that a cell of the partition needs


def auth_pct(distance: np.ndarray, neighbour_distance: np.ndarray) -> float:
    """AuthPct in percent (Alaa et al. 2022, §3, "authenticity"): share of images farther from their nearest training frame than that frame from the next.

    `distance` [m]: from an image to its nearest training frame; `neighbour_distance` [m]: from that frame to its own nearest other training frame.
    """
    if len(distance) == 0:
        raise StudyError("AuthPct of no image: generate some first")
    return 100 * float((np.asarray(distance) > np.asarray(neighbour_distance)).mean())


def c_t(generated: np.ndarray, held_out: np.ndarray, generated_cells: np.ndarray, held_out_cells: np.ndarray) -> float:
    """C_T of Meehan, Chaudhuri & Dasgupta (2020, §4): mean over cells of the z of Mann and Whitney's U, weighted by the held-out images of a cell.

    `generated` [m], `held_out` [n]: distances to the nearest training frame; cells name where each lies in a partition (there k-means, here the
    conditions). Far below 0: generated images are nearer to training frames than held-out ones. All images count as independent. NaN where no
    cell has LEAST_IN_CELL of both.
    """
    z, weight = [], []
    for a, b in _cells(generated, held_out, generated_cells, held_out_cells):
        m, n = len(a), len(b)
        u = stats.rankdata(np.concatenate([a, b]))[:m].sum() - m * (m + 1) / 2
        z.append((u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))
        weight.append(n)
    return float(np.average(z, weights=weight)) if z else float("nan")


def _cells(a, b, a_cells, b_cells):
    a, b, a_cells, b_cells = map(np.asarray, (a, b, a_cells, b_cells))
    for cell in np.unique(b_cells):
        pair = a[a_cells == cell], b[b_cells == cell]
        if min(map(len, pair)) >= LEAST_IN_CELL:
            yield pair


@dataclass(frozen=True)
class Nearer:
    """`farther`: probability that a generated image is farther from its nearest training frame than a held-out one of its condition (½: alike).

    `p`: one-sided, of ½ or more; NaN where it could not be tested. `worth`: how many independent held-out frames the clustered ones amount to.
    """

    farther: float
    p: float
    worth: float


def nearer_test(
    generated: np.ndarray,
    held_out: np.ndarray,
    generated_cells: np.ndarray,
    held_out_cells: np.ndarray,
    held_out_patients: np.ndarray,
    generated_patients: np.ndarray | None = None,
) -> Nearer:
    """Are generated images nearer to training frames than held-out ones? Mann and Whitney's U in cells, its variance taken between patients.

    The probability that a generated image is the farther one, in each cell, weighted by held-out images as C_T is. Its variance is that of Obuchowski (1997,
    Eq. 4: a patient's placements are summed, and the sums vary between patients), summed over cells before squaring because a patient has
    frames in several; t distribution with Satterthwaite's degrees of freedom. Generated images are independent, given the model, unless
    `generated_patients` says whose they are (frames of real patients in their place).
    """
    generated, held_out = np.asarray(generated, float), np.asarray(held_out, float)
    generated_cells, held_out_cells = np.asarray(generated_cells), np.asarray(held_out_cells)
    usable = [
        cell
        for cell in np.unique(held_out_cells)
        if min((generated_cells == cell).sum(), (held_out_cells == cell).sum()) >= LEAST_IN_CELL
    ]
    kept, mine = np.isin(held_out_cells, usable), np.isin(generated_cells, usable)
    if not usable:
        return Nearer(float("nan"), float("nan"), 0.0)
    total, farther = kept.sum(), 0.0
    of_held_out, of_generated = np.zeros(len(held_out)), np.zeros(len(generated))
    for cell in usable:
        a, b = np.flatnonzero(generated_cells == cell), np.flatnonzero(held_out_cells == cell)
        sign = 0.5 + 0.5 * np.sign(generated[a][:, None] - held_out[b][None, :])
        share, weight = sign.mean(), len(b) / total
        farther += weight * share
        of_generated[a] = weight * (sign.mean(axis=1) - share) / len(a)
        of_held_out[b] = weight * (sign.mean(axis=0) - share) / len(b)
    images = np.arange(len(generated)) if generated_patients is None else np.asarray(generated_patients)
    variance, single, freedom = {}, {}, {}
    for name, parts, groups in (
        ("held-out", of_held_out[kept], np.asarray(held_out_patients)[kept]),
        ("generated", of_generated[mine], images[mine]),
    ):
        _, group = np.unique(groups, return_inverse=True)
        count = group.max() + 1
        sums = np.bincount(group, weights=parts)
        variance[name] = count / max(count - 1, 1) * (sums**2).sum()
        single[name] = len(parts) / max(len(parts) - 1, 1) * (parts**2).sum()
        freedom[name] = count - 1
    worth = total * min(single["held-out"] / variance["held-out"], 1.0) if variance["held-out"] > 0 else float(total)
    if min(freedom.values()) + 1 < LEAST_PATIENTS:
        return Nearer(float(farther), float("nan"), float(worth))
    both = sum(variance.values())
    if both == 0:  # every generated image nearer than every held-out one, or the other way round
        return Nearer(
            float(farther), _complete(farther, freedom["held-out"] + 1, freedom["generated"] + 1), float(worth)
        )
    degrees = both**2 / sum(variance[name] ** 2 / freedom[name] for name in variance)
    return Nearer(float(farther), float(stats.t.cdf((farther - 0.5) / np.sqrt(both), degrees)), float(worth))


def _complete(farther: float, patients: int, images: int) -> float:
    """p where the two sets do not overlap, so that no variance can be had: by exchange of patients and images, 1 / (number of orders)."""
    if farther > 0.5:
        return 1.0
    return float(np.exp(gammaln(patients + 1) + gammaln(images + 1) - gammaln(patients + images + 1)))


def worth(values: np.ndarray, patients: np.ndarray) -> float:
    """How many independent images the n of `values`, of which `patients` [n] have several each, amount to: n / (1 + (k − 1) ICC).

    ICC: the intraclass correlation of one-way analysis of variance (not below 0); k = Σ n_p² / n, the mean number of frames in the patient of a
    frame (Kish 1965, §8.2).
    """
    values = np.asarray(values, float)
    _, group = np.unique(patients, return_inverse=True)
    sizes = np.bincount(group)
    n, count = len(values), len(sizes)
    if count < 2 or n == count:
        return float(count)
    means = np.bincount(group, weights=values) / sizes
    between = (sizes * (means - values.mean()) ** 2).sum() / (count - 1)
    within = ((values - means[group]) ** 2).sum() / (n - count)
    common = (n - (sizes**2).sum() / n) / (count - 1)
    spread = between + (common - 1) * within
    icc = max((between - within) / spread, 0.0) if spread > 0 else 0.0
    return float(n / (1 + ((sizes**2).sum() / n - 1) * icc))


def exceedance_test(
    generated: np.ndarray, reference: np.ndarray, patients: np.ndarray, generated_patients: np.ndarray | None = None
) -> tuple[int, float, float]:
    """How many generated images lie below the smallest `reference` value, how likely so many are by chance, and that smallest value.

    Were all alike and independent, the k smallest of m + n values would all be generated ones with probability C(m + n − k, n) / C(m + n, n), the
    precedence test of Nelson (1963). n is here the `worth` of the reference values (on the log scale), less than their number where patients have
    several; so are m and k where `generated_patients` says whose the generated ones are. p and limit are NaN with fewer than LEAST_PATIENTS patients.
    """
    generated, reference = np.asarray(generated, float), np.asarray(reference, float)
    if len(np.unique(patients)) < LEAST_PATIENTS:
        return int((generated < reference.min()).sum()) if len(reference) else 0, float("nan"), float("nan")
    limit = float(reference.min())
    m, k = len(generated), int((generated < limit).sum())
    n = worth(np.log(np.maximum(reference, 1e-9)), patients)
    share = 1.0 if generated_patients is None else worth(np.log(np.maximum(generated, 1e-9)), generated_patients) / m
    counted, below = share * m, share * k
    log_p = (
        gammaln(counted + n - below + 1)
        - gammaln(counted - below + 1)
        - gammaln(counted + n + 1)
        + gammaln(counted + 1)
    )
    return k, float(np.exp(log_p)), limit
