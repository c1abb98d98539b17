"""Angles read off an image by regression (`dsa_lib.fidelity.dsa_network`), against those that were asked for or that the DICOM header gives.

All intervals are cluster-robust (Liang & Zeger 1986) with Student's t on groups − 1 degrees of freedom: images of one patient, or made from one noise, are no
independent witnesses. With few groups they are wide, and they should be.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm

from dsa_lib.audits.adherence import Asked
from dsa_lib.core.condition_sentences import CANONICAL, CELLS, OTHERS
from dsa_lib.fidelity.dsa_network import ANGLE_HEADS

SCOPES = ("overall", *CELLS, OTHERS)
LEAST_GROUPS = 2  # an interval needs two
LEAST_SPREAD_DEG = 1.0  # a slope over angles that spread less says nothing


@dataclass(frozen=True)
class Judged:
    """Images with known angles: `judged` and `known` [n rows, columns ANGLE_HEADS] in degrees, the cell of each [n], and the `groups` [n] that images come in
    (patients of real frames; each image its own group where every image has its own noise)."""

    judged: pd.DataFrame
    known: pd.DataFrame
    cells: np.ndarray
    groups: np.ndarray


def of_answers(answers: Mapping[str, pd.DataFrame], sets: Mapping[str, Asked]) -> dict[str, Judged]:
    """What the network said of each of `sets` (`dsa_network.answers`), beside what is known of it."""
    found = {}
    for name, said in answers.items():
        rows = sets[name].rows
        known, groups = rows[list(ANGLE_HEADS)], rows[sets[name].groups]
        found[name] = Judged(said, known, rows["cell"].to_numpy(), groups.to_numpy())
    return found


def difference(judged: np.ndarray, known: np.ndarray) -> np.ndarray:
    """judged − known in degrees, in (−180, 180]: a full turn apart is the same position."""
    turned = (np.asarray(known, float) - np.asarray(judged, float) + 180) % 360 - 180
    return -turned


def errors(sets: dict[str, Judged]) -> pd.DataFrame:
    """One row a set, scope (overall: the four cells together; each cell; Others, the oblique frames) and angle, where there are images and a head.

    Columns: set, scope, angle, images, groups, mae (mean absolute error, degrees), mae_low, mae_high (95 %), bias (mean of judged − known), bias_low,
    bias_high, p90 (90th percentile of the absolute error), constant (mean absolute error of an answer that
    is always the condition's own angles; NaN for Others).
    """
    columns = ["set", "scope", "angle", "images", "groups", "mae", "mae_low", "mae_high", "bias", "bias_low", "bias_high", "p90", "constant"]  # fmt: skip
    rows = []
    for name, images in sets.items():
        for scope in SCOPES:
            cells = np.asarray(images.cells)
            members = np.isin(cells, CELLS) if scope == "overall" else cells == scope
            for angle in ANGLE_HEADS:
                error = difference(images.judged.loc[members, angle], images.known.loc[members, angle])
                there = np.isfinite(error)
                error, groups = error[there], np.asarray(images.groups)[members][there]
                own = [
                    getattr(CANONICAL[each], angle) if each in CANONICAL else np.nan for each in cells[members][there]
                ]
                constant = (
                    np.abs(difference(own, images.known.loc[members, angle][there])).mean() if len(own) else np.nan
                )
                if not len(error):
                    continue
                mae, mae_low, mae_high = clustered_mean(np.abs(error), groups)
                numbers = (name, scope, angle, len(error), len(set(groups)), mae, max(mae_low, 0.0), mae_high)
                rows.append(
                    dict(
                        zip(
                            columns,
                            (*numbers, *clustered_mean(error, groups), np.quantile(np.abs(error), 0.9), constant),
                            strict=True,
                        )
                    )
                )
    return pd.DataFrame(rows, columns=columns)


def clustered_mean(values: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Mean of values [n] and its 95 % interval (NaN with fewer than two groups)."""
    if len(set(groups)) < LEAST_GROUPS:
        return float(np.mean(values)), float("nan"), float("nan")
    result = _fit(values, np.ones((len(values), 1)), groups)
    return float(result.params[0]), *map(float, result.conf_int()[0])


def line(judged: np.ndarray, known: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """The regression judged = intercept + slope · known: slope, correlation (Pearson), each with _low and _high, and the intercept; 1, 1 and 0 are ideal.

    The correlation's interval is that of the slope, in units of the standard deviations: the same test, so that both exclude 0 or neither does. NaN where the
    known angles spread less than LEAST_SPREAD_DEG, or with fewer than two groups or three images.
    """
    names = ("slope", "slope_low", "slope_high", "correlation", "correlation_low", "correlation_high", "intercept")
    judged, known = np.asarray(judged, float), np.asarray(known, float)
    if len(judged) < 3 or len(set(groups)) < LEAST_GROUPS or np.std(known) < LEAST_SPREAD_DEG or np.std(judged) == 0:
        return dict.fromkeys(names, float("nan"))
    result = _fit(judged, sm.add_constant(known), groups)
    slope = np.array([result.params[1], *result.conf_int()[1]])
    correlation = np.clip(slope * np.std(known) / np.std(judged), -1, 1)
    return dict(zip(names, map(float, (*slope, *correlation, result.params[0])), strict=True))


def _fit(values: np.ndarray, design: np.ndarray, groups: np.ndarray):
    codes = np.unique(groups, return_inverse=True)[1]
    return sm.OLS(values, design).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)


def statement(table: pd.DataFrame, generated: str = "generated", real: str = "held-out, reconstructed") -> str:
    """The overall angle errors of the generated images beside those of real ones, in one sentence an angle."""
    row = table[table["scope"] == "overall"].set_index(["set", "angle"])
    parts = []
    for angle in ANGLE_HEADS:
        if (generated, angle) not in row.index:
            continue
        made = row.loc[(generated, angle)]
        sentence = (
            f"{_name(angle)} angle: off by {made['mae']:.1f}° on average over {int(made['images'])} generated images"
        )
        if (real, angle) in row.index:
            other = row.loc[(real, angle)]
            sentence += (
                f", {other['mae']:.1f}° over {int(other['images'])} frames of the set “{real}” "
                f"(where an answer that never changes would be off by {other['constant']:.1f}°)"
            )
        parts.append(f"{sentence}; bias {made['bias']:+.1f}°.")
    return " ".join(parts) or "No angle was judged."


def _name(angle: str) -> str:
    return {"primary_angle_deg": "Primary", "secondary_angle_deg": "Secondary"}[angle]
