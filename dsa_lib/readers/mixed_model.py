"""Mixed models of one region's ratings: variance components on all available ratings (beside Table 4), and rater leniency.

    y_ij = mu + image_i + rater_j + error_ij          (the model of `dsa_lib.readers.reliability`; any y_ij may be missing)

with images and raters crossed. Both random gives the variance components and from them ICC(2,1) and ICC(2,k); raters fixed
gives how far each rater lies from the average of the raters, on the same images. Estimated by restricted maximum likelihood
(REML). With complete ratings REML equals the mean-square estimates as long as these are not negative; where they are, REML
stops at zero.

The likelihood needs, of the images, only sums within each pattern of missing ratings (at most 2^k - 1 of them), so that its
cost does not grow with the number of images. That is why it is written here: statsmodels' MixedLM, against which it is
tested, takes seconds for one fit with crossed effects at the study's size, and a bootstrap needs thousands.

Source: Patterson & Thompson, Biometrika 58 (1971) 545-554; the crossed layout as in Bates et al., J Stat Softw 67 (2015) 1.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from dsa_lib.core.statistics import holm, times_drawn
from dsa_lib.readers.reliability import NAN_PAIR, percentile_interval

_LARGEST = 30.0  # standard deviation of images in units of the residual's: beyond it there is no residual to speak of


@dataclass(frozen=True)
class Patterns:
    """What the likelihood needs of ratings [n, k]: sums over the images of each pattern of observed ratings, of B resamples.

    `seen` [P, k] 0/1; `count` [B, P] images; `total` [B, P, k] sums of ratings; `squares` [B] sums of squared ratings;
    `row_squares` [B, P] sums over images of (sum of the image's ratings) squared; `centre`: subtracted from every rating.
    """

    seen: np.ndarray
    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    row_squares: np.ndarray
    centre: float

    @property
    def n_ratings(self) -> np.ndarray:
        """Ratings of each resample [B]."""
        return self.count @ self.seen.sum(axis=1)


@dataclass(frozen=True)
class MixedFit:
    """REML fit with images and raters random, over all available ratings.

    Variances in squared rating units; `single`, `average`: ICC(2,1), ICC(2,k) from them; `single_boot`, `average_boot`: 95 %
    percentiles over resampled images. NaN with a `reason` where the ratings do not determine them.
    """

    n_images: int
    k_raters: int
    n_ratings: int
    image_var: float = float("nan")
    rater_var: float = float("nan")
    error_var: float = float("nan")
    mean: float = float("nan")
    single: float = float("nan")
    average: float = float("nan")
    single_boot: tuple[float, float] = NAN_PAIR
    average_boot: tuple[float, float] = NAN_PAIR
    reason: str = ""


@dataclass(frozen=True)
class Leniency:
    """Raters as fixed effects, images random: `effects` has one row a rater, in the order of the columns of the ratings.

    Columns n (ratings), effect (the rater's mean on the same images minus the average of all raters'), low, high
    (Student's t), p_holm (two-sided, Holm over raters). `f_value`, `p_value`: all raters equally lenient.
    """

    effects: pd.DataFrame
    image_sd: float = float("nan")
    error_sd: float = float("nan")
    f_value: float = float("nan")
    df: tuple[int, int] = (0, 0)
    p_value: float = float("nan")
    reason: str = ""


def patterns(ratings: np.ndarray, weights: np.ndarray | None = None) -> Patterns:
    """Sums by pattern of ratings [n, k], NaN where missing, each image with a rating; `weights` [B, n]: how often drawn."""
    observed = np.isfinite(ratings)
    centre = float(ratings[observed].mean())
    filled = np.where(observed, ratings - centre, 0.0)
    seen, which = np.unique(observed, axis=0, return_inverse=True)
    member = np.eye(len(seen))[which.ravel()]  # [n, P]
    weights = np.ones((1, len(ratings))) if weights is None else weights
    return Patterns(
        seen=seen.astype(float),
        count=weights @ member,
        total=np.stack([weights @ (member * rater[:, None]) for rater in filled.T], axis=-1),
        squares=weights @ (filled**2).sum(axis=1),
        row_squares=weights @ (member * filled.sum(axis=1, keepdims=True) ** 2),
        centre=centre,
    )


def _sums(p: Patterns, shrink: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z'MZ [B, k, k], Z'My [B, k], y'My [B]: Z picks the rater, M takes from each image `shrink` [B, P] times its own sum."""
    zz = -np.einsum("bp,pj,pl->bjl", p.count * shrink, p.seen, p.seen, optimize=True)
    diagonal = np.arange(p.seen.shape[1])
    zz[:, diagonal, diagonal] += p.count @ p.seen
    zy = p.total.sum(axis=1) - (shrink * p.total.sum(axis=2)) @ p.seen
    return zz, zy, p.squares - (shrink * p.row_squares).sum(axis=1)


def _by_raters(p: Patterns, image_ratio: np.ndarray) -> tuple[np.ndarray, ...]:
    """`_sums` with M = W⁻¹, where W = I + image_ratio Z_image Z_image' (image_ratio [B]); and log|W| [B]."""
    each = p.seen.sum(axis=1)
    grown = 1 + image_ratio[:, None] * each  # [B, P]
    return *_sums(p, image_ratio[:, None] / grown), (p.count * np.log(grown)).sum(axis=1)


def _random_raters(p: Patterns, deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-2 REML log-likelihood (up to a constant), residual variance and mean, each [B].

    `deviations` [B, 2]: standard deviations of images and of raters in units of the residual's; signs do not matter.
    """
    rater_ratio = deviations[:, 1] ** 2
    zz, zy, yy, log_w = _by_raters(p, deviations[:, 0] ** 2)
    inside = np.eye(zz.shape[1]) + rater_ratio[:, None, None] * zz
    inner = np.linalg.solve(inside, np.concatenate([zz, zy[..., None]], axis=2))  # Z'V⁻¹[Z, y], V = W + rater_ratio ZZ'
    information, score = inner[..., :-1].sum(axis=(1, 2)), inner[..., -1].sum(axis=1)  # of the mean: X = Z 1
    df = p.n_ratings - 1
    variance = (yy - rater_ratio * (zy * inner[..., -1]).sum(axis=1) - score**2 / information) / df
    deviance = df * np.log(np.maximum(variance, 1e-300)) + log_w + np.linalg.slogdet(inside)[1] + np.log(information)
    return deviance, variance, score / information


def _fixed_raters(p: Patterns, image_ratio: float) -> tuple[float, float, np.ndarray, np.ndarray]:
    """With one mean a rater and B = 1: -2 REML log-likelihood, residual variance, means [k], their information [k, k]."""
    zz, zy, yy, log_w = (x[0] for x in _by_raters(p, np.array([image_ratio])))
    means = np.linalg.solve(zz, zy)
    df = p.n_ratings[0] - len(zz)
    variance = (yy - zy @ means) / df
    deviance = df * np.log(max(variance, 1e-300)) + log_w + np.linalg.slogdet(zz)[1]
    return float(deviance), float(variance), means, zz


def undetermined(ratings: np.ndarray) -> str:
    """Why ratings [n, k] do not determine the variance components; empty where they do."""
    observed = np.isfinite(ratings)
    raters, images = observed.any(axis=0), observed.any(axis=1)
    if raters.sum() < 2:
        return "fewer than two raters"
    if not raters.all():
        return "a rater gave no rating"
    if images.sum() < 2:
        return "fewer than two rated images"
    if not (observed.sum(axis=1) >= 2).any():
        return "no image was rated by two raters"
    # Images and raters as fixed effects: what is left of the raters once every image's own mean is taken off.
    p = patterns(ratings[images])
    zz, zy, within = (x[0] for x in _sums(p, 1 / p.seen.sum(axis=1)[None]))
    rank = int(np.linalg.matrix_rank(zz, tol=1e-9 * images.sum(), hermitian=True))
    if rank < raters.sum() - 1:
        return "the raters fall into groups that share no image"
    values = ratings[observed]
    if np.ptp(values) == 0:
        return "all ratings are equal, so there is no variance to apportion"
    # A residual of zero has no likelihood: its logarithm falls without bound.
    rest = within - zy @ np.linalg.pinv(zz, rcond=1e-9, hermitian=True) @ zy
    if observed.sum() <= images.sum() + rank or rest <= 1e-9 * ((values - values.mean()) ** 2).sum():
        return "images and raters explain the ratings without a rest, so the residual variance has no estimate"
    return ""


def _maximise(p: Patterns, start: np.ndarray, iterations: int = 25) -> np.ndarray:
    """Standard deviations [B, 2] of image and rater, in units of the residual's, at the REML maximum, from `start` [B, 2].

    Newton's method on all resamples at once. The likelihood is an even function of each deviation, so that zero, the
    boundary, is an ordinary stationary point; curvature of the wrong sign is turned, steps that do not help are halved.
    """
    at, step = start.astype(float), 1e-3
    moves = step * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1]])
    for _ in range(iterations):
        f = [_random_raters(p, at + move)[0] for move in moves]
        slope = np.stack([f[1] - f[2], f[3] - f[4]], axis=-1) / (2 * step)
        bend = np.empty((len(at), 2, 2))
        bend[:, 0, 0], bend[:, 1, 1] = (f[1] + f[2] - 2 * f[0]) / step**2, (f[3] + f[4] - 2 * f[0]) / step**2
        cross = (f[5] + f[6] - f[1] - f[2] - f[3] - f[4] + 2 * f[0]) / (2 * step**2)
        bend[:, 0, 1] = bend[:, 1, 0] = cross
        values, vectors = np.linalg.eigh(bend)
        along = np.einsum("bij,bi->bj", vectors, slope) / np.maximum(np.abs(values), 1e-3)
        move = -np.einsum("bij,bj->bi", vectors, along)
        move *= np.minimum(1, 1 / np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-12))  # at most 1
        for _ in range(12):
            worse = ~(_random_raters(p, at + move)[0] <= f[0] + 1e-9)
            if not worse.any():
                break
            move[worse] /= 2
        else:
            move[worse] = 0
        at = at + move
        if np.abs(move).max() < 1e-7:
            break
    return np.abs(at)


def _coefficients(deviations: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """ICC(2,1) and ICC(2,k) [B] from the standard deviations [B, 2] in units of the residual's."""
    image, rater = (deviations**2).T
    return image / (image + rater + 1), image / (image + (rater + 1) / k)


def mixed_icc(ratings: np.ndarray, resamples: int = 0, seed: int = 0, level: float = 0.95) -> MixedFit:
    """Variance components and ICC(2,1), ICC(2,k) of ratings [images, raters] by REML over all available ratings.

    Unlike `reliability.icc2` an image counts as soon as one rater rated it. With `resamples` > 0 percentile intervals of a
    bootstrap over images, raters kept. ICC(2,k) is that of the mean over all k raters. NaN with `reason`: see `undetermined`.
    """
    ratings = np.asarray(ratings, float)
    ratings = ratings[np.isfinite(ratings).any(axis=1)]
    n, k = ratings.shape
    size = dict(n_images=n, k_raters=k, n_ratings=int(np.isfinite(ratings).sum()))
    if reason := undetermined(ratings):
        return MixedFit(**size, reason=reason)
    p = patterns(ratings)
    # Two starts: the likelihood of few raters can have a second, lower maximum where the rater variance is zero.
    tries = [_maximise(p, np.array([start])) for start in ((1.0, 0.3), (0.3, 1.0))]
    best = min(tries, key=lambda s: _random_raters(p, s)[0][0])
    _, variance, mean = (float(x[0]) for x in _random_raters(p, best))
    (single,), (average,) = _coefficients(best, k)
    drawn = _bootstrap(ratings, best, resamples, seed) if resamples else (np.empty(0), np.empty(0))
    return MixedFit(
        **size,
        image_var=float(best[0, 0] ** 2 * variance),
        rater_var=float(best[0, 1] ** 2 * variance),
        error_var=variance,
        mean=mean + p.centre,
        single=float(single),
        average=float(average),
        single_boot=percentile_interval(drawn[0], level),
        average_boot=percentile_interval(drawn[1], level),
    )


def _bootstrap(ratings: np.ndarray, start: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ICC(2,1) and ICC(2,k) [resamples] of resampled images; NaN where a resample lacks a rater or repeated ratings."""
    n, k = ratings.shape
    weights = times_drawn(n, resamples, np.random.default_rng(seed), one_by_one=True).astype(float)
    p = patterns(ratings, weights)
    usable = (p.count @ p.seen > 0).all(axis=1) & (p.n_ratings > n)
    kept = Patterns(p.seen, p.count[usable], p.total[usable], p.squares[usable], p.row_squares[usable], p.centre)
    values = np.full((2, resamples), np.nan)
    if usable.any():
        values[:, usable] = _coefficients(_maximise(kept, np.repeat(np.maximum(start, 0.05), usable.sum(), axis=0)), k)
    return values[0], values[1]


def leniency(ratings: np.ndarray, level: float = 0.95) -> Leniency:
    """How far each rater lies above (lenient) or below (strict) the average rater, from ratings [images, raters].

    Images random, raters fixed, by REML over all available ratings: a rater who skipped the poor images is not taken for a
    lenient one. With complete ratings the effect is the rater's mean minus the grand mean, and F is MSC / MSE of the two-way
    table. Degrees of freedom of the residual: ratings - images - raters + 1. NaN with `reason`: see `undetermined`.
    """
    ratings = np.asarray(ratings, float)
    ratings = ratings[np.isfinite(ratings).any(axis=1)]
    n, k = ratings.shape
    count = np.isfinite(ratings).sum(axis=0)
    nothing = pd.DataFrame({"n": count} | {name: np.full(k, np.nan) for name in ("effect", "low", "high", "p_holm")})
    if reason := undetermined(ratings):
        return Leniency(nothing, reason=reason)
    p = patterns(ratings)
    found = optimize.minimize_scalar(
        lambda s: _fixed_raters(p, s**2)[0], bounds=(0, _LARGEST), method="bounded", options=dict(xatol=1e-9)
    )
    _, variance, means, information = _fixed_raters(p, found.x**2)
    contrast = np.eye(k) - 1 / k
    effect = contrast @ means
    covariance = contrast @ np.linalg.inv(information) @ contrast * variance
    error = np.sqrt(np.diag(covariance))
    df = (k - 1, int(p.n_ratings[0]) - n - k + 1)
    half = stats.t.ppf((1 + level) / 2, df[1]) * error
    f_value = float(effect @ np.linalg.pinv(covariance) @ effect / df[0])
    p_each = holm(2 * stats.t.sf(np.abs(effect) / error, df[1]))
    return Leniency(
        pd.DataFrame(dict(n=count, effect=effect, low=effect - half, high=effect + half, p_holm=p_each)),
        image_sd=float(found.x * np.sqrt(variance)),
        error_sd=float(np.sqrt(variance)),
        f_value=f_value,
        df=df,
        p_value=float(stats.f.sf(f_value, *df)),
    )
