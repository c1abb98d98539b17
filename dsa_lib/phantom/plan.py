"""Who is in the phantom archive: patients, studies, runs and their conditions, in the study's proportions.

Proportions (§2.1, §2.2, Table 1): 859 patients : 1,104 studies : 22,064 series : 3,694 excluded; arterial frames AC A 9.6, PC A 0.9,
AC B 26.9, PC B 8.0, Others 54.6 %, anterior 78.77 %. Counts are rounded by largest remainder. A small archive would then hold no PC A at
all, so every canonical cell gets at least `minimum_per_cell(kept)` series; at the study's own size that floor is never reached.
"""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
from pydicom.uid import generate_uid
from scipy.stats import norm

PATIENTS, STUDIES, SERIES, EXCLUDED = 859, 1104, 22064, 3694
WOMEN = 351 / 859
AGE_MEAN, AGE_SD, AGE_RANGE = 56.0, 15.32, (18, 91)
ANTERIOR_SHARE = 0.7877
CELL_SHARES = {"AC A": 0.096, "PC A": 0.009, "AC B": 0.269, "PC B": 0.080}
EXCLUDED_SHARES = {
    "ECA": 0.50,
    "rotational": 0.20,
    "arch": 0.14,
    "spinal": 0.11,
    "femoral": 0.05,
}  # our own choice: not published
YEARS = (2015, 2021)

TERMS = {
    "ICA": ("ACI {s}", "ACI {s}", "ICA {s}", "A. carotis int. {s}", "{S} ICA", "ACI {s} Kontrolle"),
    "CCA": ("ACC {s}", "CCA {s}", "A. carotis communis {s}"),
    "VA": ("VA {s}", "AV {s}", "VA {s}", "A. vertebralis {s}", "{S} VA", "BA ueber AV {s}"),
    "ECA": ("ACE {s}", "ECA {s}", "A. carotis ext. {s}"),
    "arch": ("Arch", "Aortenbogen", "Bogen"),
    "spinal": ("spinal Th8 {s}", "Spinal {s}", "Segmentalarterie {s}"),
    "femoral": ("Leiste {s}", "A. femoralis {s}"),
    "rotational": ("3D rot ACI {s}", "3D rot ICA {s}", "DynaCT AV {s}"),
}  # fmt: skip


def largest_remainder(total: int, shares) -> np.ndarray:
    """Whole numbers that sum to `total` and follow `shares` (any positive scale): Hamilton's method."""
    shares = np.asarray(shares, float)
    exact = total * shares / shares.sum()
    counts = np.floor(exact).astype(int)
    short = total - counts.sum()
    counts[np.argsort(-(exact - counts), kind="stable")[:short]] += 1
    return counts


def minimum_per_cell(kept: int, least: int = 16) -> int:
    """The fewest series a canonical cell gets in an archive of `kept` series: `least`, or a tenth of a small archive."""
    return min(least, max(kept // 10, 1))


def archive_size(patients: int, series_per_study: int) -> dict[str, int]:
    """Counts of studies, series, excluded and kept series. `series_per_study` 20 stands for the study's mean of 22,064 / 1,104."""
    studies = max(round(patients * STUDIES / PATIENTS), patients)
    series = round(studies * SERIES / STUDIES * series_per_study / 20)
    excluded = round(series * EXCLUDED / SERIES)
    return {"patients": patients, "studies": studies, "series": series, "excluded": excluded, "kept": series - excluded}


def _people(patients: int, rng) -> pd.DataFrame:
    ages = norm.ppf((np.arange(patients) + 0.5) / patients) * AGE_SD + AGE_MEAN
    ages = np.clip(np.rint(rng.permutation(ages)), *AGE_RANGE).astype(int)
    women = round(patients * WOMEN)
    sex = rng.permutation(np.array(["F"] * women + ["M"] * (patients - women)))
    return pd.DataFrame({"patient": np.arange(patients), "sex": sex, "age": ages})


def _studies(people: pd.DataFrame, studies: int, rng) -> pd.DataFrame:
    owner = np.concatenate([people["patient"], rng.choice(people["patient"], studies - len(people))])
    frame = pd.DataFrame({"patient": np.sort(owner)})
    frame["number"] = frame.groupby("patient").cumcount() + 1
    first = datetime.date(YEARS[0], 1, 1)
    days = (datetime.date(YEARS[1], 12, 31) - first).days
    frame["date"] = rng.integers(0, days + 1, len(frame))
    frame["date"] = frame.groupby("patient")["date"].transform(np.sort)  # later study, later day
    frame["date"] = [(first + datetime.timedelta(days=int(d))) for d in frame["date"]]
    return frame.merge(people, on="patient")


def _oblique(circulation: str, plane: str, side: int, rng) -> tuple[float, float]:
    """Positioner angles (primary, secondary) in degrees of a usual working view outside the canonical bins."""
    if plane == "B":
        primary = -90 + rng.choice([-1, 1]) * rng.uniform(7, 24)
        return primary, rng.choice([rng.normal(0, 1.5), rng.uniform(6, 16), -rng.uniform(6, 14)])
    if circulation == "posterior":  # Towne, or a half-oblique one
        return (
            (rng.normal(0, 2), rng.uniform(18, 34))
            if rng.random() < 0.7
            else (side * rng.uniform(15, 32), rng.uniform(6, 22))
        )
    view = rng.random()
    if view < 0.35:  # half-axial, orbits below the siphon
        return rng.normal(0, 2), rng.uniform(9, 22)
    if view < 0.5:
        return rng.normal(0, 2), -rng.uniform(8, 20)
    return side * rng.uniform(14, 36) * rng.choice([1, 1, 1, -1]), rng.choice(
        [rng.normal(0, 2), rng.uniform(6, 22), -rng.uniform(6, 15)]
    )


def _canonical(plane: str, rng) -> tuple[float, float]:
    """Angles inside Table 1's ±5° bins; seldom exactly at their centre."""
    primary, secondary = np.clip(rng.normal(0, [1.6, 1.3]), -4.4, 4.4)
    return (primary if plane == "A" else primary - 90), secondary


def _kept_runs(kept: int, least: int, rng) -> list[dict]:
    """Biplane runs of both circulations, with the planes' canonical cells dealt out."""
    runs = kept // 2
    anterior, posterior = largest_remainder(runs, [ANTERIOR_SHARE, 1 - ANTERIOR_SHARE])
    floor = minimum_per_cell(kept, least)
    out = []
    for circulation, count, short in (("anterior", anterior, "AC"), ("posterior", posterior, "PC")):
        planes = {}
        for plane in "AB":
            wanted = max(round(kept * CELL_SHARES[f"{short} {plane}"]), floor)
            planes[plane] = rng.permutation(np.arange(count) < min(wanted, count))
        for n in range(count):
            side = int(rng.choice([-1, 1]))
            vessel = "VA" if circulation == "posterior" else str(rng.choice(["ICA", "ICA", "ICA", "CCA"]))
            out.append({"circulation": circulation, "vessel": vessel, "side": side, "planes": "AB", "kind": "kept",
                        "canonical": {p: bool(planes[p][n]) for p in "AB"}})  # fmt: skip
    if kept % 2:
        out.append(
            {
                "circulation": "anterior",
                "vessel": "ICA",
                "side": 1,
                "planes": "A",
                "kind": "kept",
                "canonical": {"A": False},
            }
        )
    return out


def _excluded_runs(excluded: int, rng) -> list[dict]:
    counts = dict(zip(EXCLUDED_SHARES, largest_remainder(excluded, list(EXCLUDED_SHARES.values())), strict=True))
    out = []
    for kind, count in counts.items():
        while count > 0:
            planes = "AB" if kind == "ECA" and count > 1 else "A"
            count -= len(planes)
            vessel = {"rotational": str(rng.choice(["ICA", "ICA", "VA"]))}.get(kind, kind)
            out.append({"circulation": "", "vessel": vessel, "side": int(rng.choice([-1, 1])), "planes": planes, "kind": kind,
                        "canonical": dict.fromkeys("AB", True)})  # fmt: skip
    return out


def _describe(run: dict, rng) -> str:
    names = TERMS[run["kind"] if run["kind"] != "kept" else run["vessel"]]
    if run["kind"] == "rotational":
        names = [n for n in names if ("AV" in n) == (run["vessel"] == "VA")]
    german, english = ("li", "LT") if run["side"] > 0 else ("re", "RT")
    return str(rng.choice(list(names))).format(s=german, S=english)


def plan_archive(config, seed: int) -> pd.DataFrame:
    """One row a series with every fact of the archive before anything is rendered.

    config: a profile's `archive` section (patients, series_per_study, least_per_cell, matrix, frames, frame_time_ms, annotated_series). The same config
    and seed give the same plan. Columns: series (0-based), run, study_key, patient_id, study_number, study_date, sex, age,
    circulation ("anterior", "posterior" or ""), vessel, side (+1 left), kind ("kept" or why excluded), plane, primary_angle_deg,
    secondary_angle_deg, description, series_number, annotated, file (relative path), series/sop/study_instance_uid.
    """
    rng = np.random.default_rng([seed, 20150101])
    size = archive_size(config.patients, config.series_per_study)
    studies = _studies(_people(size["patients"], rng), size["studies"], rng)
    runs = _kept_runs(size["kept"], config.least_per_cell, rng) + _excluded_runs(size["excluded"], rng)
    home = np.concatenate([rng.permutation(len(studies)) for _ in range(len(runs) // len(studies) + 1)])[: len(runs)]
    order = np.argsort(home, kind="stable")
    rows = []
    next_number: dict[int, int] = {}
    for run_number, index in enumerate(order):
        run, study = runs[index], studies.iloc[home[index]]
        description = _describe(run, rng)
        for plane in run["planes"]:
            if run["canonical"][plane]:
                primary, secondary = _canonical(plane, rng)
            else:
                primary, secondary = _oblique(run["circulation"], plane, run["side"], rng)
                if abs(secondary) <= 5.5 and abs(primary - (-90 if plane == "B" else 0)) <= 5.5:
                    secondary = float(np.copysign(6.5, secondary))
            number = next_number[home[index]] = next_number.get(home[index], 0) + 1
            rows.append({
                "series": len(rows), "run": run_number, "patient": int(study["patient"]), "study_number": int(study["number"]),
                "study_date": study["date"], "sex": study["sex"], "age": int(study["age"]), "circulation": run["circulation"],
                "vessel": run["vessel"], "side": run["side"], "kind": run["kind"], "plane": plane,
                "primary_angle_deg": round(float(primary), 1), "secondary_angle_deg": round(float(secondary), 1),
                "description": description, "series_number": number,
            })  # fmt: skip
    plan = pd.DataFrame(rows)
    # The seed is part of the identifier: patient 1 of another seed has another anatomy, and trained models name the patients they have seen.
    plan["patient_id"] = [f"PHANTOM-{seed:X}-{p + 1:04d}" for p in plan["patient"]]
    plan["annotated"] = _annotated(plan, config.annotated_series, rng)
    plan["file"] = [
        f"{r.patient_id}/study{r.study_number:02d}/{r.series_number:04d}_{r.plane}.dcm" for r in plan.itertuples()
    ]
    plan["acquisition_number"] = plan.groupby(["patient", "study_number"])["run"].rank("dense").astype(int)
    for level, keys in (("study", ["patient", "study_number"]), ("series", ["series"]), ("sop", ["series"])):
        plan[f"{level}_instance_uid"] = [
            str(generate_uid(entropy_srcs=["dsa phantom", level, str(seed), str(size), *map(str, values)]))
            for values in plan[keys].itertuples(index=False)
        ]
    pairs = plan.groupby("run")["sop_instance_uid"].agg(list)
    plan["partners"] = [[u for u in pairs[r.run] if u != r.sop_instance_uid] for r in plan.itertuples()]
    return plan


def _annotated(plan: pd.DataFrame, count: int, rng) -> np.ndarray:
    """Which kept series an expert annotates: every stratum of circulation and plane by its share."""
    kept = plan["kind"] == "kept"
    count = min(count, int(kept.sum()))
    strata = plan[kept].groupby(["circulation", "plane"]).indices
    members = [np.flatnonzero(kept)[index] for index in strata.values()]
    share = largest_remainder(count, [len(m) for m in members])
    chosen = np.zeros(len(plan), bool)
    for rows, n in zip(members, share, strict=True):
        chosen[rng.permutation(rows)[:n]] = True
    return chosen
