"""Lesions of the arterial tree: aneurysm, stenosis, occlusion and arteriovenous malformation, added to what an injection fills.

A lesion changes the anatomy alone; projection, bolus, noise, DICOM and curation are those of every other phantom run. Sites and sizes are those of
angiographic series: aneurysms at the bifurcations of the circle of Willis (Brisman, Song & Newell, N Engl J Med 2006), stenoses of 50 to 85 % of the diameter
in the trunks (WASID: Chimowitz et al., N Engl J Med 2005), nidi of Spetzler-Martin's small and medium size (J Neurosurg 1986) on cortical branches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dsa_lib.phantom.body.territories import Injection3D
from dsa_lib.phantom.body.trees import MEDIUM, PROXIMAL, Tree
from dsa_lib.phantom.imaging.projection import CArm, splat

KINDS = ("aneurysm", "stenosis", "occlusion", "AVM")

# Where each kind sits by the injected vessel: (named vessel, share of its length, artery that the report names, relative frequency).
_ICA, _MCA, _ACA = "internal carotid artery", "middle cerebral artery", "anterior cerebral artery"
_BA, _PCA, _VA = "basilar artery", "posterior cerebral artery", "vertebral artery"
SITES = {
    ("aneurysm", "ICA"): [("A1", 1.0, _ACA, 30), ("ICA", 0.95, _ICA, 32), ("M1", 1.0, _MCA, 20)],
    ("aneurysm", "VA"): [("BA", 1.0, _BA, 7), ("VA", 0.86, _VA, 3), ("PCA", 0.25, _PCA, 2)],
    ("stenosis", "ICA"): [("M1", 0.5, _MCA, 5), ("ICA", 0.72, _ICA, 4), ("A1", 0.5, _ACA, 1)],
    ("stenosis", "VA"): [("BA", 0.5, _BA, 5), ("VA", 0.9, _VA, 4), ("PCA", 0.35, _PCA, 1)],
    ("occlusion", "ICA"): [("M1", 0.4, _MCA, 6), ("A1", 0.9, _ACA, 1), ("M2 superior", 0.3, _MCA, 2), ("M2 inferior", 0.3, _MCA, 2)],
    ("occlusion", "VA"): [("BA", 0.7, _BA, 4), ("PCA", 0.3, _PCA, 3)],
}  # fmt: skip
SWAY = 0.06  # of the share of the length, SD: no two lesions at one spot

ANEURYSM_RADIUS_MM = (2.0, 5.5)
STENOSIS_DIAMETER_LOST = (0.5, 0.85)
STENOSIS_LENGTH_MM = (5.0, 11.0)
OCCLUSION_MARKED_MM = 18.0  # of the missing trunk that counts as the lesion
NIDUS_RADIUS_MM = (6.0, 15.0)
NIDUS_PARENT_MM = (0.5, 1.1)  # radius of the branch that feeds it
STAGNATION_S = 0.7  # contrast swirls in a sac: its last parts arrive so much later
SHUNT_S = 0.25  # through a nidus, against more than two seconds through the capillaries


@dataclass(frozen=True)
class Lesion:
    """What was added, and where.

    kind: of KINDS; side: "left", "right", or "" for the unpaired basilar artery; artery: the one that carries it; size_mm: radius of sac or nidus, length
    of the narrowing, marked length of the missing trunk; lost: share of the diameter; extent: samples (point [n, 3] mm, radius [n] mm) of the lesion's own
    volume, of which its mask is made.
    """

    kind: str
    side: str
    artery: str
    size_mm: float
    lost: float
    extent: dict[str, np.ndarray]


def add_lesion(body: Injection3D, side: int, kind: str, rng: np.random.Generator) -> tuple[Injection3D, Lesion]:
    """`body` with one lesion of `kind`, and the lesion; `body` itself is left as it is.

    body: what an injection of ICA or VA fills; side: +1 left, −1 right, of the injection. Raises ValueError for a kind or vessel that has no sites.
    """
    if kind not in KINDS or body.vessel not in ("ICA", "VA"):
        raise ValueError(f"no lesion {kind!r} for an injection of {body.vessel}")
    if kind == "AVM":
        return _with_nidus(body, side, rng)
    sites = [site for site in SITES[kind, body.vessel] if site[0] in body.tree.names]
    weights = np.array([site[3] for site in sites], float)
    name, share, artery, _ = sites[rng.choice(len(sites), p=weights / weights.sum())]
    first, last = body.tree.names[name]
    share = 1.0 if share == 1.0 else float(np.clip(rng.normal(share, SWAY), 0.1, 0.95))
    node = first + round(share * (last - first))
    made = {"aneurysm": _with_sac, "stenosis": _narrowed, "occlusion": _occluded}[kind](body, node, last, rng)
    body, size, lost, extent = made
    return body, Lesion(kind, _named(side, artery), artery, size, lost, extent)


def lesion_mask(lesion: Lesion, arm: CArm, matrix: int) -> np.ndarray:
    """Pixels [matrix, matrix] bool that the lesion's volume projects to, whether or not contrast fills it at the moment."""
    column, row, magnification = arm.project(lesion.extent["point"], matrix)
    pixel = arm.field / matrix
    path = splat(
        column, row, lesion.extent["radius"] * magnification / pixel, np.ones(len(column)), np.zeros(len(column)), 1, matrix
    )  # fmt: skip
    return path[0] > 1e-3


def _with_sac(body: Injection3D, node: int, _last: int, rng: np.random.Generator):
    """A saccular aneurysm: a slightly egg-shaped ball whose neck lies on the vessel's wall, pointing on where the flow goes."""
    tree = body.tree
    radius = float(rng.uniform(*ANEURYSM_RADIUS_MM))
    before = tree.position[tree.parent[node]]
    onward = _unit(_unit(tree.position[node] - before) + 0.8 * _unit(rng.normal(size=3)))
    centre = tree.position[node] + onward * (0.75 * radius + tree.radius[node])
    count = int(np.clip(60 * radius**2, 200, 2500))
    ball = _unit(rng.normal(size=(count, 3))) * np.cbrt(rng.random(count))[:, None]
    along = ball @ onward
    point = centre + radius * (ball + 0.2 * along[:, None] * onward)  # egg-shaped, its tip away from the neck
    sac = {
        "point": point,
        "radius": np.full(count, 0.5),
        "volume": np.full(count, 4 / 3 * np.pi * radius**3 * 1.2 / count),
        "arrival": tree.arrival[node] + rng.uniform(0, STAGNATION_S, count),
        "label": np.full(count, tree.label[node], np.uint8),
    }
    extent = {"point": point, "radius": np.full(count, 0.6)}
    return replace(body, lesion=sac), radius, 0.0, extent


def _narrowed(body: Injection3D, node: int, _last: int, rng: np.random.Generator):
    """A stenosis: the radius along a trunk dips to a share of itself, as a raised cosine."""
    tree = body.tree
    lost, length = float(rng.uniform(*STENOSIS_DIAMETER_LOST)), float(rng.uniform(*STENOSIS_LENGTH_MM))
    trunk = next((a, b) for a, b in tree.names.values() if a <= node <= b)
    nodes = np.arange(trunk[0], trunk[1] + 1)
    away = np.abs(tree.distance[nodes] - tree.distance[node])
    dip = np.where(away < length / 2, 0.5 * (1 + np.cos(2 * np.pi * away / length)), 0.0)
    dip[nodes == node] = 1.0
    radius = tree.radius.copy()
    radius[nodes] *= 1 - lost * dip
    narrow = nodes[away <= length / 2]
    extent = {"point": tree.position[narrow], "radius": tree.radius[narrow] + 0.3}
    return replace(body, tree=replace(tree, radius=radius)), length, lost, _dense(extent)


def _occluded(body: Injection3D, node: int, last: int, rng: np.random.Generator):
    """An occlusion: nothing fills from `node` on, its branches and their capillary bed included; the missing trunk is the lesion."""
    tree = body.tree
    missing = np.zeros(len(tree), bool)
    missing[node] = True
    for i in range(node + 1, len(tree)):  # parents come first
        missing[i] = missing[tree.parent[i]]
    missing[0] = False
    trunk = np.arange(node, last + 1)
    marked = trunk[tree.distance[trunk] - tree.distance[node] <= OCCLUSION_MARKED_MM]
    extent = {"point": tree.position[marked], "radius": tree.radius[marked] + 0.3}
    kept = np.flatnonzero(~missing)
    place = np.cumsum(~missing) - 1
    pruned = Tree(
        position=tree.position[kept],
        parent=np.where(tree.parent[kept] < 0, -1, place[np.maximum(tree.parent[kept], 0)]),
        fixed=tree.fixed[kept],
        radius=tree.radius[kept],
        distance=tree.distance[kept],
        arrival=tree.arrival[kept],
        label=tree.label[kept],
    )
    fed = ~missing[body.tissue_tip]
    body = replace(
        body, tree=pruned, tissue=body.tissue[fed], tissue_arrival=body.tissue_arrival[fed], tissue_tip=place[body.tissue_tip[fed]]
    )  # fmt: skip
    return body, float(tree.distance[marked[-1]] - tree.distance[node]), 1.0, _dense(extent)


def _with_nidus(body: Injection3D, side: int, rng: np.random.Generator) -> tuple[Injection3D, Lesion]:
    """An arteriovenous malformation: a tangle on a cortical branch, its feeder widened, and a vein that fills while the arteries do."""
    tree = body.tree
    low, high = NIDUS_PARENT_MM
    able = np.flatnonzero((tree.radius > low) & (tree.radius < high) & (tree.label == MEDIUM))
    node = int(rng.choice(able))
    size = float(rng.uniform(*NIDUS_RADIUS_MM))
    axes = size * rng.uniform(0.75, 1.15, 3)
    centre = tree.position[node]
    turns = int(np.clip(2.2 * size, 12, 34))
    start = _unit(rng.normal(size=(turns, 3))) * rng.random((turns, 1))
    steps = np.cumsum(0.16 * rng.normal(size=(turns, 22, 3)), axis=1)
    walk = start[:, None] + steps - steps.mean(axis=1, keepdims=True)
    walk /= np.maximum(np.linalg.norm(walk, axis=2, keepdims=True), 1)  # loops bend back at the nidus' rim
    point = (centre + walk * axes).reshape(-1, 3)
    thick = np.repeat(rng.uniform(0.35, 0.75, turns), walk.shape[1])
    length = np.linalg.norm(np.diff(walk * axes, axis=1, prepend=walk[:, :1] * axes), axis=2).reshape(-1)
    arrival = tree.arrival[node] + SHUNT_S * np.tile(np.linspace(0, 1, walk.shape[1]), turns)
    nidus = {"point": point, "radius": thick, "volume": np.pi * thick**2 * length, "arrival": arrival}
    nidus["label"] = np.full(len(point), MEDIUM, np.uint8)
    extent = {"point": point, "radius": thick + 0.4}
    radius = tree.radius.copy()
    above = node
    while tree.parent[above] >= 0 and tree.label[above] != PROXIMAL:
        radius[above] *= 1.35
        above = tree.parent[above]
    vein = _early_vein(body, centre, tree.arrival[node] + SHUNT_S)
    added = {key: np.concatenate([nidus[key], vein[key]]) for key in nidus}
    artery = _artery_of(tree, node, body.vessel)
    lesion = Lesion("AVM", _named(side, artery), artery, size, 0.0, extent)
    return replace(body, tree=replace(tree, radius=radius), lesion=added), lesion


def _early_vein(body: Injection3D, centre: np.ndarray, arrival: float) -> dict[str, np.ndarray]:
    """From the nidus along the nearest vein to where it drains, filled from `arrival` on; label 0, for it is no artery."""
    veins = body.veins
    node = int(np.argmin(np.linalg.norm(veins.position - centre, axis=1)))
    course = [centre]
    while node >= 0:
        course.append(veins.position[node])
        node = int(veins.parent[node])
    course = np.array(course)
    step = np.linalg.norm(np.diff(course, axis=0), axis=1)
    count = np.maximum(np.ceil(step / 0.5).astype(int), 1)
    edge = np.repeat(np.arange(len(step)), count)
    share = (np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[edge]
    point = course[edge] + share[:, None] * (course[edge + 1] - course[edge])
    travelled = np.cumsum(step)[edge] - step[edge] * (1 - share)
    thick = np.full(len(point), 1.1)
    return {
        "point": point,
        "radius": thick,
        "volume": np.pi * thick**2 * (step / count)[edge],
        "arrival": arrival
        + travelled / 90.0,  # mm/s, twice as fast as a vein behind capillaries: nothing slows the flow
        "label": np.zeros(len(point), np.uint8),
    }


def _artery_of(tree: Tree, node: int, vessel: str) -> str:
    """The report's artery for a cortical branch: the trunk that its path leaves."""
    trunks = {"M1": _MCA, "A1": _ACA, "PCA": _PCA, "PCA (other)": _PCA, "BA": _BA}
    while node >= 0:
        for name, artery in trunks.items():
            first, last = tree.names.get(name, (0, -1))
            if first <= node <= last:
                return artery
        node = int(tree.parent[node])
    return _ICA if vessel == "ICA" else _VA


def _named(side: int, artery: str) -> str:
    """The side as a report names it: the basilar artery has none."""
    return "" if artery == _BA else ("left" if side > 0 else "right")


def _dense(extent: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Samples half a millimetre apart between consecutive points of a course, so that its projection has no gaps."""
    point, radius = extent["point"], extent["radius"]
    if len(point) < 2:
        return extent
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(point, axis=0), axis=1))])
    fine = np.linspace(0, at[-1], max(int(at[-1] / 0.5), 2))
    return {
        "point": np.column_stack([np.interp(fine, at, point[:, axis]) for axis in range(3)]),
        "radius": np.interp(fine, at, radius),
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
