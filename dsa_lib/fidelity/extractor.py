"""Features on disk, block by block: what was computed before an interruption, or in the last run of the same images, is read and not computed again.

A block is named by what decides its values: the extractor (weights, preprocessing, code) and the content of its images. Nothing has to be told apart by
hand: a retrained network, another image or another order give other names. Blocks are written atomically; a damaged one is computed again.
"""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np

from dsa_lib.run.workspace import atomic_write


class FeatureCache:
    """Blocks of features of one extractor in a folder of its own under `folder`.

    `name` and `digest` are the extractor's. Blocks of the same name with another digest belong to a network that is gone, and are removed.
    """

    def __init__(self, folder: Path, name: str, digest: str):
        self._digest = digest
        self._folder = Path(folder) / f"{name}-{digest[:16]}"
        if Path(folder).is_dir():
            for old in Path(folder).iterdir():
                if re.fullmatch(re.escape(name) + "-[0-9a-f]{16}", old.name) and old != self._folder:
                    shutil.rmtree(old, ignore_errors=True)

    def path(self, frames, rows: np.ndarray) -> Path:
        """The file of the block that holds features of `frames` [n, H, W] at `rows`."""
        if hasattr(frames, "content"):
            content = frames.content(rows)
        else:
            content = hashlib.sha256(np.ascontiguousarray(frames[rows])).digest()
        key = hashlib.sha256(f"{self._digest} {frames.shape[1:]} {len(rows)} ".encode() + content)
        return self._folder / f"{key.hexdigest()[:40]}.npy"

    def load(self, path: Path, rows: int) -> np.ndarray | None:
        """Features [rows, d] of the block, or None where it is absent or damaged."""
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return values if values.ndim == 2 and len(values) == rows and values.dtype == np.float32 else None

    def store(self, path: Path, values: np.ndarray) -> None:
        with atomic_write(path) as temporary:
            np.save(temporary, values)
