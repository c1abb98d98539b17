"""Latents of a run's frames: posterior mean and standard deviation, encoded once, streamed to disk, re-used by every run with the same autoencoder.

A latent belongs to the weights that made it and to the pixels it was made from, so both are kept as hashes: of the encoder's weights (`latents.json`) and of
every frame (`digests.npy`). What a finished store of the same autoencoder holds of a frame is copied, whichever run it lies in; the rest is encoded.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL

from dsa_lib.ldm import autoencoder
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import atomic_write, runs_folder, sha256, write_json

PARTS = ("mean", "std")
FILES = (*(f"{name}.npy" for name in PARTS), "digests.npy")  # of a store, beside its record latents.json
BATCH = 32  # frames encoded at a time
KEPT_EVERY_S = 20.0  # what a kill can lose


def weights_digest(model: AutoencoderKL) -> str:
    """sha256 of the autoencoder's weights: names, shapes and values. The latent scale, which follows from the latents, is not among them."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def frame_digests(frames: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """First 16 bytes of the sha256 of each of `frames[rows]`, uint8 [n, 16]."""
    found = (hashlib.sha256(np.ascontiguousarray(frames[row])).digest()[:16] for row in rows)
    return np.frombuffer(b"".join(found), np.uint8).reshape(len(rows), 16)


def stores(weights: str) -> list[Path]:
    """Finished stores of latents of the autoencoder `weights` (`weights_digest`) in the runs folder, whose files are as their record has them."""
    found = []
    for path in sorted(runs_folder().glob("*/latents/latents.json")):
        record, folder = json.loads(path.read_text()), path.parent
        if record["weights"] == weights and all(
            (folder / name).exists() and sha256(folder / name) == record.get("files", {}).get(name) for name in FILES
        ):
            found.append(folder)
    return found


def posteriors(
    model: AutoencoderKL, frames: np.ndarray, rows: np.ndarray | None = None, dtype: type = np.float16
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and standard deviation of uint8 frames [N, H, W] or of their `rows` [n] alone: `dtype` [n, C, h, w] each, all in memory."""
    rows = np.arange(len(frames)) if rows is None else np.asarray(rows)
    starts = track(range(0, len(rows), BATCH), what="batches encoded")
    parts = [[part.astype(dtype) for part in autoencoder.encode(model, frames[rows[k : k + BATCH]])] for k in starts]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def encode(
    model: AutoencoderKL,
    frames: np.ndarray,
    rows: np.ndarray,
    shape: tuple[int, int, int],
    folder: Path,
    work: Path,
    known: Sequence[Path] = (),
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, int]:
    """Write the posteriors of `frames[rows]` to `folder`: mean.npy and std.npy (float16 [n, *shape]), digests.npy and latents.json.

    Both mean and std are kept, and a latent is drawn anew at every use: one frozen sample an image would set a floor under the diffusion loss.
    `frames`: uint8 [N, H, W], a memory map is read batch by batch; `work`: a folder for what is unfinished, which the same call takes up after a kill;
    `known`: finished stores of this autoencoder to copy from (`stores`). Every file appears whole. Returns how many latents were `encoded`, `copied` from a
    store (this folder's own too, where the call had finished before), and `resumed` from an unfinished call.
    """
    weights, digests = weights_digest(model), frame_digests(frames, rows)
    unfinished = _Unfinished(
        Path(work), hashlib.sha256(weights.encode() + digests.tobytes()).hexdigest(), len(rows), shape
    )
    counts = {"resumed": int(unfinished.done.sum()), "copied": 0}
    for store in known:
        counts["copied"] += unfinished.copy(Path(store), digests)
    missing = np.flatnonzero(~unfinished.done)
    for first in progress(range(0, len(missing), BATCH)):
        here = missing[first : first + BATCH]
        unfinished.put(here, *autoencoder.encode(model, frames[rows[here]]))
    unfinished.finish(Path(folder), digests, {"weights": weights, "frames": len(rows), "shape": list(shape)})
    return counts | {"encoded": len(missing)}


class _Unfinished:
    """Latents being written: memory maps in a work folder, and which rows of them are done."""

    def __init__(self, work: Path, key: str, count: int, shape: tuple[int, int, int]):
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.key = work, key
        self.done = np.zeros(count, bool)
        mode = "w+"
        if (work / "done.json").exists() and json.loads((work / "done.json").read_text())["key"] == key:
            self.done = np.load(work / "done.npy")
            mode = "r+"
        paths = [work / f"{name}.npy" for name in PARTS]
        if mode == "w+":
            (work / "done.json").unlink(missing_ok=True)
            self.arrays = [
                np.lib.format.open_memmap(p, mode="w+", dtype=np.float16, shape=(count, *shape)) for p in paths
            ]
        else:
            self.arrays = [np.load(path, mmap_mode="r+") for path in paths]
        self._kept = time.monotonic()
        self._keep()

    def copy(self, store: Path, digests: np.ndarray) -> int:
        """Take what the finished `store` holds of the missing rows; returns how many."""
        place = {digest.tobytes(): row for row, digest in enumerate(np.load(store / "digests.npy"))}
        found = [
            (row, place[digests[row].tobytes()])
            for row in np.flatnonzero(~self.done)
            if digests[row].tobytes() in place
        ]
        sources = [np.load(store / f"{name}.npy", mmap_mode="r") for name in PARTS]
        for first in range(0, len(found), BATCH):
            here, there = np.array(found[first : first + BATCH]).T
            self.put(here, *(source[there] for source in sources))
        return len(found)

    def put(self, rows: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
        for array, values in zip(self.arrays, (mean, std), strict=True):
            array[rows] = values
        self.done[rows] = True
        if time.monotonic() - self._kept > KEPT_EVERY_S:
            self._keep()

    def _keep(self) -> None:
        """Values first, then the note that they are there."""
        for array in self.arrays:
            array.flush()
        with atomic_write(self.work / "done.npy") as temporary:
            np.save(temporary, self.done)
        write_json(self.work / "done.json", {"key": self.key})
        self._kept = time.monotonic()

    def finish(self, folder: Path, digests: np.ndarray, facts: dict) -> None:
        """Move the finished arrays to `folder`; the record that makes them a store comes last."""
        self._keep()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "latents.json").unlink(missing_ok=True)
        (self.work / "done.json").unlink()
        self.arrays = []
        for name in PARTS:
            os.replace(self.work / f"{name}.npy", folder / f"{name}.npy")
        with atomic_write(folder / "digests.npy") as temporary:
            np.save(temporary, digests)
        write_json(folder / "latents.json", facts | {"files": {name: sha256(folder / name) for name in FILES}})
