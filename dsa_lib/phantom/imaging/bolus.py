"""Contrast over time: an injected bolus that disperses on its way, and the phase of every frame.

The concentration at a place the front reaches after tau seconds is the injection (a box of D seconds) spread by a
gamma-variate transit (Thompson et al., Circ Res 1964) whose width grows with tau. A share of it travels slowly along the
wall (Taylor dispersion of laminar flow), so that arteries stay filled, fainter, while the capillary bed blushes. Tissue and veins see
the same bolus later and wider.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammainc

PHASES = ("before_contrast", "arterial", "capillary", "venous")
VISIBLE = 0.06  # share of the peak arterial contrast volume from which the arteries count as filled
SHAPE = 3.0  # gamma-variate exponent


@dataclass(frozen=True)
class Injection:
    """start: s after the first frame that contrast enters the tree's root; duration: s; tissue_delay, vein_delay: s after the
    arterial tips; strength: undiluted share of the blood column, 0–1; dispersion: width in s of the gamma-variate at the root, and `spread` more of
    it per second of arrival; slow_share: share of the contrast that is slow_width s wider."""

    start: float
    duration: float
    tissue_delay: float = 0.5
    tissue_width: float = 0.4
    vein_delay: float = 1.15
    vein_width: float = 0.36
    strength: float = 0.9
    dispersion: float = 0.085
    spread: float = 0.1
    slow_share: float = 0.28
    slow_width: float = 0.5


def _box_gamma(t: np.ndarray, duration: float, width: np.ndarray) -> np.ndarray:
    """Box of `duration` s convolved with a unit-area gamma density of scale `width` s; values 0–1."""
    return gammainc(SHAPE, np.clip(t, 0, None) / width) - gammainc(SHAPE, np.clip(t - duration, 0, None) / width)


def artery_curve(injection: Injection, times: np.ndarray, arrival: np.ndarray) -> np.ndarray:
    """Concentration 0–1 at times [t] s and arrival times [k] s: [t, k]."""
    local = times[:, None] - injection.start - arrival[None]
    width = np.broadcast_to(injection.dispersion + injection.spread * arrival[None], local.shape)
    fast = _box_gamma(local, injection.duration, width)
    slow = _box_gamma(local, injection.duration, width + injection.slow_width)
    return injection.strength * ((1 - injection.slow_share) * fast + injection.slow_share * slow)


def tissue_curve(injection: Injection, times: np.ndarray, arrival: np.ndarray) -> np.ndarray:
    """Capillary concentration (relative) at times [t] s for tissue whose feeding tip is reached after [k] s."""
    local = times[:, None] - injection.start - arrival[None] - injection.tissue_delay
    width = np.broadcast_to(injection.tissue_width + 0.03 * arrival[None], local.shape)
    return injection.strength * _box_gamma(local, injection.duration, width)


def vein_curve(injection: Injection, times: np.ndarray, arrival: np.ndarray) -> np.ndarray:
    """Venous concentration (relative) at times [t] s; arrival [k] s counts from the first venous outflow."""
    local = times[:, None] - injection.start - arrival[None]
    width = np.broadcast_to(injection.vein_width + 0.02 * arrival[None], local.shape)
    fast, slow = (_box_gamma(local, injection.duration + 0.6, w) for w in (width, width + 2 * injection.slow_width))
    return injection.strength * ((1 - injection.slow_share) * fast + injection.slow_share * slow)


def phases(artery: np.ndarray, tissue: np.ndarray, vein: np.ndarray) -> np.ndarray:
    """True phase of every frame from the contrast volumes [t] in arteries, capillary bed and veins.

    Each is given relative to its own peak over time (0–1). Before contrast: arteries below VISIBLE of their peak. Arterial: from there until the
    capillary share exceeds the arterial one, so that arteries still dominate. Capillary: until the venous share exceeds the capillary
    one. Venous: the rest. Returns [t] of the names in PHASES, in that order in time.
    """
    a, c, v = artery, tissue, vein
    t = np.arange(len(a))
    first = int(np.argmax(a >= VISIBLE)) if (a >= VISIBLE).any() else len(a)
    peak = int(np.argmax(a))
    later = np.flatnonzero((t > peak) & (c > a))
    capillary = int(later[0]) if len(later) else len(a)
    drained = np.flatnonzero((t >= capillary) & (v > c))
    venous = int(drained[0]) if len(drained) else len(a)
    out = np.full(len(a), PHASES[0], dtype=object)
    out[first:capillary] = PHASES[1]
    out[capillary:venous] = PHASES[2]
    out[venous:] = PHASES[3]
    return out.astype(str)


def representative_frame(phase: np.ndarray, artery: np.ndarray, tissue: np.ndarray) -> int:
    """The frame an annotator would pick: the best filled arterial one with little blush; -1 where no frame is arterial.

    artery: contrast volume [t] in arteries beyond the trunks.
    """
    score = artery / max(float(artery.max()), 1e-9) - 0.5 * tissue / max(float(tissue.max()), 1e-9)
    arterial = phase == "arterial"
    return int(np.argmax(np.where(arterial, score, -np.inf))) if arterial.any() else -1
