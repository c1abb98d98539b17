"""Planning a reader study: how many images and raters for an ICC(2,k), a condition's mean or a difference of conditions.

Everything follows from three standard deviations of the model of `dsa_lib.readers.reliability`: images, raters, error. For complete
normal ratings the mean squares are independent multiples of chi-squared variables, so that a study is simulated by three
draws and thousands of studies cost milliseconds. Two kinds of question stand side by side:

- *other raters*: would other raters of the same kind find the same? Raters are random; the F method's interval answers it,
  and no number of images makes up for few raters.
- *same raters*: would these raters, on other images of the same kind? A bootstrap over images answers it.

Sources: McGraw & Wong, Psychol Methods 1 (1996) 30-46 (interval of the ICC); Satterthwaite, Biometrics Bull 2 (1946) 110-114
(degrees of freedom of a mean with raters random).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pingouin
from scipy import stats

from dsa_lib.readers.mixed_model import MixedFit
from dsa_lib.readers.reliability import MeanSquares, coefficients, single_intervals, spearman_brown
from dsa_lib.run.errors import StudyError

MOST_IMAGES = 100_000  # searches stop here: beyond it a number of images is no plan


@dataclass(frozen=True)
class Components:
    """Standard deviations, in points of the scale, of images, of raters (leniency) and of the rest of one rating."""

    image_sd: float
    rater_sd: float
    error_sd: float

    def __post_init__(self):
        if not all(np.isfinite(x) and x >= 0 for x in vars(self).values()) or not self.image_sd or not self.error_sd:
            raise StudyError(
                "planning needs an image_sd and an error_sd above 0 and a rater_sd of 0 or more, in points of the scale; "
                f"got {self.image_sd}, {self.error_sd} and {self.rater_sd}"
            )

    @classmethod
    def of(cls, fit: MixedFit) -> "Components":
        """Those of a pilot study: a mixed model of its ratings; StudyError where that determined none."""
        if fit.reason:
            raise StudyError(f"the pilot ratings give no variance components ({fit.reason}): type standard deviations")
        return cls(*(float(np.sqrt(v)) for v in (fit.image_var, fit.rater_var, fit.error_var)))

    def icc(self, raters: int) -> float:
        """ICC(2,k) of the mean of k = `raters`; ICC(2,1) for one."""
        image, rater, error = self.image_sd**2, self.rater_sd**2, self.error_sd**2
        return image / (image + (rater + error) / raters)

    def expected(self, images: int, raters: int) -> MeanSquares:
        """Expected mean squares of a study of `images` x `raters`."""
        image, rater, error = self.image_sd**2, self.rater_sd**2, self.error_sd**2
        return MeanSquares(*map(np.array, (raters * image + error, images * rater + error, error)))


# Where no pilot study tells: ratings as good agreement among readers of angiograms would give them. An assumption.
ASSUMED = Components(image_sd=0.7, rater_sd=0.3, error_sd=0.6)


def from_pilot(fit: MixedFit, name: str) -> tuple[Components, str]:
    """Components of a pilot study's mixed model and a sentence on where they come from; `ASSUMED` where it has none.

    `name`: whose ratings they are. The pilot's image_sd includes differences between its conditions, so that plans for one
    condition's mean are on the safe side.
    """
    if fit.reason or not fit.image_var > 0:
        why = fit.reason or "images do not differ beyond error"
        return ASSUMED, f"standard deviations are assumed, since the {name} determine none: {why}"
    found = Components.of(fit)
    return found, f"standard deviations are those of the {name}, {fit.n_images} images by {fit.k_raters} raters"


@dataclass(frozen=True)
class Pilot:
    """What a plan starts from: components, where they come from (a sentence, and `source` as tables name it), and the share of images that can be rated."""

    components: Components
    origin: str
    source: str
    yield_share: float


def pilot_table(fit: MixedFit, source: str, scores: pd.DataFrame, screened: int) -> pd.DataFrame:
    """One row for `read_pilot`: standard deviations of `fit`, the share of `screened` images that `scores` (column scored) has a score of, and the source."""
    components, origin = from_pilot(fit, source)
    share = max(int(scores["scored"].sum()), 1) / screened
    return pd.DataFrame([vars(components) | {"yield_share": share, "source": source, "origin": origin}])


def read_pilot(path: Path | None) -> Pilot:
    """The pilot that `pilot_table` was written of to `path`; without one `ASSUMED`, and every image can be rated."""
    if path is None:
        return Pilot(
            ASSUMED, "standard deviations are assumed, since no reader analysis has run", "assumed values", 1.0
        )
    row = pd.read_csv(path).iloc[0]
    components = Components(*(float(row[name]) for name in ("image_sd", "rater_sd", "error_sd")))
    return Pilot(components, row["origin"], row["source"], float(row["yield_share"]))


def _check(images: int, raters: int) -> None:
    if images < 2 or raters < 2:
        raise StudyError(
            f"a plan needs at least two images and two raters; got {images} image(s) and {raters} rater(s)"
        )


def simulate_mean_squares(
    c: Components, images: int, raters: int, studies: int, seed: int, same_raters: bool = False
) -> MeanSquares:
    """Mean squares [studies] of simulated complete studies; `same_raters`: leniencies are fixed at their standard deviation."""
    _check(images, raters)
    rng = np.random.default_rng(seed)
    msr, msc, mse = c.expected(images, raters)
    df_images, df_raters = images - 1, raters - 1
    if same_raters:
        shift = df_raters * images * c.rater_sd**2 / c.error_sd**2
        between = c.error_sd**2 * rng.noncentral_chisquare(df_raters, shift, studies) / df_raters
    else:
        between = msc * rng.chisquare(df_raters, studies) / df_raters
    df_error = df_images * df_raters
    return MeanSquares(
        msr * rng.chisquare(df_images, studies) / df_images, between, mse * rng.chisquare(df_error, studies) / df_error
    )


def icc_half_width(c: Components, images: int, raters: int, level: float = 0.95) -> float:
    """Half the width of the F method's interval of ICC(2,k), by formula: the interval at the expected mean squares."""
    _check(images, raters)
    low, high = (spearman_brown(x, raters) for x in single_intervals(c.expected(images, raters), images, raters, level))
    return float(high - low) / 2


def simulated_icc_half_width(
    c: Components, images: int, raters: int, studies: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, float]:
    """Half widths of intervals of ICC(2,k) over simulated studies.

    `mean`, `median` and `p90` of the F method's (other raters); `same_raters`: half the central range, at `level`, of the estimates
    when raters stay and images change, which is what a bootstrap over images estimates.
    """
    ms = simulate_mean_squares(c, images, raters, studies, seed)
    low, high = (spearman_brown(x, raters) for x in single_intervals(ms, images, raters, level))
    estimates = coefficients(simulate_mean_squares(c, images, raters, studies, seed, True), images, raters)[1]
    tails = np.nanquantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    half = (high - low) / 2
    median, p90 = np.nanquantile(half, [0.5, 0.9])
    mean, same = np.nanmean(half), np.diff(tails)[0] / 2
    return {"mean": float(mean), "median": float(median), "p90": float(p90), "same_raters": float(same)}


def mean_half_width(c: Components, images: int, raters: int, other_raters: bool = False, level: float = 0.95) -> float:
    """Half the width of the t interval of a condition's mean score over `images`, each the mean of `raters`.

    Same raters: t(n-1) sqrt((image² + error²/k) / n), the interval of Figure 4e. Other raters: leniency adds rater²/k, which
    images do not reduce; degrees of freedom by Satterthwaite.
    """
    _check(images, raters)
    msr, msc, mse = (float(x) for x in c.expected(images, raters))
    n, k = images, raters
    variance, df = msr / (n * k), n - 1.0
    if other_raters:
        variance = (msr + msc - mse) / (n * k)
        parts = msr**2 / (n - 1) + msc**2 / (k - 1) + mse**2 / ((n - 1) * (k - 1))
        df = (msr + msc - mse) ** 2 / parts
    return float(stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance))


def fewest_images(half_width_of, target: float) -> float:
    """Smallest number of images at which `half_width_of(images)` is at most `target`; NaN if none up to MOST_IMAGES is.

    With raters random a half width need not fall all the way: the more images, the more it hangs on the few raters alone.
    """
    if not target > 0:
        raise StudyError(f"a half width of {target} cannot be reached: give one above 0")
    low = 1  # one image has no interval
    for high in np.unique(np.geomspace(2, MOST_IMAGES, 150).round().astype(int)):
        if half_width_of(int(high)) <= target:
            break
        low = high
    else:
        return float("nan")
    while high - low > 1:
        middle = int(low + high) // 2
        low, high = (low, middle) if half_width_of(middle) <= target else (middle, high)
    return float(high)


def images_for_difference(
    c: Components, raters: int, difference: float, power: float = 0.8, comparisons: int = 6, alpha: float = 0.05
) -> float:
    """Images a condition so that a difference of two conditions' means is found with `power` (two-sided t test).

    The same raters rate both, so that leniency cancels. `alpha` is divided by the number of `comparisons` (Bonferroni, which
    Holm's correction never falls below). NaN beyond `MOST_IMAGES`.
    """
    if not difference > 0:
        raise StudyError(
            f"a difference of {difference} cannot be planned for: give one above 0, in points of the scale"
        )
    effect = difference / np.sqrt(c.image_sd**2 + c.error_sd**2 / raters)

    def shortfall(images: int) -> float:
        return 1 - pingouin.power_ttest(d=effect, n=images, alpha=alpha / comparisons, contrast="two-samples")

    return fewest_images(shortfall, 1 - power)


def requirements(
    c: Components, raters: Sequence[int], icc_half: float, mean_half: float, difference: float, yield_share: float = 1.0
) -> pd.DataFrame:
    """How many rated images a new study needs, one row a number of raters (index `raters`).

    Columns: ICC(2,k) (expected), images for an F interval of it of ± `icc_half`; images a condition for a mean of ±
    `mean_half` with these raters, and for other raters; images a condition to find `difference` between two of four
    conditions with 80 % power; images a condition to generate for the mean with these raters, if the share `yield_share` of
    what is generated is kept and ratable. NaN: no number of images reaches it.
    """
    if not 0 < yield_share <= 1:
        raise StudyError(
            f"the share of generated images that can be rated is {yield_share}: give one above 0 and up to 1"
        )
    rows = []
    for k in raters:
        same = fewest_images(lambda n, k=k: mean_half_width(c, n, k), mean_half)
        rows.append(
            {
                "raters": k,
                "ICC(2,k)": c.icc(k),
                f"images: ICC ± {icc_half:g}": fewest_images(lambda n, k=k: icc_half_width(c, n, k), icc_half),
                f"images a condition: mean ± {mean_half:g}, these raters": same,
                f"… mean ± {mean_half:g}, other raters too": fewest_images(
                    lambda n, k=k: mean_half_width(c, n, k, other_raters=True), mean_half
                ),
                f"… difference of {difference:g}, 80 % power": images_for_difference(c, k, difference),
                "… to generate for the mean": np.ceil(same / yield_share),
            }
        )
    return pd.DataFrame(rows).set_index("raters")


def precision(
    c: Components, images: Sequence[int], raters: Sequence[int], studies: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Expected half widths, one row a number of raters and images; what the planning figure draws.

    Columns: raters, images, icc, icc_half (formula), icc_half_simulated (mean), icc_half_p90, icc_half_same_raters,
    mean_half, mean_half_other_raters.
    """
    rows = []
    for k in raters:
        for n in images:
            simulated = simulated_icc_half_width(c, n, k, studies, seed)
            row = dict(raters=k, images=n, icc=c.icc(k), icc_half=icc_half_width(c, n, k))
            row |= dict(icc_half_simulated=simulated["mean"], icc_half_p90=simulated["p90"])
            row |= dict(icc_half_same_raters=simulated["same_raters"], mean_half=mean_half_width(c, n, k))
            rows.append(row | dict(mean_half_other_raters=mean_half_width(c, n, k, other_raters=True)))
    return pd.DataFrame(rows)
