"""Named vessels, cortex and skull of one simulated patient, in millimetres.

Axes are DICOM's patient axes: x to the patient's left, y to the back, z to the head. The origin is the midline point between
the two carotid termini. Courses and calibres follow the standard descriptions (Osborn, Diagnostic Cerebral Angiography;
Rhoton's Cranial Anatomy): they are drawn for the patient's left side and mirrored for the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BRAIN_CENTRE = np.array([0.0, 20.0, 23.0])
BRAIN_AXES = np.array([66.0, 86.0, 67.0])
BRAIN_DEPTH_BELOW = 50.0  # the cerebrum is flatter below its centre: temporal base and tentorium
CEREBELLUM_CENTRE = np.array([0.0, 64.0, -30.0])
CEREBELLUM_AXES = np.array([50.0, 37.0, 25.0])


@dataclass(frozen=True)
class Vessel:
    """One named vessel.

    points: [n, 3] control points in mm, in the direction of flow away from the tree's root.
    radius: (start, end) in mm, or None where Murray's law sets it from the branches it feeds.
    parent: name of the vessel it leaves (at the parent's nearest point), or None for the root.
    sprouts: whether cortical branches may leave it.
    """

    name: str
    points: np.ndarray
    radius: tuple[float, float] | None
    parent: str | None
    sprouts: bool = False


@dataclass(frozen=True)
class Patient:
    """What varies from one simulated patient to the next (drawn once from the patient's seed)."""

    scale: np.ndarray  # [3] of head and vessels
    siphon: np.ndarray  # [2, 4] per side: genu reach, loop height, petrous reach, cervical bow (mm)
    calibre: float
    tortuosity: float
    m1_length: np.ndarray  # [2] mm
    pcom: np.ndarray  # [2] "hypoplastic", "open", "fetal"
    acom_cross_fill: bool
    vertebral_reflux: bool
    dominant_sinus: int  # +1 left, -1 right
    basilar_bow: float  # mm
    wave: np.ndarray  # [6, 9] smooth individual deformation: wave vector, phase, amplitude
    basilar: np.ndarray  # [3] mm: height of its tip, bow towards the cerebellum, how far the atlas loop reaches back
    pose: np.ndarray  # [2] how the head lies, degrees: turned to the left, chin raised


def draw_patient(rng: np.random.Generator) -> Patient:
    """One patient's anatomical variation; every draw comes from `rng`, so a patient is repeatable."""
    sway = np.concatenate(
        [
            rng.normal(size=(6, 3)) * (2 * np.pi / 110),
            rng.uniform(0, 2 * np.pi, (6, 3)),
            rng.normal(size=(6, 3)) * 1.1,
        ],
        axis=1,
    )
    return Patient(
        scale=rng.normal([1.0, 1.0, 1.0], [0.03, 0.035, 0.035]).clip(0.92, 1.08),
        siphon=rng.normal(0, [3.2, 2.4, 2.2, 5.0], (2, 4)).clip(-8, 8),
        calibre=float(np.clip(rng.normal(1.0, 0.07), 0.85, 1.15)),
        tortuosity=float(rng.uniform(0.75, 1.3)),
        m1_length=rng.normal(0, 2.2, 2).clip(-5, 5),
        pcom=rng.choice(["hypoplastic", "open", "fetal"], 2, p=[0.68, 0.18, 0.14]),
        acom_cross_fill=bool(rng.random() < 0.22),
        vertebral_reflux=bool(rng.random() < 0.35),
        dominant_sinus=int(rng.choice([-1, -1, 1])),
        basilar_bow=float(rng.normal(0, 2.6)),
        wave=sway,
        basilar=rng.normal(0, [3.5, 3.0, 3.0]).clip(-7, 7),
        pose=rng.normal(0, [2.2, 3.2]).clip(-6, 6),
    )


def individual(points: np.ndarray, patient: Patient) -> np.ndarray:
    """Deform textbook coordinates [n, 3] into this patient's: scaling and a smooth sway of a few millimetres."""
    k, phase, amplitude = patient.wave[:, :3], patient.wave[:, 3:6], patient.wave[:, 6:]
    angle = points @ k.T
    sway = sum(np.sin(angle[:, j : j + 1] + phase[j]) * amplitude[j] for j in range(len(k)))
    # the skull base is held nearly still, the neck and the distal brain move
    return posed((points + sway * 0.9) * patient.scale, patient)


def posed(points: np.ndarray, patient: Patient) -> np.ndarray:
    """Turn points [n, 3] as the patient's head lies, about the brain's centre; the neck below the skull base stays."""
    turn, raised = np.deg2rad(patient.pose)
    x, y, z = (points - BRAIN_CENTRE).T
    held = np.clip(1 + (z + 73) / 60, 0, 1)  # 1 above the skull base, 0 in the neck
    raised, turn = raised * held, turn * held
    y, z = y * np.cos(raised) + z * np.sin(raised), z * np.cos(raised) - y * np.sin(raised)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return np.column_stack([x, y, z]) + BRAIN_CENTRE


def cortex_x(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Lateral distance (mm) of the convexity from the midline at (y, z); about zero outside the outline."""
    below = np.where(z < BRAIN_CENTRE[2], BRAIN_DEPTH_BELOW, BRAIN_AXES[2])
    inside = 1 - ((y - BRAIN_CENTRE[1]) / BRAIN_AXES[1]) ** 2 - ((z - BRAIN_CENTRE[2]) / below) ** 2
    return BRAIN_AXES[0] * np.sqrt(np.clip(inside, 0.01, None))


def side_index(side: int) -> int:
    """0 for the left (+1), 1 for the right (-1)."""
    return 0 if side > 0 else 1


def _mirror(points, side: int) -> np.ndarray:
    return np.asarray(points, float) * [side, 1, 1]


def carotid(patient: Patient, side: int) -> list[Vessel]:
    """Internal carotid with siphon, ophthalmic, choroidal, A1 and M1 of one side."""
    genu, height, petrous, bow = patient.siphon[side_index(side)]
    length = patient.m1_length[side_index(side)]
    c = patient.calibre
    ica = [
        (27, 20, -150), (26, 20, -125), (27 + 0.5 * bow, 17 - bow, -102), (28, 19 + bow, -80), (26, 22 + 0.7 * bow, -62),
        (24.5, 20, -48), (24, 19, -38), (23, 17.5, -30), (19, 12 + petrous, -25.5), (15, 5 + petrous, -24),
        (12.5, 2, -20), (11.5, 1.5, -14.5), (11, -3, -11), (10.5, -9 - genu, -10.5), (10.3, -15 - genu, -8.5),
        (10.5, -17.5 - genu, -4), (11, -14.5 - genu, 0.3 + 0.4 * height), (12.3, -8, 1.2 + 0.6 * height),
        (13.6, -4.5, 4.5), (14.5, -4, 9),
    ]  # fmt: skip
    m1 = [(14.5, -4, 9), (19, -6, 10.2), (26, -7, 9.2), (31 + 0.6 * length, -6, 9.5), (35 + length, -4, 11)]
    a1 = [(14.5, -4, 9), (11, -8, 10.4), (6.5, -11.5, 10.2), (2.4, -13, 12)]
    vessels = [
        Vessel("ICA", _mirror(ica, side), (2.5 * c, 1.85 * c), None),
        Vessel("M1", _mirror(m1, side), (1.5 * c, 1.35 * c), "ICA"),
        Vessel("A1", _mirror(a1, side), (1.15 * c, 1.05 * c), "ICA"),
        Vessel("ophthalmic", _mirror([(11, -14, 0), (13, -24, -3), (17, -36, -5), (21, -50, -1), (17, -60, 3)], side), (0.6, 0.3), "ICA"),
        Vessel("AChA", _mirror([(13.6, -5, 5), (17, 4, 6), (21, 14, 10), (24, 24, 15), (22, 32, 18)], side), (0.4, 0.2), "ICA"),
    ]  # fmt: skip
    for n, y in enumerate((-6.5, -7, -6.5, -6)):
        x = 20 + 3.6 * n
        course = [(x, y, 10), (x - 1.5, y + 3, 17), (x - 1 + 0.8 * n, y + 7, 26), (x + 1.2 * n - 1, y + 10, 36)]
        vessels.append(Vessel(f"lenticulostriate {n}", _mirror(course, side), (0.26, 0.14), "M1"))
    return vessels


# insular exit (y, z), where it leaves the Sylvian fissure (y), target on the convexity (y, z), trunk
SYLVIAN_BRANCHES = {
    "orbitofrontal": ((-15, 13), -21, (-56, 12), "superior"),
    "prefrontal": ((-13, 19), -14, (-50, 42), "superior"),
    "precentral": ((-6, 25), -5, (-30, 66), "superior"),
    "central": ((4, 29), 6, (-6, 77), "superior"),
    "anterior parietal": ((14, 32), 18, (22, 77), "superior"),
    "posterior parietal": ((24, 33), 30, (50, 68), "inferior"),
    "angular": ((32, 31), 39, (76, 50), "inferior"),
    "temporo-occipital": ((30, 26), 40, (86, 20), "inferior"),
    "posterior temporal": ((21, 20), 30, (62, -3), "inferior"),
    "middle temporal": ((11, 14), 16, (34, -15), "inferior"),
    "anterior temporal": ((0, 9), 0, (8, -20), "inferior"),
}


def _fissure(y: float) -> tuple[float, float, float]:
    """Point of the Sylvian fissure on the convexity at y (mm)."""
    z = 3.0 + (y + 22) / 61 * 23
    return float(cortex_x(np.array(y), np.array(z))), y, z


def middle_cerebral(patient: Patient, side: int, rng: np.random.Generator) -> list[Vessel]:
    """M2 trunks over the insula, opercular turns (M3) and the cortical stems (M4), a fan of eleven named branches."""
    limen = np.array([35.0 + patient.m1_length[side_index(side)], -4, 11])
    trunks = {
        "superior": [limen, (38, -4, 15), (38.5, 0, 20)],
        "inferior": [limen, (38, 1, 12.5), (38.5, 8, 16), (39, 15, 20.5)],
    }
    vessels = [Vessel(f"M2 {n}", _mirror(p, side), None, "M1", sprouts=False) for n, p in trunks.items()]
    for name, ((ye, ze), yf, (yt, zt), trunk) in SYLVIAN_BRANCHES.items():
        ye, ze, yf = ye + rng.normal(0, 2), ze + rng.normal(0, 2), yf + rng.normal(0, 3)
        lean, drop = rng.normal(0, 4, 2)  # opercular branches are seldom seen exactly end on in the lateral view
        yt, zt = yt + rng.normal(0, 4), zt + rng.normal(0, 3)
        start = np.array(trunks[trunk][-1], float)
        if name in ("orbitofrontal", "prefrontal", "anterior temporal", "middle temporal"):
            start = np.array(trunks[trunk][1], float)
        middle = 0.5 * (start + [38.5, ye, ze]) + rng.normal(0, [0.6, 1.6, 1.6])
        fx, fy, fz = _fissure(yf)
        sag = 2.0 + rng.uniform(0, 4)  # the opercular branch dips before it leaves the fissure
        course = [start, middle, (38.5, ye, ze), (42, ye + 1.5 + 0.6 * lean, ze + 1.5), (49, 0.5 * (ye + yf) + lean, 0.5 * (ze + fz) - 0.3 * sag + drop),
                  (fx - 6, fy - 0.7 * lean, fz - 0.8 * sag), (fx - 1, fy, fz)]  # fmt: skip
        for f in np.linspace(0.18, 1, 6):
            y, z = fy + f * (yt - fy), fz + f * (zt - fz)
            bend = np.sin(np.pi * f) * 5 * (1 if zt > fz else -0.6)
            y += bend
            course.append((cortex_x(np.array(y), np.array(z)) - 1.5 - 5 * rng.random(), y, z))
        vessels.append(Vessel(name, _mirror(course, side), None, f"M2 {trunk}", sprouts=True))
    pole = [(24, -7, 9.5), (29, -14, 3), (36, -20, -5), (43, -19, -12), (48, -10, -17)]
    vessels.append(Vessel("temporopolar", _mirror(pole, side), None, "M1", sprouts=True))
    return vessels


def anterior_cerebral(side: int, rng: np.random.Generator, root: str = "A1") -> list[Vessel]:
    """A2, pericallosal arc around the corpus callosum, callosomarginal and frontopolar branches of one side."""
    x = 2.2 + rng.normal(0, 0.4)
    lift, reach = rng.normal(0, 2), rng.normal(0, 2.5)
    pericallosal = [
        (2.4, -13, 12), (x, -18, 15), (x, -26, 17.5), (x, -34 - reach, 22), (x, -38 - reach, 30), (x, -35 - reach, 38 + lift),
        (x, -25, 44 + lift), (x, -10, 48 + lift), (x, 8, 49 + lift), (x, 25, 47.5 + lift), (x, 40, 42 + lift), (x, 50, 33 + lift),
    ]  # fmt: skip
    callosomarginal = [
        (x, -37 - reach, 27), (x + 1, -45 - reach, 34), (x + 1.5, -46, 45 + lift), (x + 1, -38, 55 + lift), (x + 1.5, -22, 61 + lift),
        (x + 1, -5, 65 + lift), (x + 1.5, 12, 67 + lift), (x + 2, 26, 74),
    ]  # fmt: skip
    for course in (pericallosal, callosomarginal):  # they weave about the midline
        course[1:] = [(px + rng.normal(0, 1.0), py, pz) for px, py, pz in course[1:]]
    branches = {
        "frontopolar": ([(x, -30, 19), (x + 2, -42, 19), (x + 3, -54, 24), (x + 4, -61, 32)], "pericallosal"),
        "fronto-orbital": ([(x, -20, 15.5), (x + 3, -30, 8), (x + 4, -42, 5), (x + 4, -54, 8)], "pericallosal"),
        "anterior internal frontal": ([(x, -45, 40), (x + 2, -52, 50), (x + 3, -50, 62)], "callosomarginal"),
        "middle internal frontal": ([(x, -30, 59), (x + 2, -30, 70), (x + 4, -24, 78)], "callosomarginal"),
        "paracentral": ([(x, 2, 66), (x + 2, 8, 75), (x + 4, 8, 82)], "callosomarginal"),
        "superior parietal": ([(x, 32, 46), (x + 1, 42, 55), (x + 3, 48, 68)], "pericallosal"),
        "inferior parietal": ([(x, 46, 38), (x + 1, 56, 42), (x + 3, 64, 52)], "pericallosal"),
    }
    vessels = [
        Vessel("pericallosal", _mirror(pericallosal, side), None, root, sprouts=True),
        Vessel("callosomarginal", _mirror(callosomarginal, side), None, "pericallosal", sprouts=True),
    ]
    vessels += [Vessel(n, _mirror(p, side), None, parent, sprouts=True) for n, (p, parent) in branches.items()]
    return vessels


def posterior_cerebral(side: int, rng: np.random.Generator, root: str, from_carotid: bool = False) -> list[Vessel]:
    """P1 to P4 of one side; a fetal variant leaves the carotid through the posterior communicating artery."""
    first = [(12.5, -7, 2.5), (11, 3, 3.5), (12, 12, 5)] if from_carotid else [(0, 13, 3), (5, 11, 5), (10, 12.5, 5.5)]
    p = [*first, (16, 18, 6), (19.5, 27, 7.5), (18.5, 37, 9.5), (14, 46, 12), (11.5, 54, 13)]
    calcarine = [(11.5, 54, 13), (13, 64, 12 + rng.normal(0, 1)), (11, 76, 14), (9, 88, 13), (8, 99, 14)]
    parieto = [(11.5, 54, 13), (11, 62, 19), (9, 69, 28), (8, 77, 38), (8, 83, 48)]
    temporal = [(19, 25, 7), (25, 32, 1), (31, 42, -5), (35, 56, -7), (37, 72, -4)]
    anterior = [(17, 19, 6), (24, 20, -2), (31, 18, -12), (37, 14, -19)]
    choroidal = [(19, 30, 8), (14, 38, 14), (9, 36, 21), (7, 26, 26)]
    calcarine, parieto, temporal = (_jitter(c, rng, 1, 3.5) for c in (calcarine, parieto, temporal))
    name = "PCA"
    return [
        Vessel(name, _mirror(p, side), (1.05, 0.85), root),
        Vessel("calcarine", _mirror(calcarine, side), None, name, sprouts=True),
        Vessel("parieto-occipital", _mirror(parieto, side), None, name, sprouts=True),
        Vessel("posterior temporal (PCA)", _mirror(temporal, side), None, name, sprouts=True),
        Vessel("anterior temporal (PCA)", _mirror(anterior, side), None, name, sprouts=True),
        Vessel(
            "thalamoperforator", _mirror([(3, 12, 4), (3, 16, 10), (4, 20, 19), (6, 22, 27)], side), (0.3, 0.16), name
        ),
        Vessel(
            "medial choroidal",
            _mirror([(10, 12, 5), (12, 24, 4), (9, 36, 12), (4, 38, 22), (3, 24, 30), (4, 8, 27)], side),
            (0.34, 0.18),
            name,
        ),
        Vessel("posterior choroidal", _mirror(choroidal, side), (0.3, 0.16), name),
    ]


def hindbrain(points: np.ndarray, patient: Patient) -> np.ndarray:
    """Move points [n, 3] of the posterior circulation smoothly, as this patient's basilar tip, basilar bow and atlas loop lie."""
    points = np.asarray(points, float).copy()
    tip, bow, loop = patient.basilar
    for centre, width, shift in (
        ((0, 13, 3), 24, (0, 0, tip)),
        ((0, 19, -14), 13, (0, bow, 0)),
        ((0, 44, -62), 26, (0, loop, 0.5 * loop)),
    ):
        near = np.exp(-(((points - centre) * [0.5, 1, 1]) ** 2).sum(axis=1) / width**2)
        points += near[:, None] * shift
    return points


def _jitter(points, rng: np.random.Generator, first: int, sd: float) -> list[tuple]:
    """Control points of which those from `first` on are moved, the more the farther out: no two patients' branches are alike."""
    share = np.clip((np.arange(len(points)) - first + 1) / max(len(points) - first, 1), 0, None)[:, None]
    return [tuple(p) for p in np.asarray(points, float) + share * rng.normal(0, sd, (len(points), 3)) * [0.6, 1, 1]]


def vertebrobasilar(patient: Patient, side: int) -> list[Vessel]:
    """The injected vertebral artery with its atlas loop, and the basilar trunk."""
    c, bow = patient.calibre, patient.basilar_bow
    _, height, reach, sway = patient.siphon[side_index(side)]
    va = [
        (25, 33, -150), (25 + 0.3 * sway, 32, -125), (24.5, 33, -105), (24, 32, -90), (26, 31, -82), (33 + 0.5 * reach, 33, -73),
        (35 + 0.5 * reach, 38, -66), (31, 46 + 0.5 * height, -61), (23, 50 + 0.5 * height, -58), (15, 48, -53), (10, 42, -46.5),
        (7, 34.5, -41), (4 + 0.4 * bow * side, 28, -34.5), (0.6 * bow * side, 23.5, -28),
    ]  # fmt: skip
    ba = [
        (0.6 * bow * side, 25, -27),
        (bow * side, 21.5, -20),
        (0.9 * bow * side, 18, -12),
        (0.4 * bow * side, 15, -4),
        (0, 13, 3),
    ]
    return [
        Vessel("VA", _mirror(va, side), (1.75 * c, 1.5 * c), None),
        Vessel("BA", _mirror(ba, side), (1.75 * c, 1.5 * c), "VA"),
        Vessel("muscular", _mirror([(26, 31, -82), (31, 42, -86), (33, 54, -84), (38, 64, -76)], side), None, "VA", sprouts=True),
        Vessel("posterior meningeal", _mirror([(23, 50, -58), (19, 63, -53), (13, 82, -42), (9, 98, -25)], side), (0.34, 0.2), "VA"),
        Vessel("anterior spinal", _mirror([(3, 27, -35), (0.5, 31, -48), (0, 33, -80), (0, 34, -125)], side), (0.28, 0.2), "VA"),
    ]  # fmt: skip


def cerebellar(side: int, injected: bool, rng: np.random.Generator) -> list[Vessel]:
    """SCA, AICA and (on the injected side) PICA with its caudal and cranial loops."""
    drop = rng.normal(0, 4.5)
    sca = [(0.3, 13.5, 0.5), (5, 14, 0.5), (12, 20, 1), (16.5, 30, 2), (15, 41, 5), (12, 50, 7)]
    sca_lateral = [(16, 28, 2), (23, 38, 0), (31, 50, -3), (37, 62, -8)]
    sca_vermian = [(12, 50, 7), (7, 58, 5), (6, 70, -1), (6, 84, -11)]
    aica = [(0.4, 20, -16), (7, 21, -18), (15, 25, -19), (23, 28, -18), (27, 34, -21), (33, 43, -27), (38, 56, -34)]
    sca_lateral, sca_vermian = _jitter(sca_lateral, rng, 1, 3.5), _jitter(sca_vermian, rng, 1, 3.0)
    aica = _jitter(aica, rng, 2, 4.0)
    vessels = [
        Vessel("SCA", _mirror(sca, side), (0.7, 0.6), "BA"),
        Vessel("SCA lateral", _mirror(sca_lateral, side), None, "SCA", sprouts=True),
        Vessel("SCA vermian", _mirror(sca_vermian, side), None, "SCA", sprouts=True),
        Vessel("AICA", _mirror(aica, side), None, "BA", sprouts=True),
    ]
    if injected and rng.random() < 0.86:  # else the anterior inferior cerebellar artery supplies its territory
        pica = [
            (7, 36, -43),
            (12, 38, -47),
            (14, 43, -54 + drop),
            (9, 50, -56 + drop),
            (5.5, 54, -48),
            (4.5, 55, -38),
            (5, 60, -36),
            (6, 66, -42),
        ]
        vermis = [(6, 66, -42), (4, 76, -46), (4, 88, -40), (4, 96, -30)]
        hemisphere = [(6, 64, -41), (15, 70, -50), (26, 74, -53), (37, 72, -48)]
        vermis, hemisphere = _jitter(vermis, rng, 1, 4.0), _jitter(hemisphere, rng, 1, 4.0)
        vessels += [
            Vessel("PICA", _mirror(pica, side), (0.7, 0.6), "VA"),
            Vessel("PICA vermian", _mirror(vermis, side), None, "PICA", sprouts=True),
            Vessel("PICA hemispheric", _mirror(hemisphere, side), None, "PICA", sprouts=True),
        ]  # fmt: skip
    return vessels


def opposite_vertebral() -> list[tuple[float, float, float]]:
    """Reflux into the distal V4 of the other side (drawn for the left, mirrored by the caller), from the junction down."""
    return [(0, 25, -27), (4, 29.5, -34), (7, 35, -42), (10, 42, -49), (15, 47, -55), (23, 50, -58)]
