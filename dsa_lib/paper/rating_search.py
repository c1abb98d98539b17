"""Search for whole-number ratings whose means, SDs and ICCs lie in given intervals: annealing over steps of ±1, with running sums.

Arrays in, array out; which intervals, which images are flagged and where the search starts is the business of `dsa_lib.paper.rating_reconstruction`. The sums
follow `dsa_lib.readers.tables` (§2.4) and `dsa_lib.readers.reliability`, but they only steer: what was found is judged by those modules.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dsa_lib.readers.reliability import complete_cases

LOWEST, HIGHEST, FLAGGED = 1, 5, 0
SEGMENT_COUNT, OVERALL = 3, 3  # regions: three segments, and the overall score after them
PAIRS = 0.5  # share of moves that raise one rating and lower another: finer steps, because they leave the means alone
MET = 1e-9  # a misfit below this is none
INSIDE = (
    0.9  # share of an interval, around its middle, that counts as met: how a value on the border rounds must not matter
)


@dataclass(frozen=True)
class Targets:
    """Intervals [low, high] that the statistics of the ratings must meet; NaN where nothing is asked.

    `mean`, `sd`: [conditions, 4, 2], of the image-wise scores, regions proximal, medium, peripheral, overall. `icc`: [4, sets, 2], ICC(2,1) of a region
    among the raters of a set.
    """

    mean: np.ndarray
    sd: np.ndarray
    icc: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a search ended with: `ratings` as it got them, `misfit` (0: every interval is met) and `moves` tried."""

    ratings: np.ndarray
    misfit: float
    moves: int


def misfit(value: float, low: float, high: float) -> float:
    """Squared distance from the inner part (`INSIDE`) of an interval, in units of its half width; 0 within, or where nothing is asked (NaN)."""
    if low != low:
        return 0.0
    half = (high - low) / 2
    beyond = abs(value - (low + high) / 2) / half - INSIDE
    return beyond * beyond if beyond > 0 else 0.0


class RunningSums:
    """Everything the statistics of `ratings` need, changed in constant time when one rating changes by one step.

    `ratings`: [images, raters, 3] whole numbers 1–5, 0 where flagged. `condition`: [images] index of the condition. `sets`: the sets of raters whose ICC is
    asked for, as tuples of rater indices. Ratings are centred at 3 within, which no statistic but the mean feels.
    """

    CENTRE = 3

    def __init__(self, ratings: np.ndarray, condition: np.ndarray, sets: tuple[tuple[int, ...], ...], targets: Targets):
        self.ratings = ratings.astype(int).tolist()
        self.sets, self.targets = sets, targets
        self.sets_of = [[a for a, members in enumerate(sets) if j in members] for j in range(ratings.shape[1])]
        self.condition = condition.tolist()
        centred = np.where(ratings == FLAGGED, np.nan, ratings - float(self.CENTRE))
        rated = ratings != FLAGGED
        if not rated.any(axis=(1, 2)).all():
            raise ValueError("every image of the search needs a rating; leave out those that are flagged throughout")
        self.raters_of = rated.sum(axis=1).tolist()  # [image][segment]
        self.segments_of = rated.any(axis=1).sum(axis=1).tolist()  # [image]
        self.rated_by = rated.sum(axis=2).tolist()  # [image][rater]
        self._scores(centred)
        self._agreement(centred)

    def _scores(self, centred: np.ndarray) -> None:
        """Image-wise scores, and per condition and region their number, sum and sum of squares."""
        scores = _mean(centred, axis=1)
        scores = np.concatenate([scores, _mean(scores, axis=1)[:, None]], axis=1)
        self.score = scores.tolist()  # [image][region]
        self.counts, self.sums, self.squares, self.score_misfit = [], [], [], []
        for c in range(len(self.targets.mean)):
            for region in range(OVERALL + 1):
                here = scores[np.asarray(self.condition) == c, region]
                here = here[~np.isnan(here)]
                self.counts.append(len(here))
                self.sums.append(float(here.sum()))
                self.squares.append(float((here**2).sum()))
        self.score_targets = [
            (*self.targets.mean[g // 4, g % 4].tolist(), *self.targets.sd[g // 4, g % 4].tolist())
            for g in range(len(self.counts))
        ]
        self.score_misfit = [self._of_scores(g, self.sums[g], self.squares[g]) for g in range(len(self.counts))]

    def _agreement(self, centred: np.ndarray) -> None:
        """Per region and set: the complete cases, and n, Σy, Σy², Σ(row sum)², column sums and Σ(column sum)² over them."""
        regions = [*(centred[:, :, s] for s in range(SEGMENT_COUNT)), _mean(centred, axis=2)]
        self.overall = regions[OVERALL].tolist()  # [image][rater]
        self.row_sum, self.agreement, self.columns, self.icc_misfit = [], [], [], []
        for region, table in enumerate(regions):
            for a, members in enumerate(self.sets):
                rows = table[:, members].sum(axis=1)  # NaN: not rated by all of the set
                y = complete_cases(table[:, members])
                columns = y.sum(axis=0)
                self.row_sum.append([None if np.isnan(row) else float(row) for row in rows])
                self.columns.append(dict(zip(members, columns.tolist(), strict=True)))
                sums = (
                    float(y.sum()),
                    float((y**2).sum()),
                    float((y.sum(axis=1) ** 2).sum()),
                    float((columns**2).sum()),
                )
                self.agreement.append((len(y), len(members), *sums))
                self.icc_misfit.append(self._of_agreement(region * len(self.sets) + a, self.agreement[-1]))

    @property
    def total(self) -> float:
        """The misfit over all intervals."""
        return sum(self.score_misfit) + sum(self.icc_misfit)

    def _of_scores(self, g: int, total: float, squares: float) -> float:
        n = self.counts[g]
        low, high, sd_low, sd_high = self.score_targets[g]
        found = misfit(total / n + self.CENTRE, low, high) if n else 0.0
        if n > 1:
            found += misfit(math.sqrt(max(squares - total * total / n, 0.0) / (n - 1)), sd_low, sd_high)
        return found

    def _of_agreement(self, h: int, sums: tuple) -> float:
        low, high = self.targets.icc[divmod(h, len(self.sets))]
        return misfit(single_from_sums(*sums), float(low), float(high)) if sums[0] > 1 else 0.0

    def change(self, i: int, j: int, s: int, step: int) -> tuple[float, list, list]:
        """What the rating of image i by rater j of segment s would do if it changed by `step`: (change of the misfit, and two lists for `accept`)."""
        by, scores, agreements = 0.0, [], []
        of_segment = step / self.raters_of[i][s]
        for region, delta in ((s, of_segment), (OVERALL, of_segment / self.segments_of[i])):
            g = self.condition[i] * 4 + region
            total = self.sums[g] + delta
            squares = self.squares[g] + delta * (2 * self.score[i][region] + delta)
            found = self._of_scores(g, total, squares)
            by += found - self.score_misfit[g]
            scores.append((g, region, delta, total, squares, found))
        before = self.ratings[i][j][s] - self.CENTRE
        for region, y, delta in (
            (s, before, float(step)),
            (OVERALL, self.overall[i][j], step / self.rated_by[i][j]),
        ):
            for a in self.sets_of[j]:
                h = region * len(self.sets) + a
                row = self.row_sum[h][i]
                if row is None:
                    continue
                n, k, total, squares, row_squares, column_squares = self.agreement[h]
                column = self.columns[h][j]
                sums = (
                    n,
                    k,
                    total + delta,
                    squares + delta * (2 * y + delta),
                    row_squares + delta * (2 * row + delta),
                    column_squares + delta * (2 * column + delta),
                )
                found = self._of_agreement(h, sums)
                by += found - self.icc_misfit[h]
                agreements.append((h, delta, sums, found))
        return by, scores, agreements

    def attempt(self, steps: list[tuple[int, int, int, int]], limit: float) -> float:
        """Carry out `steps` (image, rater, segment, ±1) if all stay within 1–5 and the misfit grows by no more than `limit`; returns by how much it changed."""
        by = 0.0
        for count, (i, j, s, step) in enumerate(steps):
            allowed = LOWEST <= self.ratings[i][j][s] + step <= HIGHEST
            if allowed:
                delta, scores, agreements = self.change(i, j, s, step)
                by += delta
            if not allowed or (count == len(steps) - 1 and by > limit):
                for *place, done in reversed(steps[:count]):
                    self.accept(*place, -done, *self.change(*place, -done)[1:])
                return 0.0
            self.accept(i, j, s, step, scores, agreements)
        return by

    def accept(self, i: int, j: int, s: int, step: int, scores: list, agreements: list) -> None:
        """Carry out what `change` worked out."""
        self.ratings[i][j][s] += step
        self.overall[i][j] += step / self.rated_by[i][j]
        for g, region, delta, total, squares, found in scores:
            self.score[i][region] += delta
            self.sums[g], self.squares[g], self.score_misfit[g] = total, squares, found
        for h, delta, sums, found in agreements:
            self.row_sum[h][i] += delta
            self.columns[h][j] += delta
            self.agreement[h], self.icc_misfit[h] = sums, found


def single_from_sums(n: int, k: int, total: float, squares: float, row_squares: float, column_squares: float) -> float:
    """ICC(2,1) of n images by k raters from Σy, Σy², Σ(row sum)² and Σ(column sum)² (`reliability.coefficients`, without arrays)."""
    grand = total * total / (n * k)
    images, raters = row_squares / k - grand, column_squares / n - grand
    msr, msc, mse = images / (n - 1), raters / (k - 1), (squares - grand - images - raters) / ((n - 1) * (k - 1))
    below = msr + (k - 1) * mse + k * (msc - mse) / n
    return (msr - mse) / below if below > 0 else 0.0


def anneal(
    sums: RunningSums,
    seed: int,
    moves: int,
    hot: float,
    cold: float,
    tell: Callable[[int, float], None] = lambda tried, now: None,
) -> Found:
    """Up to `moves` random moves, accepted by Metropolis' rule while the temperature (in units of misfit) falls from `hot` to `cold`.

    A move changes a random rating by ±1, or, as often (`PAIRS`), with it a rating of another image by the same rater in the same segment and condition the
    other way. Ends as soon as every interval is met. The same seed takes the same path. `tell(tried, misfit)` is called now and then.
    """
    rng = random.Random(seed)
    places = [
        (i, j, s) for i, row in enumerate(sums.ratings) for j, own in enumerate(row) for s, r in enumerate(own) if r
    ]
    alike: dict[tuple[int, int, int], list[int]] = {}
    for i, j, s in places:
        alike.setdefault((sums.condition[i], j, s), []).append(i)
    cooling = (cold / hot) ** (1 / max(moves, 1))
    temperature, tried, now = hot, 0, sums.total
    while now > MET and tried < moves:
        tried += 1
        temperature *= cooling
        i, j, s = places[int(rng.random() * len(places))]
        step = 1 if rng.random() < 0.5 else -1
        steps = [(i, j, s, step)]
        if rng.random() < PAIRS:
            others = alike[sums.condition[i], j, s]
            steps.append((others[int(rng.random() * len(others))], j, s, -step))
        now += sums.attempt(steps, limit=-temperature * math.log(1 - rng.random()))
        if tried % 1000 == 0:
            now = sums.total  # what rounding has added up is dropped
            tell(tried, now)
    tell(tried, now)
    return Found(np.array(sums.ratings), sums.total, tried)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean without NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    count = there.sum(axis=axis)
    return np.where(count > 0, np.where(there, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)
