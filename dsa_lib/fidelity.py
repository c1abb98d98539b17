"""Distances between generated and real frames: features → statistics → metrics (§2.5, Table 5).

Features come from `dsa_lib.features`, one row an image, computed once. Everything here is a pure function of feature matrices, in float64.
Fréchet distance: Heusel et al. 2017 (Eq. 6), Dowson & Landau 1982. KID: Bińkowski et al. 2018. Precision and recall: Kynkäänniemi et al. 2019.
Density and coverage: Naeem et al. 2020.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from dsa_lib.conditions import CELLS
from dsa_lib.errors import StudyError
from dsa_lib.features import FID, check_features
from dsa_lib.progress import track

OVERALL = "overall"
SCOPES = (OVERALL, *CELLS)
MIXES = ("balanced", "as-is")
GENERATED, FLOOR = "generated", "floor"
MATCHED = "generated, sizes of the floor"  # beside GENERATED where that takes all images: only these sizes read beside the floor
SIZES = ("images", "reference_images", "dimension", "rank_deficient")
METRICS = ("distance", "kid", "precision", "recall", "density", "coverage")
LEAST_IMAGES = 2  # a covariance needs two; what fewer than the feature dimension can say is flagged, not refused


@dataclass(frozen=True)
class Statistics:
    """Mean [d] and covariance [d, d] (unbiased) of `images` feature vectors, float64."""

    mean: np.ndarray
    covariance: np.ndarray
    images: int

    @cached_property
    def factor(self) -> np.ndarray:
        """F [r, d] with covariance = FᵀF, r its numerical rank: fewer images than dimensions leave r ≤ images − 1 rows."""
        values, vectors = np.linalg.eigh(self.covariance)
        kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
        return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def statistics(features: np.ndarray, what: str = "images") -> Statistics:
    """Mean and covariance of features [n, d]; StudyError for fewer than two images or values that are not finite."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < LEAST_IMAGES:
        raise StudyError(
            f"{what}: {len(features)} images are too few for a covariance, at least {LEAST_IMAGES} are needed"
        )
    check_features(features, what)
    return Statistics(
        features.mean(axis=0), np.cov(features, rowvar=False, ddof=1).reshape(features.shape[1], -1), len(features)
    )


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """‖μa − μb‖² + tr(Σa + Σb − 2 (Σa Σb)^½), the squared Fréchet distance of two Gaussians.

    tr (Σa Σb)^½ is taken as the sum of root eigenvalues of the symmetric F Σb Fᵀ (Σa = FᵀF), which has the same non-zero eigenvalues as Σa Σb but
    stays real and stable where a covariance is rank-deficient, that is where there are fewer images than feature dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise StudyError(
            f"features of {a.mean.size} and {b.mean.size} dimensions cannot be compared: compute both with the same extractor"
        )
    shift = a.mean - b.mean
    values = np.linalg.eigvalsh(a.factor @ b.covariance @ a.factor.T) if len(a.factor) else np.zeros(1)
    cross = np.sqrt(np.clip(values, 0, None)).sum()
    return float(max(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross, 0.0))


def kernel_distance(
    a: np.ndarray, b: np.ndarray, subset: int = 1000, subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """KID: the unbiased squared MMD with kernel (x·y/d + 1)³, mean and standard deviation over random subsets.

    Where neither set exceeds `subset` images both are used whole, once (standard deviation NaN). Unlike the Fréchet distance its expectation does not depend on
    the number of images; it can be slightly negative where the sets are alike.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if max(len(a), len(b)) <= subset:
        return _mmd2(a, b), float("nan")
    rng = np.random.default_rng(seed)
    size = min(subset, len(a), len(b))
    values = [
        _mmd2(a[rng.choice(len(a), size, replace=False)], b[rng.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def _mmd2(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def off_diagonal_mean(matrix):
        n = len(matrix)
        return (matrix.sum() - np.trace(matrix)) / (n * (n - 1))

    return float(off_diagonal_mean(kernel(a, a)) + off_diagonal_mean(kernel(b, b)) - 2 * kernel(a, b).mean())


def neighbour_scores(generated: np.ndarray, real: np.ndarray, neighbours: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage with balls that reach to the k-th nearest neighbour within a set.

    Precision: share of generated images inside some real ball. Recall: share of real images inside some generated ball. Density: real balls around a
    generated image, over k (expected 1 for equal distributions, not bounded by 1). Coverage: share of real balls that hold a generated image.
    NaN where a set has no more than `neighbours` images.
    """
    names = ("precision", "recall", "density", "coverage")
    if min(len(generated), len(real)) <= neighbours:
        return dict.fromkeys(names, float("nan"))
    fake, true = (torch.as_tensor(np.asarray(x, np.float64)) for x in (generated, real))
    fake_radius, true_radius = _ball_radius(fake, neighbours), _ball_radius(true, neighbours)
    inside_some, inside_count = [], []
    covered = torch.zeros(len(true), dtype=torch.bool)
    recalled = torch.zeros(len(true), dtype=torch.bool)
    for start in range(0, len(fake), 1024):  # in blocks: memory stays flat in the number of images
        block = torch.cdist(fake[start : start + 1024], true)
        inside = block <= true_radius
        inside_some.append(inside.any(1))
        inside_count.append(inside.sum(1))
        covered |= inside.any(0)
        recalled |= (block <= fake_radius[start : start + 1024, None]).any(0)
    precision = torch.cat(inside_some).double().mean()
    density = torch.cat(inside_count).double().mean() / neighbours
    return dict(
        zip(names, map(float, (precision, recalled.double().mean(), density, covered.double().mean())), strict=True)
    )


def _ball_radius(x: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Distance of every row to its k-th nearest other row."""
    blocks = [
        torch.cdist(x[start : start + 1024], x).kthvalue(neighbours + 1).values for start in range(0, len(x), 1024)
    ]
    return torch.cat(blocks)


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

    def scope(self, name: str) -> np.ndarray:
        """Features of one cell, or of all four (`overall`)."""
        return self.features[np.isin(self.cells, CELLS) if name == OVERALL else self.cells == name]


def check_sets(generated_cells: np.ndarray, held_out: pd.DataFrame, training: pd.DataFrame) -> None:
    """Before the long part: enough images, and no patient in both the held-out and the training frames (columns cell, patient)."""
    for what, cells in (("generated images", generated_cells), ("held-out real frames", held_out["cell"])):
        count = int(np.isin(np.asarray(cells), CELLS).sum())
        if count < LEAST_IMAGES:
            raise StudyError(
                f"there are {count} {what} in the four canonical conditions, and a distance needs at least {LEAST_IMAGES}: use a larger archive or profile"
            )
    shared = set(held_out["patient"]) & set(training["patient"])
    if shared:
        raise StudyError(
            f"{len(shared)} patients are both in the training and in the held-out frames: run notebooks/01_curation.ipynb again"
        )


def evaluate(generated: ImageSet, held_out: ImageSet, training: ImageSet, settings, seed: int) -> pd.DataFrame:
    """All metrics of the generated images and of the floor, overall and per condition.

    `settings` is the profile's `fidelity` section. Every repeat draws a reference from `held_out` (`real_images`, `reference_mix`), and equally many
    generated images and, for the floor, real training frames (other patients than the reference). The floor is what a generator would score that
    hands out real frames of the training patients; its sizes are the same because a Fréchet distance depends on them. Per condition as many images
    are taken as both sets have. Overall, with the mix "balanced", both follow the reference's counts, so that a condition of which few held-out
    frames exist does not read as a difference of the images; with "as-is" they keep the generated set's own mix.

    With "as-is" the set "generated" is every generated image, as in §2.5 (10,000 against 5,000), and the images that go with the floor are a set of
    their own, "generated, sizes of the floor"; with "balanced" the set "generated" goes with the floor (`beside_floor` tells which).

    Returns one row a scope and set: `distance` is the median over repeats, `distance_low` and `distance_high` its extremes; the other
    metrics are of the first draw. `rank_deficient` marks sets no larger than the feature dimension: their Fréchet distance is biased upwards and reads
    only beside the floor.
    """
    usable = {cell: _usable(generated, training, cell) for cell in CELLS}
    rows = []
    for repeat in track(range(settings.repeats), what="draws of the reference"):
        rng = np.random.default_rng([seed, repeat])
        reference = held_out.at(draw(held_out.cells, settings.real_images, settings.reference_mix, rng))
        pools = {GENERATED: generated, FLOOR: training}
        taken = {name: pool.at(draw(pool.cells, usable, "balanced", rng)) for name, pool in pools.items()}
        balanced = settings.reference_mix == "balanced"
        overall = matched_counts(usable, reference.cells) if balanced else usable
        for scope in SCOPES:
            real = reference.scope(scope)
            moments = statistics(real) if len(real) >= LEAST_IMAGES else None
            compared = {}
            for name, images in taken.items():
                chosen = images.at(draw(images.cells, overall, "balanced", rng)) if scope == OVERALL else images
                compared[name] = chosen.scope(scope)
            if not balanced:
                compared = {GENERATED: generated.scope(scope), MATCHED: compared[GENERATED], FLOOR: compared[FLOOR]}
            for name, values in compared.items():
                row = {"scope": scope, "set": name, **_sizes(values, real), "distance": float("nan")}
                if moments is not None and len(values) >= LEAST_IMAGES:
                    row["distance"] = frechet_distance(moments, statistics(values))
                    if repeat == 0:
                        row |= _further(values, real, settings, seed)
                rows.append(row)
    return _summary(pd.DataFrame(rows, columns=["scope", "set", *SIZES, *METRICS]))


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


def _sizes(images: np.ndarray, reference: np.ndarray) -> dict[str, int | bool]:
    dimension = images.shape[1]
    deficient = min(len(images), len(reference)) <= dimension
    return dict(zip(SIZES, (len(images), len(reference), dimension, deficient), strict=True))


def _further(images: np.ndarray, reference: np.ndarray, settings, seed: int) -> dict[str, float]:
    kid, _ = kernel_distance(images, reference, settings.kid_subset, settings.kid_subsets, seed)
    return {"kid": kid} | neighbour_scores(images, reference, settings.neighbours)


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby(["scope", "set"], sort=False)
    table = groups[[*SIZES, *METRICS]].first()  # the first draw; sizes are the same in all
    table["distance"] = groups["distance"].median()
    table["distance_low"], table["distance_high"] = groups["distance"].min(), groups["distance"].max()
    table["repeats"] = groups.size()
    return table.reset_index()


def table5_cells(results: pd.DataFrame, extractor_name: str, distance: str) -> dict[tuple[str, str], float]:
    """This run's cells of Table 5.

    Only an Inception distance stands where the paper's does (row "Ours", column "FID"). A distance in other features has a row and column of its own name.
    """
    value = results.set_index(["scope", "set"])["distance"]
    published_row = distance == FID
    whole = "Ours" if published_row else f"This run ({distance}, {extractor_name.replace('-', ' ')})"
    cells = {(whole, distance): value[OVERALL, GENERATED]}
    cells |= {
        (f"{'Ours' if published_row else 'This run'}, {cell}", distance): value[cell, GENERATED] for cell in CELLS
    }
    if beside_floor(results) == MATCHED:
        cells[f"{whole}, sizes of the floor", distance] = value[OVERALL, MATCHED]
    return cells | {("Floor: training against held-out frames", distance): value[OVERALL, FLOOR]}
