"""Training, validation and test: a division of patients, never of their studies, series or frames.

The paper speaks of held-out validation data (§2.2, §2.5) and gives neither fractions nor the unit that was divided.
"""

import numpy as np
import pandas as pd

from dsa_lib.run.profiles import Curation

SPLITS = ("train", "val", "test")


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of `rows` [n], evenly spread from the first to the last."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def split_patients(
    cells: pd.DataFrame, settings: Curation, seed: int, trials: int = 2000
) -> tuple[dict[str, str], str]:
    """(split of each patient, what could not be met or ""). `cells`: series counts, one row a patient, one column a cell of Table 1.

    Of `trials` seeded random allocations the best is taken: fewest cells absent from training or test, then from validation, then the smallest
    deviation of the series counts from the fractions. The patient, not the study or series, is the unit: no patient is in two splits. Validation and
    test are never empty with three patients or more; with fewer nothing can be trained and everything is "test".
    """
    patients = sorted(cells.index)
    if len(patients) < 3:
        return dict.fromkeys(patients, "test"), (
            f"{len(patients)} patient{'s' if len(patients) > 1 else ''} cannot be split: all frames are in test, none can train"
        )
    counts = cells.loc[patients].to_numpy(float)
    fractions = {"val": settings.val_fraction, "test": 1 - settings.train_fraction - settings.val_fraction}
    sizes = {name: max(1, round(share * len(patients))) for name, share in fractions.items()}
    while sum(sizes.values()) >= len(patients):
        sizes[max(sizes, key=sizes.get)] -= 1
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(patients)), (trials, 1)), axis=1)
    bounds = {
        "test": (0, sizes["test"]),
        "val": (sizes["test"], sum(sizes.values())),
        "train": (sum(sizes.values()), None),
    }
    held = {name: counts[orders[:, first:last]].sum(1) for name, (first, last) in bounds.items()}  # [trials, cells]
    absent = {name: (held[name] == 0).sum(1) for name in SPLITS}
    total = counts.sum(0)
    wanted = {"train": settings.train_fraction, **fractions}
    deviation = sum(np.abs(held[name] / total - wanted[name]).sum(1) for name in SPLITS)
    best = np.lexsort((deviation, absent["val"], absent["train"] + absent["test"]))[0]
    chosen = {patients[patient]: name for name, (first, last) in bounds.items() for patient in orders[best, first:last]}
    missing = [
        f"{cell} from {name}"
        for name in SPLITS
        for cell, n in zip(cells.columns, held[name][best], strict=True)
        if n == 0
    ]
    return (
        chosen,
        f"too few patients to have every condition in every split; absent: {', '.join(missing)}" if missing else "",
    )
