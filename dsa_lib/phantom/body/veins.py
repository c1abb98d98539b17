"""Veins and the vessels outside the brain: sinuses, cortical veins, external carotid, arch and spinal arteries."""

from __future__ import annotations

import numpy as np

from dsa_lib.phantom.body.head import Patient, Vessel, _mirror, cortex_x, side_index
from dsa_lib.phantom.body.trees import spline

SINUSES = ("jugular", "other transverse", "superior sagittal", "straight", "inferior petrosal")


def sinuses(patient: Patient, side: int, posterior: bool, rng: np.random.Generator) -> list[Vessel]:
    """Dural sinuses and deep veins as a tree whose root is the jugular vein (flow is towards the root).

    side: the injected side; the dominant transverse sinus drains most of either side, the other one is of any calibre down to a thread. Radii run from
    the root outwards. Cortical veins get theirs from what they collect (Murray), so that they taper and converge.
    """
    d = patient.dominant_sinus
    second = rng.uniform(0.25, 0.85)  # calibre of the other transverse sinus
    jugular = [(31, 20, -150), (32, 21, -110), (32, 23, -75), (29, 25, -50), (36, 30, -44), (46, 36, -38), (54, 42, -26), (59, 50, -14),
               (56, 66, -10), (42, 90, -8), (22, 104, -6), (0, 109, -5)]  # fmt: skip
    other = [(0, 109, -5), (-22, 104, -6), (-42, 90, -8), (-56, 66, -10), (-59, 50, -14), (-54, 42, -26), (-46, 36, -38), (-36, 30, -44),
             (-29, 25, -50), (-32, 23, -75), (-32, 21, -110), (-31, 20, -150)]  # fmt: skip
    straight = [(0, 109, -5), (0, 88, 7), (0, 70, 16), (0, 57, 24), (0, 51, 28), (0, 46, 25)]
    internal = [(0, 46, 25), (2, 38, 25), (2.5, 26, 28), (2.5, 12, 28), (3, -2, 22)]
    septal = [(3, -2, 22), (3, -12, 22), (3, -20, 19)]
    striate = [(3, -2, 22), (8, 4, 28), (14, 14, 31), (18, 24, 29)]
    basal = [(0, 46, 25), (8, 40, 18), (15, 28, 9), (19, 14, 2), (16, 2, 0), (14, -4, 2)]
    sagittal = [(0, 109, -5), (0, 111, 15), (0, 105, 44), (0, 87, 71), (0, 57, 91), (0, 22, 97), (0, -14, 92), (0, -40, 73), (0, -60, 48),
        (0, -68, 25)]  # fmt: skip
    if posterior:  # vertebral blood reaches the sagittal sinus only behind
        sagittal = sagittal[:5]
    wide = patient.calibre
    vessels = [
        Vessel("jugular", _mirror(jugular, d), (2.9 * wide, 2.7 * wide), None),
        Vessel("other transverse", _mirror(other, d), (2.2 * second * wide, 2.4 * second * wide), "jugular"),
        Vessel(
            "superior sagittal",
            _mirror(sagittal, 1),
            (2.7 * wide, (1.4 if posterior else 0.5) * wide),
            "jugular",
            sprouts=True,
        ),
        Vessel("straight", _mirror(straight, 1), (1.9, 1.4), "jugular"),
        Vessel("basal", _mirror(basal, side), (1.1, 0.6), "straight"),
    ]
    if posterior:
        vermian = [(0, 88, 7), (1, 92, -12), (2, 88, -30), (3, 76, -44)]
        precentral = [(0, 51, 28), (0, 44, 14), (1, 38, 0), (2, 34, -14)]
        petrosal = [(54, 42, -26), (44, 34, -21), (34, 30, -17), (26, 31, -14), (24, 38, -20), (30, 46, -30)]
        return vessels + [
            Vessel("basal (other)", _mirror(basal, -side), (1.0, 0.6), "straight"),
            Vessel("inferior vermian", _mirror(vermian, side), None, "straight", sprouts=True),
            Vessel("inferior vermian (other)", _mirror(vermian, -side), None, "straight", sprouts=True),
            Vessel("precentral cerebellar", _mirror(precentral, 1), (0.8, 0.4), "straight"),
            Vessel("petrosal", _mirror(petrosal, d), (0.6, 0.35), "jugular"),
            Vessel("hemispheric", _mirror([(38, 92, -8), (37, 88, -20), (31, 82, -32), (24, 77, -42), (20, 70, -49)], d), None, "jugular", sprouts=True),
        ]  # fmt: skip
    labbe = [(56, 66, -10), (62, 50, -3), (64, 34, 4), (62, 20, 13)]
    trolard = [(2, 30, 96), (24, 28, 87), (46, 24, 68), (58, 20, 44), (63, 16, 26)]
    # The superficial middle cerebral vein runs along the fissure and round the temporal pole to the cavernous sinus, which the petrosal sinus empties.
    petrosal = [(29, 25, -50), (22, 20, -38), (15, 12, -26), (11, 2, -15), (10, -8, -11)]
    sylvian = [
        (10, -8, -11),
        (18, -16, -11),
        (29, -22, -12),
        (40, -22, -9),
        (48, -16, -1),
        (54, -8, 5),
        (59, 4, 12),
        (62, 16, 20),
        (63, 28, 24),
    ]
    branch = [(49, -14, 0), (52, -8, -8), (57, 4, -10), (61, 18, -6), (63, 30, -1)]
    labbe_parent = "jugular" if side == d else "other transverse"
    return vessels + [
        Vessel("internal cerebral", _mirror(internal, side), (1.1, 0.9), "straight"),
        Vessel("septal", _mirror(septal, side), (0.6, 0.3), "internal cerebral"),
        Vessel("thalamostriate", _mirror(striate, side), (0.7, 0.3), "internal cerebral"),
        Vessel("Labbe", _mirror(_sway(labbe, rng), side), None, labbe_parent, sprouts=True),
        Vessel("Trolard", _mirror(_sway(trolard, rng), side), None, "superior sagittal", sprouts=True),
        Vessel(
            "inferior petrosal", _mirror(petrosal, side), (1.2, 1.5), "jugular" if side == d else "other transverse"
        ),
        Vessel("Sylvian vein", _mirror(sylvian, side), None, "inferior petrosal", sprouts=True),
        Vessel("temporal vein", _mirror(_sway(branch, rng), side), None, "Sylvian vein", sprouts=True),
    ]


def _sway(points, rng: np.random.Generator) -> np.ndarray:
    """Control points [n, 3] mm of a cortical vein, moved along the convexity but for the ends."""
    points = np.asarray(points, float)
    points[1:-1] += rng.normal(0, [0.8, 3.0, 3.0], points[1:-1].shape)
    return points


def bridging_veins(side: int, rng: np.random.Generator, posterior: bool) -> list[Vessel]:
    """Cortical stems that run over the convexity into the superior sagittal sinus, most of them slanting forward."""
    vessels = []
    for n, y in enumerate((84, 70, 54) if posterior else (-50, -38, -26, -13, 2, 16, 44, 58, 72, 86)):
        y = y + rng.normal(0, 3)
        reach = rng.uniform(0.55, 1.1)
        course = []
        for f in np.linspace(0, 1, 5):
            a = f * reach * rng.uniform(0.95, 1.05) * (1.05 if -20 < y < 60 else 0.8)
            # behind the coronal suture they enter against the sinus's flow
            yy = y + rng.normal(0, 1.5) * (f > 0) + f * (14 if y > 30 else 7 if y > 0 else -5)
            z = 23 + 71 * np.sqrt(max(1 - ((yy - 20) / 88) ** 2, 0.05)) * np.cos(a)
            x = min(
                2 + 66 * np.sin(a) * np.sqrt(max(1 - ((yy - 20) / 88) ** 2, 0.05)),
                cortex_x(np.array(yy), np.array(z)) + 3,
            )
            course.append((x, yy, z))
        vessels.append(Vessel(f"bridging {n}", _mirror(course, side), None, "superior sagittal", sprouts=True))
    return vessels


def corkscrew(points, wavelength: float, amplitude: float, phase: float) -> np.ndarray:
    """A course [m, 3] wound about the one through `points` [n, 3] (mm), as scalp and facial arteries are; it begins straight."""
    curve = spline(np.asarray(points, float), 1.5)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    tangent = np.gradient(curve, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
    across = np.cross(tangent, [0.37, 0.2, 0.9])
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    # the wavelength wanders, so that no two turns are alike
    angle = 2 * np.pi * along / wavelength + 1.2 * np.sin(along / (1.9 * wavelength) + phase) + phase
    size = amplitude * np.clip(along / 15, 0, 1) * (0.75 + 0.5 * np.sin(along / (1.3 * wavelength) + 2 * phase))
    return (
        curve
        + (size * np.sin(angle))[:, None] * across
        + (0.6 * size * np.cos(0.83 * angle))[:, None] * np.cross(tangent, across)
    )


def external_carotid(patient: Patient, side: int, root: str | None) -> list[Vessel]:
    """External carotid and its named branches; root names the common carotid it leaves, or None for a selective injection."""
    _, lift, _, sway = patient.siphon[side_index(side)]
    trunk = [(27, 17, -108), (29, 10 + 0.4 * sway, -97), (31, 8, -84), (34, 11, -70), (40, 14, -58), (45, 14, -48)]
    if root is None:
        trunk = [(27, 20, -150), (26.5, 20, -125), *trunk]
    branch = {
        "superficial temporal": ([(45, 14, -48), (58, 13, -34), (69, 8, -14), (74, 3, 6), (75, 2, 20)], (1.15, 0.9), "ECA"),
        "frontal scalp": ([(75, 2, 20), (73, -18, 32), (67, -40, 46), (56, -56, 58), (44, -60, 72)], None, "superficial temporal"),
        "parietal scalp": ([(75, 2, 20), (78, 14, 42), (73, 26, 66), (58, 36, 88), (40, 44, 99)], None, "superficial temporal"),
        "maxillary": ([(45, 14, -48), (48, 4, -46), (43, -8, -43), (34, -18, -40 + lift), (25, -26, -36), (18, -30, -32)], (1.35, 0.9), "ECA"),
        "middle meningeal": ([(46, 4, -45), (38, 5, -34), (44, 1, -24), (56, -6, -8), (64, -4, 10), (67, 4, 30)], (0.65, 0.5), "maxillary"),
        "meningeal frontal": ([(64, -4, 10), (63, -22, 30), (55, -34, 52), (40, -36, 70)], None, "middle meningeal"),
        "meningeal parietal": ([(67, 4, 30), (66, 22, 48), (58, 40, 64), (46, 56, 74)], None, "middle meningeal"),
        "infraorbital": ([(25, -26, -36), (27, -44, -34), (28, -60, -34), (26, -70, -38)], None, "maxillary"),
        "descending palatine": ([(20, -29, -33), (17, -34, -48), (15, -46, -56), (10, -58, -58)], None, "maxillary"),
        "facial": ([(31, 8, -86), (38, 0, -88), (42, -14, -92), (43, -30, -90), (36, -46, -76), (27, -58, -62), (18, -66, -44),
            (13, -68, -26)], (1.2, 0.7), "ECA"),
        "lingual": ([(30, 8, -90), (24, 0, -86), (18, -14, -82), (13, -30, -80), (8, -44, -78)], None, "ECA"),
        "occipital": ([(32, 9, -76), (40, 22, -64), (50, 42, -52), (52, 64, -42), (44, 88, -28), (34, 108, -8), (26, 117, 14),
            (22, 116, 34)], (1.15, 0.65), "ECA"),
        "posterior auricular": ([(38, 13, -62), (50, 26, -46), (62, 38, -26), (70, 44, -2)], None, "ECA"),
        "ascending pharyngeal": ([(28, 14, -100), (24, 14, -80), (22, 14, -58), (20, 12, -42)], (0.4, 0.2), "ECA"),
        "superior thyroid": ([(29, 11, -99), (24, 0, -104), (20, -6, -116), (18, -6, -130)], (0.7, 0.4), "ECA"),
    }  # fmt: skip
    vessels = [Vessel("ECA", _mirror(trunk, side), (2.1 * patient.calibre, 1.5), root)]
    for n, (name, (points, radius, parent)) in enumerate(branch.items()):
        wavelength, amplitude = TURNS.get(name, (0, 0))
        if amplitude:
            points = corkscrew(points, wavelength, amplitude * patient.tortuosity, n + sway + lift)
        sprouts = radius is None or name in (
            "superficial temporal",
            "maxillary",
            "facial",
            "occipital",
            "superior thyroid",
            "ascending pharyngeal",
        )
        vessels.append(Vessel(name, _mirror(points, side), radius, parent, sprouts))
    return vessels


# wavelength and amplitude in mm of the turns of external carotid branches
TURNS = {"superficial temporal": (13, 1.6), "frontal scalp": (12, 1.5), "parietal scalp": (12, 1.7), "facial": (13, 2.4), "lingual": (12, 2.2),
         "occipital": (14, 2.0), "maxillary": (18, 1.5), "posterior auricular": (10, 1.4), "infraorbital": (12, 1.2),
         "descending palatine": (11, 1.2), "superior thyroid": (12, 1.8), "ascending pharyngeal": (12, 0.8)}  # fmt: skip


def external_territory(side: int, rng: np.random.Generator) -> np.ndarray:
    """Points [n, 3] mm of scalp, face and neck muscles that small external carotid branches reach."""
    n = 420
    direction = rng.normal(size=(n, 3)) * [1, 1, 0.8]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    scalp = direction * [81, 102, 79] + [0, 19, 22]
    scalp = scalp[(scalp[:, 2] > 0) & (scalp[:, 0] > 12)][:120]
    face = rng.uniform([4, -66, -100], [46, 2, -30], (110, 3))
    tongue = rng.normal([16, -34, -84], [9, 16, 9], (90, 3))  # and the floor of the mouth
    mandible = rng.normal([40, -26, -84], [5, 16, 9], (60, 3))
    neck = rng.uniform([20, 24, -125], [52, 92, -40], (90, 3))
    return np.concatenate([scalp, face, tongue, mandible, neck]) * [side, 1, 1]


def arch() -> list[Vessel]:
    """Aortic arch and great vessels (isocentre about 320 mm below the head)."""
    return [
        Vessel("aorta", np.array([(-18, -10, -390), (-22, -22, -350), (-12, -20, -318), (4, 2, -306), (18, 22, -318), (24, 34, -350),
            (22, 38, -430)]), (13, 11), None),
        Vessel("brachiocephalic", np.array([(-12, -20, -316), (-18, -14, -296), (-28, -6, -272)]), (6.0, 5.4), "aorta"),
        Vessel("right subclavian", np.array([(-28, -6, -272), (-46, 0, -262), (-70, 0, -268), (-100, -4, -282)]), (4.2, 3.6), "brachiocephalic"),
        Vessel("right CCA", np.array([(-28, -6, -272), (-28, 0, -245), (-26, 10, -210), (-27, 18, -170)]), (3.2, 3.0), "brachiocephalic"),
        Vessel("left CCA", np.array([(0, -4, -304), (6, 0, -280), (18, 8, -240), (26, 16, -200), (27, 19, -165)]), (3.2, 3.0), "aorta"),
        Vessel("left subclavian", np.array([(16, 18, -312), (22, 18, -286), (36, 10, -268), (60, 6, -266), (100, 2, -284)]), (4.4, 3.6), "aorta"),
        Vessel("right VA", np.array([(-42, 0, -262), (-34, 14, -240), (-27, 28, -215), (-25, 32, -165)]), (1.8, 1.7), "right subclavian"),
        Vessel("left VA", np.array([(34, 11, -268), (32, 18, -245), (27, 28, -215), (25, 32, -165)]), (1.9, 1.8), "left subclavian"),
        Vessel("internal thoracic", np.array([(46, 8, -267), (36, -20, -290), (24, -50, -330), (22, -58, -400)]), (1.2, 0.9), "left subclavian"),
    ]  # fmt: skip


def spinal(rng: np.random.Generator, side: int) -> list[Vessel]:
    """A segmental artery with its muscular branches and a radiculomedullary hairpin into the anterior spinal artery."""
    z = -320 + rng.normal(0, 4)
    return [
        Vessel("segmental", _mirror([(4, 0, z - 6), (10, 16, z - 4), (20, 32, z), (32, 38, z + 3), (60, 30, z - 3),
            (85, 8, z - 16)], side), (1.3, 0.7), None),
        Vessel("dorsal", _mirror([(24, 35, z + 1), (28, 52, z - 4), (24, 68, z - 16)], side), None, "segmental", sprouts=True),
        Vessel("radiculomedullary", _mirror([(20, 32, z), (12, 40, z + 10), (5, 44, z + 28), (0.5, 44, z + 46), (0, 44, z + 38)], side),
            (0.4, 0.35), "segmental"),
        Vessel("anterior spinal", _mirror([(0, 44, z + 38), (0.4, 44, z), (-0.4, 44, z - 45), (0, 44, z - 90)], side),
            (0.35, 0.3), "radiculomedullary"),
        Vessel("intersegmental", _mirror([(16, 24, z), (18, 22, z + 20), (19, 26, z + 40)], side), (0.6, 0.4), "segmental"),
    ]  # fmt: skip


def femoral(side: int) -> list[Vessel]:
    """Groin control through the sheath: external iliac, common, superficial and deep femoral arteries."""
    return [
        Vessel("iliac", _mirror([(46, 30, -690), (56, 14, -720), (70, 0, -750), (77, -6, -775)], side), (3.6, 3.3), None),
        Vessel("superficial femoral", _mirror([(77, -6, -775), (80, -6, -800), (80, -2, -840), (76, 6, -920)], side), (2.8, 2.5), "iliac"),
        Vessel("deep femoral", _mirror([(79, -6, -790), (86, 4, -805), (90, 14, -835), (88, 22, -900)], side), (2.2, 1.2), "iliac"),
        Vessel("lateral circumflex", _mirror([(87, 6, -808), (100, 2, -812), (118, 4, -824)], side), (1.1, 0.6), "deep femoral"),
        Vessel("medial circumflex", _mirror([(83, -2, -798), (72, 12, -804), (58, 20, -812)], side), (1.0, 0.5), "deep femoral"),
        Vessel("inferior epigastric", _mirror([(72, -2, -757), (64, -16, -745), (52, -30, -705)], side), (0.9, 0.6), "iliac"),
        Vessel("circumflex iliac", _mirror([(73, -3, -758), (94, -6, -745), (112, 0, -722)], side), (0.8, 0.4), "iliac"),
    ]  # fmt: skip
