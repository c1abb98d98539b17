"""As much of a `Study` as library functions ask for: artifacts are what lies in a folder; and made-up generated and real frames to lie there."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dsa_lib.core.condition_sentences import CANONICAL, CELLS
from dsa_lib.run.profiles import SMOKE, Profile

SIZE = 32


@dataclass
class FolderRun:
    """A run whose artifacts are the files of `folder`; without an autoencoder and the phantom's truth unless they lie there."""

    folder: Path
    profile: Profile = SMOKE
    archive: Path | None = None

    def has(self, name):
        return (self.folder / name).exists()

    def read(self, name):
        return self.folder / name


def with_images(folder, per_cell=3, seed=0, **values):
    """A `FolderRun` with samples/fid, frames.npy and arterial.parquet: random greys, `per_cell` images a condition; patients p0 … p5, a third of them in each
    split, of whom each has `per_cell` frames a condition; one frame of p0 is oblique (cell Others)."""
    rng = np.random.default_rng(seed)
    run = FolderRun(Path(folder), **values)
    target = run.folder / "samples" / "fid"
    target.mkdir(parents=True)
    asked = pd.DataFrame([_row(cell) for cell in CELLS for _ in range(per_cell)])
    asked["image_id"] = [f"img{n:05d}" for n in range(len(asked))]
    asked["file"] = asked["image_id"] + ".png"
    for name in asked["file"]:
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)).save(target / name)
    asked.to_parquet(target / "manifest.parquet")
    patients = [f"p{n}" for n in range(6)]
    real = pd.DataFrame([_row(cell) | {"patient": p} for p in patients for cell in CELLS for _ in range(per_cell)])
    real["split"] = real["patient"].map(
        dict(zip(patients, ("train", "train", "val", "val", "test", "test"), strict=True))
    )
    real["frame_id"] = rng.permutation(len(real))  # rows are not in the order of the store
    real.loc[0, ["cell", "primary_angle_deg"]] = "Others", 20.0
    real.to_parquet(run.folder / "arterial.parquet")
    np.save(run.folder / "frames.npy", rng.integers(0, 256, (len(real), SIZE, SIZE), dtype=np.uint8))
    return run


def _row(cell):
    condition = CANONICAL[cell]
    primary, secondary = map(float, condition.canonical_angles())
    known = {"cell": cell, "circulation": condition.circulation, "plane": condition.plane}
    return known | {"primary_angle_deg": primary, "secondary_angle_deg": secondary}
