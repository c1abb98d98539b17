"""Vessel trees: named polylines joined into one tree, branches grown over a territory, calibres by Murray's law.

Growth connects territory points to the tree in order of increasing cost, where the cost is the new length plus a share of
the path back to the root (the balance of Cuntz et al., PLoS Comput Biol 2010): this gives continuous branches that spread
over the cortex and thin out instead of a mesh. Below the named trunks r_parent^3 = sum r_child^3 (Murray, PNAS 1926).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import CubicSpline

from dsa_lib.phantom.body.head import Vessel

PROXIMAL, MEDIUM, PERIPHERAL = 1, 2, 3
PERIPHERAL_BELOW_MM = 0.45  # radius below which a branch counts as peripheral
STEP_MM = 2.0
SPROUT_EVERY = (
    6  # nodes of a named vessel from one possible branch to the next: twigs join branches before they join stems
)


@dataclass
class Tree:
    """Nodes of a vessel tree; node 0 is the root, every other node has a parent with a smaller index.

    position [n, 3] mm; parent [n] (root: -1); radius [n] mm, of the edge from the parent; fixed [n] prescribed radius in mm or
    NaN; distance [n] path length from the root in mm; arrival [n] seconds after the contrast enters the root; label [n] in
    1 proximal, 2 medium, 3 peripheral; names: first and last node of each named vessel.
    """

    position: np.ndarray
    parent: np.ndarray
    fixed: np.ndarray
    names: dict[str, tuple[int, int]] = field(default_factory=dict)
    sprouting: np.ndarray | None = None
    leaf_radius: np.ndarray | None = None
    radius: np.ndarray | None = None
    distance: np.ndarray | None = None
    arrival: np.ndarray | None = None
    label: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.parent)

    def children_count(self) -> np.ndarray:
        return np.bincount(self.parent[1:], minlength=len(self))

    def edge_length(self) -> np.ndarray:
        """Length in mm of the edge from each node's parent (root: 0)."""
        length = np.linalg.norm(self.position - self.position[np.maximum(self.parent, 0)], axis=1)
        length[self.parent < 0] = 0
        return length


def spline(points: np.ndarray, step: float = STEP_MM) -> np.ndarray:
    """Resample control points [n, 3] to a smooth curve [m, 3] with nodes about `step` mm apart."""
    chord = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1) ** 0.7)])
    n = max(int(np.ceil(np.linalg.norm(np.diff(points, axis=0), axis=1).sum() / step)), 2)
    if len(points) < 3:
        return points[0] + (points[-1] - points[0]) * np.linspace(0, 1, n + 1)[:, None]
    return CubicSpline(chord, points)(np.linspace(0, chord[-1], n + 1))


def join(vessels: list[Vessel], deform=None) -> Tree:
    """Named vessels to one tree. Each leaves its parent at the parent's node nearest to its own start.

    deform: optional function of points [n, 3] to points [n, 3], applied to the resampled curves.
    """
    position, parent, fixed, sprouting, names = [], [], [], [], {}
    for vessel in vessels:
        curve = spline(vessel.points)
        if deform is not None:
            curve = deform(curve)
        first = len(position)
        if vessel.parent is None:
            if first:
                raise ValueError(f"vessel {vessel.name} is a second root of one tree")
            back = -1
        else:
            a, b = names[vessel.parent]
            back = a + int(np.argmin(np.linalg.norm(np.asarray(position[a : b + 1]) - curve[0], axis=1)))
            curve = curve[1:]
        n = len(curve)
        position.extend(curve)
        parent.extend([back, *range(first, first + n - 1)])
        radius = np.full(n, np.nan) if vessel.radius is None else np.linspace(*vessel.radius, n)
        fixed.extend(radius)
        sprouting.extend([vessel.sprouts] * n)
        names[vessel.name] = (first, first + n - 1)
    return Tree(np.asarray(position), np.asarray(parent), np.asarray(fixed), names, np.asarray(sprouting))


def grow(
    tree: Tree, terminals: np.ndarray, from_names: list[str] | None = None, balance: float = 0.14, reach: float = 45.0
) -> Tree:
    """Grow branches from the tree's sprouting vessels to territory points [n, 3] mm.

    from_names restricts where branches may leave; balance weighs the path back to the root against new length; points farther
    than `reach` mm from everything that has grown are left out. Returns a new tree.
    """
    can = tree.sprouting.copy()
    if from_names is not None:
        can[:] = False
        for name in from_names:
            a, b = tree.names[name]
            can[a + (b - a) // 4 : b + 1 : SPROUT_EVERY] = True
            can[b] = True
    position, parent = list(tree.position), list(tree.parent)
    path = tree.edge_length().tolist()
    for i in range(1, len(tree)):
        path[i] += path[tree.parent[i]]
    source = np.flatnonzero(can)
    away = np.linalg.norm(terminals[:, None] - tree.position[source][None], axis=2)
    cost = away + balance * np.asarray(path)[source][None]
    best = source[cost.argmin(axis=1)]
    cost = cost.min(axis=1)
    todo = np.ones(len(terminals), bool)
    for _ in range(len(terminals)):
        pick = int(np.argmin(np.where(todo, cost, np.inf)))
        if not todo[pick]:
            break
        todo[pick] = False
        start, target = position[best[pick]], terminals[pick]
        gap = float(np.linalg.norm(target - start))
        if gap > reach:
            continue
        n = max(int(np.ceil(gap / STEP_MM)), 1)
        first, back = len(position), int(best[pick])
        new = start + (target - start) * (np.arange(1, n + 1) / n)[:, None]
        position.extend(new)
        parent.extend([back, *range(first, first + n - 1)])
        path.extend(path[back] + gap * np.arange(1, n + 1) / n)
        rest = np.flatnonzero(todo)
        if len(rest) == 0:
            break
        delta = terminals[rest][:, None] - new[None]
        new_cost = np.sqrt(np.einsum("ijk,ijk->ij", delta, delta)) + balance * np.asarray(path[first:])[None]
        j = new_cost.argmin(axis=1)
        value = new_cost[np.arange(len(rest)), j]
        better = value < cost[rest]
        cost[rest[better]] = value[better]
        best[rest[better]] = first + j[better]
    added = len(position) - len(tree)
    return Tree(
        np.asarray(position),
        np.asarray(parent),
        np.concatenate([tree.fixed, np.full(added, np.nan)]),
        tree.names,
        np.concatenate([tree.sprouting, np.ones(added, bool)]),
    )


def smooth(tree: Tree, grown_from: int, rounds: int = 3) -> None:
    """Round the corners of grown branches in place (nodes from index `grown_from` on); tips stay where they are."""
    n = len(tree)
    kids = tree.children_count()
    index = np.arange(n)
    moving = (index >= grown_from) & (kids > 0)
    for _ in range(rounds):
        below = np.zeros((n, 3))
        np.add.at(below, tree.parent[1:], tree.position[1:])
        average = 0.5 * tree.position[np.maximum(tree.parent, 0)] + 0.5 * below / np.maximum(kids, 1)[:, None]
        tree.position[moving] += 0.6 * (average - tree.position)[moving]


def murray(tree: Tree, rng: np.random.Generator, leaf_mm: float = 0.215, spread: float = 0.2) -> None:
    """Set radii in place: tips log-normal about `leaf_mm`, r_parent^3 = sum r_child^3 above, prescribed calibres kept."""
    n = len(tree)
    kids = tree.children_count()
    cube = np.zeros(n)
    tips = kids == 0
    cube[tips] = (leaf_mm * np.exp(rng.normal(0, spread, tips.sum()))) ** 3
    given = ~np.isnan(tree.fixed)
    cube[given] = tree.fixed[given] ** 3
    total, parent, given = cube.tolist(), tree.parent.tolist(), given.tolist()
    for i in range(n - 1, 0, -1):
        if not given[parent[i]]:
            total[parent[i]] += total[i]
    tree.radius = np.cbrt(total)
    tree.label = np.where(tree.radius < PERIPHERAL_BELOW_MM, PERIPHERAL, MEDIUM).astype(np.uint8)


def name_proximal(tree: Tree, names: tuple[str, ...]) -> None:
    """Label the named trunks proximal, in place."""
    for name in names:
        if name in tree.names:
            a, b = tree.names[name]
            tree.label[a : b + 1] = PROXIMAL


def undulate(tree: Tree, rng: np.random.Generator, amplitude: float, centre=None, sulci_mm: float = 0.0) -> None:
    """Make distal branches tortuous in place: a smooth random displacement field that leaves the trunks still.

    One field moves every branch, so connections stay connected; amplitude is in mm at the thinnest branches. With a `centre` [3] of the brain, branches
    also dip up to `sulci_mm` towards it, as cortical arteries do from sulcus to sulcus: seen from the side they turn end on there.
    """
    wanted = np.clip((1.3 - tree.radius) / 0.85, 0, 0.86).tolist()
    parent = tree.parent.tolist()
    for i in range(1, len(tree)):  # avoid a step of the weight at bifurcations
        wanted[i] = wanted[parent[i]] + 0.25 * (wanted[i] - wanted[parent[i]])
    weight = np.array(wanted)
    if centre is not None:
        k = rng.normal(size=(5, 3)) * (2 * np.pi / 20.0 / np.sqrt(3))
        fold = np.sin(tree.position @ k.T + rng.uniform(0, 2 * np.pi, 5)).sum(axis=1) / np.sqrt(2.5)
        inward = np.asarray(centre) - tree.position
        inward /= np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 1)
        tree.position += (weight * sulci_mm * np.clip(fold, 0, 1.6))[:, None] * inward
    for wavelength, size in ((26.0, 0.9), (15.0, 0.8), (9.0, 0.18)):
        k = rng.normal(size=(4, 3)) * (2 * np.pi / wavelength / np.sqrt(3))
        direction = rng.normal(size=(4, 3)) / 2
        phase = rng.uniform(0, 2 * np.pi, 4)
        wave = np.sin(tree.position @ k.T + phase)
        tree.position += weight[:, None] * amplitude * size * (wave @ direction)


def blood_speed(radius: np.ndarray) -> np.ndarray:
    """Speed in mm/s of the contrast front: proportional to radius under Murray's law (flow ~ r^3), with a floor."""
    return 75.0 + 110.0 * radius


def time_of_arrival(tree: Tree) -> None:
    """Path length (mm) and arrival time (s) of every node in place, from the root down."""
    length = tree.edge_length()
    delay = length / blood_speed(tree.radius)
    distance, arrival, parent = length.tolist(), delay.tolist(), tree.parent.tolist()
    for i in range(1, len(tree)):
        distance[i] += distance[parent[i]]
        arrival[i] += arrival[parent[i]]
    tree.distance, tree.arrival = np.array(distance), np.array(arrival)


def sample_edges(tree: Tree, step: float) -> dict[str, np.ndarray]:
    """Points along every edge, about `step` mm apart, on the Catmull-Rom curve through the nodes so that turns are round.

    Returns point [m, 3] mm, radius [m] mm, volume [m] mm^3 (pi r^2 per length), arrival [m] s, label [m].
    """
    child = np.arange(1, len(tree))
    child = child[tree.parent[1:] >= 0]
    above = tree.parent[child]
    length = np.linalg.norm(tree.position[child] - tree.position[above], axis=1)
    count = np.maximum(np.ceil(length / step).astype(int), 1)
    edge = np.repeat(np.arange(len(child)), count)
    order = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    f = ((order + 0.5) / count[edge])[:, None]
    kids = tree.children_count()
    onward = np.full(len(tree), -1)  # the widest child: where a vessel goes on
    by_radius = np.argsort(tree.radius[1:], kind="stable") + 1
    onward[tree.parent[by_radius]] = by_radius
    p1, p2 = tree.position[above], tree.position[child]
    before, after = tree.parent[above], onward[child]
    p0 = np.where((before >= 0)[:, None], tree.position[before], 2 * p1 - p2)
    p3 = np.where((after >= 0)[:, None], tree.position[after], 2 * p2 - p1)
    a, b, c = 0.5 * (p2 - p0), p0 - 2.5 * p1 + 2 * p2 - 0.5 * p3, 0.5 * (p3 - p0) + 1.5 * (p1 - p2)
    point = p1[edge] + f * (a[edge] + f * (b[edge] + f * c[edge]))
    radius = tree.radius[child][edge]
    tip = kids[child][edge] == 0
    radius = np.where(tip, radius * (1 - 0.4 * f[:, 0]), radius)
    arrival = tree.arrival[above][edge] * (1 - f[:, 0]) + tree.arrival[child][edge] * f[:, 0]
    return {
        "point": point,
        "radius": radius,
        "volume": np.pi * radius**2 * (length / count)[edge],
        "arrival": arrival,
        "label": tree.label[child][edge],
    }
