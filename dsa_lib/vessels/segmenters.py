"""The segmenters of an audit or a label map: arteries by a network that ships or without any training, and what is known of either.

Both name each pixel's calibre class (`filters.CLASSES`). Their errors on phantom frames whose vessels are known stand in benchmarks/vessel_segmentation.json.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.core.images import check_frames
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import PROJECT
from dsa_lib.vessels import filters as vessel_filters
from dsa_lib.vessels import unet as vessel_unet

KNOWN_VESSELS = PROJECT / "benchmarks" / "vessel_segmentation.json"


@dataclass(frozen=True)
class Segmenter:
    """`segment(frames, what)` → class maps uint8 [n, h, w]; `name` of the profile's choice; `says`: one sentence on what it is and is not known to do."""

    name: str
    segment: Callable[[np.ndarray, str], np.ndarray]
    says: str


def open_segmenter(name: str, phantom_patients: Iterable[str] | None, folder: Path = vessel_unet.FOLDER) -> Segmenter:
    """The segmenter that `plausibility.segmenter` names: "network" (the weights in `folder`) or "classical" (`dsa_lib.vessels.filters`).

    phantom_patients: PatientIDs of a phantom archive, of whom the network may have seen none; None for any other archive. Raises StudyError for another
    name, weights that are missing or damaged, and patients the network was trained on.
    """
    if name == "classical":
        says = "Arteries are found by a black top-hat with fixed thresholds, their calibre by depth; no training."
        return Segmenter(name, _calibre_maps, says)
    if name != "network":
        raise StudyError(f"plausibility.segmenter {name!r} is not network or classical")
    model, card = vessel_unet.load(folder)
    scores = json.loads(KNOWN_VESSELS.read_text())["scores"]["acquired"]["network"]
    dice = ", ".join(f"{part} {scores[part]['score']:.2f}" for part in ("vessel", "proximal", "medium", "peripheral"))
    says = (
        f"Arteries are named by a U-Net that was trained on simulated vessels only ({len(card['patients'])} phantom patients, none of this archive); "
        f"Dice on held-out phantom truth: {dice}."
    )
    if phantom_patients is None:
        says = says.replace(", none of this archive", "")
        says += " How well it finds vessels of clinical frames is not measured: look at the overlays, and compare with plausibility.segmenter classical."
    else:
        vessel_unet.check_unseen(phantom_patients, card)
    return Segmenter(name, lambda frames, what: vessel_unet.segment(model, frames, card["size"], what=what), says)


def of_run(study: Study) -> Segmenter:
    """The segmenter of the profile, after a look whether it was trained on patients of this run's phantom archive (`open_segmenter`)."""
    simulated = None
    if study.archive is None and study.has("archive_truth.parquet"):
        truth = pd.read_parquet(study.read("archive_truth.parquet"), columns=["patient_id"])
        simulated = truth["patient_id"].unique()
    return open_segmenter(study.profile.plausibility.segmenter, simulated)


def dice_on_known_vessels() -> pd.DataFrame:
    """Dice of each segmenter on phantom frames whose vessels are known (benchmarks/vessel_segmentation.json): rows segmenters, columns frames and part."""
    found = json.loads(KNOWN_VESSELS.read_text())["scores"]
    parts = ("vessel", *vessel_filters.CLASSES)
    rows = {
        name: {(frames, part): scores[name][part]["score"] for frames, scores in found.items() for part in parts}
        for name in ("network", "classical")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _calibre_maps(frames: np.ndarray, what: str) -> np.ndarray:
    check_frames(frames, f"{what} to segment")
    return np.stack([vessel_filters.calibres(frame) for frame in track(frames, what=f"{what} segmented")])
