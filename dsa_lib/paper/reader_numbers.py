"""Checks of the reader study's numbers (§2.4, Tables 2–4): reliability, counts of images, and which means and SDs whole ratings can have.

A segment's score is a mean over up to four raters of whole ratings 1–5, an image's overall score the mean of its one to three segment scores, and
Table 3 gives mean and SD over images. Scores therefore come in steps, and printed means could be impossible (GRIM, Brown and Heathers 2017; GRIMMER,
Anaya 2016): `grim` says whether that test can fail here at all.
"""

import itertools
import math

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from dsa_lib.paper.printed_number import Number, Outcome, Paper, among, check, compare, show, spread

LIKERT = (1, 5)
SEGMENTS = 3
RATERS = 4
PATTERNS = [p for size in (1, 2, 3) for p in itertools.combinations(range(SEGMENTS), size)]


@check("Spearman–Brown: reliability of the mean of k raters from that of one")
def spearman_brown(paper: Paper, number: Number, single: str, raters: str) -> Outcome:
    """ICC(2,k) = k·ICC(2,1)/(1 + (k − 1)·ICC(2,1)), an identity for the two-way random-effects model (McGraw and Wong 1996)."""
    numbers = paper.pick([single, raters])
    formula = f"Spearman–Brown of {numbers[0].text} with k = {numbers[1].text}"
    return compare(number, formula, *spread(lambda r, k: k * r / (1 + (k - 1) * r), numbers))


@check("Spearman–Brown backwards: reliability of one rater from that of the mean of k")
def spearman_brown_single(paper: Paper, number: Number, average: str, raters: str) -> Outcome:
    numbers = paper.pick([average, raters])
    formula = f"Spearman–Brown backwards of {numbers[0].text} with k = {numbers[1].text}"
    return compare(number, formula, *spread(lambda r, k: r / (k - (k - 1) * r), numbers))


@check("the number of raters that single and average ICCs imply")
def implied_raters(paper: Paper, number: Number, *pairs: str) -> Outcome:
    """`pairs`: ICC(2,1), ICC(2,k), ICC(2,1), … k = a(1 − s)/(s(1 − a)); whole numbers that all pairs allow."""
    fits = set(range(2, 100))
    for single, average in zip(pairs[::2], pairs[1::2], strict=True):
        low, _, high = spread(lambda s, a: a * (1 - s) / (s * (1 - a)), paper.pick([single, average]))
        fits &= {k for k in fits if low - 1e-9 <= k <= high + 1e-9}
    text = f"{len(pairs) // 2} pairs of coefficients allow k = {among(map(str, sorted(fits))) or 'no whole number'}"
    return Outcome("agrees" if number.value in fits else "disagrees", text, among(map(str, sorted(fits))))


@check("larger than its counterpart in every row")
def higher_in_all(paper: Paper, number: Number, *pairs: str) -> Outcome:
    """`pairs`: the larger, the smaller, the larger, …"""
    gaps = [paper[a].value - paper[b].value for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    text = f"higher in {sum(g > 0 for g in gaps)} of {len(gaps)} rows, by {show(min(gaps), 2)} to {show(max(gaps), 2)}"
    return Outcome("agrees" if min(gaps) > 0 else "disagrees", text, f"{sum(g > 0 for g in gaps)} of {len(gaps)}")


@check("kept less scored, over all conditions")
def unscored(paper: Paper, number: Number, *pairs: str) -> Outcome:
    """`pairs`: kept, scored, kept, …"""
    kept, scored = paper.pick(pairs[::2]), paper.pick(pairs[1::2])
    parts = [a.value - b.value for a, b in zip(kept, scored, strict=True)]
    formula = " + ".join(f"({a.text} − {b.text})" for a, b in zip(kept, scored, strict=True))
    return compare(number, formula, *[sum(parts)] * 3)


@check("images without a score are marked in every segment or as external")
def unscored_fit(paper: Paper, number: Number, kept: str, scored: str, external: str, *segments: str) -> Outcome:
    """An image of which nothing was ratable counts in the NA column of every segment, among the external ones, or (raters divided) in none of them;
    an image that is external to all raters is not scored."""
    lost = paper[kept].value - paper[scored].value
    outer = paper[external].value
    bound = min(n.value for n in paper.pick(segments)) + outer
    holds = outer <= lost <= bound and max(n.value for n in paper.pick(segments)) <= paper[kept].value
    text = f"{paper[kept].text} kept, {paper[scored].text} scored: {show(lost)} without a score; by the marks it can be {show(outer)} to {show(bound)}"
    return Outcome("possible" if holds else "in doubt", text, f"{show(lost)}")


@check("bounds on the mean over images, from the three segments' means and the counts of Table 2")
def overall_bounds(paper: Paper, number: Number, kept: str, scored: str, *columns: str) -> Outcome:
    """`columns`: mean and number of NA of each segment. See `bounds`."""
    low, high = bounds(paper, kept, scored, columns, target=None)
    return _bounded(number, low, high, "by the segments' means and the images that lack a segment")


@check("bounds on a segment's mean, from the overall mean, the other segments and the counts of Table 2")
def segment_bounds(
    paper: Paper, number: Number, which: str, overall: str, kept: str, scored: str, *columns: str
) -> Outcome:
    """`which`: 0, 1, 2; `columns`: mean and number of NA of each segment."""
    low, high = bounds(paper, kept, scored, columns, target=int(which), overall=overall)
    return _bounded(number, low, high, "by the overall mean and the other segments")


def _bounded(number: Number, low: float, high: float, by: str) -> Outcome:
    if math.isnan(low):
        return Outcome("disagrees", f"no scores meet the other numbers of the row {by}", "none")
    if low <= LIKERT[0] and high >= LIKERT[1]:
        return Outcome("no power", f"the other numbers of the row leave the whole scale open {by}")
    holds = number.high >= low and number.low <= high
    text = f"between {show(low, 2)} and {show(high, 2)} {by}; printed {number.text}"
    return Outcome("possible" if holds else "disagrees", text, f"{show(low, 2)} to {show(high, 2)}")


def bounds(
    paper: Paper, kept: str, scored: str, columns: tuple[str, ...], target: int | None, overall: str = ""
) -> tuple[float, float]:
    """(least, greatest) mean that scores within 1–5 can have: of the overall score (`target` None) or of segment `target`.

    A mixed-integer program over the seven patterns of segments an image can have: how many images show it, and the sum of their scores a segment.
    Everything known is linear in these: the images are `scored`; a segment is scored in `scored` less its NA images, of which some may be among the
    unscored ones; a mean times its number is a sum. NaN where nothing fits.
    """
    n, unscored = paper[scored].value, paper[kept].value - paper[scored].value
    means, absent = paper.pick(columns[::2]), paper.pick(columns[1::2])
    slots = [(p, s) for p in PATTERNS for s in p]
    size = len(PATTERNS) + len(slots)

    def count_row(segment: int | None) -> np.ndarray:
        chosen = [1.0 if segment is None or segment in p else 0.0 for p in PATTERNS]
        return np.array(chosen + [0.0] * len(slots))

    def sum_row(segment: int | None) -> np.ndarray:
        """Sum of scores of a segment, or (None) of the images' overall scores."""
        weights = [1 / len(p) if segment is None else float(s == segment) for p, s in slots]
        return np.array([0.0] * len(PATTERNS) + weights)

    rows, low, high = [count_row(None)], [n], [n]

    def demand(row: np.ndarray, least: float, most: float) -> None:
        rows.append(row), low.append(least), high.append(most)

    for s in range(SEGMENTS):
        demand(count_row(s), n - absent[s].value, min(n, n - absent[s].value + unscored))
        if s != target:
            demand(sum_row(s) - means[s].low * count_row(s), 0, np.inf)
            demand(sum_row(s) - means[s].high * count_row(s), -np.inf, 0)
    if overall:
        demand(sum_row(None), n * paper[overall].low, n * paper[overall].high)
    for i, (p, _) in enumerate(slots):  # a score lies within 1–5
        unit = np.eye(size)[len(PATTERNS) + i]
        own = np.eye(size)[PATTERNS.index(p)]
        demand(unit - LIKERT[0] * own, 0, np.inf)
        demand(unit - LIKERT[1] * own, -np.inf, 0)

    ends = []
    segment_counts = (
        [n] if target is None else _whole(n - absent[target].value, min(n, n - absent[target].value + unscored))
    )
    for segment_count in segment_counts:
        fixed = [] if target is None else [LinearConstraint(count_row(target), segment_count, segment_count)]
        for sign in (1, -1):
            solved = milp(
                sign * sum_row(target) / segment_count,
                constraints=[LinearConstraint(np.array(rows), low, high), *fixed],
                integrality=[1] * len(PATTERNS) + [0] * len(slots),
                bounds=Bounds(0, np.inf),
            )
            if solved.status == 0:
                ends.append(sign * solved.fun)
    return (min(ends), max(ends)) if ends else (math.nan, math.nan)


def _whole(first: float, last: float) -> list[int]:
    return list(range(int(first), int(last) + 1))


@check("GRIM: can whole ratings have this mean?")
def grim(paper: Paper, number: Number, images: str, kind: str, absent: str = "") -> Outcome:
    """`images`, less the `absent` ones; `kind`: "whole" (whole numbers), "segment" (means of 1 to 4 ratings), "overall" (means of 1 to 3 of these).

    Scores then are multiples of 1, 1/12 or 1/72, sums over n images too, and means multiples of 1/n, 1/(12 n) or 1/(72 n). Where that is finer than
    the printed digit, every printed mean is possible and the test cannot fail.
    """
    n, steps, unit = _size(paper, images, absent), score_steps(kind), 10.0**-number.decimals
    if 1 / (n * steps) <= unit:
        few = math.ceil(1 / (unit * steps))
        when = f"; it could fail below {few} images" if few > 2 else ""
        text = f"GRIM cannot fail: means over {n} come in steps of 1/{show(n * steps)}, finer than the printed {unit:g}{when}"
        return Outcome("no power", text)
    reachable = math.floor(number.high * n * steps + 1e-9) >= math.ceil(number.low * n * steps - 1e-9)
    text = f"GRIM: means over {n} come in steps of 1/{show(n * steps)}, {'one of' if reachable else 'none of'} which prints as {number.text}"
    return Outcome("possible" if reachable else "disagrees", text)


@check("GRIMMER: can whole ratings have this SD beside this mean?")
def grimmer(paper: Paper, number: Number, mean: str, images: str, kind: str, absent: str = "") -> Outcome:
    """Sums of squares come in steps too: counts those that print as this SD beside the sum nearest to the mean. Arguments as in `grim`."""
    n, steps, middle = _size(paper, images, absent), score_steps(kind), paper[mean].value
    largest = math.sqrt((middle - LIKERT[0]) * (LIKERT[1] - middle) * n / (n - 1))  # Bhatia and Davis 2000
    if number.low > largest:
        return Outcome(
            "disagrees",
            f"scores within 1 to 5 have at most an SD of {show(largest, 2)} beside this mean",
            f"≤ {show(largest, 2)}",
        )
    total = round(middle * n * steps)
    low, high = ((n - 1) * (sd * steps) ** 2 + total**2 / n for sd in (max(number.low, 0.0), number.high))
    # The sum of squares of whole numbers is odd exactly when their sum is.
    fitting = sum(square % 2 == total % 2 for square in range(math.ceil(low), math.floor(high) + 1))
    if not fitting:
        return Outcome("in doubt", "GRIMMER: no sum of squares prints as this SD", "none")
    text = f"GRIMMER cannot fail: {fitting} sums of squares print as this SD beside this mean; the scale would allow up to {show(largest, 2)}"
    return Outcome("no power", text)


def score_steps(kind: str) -> int:
    """Steps in one unit of a score: the least common multiple of the numbers of ratings, times that of the numbers of segments."""
    raters, segments = math.lcm(*range(1, RATERS + 1)), math.lcm(*range(1, SEGMENTS + 1))
    return {"whole": 1, "segment": raters, "overall": raters * segments}[kind]


def _size(paper: Paper, images: str, absent: str) -> int:
    """Images that enter a mean: fewest, so that the test has most power."""
    return int(paper[images].value - (paper[absent].value if absent else 0))


@check("the SD of a mean of three is at most the mean of their SDs")
def sd_of_mean(paper: Paper, number: Number, *segments: str) -> Outcome:
    """Holds by the triangle inequality where no image lacks a segment; with images that do, the bound is a guide. Also gives the correlation between
    segments that the SDs imply: 9·s² = Σ s_i² + 2ρ·Σ s_i s_j."""
    sds = paper.pick(segments)
    _, bound, _ = spread(lambda *x: sum(x) / len(x), sds)
    values = [n.value for n in sds]
    cross = 2 * sum(a * b for a, b in itertools.combinations(values, 2))
    rho = (len(values) ** 2 * number.value**2 - sum(v**2 for v in values)) / cross
    holds = number.low <= bound and rho > -0.5
    text = f"at most {show(bound, 2)}, the mean of the segments' SDs; they imply a correlation of {show(rho, 2)} between segments where no image lacks one"
    return Outcome("possible" if holds else "in doubt", text, f"≤ {show(bound, 2)}")
