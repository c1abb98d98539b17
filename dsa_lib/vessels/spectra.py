"""Radially averaged power spectra of images, of single ones and of sets, and how far apart two of them lie.

Figure 2 (c, d) of the anatomy study (Capitão et al.): mean spectra of each model as a function of |R| = √(x² + y²), the distance from the origin of the
two-dimensional grid of frequencies. Here |R| is in cycles a pixel, so that image sizes compare.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dsa_lib.core.images import check_frames
from dsa_lib.core.statistics import of_means
from dsa_lib.run.errors import StudyError

# Where "low" ends and "high" begins, cycles a pixel: structures more and less than four pixels wide (half a period). The source names both without a number.
SPLIT = 1 / 8
BANDS = ("all", "low", "high")


def spectrum(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(frequency [k] in cycles a pixel, power [k] in grey levels squared) of one square frame: mean of the power spectrum over rings one bin wide.

    The frame less its mean under a Hann window (so that its borders, which do not meet, add nothing), scaled so that white noise of variance σ² has power
    σ² at every frequency. Up to 0.5 cycles a pixel; the corners beyond are left out.
    """
    side = frame.shape[0]
    if frame.ndim != 2 or frame.shape[1] != side:
        raise StudyError(f"a frame of shape {frame.shape} has no ring-averaged spectrum here: give square frames")
    window = np.hanning(side + 1)[:-1]
    window = window[:, None] * window[None]
    x = frame.astype(np.float64)
    x = (x - (x * window).sum() / window.sum()) * window
    power = np.abs(np.fft.rfft2(x)) ** 2 / np.square(window).sum()
    down, right = np.fft.fftfreq(side) * side, np.arange(side // 2 + 1)
    ring = np.rint(np.hypot(down[:, None], right[None])).astype(int)
    twice = np.where((right == 0) | (2 * right == side), 1, 2)[None]  # rfft2 keeps one of each pair of mirrored columns
    weight = np.broadcast_to(twice, ring.shape)
    total = np.bincount(ring.ravel(), (power * weight).ravel()) / np.bincount(ring.ravel(), weight.ravel())
    kept = np.arange(1, side // 2 + 1)
    return kept / side, total[kept]


@dataclass(frozen=True)
class Spectra:
    """Of one set of images: `power` [n, k] of each image at the radii `frequency` [k] (cycles a pixel)."""

    frequency: np.ndarray
    power: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean power of the set, [k]."""
        return self.power.mean(axis=0)

    @property
    def amplitude(self) -> np.ndarray:
        """Root of the mean power [k], in grey levels: the root-mean-square magnitude of the Fourier coefficients at that radius."""
        return np.sqrt(self.mean)


def of_set(frames: np.ndarray, what: str = "images") -> Spectra:
    """The spectrum of every one of uint8 frames [n, s, s]; see `spectrum`."""
    check_frames(frames, what)
    found = [spectrum(frame) for frame in frames]
    return Spectra(found[0][0], np.array([power for _, power in found]))


def log_spectral_distance(power: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """√(mean over frequencies of (10 log₁₀ P/P₀)²) in decibels (Gray & Markel 1976, Eq. 3) of power [..., k] from `reference` [..., k].

    One decibel is a quarter more or a fifth less power at every frequency. Not a number where a spectrum has no power somewhere.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 10 * (np.log10(power) - np.log10(reference))
    distance = np.sqrt(np.square(decibels).mean(axis=-1))
    return np.where(np.isfinite(distance), distance, np.nan)


def bands(frequency: np.ndarray) -> dict[str, np.ndarray]:
    """Which of the radii [k] lie in each of BANDS, bool [k]."""
    return {"all": np.ones(len(frequency), bool), "low": frequency < SPLIT, "high": frequency >= SPLIT}


def distances(
    sets: Mapping[str, Spectra], true: Spectra, patients: np.ndarray, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """`log_spectral_distance` of each set's mean spectrum from that of the true images: columns set, band, distance_db, low, high.

    Image i of every set belongs to the true image i of patient `patients[i]`. Intervals are 95 % bootstrap over patients, true and generated images drawn
    together; they do not take off the distance that two finite sets of equally good images have. Raises StudyError for sets of another length.
    """
    rows = []
    for name, made in sets.items():
        if made.power.shape != true.power.shape:
            raise StudyError(
                f"{name}: spectra of shape {made.power.shape} for {true.power.shape} of the true images: give one image of the same size for each"
            )
        for band, here in bands(true.frequency).items():
            width = int(here.sum())
            both = np.concatenate([made.power[:, here], true.power[:, here]], axis=1)

            def apart(means: np.ndarray, width: int = width) -> np.ndarray:
                return log_spectral_distance(means[..., :width], means[..., width:])[..., None]

            found, low, high = (float(value[0]) for value in of_means(both, patients, draws, seed, apart))
            rows.append({"set": name, "band": band, "distance_db": found, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["set", "band", "distance_db", "low", "high"])
