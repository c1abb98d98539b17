"""The table of notebook 09: models of image-to-image translation by their scores, in the form of the study's own tables.

Lee et al. report MAE, PSNR, MS-SSIM, FID and lesion MAE, and rank their post-trained model first in all. Our text of the source has the metrics and the ranking
but no figures: the published cells are empty.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.fidelity.distances import LEAST_IMAGES, frechet_distance, statistics
from dsa_lib.fidelity.features import Extractor
from dsa_lib.fidelity.image_scores import image_scores
from dsa_lib.lesions import lesion_scores
from dsa_lib.run.workspace import atomic_write

PIX2PIX, BASE, CONTROL, POST = "pix2pix", "cLDM", "cLDM, trained on", "cLDM-PT"
MODELS = (PIX2PIX, BASE, CONTROL, POST)
COLUMNS = {"mae": "MAE", "psnr": "PSNR", "ms_ssim": "MS-SSIM", "lesion_mae": "lesion MAE"}


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
    """`lesion_scores.table` and the distances in the tables contract: columns row, column, published, this_run, source; `published` is empty throughout."""
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
    """`lesion_scores.table` for the eye: models down, measures across, mean ± SD over patients."""
    cell = [f"{row.mean:.3f} ± {row.sd:.3f}" for row in table.itertuples()]
    wide = table.assign(cell=cell).pivot(index="model", columns="measure", values="cell")
    return wide.reindex(index=list(dict.fromkeys(table["model"])), columns=list(lesion_scores.MEASURES)).rename(
        columns=COLUMNS
    )


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
