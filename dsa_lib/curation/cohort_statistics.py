"""What the kept series and their arterial frames are, in numbers: Table 1 and the cohort facts of §2.1. Tables in, numbers out."""

import math
from collections import Counter

import pandas as pd
from scipy.stats import ttest_ind

from dsa_lib.core.conditions import CELLS, OTHERS, Condition


def cell_of(row) -> str:
    """Row of Table 1 for anything with circulation, plane, primary_angle_deg and secondary_angle_deg."""
    return Condition(row.circulation, row.plane, row.primary_angle_deg, row.secondary_angle_deg).cell()


def table1(arterial: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Table 1 from arterial frames: (row, column) → count, and proportion in per cent with one decimal."""
    angles = ["circulation", "plane", "primary_angle_deg", "secondary_angle_deg"]
    groups = arterial.groupby(angles, sort=True).size().reset_index(name="frames")
    counts = Counter()
    for row in groups.itertuples():
        counts[cell_of(row)] += int(row.frames)
    rows = (*CELLS, OTHERS)
    total = sum(counts.values())
    # In tenths of a per cent, so that they add up to exactly 100: how the published ones were rounded (54,297 of 99,349 as 54.6).
    shares = [n / 10 for n in apportion(1000, [counts[name] for name in rows])] if total else [float("nan")] * len(rows)
    table = {}
    for name, count, share in zip(
        (*rows, "Total"), [*(counts[n] for n in rows), total], [*shares, sum(shares)], strict=True
    ):
        table[name, "Count"] = count
        table[name, "Proportion (%)"] = round(share, 1)
    return table


def apportion(total: int, weights: list[int]) -> list[int]:
    """Whole numbers that sum to `total` and follow the whole `weights`: Hamilton's method of the largest remainder, ties to the earlier."""
    exact = [divmod(total * weight, sum(weights)) for weight in weights]
    missing = total - sum(whole for whole, _ in exact)
    largest = set(sorted(range(len(weights)), key=lambda index: -exact[index][1])[:missing])
    return [whole + (index in largest) for index, (whole, _) in enumerate(exact)]


def describe(series: pd.DataFrame) -> dict[str, float]:
    """Cohort facts of §2.1 over the patients with a kept series, rounded as the paper prints them.

    Age is the patient's at the first study that states it. The share of women is of the patients whose sex is stated: the only reading under which 351
    women are the printed 41.15 % (of 853; of all 859 they are 40.86 %). `t` and `p` are Welch's test, men against women, which does not presume equal
    variances; the paper names no variant, and at its size Student's gives the same digits. NaN where a sex has fewer than two ages.
    """
    kept = series[series["kept"]]
    patients = (
        kept.assign(sex=kept["sex"].replace("", None))
        .sort_values("age")
        .groupby("patient")
        .agg(sex=("sex", "first"), age=("age", "first"))
    )
    stated = int(patients["sex"].notna().sum())
    ages = patients["age"].dropna().astype(float)
    men, women = (ages[patients.loc[ages.index, "sex"] == sex] for sex in "MF")
    t, p = ttest_ind(men, women, equal_var=False) if min(len(men), len(women)) > 1 else (math.nan, math.nan)
    female = int((patients["sex"] == "F").sum())
    return {
        "patients": len(patients),
        "female": female,
        "female (%)": round(100 * female / stated, 2) if stated else math.nan,
        "studies": int(kept["study"].nunique()),
        "studies per patient": round(kept["study"].nunique() / len(patients), 2),
        "mean age (years)": round(float(ages.mean()), 1),
        "SD of age (years)": round(float(ages.std()), 2),
        "youngest": float(ages.min()),
        "oldest": float(ages.max()),
        "t, age of men against women": round(float(t), 2),
        "p": float(f"{p:.2g}"),
    }
