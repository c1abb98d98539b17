"""The images that notebooks 07 and 11 to 13 compare: generated frames, and real arterial frames of training and of held-out patients.

"Real" means here: frames of the archive that was given, as against generated. On the phantom archive those are simulated themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dsa_lib.core.condition_sentences import CELLS, OTHERS
from dsa_lib.core.images import ImageFiles
from dsa_lib.core.splits import SPLITS
from dsa_lib.fidelity.distances import ImageSet
from dsa_lib.fidelity.extractor import Extractor
from dsa_lib.fidelity.table5 import check_sets
from dsa_lib.run.session import Study

GENERATED, TRAINING, HELD_OUT = "generated", "training", "held-out"


@dataclass(frozen=True)
class RunImages:
    """Generated and real frames of one run.

    `generated` [n, H, W]: decoded from their files as they are asked for; `asked`: a row each, as notebook 05 asked for it (image_id, cell, angles, …).
    `frames`: the store of all real frames, uint8 [N, H, W], a memory map; `rows`: those of arterial.parquet by split (train, val, test), whose column
    frame_id is the place in the store.
    """

    generated: ImageFiles
    asked: pd.DataFrame
    frames: np.ndarray
    rows: Mapping[str, pd.DataFrame]

    @property
    def held_out(self) -> pd.DataFrame:
        """Rows of validation and test patients: no network of the run was trained on them (validation patients chose which weights were kept)."""
        return pd.concat([self.rows["val"], self.rows["test"]], ignore_index=True)

    @property
    def training_rows(self) -> np.ndarray:
        """Places of the training frames in the store, [n]."""
        return self.rows["train"]["frame_id"].to_numpy()

    def counts(self, origin: str) -> pd.DataFrame:
        """Images by condition (rows: CELLS and Others) and set. `origin` names the archive ("phantom", "archive")."""
        counts = {GENERATED: self.asked["cell"].value_counts()}
        counts |= {f"{origin}, {split}": rows["cell"].value_counts() for split, rows in self.rows.items()}
        return pd.DataFrame(counts).reindex([*CELLS, OTHERS]).fillna(0).astype(int)

    def features(self, extractor: Extractor, origin: str) -> dict[str, ImageSet]:
        """Features of the generated images, and of all arterial frames of training and of held-out patients: set → ImageSet."""
        cells = self.asked["cell"].to_numpy()
        sets = {GENERATED: ImageSet(extractor(self.generated, what=GENERATED), cells)}
        for name, rows in ((TRAINING, self.rows["train"]), (HELD_OUT, self.held_out)):
            values = extractor(self.frames, rows["frame_id"].to_numpy(), f"{origin} {name}")
            sets[name] = ImageSet(values, rows["cell"].to_numpy(), rows["patient"].to_numpy())
        return sets


def of_run(study: Study) -> RunImages:
    """The images of a run, checked before anything long begins: files whole and of one size, every condition there, no patient both held out and trained on.

    Image files are opened and not decoded. Raises StudyError (`distances.check_sets`, `images.ImageFiles`).
    """
    folder = study.read("samples/fid")
    asked = pd.read_parquet(folder / "manifest.parquet")
    arterial = pd.read_parquet(study.read("arterial.parquet"))
    frames = np.load(study.read("frames.npy"), mmap_mode="r")
    rows = {split: arterial[arterial["split"] == split].reset_index(drop=True) for split in SPLITS}
    found = RunImages(ImageFiles(folder, asked["file"].tolist()), asked, frames, rows)
    shapes = {GENERATED: found.generated.shape, "real": frames.shape}
    check_sets(asked["cell"], found.held_out, rows["train"], shapes)
    return found
