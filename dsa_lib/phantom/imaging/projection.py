"""The C-arm's cone-beam geometry; vessels and skull as the detector sees them.

Angles follow DICOM PS3.3 C.8.7.5: primary +LAO/-RAO, secondary +CRA/-CAU. At 0/0 the detector is in front of the supine
patient. Lateral planes are displayed with the face to the left (FieldOfViewHorizontalFlip YES).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import zoom

from dsa_lib.phantom.body.head import Patient

MU_IODINE = 0.34  # per mm of undiluted contrast at the detector's effective energy
SCATTER = 0.35  # scattered to primary radiation behind the grid: what a filled vessel cannot darken
HEAD_MATRIX = 288  # the skull is smooth: larger detectors interpolate it
MU_SOFT, MU_BONE = 0.0062, 0.021  # per mm, effective: beam hardening and scatter flatten them


@dataclass(frozen=True)
class CArm:
    """One detector position.

    primary_deg, secondary_deg: positioner angles; source_detector, source_isocentre: mm; field: width in mm of the square field
    at the isocentre; isocentre: [3] mm in patient axes; flip: image columns mirrored.
    """

    primary_deg: float
    secondary_deg: float
    isocentre: tuple[float, float, float]
    field: float = 215.0
    source_detector: float = 1150.0
    source_isocentre: float = 780.0
    flip: bool = False

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors in patient axes: towards the detector, image right, image up."""
        a, b = np.deg2rad(self.primary_deg), np.deg2rad(self.secondary_deg)
        to_detector = np.array([np.sin(a) * np.cos(b), -np.cos(a) * np.cos(b), np.sin(b)])
        up = np.array([-np.sin(a) * np.sin(b), np.cos(a) * np.sin(b), np.cos(b)])
        right = np.cross(-to_detector, up)
        return to_detector, -right if self.flip else right, up

    def project(self, points: np.ndarray, matrix: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patient points [n, 3] mm to (column [n], row [n]) in pixels and magnification [n] relative to the isocentre.

        Pixel centres are whole numbers; the isocentre falls on (matrix - 1) / 2.
        """
        to_detector, right, up = self.axes()
        offset = np.asarray(points, float) - np.asarray(self.isocentre)
        magnification = self.source_isocentre / (self.source_isocentre + offset @ to_detector)
        pixel = matrix / self.field
        column = (matrix - 1) / 2 + offset @ right * magnification * pixel
        row = (matrix - 1) / 2 - offset @ up * magnification * pixel
        return column, row, magnification

    def rays(self, matrix: int) -> tuple[np.ndarray, np.ndarray]:
        """Source position [3] and unit ray directions [matrix, matrix, 3] through every pixel, in patient axes."""
        to_detector, right, up = self.axes()
        source = np.asarray(self.isocentre) - self.source_isocentre * to_detector
        grid = (np.arange(matrix) - (matrix - 1) / 2) * self.field / matrix
        direction = self.source_isocentre * to_detector + grid[None, :, None] * right - grid[:, None, None] * up
        return source, direction / np.linalg.norm(direction, axis=2, keepdims=True)


def splat(column, row, radius, volume, layer, layers: int, matrix: int) -> np.ndarray:
    """Contrast path length in mm-pixels: discs of `volume` spread over antialiased footprints, conserving volume.

    column, row, radius: [n] in pixels; volume: [n] already divided by a pixel's area (so that the image is in mm of contrast);
    layer: [n] real layer index, shared linearly between the two neighbouring layers. Returns [layers, matrix, matrix].
    A uniform disc swept along a line gives the chord profile 2 sqrt(r^2 - s^2) of a cylinder.
    """
    radius = np.maximum(radius, 0.42)
    half = np.ceil(radius - 0.1).astype(int)
    low = np.clip(np.floor(layer).astype(int), 0, layers - 1)
    high = np.minimum(low + 1, layers - 1)
    share = np.clip(layer - low, 0, 1)
    where, what = [], []
    for h in np.unique(half):
        near = (column > -h - 1) & (column < matrix + h) & (row > -h - 1) & (row < matrix + h)
        pick = np.flatnonzero((half == h) & near)
        span = np.arange(-h, h + 1)
        dy, dx = (g.ravel() for g in np.meshgrid(span, span, indexing="ij"))
        x = np.rint(column[pick]).astype(int)[:, None] + dx
        y = np.rint(row[pick]).astype(int)[:, None] + dy
        away = np.sqrt((x - column[pick, None]) ** 2 + (y - row[pick, None]) ** 2)
        weight = np.clip(radius[pick, None] + 0.5 - away, 0, 1)
        weight *= (volume[pick] / np.maximum(weight.sum(axis=1), 1e-6))[:, None]
        used = (weight > 0) & (x >= 0) & (x < matrix) & (y >= 0) & (y < matrix)
        index = y * matrix + x
        for which, part in ((low, 1 - share), (high, share)):
            where.append((index + (which[pick] * matrix * matrix)[:, None])[used])
            what.append((weight * part[pick, None])[used])
    size = layers * matrix * matrix
    if not where:
        return np.zeros((layers, matrix, matrix))
    return np.bincount(np.concatenate(where), np.concatenate(what), minlength=size).reshape(layers, matrix, matrix)


def vessel_layers(samples: dict[str, np.ndarray], arm: CArm, matrix: int, layers: int, last: float) -> np.ndarray:
    """Path length of contrast (mm) in layers of arrival time 0 … `last` seconds: [layers, matrix, matrix]."""
    column, row, magnification = arm.project(samples["point"], matrix)
    pixel = arm.field / matrix  # mm at the isocentre
    area = (pixel / magnification) ** 2
    layer = samples["arrival"] / max(last, 1e-6) * (layers - 1)
    return splat(
        column, row, samples["radius"] * magnification / pixel, samples["volume"] / area, layer, layers, matrix
    )


def _chord(source: np.ndarray, direction: np.ndarray, centre, axes, base=None) -> np.ndarray:
    """Length in mm of each ray inside an ellipsoid; with a `base` (normal, offset, width in mm) it fades out below that plane."""
    axes = np.asarray(axes, float)
    o = (source - np.asarray(centre, float)) / axes
    d = direction / axes
    a = np.einsum("...i,...i->...", d, d)
    b = d @ o
    length = 2 * np.sqrt(np.clip(b * b - a * (o @ o - 1), 0, None)) / a
    if base is None:
        return length
    normal, offset, width = base
    height = source @ normal + (direction @ normal) * (-b / a) - offset  # of the chord's middle over the plane
    return length * np.clip(0.5 + height / width, 0, 1)


def _trunk() -> list[tuple[tuple, tuple, float]]:
    """Ellipsoids of chest, spine and pelvis, as in `_head`; the lungs are less dense."""
    bone = MU_BONE - MU_SOFT
    bodies = [((0, 15, -330), (170, 105, 230), MU_SOFT * 0.75), ((0, 10, -780), (165, 105, 190), MU_SOFT * 0.75)]
    bodies += [((s * 78, 10, -345), (62, 82, 105), -MU_SOFT * 0.5) for s in (-1, 1)]
    bodies += [((0, 48, -175 - 24 * n), (19, 15, 10.5), bone * 0.7) for n in range(14)]
    bodies += [((s * 92, 22, -778), (23, 23, 23), bone * 0.7) for s in (-1, 1)]
    bodies += [((s * 104, 26, -880), (14, 14, 85), bone * 0.8) for s in (-1, 1)]
    bodies += [((s * 80, 40, -700), (45, 12, 55), bone * 0.5) for s in (-1, 1)]
    return bodies


# The vault fades out about a plane from the orbital roofs to the foramen magnum; below it lies the base, which has bodies of its own.
SKULL_BASE = (np.array([0.0, 0.23, 0.973]), -28.0, 36.0)


def _head(scale: np.ndarray) -> list[tuple[tuple, tuple, float]]:
    """Ellipsoids (centre, semi-axes, attenuation per mm, added where they overlap) of head and neck; the first three are the vault."""
    skull, inner = np.array([77.0, 99.0, 81.0]), np.array([71.0, 92.5, 75.0])
    bone = MU_BONE - MU_SOFT
    bodies = [
        ((0, 19, 23), (82, 105, 87), MU_SOFT),  # scalp and brain
        ((0, 19, 23), skull, bone),
        ((0, 19, 23), inner, -bone),
        ((0, -28, -58), (62, 55, 58), MU_SOFT * 0.8),  # face
        ((0, 36, -120), (56, 60, 95), MU_SOFT * 0.8),  # neck
        ((34, 22, -30), (20, 13, 9), bone * 0.5),  # petrous bones
        ((-34, 22, -30), (20, 13, 9), bone * 0.5),
        ((57, 38, -42), (11, 14, 18), bone * 0.5),  # mastoids
        ((-57, 38, -42), (11, 14, 18), bone * 0.5),
        ((14, -22, -17), (17, 11, 5), bone * 0.6),  # sphenoid
        ((-14, -22, -17), (17, 11, 5), bone * 0.6),
        ((0, -6, -22), (13, 14, 9), bone * 0.35),
        ((0, 26, -42), (12, 16, 6), bone * 0.5),  # clivus
        ((0, -52, -34), (13, 22, 22), -MU_SOFT * 0.9),  # nasal cavity and ethmoid air
        ((33, -52, -12), (17, 20, 16), -MU_SOFT * 0.25),  # orbits
        ((-33, -52, -12), (17, 20, 16), -MU_SOFT * 0.25),
        ((0, -70, 8), (22, 8, 11), -MU_SOFT * 0.9),  # frontal sinus
        ((0, 4, -90), (9, 9, 40), -MU_SOFT * 0.9),  # airway
    ]
    for n in range(-5, 6):  # jaws
        x, y = np.sin(n * 0.3), np.cos(n * 0.3)
        bodies.append(((40 * x, -24 - 46 * y, -97 + 10 * (1 - y)), (8, 8, 11), bone * 0.45))
        bodies.append(((30 * x, -26 - 38 * y, -64), (8, 8, 8), bone * 0.3))
    for n in range(-6, 7):  # teeth
        x, y = 23 * np.sin(n * 0.24), -48 - 26 * np.cos(n * 0.24)
        bodies += [((x, y, -74), (2.6, 3.2, 6.5), bone * 1.6), ((0.93 * x, y + 2, -87), (2.2, 3.0, 6.0), bone * 1.6)]
    for n in range(5):  # cervical vertebrae
        z = -66 - 17 * n
        bodies.append(((0, 30, z), (15, 10, 7.5), bone * 0.8))
        bodies.append(((0, 58, z - 6), (6, 16, 5), bone * 0.6))
    return [(tuple(np.multiply(c, scale)), tuple(np.multiply(a, scale)), mu) for c, a, mu in bodies]


def head_attenuation(patient: Patient, arm: CArm, matrix: int, texture: np.ndarray | None = None) -> np.ndarray:
    """Line integral of the attenuation of head (or trunk, for views below it) along every ray: [matrix, matrix], dimensionless.

    texture: optional [matrix, matrix] relative modulation of the bone (diploe, sutures, air cells).
    """
    size = min(matrix, HEAD_MATRIX)
    source, direction = arm.rays(size)
    total, bone = np.zeros((size, size)), np.zeros((size, size))
    trunk = arm.isocentre[2] < -200
    bodies = _trunk() if trunk else _head(patient.scale)
    columns, rows, magnification = arm.project(np.array([centre for centre, _, _ in bodies]), size)
    reach = np.array([max(axes) for _, axes, _ in bodies]) * magnification * size / arm.field * 1.05 + 2
    for n, (centre, axes, mu) in enumerate(bodies):
        window = tuple(
            slice(max(int(at - reach[n]), 0), max(int(at + reach[n]) + 2, 0)) for at in (rows[n], columns[n])
        )
        path = _chord(source, direction[window], centre, axes, SKULL_BASE if n < 3 and not trunk else None) * mu
        total[window] += path
        if mu > MU_SOFT:
            bone[window] += path
    if size < matrix:
        total, bone = (zoom(image, matrix / size, order=1, grid_mode=True, mode="nearest") for image in (total, bone))
    if texture is not None:
        total += np.minimum(bone, 0.8) * texture
    return np.clip(total, 0, None)
