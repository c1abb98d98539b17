"""The source's Table 1 on this run's images: feature distance, SSIM and NMSE of six models, and what may be said of their differences.

Capitão et al., Table 1. A feature distance is FID where Inception features were used, else it has a column of its own name. Images of one patient are alike,
so that every interval is over patients.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dsa_lib.core import published, statistics
from dsa_lib.core.splits import evenly
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import features
from dsa_lib.fidelity.extractor import Extractor, cached
from dsa_lib.fidelity.image_scores import image_scores
from dsa_lib.maps.data import ACDC, MapSet
from dsa_lib.maps.models import METHODS, WITH, WITHOUT
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Anatomy
from dsa_lib.run.progress import track
from dsa_lib.run.session import Study
from dsa_lib.vessels import spectra

DISTANCE = "distance"
BETTER = {DISTANCE: -1, "ssim": 1, "nmse": -1}  # the sign of an improvement
SUBSAMPLE_SHARE = (
    0.75  # of the patients, as in `profile.fidelity`: of halves the error of a small distance comes out too large
)
SENTENCE = "LDM with its sentence"
Key = tuple[str, str]  # (method, half)
AUTOENCODER: Key = ("autoencoder alone", "")  # the true images encoded and decoded, which no model of the table made


def of_images(true: np.ndarray, outputs: Mapping[Key, np.ndarray], patients: np.ndarray) -> pd.DataFrame:
    """Scores of every image of every model: columns method, half, image (row of `true`), patient, then those of `image_scores`.

    true: uint8 [n, H, W]; outputs: (method, half) → uint8 [n, H, W], each made for the condition of the true image in its place.
    """
    parts = []
    for (method, half), frames in outputs.items():
        scores = image_scores(true, frames)
        scores.insert(0, "patient", patients)
        scores.insert(0, "image", np.arange(len(true)))
        scores.insert(0, "half", half)
        scores.insert(0, "method", method)
        parts.append(scores)
    return pd.concat(parts, ignore_index=True)


def open_extractor(study: Study, data: MapSet) -> Extractor | None:
    """The network whose features the distance between sets is taken in: that of `fidelity.features`, but no network that sits in SPADE's loss.

    None, and one line that says so, where no network of this run knows such images.
    """
    settings = study.profile.fidelity
    name = settings.features
    if data.origin == ACDC and name != "inception":
        print(
            "No feature distance: the networks of this run know angiograms alone. FID: fidelity.features = inception."
        )
        return None
    if name == "phase-network":
        name = "dsa-network"
        print("The phase network is in SPADE's loss and cannot judge it: the network of notebook 07 does.")
    some = np.sort(np.random.default_rng(study.profile.seed).permutation(data.rows("train"))[: features.SCALE_FRAMES])
    extractor = features.open_extractor(
        name,
        classifier=None,
        size=0,
        batch_size=settings.batch_size,
        training_frames=data.frames[some],
        network=study.read("dsa_network") if name == "dsa-network" else None,
        weights_sha256=settings.weights_sha256,
    )
    return cached(extractor, study.ws.checkpoints("features"))


class Distances:
    """Fréchet distances of several sets to the same true images, and the intervals of their differences.

    features: name → [n, d], row i made for true image i (`true` [n, d], `patients` [n]). A distance of finite samples is too large, more so for few images,
    and by the same bias for all sets here, since all are of one size: differences read, single values only beside the floor.
    """

    def __init__(self, features: Mapping[Key, np.ndarray], true: np.ndarray, patients: np.ndarray):
        if odd := [key for key, values in features.items() if values.shape != true.shape]:
            raise StudyError(
                f"features of {odd[0]} have another shape than those of the true images: give one row each"
            )
        self.features, self.true, self.patients = dict(features), true, np.asarray(patients)
        self.whole = self._of(np.arange(len(true)))
        self.taken = 0  # patients in each part

    def _of(self, rows: np.ndarray) -> dict[Key, float]:
        moments = fidelity_distances.statistics(self.true[rows])
        return {
            key: fidelity_distances.frechet_distance(moments, fidelity_distances.statistics(values[rows]))
            for key, values in self.features.items()
        }

    def subsampled(self, draws: int, seed: int) -> pd.DataFrame:
        """The distances (a column each) of `draws` parts of the patients, drawn without replacement; empty where two patients or fewer are there.

        With replacement a patient would be held twice, and a Fréchet distance reads that as a difference.
        """
        names = np.unique(self.patients)
        count, columns = round(SUBSAMPLE_SHARE * len(names)), pd.Index(list(self.features), tupleize_cols=False)
        if not 2 <= count < len(names):
            return pd.DataFrame(columns=columns, dtype=float)
        self.taken, rng, rows = count, np.random.default_rng(seed), []
        for _ in track(range(draws), what="parts of the patients"):
            chosen = rng.choice(names, count, replace=False)
            part = np.flatnonzero(np.isin(self.patients, chosen))
            if len(part) >= fidelity_distances.LEAST_IMAGES:
                rows.append(self._of(part))
        return pd.DataFrame([list(row.values()) for row in rows], columns=columns)

    def errors(self, drawn: pd.DataFrame, first: Key, second: Key | None = None) -> float:
        """Standard error of a distance, or of the difference of two: √(m / (n − m)) times the SD over parts of m of n patients. NaN without parts."""
        if drawn.empty:
            return np.nan
        values = drawn[first] - (0 if second is None else drawn[second])
        return statistics.standard_error(values, self.taken, len(np.unique(self.patients)))


def distances(
    extractor: Extractor, true: np.ndarray, outputs: Mapping[Key, np.ndarray], patients: np.ndarray
) -> Distances:
    """`Distances` in the features of `extractor`, computed once."""
    of = {key: extractor(frames, what=" ".join(key)) for key, frames in outputs.items()}
    return Distances(of, extractor(true, what="held-out frames"), patients)


def of_autoencoder(true: np.ndarray, decoded: np.ndarray, measured: Distances | None, distance: str) -> str:
    """One sentence: what the autoencoder leaves of the true images (uint8 [n, H, W] both), and so about what a latent diffusion can reach at best.

    measured: distances that hold AUTOENCODER, or None.
    """
    means = image_scores(true, decoded).mean()
    told = [f"{distance} {measured.whole[AUTOENCODER]:.3g}"] if measured else []
    told += [f"SSIM {means['ssim']:.3g}", f"NMSE {means['nmse']:.3g}"]
    return f"The true images through the autoencoder alone: {', '.join(told)}; a latent diffusion can hardly do better."


def of_floor(extractor: Extractor, data: MapSet, measured: Distances) -> list[str]:
    """Sentences on how large a distance is where nothing was generated: of as many real images of training patients, and of few images in many dimensions."""
    count, dimensions = measured.true.shape
    rows = evenly(data.rows("train"), count)
    real = fidelity_distances.statistics(extractor(data.frames[rows], what="training images"))
    floor = fidelity_distances.frechet_distance(fidelity_distances.statistics(measured.true), real)
    said = [
        f"{extractor.distance} of as many real images of other (training) patients: {floor:.3g}; a map is followed nearer."
    ]
    if count <= dimensions:
        said.append(f"{count} images, {dimensions} dimensions: distances are too large; read differences alone.")
    return said


def radial_spectra(
    true: np.ndarray,
    outputs: Mapping[Key, np.ndarray],
    decoded: np.ndarray,
    patients: np.ndarray,
    draws: int,
    seed: int,
) -> tuple[dict[str, object], pd.DataFrame]:
    """(curves, true and decoded as `figures.maps.spectra` takes them; `spectra.distances` of the six models and of the autoencoder alone) (Fig. 2 c, d).

    true, decoded and each of `outputs`: uint8 [n, H, W], of `patients` [n]; what the table has beyond METHODS is passed over.
    """
    of_truth, alone = spectra.of_set(true, "held-out images"), spectra.of_set(decoded, "decoded images")
    made = {key: spectra.of_set(frames) for key, frames in outputs.items() if key[0] in METHODS}

    def line(one: spectra.Spectra) -> tuple[np.ndarray, np.ndarray]:
        return one.frequency, one.amplitude

    curves = {half: {method: line(made[method, half]) for method in METHODS} for half in (WITH, WITHOUT)}
    named = {" ".join(key): found for key, found in made.items()} | {AUTOENCODER[0]: alone}
    drawn = {"curves": curves, "true": line(of_truth), "decoded": line(alone)}
    return drawn, spectra.distances(named, of_truth, patients, draws, seed)


# ---- differences -----------------------------------------------------------------------------------------------------


def comparisons() -> list[tuple[str, Key, Key]]:
    """(what is said, first, second): the pairs of models that the source compares (Table 1, §3), and the LDM with a sentence, which the source has not."""
    said = [(f"{method} with edges against without", (method, WITH), (method, WITHOUT)) for method in METHODS]
    for half in (WITH, WITHOUT):
        said += [(f"LDM against {other}, {half}", ("LDM", half), (other, half)) for other in METHODS[1:]]
    return [*said, ("LDM with edges, told its sentence against not told", (SENTENCE, WITH), ("LDM", WITH))]


def published_answer(first: Key, second: Key, measure: str) -> str:
    """What the source's Table 1 says of a pair in FID, SSIM or NMSE (`measure` of BETTER): "better", "worse" or "alike"; "" for models that it has not."""
    table = published.published(published.ANATOMY).set_index(["row", "column"])["published"]
    name = {DISTANCE: "FID", "ssim": "SSIM", "nmse": "NMSE"}[measure]
    cells = [(method, f"{name}, {half}") for method, half in (first, second)]
    if any(cell not in table.index for cell in cells):
        return ""
    gain = BETTER[measure] * (table[cells[0]] - table[cells[1]])
    return "better" if gain > 0 else "worse" if gain < 0 else "alike"


def differences(
    scores: pd.DataFrame, measured: Distances | None, subsamples: int, bootstrap: int, seed: int
) -> pd.DataFrame:
    """First less second of every pair of `comparisons`, in feature distance (where it was `measured`), SSIM and NMSE, with 95 % intervals over patients.

    Columns: comparison, first, second, measure, difference, low, high, better (the interval lies wholly on the side of the first model: True; of the
    second: False; neither, or no interval: None), source (`published_answer`). SSIM and NMSE: bootstrap over patients of the paired difference; distance:
    ± 1.96 standard errors of parts of the patients.
    """
    drawn = measured.subsampled(subsamples, seed) if measured else None
    patients = scores.drop_duplicates("image").sort_values("image")["patient"].to_numpy()
    measures = [name for name in BETTER if measured or name != DISTANCE]
    rows, held = [], _models(scores)
    for said, first, second in comparisons():
        if first not in held or second not in held:
            continue
        for measure in measures:
            if measure == DISTANCE:
                value = measured.whole[first] - measured.whole[second]
                reach = 1.96 * measured.errors(drawn, first, second)
                low, high = value - reach, value + reach
            else:
                a, b = (_of_model(scores, key)[measure].to_numpy() for key in (first, second))
                (value,), (low,), (high,) = statistics.of_means((a - b)[:, None], patients, bootstrap, seed)
            row = {"comparison": said, "first": " ".join(first), "second": " ".join(second), "measure": measure}
            row |= {"difference": value, "low": low, "high": high, "better": _better(measure, low, high)}
            rows.append(row | {"source": published_answer(first, second, measure)})
    return pd.DataFrame(rows)


def _models(scores: pd.DataFrame) -> list[Key]:
    """(method, half) of every model that has scores, in the order in which they occur."""
    return list(scores[["method", "half"]].drop_duplicates().itertuples(index=False, name=None))


def _of_model(scores: pd.DataFrame, key: Key) -> pd.DataFrame:
    chosen = scores[(scores["method"] == key[0]) & (scores["half"] == key[1])]
    return chosen.sort_values("image")


def _better(measure: str, low: float, high: float) -> bool | None:
    if not (np.isfinite(low) and np.isfinite(high)) or low <= 0 <= high:
        return None
    return bool(np.sign(low) == BETTER[measure])


def verdicts(table: pd.DataFrame, distance: str) -> list[str]:
    """One sentence a comparison from the table of `differences`: better, worse or not shown for each measure, with the numbers and the source's answer."""
    names = {DISTANCE: distance, "ssim": "SSIM", "nmse": "NMSE"}
    said = []
    for comparison, rows in table.groupby("comparison", sort=False):
        answers = [
            f"{names[row['measure']]} {_answer(row['better'])} ({row['difference']:+.3g}, {_interval(row)}{_of_source(row['source'])})"
            for row in rows.to_dict("records")
        ]
        every = rows["better"].map(lambda value: value is True).all()
        said.append(
            f"{comparison}: better on all {len(rows)} measures: {'yes' if every else 'no'}. {'; '.join(answers)}."
        )
    return said


def _interval(row: Mapping[str, float]) -> str:
    known = np.isfinite(row["low"]) and np.isfinite(row["high"])
    return f"{row['low']:.3g} to {row['high']:.3g}" if known else "too few patients for an interval"


def _of_source(answer: str) -> str:
    return f"; source: {answer}" if answer else ""


def alike_on_test(whole: pd.DataFrame, test: pd.DataFrame, patients: int) -> str:
    """One sentence: which answers of `differences` over all held-out patients are other ones over the `patients` of the test part, who chose no weights."""
    both = whole.merge(test, on=["comparison", "measure"], suffixes=("", "_test"))
    other = both[both["better"].map(_answer) != both["better_test"].map(_answer)]
    told = f"Over the {patients} test patients alone, who chose no weights, {len(both) - len(other)} of {len(both)} answers are the same"
    if len(other):
        named = (f"{row.comparison} in {row.measure}: {_answer(row.better_test)}" for row in other.itertuples())
        told += "; others: " + "; ".join(named)
    return told + "."


def answers(
    scores: pd.DataFrame, measured: Distances | None, distance: str, part: np.ndarray, settings: Anatomy, seed: int
) -> tuple[pd.DataFrame, list[str]]:
    """(`differences` of all held-out images, `verdicts` on them, and where some of the patients chose the weights what the others alone say of it).

    part: "val" or "test" of each held-out image [n]; settings: the profile's `anatomy` (subsamples, bootstrap).
    """
    apart = differences(scores, measured, settings.subsamples, settings.bootstrap, seed)
    said, tests = verdicts(apart, distance), np.flatnonzero(part == "test")
    if 0 < len(tests) < len(part):
        of_tests = of_part(scores, measured, tests)
        patients = of_tests[0]["patient"].nunique()
        of_tests = differences(*of_tests, settings.subsamples, settings.bootstrap, seed)
        said.append(alike_on_test(apart, of_tests, patients))
    return apart, said


def of_part(
    scores: pd.DataFrame, measured: Distances | None, rows: np.ndarray
) -> tuple[pd.DataFrame, Distances | None]:
    """`scores` and distances of the images `rows` (positions in the true images) alone."""
    if measured:
        features = {key: values[rows] for key, values in measured.features.items()}
        measured = Distances(features, measured.true[rows], measured.patients[rows])
    return scores[scores["image"].isin(rows)], measured


def _answer(better: bool | None) -> str:
    return "not shown" if better is None else "better" if better else "worse"


# ---- the table -------------------------------------------------------------------------------------------------------


def cells(scores: pd.DataFrame, measured: Distances | None, distance: str) -> dict[tuple[str, str], float]:
    """(row, column) → this run's value, as `neighbours.contract` takes it: "FID, w/ edges", "SSIM, w/ edges", "SSIM SD, w/ edges", …

    A `distance` that is no FID has columns of its own name, so that the published FID cells stay without a value of this run; None was `measured` where no
    network knows such images.
    """
    values: dict[tuple[str, str], float] = {}
    for method, half in _models(scores):
        if measured:
            values[method, f"{distance}, {half}"] = measured.whole[method, half]
        for measure, name in (("ssim", "SSIM"), ("nmse", "NMSE")):
            of = _of_model(scores, (method, half))[measure]
            values[method, f"{name}, {half}"] = float(of.mean())
            values[method, f"{name} SD, {half}"] = float(of.std(ddof=1)) if len(of) > 1 else np.nan
    return values


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The contract table as the source prints it: a line a method, "published | this run" with mean ± SD, the columns in halves."""
    cell = {(row["row"], row["column"]): (row["published"], row["this_run"]) for row in table.to_dict("records")}
    measures = [name for name in dict.fromkeys(c.rpartition(", ")[0] for _, c in cell) if not name.endswith(" SD")]

    def text(method: str, measure: str, half: str, which: int) -> str:
        value = cell.get((method, f"{measure}, {half}"), (None, None))[which]
        spread = cell.get((method, f"{measure} SD, {half}"), (None, None))[which]
        if value is None or pd.isna(value):
            return "–"
        digits = (".10g", ".10g") if which == 0 else (".3g", ".2g")  # what was published stands as it was printed
        return f"{value:{digits[0]}}" + (f" ± {spread:{digits[1]}}" if spread is not None and pd.notna(spread) else "")

    rows = list(dict.fromkeys([*METHODS, *table["row"]]))  # what is not the source's comes last
    return pd.DataFrame(
        {
            (half, measure): [" | ".join(text(method, measure, half, which) for which in (0, 1)) for method in rows]
            for half in (WITH, WITHOUT)
            for measure in measures
        },
        index=pd.Index(rows, name="published | this run"),
    )
