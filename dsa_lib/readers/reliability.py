"""Inter-rater reliability: ICC(2,1) and ICC(2,k), two-way random effects, absolute agreement (paper §2.4, Table 4).

Model (Shrout & Fleiss 1979, case 2): rating y_ij of image i by rater j is mu + image_i + rater_j + error_ij, images and
raters both random. With the mean squares of images (MSR), raters (MSC) and error (MSE), n images and k raters:

    ICC(2,1) = (MSR - MSE) / (MSR + (k-1) MSE + k (MSC - MSE) / n)
    ICC(2,k) = (MSR - MSE) / (MSR + (MSC - MSE) / n)

McGraw & Wong (1996) call them ICC(A,1) and ICC(A,k). Everything here is arrays in, numbers out; images and files are the
business of `dsa_lib.readers.tables`.

Sources: Shrout & Fleiss, Psychol Bull 86 (1979) 420-428; McGraw & Wong, Psychol Methods 1 (1996) 30-46, Tables 4 and 7.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from dsa_lib.core.statistics import times_drawn

NAN_PAIR = (float("nan"), float("nan"))


class MeanSquares(NamedTuple):
    """Two-way mean squares (one rating per cell); each field is a scalar or an array over resamples."""

    images: np.ndarray  # MSR, n-1 degrees of freedom
    raters: np.ndarray  # MSC, k-1
    error: np.ndarray  # MSE, (n-1)(k-1)


@dataclass(frozen=True)
class Reliability:
    """ICC(2,1) and ICC(2,k) of one table of ratings with their 95 % intervals.

    `reason` is empty when both coefficients are defined; otherwise the coefficients it concerns are NaN and it says why.
    """

    n_images: int
    k_raters: int
    single: float = float("nan")
    average: float = float("nan")
    single_ci: tuple[float, float] = NAN_PAIR
    average_ci: tuple[float, float] = NAN_PAIR
    single_boot: tuple[float, float] = NAN_PAIR
    average_boot: tuple[float, float] = NAN_PAIR
    f_value: float = float("nan")
    p_value: float = float("nan")
    reason: str = ""


def complete_cases(ratings: np.ndarray) -> np.ndarray:
    """The images every rater rated: [n, k] with NaN for missing -> [m, k] without NaN, m <= n."""
    ratings = np.asarray(ratings, dtype=float)
    return ratings[~np.isnan(ratings).any(axis=1)] if ratings.size else ratings.reshape(0, ratings.shape[1])


def mean_squares(ratings: np.ndarray, weights: np.ndarray | None = None) -> MeanSquares:
    """Mean squares of complete ratings [n, k]; with `weights` [B, n] (how often image i was drawn) of B resamples at once.

    All sums of squares of a resample are weighted sums over images of the row mean, its square, the row's sum of squares
    and the k ratings, so that B resamples cost one matrix product [B, n] x [n, k+3]. Every row of `weights` sums to n.
    """
    n, k = ratings.shape
    centred = ratings - ratings.mean()  # the grand mean carries no information and would cost digits
    row_mean = centred.mean(axis=1)
    per_image = np.column_stack([row_mean, row_mean**2, (centred**2).sum(axis=1), centred])
    weights = np.ones((1, n)) if weights is None else weights
    sums = weights @ per_image
    grand_square = (sums[:, 0] / n) ** 2
    ss_images = k * (sums[:, 1] - n * grand_square)
    ss_raters = (sums[:, 3:] ** 2).sum(axis=1) / n - n * k * grand_square
    ss_total = sums[:, 2] - n * k * grand_square
    # Differences of nearly equal sums: what is left below rounding is zero, else a constant table would show an ICC.
    floor = 1e-12 * max(float((centred**2).sum()), 1e-300)
    clean = [np.where(ss > floor, ss, 0.0) for ss in (ss_images, ss_raters, ss_total - ss_images - ss_raters)]
    return MeanSquares(clean[0] / (n - 1), clean[1] / (k - 1), clean[2] / ((n - 1) * (k - 1)))


def coefficients(ms: MeanSquares, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """ICC(2,1) and ICC(2,k) from mean squares (scalars or arrays); NaN where a denominator is not positive.

    The denominator of ICC(2,1) vanishes only when all ratings are equal. That of ICC(2,k) can also turn negative, when
    MSR + MSC/n < MSE/n: the raters then agree less than chance and a mean over raters has no reliability to speak of.
    """
    numerator = ms.images - ms.error
    below_single = ms.images + (k - 1) * ms.error + k * (ms.raters - ms.error) / n
    below_average = ms.images + (ms.raters - ms.error) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        single = np.where(below_single > 0, numerator / below_single, np.nan)
        average = np.where(below_average > 0, numerator / below_average, np.nan)
    return single, average


def single_interval(ms: MeanSquares, n: int, k: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of ICC(2,1) by the F method with Satterthwaite degrees of freedom (McGraw & Wong, Table 7).

    Equal ratings within every image (MSC = MSE = 0) leave nothing to be uncertain about: the interval is (1, 1). Agreement
    so far below chance that the approximation has no degrees of freedom gives (NaN, NaN).
    """
    low, high = single_intervals(MeanSquares(*(np.asarray([float(x)]) for x in ms)), n, k, level)
    return float(low[0]), float(high[0])


def single_intervals(ms: MeanSquares, n: int, k: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """`single_interval` of many tables at once: mean squares are arrays, so are the two bounds."""
    msr, msc, mse = (np.asarray(x, float) for x in ms)
    rho = coefficients(MeanSquares(msr, msc, mse), n, k)[0]
    # a and b of McGraw & Wong, both multiplied by n(1-rho) so that rho = 1 needs no case of its own.
    a_msc = k * rho * msc
    b_mse = (n * (1 - rho) + k * rho * (n - 1)) * mse
    spread = a_msc**2 / (k - 1) + b_mse**2 / ((n - 1) * (k - 1))
    tail = 1 - (1 - level) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        df_error = np.where(spread > 0, (a_msc + b_mse) ** 2 / spread, np.nan)
        f_low = stats.f.ppf(tail, n - 1, df_error)
        f_high = stats.f.ppf(tail, df_error, n - 1)
        noise = k * msc + (k * n - k - n) * mse
        low = n * (msr - f_low * mse) / (f_low * noise + n * msr)
        high = n * (f_high * msr - mse) / (noise + n * f_high * msr)
    agree = (msc == 0) & (mse == 0)
    return np.where(agree, 1.0, low), np.where(agree, 1.0, high)


def spearman_brown(single, k: int):
    """Reliability of the mean of k raters from that of one: k r / (1 + (k-1) r); NaN where the denominator is <= 0."""
    single = np.asarray(single, float)
    denominator = 1 + (k - 1) * single
    with np.errstate(divide="ignore", invalid="ignore"):
        average = np.where(denominator > 0, k * single / denominator, np.nan)
    return average if average.ndim else float(average)


def bootstrap(ratings: np.ndarray, resamples: int, seed: int, chunk: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """ICC(2,1) and ICC(2,k) of `resamples` resamples of the images of complete ratings [n, k]; two arrays [resamples].

    Images are drawn with replacement, their k ratings staying together; raters are kept. Resamples without variance
    give NaN.
    """
    n, k = ratings.shape
    rng = np.random.default_rng(seed)
    single, average = [], []
    for start in range(0, resamples, chunk):
        b = min(chunk, resamples - start)
        weights = times_drawn(n, b, rng, one_by_one=True).astype(float)
        one, mean_of_k = coefficients(mean_squares(ratings, weights), n, k)
        single.append(one)
        average.append(mean_of_k)
    return np.concatenate(single), np.concatenate(average)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the finite values; (NaN, NaN) when fewer than half of them are finite."""
    finite = values[np.isfinite(values)]
    if len(values) == 0 or len(finite) < len(values) / 2:
        return NAN_PAIR
    low, high = np.quantile(finite, [(1 - level) / 2, 1 - (1 - level) / 2])
    return float(low), float(high)


def icc2(ratings: np.ndarray, resamples: int = 0, seed: int = 0, level: float = 0.95) -> Reliability:
    """ICC(2,1) and ICC(2,k) of ratings [images, raters] (NaN: not rated) over the images that all raters rated.

    Intervals at `level`: the F method, and, with `resamples` > 0, percentiles of a bootstrap over images. Undefined cases
    come back as NaN with the reason: fewer than two raters, fewer than two complete images, no variance at all, or (for
    ICC(2,k) alone) agreement so far below chance that its denominator is not positive.
    """
    ratings = np.asarray(ratings, dtype=float)
    if ratings.ndim != 2:
        raise ValueError(f"ratings must have two axes, images and raters; got shape {ratings.shape}")
    k = ratings.shape[1]
    if k < 2:
        return Reliability(int(np.isfinite(ratings).all(axis=1).sum()) if k else 0, k, reason="fewer than two raters")
    table = complete_cases(ratings)
    n = len(table)
    if n < 2:
        return Reliability(n, k, reason=f"fewer than two images with a rating from each of the {k} raters")
    ms = MeanSquares(*(float(x[0]) for x in mean_squares(table)))
    if sum(ms) == 0:
        return Reliability(n, k, reason="all ratings are equal, so there is no variance to apportion")
    single, average = (float(x) for x in coefficients(ms, n, k))
    single_ci = single_interval(ms, n, k, level)
    f_value = ms.images / ms.error if ms.error > 0 else float("inf")
    drawn = bootstrap(table, resamples, seed) if resamples else (np.empty(0), np.empty(0))
    return Reliability(
        n_images=n,
        k_raters=k,
        single=single,
        average=average,
        single_ci=single_ci,
        average_ci=tuple(spearman_brown(bound, k) for bound in single_ci),
        single_boot=percentile_interval(drawn[0], level),
        average_boot=percentile_interval(drawn[1], level),
        f_value=f_value,
        p_value=float(stats.f.sf(f_value, n - 1, (n - 1) * (k - 1))),
        reason="" if np.isfinite(average) else "ICC(2,k): agreement below chance leaves no positive denominator",
    )
