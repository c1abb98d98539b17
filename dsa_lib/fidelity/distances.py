"""Distances between generated and real frames: features → statistics → metrics (§2.5, Table 5).

Features come from `fidelity.features`, one row an image, computed once. Everything here is a pure function of feature matrices, in float64, on CUDA where
that is there. Intervals and the extrapolation to endless samples lie in `dsa_lib.fidelity.intervals`.
Fréchet distance: Heusel et al. 2017 (Eq. 6), Dowson & Landau 1982. KID: Bińkowski et al. 2018. Precision and recall: Kynkäänniemi et al. 2019.
Density and coverage: Naeem et al. 2020.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity.extractor import check_features
from dsa_lib.nn.processes import default_device
from dsa_lib.run.errors import StudyError

OVERALL = "overall"
SCOPES = (OVERALL, *CELLS)
MIXES = ("balanced", "as-is")
GENERATED, FLOOR = "generated", "floor"
MATCHED = "generated, sizes of the floor"  # beside GENERATED where that takes all images: only these sizes read beside the floor
SIZES = ("images", "reference_images", "dimension", "rank_deficient")
METRICS = ("distance", "kid", "precision", "recall", "density", "coverage")
LEAST_IMAGES = 2  # a covariance needs two; what fewer than the feature dimension can say is flagged, not refused
BLOCK = 1024  # images whose products with all others are in memory at a time


@dataclass(frozen=True)
class Statistics:
    """Mean [d] and a factor F [r, d] of the unbiased covariance Σ = FᵀF of `images` feature vectors, float64."""

    mean: np.ndarray
    factor: np.ndarray
    images: int

    @property
    def covariance(self) -> np.ndarray:
        return self.factor.T @ self.factor

    @classmethod
    def of_gaussian(cls, mean: np.ndarray, covariance: np.ndarray, images: int) -> "Statistics":
        return cls(np.asarray(mean, np.float64), _factor(_on_device(covariance)), images)


def statistics(features: np.ndarray, what: str = "images") -> Statistics:
    """Mean and covariance of features [n, d]; StudyError for fewer than two images or values that are not finite.

    With no more images than dimensions the centred features themselves are the factor and no covariance is formed; with more, it is summed up in blocks
    of images, so that no float64 copy of all features is made.
    """
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < LEAST_IMAGES:
        raise StudyError(
            f"{what}: {len(features)} images are too few for a covariance, at least {LEAST_IMAGES} are needed"
        )
    check_features(features, what)
    n, d = features.shape
    mean = features.mean(axis=0, dtype=np.float64)
    if n <= d:
        return Statistics(mean, (features - mean) / np.sqrt(n - 1), n)
    centre, covariance = _on_device(mean), torch.zeros(d, d, dtype=torch.float64, device=default_device())
    for start in range(0, n, BLOCK):
        centred = _on_device(features[start : start + BLOCK]) - centre
        covariance += centred.T @ centred
    return Statistics(mean, _factor(covariance / (n - 1)), n)


def _factor(covariance: torch.Tensor) -> np.ndarray:
    """F with FᵀF = covariance: Cholesky's, or by eigenvalues where a channel is dead or depends on others."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return lower.T.cpu().numpy()
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(torch.float64).eps
    return (values[kept].sqrt()[:, None] * vectors[:, kept].T).cpu().numpy()


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """‖μa − μb‖² + tr(Σa + Σb − 2 (Σa Σb)^½), the squared Fréchet distance of two Gaussians.

    tr (Σa Σb)^½ is the sum of the singular values of Fa Fbᵀ: with Σ = FᵀF the matrices Σa Σb and (Fa Fbᵀ)(Fa Fbᵀ)ᵀ have the same non-zero eigenvalues.
    That stays real and exact where a covariance is rank-deficient, and is small where images are few.
    """
    if a.mean.shape != b.mean.shape:
        raise StudyError(
            f"features of {a.mean.size} and {b.mean.size} dimensions cannot be compared: compute both with the same extractor"
        )
    shift = a.mean - b.mean
    first, second = (_on_device(side.factor) for side in (a, b))
    cross = float(torch.linalg.svdvals(first @ second.T).sum()) if min(len(first), len(second)) else 0.0
    return float(max(shift @ shift + (a.factor**2).sum() + (b.factor**2).sum() - 2 * cross, 0.0))


def kernel_distance(
    a: np.ndarray, b: np.ndarray, subset: int = 1000, subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """KID: the unbiased squared MMD with kernel (x·y/d + 1)³, mean and standard deviation over random subsets.

    Where neither set exceeds `subset` images both are used whole, once (standard deviation NaN). Unlike the Fréchet distance its expectation does not depend on
    the number of images; it can be slightly negative where the sets are alike. NaN with fewer than two images a set.
    """
    if min(len(a), len(b)) < 2:
        return float("nan"), float("nan")
    if max(len(a), len(b)) <= subset:
        return float(kernel_distances(a, b, np.ones((1, len(a)), bool), np.ones((1, len(b)), bool))[0]), float("nan")
    rng = np.random.default_rng(seed)
    size = min(subset, len(a), len(b))
    chosen = [np.zeros((subsets, len(x)), bool) for x in (a, b)]
    for row in range(subsets):
        for members in chosen:
            members[row, rng.choice(members.shape[1], size, replace=False)] = True
    values = kernel_distances(a, b, *chosen)
    return float(np.mean(values)), float(np.std(values))


def kernel_distances(a: np.ndarray, b: np.ndarray, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
    """Unbiased squared MMD, as in `kernel_distance`, of many subsets at once: of_a [s, n] and of_b [s, m] mark which images each subset has.

    The kernel of every pair of images is computed once, in blocks, and summed for all subsets together: a hundred of them cost little more than one.
    """
    a, b, of_a, of_b = (_on_device(x) for x in (a, b, of_a, of_b))

    def sums(x, y, of_x, of_y, same=False):
        total, diagonal = torch.zeros(2, len(of_x), dtype=torch.float64, device=x.device)
        for start in range(0, len(x), BLOCK):
            kernel = (x[start : start + BLOCK] @ y.T / x.shape[1] + 1) ** 3
            members = of_x[:, start : start + BLOCK]
            total += ((members @ kernel) * of_y).sum(1)
            if same:
                diagonal += members @ kernel.diagonal(start)
        return total - diagonal

    n, m = of_a.sum(1), of_b.sum(1)
    within = sums(a, a, of_a, of_a, same=True) / (n * (n - 1)) + sums(b, b, of_b, of_b, same=True) / (m * (m - 1))
    return (within - 2 * sums(a, b, of_a, of_b) / (n * m)).cpu().numpy()


def neighbour_scores(generated: np.ndarray, real: np.ndarray, neighbours: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage with balls that reach to the k-th nearest neighbour within a set.

    Precision: share of generated images inside some real ball. Recall: share of real images inside some generated ball. Density: real balls around a
    generated image, over k (expected 1 for equal distributions, not bounded by 1). Coverage: share of real balls that hold a generated image.
    NaN where a set has no more than `neighbours` images.
    """
    names = METRICS[2:]
    if min(len(generated), len(real)) <= neighbours:
        return dict.fromkeys(names, float("nan"))
    fake, true = _on_device(generated), _on_device(real)
    fake_radius, true_radius = _ball_radius(fake, neighbours), _ball_radius(true, neighbours)
    plausible, balls = 0, 0
    covered, recalled = torch.zeros(2, len(true), dtype=torch.bool, device=true.device)
    for start in range(0, len(fake), BLOCK):
        distance = torch.cdist(fake[start : start + BLOCK], true)
        inside = distance <= true_radius
        plausible += int(inside.any(1).sum())
        balls += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (distance <= fake_radius[start : start + BLOCK, None]).any(0)
    return {
        "precision": plausible / len(fake),
        "recall": float(recalled.double().mean()),
        "density": balls / len(fake) / neighbours,
        "coverage": float(covered.double().mean()),
    }


def _ball_radius(x: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Distance of every row to its k-th nearest other row."""
    blocks = [
        torch.cdist(x[start : start + BLOCK], x).kthvalue(neighbours + 1).values for start in range(0, len(x), BLOCK)
    ]
    return torch.cat(blocks)


def _on_device(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values)).to(default_device(), torch.float64)


# ---- which real frames are compared with -----------------------------------------------------------------------------------------------------


def draw(cells: np.ndarray, images: int | Mapping[str, int], mix: str, rng: np.random.Generator) -> np.ndarray:
    """Positions of a random draw, without replacement, from frames whose cells are `cells` [n]; only the four canonical cells are drawn from.

    `mix`: "balanced" draws equally many a cell (or the numbers that a mapping gives), "as-is" draws from all of them alike, which keeps the archive's
    own proportions. A cell that holds fewer gives all it has; the counts are reported, never filled up from elsewhere.
    """
    if mix not in MIXES:
        raise StudyError(f"fidelity.reference_mix {mix!r} is not one of {', '.join(MIXES)}")
    cells = np.asarray(cells)
    canonical = np.flatnonzero(np.isin(cells, CELLS))
    if mix == "as-is":
        return np.sort(rng.choice(canonical, min(images, len(canonical)), replace=False))
    wanted = images if isinstance(images, Mapping) else {cell: images // len(CELLS) for cell in CELLS}
    chosen = [np.zeros(0, dtype=np.int64)]
    for cell in CELLS:
        members = np.flatnonzero(cells == cell)
        chosen.append(rng.choice(members, min(wanted.get(cell, 0), len(members)), replace=False))
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class ImageSet:
    """One set of images: features [n, d], the cell of each [n], and the patient of each [n] where they are real."""

    features: np.ndarray
    cells: np.ndarray
    patients: np.ndarray | None = None

    def at(self, positions: np.ndarray) -> "ImageSet":
        return ImageSet(
            self.features[positions],
            self.cells[positions],
            None if self.patients is None else self.patients[positions],
        )

    def within(self, scope: str) -> "ImageSet":
        """The images of one cell, or of all four (`overall`)."""
        return self.at(np.flatnonzero(np.isin(self.cells, CELLS) if scope == OVERALL else self.cells == scope))

    def scope(self, name: str) -> np.ndarray:
        """Features of one cell, or of all four (`overall`)."""
        return self.within(name).features

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Comparison:
    """What one draw compares in one scope: every set of `images`, by name, against the same `reference`."""

    scope: str
    reference: ImageSet
    images: dict[str, ImageSet]


def comparisons(
    generated: ImageSet, held_out: ImageSet, training: ImageSet, settings, seed: int, repeat: int = 0
) -> Iterator[Comparison]:
    """What draw number `repeat` of `evaluate` compares: one scope after the other, so that one scope's features are copied at a time."""
    usable = {cell: _usable(generated, training, cell) for cell in CELLS}
    rng = np.random.default_rng([seed, repeat])
    reference = held_out.at(draw(held_out.cells, settings.real_images, settings.reference_mix, rng))
    pools = {GENERATED: generated, FLOOR: training}
    taken = {name: pool.at(draw(pool.cells, usable, "balanced", rng)) for name, pool in pools.items()}
    balanced = settings.reference_mix == "balanced"
    overall = matched_counts(usable, reference.cells) if balanced else usable
    for scope in SCOPES:
        images = {}
        for name, pool in taken.items():
            chosen = pool.at(draw(pool.cells, overall, "balanced", rng)) if scope == OVERALL else pool
            images[name] = chosen.within(scope)
        if not balanced:
            images = {GENERATED: generated.within(scope), MATCHED: images[GENERATED], FLOOR: images[FLOOR]}
        yield Comparison(scope, reference.within(scope), images)


def beside_floor(results: pd.DataFrame) -> str:
    """The set of `evaluate` that has the floor's sizes, and may therefore be compared with it."""
    return MATCHED if (results["set"] == MATCHED).any() else GENERATED


def _usable(generated: ImageSet, training: ImageSet, cell: str) -> int:
    """How many images of `cell` are compared: what both sets have, or all generated ones where there is no floor."""
    made, real = (int((images.cells == cell).sum()) for images in (generated, training))
    return min(made, real) if real >= LEAST_IMAGES else made


def matched_counts(available: Mapping[str, int], reference_cells: np.ndarray) -> dict[str, int]:
    """The largest counts a cell, of those `available`, that keep the proportions of the reference (cells without a reference frame: none)."""
    wanted = {cell: int((reference_cells == cell).sum()) for cell in CELLS}
    shares = [available[cell] / count for cell, count in wanted.items() if count]
    scale = min(shares, default=0.0)
    return {cell: int(scale * count) for cell, count in wanted.items()}
