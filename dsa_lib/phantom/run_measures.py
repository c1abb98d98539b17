"""What an angiogram looks like, in numbers: background, noise, vessel area by calibre, contrast, phases in seconds, spectrum.

Every function takes curated frames (uint8, vessels dark on `Curation.background_grey`) and knows nothing of where they come from, so that real and
phantom runs are measured alike (`realism`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve

from dsa_lib.phantom.imaging.bolus import VISIBLE, phases
from dsa_lib.vessels import filters as arteries
from dsa_lib.vessels.filters import widths

CLOSING = 21  # pixels at 256²: wider than any artery of the head, narrower than the blush
LOW, HIGH = 3.5, 6.0  # grey levels below the surroundings: hysteresis thresholds of a vessel
SMALLEST = 14  # pixels of the smallest piece that counts as vessel
EDGE, REACH = 0.4, 7  # a vessel ends where it falls to this share of the darkest pixel in a window of so many pixels
CALIBRES = {"fine": (0.0, 2.5), "medium": (2.5, 4.2), "trunk": (4.2, np.inf)}  # width in pixels at 256²


@dataclass(frozen=True)
class Run:
    """One curated run: frames uint8 [t, size, size], vessels dark; times [t] s; kind: vessel and plane where known; true phases of a phantom."""

    name: str
    frames: np.ndarray
    times: np.ndarray
    kind: tuple[str, str] = ("", "")
    phase: np.ndarray | None = None


def exposed(frames: np.ndarray) -> np.ndarray:
    """Pixels [size, size] bool inside the exposed field: those that change over time (what the shutter covers is constant)."""
    return frames.min(axis=0) != frames.max(axis=0)


def noise_sd(frame: np.ndarray, where: np.ndarray | None = None) -> float:
    """SD of white noise in grey levels by the mean absolute difference of two Laplacians (Immerkaer, Comput Vis Image Underst 1996).

    frame: [h, w]; where: pixels to use (bool), for instance those without vessels. Smooth structure of the image cancels.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], float)
    response = np.abs(convolve(frame.astype(float), kernel, mode="reflect"))
    inside = np.ones(frame.shape, bool) if where is None else where.copy()
    inside[[0, -1]] = False
    inside[:, [0, -1]] = False
    return float(np.sqrt(np.pi / 2) / 6 * response[inside].mean())


def surroundings(frame: np.ndarray) -> np.ndarray:
    """Grey level around the vessels [h, w] (`vessels.surroundings`)."""
    return arteries.surroundings(frame, CLOSING)


def depth(frame: np.ndarray) -> np.ndarray:
    """How many grey levels each pixel lies below its surroundings [h, w] (`vessels.depth`)."""
    return arteries.depth(frame, CLOSING)


def segment(darkness: np.ndarray) -> np.ndarray:
    """Vessel pixels [h, w] bool of a `depth` image (`vessels.above`)."""
    return arteries.above(darkness, LOW, HIGH, EDGE, REACH, SMALLEST)


def spectrum_slope(frame: np.ndarray, low: float = 0.03, high: float = 0.25) -> float:
    """Slope of log power over log spatial frequency between `low` and `high` cycles a pixel, of the windowed radial power spectrum."""
    size = min(frame.shape)
    image = frame[:size, :size].astype(float)
    window = np.hanning(size)
    power = np.abs(np.fft.fft2((image - image.mean()) * window[:, None] * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    band = (frequency >= low) & (frequency < high)
    x, y = np.log(frequency[band]), np.log(np.maximum(power[band], 1e-12))
    ring = np.digitize(
        x, np.linspace(np.log(low), np.log(high), 13)
    )  # every octave counts alike, however many waves it has
    count = np.bincount(ring)
    used = count > 0
    mean = [np.bincount(ring, values)[used] / count[used] for values in (x, y)]
    return float(np.polyfit(*mean, 1)[0])


@dataclass(frozen=True)
class Curves:
    """Time-intensity curves [t] of one run, each relative to its peak: arteries, blush, veins; and the darkness [t, h, w] they come from."""

    artery: np.ndarray
    blush: np.ndarray
    vein: np.ndarray
    blush_grey: np.ndarray
    darkness: np.ndarray

    def fullest(self) -> int:
        """Frame in which the arteries hold most contrast."""
        return int(np.argmax(self.artery))


def _at_peak(curve: np.ndarray) -> np.ndarray:
    return curve / max(float(curve.max()), 1e-9)


def curves(frames: np.ndarray) -> Curves:
    """Contrast over time in arteries, capillary bed and veins, told apart by when a pixel is darkest: before or after the blush is.

    frames: uint8 [t, h, w]. The blush is the mean darkening of the surroundings of the vessels, over the tenth of the field that darkens most.
    """
    field = exposed(frames)
    around = np.stack([surroundings(f) for f in frames])
    darkness = np.clip(around - frames.astype(np.float32), 0, None)
    veil = float(np.median(frames[0][field])) - around
    brain = field & (veil.mean(axis=0) >= np.quantile(veil.mean(axis=0)[field], 0.9)) if field.any() else field
    blush = np.clip(veil[:, brain].mean(axis=1), 0, None) if brain.any() else np.zeros(len(frames))
    # Within vessels only; a pixel's darkest moment is taken from a short mean, which noise moves little.
    vessels = segment(darkness.max(axis=0))
    smoothed = darkness[:, vessels]
    if len(frames) > 4:
        smoothed = (smoothed[:-2] + smoothed[1:-1] + smoothed[2:]) / 3
        smoothed = np.concatenate([smoothed[:1], smoothed, smoothed[-1:]])
    early = smoothed.argmax(axis=0) <= int(np.argmax(blush))
    inside = darkness[:, vessels]
    artery, vein = inside[:, early].sum(axis=1), inside[:, ~early].sum(axis=1)
    return Curves(*(_at_peak(c - np.quantile(c, 0.02)) for c in (artery, blush, vein)), blush, darkness)


def durations(c: Curves, times: np.ndarray) -> dict[str, float]:
    """Seconds of the arterial and capillary phase by `bolus.phases` on measured curves, and how long arteries stay filled."""
    phase = phases(c.artery, c.blush, c.vein)
    step = float(np.median(np.diff(times)))
    peak = c.fullest()
    return {
        "arterial phase": float((phase == "arterial").sum() * step),
        "capillary phase": float((phase == "capillary").sum() * step),
        "arteries above half": float((c.artery > 0.5).sum() * step),
        "blush peak after arterial peak": float(times[int(np.argmax(c.blush))] - times[peak]),
    }


def measure(run: Run) -> dict[str, float]:
    """Every statistic of one run, by name with its unit in brackets: background, noise, vessel area by calibre, contrast, times, spectrum."""
    field = exposed(run.frames)
    c = curves(run.frames)
    best = c.fullest()
    first = max(int(np.argmax(c.artery >= VISIBLE)), 1)
    vessels = segment(c.darkness[best])
    width = widths(vessels)
    free = field & ~segment(c.darkness.max(axis=0))
    area = max(int(field.sum()), 1)
    filled = [float((segment(d) & field).sum() / area) for d in c.darkness[c.artery >= 0.6]]
    out = {
        "background before contrast [grey]": float(run.frames[:first][:, field].mean()),
        "background in the fullest arterial frame [grey]": float(np.median(run.frames[best][free])) if free.any() else np.nan,
        "noise SD [grey]": noise_sd(run.frames[best], free),
        "vessels, fullest arterial frame [% of field]": 100 * float((vessels & field).sum() / area),
        "vessels, median of well filled frames [% of field]": 100 * float(np.median(filled)),
    }  # fmt: skip
    classes = {name: vessels & field & (width >= a) & (width < b) for name, (a, b) in CALIBRES.items()}
    out |= {f"vessels, {name} [% of field]": 100 * float(mask.sum() / area) for name, mask in classes.items()}
    for name, mask in classes.items():
        out[f"contrast, {name} [grey]"] = float(np.median(c.darkness[best][mask])) if mask.any() else np.nan
    out["blush at its peak [grey]"] = float(c.blush_grey.max())
    out |= {f"{name} [s]": seconds for name, seconds in durations(c, run.times).items()}
    out["arterial contrast left at the blush's peak [% of peak]"] = 100 * float(c.artery[int(np.argmax(c.blush))])
    out["slope of log power over log frequency, fullest arterial frame"] = spectrum_slope(run.frames[best])
    return out
