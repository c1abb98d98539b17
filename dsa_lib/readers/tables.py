"""The reader study (paper §2.4): two files in, checked; masked and aggregated scores, Tables 2-4 and Figure 4's data out.

`screening.csv`: image_id, circulation, plane, kept. One row an image: the senior reader's keep or reject.
`ratings.csv`: image_id, rater, role, segment, rating, flag. One row an image, rater and segment: a rating 1-5 or a flag.

The same two files come from human readers, from the rater model and from any reconstruction; no result here depends on which.
Undefined results are NaN with a sentence saying why in `ReaderStudy.notes` or in a `reason` column.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.readers.mixed_model import MixedFit, mixed_icc
from dsa_lib.readers.reliability import Reliability, icc2

SEGMENTS = ("proximal", "medium", "peripheral")
SHORT = {"overall": "Overall", "proximal": "Prox.", "medium": "Med.", "peripheral": "Peri."}  # Tables 2 and 3
REGIONS = ("proximal", "medium", "peripheral", "overall")  # the order of Table 4
EXPERT_ROLES = ("NR", "NS")  # Table 4: two neuroradiologists and one neurosurgeon
NOT_RATABLE = ("not_present", "not_applicable")
EXTERNAL = "external_circulation"
RATER_SETS = ("All raters", "Domain experts only")


@dataclass(frozen=True)
class ReaderStudy:
    """A checked reader study.

    `screening` [image_id, circulation, plane, kept (bool), cell]; `ratings` [image_id, rater, role, segment, rating (float,
    NaN where flagged), flag ("" where rated), cell]; `notes`: what a reader of the results must know, one sentence each;
    `expert_roles`: whose raters are the domain experts of Table 4; `origin`: where the ratings come from, of
    `dsa_lib.readers.rating_origin` ("": not stated).
    """

    screening: pd.DataFrame
    ratings: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    expert_roles: tuple[str, ...] = EXPERT_ROLES
    origin: str = ""

    @property
    def cells(self) -> list[str]:
        """Conditions in Table 1's order (AC A, PC A, AC B, PC B), further ones after them by name."""
        found = set(self.screening["cell"])
        return [c for c in CELLS if c in found] + sorted(found - set(CELLS))

    @property
    def raters(self) -> list[str]:
        """Rater names: neuroradiologists, neurosurgeons, internal medicine, others; by name within a role."""
        order = {role: i for i, role in enumerate(("NR", "NS", "IM"))}
        roles = self.ratings.drop_duplicates("rater").set_index("rater")["role"]
        return sorted(roles.index, key=lambda rater: (order.get(roles[rater], 9), rater))

    @property
    def kept(self) -> pd.DataFrame:
        """The screening rows that were kept."""
        return self.screening[self.screening["kept"]]


def image_scores(study: ReaderStudy) -> pd.DataFrame:
    """Masked image scores (§2.4): one row a kept image [image_id, cell, proximal, medium, peripheral, overall, scored].

    A segment's score is the mean of the available ratings over raters; flagged entries (not present, not applicable,
    external circulation) are left out. `overall` is the mean of the segment scores that remain, each segment counting
    once however many raters scored it. NaN: nothing ratable. `scored`: at least one segment has a score.
    """
    scores = study.ratings.pivot_table(index="image_id", columns="segment", values="rating", aggfunc="mean")
    table = study.kept[["image_id", "cell"]].reset_index(drop=True)
    for segment in SEGMENTS:
        values = scores[segment] if segment in scores else pd.Series(dtype=float)
        table[segment] = table["image_id"].map(values).astype(float)
    table["overall"] = table[list(SEGMENTS)].mean(axis=1)  # pandas leaves NaN out
    table["scored"] = table["overall"].notna()
    return table


def exclusions(study: ReaderStudy) -> pd.DataFrame:
    """Unanimous exclusions: one row a kept image [image_id, cell, proximal, medium, peripheral, external], all bool.

    A segment is NA when every rater who judged it marked it not present or not applicable. `external`: every rater who
    judged the image marked it as external circulation. The two never overlap: an external mark is not an NA mark, and a
    segment on which some raters chose NA and others external circulation is neither (it has no score all the same).
    Images nobody judged are False throughout.
    """
    marks = study.ratings.assign(
        na=study.ratings["flag"].isin(NOT_RATABLE), external=study.ratings["flag"].eq(EXTERNAL)
    )
    na = marks.groupby(["image_id", "segment"])["na"].all().unstack().reindex(columns=list(SEGMENTS))
    external = marks.groupby("image_id")["external"].all()
    table = study.kept[["image_id", "cell"]].reset_index(drop=True)
    for segment in SEGMENTS:
        table[segment] = table["image_id"].map(na[segment]).eq(True)
    table["external"] = table["image_id"].map(external).eq(True)
    return table


def table2(study: ReaderStudy) -> dict[tuple[str, str], float]:
    """Table 2, keyed by (condition, column); counts of images.

    N_keep: kept in the screening. N_scored: kept, and at least one segment has at least one rating. Prox./Med./Peri. NA:
    the segment is not present or not applicable by all raters. Ext. circ.: external circulation by all raters (both as
    in `exclusions`). Not scored: N_keep - N_scored (22 over all conditions in §2.4). Row "Total" sums the conditions.
    """
    scores, excluded = image_scores(study), exclusions(study)
    values: dict[tuple[str, str], float] = {}
    for row in [*study.cells, "Total"]:
        here = scores["cell"].eq(row) | (row == "Total")
        columns = {"N_keep": here.sum(), "N_scored": scores.loc[here, "scored"].sum()}
        columns |= {f"{SHORT[s]} NA": excluded.loc[here, s].sum() for s in SEGMENTS}
        columns["Ext. circ."] = excluded.loc[here, "external"].sum()
        columns["Not scored"] = columns["N_keep"] - columns["N_scored"]
        values |= {(row, column): int(count) for column, count in columns.items()}
    return values


def table3(study: ReaderStudy) -> dict[tuple[str, str], float]:
    """Table 3, keyed by (condition, column): N_images, and mean and SD over images of the image-wise scores.

    SD is the sample standard deviation (ddof = 1; the paper does not say). A segment's mean is over the images in which
    it has a score, so its number may be below N_images. NaN: no image (mean), fewer than two (SD).
    """
    scores = image_scores(study)
    values: dict[tuple[str, str], float] = {}
    for cell in study.cells:
        here = scores[scores["cell"].eq(cell) & scores["scored"]]
        values[cell, "N_images"] = len(here)
        for name, short in SHORT.items():
            values[cell, f"{short} mean"] = float(here[name].mean())
            values[cell, f"{short} SD"] = float(here[name].std(ddof=1))
    return values


def outcomes(study: ReaderStudy) -> pd.DataFrame:
    """Figure 3, a row a condition: images generated (all that were screened), kept and scored, mean and SD of the overall score."""
    retained, quality = table2(study), table3(study)
    shown = study.screening["cell"].value_counts()
    rows = {
        cell: {
            "generated": int(shown[cell]),
            "kept": retained[cell, "N_keep"],
            "scored": retained[cell, "N_scored"],
            "mean": quality[cell, "Overall mean"],
            "sd": quality[cell, "Overall SD"],
        }
        for cell in study.cells
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def rating_matrix(study: ReaderStudy, region: str, raters: Sequence[str] | None = None) -> pd.DataFrame:
    """Ratings of one region as [images, raters], NaN where a rater gave none; images without any rating left out.

    For "overall" an entry is the mean of the segments that rater rated in that image.
    """
    chosen = study.ratings[study.ratings["rating"].notna()]
    if region != "overall":
        chosen = chosen[chosen["segment"].eq(region)]
    matrix = chosen.pivot_table(index="image_id", columns="rater", values="rating", aggfunc="mean")
    return matrix.reindex(columns=list(study.raters if raters is None else raters)).dropna(how="all")


def experts(study: ReaderStudy) -> list[str]:
    """Names of the raters with one of the study's expert roles, in the order of `study.raters`."""
    role = study.ratings.drop_duplicates("rater").set_index("rater")["role"]
    return [rater for rater in study.raters if role[rater] in study.expert_roles]


def rater_sets(study: ReaderStudy) -> dict[str, list[str]]:
    """The two sets of raters of Table 4, by the name that stands there."""
    return dict(zip(RATER_SETS, (study.raters, experts(study)), strict=True))


def reliability(study: ReaderStudy, resamples: int, seed: int) -> dict[tuple[str, str], Reliability]:
    """Reliability of every region of Table 4, for all raters and for domain experts, over images that all of them rated."""
    return {
        (region.capitalize(), name): icc2(rating_matrix(study, region, raters).to_numpy(), resamples, seed)
        for region in REGIONS
        for name, raters in rater_sets(study).items()
    }


def mixed_reliability(study: ReaderStudy, resamples: int, seed: int) -> dict[tuple[str, str], MixedFit]:
    """The same cells as `reliability` by a mixed model over all available ratings: no image is left out for a missing one."""
    return {
        (region.capitalize(), name): mixed_icc(rating_matrix(study, region, raters).to_numpy(), resamples, seed)
        for region in REGIONS
        for name, raters in rater_sets(study).items()
    }


def table4(
    results: dict[tuple[str, str], Reliability], mixed: dict[tuple[str, str], MixedFit] | None = None
) -> tuple[dict[tuple[str, str], float], pd.DataFrame]:
    """Table 4 from `reliability`: the complete-case ICCs keyed by (region, column), and all details, one row a coefficient.

    Details: region, raters, coefficient; complete cases: n_images, k_raters, icc, F-method and bootstrap interval (95 %), F
    and p of the test against no reliability; with `mixed` (of `mixed_reliability`), all available ratings: mixed_n_images,
    mixed_n_ratings, mixed_icc and its bootstrap interval; reason (why a value is NaN, else empty).
    """
    values: dict[tuple[str, str], float] = {}
    rows = []
    for (region, raters), r in results.items():
        for form, name in (("ICC(2,1)", "single"), ("ICC(2,k)", "average")):
            icc, ci, boot = getattr(r, name), getattr(r, f"{name}_ci"), getattr(r, f"{name}_boot")
            values[region, f"{raters} {form}"] = icc
            row = dict(region=region, raters=raters, coefficient=form, n_images=r.n_images, k_raters=r.k_raters)
            row |= dict(icc=icc, f_low=ci[0], f_high=ci[1], boot_low=boot[0], boot_high=boot[1])
            row |= dict(f_value=r.f_value, p_value=r.p_value)
            reasons = [r.reason if np.isnan(icc) else ""]
            if mixed is not None:
                m = mixed[region, raters]
                low, high = getattr(m, f"{name}_boot")
                row |= dict(mixed_n_images=m.n_images, mixed_n_ratings=m.n_ratings, mixed_icc=getattr(m, name))
                row |= dict(mixed_low=low, mixed_high=high)
                reasons.append(f"mixed model: {m.reason}" if m.reason and m.reason != r.reason else "")
            rows.append(row | dict(reason="; ".join(filter(None, reasons))))
    return values, pd.DataFrame(rows)


def entered(study: ReaderStudy, results: dict[tuple[str, str], Reliability] | None = None) -> dict[int, dict]:
    """How many images entered the cells of Tables 3 and 4, by table number, keyed as the tables are.

    Table 3: columns "Prox. n", "Med. n", "Peri. n" beside N_images (which is the number of the overall score). Table 4, from
    `results` of `reliability`: columns "All raters n" and "Domain experts only n", images that all raters of the set rated.
    Table 2 counts the images of its first column, N_keep.
    """
    scores = image_scores(study)
    third = {
        (cell, f"{SHORT[segment]} n"): int(scores.loc[scores["cell"].eq(cell), segment].notna().sum())
        for cell in study.cells
        for segment in SEGMENTS
    }
    return {3: third, 4: {(region, f"{raters} n"): r.n_images for (region, raters), r in (results or {}).items()}}


def rating_shares(study: ReaderStudy) -> pd.DataFrame:
    """Figure 4a: share of raw ratings 1-5 by condition and segment [cell, segment, rating, count, share]; flags left out."""
    rated = study.ratings[study.ratings["rating"].notna()]
    index = pd.MultiIndex.from_product([study.cells, SEGMENTS, range(1, 6)], names=["cell", "segment", "rating"])
    count = rated.assign(rating=rated["rating"].astype(int)).groupby(["cell", "segment", "rating"]).size()
    table = count.reindex(index, fill_value=0).rename("count").reset_index()
    total = table.groupby(["cell", "segment"])["count"].transform("sum")
    table["share"] = np.where(total > 0, table["count"] / total.where(total > 0, 1), np.nan)
    return table


def rater_means(study: ReaderStudy, level: float = 0.95) -> pd.DataFrame:
    """Figure 4d: mean rating of each rater by condition and segment [cell, segment, rater, role, n, mean, low, high].

    The interval is Student's t over the rated images (NaN with fewer than two).
    """
    rated = study.ratings[study.ratings["rating"].notna()]
    groups = rated.groupby(["cell", "segment", "rater", "role"])["rating"]
    return _with_interval(groups, level)


def richness(study: ReaderStudy, frames_per_cell: pd.Series, level: float = 0.95) -> pd.DataFrame:
    """Figure 4e: per condition, its share of all arterial frames (percent) and the mean overall score of its images.

    `frames_per_cell`: number of arterial frames by cell, "Others" included (Table 1's counts). Columns: cell, frames,
    percent, n, mean, low, high (Student's t over images). A condition without a scored image has NaN.
    """
    scores = image_scores(study)
    table = _with_interval(scores[scores["scored"]].groupby("cell")["overall"], level)
    table = table.set_index("cell").reindex(study.cells).rename_axis("cell").reset_index()
    frames = table["cell"].map(frames_per_cell).fillna(0)
    table.insert(1, "frames", frames.astype(int))
    table.insert(2, "percent", 100 * frames / frames_per_cell.sum() if frames_per_cell.sum() else np.nan)
    return table


def _with_interval(groups, level: float) -> pd.DataFrame:
    table = groups.agg(n="count", mean="mean", sd="std").reset_index()
    half = stats.t.ppf((1 + level) / 2, np.maximum(table["n"] - 1, 1)) * table["sd"] / np.sqrt(table["n"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half).drop(columns="sd")
