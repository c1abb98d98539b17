"""Are generated pairs of image and mask of use? A vessel segmenter trained on them alone, against one trained on real pairs, both tested on held-out frames.

The network, its loss and its augmentation are those of `vessel_network`; nothing but the training pairs differs. No arm sees validation labels: choosing the
weights by real ones would lend them to the arm that has none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from dsa_lib.maps import compliance
from dsa_lib.run.errors import StudyError
from dsa_lib.vessels import filters as vessel_filters
from dsa_lib.vessels import unet as vessel_unet

REAL, SYNTHETIC = "real pairs", "synthetic pairs"
Pairs = tuple[np.ndarray, np.ndarray]  # frames and label maps, uint8 [n, H, W] each


def train_each(
    arms: Mapping[str, Pairs], settings, *, seed: int, folder: Path, digest: str, **options
) -> tuple[dict[str, nn.Module], pd.DataFrame]:
    """(segmenter of each arm, all logs with a column `arm`), from the same initial weights, over the same steps.

    arms: name → training pairs; settings: the profile's `plausibility` section (network_*); `options` go to `training.fit`. Each arm has its checkpoints in
    a folder of its own. Raises StudyError for arms of unlike image size, and for pairs that do not fit together (`vessel_network.check_pairs`).
    """
    sizes = {name: frames.shape[1:] for name, (frames, _) in arms.items()}
    if len(set(sizes.values())) > 1:
        raise StudyError(f"training pairs of unlike sizes ({sizes}): the arms must differ in nothing else")
    for name, (frames, labels) in arms.items():
        vessel_unet.check_pairs(frames, labels, name)
    models, logs = {}, []
    for name, (frames, labels) in arms.items():
        models[name], log = vessel_unet.train(
            frames,
            labels,
            settings,
            seed=seed,
            folder=Path(folder) / name.replace(" ", "_"),
            digest=f"{digest} {name}",
            **options,
        )
        logs.append(log.assign(arm=name))
    return models, pd.concat(logs, ignore_index=True)


def evaluate_each(
    models: Mapping[str, nn.Module],
    frames: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    size: int,
    classes: Sequence[str] = vessel_filters.CLASSES,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """(scores, differences, class maps found by arm) of the segmenters on held-out frames uint8 [n, H, W] with label maps of their own.

    scores: arm, of (any class, each class, centre line), score (Dice of all frames pooled), low, high; differences: the same rows for every arm but the
    first, less the first one's score. Intervals are 95 % bootstrap over `patients` [n], paired for differences. size: pixels a side that the network sees.
    """
    found = {
        name: vessel_unet.segment(model, frames, size, what=f"held-out frames ({name})")
        for name, model in models.items()
    }
    first, *others = found
    how = {"classes": classes, "draws": draws, "seed": seed}
    scores = [
        compliance.of_maps(maps, labels, patients, **how).reset_index().assign(arm=name) for name, maps in found.items()
    ]
    apart = [
        compliance.difference(found[name], found[first], labels, patients, **how)
        .reset_index()
        .assign(arm=name, against=first)
        for name in others
    ]
    differences = pd.concat(apart, ignore_index=True) if apart else pd.DataFrame()
    return pd.concat(scores, ignore_index=True), differences, found


def verdict(scores: pd.DataFrame, differences: pd.DataFrame, arm: str = SYNTHETIC, of: str = compliance.ANY) -> str:
    """One sentence on what a segmenter of generated pairs reaches, from the tables of `evaluate_each`."""
    gap = differences[(differences["arm"] == arm) & (differences["of"] == of)].iloc[0]
    own, real = (scores[(scores["arm"] == name) & (scores["of"] == of)].iloc[0] for name in (arm, gap["against"]))
    if gap["high"] < 0:
        says = "it is worse than"
    elif gap["low"] > 0:
        says = "it is better than"
    else:
        says = "a difference is not shown from"
    return (
        f"Trained on {arm} alone the segmenter reaches Dice {own['score']:.3f} ({own['low']:.3f} to {own['high']:.3f}) of {of} on held-out frames; "
        f"{says} the one trained on {gap['against']} at {real['score']:.3f}: {gap['difference']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}, over patients)."
    )
