"""Checks of the ledger that hold for any paper: sums, shares, ratios, extremes, and what is printed twice. Each takes the ids of other numbers."""

import math

from scipy import stats

from dsa_lib.paper.printed_number import Number, Outcome, Paper, among, check, compare, show, spread
from dsa_lib.run.profiles import PAPER

FEW = 3  # so many whole numbers that would fit are named, no more


@check("printed in more than one place: the places must agree")
def same(paper: Paper, number: Number, *others: str) -> Outcome:
    for other in paper.pick(others):
        differs = (
            number.values != other.values
            if len(number.values) != 1 or len(other.values) != 1
            else number.low > other.high or number.high < other.low
        )
        if differs:
            text = f"{number.text} here, {other.text} in {other.place} ({other.quantity})"
            return Outcome("disagrees", text, other.text, number.value - other.value, other.id)
    first = paper[others[0]]
    places = among(dict.fromkeys(other.place for other in paper.pick(others)))
    return Outcome("restated", f"the same in {places}", first.text, number.value - first.value)


@check("sum of its parts")
def total(paper: Paper, number: Number, *parts: str) -> Outcome:
    numbers = paper.pick(parts)
    return compare(number, _joined(" + ", numbers), *spread(lambda *x: math.fsum(x), numbers))


@check("what the other parts leave of the whole")
def rest(paper: Paper, number: Number, *names: str) -> Outcome:
    """`names`: the whole, then the other parts."""
    numbers = paper.pick(names)
    return compare(number, _joined(" − ", numbers), *spread(lambda whole, *x: whole - math.fsum(x), numbers))


@check("what the other shares leave of 100 %")
def remainder(paper: Paper, number: Number, *parts: str) -> Outcome:
    numbers = paper.pick(parts)
    formula = f"100 − ({_joined(' + ', numbers)})"
    return compare(number, formula, *spread(lambda *x: 100 - math.fsum(x), numbers))


@check("product of other printed numbers")
def product(paper: Paper, number: Number, *factors: str) -> Outcome:
    numbers = paper.pick(factors)
    return compare(number, _joined(" · ", numbers), *spread(lambda *x: math.prod(x), numbers))


@check("ratio of other printed numbers")
def ratio(paper: Paper, number: Number, above: str, below: str) -> Outcome:
    numbers = paper.pick([above, below])
    return compare(number, _joined(" / ", numbers), *spread(lambda a, b: a / b, numbers))


@check("share of a whole; where it fails, which whole numbers would print so")
def share(paper: Paper, number: Number, whole: str, *parts: str) -> Outcome:
    """100 · Σ parts / whole."""
    of, counted = paper[whole], paper.pick(parts)
    sum_ = _joined(" + ", counted)
    formula = f"100 · {f'({sum_})' if len(counted) > 1 else sum_} / {of.text}"
    found = compare(number, formula, *spread(lambda w, *x: 100 * math.fsum(x) / w, [of, *counted]))
    if found.outcome == "agrees":
        return found
    remarks = _what_would_fit(paper, number, of, sum(n.value for n in counted))
    return Outcome(found.outcome, ". ".join([found.text, *remarks]), found.computed, found.residual)


@check("a share of a whole that the text does not name: of the nearest, and of others that it may be")
def share_of(paper: Paper, number: Number, part: str, nearest: str, *others: str) -> Outcome:
    """100 · part / whole, in doubt where it is right for another whole than the nearest in the text."""
    found = share(paper, number, nearest, part)
    if found.outcome != "disagrees" or all(share(paper, number, of, part).outcome != "agrees" for of in others):
        return found
    return Outcome("in doubt", f"{found.text}. The text does not say of what", found.computed, found.residual)


def _what_would_fit(paper: Paper, number: Number, of: Number, count: float) -> list[str]:
    """Whole numbers in place of the printed ones under which the printed share would be right (the GRIM test of a percentage)."""
    remarks = []
    if math.floor(number.high * of.value / 100) < math.ceil(number.low * of.value / 100):
        remarks.append(f"No whole number of {of.text} prints as {number.text}")
    first, last = math.ceil(100 * count / number.high), math.floor(100 * count / number.low)
    wholes = list(range(first, last + 1))
    named = {
        n.value: f"{n.text} ({n.quantity}, {n.place})"
        for n in paper.numbers.values()
        if n.unit == of.unit and n.kind == "exact" and len(n.values) == 1 and first <= n.value <= last
    }
    if named:
        remarks.append(f"{show(count)} are {number.text} of {among(named.values())}")
    elif 0 < len(wholes) <= FEW:
        remarks.append(f"{show(count)} are {number.text} of {among(show(n) for n in wholes)}")
    return remarks


@check("smallest of other printed numbers")
def lowest(paper: Paper, number: Number, *names: str) -> Outcome:
    return _extreme(paper, number, names, "smallest", min)


@check("largest of other printed numbers")
def highest(paper: Paper, number: Number, *names: str) -> Outcome:
    return _extreme(paper, number, names, "largest", max)


def _extreme(paper: Paper, number: Number, names: tuple[str, ...], word: str, choose) -> Outcome:
    one = choose(paper.pick(names), key=lambda n: n.value)
    return compare(number, f"{word} of {len(names)} in {one.place} ({one.subject})", one.low, one.value, one.high)


@check("how many of other printed numbers lie in the printed range")
def count_between(paper: Paper, number: Number, low: str, high: str, *names: str) -> Outcome:
    """A number lies in the range when it does so after rounding to the digits of the range."""
    inside = [n for n in paper.pick(names) if paper[low].low <= n.value <= paper[high].high]
    formula = (
        f"of {len(names)} in {inside[0].place if inside else 'the table'}, in {paper[low].text} to {paper[high].text}"
    )
    return compare(number, formula, *[float(len(inside))] * 3)


@check("number of things in a printed list")
def count_of(paper: Paper, number: Number, name: str) -> Outcome:
    terms = paper[name].terms
    return compare(number, f"{among(terms)} ({paper[name].place})", *[float(len(terms))] * 3)


@check("position in a printed list")
def position_of(paper: Paper, number: Number, name: str, term: str) -> Outcome:
    place = paper[name].terms.index(term) + 1
    return compare(number, f"place of {term} in {paper[name].place}", *[float(place)] * 3)


@check("an entry of a printed list")
def in_list(paper: Paper, number: Number, name: str) -> Outcome:
    holds = number.value in paper[name].values
    return Outcome(
        "agrees" if holds else "disagrees", f"in {paper[name].printed} ({paper[name].place})", paper[name].printed
    )


@check("cannot exceed another number")
def at_most(paper: Paper, number: Number, *factors: str) -> Outcome:
    """`factors`: numbers whose product is the bound."""
    bound = math.prod(n.value for n in paper.pick(factors))
    holds = number.value <= bound
    formula = _joined(" · ", paper.pick(factors)) + (f" = {show(bound)}" if len(factors) > 1 else "")
    return Outcome("possible" if holds else "disagrees", f"at most {formula}", f"≤ {show(bound)}", None)


@check("two-sided p of Student's t at the printed group sizes")
def p_of_t(paper: Paper, number: Number, t: str, people: str) -> Outcome:
    n = paper[people].value

    def p(value: float, size: float) -> float:
        return 2 * stats.t.sf(abs(value), size - 2)

    formula = f"two-sided p of t = {paper[t].text} with {show(n - 2)} degrees of freedom"
    return compare(number, formula, *spread(p, paper.pick([t, people])))


@check("between the printed smallest and largest value")
def within(paper: Paper, number: Number, low: str, high: str) -> Outcome:
    holds = paper[low].value <= number.value <= paper[high].value
    return Outcome("possible" if holds else "disagrees", f"between {paper[low].text} and {paper[high].text}")


@check("not above the largest SD that mean, range and number allow")
def sd_within(paper: Paper, number: Number, mean: str, low: str, high: str, size: str) -> Outcome:
    """A sample between a and b with mean m has a variance of at most (m − a)(b − m)·n/(n − 1) (Bhatia and Davis 2000)."""
    m, a, b, n = (x.value for x in paper.pick([mean, low, high, size]))
    bound = math.sqrt((m - a) * (b - m) * n / (n - 1))
    text = f"at most √(({show(m, paper[mean].decimals)} − {show(a)})·({show(b)} − {show(m, paper[mean].decimals)})·n/(n − 1)) = {show(bound, 2)}"
    return Outcome("possible" if number.low <= bound else "disagrees", text, f"≤ {show(bound, 2)}")


@check("reproduced by the simulated cohort at the study's size, which is fitted to the published values")
def simulated(paper: Paper, number: Number) -> Outcome:
    """Shows that records exist which have this number together with all others of §2.1–2.2; no second measurement of it."""
    return _fitted(paper, number, "the simulated cohort at the study's size", "notebook 01 has not run")


@check("reproduced by the reconstructed ratings, which are fitted to the published values")
def reconstructed(paper: Paper, number: Number) -> Outcome:
    """Shows that whole-number ratings exist which have this number together with all others of Tables 2–4; no second measurement of it."""
    return _fitted(paper, number, "the reconstructed ratings", "there are no reconstructed ratings")


def _fitted(paper: Paper, number: Number, what: str, otherwise: str) -> Outcome:
    if number.cell not in paper.simulated:
        return Outcome("not run", f"{what} {'were' if what.endswith('s') else 'was'} not at hand: {otherwise}")
    value = paper.simulated[number.cell]
    holds = number.low - 1e-9 <= value <= number.high + 1e-9
    shown = show(value, number.decimals + (0 if holds else 2))
    text = f"{shown} in {what}, fitted to the published values"
    return Outcome("reproduced" if holds else "missed", text, shown, number.value - value)


@check("a choice of the authors, which nothing else gives; beside it the value that profile `paper` computes with")
def setting(paper: Paper, number: Number, name: str) -> Outcome:
    """`name`: section.field of profiles.PAPER."""
    section, field = name.split(".")
    value = getattr(getattr(PAPER, section), field)
    values = tuple(float(x) for x in (value if isinstance(value, tuple) else (value,)))
    # A side stands for a square, and channels for multipliers of the first.
    readings = {
        values,
        values * len(number.values),
        tuple(x / values[0] for x in values) if len(values) > 1 else values,
    }
    if number.values not in readings:
        return Outcome("disagrees", f"profile `paper` has {name} = {value}, printed {number.text}", str(value))
    return Outcome("setting", f"a choice of the authors; profile `paper` has the same ({name})", number.text)


def _joined(sign: str, numbers: list[Number]) -> str:
    return sign.join(n.figure for n in numbers)
