"""Statistics that several packages share: bootstrap and subsamples of patients, Wilson's interval, Holm's correction.

Images of one patient are alike, so a bootstrap draws patients, each with all of its images.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from dsa_lib.run.errors import StudyError


def times_drawn(count: int, draws: int, rng: np.random.Generator, one_by_one: bool = False) -> np.ndarray:
    """How often each of `count` units is drawn with replacement, as many as there are: int [draws, count].

    `one_by_one` draws unit after unit in the place of all counts at once. The distribution is the same and the numbers are others; results that were
    published with either stay as they are.
    """
    if not one_by_one:
        return rng.multinomial(count, np.full(count, 1 / count), draws)
    chosen = rng.integers(0, count, size=(draws, count)) + count * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count)


def whole_and_drawn(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """`times_drawn` after a first row of ones, which stands for the units as they are: float [1 + draws, count]."""
    return np.concatenate([np.ones((1, count)), times_drawn(count, draws, rng)])


def draw(patients: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(index of each image's patient [n], how often each patient is drawn [draws, patients]): with replacement, as many as there are."""
    names, group = np.unique(np.asarray(patients), return_inverse=True)
    if not len(names):
        raise StudyError("there is no patient to draw: an interval needs at least one image")
    return group, times_drawn(len(names), draws, np.random.default_rng(seed))


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2.5 and 97.5 percentiles over draws [d, m], NaN where no draw has a value."""
    known = np.isfinite(drawn).any(axis=0)
    low, high = np.full((2, drawn.shape[1]), np.nan)
    if known.any():
        low[known], high[known] = np.nanpercentile(drawn[:, known], [2.5, 97.5], axis=0)
    return low, high


def of_means(
    values: np.ndarray,
    patients: np.ndarray,
    draws: int = 2000,
    seed: int = 0,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(`statistic` of the means over images, and both ends of its 95 % bootstrap interval over `patients` [n]), [k] each.

    values: [n, m], one row an image, NaN where an image has none; `statistic` maps means [..., m] to [..., k], for instance the difference of two
    columns. With pairs as columns of one row the interval is that of the paired difference. NaN where no image has a value.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or len(values) != len(patients):
        raise StudyError(f"values of shape {values.shape} for {len(patients)} patients: give one row for each image")
    group, weight = draw(patients, draws, seed)
    known = np.isfinite(values)
    total, count = np.zeros((2, weight.shape[1], values.shape[1]))
    np.add.at(total, group, np.where(known, values, 0.0))
    np.add.at(count, group, known)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = statistic((weight @ total) / (weight @ count))
        found = statistic((total.sum(axis=0) / count.sum(axis=0))[None])[0]
    low, high = interval(drawn)
    return found, low, high


def standard_error(values: pd.Series, patients: int, of_patients: int) -> float:
    """Standard error of a statistic of all `of_patients`, from its values in subsamples of `patients` of them: √(m / (n − m)) times their SD.

    NaN with fewer than two values. Subsamples are drawn without replacement; they serve statistics that read a patient held twice as a difference.
    """
    values = values.dropna()
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1) * np.sqrt(patients / (of_patients - patients)))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (Wilson 1927); (nan, nan) without trials."""
    if trials == 0:
        return float("nan"), float("nan")
    low, high = proportion_confint(successes, trials, alpha=0.05, method="wilson")
    return float(low), float(high)


def holm(p: pd.Series | np.ndarray) -> np.ndarray:
    """Holm's correction (Holm 1979) over the p values [n] that are defined; NaN stays."""
    corrected = np.array(p, float)
    known = np.isfinite(corrected)
    if known.any():
        corrected[known] = multipletests(corrected[known], method="holm")[1]
    return corrected
