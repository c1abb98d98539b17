"""Which segmenter finds the arteries of a phantom frame best, and the training of the one that ships.

python benchmarks/vessel_segmentation.py train      # trains the network and writes models/vessels; the same command continues
python benchmarks/vessel_segmentation.py compare    # writes benchmarks/vessel_segmentation.json
"""

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib import vessel_network
from dsa_lib.phantom import truth
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.profiles import PHANTOM, Archive
from dsa_lib.progress import track
from dsa_lib.workspace import Workspace, atomic_write

TRAINING = Archive(patients=72, series_per_study=3, matrix=144, frames=14, frame_time_ms=500.0), 20261127
JUDGED = Archive(patients=24, series_per_study=4, matrix=144, frames=14, frame_time_ms=500.0), 20261128
VALIDATION_PATIENTS = 8  # of the training archive: their loss chooses the weights
ARTERIAL_FRAMES, LATER_FRAMES = (
    3,
    1,
)  # of a series; later ones teach that blush and veins are no arteries, and are not judged


def pairs(archive: tuple[Archive, int], later: int, path: Path) -> dict[str, np.ndarray]:
    """frames, classes (uint8 [n, H, W]) and patient [n] of the kept series of a phantom archive; rendered once and kept at `path`."""
    if not path.exists():
        config, seed = archive
        plan = plan_archive(config, seed)
        kept = plan[plan["kind"] == "kept"]
        frames, classes, patients = [], [], []
        runs = truth.labelled_runs(kept, config, seed, PHANTOM.curation)
        for series in (s for run in track(runs, kept["run"].nunique(), "runs rendered") for s in run):
            arterial = np.flatnonzero((series.phase == "arterial") & series.classes.any(axis=(1, 2)))
            after = np.flatnonzero(np.isin(series.phase, ["capillary", "venous"]))
            chosen = np.concatenate([spread(arterial, ARTERIAL_FRAMES), spread(after, later)]).astype(int)
            frames.append(series.frames[chosen])
            classes.append(series.classes[chosen])
            patients += [series.patient_id] * len(chosen)
        with atomic_write(path) as temporary:
            np.savez_compressed(
                temporary, frames=np.concatenate(frames), classes=np.concatenate(classes), patient=np.array(patients)
            )
    with np.load(path) as stored:
        return dict(stored)


def spread(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `values`, evenly spread."""
    return (
        values[np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]
        if len(values) and count
        else values[:0]
    )


def train(ws: Workspace) -> None:
    settings = PHANTOM.plausibility
    data = pairs(TRAINING, LATER_FRAMES, ws.path("training.npz"))
    names = np.unique(data["patient"])
    validation = np.isin(data["patient"], names[-VALIDATION_PATIENTS:])
    numbers = {name: value for name, value in asdict(settings).items() if name.startswith("network_")}
    augmentation = {name: value for name, value in vars(vessel_network).items() if name.isupper() and name != "FOLDER"}
    digest = hashlib.sha256(json.dumps([str(TRAINING), numbers, augmentation], default=str).encode()).hexdigest()
    model, history = vessel_network.train(
        data["frames"][~validation],
        data["classes"][~validation],
        settings,
        seed=PHANTOM.seed,
        folder=ws.checkpoints("vessels"),
        digest=digest,
        validation=(data["frames"][validation], data["classes"][validation]),
        precision=PHANTOM.precision,
    )
    print(pd.DataFrame(history))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("render", "train", "compare"))
    request = parser.parse_args()
    ws = Workspace("vessel_segmentation")
    if request.what == "render":
        pairs(JUDGED, 0, ws.path("judged.npz"))
    if request.what == "train":
        train(ws)


if __name__ == "__main__":
    main()
