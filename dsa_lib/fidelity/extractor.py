"""Features on disk, block by block: what was computed before an interruption, or in the last run of the same images, is read and not computed again.

A block is named by what decides its values: the extractor (weights, preprocessing, code) and the content of its images. Nothing has to be told apart by
hand: a retrained network, another image or another order give other names. Blocks are written atomically; a damaged one is computed again.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from dsa_lib.core.images import check_frames
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import atomic_write, sha256


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


BLOCK_BATCHES = 8  # of features kept together on disk: an interruption costs no more than that


@dataclass(frozen=True)
class Extractor:
    """A feature extractor: `name`, the `distance` it may be reported as, and `compute` (uint8 frames [b, H, W] → float32 [b, d]).

    `digest` stands for everything that decides its values (`identity`); with it, `cached` keeps features on disk. `weights_sha256`: hash of the weights where
    they come from outside the run and no public hash is known; provenance has to name it.
    """

    name: str
    distance: str
    compute: Callable[[np.ndarray], np.ndarray]
    batch_size: int = 64
    digest: str = ""
    cache: FeatureCache | None = None
    weights_sha256: str = ""

    def __call__(self, frames: np.ndarray, rows: np.ndarray | None = None, what: str = "frames") -> np.ndarray:
        """Features [n, d] (float32) of uint8 frames [n, H, W], or of their `rows` alone.

        A memory map or `images.ImageFiles` is read batch by batch: beyond the features, two batches are in memory at a time. `what` names the set in
        messages. Raises StudyError on frames unfit for use, and on values that are not finite as soon as a batch has them.
        """
        check_frames(frames, what)
        rows = np.arange(len(frames)) if rows is None else np.asarray(rows)
        if len(rows) == 0:
            raise StudyError(f"{what} are missing: there is nothing to compute features of")
        features, done = None, 0
        batches = -(-len(rows) // self.batch_size)
        for values in track(self._batches(frames, rows), batches, f"batches of {self.name} features, {what}"):
            check_features(values, f"{self.name} features of the {what}", first=done)
            if features is None:
                features = np.empty((len(rows), values.shape[1]), np.float32)
            features[done : done + len(values)] = values
            done += len(values)
        return features

    def _batches(self, frames, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Features of one batch after the other; blocks that the cache has are read from it, others computed and kept there."""
        if self.cache is None:
            yield from map(self.compute, _read_ahead(frames, rows, self.batch_size))
            return
        size = self.batch_size * BLOCK_BATCHES
        for block in (rows[start : start + size] for start in range(0, len(rows), size)):
            path = self.cache.path(frames, block)
            values = self.cache.load(path, len(block))
            if values is not None:
                yield from (values[start : start + self.batch_size] for start in range(0, len(block), self.batch_size))
                continue
            parts = []
            for images in _read_ahead(frames, block, self.batch_size):
                parts.append(self.compute(images))
                yield parts[-1]
            # Reached only when the caller found the values finite.
            self.cache.store(path, np.concatenate(parts).astype(np.float32))


def _read_ahead(frames, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`frames` at `rows` in batches; the next batch is read, and decoded where it lies in files, while the last is worked on."""

    def read(start: int) -> np.ndarray:
        return np.ascontiguousarray(frames[rows[start : start + size]])

    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(read, 0)
        for start in range(size, len(rows) + size, size):
            images = following.result()
            if start < len(rows):
                following = reader.submit(read, start)
            yield images


def cached(extractor: Extractor, folder: Path) -> Extractor:
    """`extractor`, which from now on keeps its features under `folder` and takes them from there. One without a digest stays as it is."""
    if not extractor.digest:
        return extractor
    return replace(extractor, cache=FeatureCache(folder, extractor.name, extractor.digest))


def identity(*facts: object, weights: Path | torch.nn.Module, code: Sequence[ModuleType] = ()) -> str:
    """Digest of an extractor: its `weights` (a file, or a network's values), the source of this module and of `code`, and further `facts` (by repr)."""
    digest = hashlib.sha256(repr(facts).encode())
    for file in (Path(__file__), *(Path(module.__file__) for module in code)):
        digest.update(sha256(file).encode())
    if isinstance(weights, Path):
        digest.update(sha256(weights).encode())
    else:
        for name, value in sorted(weights.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_features(features: np.ndarray, what: str, first: int = 0) -> np.ndarray:
    """`features` if finite; StudyError otherwise. `first`: the number of the first image, where these are one batch of several."""
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise StudyError(
            f"{what}: {bad.sum()} of {len(features)} images give values that are not finite (first: image {first + int(np.flatnonzero(bad)[0])}); "
            "look at those images and at the network's weights"
        )
    return features
