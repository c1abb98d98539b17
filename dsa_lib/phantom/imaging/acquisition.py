"""How one planned run is acquired: C-arm, timing, exposure, shutter and motion, drawn from the run's own seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa_lib.phantom.body.head import Patient
from dsa_lib.phantom.body.territories import Injection3D, inject
from dsa_lib.phantom.imaging.bolus import Injection
from dsa_lib.phantom.imaging.projection import CArm
from dsa_lib.phantom.imaging.render import Exposure, RenderedRun, render_rotation, render_run

# mm in patient axes, and width of the field there: the head fills the field, the neck is cut at C2 or C3
ISOCENTRE = {
    "ICA": (0, 18, 19),
    "CCA": (0, 16, -2),
    "VA": (0, 24, 6),
    "ECA": (0, 16, 4),
    "arch": (0, 0, -312),
    "spinal": (0, 20, -310),
    "femoral": (78, 5, -800),
}
FIELD_MM = {"ICA": (182, 212), "VA": (172, 210), "CCA": (218, 234)}
CENTRING_MM = {
    "VA": (7.0, 6.0)
}  # SD of the isocentre, backwards and upwards: posterior runs are often centred on the hindbrain
DILUTION = {"arch": 0.3, "femoral": 0.6}  # large vessels: the catheter's bolus mixes with much blood
OTHER_FIELD_MM = (202, 232)
ROTATION_DEG = 200.0


@dataclass(frozen=True)
class Acquisition:
    """What the DICOM header tells of one plane: geometry, exposure, mask frames (1-based), per-frame primary angles where it rotates."""

    arm: CArm
    exposure: Exposure
    injection: Injection
    mask_frames: tuple[int, ...]
    rotation_deg: tuple[float, ...] = ()


class Bodies:
    """What each injection of one patient fills, grown when first asked for."""

    def __init__(self, patient: Patient, seed: int, number: int):
        self.patient, self._seed, self._grown = patient, seed * 100003 + number, {}

    def of(self, row: dict) -> Injection3D:
        """The trees that the plan row's injection fills."""
        key = (row["vessel"], row["side"])
        if key not in self._grown:
            self._grown[key] = inject(self.patient, *key, self._seed)
        return self._grown[key]


def times_s(config) -> np.ndarray:
    """Frame times [frames] in s."""
    return np.arange(config.frames) * config.frame_time_ms / 1000


def _motion(frames: int, step_s: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Patient motion [frames, 2] in mm: a slow drift, and in every fourth run a start of a few tenths of a millimetre; and swallowing [frames], mm."""
    drift = rng.choice([0.02, 0.045, 0.09], p=[0.45, 0.35, 0.2]) * np.sqrt(step_s / 0.5)
    motion = np.cumsum(rng.normal(0, drift, (frames, 2)), axis=0)
    if rng.random() < 0.25:
        motion[rng.integers(3, frames) :] += rng.normal(0, 0.35, 2)
    swallow = np.zeros(frames)
    if rng.random() < 0.3:
        swallow[rng.integers(3, frames) :] = rng.normal(0, 0.55)
    return motion, swallow


def _shutter(matrix: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Exposed columns and rows (first, last, first, last); open in two of three series."""
    edges = [0, matrix - 1, 0, matrix - 1]
    if rng.random() < 0.33:
        closed = rng.uniform(0.0, 0.045, 4) * matrix
        edges = [int(closed[0]), int(matrix - 1 - closed[1]), int(closed[2]), int(matrix - 1 - closed[3])]
    return tuple(edges)


def acquire(
    rows: list[dict], config, seed: int, bodies: Bodies, noise: bool = True
) -> tuple[list[Acquisition], list[np.ndarray], RenderedRun]:
    """Acquire the planes of one run.

    rows: plan rows of one run, one a plane; bodies: of their patient; noise: False takes infinitely many quanta and leaves everything else, every random
    draw included, as it is. Returns the acquisition of each plane, its frames
    [frames, matrix, matrix] uint16, and the rendered run with its truth.
    """
    first = rows[0]
    rng = np.random.default_rng([seed, 11, first["run"]])
    times = times_s(config)
    body = bodies.of(first)
    step = config.frame_time_ms / 1000
    injection = Injection(
        start=float(step * (1.25 + rng.uniform(0, 0.8))),
        duration=float(rng.uniform(1.85, 2.6)),
        strength=float(rng.uniform(0.75, 1.0)) * DILUTION.get(first["vessel"], 1.0),
    )
    rotating = first["kind"] == "rotational"
    centre = np.array(ISOCENTRE[first["vessel"]]) * [first["side"], 1, 1] + rng.normal(
        0, [2.0, *CENTRING_MM.get(first["vessel"], (4.0, 4.0))]
    )
    field = float(rng.uniform(*FIELD_MM.get(first["vessel"], OTHER_FIELD_MM)))
    photons = float(rng.uniform(0.6, 1.25) * 2.2e5 * (144 / config.matrix) ** 2)
    motion, swallow = _motion(config.frames, step, rng)
    if rotating:
        motion, swallow = np.zeros_like(motion), np.zeros_like(swallow)
    mask_frames = (1,) if rng.random() < 0.5 or times[1] > injection.start - 0.1 else (1, 2)
    acquisitions = []
    for row in rows:
        arm = CArm(
            row["primary_angle_deg"], row["secondary_angle_deg"], tuple(centre), field, flip=row["plane"] == "B",
            source_detector=float(rng.uniform(1050, 1200)), source_isocentre=float(rng.uniform(750, 785)),
        )  # fmt: skip
        angles = ()
        if rotating:
            angles = tuple(np.round(np.linspace(-ROTATION_DEG / 2, ROTATION_DEG / 2, config.frames), 1))
        exposure = Exposure(photons if noise else np.inf, motion, _shutter(config.matrix, rng), swallow)
        acquisitions.append(Acquisition(arm, exposure, injection, mask_frames, angles))
    render = render_rotation if rotating else render_run
    arms = [a.arm for a in acquisitions]
    exposures = [a.exposure for a in acquisitions]
    more = {"angles": acquisitions[0].rotation_deg} if rotating else {}
    result = render(
        body, injection, arms, exposures, times, config.matrix, bodies.patient, [seed, 13, first["run"]], **more
    )
    return acquisitions, result.frames, result
