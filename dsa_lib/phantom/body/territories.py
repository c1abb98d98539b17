"""Which vessels an injection fills: arterial tree, capillary bed and veins of one catheter position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa_lib.phantom.body import head
from dsa_lib.phantom.body import veins as body_veins
from dsa_lib.phantom.body.head import CEREBELLUM_AXES, CEREBELLUM_CENTRE, Patient, cortex_x, individual
from dsa_lib.phantom.body.trees import (
    PROXIMAL,
    Tree,
    grow,
    join,
    murray,
    name_proximal,
    sample_edges,
    smooth,
    time_of_arrival,
    undulate,
)

PROXIMAL_NAMES = ("ICA", "M1", "A1", "VA", "BA", "CCA", "PCA", "ECA", "aorta", "brachiocephalic")
VENOUS_TRANSIT_S = 1.8  # from the smallest drawn cortical vein to the neck
SINUS_SHARE = 0.37  # contrast of a sinus relative to the cortical veins: it is no round tube, and clear blood of the other hemisphere joins
GYRUS_MM = 9.0  # from one fold of the cortex to the next
VESSELS = ("ICA", "CCA", "VA", "ECA", "arch", "spinal", "femoral")


@dataclass
class Injection3D:
    """Everything that one injection fills, independent of the view.

    tree: the arterial tree; veins: venous tree rooted where it drains (None outside the head); tissue: capillary points
    [n, 3] mm, each standing for tissue_volume mm^3 of blood, with arrival [n] s of their feeding tip; first_vein: s at which venous outflow starts;
    tissue_tip: [n] node that feeds each capillary point; lesion: samples (as of trees.sample_edges) that a lesion adds to the arteries, or None.
    """

    vessel: str
    tree: Tree
    veins: Tree | None
    tissue: np.ndarray
    tissue_volume: float
    tissue_arrival: np.ndarray
    first_vein: float
    tissue_tip: np.ndarray | None = None
    lesion: dict[str, np.ndarray] | None = None

    @property
    def last_arrival(self) -> float:
        """Arrival in s at the last arterial tip."""
        return float(self.tree.arrival.max())


def _scatter(rng, n: int, lower, upper) -> np.ndarray:
    """Jittered low-discrepancy points [n, 2] in a rectangle (R2 sequence), so that territories fill evenly."""
    g = 1.32471795724474602596
    index = np.arange(1, n + 1)[:, None] * np.array([1 / g, 1 / g**2]) + rng.random(2)
    span = np.subtract(upper, lower)
    return np.asarray(lower) + (index % 1.0) * span + rng.normal(0, 0.012, (n, 2)) * span


def convexity_points(rng: np.random.Generator, density: float = 1.0) -> np.ndarray:
    """Lateral cortex of the left hemisphere, the middle cerebral artery's share: [n, 3] mm, some of them deep in sulci."""
    yz = _scatter(rng, int(1450 * density), (-70, -28), (106, 94))
    x = cortex_x(yz[:, 0], yz[:, 1])
    keep = (x > 24) & (yz[:, 0] < 92 - 0.12 * np.abs(yz[:, 1]))
    keep &= (yz[:, 1] > -24 + 0.28 * np.clip(yz[:, 0] - 20, 0, None)) & (yz[:, 1] < 89)
    keep &= ~((yz[:, 0] < -26) & (yz[:, 1] < 2))  # under the frontal lobe there is no temporal lobe
    points = np.column_stack([x, yz])[keep]
    depth = rng.beta(1.0, 2.6, len(points)) * 14
    points[:, 0] -= depth * 0.9
    return points


def medial_points(rng: np.random.Generator, density: float = 1.0) -> np.ndarray:
    """Medial wall above the corpus callosum and the parasagittal strip, the anterior cerebral artery's share: [n, 3] mm."""
    yz = _scatter(rng, int(640 * density), (-70, 2), (70, 95))
    edge = cortex_x(yz[:, 0], yz[:, 1])
    arc = ((yz[:, 0] - 6) / 44) ** 2 + ((yz[:, 1] - 18) / 29) ** 2
    keep = (edge > 12) & (arc > 1.02) & ~((yz[:, 0] > -24) & (yz[:, 1] < 40)) & (yz[:, 0] < 66)
    yz, edge = yz[keep], edge[keep]
    x = 2.5 + rng.beta(1, 3, len(yz)) * 6
    over = rng.random(len(yz)) < np.clip(1.25 - edge / 50, 0, 0.85)  # towards the upper edge: onto the convexity
    x = np.where(over, rng.uniform(5, 20, len(yz)).clip(None, edge), x)
    return np.column_stack([x, yz])


def occipital_points(rng: np.random.Generator, density: float = 1.0) -> np.ndarray:
    """Occipital lobe and inferior temporal surface, the posterior cerebral artery's share: [n, 3] mm."""
    yz = _scatter(rng, int(330 * density), (58, -4), (105, 58))
    edge = cortex_x(yz[:, 0], yz[:, 1])
    keep = (edge > 8) & (yz[:, 1] < 10 + 1.1 * (yz[:, 0] - 48)) & (yz[:, 0] > 62)
    medial = np.column_stack([3 + 5 * rng.random(keep.sum()), yz[keep]])
    pole = medial[medial[:, 1] > 78].copy()
    pole[:, 0] = np.minimum(cortex_x(pole[:, 1], pole[:, 2]), rng.uniform(10, 34, len(pole)))
    xy = _scatter(rng, int(170 * density), (14, 12), (50, 92))
    base = np.column_stack([xy, -22 + 0.24 * xy[:, 1] + rng.normal(0, 1.5, len(xy))])
    base = base[cortex_x(base[:, 1], base[:, 2]) > base[:, 0]]
    return np.concatenate([medial, pole, base])


def cerebellar_points(rng: np.random.Generator, part: str, density: float = 1.0) -> np.ndarray:
    """Surface of the left cerebellar hemisphere near the superior (SCA), anterior (AICA) or inferior (PICA) artery: [n, 3] mm."""
    n = int(760 * density)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = direction * CEREBELLUM_AXES * rng.uniform(0.82, 1.0, (n, 1)) + CEREBELLUM_CENTRE
    points = points[points[:, 0] > 1.5]
    up, front = points[:, 2] - CEREBELLUM_CENTRE[2], points[:, 1] - CEREBELLUM_CENTRE[1]
    chosen = {
        "SCA": up > 6,
        "AICA": (up <= 6) & (up > -14) & (front < 4) & (points[:, 0] > 14),
        "PICA": (up < -5) & ((front >= 4) | (points[:, 0] <= 14) | (up < -14)),
    }[part]
    return points[chosen]


def _carotid_tree(patient: Patient, side: int, rng, common: bool) -> Tree:
    mirror = np.array([side, 1, 1])
    vessels = head.carotid(patient, side)
    if common:
        ica = vessels[0]
        below = ica.points[:, 2] <= -104
        cca = np.concatenate([ica.points[below] * 1.0, [[27 * side, 19, -108]]])
        bulb = np.concatenate(
            [[[27 * side, 19, -108], [29 * side, 25, -98]], ica.points[~below & (ica.points[:, 2] > -90)]]
        )
        vessels[0] = head.Vessel("ICA", bulb, (3.2 * patient.calibre, 1.85 * patient.calibre), "CCA")
        vessels.insert(0, head.Vessel("CCA", cca, (3.6 * patient.calibre, 3.5 * patient.calibre), None))
        vessels += body_veins.external_carotid(patient, side, "CCA")
    vessels += head.middle_cerebral(patient, side, rng)
    vessels += head.anterior_cerebral(side, rng)
    state = patient.pcom[head.side_index(side)]
    if state == "fetal":
        vessels += head.posterior_cerebral(side, rng, "ICA", from_carotid=True)
    elif state == "open":
        pcom = np.array([(12.5, -7, 2.5), (11.5, 2, 3), (11, 11, 5)]) * mirror
        vessels.append(head.Vessel("PCom", pcom, (0.5, 0.4), "ICA"))
    tree = join(vessels, lambda p: individual(p, patient))
    middle = [*head.SYLVIAN_BRANCHES, "temporopolar"]
    anterior = [
        v.name
        for v in vessels
        if v.sprouts and v.name not in middle and v.parent in ("A1", "pericallosal", "callosomarginal")
    ]
    fit = lambda points: individual(points * mirror, patient)  # noqa: E731
    tree = grow(tree, fit(convexity_points(rng)), middle)
    tree = grow(tree, fit(medial_points(rng)), anterior)
    if state == "fetal":
        tree = grow(tree, fit(occipital_points(rng)), [v.name for v in vessels if v.parent == "PCA" and v.sprouts])
    if common:
        scalp = [
            v.name
            for v in vessels
            if v.sprouts and v.parent in ("ECA", "superficial temporal", "middle meningeal", "maxillary")
        ]
        tree = grow(tree, individual(body_veins.external_territory(side, rng), patient), scalp, reach=30)
    if patient.acom_cross_fill:
        tree = _cross_fill(tree, patient, side, rng)
    return tree


def _cross_fill(tree: Tree, patient: Patient, side: int, rng) -> Tree:
    """The other side's anterior cerebral artery, filled through the anterior communicating artery."""
    other = head.anterior_cerebral(-side, rng, root="A1")
    extra = join([head.Vessel("A1", np.array([[2.4 * side, -13, 12], [0, -13.5, 12.2], [-2.4 * side, -13, 12]]), (0.7, 0.7), None), *other],
                 lambda p: individual(p, patient))  # fmt: skip
    names = [v.name for v in other]
    extra = grow(extra, individual(medial_points(rng, 0.6) * [-side, 1, 1], patient), names)
    at = tree.names["A1"][1]
    n = len(tree)
    return Tree(
        np.concatenate([tree.position, extra.position]),
        np.concatenate([tree.parent, np.where(extra.parent < 0, at, extra.parent + n)]),
        np.concatenate([tree.fixed, extra.fixed]),
        tree.names,
        np.concatenate([tree.sprouting, extra.sprouting]),
    )


def _vertebral_tree(patient: Patient, side: int, rng) -> Tree:
    vessels = head.vertebrobasilar(patient, side)
    if patient.vertebral_reflux:
        vessels.append(head.Vessel("VA reflux", np.array(head.opposite_vertebral()) * [-side, 1, 1], (1.0, 0.7), "VA"))
    pieces: dict[str, list[str]] = {}
    for s in (side, -side):
        tag = "" if s == side else " (other)"
        parts = head.cerebellar(s, s == side or (patient.vertebral_reflux and rng.random() < 0.5), rng)
        if patient.pcom[head.side_index(s)] != "fetal":
            parts += head.posterior_cerebral(s, rng, "BA")
        own = {v.name for v in parts}
        for v in parts:
            parent = v.parent + tag if v.parent in own else v.parent
            if tag and parent == "VA":
                parent = "VA reflux"
            vessels.append(head.Vessel(v.name + tag, v.points, v.radius, parent, v.sprouts))
            if v.sprouts:
                key = "PCA" if v.parent == "PCA" else v.name.split()[0]
                pieces.setdefault(f"{key}{tag}", []).append(v.name + tag)
    tree = join(vessels, lambda p: individual(head.hindbrain(p, patient), patient))
    for key, names in pieces.items():
        s = -side if key.endswith("(other)") else side
        part = key.split()[0]
        points = occipital_points(rng) if part == "PCA" else cerebellar_points(rng, part)
        if part == "AICA" and "PICA" not in pieces and s == side:
            points = np.concatenate([points, cerebellar_points(rng, "PICA")])
        tree = grow(tree, individual(points * [s, 1, 1], patient), names, reach=30)
    neck = rng.uniform([22, 36, -105], [46, 72, -62], (24, 3)) * [side, 1, 1]
    return grow(tree, individual(neck, patient), ["muscular"], reach=24)


def _vein_tree(patient: Patient, side: int, rng, posterior: bool) -> Tree:
    vessels = body_veins.sinuses(patient, side, posterior, rng) + body_veins.bridging_veins(side, rng, posterior)
    tree = join(vessels, lambda p: individual(p, patient))
    names = [v.name for v in vessels if v.sprouts and v.name != "superior sagittal"]
    if posterior:
        points = np.concatenate(
            [occipital_points(rng, 0.5), cerebellar_points(rng, "SCA", 0.4), cerebellar_points(rng, "PICA", 0.4)]
        )
    else:
        points = np.concatenate([convexity_points(rng, 0.36), medial_points(rng, 0.2)])
    grown_from = len(tree)
    tree = grow(tree, individual(points * [side, 1, 1], patient), names, balance=0.08)
    smooth(tree, grown_from)
    murray(tree, rng, leaf_mm=0.33)
    name_proximal(tree, body_veins.SINUSES)
    undulate(tree, rng, 2.0)
    time_of_arrival(tree)
    tree.arrival *= VENOUS_TRANSIT_S / tree.arrival.max()
    return tree


def inject(patient: Patient, vessel: str, side: int, seed: int) -> Injection3D:
    """Grow what a selective injection fills.

    vessel: one of VESSELS; side: +1 left, -1 right. The same patient, vessel, side and seed give the same tree.
    """
    rng = np.random.default_rng([seed, VESSELS.index(vessel), side + 1])
    fit = lambda p: individual(p, patient)  # noqa: E731
    if vessel in ("ICA", "CCA"):
        tree = _carotid_tree(patient, side, rng, vessel == "CCA")
    elif vessel == "VA":
        tree = _vertebral_tree(patient, side, rng)
    elif vessel == "ECA":
        vessels = body_veins.external_carotid(patient, side, None)
        tree = join(vessels, fit)
        tree = grow(
            tree, fit(body_veins.external_territory(side, rng)), [v.name for v in vessels if v.sprouts], reach=30
        )
    else:
        others = {
            "arch": body_veins.arch,
            "femoral": lambda: body_veins.femoral(side),
            "spinal": lambda: body_veins.spinal(rng, side),
        }
        tree = join(others[vessel]())
    named = max(b for _, b in tree.names.values()) + 1
    smooth(tree, named)
    murray(tree, rng)
    name_proximal(tree, PROXIMAL_NAMES)
    cerebral = vessel in ("ICA", "CCA", "VA")
    undulate(tree, rng, 2.0 * patient.tortuosity, fit(head.BRAIN_CENTRE[None])[0] if cerebral else None, 2.5)
    time_of_arrival(tree)
    tips = np.flatnonzero(tree.children_count() == 0)
    veins = None
    if vessel in ("ICA", "CCA", "VA"):
        veins = _vein_tree(patient, side, rng, vessel == "VA")
    tissue, feeding = capillary_bed(tree, tips, rng, 32 if vessel in ("ICA", "CCA", "VA") else 10)
    first_vein = float(np.quantile(tree.arrival[tips], 0.5))
    volume = {"ICA": 1.4e5, "CCA": 1.5e5, "VA": 0.8e5, "ECA": 0.4e5}.get(vessel, 0.0)
    return Injection3D(vessel, tree, veins, tissue, volume / len(tissue), tree.arrival[feeding], first_vein, feeding)


def capillary_bed(tree: Tree, tips: np.ndarray, rng, per_tip: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 3] mm of the capillary bed and the tip (node) that feeds each.

    Blood of the cortex lies in a folded sheet: points about the tips are dense near the zero level of a smooth random field, whose folds are as far
    apart as gyri, so that the blush is streaked as in angiograms and not a cloud.
    """
    feeding = np.repeat(tips, per_tip)
    points = tree.position[feeding] + rng.normal(0, 5.5, (len(feeding), 3))
    k = rng.normal(size=(6, 3)) * (2 * np.pi / GYRUS_MM / np.sqrt(3))
    field = np.sin(points @ k.T + rng.uniform(0, 2 * np.pi, 6)).sum(axis=1) / np.sqrt(3)
    kept = (np.abs(field) < 0.5) | (rng.random(len(points)) < 0.3)
    return points[kept], feeding[kept]


def arterial_samples(injection: Injection3D, step: float) -> dict[str, np.ndarray]:
    """Points along the arteries for projection (see trees.sample_edges), those of a lesion included (label 0: vessels that are no arteries)."""
    samples = sample_edges(injection.tree, step)
    if injection.lesion is None:
        return samples
    return {key: np.concatenate([values, injection.lesion[key]]) for key, values in samples.items()}


def venous_samples(injection: Injection3D, step: float) -> dict[str, np.ndarray]:
    """Points along the veins; arrival counts in flow direction, from the tips towards the draining root. Volume is that of contrast-bearing blood."""
    samples = sample_edges(injection.veins, step)
    samples["volume"] = samples["volume"] * np.where(samples["label"] == PROXIMAL, SINUS_SHARE, 1.0)
    samples["arrival"] = samples["arrival"].max() - samples["arrival"]
    return samples
