"""The books at the study's size: simulated acquisition records through the study's own filter, split and tables (§2.1–2.2, Figure 1, Table 1).

Everything here is *fitted to the published values*. There are no images and no patients: records, as `dicom.series` reads them from a file, are drawn so
that their marginals are the paper's, and then filtered, counted and tabulated by the code that serves a real archive. That Table 1 and Figure 1
come out exactly shows that the bookkeeping is right at 22,064 series. It says nothing about the study's images or results.

What the paper leaves open is chosen here and is no finding: why series were excluded, frames a series, how many series each circulation
has, the plane of the frames in "Others" (equal halves: a biplane system exposes both at once), and that every patient and study keeps a series.

Where its numbers do not agree with each other:

- 351 of 859 patients are 40.86 %, not 41.15 %. That is their share of 853: here six patients have no stated sex.
- t = −0.03 gives p = 0.98. Only −0.035 < t < −0.031 prints as −0.03 with p = 0.97; the ages are fitted to that.
- The cells of Table 1 hold 45.3 % of the frames by count; 45.4 % (§2.2) is the sum of their rounded shares. "Others" is 54.65 %, printed 54.6.
- "Studies" of neither circulation were excluded (§2.2), yet 1,104 studies and 859 patients are counted before that (§2.1). Here series are excluded, as
  they are counted.
- Table 1 is called the training set and has all 99,349 frames; then none are left for the held-out frames of §2.5.
- The 99,349 frames are "a result" of classifying the 17,417 series without annotation; whether the 953 annotated ones contribute frames is not said.
  Here they do, as in notebook 02.
"""

import datetime
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from dsa_lib.core import published as core_published
from dsa_lib.core.condition_sentences import CANONICAL, CELLS
from dsa_lib.curation import annotations, circulation, filter_flow
from dsa_lib.curation.cohort import Cohort, account, apportion, balance, describe, divide, frame_rows, table1
from dsa_lib.dicom.series import Acquisition
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import PROJECT

HEADING = "Fitted to the published values: simulated records, no study results"  # over everything that is shown of it
COUNTED_IN = "simulated records without images; reasons of exclusion and frames in all are chosen, not published"
YEARS = (2015, 2021)  # §2.1
FRAME_TIME_S = 0.25
ANTERIOR = ("ACI re", "ACI li", "ICA RT", "LT ICA", "A. carotis int. re", "ACC li", "CCA re", "MCA li")
POSTERIOR = ("AV li", "VA re", "A. vertebralis li", "BA ueber AV li", "LVA", "PICA re")
# Series that are neither: words and their weights.
NEITHER = {
    "ACE re": 30,
    "ECA li": 20,
    "Aortenbogen": 12,
    "Spinal Th8 li": 10,
    "Leiste re": 6,
    "A. subclavia li": 4,
    "ACI / AV re": 6,
    "Kontrolle": 12,
}


@dataclass(frozen=True)
class PaperScale:
    """The simulated cohort. `arterial`: rows of `frame_rows` that are arterial; `annotated`: [series, frame]; `further`: counts of Figure 1 beyond
    those in `cohort.flow`."""

    cohort: Cohort
    arterial: pd.DataFrame
    annotated: pd.DataFrame
    further: dict


def published(name: str) -> pd.DataFrame:
    """Published values of "cohort" (§2.1), "figure1" or "table1": columns row, column, published."""
    frame = pd.read_csv(PROJECT / "data_manifests" / "published" / f"{name}.csv")
    if name == "figure1":
        frame = frame.rename(columns={"stage": "row"}).assign(column="Count")
    return frame[["row", "column", "published"]]


def simulate(settings: Curation, seed: int) -> PaperScale:
    """The study's cohort from simulated records. The same seed gives the same cohort; its sums are checked by `cohort.balance`."""
    rng = np.random.default_rng([seed, 22064])
    acquisitions, starts, lengths = draw_acquisitions(rng)
    vocabulary = circulation.read_vocabulary()
    records = [filter_flow.judge(acquisition, vocabulary) for acquisition in acquisitions]
    names = [f"{index:05d}" for index in range(len(records))]
    found = divide(account(names, records, key=b"nobody's archive"), settings, seed)
    frames = frame_rows(found.series)
    found.flow["split"] = filter_flow.count_split(frames)
    balance(found)
    order = found.key.set_index("series")["file"].astype(int)
    begin, length = (frames["series"].map(order.map(pd.Series(values))) for values in (starts, lengths))
    arterial = frames[(frames["frame"] >= begin) & (frames["frame"] < begin + length)].reset_index(drop=True)
    marks = _marks(found, order.map(pd.Series(starts + lengths - 1)), rng)
    annotated = annotations.match_annotations(marks, found.key, found.series, "the simulated annotations")
    further = filter_flow.count_arterial(arterial, len(annotated))
    del further["split"]  # no published number stands behind it
    return PaperScale(found, arterial, annotated, further)


def fitted_tables(simulated: PaperScale) -> dict[str, pd.DataFrame]:
    """Table 1, Figure 1 and the cohort facts of the simulation beside the published ones: columns row, column, published, fitted, source."""
    flow, further = simulated.cohort.flow, simulated.further
    stages = {
        "series read": flow["series read"],
        "excluded": sum(flow["excluded"].values()),
        "series kept": flow["series kept"],
        "annotated": further["annotated"],
        "classified": flow["series kept"] - further["annotated"],
        "arterial": len(simulated.arterial),
        "anterior": further["anterior"],
        "posterior": further["posterior"],
        "patients": flow["patients"],
        "studies": flow["studies"],
    }
    values = {
        "cohort": {(name, "Value"): value for name, value in describe(simulated.cohort.series).items()},
        "figure1": {(name, "Count"): value for name, value in stages.items()},
        "table1": table1(simulated.arterial),
    }
    return {name: core_published.fitted(published(name), cells) for name, cells in values.items()}


# --- drawing the records ----------------------------------------------------------------------------------------------------------------------


def draw_acquisitions(rng: np.random.Generator) -> tuple[list[Acquisition], np.ndarray, np.ndarray]:
    """(records of all series, first arterial frame of each, number of arterial frames of each: 0 where the series belongs to neither circulation)."""
    stages = published("figure1").set_index("row")["published"].astype(int)
    studies = draw_studies(draw_patients(rng), int(stages["studies"]), rng)
    views = [*_kept_views(stages, rng), *_other_views(int(stages["excluded"]), rng)]
    # Every study has a series that is kept; the rest fall where they may.
    home = np.concatenate([np.arange(len(studies)), rng.integers(len(studies), size=len(views) - len(studies))])
    order = rng.permutation(len(views))  # files of an archive do not come sorted by what they show
    rows = studies.to_dict("records")
    before = rng.integers(3, 9, len(views))
    after = rng.integers(6, 15, len(views))
    acquisitions = [_acquisition(i, rows[home[i]], views[i], int(before[i] + after[i])) for i in order]
    return acquisitions, before[order], np.array([views[i]["arterial"] for i in order])


def draw_patients(rng: np.random.Generator) -> pd.DataFrame:
    """Patients [patient_id, sex, age at the first study] with the sex, the ages and the t-test of §2.1."""
    facts = published("cohort").set_index("row")["published"]
    patients, female = int(facts["patients"]), int(facts["female"])
    stated = round(100 * female / facts["female (%)"])
    sex = rng.permutation(np.repeat(["F", "M", ""], [female, stated - female, patients - stated]))
    names = ("mean age (years)", "SD of age (years)", "youngest", "oldest")
    ages = np.tile(fitted_ages(patients, *(facts[name] for name in names)), (1000, 1))
    printed = facts["t, age of men against women"], facts["p"]
    # Who has which age is drawn anew until the test prints as it was printed: about one draw in 700.
    while True:
        ages = rng.permuted(ages, axis=1)
        t, p = stats.ttest_ind(ages[:, sex == "M"], ages[:, sex == "F"], equal_var=False, axis=1)
        hits = np.flatnonzero((t.round(2) == printed[0]) & (p.round(2) == printed[1]))
        if len(hits):
            break
    people = [f"SIMULATED-{i + 1:04d}" for i in range(patients)]
    return pd.DataFrame({"patient_id": people, "sex": sex, "age": ages[hits[0]]})


def fitted_ages(count: int, mean: float, sd: float, youngest: float, oldest: float) -> np.ndarray:
    """Whole years, sorted: quantiles of a normal distribution cut at both ends, whose own mean and SD lead to the given ones after the cut."""

    def quantiles(parameters: np.ndarray) -> np.ndarray:
        centre, width = parameters
        cut = stats.truncnorm((youngest - centre) / width, (oldest - centre) / width, loc=centre, scale=width)
        return cut.ppf((np.arange(count) + 0.5) / count)

    def misfit(parameters: np.ndarray) -> list[float]:
        ages = quantiles(parameters)
        return [
            ages.mean() - mean,
            np.sqrt(ages.var(ddof=1) + 1 / 12) - sd,
        ]  # 1/12: what rounding to whole years adds to the variance

    ages = np.rint(quantiles(optimize.root(misfit, [mean, sd]).x)).astype(int)
    ages[0], ages[-1] = youngest, oldest
    # Ages near the mean take up what rounding left over of the sum; the SD does not feel it.
    rest = round(count * mean) - ages.sum()
    near = np.argsort(np.abs(ages - mean), kind="stable")[: abs(rest)]
    ages[near] += np.sign(rest)
    return np.sort(ages)


def draw_studies(patients: pd.DataFrame, studies: int, rng: np.random.Generator) -> pd.DataFrame:
    """`studies` [patient_id, sex, age, study_uid]: one for everyone, the others for anyone; the age grows with the years between them."""
    owner = np.concatenate([np.arange(len(patients)), rng.integers(len(patients), size=studies - len(patients))])
    first, last = datetime.date(YEARS[0], 1, 1).toordinal(), datetime.date(YEARS[1], 12, 31).toordinal()
    frame = patients.iloc[np.sort(owner)].reset_index(drop=True)
    frame["day"] = rng.integers(first, last + 1, studies)
    since = frame["day"] - frame.groupby("patient_id")["day"].transform("min")
    frame["age"] += since // 365
    frame["study_uid"] = [f"2.25.1.{index}" for index in range(studies)]
    return frame


def _kept_views(stages: pd.Series, rng: np.random.Generator) -> list[dict]:
    """Descriptions, planes, angles and number of arterial frames of the kept series: Table 1's cells, and the rest of each circulation."""
    frames = published("table1").query("column == 'Count'").set_index("row")["published"].astype(int)
    strata = {(CANONICAL[cell].circulation, CANONICAL[cell].plane, True): int(frames[cell]) for cell in CELLS}
    for name in ("anterior", "posterior"):
        half, total = divmod(int(stages[name]), 2)[0], int(stages[name])
        strata[name, "A", False] = half - strata[name, "A", True]
        strata[name, "B", False] = total - half - strata[name, "B", True]
    views = []
    series = apportion(int(stages["series kept"]), list(strata.values()))
    for ((name, plane, canonical), total), count in zip(strata.items(), series, strict=True):
        arterial = 1 + rng.multinomial(total - count, np.full(count, 1 / count))
        words = rng.choice(ANTERIOR if name == "anterior" else POSTERIOR, count)
        angles = _canonical_angles(plane, count, rng) if canonical else _oblique_angles(plane, count, rng)
        for word, (primary, secondary), number in zip(words, angles, arterial, strict=True):
            view = {"words": str(word), "plane": plane, "primary": float(primary), "secondary": float(secondary)}
            views.append(view | {"arterial": int(number)})
    return [views[i] for i in rng.permutation(len(views))]


def _other_views(count: int, rng: np.random.Generator) -> list[dict]:
    words = np.repeat(list(NEITHER), apportion(count, list(NEITHER.values())))
    planes = rng.choice(["A", "B"], count)
    angles = {plane: _canonical_angles(plane, count, rng) for plane in "AB"}
    return [
        {"words": str(word), "plane": str(plane), "primary": float(angles[plane][i, 0]), "secondary": float(angles[plane][i, 1]), "arterial": 0}
        for i, (word, plane) in enumerate(zip(words, planes, strict=True))
    ]  # fmt: skip


def _canonical_angles(plane: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 2] degrees within ±5° of the canonical position, the borders included."""
    centre = [CANONICAL[f"AC {plane}"].primary_angle_deg, CANONICAL[f"AC {plane}"].secondary_angle_deg]
    return np.round(np.clip(rng.normal(0, 2.5, (count, 2)), -5, 5), 1) + centre


def _oblique_angles(plane: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 2] degrees beyond ±5° in one of the two angles or both: half-axial, oblique, or the other way round."""
    centre = [CANONICAL[f"AC {plane}"].primary_angle_deg, CANONICAL[f"AC {plane}"].secondary_angle_deg]
    near = np.clip(rng.normal(0, 2.5, (count, 2)), -5, 5)
    far = rng.choice([-1, 1], (count, 2)) * rng.uniform(5.1, 40, (count, 2))
    which = rng.integers(1, 4, count)  # bit 0: primary beyond, bit 1: secondary beyond
    beyond = np.stack([which & 1, which & 2], axis=1) > 0
    return np.round(np.where(beyond, far, near), 1) + centre


def _acquisition(number: int, study: dict, view: dict, frames_without: int) -> Acquisition:
    """The record of one series; its arterial frames come on top of `frames_without`, the frames before and after them."""
    frames = frames_without + view["arterial"]
    return Acquisition(
        patient_id=study["patient_id"],
        study_uid=study["study_uid"],
        series_uid=f"2.25.2.{number}",
        sop_uid=f"2.25.3.{number}",
        texts=(view["words"], "Neuro DSA 4 B/s", "HEAD"),
        sex=study["sex"],
        age=int(study["age"]),
        plane=view["plane"],
        plane_source="ImageType",
        primary_angle_deg=view["primary"],
        secondary_angle_deg=view["secondary"],
        rotational=False,
        table_moves=False,
        differencing=False,
        frames=frames,
        frame_times_s=tuple(FRAME_TIME_S * i for i in range(frames)),
        frame_time_source="FrameTime",
        relationship="LOG",
    )


def _marks(found: Cohort, last_arterial: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """The expert's table [series, frame]: for the published number of kept series the last, best filled arterial frame."""
    number = int(published("figure1").set_index("row")["published"]["annotated"])
    kept = found.series.loc[found.series["kept"], "series"].to_numpy()
    chosen = np.sort(rng.choice(kept, number, replace=False))
    return pd.DataFrame({"series": chosen, "frame": last_arterial[chosen].astype(str).to_numpy()})
