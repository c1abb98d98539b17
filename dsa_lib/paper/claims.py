"""Checks of the ledger that belong to this paper: what its words claim, against its own numbers (§2.2, §2.3, §2.5, §4.3, §4.5).

Words enter as rows of data_manifests/published.csv too (kind "words"), each with the place it was read in, so that a check compares what stands there.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

from dsa_lib.paper.printed_number import Number, Outcome, Paper, among, check, compare, show, spread


@check("the same words wherever the same thing is described")
def same_words(paper: Paper, number: Number, *others: str) -> Outcome:
    for other in paper.pick(others):
        if set(other.terms) != set(number.terms):
            text = f"“{among(number.terms)}” here, “{among(other.terms)}” in {other.place}"
            common = set(other.terms) & set(number.terms)
            return Outcome(
                "disagrees", text if common else f"{text}, no term in common", among(other.terms), None, other.id
            )
    places = among(dict.fromkeys(other.place for other in paper.pick(others)))
    return Outcome("restated", f"as in {places}", among(paper[others[0]].terms))


@check("what a cross-reference points at")
def points_at(paper: Paper, number: Number, target: str, elsewhere: str = "") -> Outcome:
    """`target`: words row that says what stands in the place referred to ("none" if nothing does); `elsewhere`: where it stands instead."""
    found = paper[target]
    if found.terms != ("none",):
        return Outcome("agrees", f"{found.quantity} in {found.place}: {among(found.terms)}", among(found.terms))
    text = f"refers to {number.printed}, but {found.place} has no {found.quantity}"
    return Outcome(
        "disagrees", f"{text}; {paper[elsewhere].place} has {paper[elsewhere].text}" if elsewhere else text, "none"
    )


@check("is one of the printed section headings")
def is_a_heading(paper: Paper, number: Number, headings: str) -> Outcome:
    terms = paper[headings].terms
    if number.printed in terms:
        return Outcome("agrees", "a heading of that name stands in the paper", number.printed)
    return Outcome("disagrees", f"refers to “{number.printed}”; the paper's sections are {among(terms)}", "none")


@check("could the pooled rest hold a more frequent combination?")
def most_prevalent(paper: Paper, number: Number, others: str, outside: str, own: str, *cells: str) -> Outcome:
    """`others`: frames of the pooled combinations; `outside`, `own`: frames of one circulation and the prefix of its cells' names; `cells`: the frames of
    the combinations that are called the most prevalent.

    The rarest of them keeps its rank only if no pooled combination has more frames than it: the pool then has at least others/rarest combinations.
    """
    counts = paper.pick(cells)
    rarest, most = min(counts, key=lambda n: n.value), max(counts, key=lambda n: n.value)
    pool = paper[others]
    needed = math.ceil(pool.value / rarest.value)
    left = paper[outside].value - sum(n.value for n in counts if n.subject.startswith(own))
    within = math.ceil(left / rarest.value)
    share = 100 * rarest.value / (pool.value + sum(n.value for n in counts))
    text = (
        f"{rarest.subject} holds {rarest.text} frames ({show(share, 1)} %), {most.subject} {show(most.value / rarest.value, 0)} and the pooled rest "
        f"{show(pool.value / rarest.value, 0)} times as many. It is among the {len(counts)} most prevalent only if the rest splits into {needed} "
        f"combinations or more with at most {rarest.text} frames each; {within} or more of them in its own circulation, of which {show(left)} frames "
        f"lie outside the named cells. The paper does not show this"
    )
    return Outcome("in doubt" if needed > 1 else "agrees", text, f"needs ≥ {needed} combinations")


@check("training frames and held-out frames are parts of all frames")
def leaves_held_out(paper: Paper, number: Number, whole: str, held_out: str) -> Outcome:
    """A table of the training set whose total is all frames leaves none for the held-out set."""
    most = paper[whole].value - paper[held_out].value
    rows = paper[whole].text
    text = (
        f"called “{number.printed}”, but its {rows} frames are all arterial-phase frames; {paper[held_out].text} held-out frames "
        f"({paper[held_out].place}) leave at most {show(most)} for training"
    )
    return Outcome("disagrees", text, f"≤ {show(most)}", paper[whole].value - most)


@check("enough frames of the rarest condition for a balanced reference set")
def balanced_reference(paper: Paper, number: Number, conditions: str, *cells: str) -> Outcome:
    """Two readings of "the same empirical distribution over the four conditions": that of the generated set (balanced), or that of the archive. The
    first is impossible where the rarest condition has too few frames, the second a demand on the share of frames held out."""
    counts = paper.pick(cells)
    rarest = min(counts, key=lambda n: n.value)
    each = number.value / paper[conditions].value
    everything = sum(n.value for n in counts)
    natural = number.value * rarest.value / everything
    text = (
        f"balanced like the generated set, {number.text} reference frames need {show(each)} of each condition; {rarest.subject} has {rarest.text} in the "
        f"whole data set, training included; with the archive's own mix they hold about {show(natural, 0)} of {rarest.subject} and need at least "
        f"{show(100 * number.value / everything, 1)} % of all frames of these conditions to be held out"
    )
    return Outcome("in doubt" if each > rarest.value else "possible", text, f"≤ {rarest.text} of {show(each)}")


@check("more images than features, else the covariance is singular")
def covariance_rank(paper: Paper, number: Number, *cells: str) -> Outcome:
    """The covariance of n feature vectors has rank n − 1 at most. `cells`: all images there are of each condition."""
    rarest = min(paper.pick(cells), key=lambda n: n.value)
    text = (
        f"FID “separately by conditioning setting” needs more than {number.text} images of each for a covariance of full rank; {rarest.subject} has "
        f"{rarest.text} in all, a rank of {show(rarest.value - 1)} at most"
    )
    return Outcome("in doubt" if rarest.value <= number.value else "agrees", text, f"rank ≤ {show(rarest.value - 1)}")


@check("equal numbers generated, equal numbers analysed?")
def matched(paper: Paper, number: Number, *sizes: str) -> Outcome:
    values = [n.value for n in paper.pick(sizes)]
    gap = f"the largest {show(max(values) / min(values), 1)} times the smallest"
    text = f"equal numbers were generated, but {among(show(v) for v in values)} images entered the analysis, {gap}"
    return Outcome(
        "agrees" if len(set(values)) == 1 else "in doubt", text, f"{show(min(values))} to {show(max(values))}"
    )


@check("the share of positives that precision, recall and accuracy imply")
def prevalence(paper: Paper, number: Number, precision: str, recall: str, accuracy: str) -> Outcome:
    """With prevalence π: 1 − accuracy = π·[(1 − r) + r·(1 − p)/p]. Any π in (0, 1) is possible; more than 1 is not."""

    def implied(p: float, r: float, a: float) -> float:
        return (1 - a) / ((1 - r) + r * (1 - p) / p)

    low, middle, high = spread(implied, paper.pick([precision, recall, accuracy]))
    text = f"precision, recall and accuracy together imply {show(100 * middle, 1)} % arterial frames ({show(100 * low, 0)} to {show(100 * high, 0)} %)"
    return Outcome("possible" if low < 1 else "disagrees", text, f"{show(100 * middle, 1)} %")


@check("ranked first among other printed numbers")
def ranks(paper: Paper, number: Number, end: str, *names: str) -> Outcome:
    """`end`: "highest" or "lowest". The words claim that the first of `names` stands at that end."""
    values = paper.pick(names)
    first = (max if end == "highest" else min)(values, key=lambda n: n.value)
    text = f"{end} in {first.place}: {first.subject} ({first.text}); {among(f'{n.subject} {n.text}' for n in values if n is not first)}"
    return Outcome("agrees" if first is values[0] else "disagrees", text, first.subject)


@check("not ranked first among other printed numbers")
def not_ranks(paper: Paper, number: Number, end: str, *names: str) -> Outcome:
    found = ranks(paper, number, end, *names)
    return Outcome("agrees" if found.outcome == "disagrees" else "disagrees", found.text, found.computed)


@check("in descending order in every row")
def descending(paper: Paper, number: Number, *names: str) -> Outcome:
    """`names`: rows of three, highest first."""
    rows = [paper.pick(names[i : i + 3]) for i in range(0, len(names), 3)]
    broken = [row for row in rows if not row[0].value > row[1].value > row[2].value]
    text = (
        f"{len(rows) - len(broken)} of {len(rows)} conditions: {among(' > '.join(n.text for n in row) for row in rows)}"
    )
    return Outcome("disagrees" if broken else "agrees", text, f"{len(rows) - len(broken)} of {len(rows)}")


@check("rank correlation of two columns")
def not_monotone(paper: Paper, number: Number, *names: str) -> Outcome:
    """`names`: one column, then the other."""
    half = len(names) // 2
    first, second = ([n.value for n in paper.pick(part)] for part in (names[:half], names[half:]))
    rho = float(stats.spearmanr(first, second).statistic)
    text = f"Spearman's rank correlation over {half} conditions is {show(rho, 2)}"
    return Outcome("disagrees" if abs(rho) == 1 else "agrees", text, show(rho, 2))


@check("beyond the usual level of significance")
def not_significant(paper: Paper, number: Number, p: str) -> Outcome:
    holds = paper[p].low > 0.05
    return Outcome("agrees" if holds else "disagrees", f"p = {paper[p].text} against 0.05", paper[p].text)


@check("against the bands of Koo and Li (2016) for ICCs: moderate from 0.5, good from 0.75, excellent from 0.9")
def koo_li(paper: Paper, number: Number, *names: str) -> Outcome:
    def band(value: float) -> str:
        return ("poor", "moderate", "good", "excellent")[int(np.searchsorted([0.5, 0.75, 0.9], value, side="right"))]

    found = {n.subject: band(n.value) for n in paper.pick(names)}
    outside = [n for n in paper.pick(names) if band(n.high) != number.printed and band(n.low) != number.printed]
    text = (
        among(f"{n.subject} {n.text} ({found[n.subject]})" for n in paper.pick(names))
        + " by the bands of Koo and Li (2016)"
    )
    return Outcome("in doubt" if outside else "agrees", text, among(dict.fromkeys(found.values())))


@check("side of an image halved so many times")
def halved(paper: Paper, number: Number, size: str, times: str, less: str = "0") -> Outcome:
    """size / 2^(times − less)."""
    n = paper[times].value - int(less)
    formula = f"{show(paper[size].values[-1])} / 2^{show(n)}"
    return compare(_side(number), formula, *[paper[size].values[-1] / 2**n] * 3)


@check("side of the latent over each entry of another printed list")
def divided(paper: Paper, number: Number, size: str, by: str) -> Outcome:
    """Resolutions from down-sampling factors, or the other way round; a square n × n counts as n."""
    side = paper[size].values[-1]
    wanted = sorted({side / factor for factor in paper[by].values})
    text = f"{show(side)} over each of {paper[by].printed} is {among(show(x) for x in wanted)}"
    return Outcome(
        "agrees" if wanted == sorted(set(number.values)) else "disagrees", text, among(show(x) for x in wanted)
    )


@check("made up of other printed figures")
def joined(paper: Paper, number: Number, *parts: str) -> Outcome:
    wanted = tuple(value for n in paper.pick(parts) for value in n.values)
    text = among(f"{n.quantity} {n.printed}" for n in paper.pick(parts))
    return Outcome("agrees" if wanted == number.values else "disagrees", text, among(show(x) for x in wanted))


@check("number of entries of a printed list")
def length_of(paper: Paper, number: Number, name: str, less: str = "0") -> Outcome:
    n = len(paper[name].values) - int(less)
    return compare(number, f"entries of {paper[name].printed}{f' less {less}' if int(less) else ''}", *[float(n)] * 3)


@check("divides the channels of every level with attention")
def heads(paper: Paper, number: Number, base: str, multipliers: str, size: str, resolutions: str) -> Outcome:
    """Channels at the levels with attention are a whole number of heads of the printed width."""
    sides = [paper[size].values[-1] / 2**level for level in range(len(paper[multipliers].values))]
    attended = set(paper[resolutions].values)
    channels = [
        paper[base].value * m for m, side in zip(paper[multipliers].values, sides, strict=True) if side in attended
    ]
    counts = [c / number.value for c in channels]
    text = f"{among(show(c) for c in channels)} channels are {among(f'{c:g}' for c in counts)} heads of {number.text}"
    whole = bool(counts) and all(c.is_integer() for c in counts)
    return Outcome("agrees" if whole else "disagrees", text, among(f"{c:g}" for c in counts))


@check("what the noise schedule leaves of the signal at the last step")
def terminal_signal(paper: Paper, number: Number, first: str, last: str) -> Outcome:
    """√ᾱ_T, ᾱ_T = Π(1 − β_t) (Eq. 3), under β linear in t and under √β linear in t; sampling starts from N(0, I) (§4.3), which asks for about zero."""
    steps, b0, b1 = int(number.value), paper[first].value, paper[last].value
    linear = math.sqrt(np.prod(1 - np.linspace(b0, b1, steps)))
    scaled = math.sqrt(np.prod(1 - np.linspace(math.sqrt(b0), math.sqrt(b1), steps) ** 2))
    holds = max(linear, scaled) < 0.1
    text = (
        f"β from {paper[first].printed} to {paper[last].printed} in {show(steps)} steps leaves {100 * linear:.2g} % of the signal "
        f"(√ᾱ_T; {100 * scaled:.2g} % if √β is linear)"
    )
    return Outcome("agrees" if holds else "in doubt", text, f"{100 * linear:.2g} %")


def _side(number: Number) -> Number:
    """A square n × n as the number n."""
    return dataclasses.replace(number, values=number.values[-1:])
