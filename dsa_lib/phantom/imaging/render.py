"""One run: an injection seen in one or two planes, as raw 12-bit frames with their truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from dsa_lib.phantom.body.territories import Injection3D, arterial_samples, venous_samples
from dsa_lib.phantom.imaging.bolus import (
    Injection,
    artery_curve,
    phases,
    representative_frame,
    tissue_curve,
    vein_curve,
)
from dsa_lib.phantom.imaging.projection import MU_IODINE, SCATTER, CArm, head_attenuation, splat, vessel_layers

LAYERS, TISSUE_LAYERS = 28, 6
BRIGHT = 3700.0  # detector value of the direct beam
OFFSET = 24.0  # detector value behind the shutter
VISIBLE_PATH_MM = 0.2  # contrast path (mm) from which an artery is drawn in the truth mask
TISSUE_STRENGTH = 0.077
JAW_MM = -62.0  # height below which the neck moves when the patient swallows
VEIN_DILUTION = 0.6  # veins carry blood of unopacified territories too


@dataclass(frozen=True)
class Exposure:
    """photons: quanta per pixel in the direct beam (infinity: no noise); motion: [frames, 2] shift of the patient in mm at the isocentre (right, down);
    shutter: (left, right, upper, lower) first and last exposed column/row, 0-based inclusive; swallow: [frames] further shift downwards in mm of the
    neck and jaw, or None."""

    photons: float
    motion: np.ndarray
    shutter: tuple[int, int, int, int]
    swallow: np.ndarray | None = None


@dataclass
class RenderedRun:
    """One acquired run. `frames`: for each plane, uint16 [frames, matrix, matrix]; `phase`: [frames]; `representative`: frame counted from 0, or -1;
    `masks`: for each plane, uint8 [matrix, matrix] (0 none, 1 proximal, 2 medium, 3 peripheral arteries)."""

    frames: list[np.ndarray]
    phase: np.ndarray
    representative: int
    masks: list[np.ndarray]


def contrast_timing(body: Injection3D, injection: Injection, times: np.ndarray) -> tuple[np.ndarray, int]:
    """Phase of every frame and the representative frame, from contrast volumes in the whole tree (so the same in both planes)."""
    samples = arterial_samples(body, 2.0)
    arrival = np.linspace(0, body.last_arrival, 40)
    fine = np.linspace(0, max(times[-1], injection.start + 12), 400)  # peaks may lie between or after the frames
    volume, _ = np.histogram(samples["arrival"], bins=40, range=(0, body.last_arrival), weights=samples["volume"])
    distal, _ = np.histogram(
        samples["arrival"], bins=40, range=(0, body.last_arrival), weights=samples["volume"] * (samples["label"] > 1)
    )
    late = np.quantile(body.tissue_arrival, [0.1, 0.5, 0.9])

    def volumes(t):
        artery = artery_curve(injection, t, arrival)
        tissue = tissue_curve(injection, t, late).mean(axis=1)
        vein = vein_curve(injection, t, np.array([body.first_vein + injection.vein_delay])).mean(axis=1)
        return artery @ volume, tissue, vein, artery @ distal

    peaks = [v.max() for v in volumes(fine)]
    a, c, v, d = (x / p for x, p in zip(volumes(times), peaks, strict=True))
    phase = phases(a, c, v)
    return phase, representative_frame(phase, d, c)


def contrast_images(body: Injection3D, injection: Injection, arm: CArm, matrix: int, times: np.ndarray):
    """Contrast path length (mm) per frame [frames, matrix, matrix] and the truth mask [matrix, matrix] of one view."""
    pixel = arm.field / matrix
    samples = arterial_samples(body, 0.55 * pixel)
    layers = vessel_layers(samples, arm, matrix, LAYERS, body.last_arrival)
    curve = artery_curve(injection, times, np.linspace(0, body.last_arrival, LAYERS)).astype(np.float32)
    image = np.tensordot(curve, layers.astype(np.float32), 1)
    mask = truth_mask(samples, arm, matrix)
    coarse = max(matrix // 2, 24)
    blush = {"point": body.tissue, "arrival": body.tissue_arrival, "radius": np.full(len(body.tissue), 1.0)}
    blush["volume"] = np.full(len(body.tissue), body.tissue_volume)
    last = float(body.tissue_arrival.max())
    stack = vessel_layers(blush, arm, coarse, TISSUE_LAYERS, last)
    stack = gaussian_filter(stack.astype(np.float32), (0, *2 * (1.3 * coarse / arm.field,)))
    fine = zoom(stack, (1, matrix / coarse, matrix / coarse), order=1, grid_mode=True, mode="nearest")
    curve = tissue_curve(injection, times, np.linspace(0, last, TISSUE_LAYERS)) * TISSUE_STRENGTH
    image += np.tensordot(curve.astype(np.float32), fine, 1)
    if body.veins is not None:
        samples = venous_samples(body, 0.6 * pixel)
        last = float(samples["arrival"].max())
        layers = vessel_layers(samples, arm, matrix, 10, last)
        arrival = body.first_vein + injection.vein_delay + np.linspace(0, last, 10)
        curve = (vein_curve(injection, times, arrival) * VEIN_DILUTION).astype(np.float32)
        image += np.tensordot(curve, layers.astype(np.float32), 1)
    return image, mask


def truth_mask(samples: dict[str, np.ndarray], arm: CArm, matrix: int) -> np.ndarray:
    """Artery label map [matrix, matrix]: the most proximal artery whose full filling would be visible at each pixel."""
    if (samples["label"] == 0).any():  # the early vein of a lesion
        arterial = samples["label"] > 0
        samples = {key: values[arterial] for key, values in samples.items()}
    column, row, magnification = arm.project(samples["point"], matrix)
    pixel = arm.field / matrix
    path = splat(
        column, row, samples["radius"] * magnification / pixel, samples["volume"] * (magnification / pixel) ** 2,
        samples["label"].astype(float) - 1, 3, matrix,
    )  # fmt: skip
    mask = np.zeros((matrix, matrix), np.uint8)
    for label in (3, 2, 1):
        mask[path[label - 1] > VISIBLE_PATH_MM] = label
    return mask


def expose(
    attenuation: np.ndarray, contrast: np.ndarray, exposure: Exposure, arm: CArm, rng: np.random.Generator
) -> np.ndarray:
    """Raw detector frames [frames, matrix, matrix] uint16, linear in exposure, 12 bits.

    attenuation: [matrix, matrix] of the patient, or [frames, ...] where the view moves; contrast: mm of iodine path.
    Scatter is of the patient, not of the vessel: dense contrast saturates at SCATTER / (1 + SCATTER) of the surroundings.
    Quantum noise has the variance of Poisson counts. Motion shifts the patient's bones and soft tissue to first order, which leaves the edges of
    subtraction; the vessels' own shift, less than a pixel, is left out.
    """
    matrix = contrast.shape[-1]
    still = attenuation if attenuation.ndim == 3 else attenuation[None]
    down, right = np.gradient(still, axis=(1, 2))
    pixels = matrix / arm.field
    across, along = (exposure.motion * pixels).T[:, :, None, None]
    if exposure.swallow is not None and exposure.swallow.any():
        jaw = arm.project(np.array([[0.0, 0.0, JAW_MM]]), matrix)[1][0]
        below = np.clip((np.arange(matrix) - jaw) / pixels / 25, 0, 1)[:, None]  # fully 25 mm under the jaw
        along = along + exposure.swallow[:, None, None] * pixels * below
    line = still - right * across - down * along
    counts = np.exp(-line.astype(np.float32)) * ((np.exp(-MU_IODINE * contrast) + SCATTER) / (1 + SCATTER))
    counts += np.sqrt(counts / exposure.photons) * rng.standard_normal(counts.shape, dtype=np.float32)
    frames = np.clip(counts, 0, None) * BRIGHT + OFFSET
    left, last_column, upper, last_row = exposure.shutter
    closed = np.ones((matrix, matrix), bool)
    closed[upper : last_row + 1, left : last_column + 1] = False
    frames[:, closed] = OFFSET
    return np.clip(np.rint(frames), 0, 4095).astype(np.uint16)


def bone_texture(rng: np.random.Generator, matrix: int) -> np.ndarray:
    """Smooth relative modulation [matrix, matrix] of bone: diploe, sutures and air cells at several scales."""
    out = np.zeros((matrix, matrix))
    for scale, size in ((matrix / 10, 0.05), (matrix / 36, 0.05), (matrix / 110, 0.04)):
        noise = gaussian_filter(rng.standard_normal((matrix, matrix)), scale)
        out += size * noise / noise.std()
    return out


def render_run(body: Injection3D, injection: Injection, arms: list[CArm], exposures: list[Exposure], times: np.ndarray, matrix: int,
               patient, seed) -> RenderedRun:  # fmt: skip
    """Raw frames of every plane of one run and its truth.

    body: what the injection fills (`territories.inject`); arms and exposures: one a plane; times: [frames] s; matrix: detector
    pixels a side; patient: anatomy.Patient; seed: integer or sequence for noise and texture.
    """
    phase, best = contrast_timing(body, injection, times)
    frames, masks = [], []
    for n, (arm, exposure) in enumerate(zip(arms, exposures, strict=True)):
        rng = np.random.default_rng([*np.atleast_1d(seed), n])
        contrast, mask = contrast_images(body, injection, arm, matrix, times)
        attenuation = head_attenuation(patient, arm, matrix, bone_texture(rng, matrix))
        frames.append(expose(attenuation, contrast, exposure, arm, rng))
        masks.append(mask)
    return RenderedRun(frames, phase, best, masks)


def render_rotation(body: Injection3D, injection: Injection, arms: list[CArm], exposures: list[Exposure], times: np.ndarray, matrix: int,
                    patient, seed, angles) -> RenderedRun:  # fmt: skip
    """A rotational run of one plane: every frame has its own primary angle (`angles` [frames] degrees); arguments as in `render_run`."""
    phase, best = contrast_timing(body, injection, times)
    rng = np.random.default_rng([*np.atleast_1d(seed), 0])
    contrast, attenuation = [], []
    for n, angle in enumerate(angles):
        arm = replace(arms[0], primary_deg=float(angle))
        image, mask = contrast_images(body, injection, arm, matrix, times[n : n + 1])
        contrast.append(image[0])
        attenuation.append(head_attenuation(patient, arm, matrix))
    frames = expose(np.stack(attenuation), np.stack(contrast), exposures[0], arms[0], rng)
    return RenderedRun([frames], phase, best, [mask])
