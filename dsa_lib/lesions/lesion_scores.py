"""Scores of image-to-image models by patient: means, paired differences with intervals and tests, and whether post-training did what it is for.

Images of one patient are alike, so a patient's mean is one observation, and patients are what is drawn and what is tested.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.core.splits import SPLITS
from dsa_lib.core.statistics import holm, times_drawn
from dsa_lib.fidelity.distances import LEAST_IMAGES, frechet_distance, statistics
from dsa_lib.fidelity.extractor import Extractor
from dsa_lib.fidelity.image_scores import image_scores
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import atomic_write

PIX2PIX, BASE, CONTROL, POST = "pix2pix", "cLDM", "cLDM, trained on", "cLDM-PT"
LESION = "lesion_mae"
MEASURES = {"mae": -1, "psnr": 1, "ms_ssim": 1, LESION: -1}  # and whether higher (1) or lower (−1) is better
COLUMNS = {"mae": "MAE", "psnr": "PSNR", "ms_ssim": "MS-SSIM", LESION: "lesion MAE"}
# Which models are compared with which: the control first, which takes away what more training alone does.
AGAINST = {CONTROL: (PIX2PIX, BASE, POST), BASE: (POST,), PIX2PIX: (POST,)}
TARGET_LESION, TARGET_WHOLE = (
    -0.10,
    0.02,
)  # of this project: change of the error inside the lesion, and of that over the whole image
KEYS = ("patient", "kind", "model")
NAN = float("nan")


def of_patients(scores: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean of `measure` over each patient's images: a row a patient, a column a model, in the order in which they first occur.

    scores: one row an image and model, columns KEYS and the measures. Patients without a value for every model are left out, so that all are compared on
    the same ones. Raises StudyError where a column is absent.
    """
    if absent := [name for name in (*KEYS, measure) if name not in scores]:
        raise StudyError(
            f"the scores have no column {absent[0]!r}: give patient, kind, model and {', '.join(MEASURES)}"
        )
    known = scores[np.isfinite(scores[measure])]
    wide = known.pivot_table(index="patient", columns="model", values=measure, aggfunc="mean", observed=True)
    return wide.reindex(columns=list(dict.fromkeys(scores["model"]))).dropna()


def table(scores: pd.DataFrame, measures: Sequence[str] = tuple(MEASURES)) -> pd.DataFrame:
    """Mean and SD over patients, one row a model and measure: columns model, measure, mean, sd, patients, images (that have a value)."""
    rows = []
    for measure in measures:
        wide = of_patients(scores, measure)
        for model in wide.columns:
            of_model = scores[(scores["model"] == model) & scores["patient"].isin(wide.index)]
            values = wide[model].to_numpy()
            row = {"model": model, "measure": measure, "mean": values.mean() if len(values) else NAN}
            row["sd"] = values.std(ddof=1) if len(values) > 1 else NAN
            rows.append(row | {"patients": len(values), "images": int(np.isfinite(of_model[measure]).sum())})
    return pd.DataFrame(rows).sort_values(
        "model", key=lambda c: c.map(_order(scores)), kind="stable", ignore_index=True
    )


def paired(
    scores: pd.DataFrame,
    reference: str,
    measures: Sequence[str] = tuple(MEASURES),
    models: Sequence[str] = (),
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every model against `reference`, patient by patient: one row a model and measure.

    `difference`: mean over patients of model minus reference, with the 95 % percentile interval `low`, `high` of a bootstrap over patients; `relative`:
    mean of the model over mean of the reference, less 1, with `relative_low`, `relative_high` of the same draws; `p`: Wilcoxon's signed-rank test,
    two-sided, and `p_holm` after Holm's correction over all rows of the table. NaN where there are too few patients: one for intervals, and none that
    differs for the test.
    """
    models = list(models) or [model for model in dict.fromkeys(scores["model"]) if model != reference]
    if absent := [name for name in (reference, *models) if name not in set(scores["model"])]:
        raise StudyError(
            f"there are no scores of {absent[0]!r}: give one of {', '.join(dict.fromkeys(scores['model']))}"
        )
    rows = []
    for model in models:
        for measure in measures:
            wide = of_patients(scores[scores["model"].isin([reference, model])], measure)
            row = {"model": model, "reference": reference, "measure": measure, "patients": len(wide)}
            a, b = (wide[name].to_numpy() if len(wide) else np.zeros(0) for name in (model, reference))
            rows.append(row | _compared(a, b, draws, np.random.default_rng([seed, len(rows)])))
    found = pd.DataFrame(rows)
    return found.assign(p_holm=holm(found["p"]))


def paired_each(scores: pd.DataFrame, against: Mapping[str, Sequence[str]] = AGAINST, seed: int = 0) -> pd.DataFrame:
    """`paired` for every reference → models of `against`, one below the other, with Holm's correction over all of it."""
    found = pd.concat(
        [paired(scores, reference, models=models, seed=seed) for reference, models in against.items()],
        ignore_index=True,
    )
    return found.assign(p_holm=holm(found["p"]))


def _compared(a: np.ndarray, b: np.ndarray, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """The numbers of one row of `paired` for patients' values a (model) and b (reference)."""
    names = ("difference", "low", "high", "relative", "relative_low", "relative_high", "p")
    if not len(a):
        return dict.fromkeys(names, NAN)
    out = {"difference": float((a - b).mean()), "relative": float(a.mean() / b.mean() - 1)}
    low = high = relative_low = relative_high = NAN
    if len(a) > 1:
        weight = times_drawn(len(a), draws, rng) / len(a)
        low, high = np.percentile(weight @ (a - b), [2.5, 97.5])
        relative_low, relative_high = np.percentile(weight @ a / (weight @ b) - 1, [2.5, 97.5])
    p = float(wilcoxon(a, b).pvalue) if (a != b).any() else NAN
    out |= {"low": low, "high": high, "relative_low": relative_low, "relative_high": relative_high, "p": p}
    return {name: float(out[name]) for name in names}


def by_kind(scores: pd.DataFrame, reference: str, model: str, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The error inside the lesion by kind of lesion, `model` against `reference`: the columns of `paired`, and `kind` and `images` before them.

    p_holm is over the kinds.
    """
    rows = []
    for kind in sorted(set(scores["kind"]) - {""}):
        of_kind = scores[(scores["kind"] == kind) & scores["model"].isin([reference, model])]
        row = paired(of_kind, reference, [LESION], [model], draws, seed).iloc[0]
        rows.append({"kind": kind, "images": int((of_kind["model"] == model).sum())} | row.to_dict())
    columns = ["kind", "images", "model", "reference", "measure", "patients"]
    found = pd.DataFrame(rows, columns=columns if not rows else None)
    return found.assign(p_holm=holm(found["p"])) if rows else found


def verdict(differences: pd.DataFrame, model: str) -> list[str]:
    """Sentences on the two targets from `paired`: the error inside the lesion at least TARGET_LESION lower, that over the image at most TARGET_WHOLE higher.

    A target is reached when the estimate reaches it, and surely so when the whole interval does.
    """
    rows = differences[differences["model"] == model].set_index("measure")
    told = []
    targets = (
        (LESION, "the error inside the lesion", TARGET_LESION, f"at least {-TARGET_LESION:.0%} lower"),
        ("mae", "the error over the whole image", TARGET_WHOLE, f"no more than {TARGET_WHOLE:.0%} higher"),
    )
    for measure, what, bound, wanted in targets:
        row = rows.loc[measure]
        if not np.isfinite(row["relative"]):
            told.append(f"{model} against {row['reference']}: {what} cannot be compared, no patient has both.")
            continue
        interval = ""
        finding = "reached" if row["relative"] <= bound else "missed"
        if np.isfinite(row["relative_low"]):
            interval = f" (95 % interval {row['relative_low']:+.1%} to {row['relative_high']:+.1%}, {row['patients']} patients)"
            sure = row["relative_high"] <= bound if finding == "reached" else row["relative_low"] > bound
            finding += ", and by the whole interval" if sure else ", though the interval does not exclude the contrary"
        p = f", p = {row['p_holm']:.2g} after Holm's correction" if np.isfinite(row["p_holm"]) else ""
        told.append(f"{model} against {row['reference']}: {what} changes by {row['relative']:+.1%}{interval}{p}; target {wanted}: {finding}.")  # fmt: skip
    return told


def ranking(table: pd.DataFrame, model: str) -> list[str]:
    """In which measures of `table` the mean of `model` is the best of all, as the source found of its post-trained model in each: one sentence."""
    mean = table.pivot(index="measure", columns="model", values="mean").dropna()
    best = {m: (row.idxmax() if MEASURES[m] > 0 else row.idxmin()) for m, row in mean.iterrows()}
    first = [m for m in MEASURES if best.get(m) == model]
    others = [f"{m} ({best[m]})" for m in MEASURES if m in best and best[m] != model]
    told = f"The source ranks the post-trained model first in every measure; here {model} is first in {', '.join(first) or 'none'}"
    return [told + (f", another one in {', '.join(others)}." if others else ".")]


def verdicts(table: pd.DataFrame, differences: pd.DataFrame, model: str = POST) -> list[str]:
    """All that is said of `model`: its rank in `table`, then the two targets against each reference of `differences` (`paired_each`), in its order."""
    told = ranking(table, model)
    for _, rows in differences.groupby("reference", sort=False):
        told += verdict(rows, model)
    return told


def _order(scores: pd.DataFrame) -> dict[str, int]:
    return {model: place for place, model in enumerate(dict.fromkeys(scores["model"]))}


def of_images(pairs: TranslationSet, made: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Scores of every image of every model: columns model, patient, kind, image, then those of `image_scores`.

    made: model → uint8 [n, H, W], the images in the order of `pairs`.
    """
    parts = []
    for model, frames in made.items():
        scores = image_scores(pairs.targets, frames, pairs.lesions)
        facts = {"model": model, "patient": pairs.patients, "kind": pairs.kinds, "image": np.arange(len(pairs))}
        parts.append(pd.concat([pd.DataFrame(facts), scores], axis=1))
    return pd.concat(parts, ignore_index=True)


def distances(pairs: TranslationSet, made: Mapping[str, np.ndarray], extractor: Extractor) -> dict[str, float]:
    """Squared Fréchet distance of each model's images to the true ones in the features of `extractor`; NaN where there are too few images.

    Too large for a finite sample, by a bias that is alike for all models, which have the same number of images: read differences, not values.
    """
    if len(pairs) < LEAST_IMAGES:
        return dict.fromkeys(made, np.nan)
    true = statistics(extractor(pairs.targets, what="true images"))
    return {
        model: frechet_distance(true, statistics(extractor(frames, what=f"images of {model}")))
        for model, frames in made.items()
    }


def contract(table: pd.DataFrame, distance: Mapping[str, float], distance_name: str, source: str) -> pd.DataFrame:
    """`table` and the distances in the tables contract: columns row, column, published, this_run, source; `published` is empty throughout."""
    rows = []
    for model in dict.fromkeys(table["model"]):
        of = table[table["model"] == model].set_index("measure")["mean"]
        values = {COLUMNS[name]: of[name] for name in ("mae", "psnr", "ms_ssim")}
        values |= {distance_name: distance.get(model, np.nan), COLUMNS["lesion_mae"]: of["lesion_mae"]}
        rows += [{"row": model, "column": column, "this_run": value} for column, value in values.items()]
    found = pd.DataFrame(rows)
    found["published"] = np.nan
    found["source"] = [source if pd.notna(value) else "" for value in found["this_run"]]
    return found[["row", "column", "published", "this_run", "source"]]


def write(path: Path, table: pd.DataFrame) -> None:
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """`table` for the eye: models down, measures across, mean ± SD over patients."""
    cell = [f"{row.mean:.3f} ± {row.sd:.3f}" for row in table.itertuples()]
    wide = table.assign(cell=cell).pivot(index="model", columns="measure", values="cell")
    return wide.reindex(index=list(dict.fromkeys(table["model"])), columns=list(MEASURES)).rename(columns=COLUMNS)


def counts(pairs: TranslationSet) -> pd.DataFrame:
    """How many pairs show each kind of lesion (rows) in each part (columns)."""
    kinds = np.where(pairs.kinds == "", "no lesion", pairs.kinds.astype(str))
    counted = pd.crosstab(kinds, pairs.part.astype(str)).reindex(columns=list(SPLITS), fill_value=0)
    return counted.rename_axis(index="lesion", columns="pairs")


def sampled_rows(pairs: TranslationSet, part: str, count: int) -> np.ndarray:
    """At most `count` rows of `part` (0: all), patients in turn, so that none is left out before another has given two."""
    rows = pairs.rows(part)
    if not count or count >= len(rows):
        return rows
    place = pd.Series(pairs.patients[rows]).groupby(pairs.patients[rows]).cumcount().to_numpy()
    return np.sort(rows[np.argsort(place, kind="stable")[:count]])


def panel_rows(pairs: TranslationSet, each: int = 1) -> np.ndarray:
    """Rows for a figure: `each` of every kind of lesion, those of middle to large size, and then of none."""
    chosen = []
    for kind in sorted(set(pairs.kinds), key=lambda name: (name == "", str(name))):
        rows = np.flatnonzero(pairs.kinds == kind)
        order = rows[np.argsort(pairs.lesions[rows].sum(axis=(1, 2)), kind="stable")]
        at = np.linspace(0.5, 0.9, each) * (len(order) - 1)
        chosen += [int(order[round(k)]) for k in at]
    return np.array(chosen)
