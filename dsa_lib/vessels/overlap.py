"""How well a segmentation agrees with known vessels: Dice by calibre class and of centre lines, pooled over frames, with intervals over patients.

Dice (1945): 2 |A ∩ B| / (|A| + |B|). clDice: Shit et al., CVPR 2021, Eqs. 1 and 3.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from skimage.morphology import skeletonize

from dsa_lib.core.statistics import draw, interval
from dsa_lib.run.errors import StudyError
from dsa_lib.vessels.filters import CLASSES

SCORES = ("vessel", *CLASSES, "centre line")


def counts(found: np.ndarray, true: np.ndarray, classes: int = len(CLASSES)) -> np.ndarray:
    """What the scores are made of, by frame: [n, classes + 2, 4] pixels for class maps uint8 [n, h, w], 0 none and then so many `classes`; by default those
    of `vessels.CLASSES`, in the order of SCORES.

    Dice rows: (in both, in `found`, in both, in `true`). Row `centre line`: (its centre line inside true vessels, all of its centre line, the true
    centre line inside found vessels, all of that).
    """
    if found.shape != true.shape or found.ndim != 3:
        raise StudyError(
            f"class maps of shapes {found.shape} and {true.shape} cannot be compared: give two of one shape [n, height, width]"
        )
    out = np.zeros((len(found), classes + 2, 4), np.int64)
    for n, (a, b) in enumerate(zip(found, true, strict=True)):
        for row, (x, y) in enumerate([(a > 0, b > 0), *((a == k, b == k) for k in range(1, classes + 1))]):
            both = int((x & y).sum())
            out[n, row] = both, x.sum(), both, y.sum()
        line, true_line = skeletonize(a > 0), skeletonize(b > 0)
        out[n, -1] = (line & (b > 0)).sum(), line.sum(), (true_line & (a > 0)).sum(), true_line.sum()
    return out


def ratio(pooled: np.ndarray) -> np.ndarray:
    """Scores [..., m] of summed `counts` [..., m, 4]: Dice, and for the centre line the harmonic mean of its precision and sensitivity.

    Dice is that harmonic mean too, of |A ∩ B| / |A| and |A ∩ B| / |B|, and computed as such. NaN where neither map holds the class.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(pooled[..., 1] > 0, pooled[..., 0] / pooled[..., 1], 0.0)
        sensitivity = np.where(pooled[..., 3] > 0, pooled[..., 2] / pooled[..., 3], 0.0)
        score = np.where(precision + sensitivity > 0, 2 * precision * sensitivity / (precision + sensitivity), 0.0)
    return np.where((pooled[..., 1] > 0) | (pooled[..., 3] > 0), score, np.nan)


def scores(found: np.ndarray, true: np.ndarray, patients: np.ndarray, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """One row of SCORES each: `score` of all frames pooled, and its 95 % bootstrap interval `low`, `high` over `patients` [n]."""
    return summary(counts(found, true), patients, draws, seed)


def summary(
    of_frames: np.ndarray, patients: np.ndarray, draws: int = 2000, seed: int = 0, names: Sequence[str] = SCORES
) -> pd.DataFrame:
    """`scores` from the `counts` of the frames; `names` of its rows."""
    score, drawn = pooled(of_frames, patients, draws, seed)
    low, high = interval(drawn)
    return pd.DataFrame({"score": score, "low": low, "high": high}, index=pd.Index(names, name="of"))


def pooled(of_frames: np.ndarray, patients: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(scores [s] of all frames pooled, the same of every draw of the `patients` [n], [draws, s]) from the `counts` [n, s, 4] of the frames."""
    group, weight = draw(patients, draws, seed)
    of_patient = np.zeros((weight.shape[1], *of_frames.shape[1:]))
    np.add.at(of_patient, group, of_frames)
    return ratio(of_patient.sum(axis=0)), ratio(np.einsum("dp,psk->dsk", weight, of_patient))
