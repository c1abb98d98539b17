"""How far a distance moves with choices that are no property of the generator: resizing and windowing (the caveat of §2.5).

A distance has no meaning apart from the way in which the images reached the network (Parmar et al. 2022 for resizing). Each change below is small to the eye.
Made to both sets it shows how much the number depends on that choice; made to the generated images alone, what a mismatch of two pipelines would add;
made to real frames and compared with the same frames unchanged, what the features see of it, without any sampling.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity.distances import LEAST_IMAGES, draw, frechet_distance, matched_counts, statistics
from dsa_lib.fidelity.extractor import Extractor

UNCHANGED = "none"
COLUMNS = ["kind", "change", "images", "reference_images", "both", "generated_only", "same_frames"]


def half_and_back(frames: np.ndarray, mode: str, antialias: bool) -> np.ndarray:
    """uint8 [n, H, W] at half the size by `mode` ("bilinear" or "bicubic"), and back to H × W by antialiased bicubic; whole greys in between."""
    height, width = frames.shape[-2:]
    small = _resized(_grey(frames), (height // 2, width // 2), mode, antialias)
    return _frames(_resized(small, (height, width), "bicubic", True))


def contrast(frames: np.ndarray, factor: float) -> np.ndarray:
    """uint8 [n, H, W] with the differences from each frame's median (its background) times `factor`, clipped to 0–255."""
    median = np.median(frames, axis=(1, 2), keepdims=True)
    return np.clip(np.rint(median + factor * (frames - median)), 0, 255).astype(np.uint8)


def brightness(frames: np.ndarray, grey: float) -> np.ndarray:
    """uint8 [n, H, W] with `grey` levels added, clipped to 0–255."""
    return np.clip(np.rint(frames + float(grey)), 0, 255).astype(np.uint8)


def full_window(frames: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W], each frame windowed so that its 1st and 99th percentile become black and white; a frame of one grey stays as it is."""
    low, high = np.percentile(frames, (1, 99), axis=(1, 2), keepdims=True)
    spread = np.where(high > low, high - low, 1)
    stretched = np.clip(np.rint((frames - low) / spread * 255), 0, 255)
    return np.where(high > low, stretched, frames).astype(np.uint8)


def _grey(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames))[:, None].float()


def _resized(images: torch.Tensor, size: tuple[int, int], mode: str, antialias: bool) -> torch.Tensor:
    resized = F.interpolate(images, size=size, mode=mode, antialias=antialias, align_corners=False)
    return resized.round().clamp(0, 255)


def _frames(images: torch.Tensor) -> np.ndarray:
    return images[:, 0].to(torch.uint8).numpy()


CHANGES: Mapping[tuple[str, str], Callable[[np.ndarray], np.ndarray]] = {
    ("", UNCHANGED): lambda frames: frames,
    **{
        ("resizing", f"half size and back, {mode}, {'' if antialias else 'not '}antialiased"): (
            lambda frames, mode=mode, antialias=antialias: half_and_back(frames, mode, antialias)
        )
        for mode in ("bilinear", "bicubic")
        for antialias in (True, False)
    },
    ("windowing", "contrast −10 %"): lambda frames: contrast(frames, 0.9),
    ("windowing", "contrast +10 %"): lambda frames: contrast(frames, 1.1),
    ("windowing", "10 grey levels darker"): lambda frames: brightness(frames, -10),
    ("windowing", "10 grey levels brighter"): lambda frames: brightness(frames, 10),
    ("windowing", "each frame stretched to its 1st–99th percentile"): full_window,
}


class Changed:
    """`frames` [n, H, W], an array or `images.ImageFiles`, changed as they are read."""

    def __init__(self, frames, change: Callable[[np.ndarray], np.ndarray]):
        self._frames, self._change = frames, change
        self.shape, self.dtype, self.ndim = frames.shape, frames.dtype, frames.ndim

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, rows) -> np.ndarray:
        return self._change(self._frames[rows])


def sensitivity(
    extractor: Extractor,
    generated: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray, np.ndarray],
    settings,
    seed: int,
    changes: Mapping[tuple[str, str], Callable] = CHANGES,
) -> pd.DataFrame:
    """The distance under each of `changes`; at most `settings.sensitivity_images` a set.

    `generated`: frames [n, H, W] and their cells; `held_out`: frames, the rows of them that are meant, and the cells of those rows. Held-out frames are
    drawn with `settings.reference_mix` and generated ones in the same mix where that is "balanced", as `fidelity.evaluate` does. Distances of fewer images
    are larger: compare within the table. Columns COLUMNS: `both` sets changed, `generated_only`, and `same_frames`, the held-out frames changed
    against the same frames unchanged. The first of `changes` must be none. Without rows where a set has
    fewer than two images.
    """
    frames, cells = generated[0], np.asarray(generated[1])
    real_frames, real_rows, real_cells = held_out[0], np.asarray(held_out[1]), np.asarray(held_out[2])
    rng = np.random.default_rng([seed, 1])
    most, mix = settings.sensitivity_images, settings.reference_mix
    reference = draw(real_cells, most, mix, rng)
    # No more of a cell than the reference has, nor than there are.
    available = {cell: min(int((cells == cell).sum()), int((real_cells[reference] == cell).sum())) for cell in CELLS}
    matched = matched_counts(available, real_cells[reference])
    chosen = draw(cells, matched, "balanced", rng) if mix == "balanced" else draw(cells, most, mix, rng)
    if min(len(chosen), len(reference)) < LEAST_IMAGES:
        return pd.DataFrame(columns=COLUMNS)
    rows, unchanged = [], None
    for (kind, name), change in changes.items():
        made = statistics(extractor(Changed(frames, change), chosen, f"generated, {name}"))
        real = statistics(extractor(Changed(real_frames, change), real_rows[reference], f"held-out, {name}"))
        unchanged = real if unchanged is None else unchanged
        values = [frechet_distance(made, real), frechet_distance(made, unchanged), frechet_distance(real, unchanged)]
        rows.append((kind, name, len(chosen), len(reference), *values))
    return pd.DataFrame(rows, columns=COLUMNS)
