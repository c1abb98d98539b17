"""Between conditions, between segments, between raters: the tests beside §2.4, which the paper describes in words only.

Images are the units: one score an image (the mean over raters, `readers.image_scores`), never one a rater, since ratings of
the same image are not independent. Rank tests, because scores are bounded and conditions differ in spread. Pairs are
corrected by Holm's method within their family, which is named in the docstring; p values without correction stand beside.
Undefined results are NaN with a `reason`.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import pingouin
from statsmodels.stats.inter_rater import cohens_kappa

from dsa_lib.core.statistics import holm
from dsa_lib.readers.mixed_model import leniency
from dsa_lib.readers.tables import REGIONS, SEGMENTS, ReaderStudy, image_scores, rating_matrix

FEW = 5  # images: below this the large-sample p values of rank tests are rough
NAN = float("nan")


def conditions(scores: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    """Do the conditions differ? Kruskal-Wallis test of the image scores, one row a region of Table 4.

    `scores` as `readers.image_scores` gives them. Columns: region, conditions (number compared), n_images, h, df, p, p_holm
    (family: the four regions), epsilon_squared (H / (n - 1): share of the variance of ranks between conditions; Kelley 1935),
    reason. Conditions without a scored image are left out and named in `reason`; the test needs two that have one.
    """
    rows = []
    for region in REGIONS:
        groups = _groups(scores, region, cells)
        rated = {cell: values for cell, values in groups.items() if len(values)}
        n = sum(map(len, rated.values()))
        row = dict(region=region, conditions=len(rated), n_images=n, h=NAN, df=NAN, p=NAN, epsilon_squared=NAN)
        reason = [f"without a scored image: {', '.join(c for c in cells if c not in rated)}"] if len(rated) < len(cells) else []  # fmt: skip
        if len(rated) < 2:
            reason.append("fewer than two conditions have a scored image")
        elif len(np.unique(np.concatenate(list(rated.values())))) == 1:
            reason.append("all scores are equal")
        else:
            long = pd.DataFrame(
                [(cell, v) for cell, values in rated.items() for v in values], columns=["cell", "score"]
            )
            test = pingouin.kruskal(long, dv="score", between="cell").iloc[0]
            row |= dict(h=test["H"], df=test["ddof1"], p=test["p_unc"], epsilon_squared=test["H"] / (n - 1))
            reason += _few(rated)
        rows.append(row | dict(reason="; ".join(reason)))
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    return table


def condition_pairs(scores: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    """Which conditions differ? Mann-Whitney test of every pair, one row a region and pair.

    Columns: region, a, b, n_a, n_b, difference (mean of a minus mean of b), u, p, p_holm (family: the pairs of a region),
    rank_biserial (-1 to 1; positive: a is rated higher), superiority (chance that an image of a scores higher than one of b,
    ties half), reason.
    """
    rows = []
    for region in REGIONS:
        groups = _groups(scores, region, cells)
        for a, b in combinations(cells, 2):
            x, y = groups[a], groups[b]
            row = dict(region=region, a=a, b=b, n_a=len(x), n_b=len(y))
            if not len(x) or not len(y):
                empty = " and ".join(c for c in (a, b) if not len(groups[c]))
                nothing = dict.fromkeys(("difference", "u", "p", "rank_biserial", "superiority"), NAN)
                rows.append(row | nothing | dict(reason=f"no scored image: {empty}"))
                continue
            test = pingouin.mwu(x, y).iloc[0]
            superiority = test["U_val"] / (len(x) * len(y))
            row |= dict(difference=x.mean() - y.mean(), u=test["U_val"], p=test["p_val"])
            row |= dict(rank_biserial=2 * superiority - 1, superiority=superiority)
            rows.append(row | dict(reason="; ".join(_few({a: x, b: y}))))
    columns = "region a b n_a n_b difference u p rank_biserial superiority reason".split()
    table = pd.DataFrame(rows, columns=columns)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", table.groupby("region")["p"].transform(holm))
    return table


def segments(scores: pd.DataFrame) -> pd.DataFrame:
    """Do proximal, medium and peripheral vessels differ within images? Friedman's test, then Wilcoxon's of every pair.

    Over the images in which all three segments have a score. One row the Friedman test (a = "all", b = "", statistic
    chi-squared, effect Kendall's W), one row a pair (statistic W, effect: matched-pairs rank-biserial correlation, positive
    where a is higher; p_holm over the three pairs). Columns: a, b, n_images, difference, statistic, p, p_holm, effect, reason.
    """
    complete = scores[list(SEGMENTS)].dropna()
    n = len(complete)
    nothing = dict.fromkeys(("difference", "statistic", "p", "effect"), NAN)
    rows = [dict(a="all", b="", n_images=n) | nothing | dict(reason="")]
    if n < 2:
        rows[0]["reason"] = "fewer than two images with all three segments scored"
    elif (complete.nunique(axis=1) == 1).all():
        rows[0]["reason"] = "the segments never differ within an image"
    else:
        long = complete.reset_index(names="image").melt("image", var_name="segment", value_name="score")
        test = pingouin.friedman(long, dv="score", within="segment", subject="image").iloc[0]
        rows[0] |= dict(statistic=test["Q"], p=test["p_unc"], effect=test["W"])
    for a, b in combinations(SEGMENTS, 2):
        row = dict(a=a, b=b, n_images=n) | nothing | dict(reason="")
        difference = complete[a] - complete[b]
        if n < 2:
            row["reason"] = rows[0]["reason"]
        elif (difference == 0).all():
            row |= dict(difference=0.0, reason="the two segments never differ")
        else:
            test = pingouin.wilcoxon(complete[a], complete[b]).iloc[0]
            row |= dict(difference=difference.mean(), statistic=test["W_val"], p=test["p_val"], effect=test["RBC"])
        rows.append(row)
    table = pd.DataFrame(rows)
    p_holm = [*table["p"].iloc[:1], *holm(table["p"].iloc[1:])]
    table.insert(table.columns.get_loc("p") + 1, "p_holm", p_holm)
    return table


def rater_leniency(study: ReaderStudy) -> pd.DataFrame:
    """Leniency of every rater by region: `mixed_model.leniency` on all available ratings.

    Columns: region, rater, role, n (ratings of that rater; for "overall", images), effect (rating points above the average
    rater), low, high (95 %), p_holm (family: the raters of a region), f_value, p_equal (all raters alike), reason.
    """
    role = study.ratings.drop_duplicates("rater").set_index("rater")["role"]
    parts = []
    for region in REGIONS:
        matrix = rating_matrix(study, region)
        result = leniency(matrix.to_numpy())
        part = result.effects.assign(f_value=result.f_value, p_equal=result.p_value, reason=result.reason)
        part.insert(0, "role", [role[rater] for rater in matrix.columns])
        part.insert(0, "rater", list(matrix.columns))
        part.insert(0, "region", region)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def weighted_kappa(a: np.ndarray, b: np.ndarray, grades: int = 5) -> dict[str, float | int | str]:
    """Cohen's kappa with quadratic weights of two raters' ratings 1 to `grades` [n], pairs with a NaN left out (Cohen 1968).

    Returns n_images, equal (share of identical ratings), kappa, low, high (95 % by the large-sample standard error of Fleiss,
    Cohen & Everitt 1969), reason. Kappa is NaN without a common image and when both raters gave one and the same rating
    throughout (agreement by chance is then complete); the interval is NaN also where the standard error is undefined.
    """
    both = np.isfinite(a) & np.isfinite(b)
    x, y = np.asarray(a)[both].astype(int), np.asarray(b)[both].astype(int)
    result = dict(n_images=len(x), equal=NAN, kappa=NAN, low=NAN, high=NAN, reason="")
    if not len(x):
        return result | dict(reason="no image was rated by both")
    result["equal"] = float((x == y).mean())
    if len(np.unique(np.concatenate([x, y]))) == 1:
        return result | dict(reason=f"both gave {x[0]} throughout, so that chance alone agrees completely")
    table = np.zeros((grades, grades))
    np.add.at(table, (x - 1, y - 1), 1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant rater has no standard error
        found = cohens_kappa(table, wt="quadratic")
    constant = [name for name, values in (("first", x), ("second", y)) if len(np.unique(values)) == 1]
    if constant:
        return result | dict(kappa=float(found.kappa), reason=f"the {constant[0]} rater gave one rating throughout")
    low, high = found.kappa - 1.959964 * found.std_kappa, found.kappa + 1.959964 * found.std_kappa
    return result | dict(kappa=float(found.kappa), low=float(max(low, -1)), high=float(min(high, 1)))


def kappas(study: ReaderStudy) -> pd.DataFrame:
    """Weighted kappa of every pair of raters by segment: segment, rater_a, rater_b, then `weighted_kappa`'s columns.

    A pair's images are those that both rated in that segment; flags are no category of the scale and are left out.
    """
    columns = ["segment", "rater_a", "rater_b", "n_images", "equal", "kappa", "low", "high", "reason"]
    rows = []
    for segment in SEGMENTS:
        matrix = rating_matrix(study, segment)
        for a, b in combinations(study.raters, 2):
            pair = weighted_kappa(matrix[a].to_numpy(), matrix[b].to_numpy())
            reason = pair["reason"].replace("the first rater", a).replace("the second rater", b)
            rows.append(dict(segment=segment, rater_a=a, rater_b=b) | pair | dict(reason=reason))
    if not rows:
        alone = dict(rater_a=next(iter(study.raters), ""), rater_b="", n_images=0, reason="fewer than two raters")
        rows = [dict(segment=segment) | alone for segment in SEGMENTS]
    return pd.DataFrame(rows, columns=columns)


def all_comparisons(study: ReaderStudy) -> dict[str, pd.DataFrame]:
    """Everything above for one study, by name: conditions, condition_pairs, segments, leniency, kappa."""
    scores = image_scores(study)
    return {
        "conditions": conditions(scores, study.cells),
        "condition_pairs": condition_pairs(scores, study.cells),
        "segments": segments(scores),
        "leniency": rater_leniency(study),
        "kappa": kappas(study),
    }


def readable(table: pd.DataFrame, decimals: int = 2) -> pd.DataFrame:
    """For the eye: numbers rounded, p values to three decimals and below that as "<0.001"; columns without content dropped."""
    shown = table.round(decimals)
    for column in table.columns[table.columns.str.match(r"p(_|$)")]:
        shown[column] = ["" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}" for p in table[column]]
    return shown.drop(columns=[c for c in shown if len(shown) and shown[c].eq("").all()])


def _groups(scores: pd.DataFrame, region: str, cells: Sequence[str]) -> dict[str, np.ndarray]:
    return {cell: scores.loc[scores["cell"].eq(cell), region].dropna().to_numpy(float) for cell in cells}


def _few(groups: dict[str, np.ndarray]) -> list[str]:
    few = [f"{cell} ({len(values)})" for cell, values in groups.items() if len(values) < FEW]
    return [f"p is rough, fewer than {FEW} images: {', '.join(few)}"] if few else []
