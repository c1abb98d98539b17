"""Trees, projection, bolus and detector of the phantom, against hand-worked cases and the laws they follow."""

import numpy as np
import pytest

from dsa_lib.phantom.body import head as body_head
from dsa_lib.phantom.body import territories
from dsa_lib.phantom.body.trees import PERIPHERAL, PROXIMAL, Tree, sample_edges
from dsa_lib.phantom.imaging import bolus
from dsa_lib.phantom.imaging.projection import MU_IODINE, SCATTER, SKULL_BASE, CArm, _chord, splat, vessel_layers
from dsa_lib.phantom.imaging.render import JAW_MM, Exposure, contrast_timing, expose, render_run


@pytest.fixture(scope="module")
def patient():
    return body_head.draw_patient(np.random.default_rng(3))


@pytest.fixture(scope="module")
def carotid(patient):
    return territories.inject(patient, "ICA", 1, 3)


@pytest.fixture(scope="module")
def vertebral(patient):
    return territories.inject(patient, "VA", -1, 3)


@pytest.mark.parametrize("body", ["carotid", "vertebral"])
def test_murrays_law_holds_at_every_bifurcation_below_the_named_trunks(body, request):
    tree = request.getfixturevalue(body).tree
    checked = 0
    for node in range(len(tree)):
        children = np.flatnonzero(tree.parent == node)
        if len(children) >= 2 and np.isnan(tree.fixed[node]):
            assert tree.radius[node] ** 3 == pytest.approx((tree.radius[children] ** 3).sum())
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("body", ["carotid", "vertebral"])
def test_vessels_are_continuous_and_thin_out(body, request):
    tree = request.getfixturevalue(body).tree
    assert (tree.parent[1:] >= 0).all() and (tree.parent[1:] < np.arange(1, len(tree))).all()
    assert tree.edge_length().max() < 8  # mm: no branch jumps
    free = np.isnan(tree.fixed[1:]) & np.isnan(tree.fixed[tree.parent[1:]])
    assert (tree.radius[1:][free] <= tree.radius[tree.parent[1:]][free] + 1e-9).all()
    assert (tree.arrival[1:] > tree.arrival[tree.parent[1:]]).all()  # contrast travels outwards
    assert tree.radius[tree.label == PROXIMAL].min() > 2 * np.median(tree.radius[tree.label == PERIPHERAL])


def _generations(tree) -> np.ndarray:
    """Bifurcations between each node and the named vessel it grew from."""
    named = max(last for _, last in tree.names.values()) + 1
    kids = tree.children_count()
    depth = np.zeros(len(tree), int)
    for node in range(named, len(tree)):
        depth[node] = depth[tree.parent[node]] + (kids[tree.parent[node]] > 1)
    return depth


def _orders(tree) -> np.ndarray:
    """Strahler order of each node: 1 at the tips, one more where two branches of the highest order meet."""
    order = np.ones(len(tree), int)
    for node in range(len(tree) - 1, -1, -1):
        below = np.sort(order[np.flatnonzero(tree.parent == node)])[::-1]
        if len(below):
            order[node] = below[0] + (len(below) > 1 and below[1] == below[0])
    return order


@pytest.mark.parametrize("body", ["carotid", "vertebral"])
def test_cortical_branches_thin_out_over_three_generations_and_more(body, request):
    tree = request.getfixturevalue(body).tree
    depth, tips = _generations(tree), tree.children_count() == 0
    assert np.mean(depth[tips & (depth > 0)] >= 3) > 0.5
    order = _orders(tree)
    grown = np.arange(len(tree)) > max(last for _, last in tree.names.values())
    median = [np.median(tree.radius[grown & (order == n)]) for n in (1, 2, 3)]
    assert (np.diff(median) > 0.04).all()  # mm: every order is wider than the one below it
    # the orders of the cortical stems themselves: three or four
    stems = [tree.names[name] for name in tree.names if tree.sprouting[tree.names[name][1]]]
    assert np.median([order[first] for first, _ in stems]) >= 3 and max(order[first] for first, _ in stems) <= 6


def test_cortical_veins_taper_and_converge_on_the_sinus(carotid):
    veins = carotid.veins
    assert (veins.parent[1:] < np.arange(1, len(veins))).all()
    free = np.isnan(veins.fixed[1:]) & np.isnan(veins.fixed[veins.parent[1:]])
    assert (veins.radius[1:][free] <= veins.radius[veins.parent[1:]][free] + 1e-9).all()
    first, last = veins.names["superior sagittal"]
    entering = [n for n in range(1, len(veins)) if first <= veins.parent[n] <= last and not first <= n <= last]
    assert len(entering) >= 8 and veins.radius[first] > 3 * veins.radius[last]  # the sinus widens backwards
    cortical = [
        name for name in veins.names if name.startswith("bridging") or name in ("Trolard", "Labbe", "Sylvian vein")
    ]
    widening = [veins.radius[veins.names[name][0]] / veins.radius[veins.names[name][1]] for name in cortical]
    assert len(cortical) == 13 and np.median(widening) > 1.3
    samples = territories.venous_samples(carotid, 1.0)
    assert samples["arrival"][veins.names["jugular"][0]] > 0.9 * samples["arrival"].max()  # blood leaves by the neck


def test_a_common_carotid_injection_fills_the_external_territory(patient):
    tree = territories.inject(patient, "CCA", 1, 3).tree
    tips = tree.position[tree.children_count() == 0]
    x, y, z = (tips - territories.individual(np.array([[0.0, 19.0, 22.0]]), patient)).T
    outside = (x / 72) ** 2 + (y / 94) ** 2 + (z / 74) ** 2 > 1
    assert 150 < outside.sum() < 0.6 * len(tips)
    ica, common = (tree.radius[tree.names[n][0]] for n in ("ICA", "CCA"))
    assert tree.names["ECA"] and common >= ica > 2


def test_the_posterior_circulation_differs_from_patient_to_patient():
    tips = []
    for seed in range(6):
        other = body_head.draw_patient(np.random.default_rng(seed))
        tree = territories.inject(other, "VA", 1, seed).tree
        tips.append(tree.position[tree.names["BA"][1]])
    spread = np.std(tips, axis=0)
    assert (spread[1:] > 1).all()  # mm, backwards and upwards: what a lateral view shows


def test_turns_are_round_between_nodes():
    """Nodes on a circle of 5 mm, 30 degrees apart: straight edges would lie up to 0.17 mm inside it."""
    angle = np.deg2rad(np.arange(0, 360, 30))
    position = np.column_stack([5 * np.cos(angle), 5 * np.sin(angle), 0 * angle])
    n = len(angle)
    tree = Tree(
        position,
        np.arange(n) - 1,
        np.full(n, np.nan),
        radius=np.ones(n),
        arrival=np.arange(n) * 1.0,
        label=np.ones(n, int),
    )
    points = sample_edges(tree, 0.2)["point"]
    inner = np.abs(np.arctan2(points[:, 1], points[:, 0])) > np.deg2rad(
        62
    )  # not the first and last edge, whose curve runs out straight
    assert np.linalg.norm(points[inner], axis=1) == pytest.approx(5, abs=0.03)


def test_the_carotid_turns_forward_and_back_in_the_siphon(carotid):
    first, last = carotid.tree.names["ICA"]
    course = carotid.tree.position[first : last + 1]
    head = course[course[:, 2] > -30]
    genu = int(np.argmin(head[:, 1]))
    assert 0 < genu < len(head) - 1
    assert head[0, 1] - head[genu, 1] > 15  # petrous to anterior genu, forwards
    assert head[-1, 1] - head[genu, 1] > 6  # and back to the terminus


def test_left_and_right_injections_fill_their_own_side(patient):
    for side in (1, -1):
        tree = territories.inject(patient, "ICA", side, 3).tree
        _, last = tree.names["M1"]
        assert np.sign(tree.position[last, 0]) == side


def test_projection_of_hand_worked_points():
    front = CArm(0, 0, (0, 0, 0), field=200, source_isocentre=800)
    assert front.project(np.array([[0.0, 0, 0]]), 101)[0][0] == pytest.approx(50)
    column, row, magnification = front.project(np.array([[10.0, 0, 20]]), 200)
    assert (column[0], row[0]) == pytest.approx((99.5 + 10, 99.5 - 20))  # patient's left on the right, head up
    # 200 mm nearer the detector (in front of the patient): 800 / 1000 of the size
    column, row, magnification = front.project(np.array([[10.0, -200, 20]]), 200)
    assert magnification[0] == pytest.approx(0.8)
    assert (column[0], row[0]) == pytest.approx((99.5 + 8, 99.5 - 16))
    lateral = CArm(-90, 0, (0, 0, 0), field=200, source_isocentre=800, flip=True)
    column, row, _ = lateral.project(np.array([[0.0, -30, 5]]), 200)
    assert (column[0], row[0]) == pytest.approx((99.5 - 30, 99.5 - 5))  # face to the left
    cranial = CArm(0, 90, (0, 0, 0), field=200, source_isocentre=800)  # from above the head, forehead down
    column, row, _ = cranial.project(np.array([[0.0, -30, 0]]), 200)
    assert row[0] == pytest.approx(99.5 + 30)


def test_both_planes_see_the_same_tree(carotid):
    """Triangulating a branch tip from its two projections gives the tip back."""
    tip = carotid.tree.position[np.argmax(carotid.tree.arrival)]
    arms = [CArm(3, -2, (0, 18, 19), 190), CArm(-82, 5, (0, 18, 19), 190, flip=True)]
    rows, right = [], []
    for arm in arms:
        column, row, _ = arm.project(tip[None], 256)
        to_detector, across, up = arm.axes()
        for offset, axis in (((column[0] - 127.5) * 190 / 256, across), ((127.5 - row[0]) * 190 / 256, up)):
            # offset = SOD (p.axis) / (SOD + p.to_detector), linear in p
            rows.append(arm.source_isocentre * axis - offset * to_detector)
            right.append(offset * arm.source_isocentre)
    found = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0] + [0, 18, 19]
    assert found == pytest.approx(tip, abs=1e-6)


def test_a_cylinder_has_its_chord_profile():
    """A straight vessel of radius 4 px is 2 sqrt(r^2 - s^2) deep at offset s, and its volume is conserved."""
    radius, step = 4.0, 0.25
    x = np.arange(10, 54, step)
    n = len(x)
    image = splat(x, np.full(n, 31.5), np.full(n, radius), np.full(n, np.pi * radius**2 * step), np.zeros(n), 1, 64)[0]
    assert image.sum() == pytest.approx(np.pi * radius**2 * step * n)
    offset = np.arange(64) - 31.5
    expected = 2 * np.sqrt(np.clip(radius**2 - offset**2, 0, None))
    inner = np.abs(offset) < radius - 0.5
    assert image[inner, 32] == pytest.approx(expected[inner], rel=0.06)
    assert (image[np.abs(offset) > radius + 1.5] == 0).all()


def test_layers_share_contrast_between_neighbours():
    points = {"point": np.zeros((1, 3)), "radius": np.ones(1), "volume": np.ones(1), "arrival": np.array([1.25])}
    layers = vessel_layers(points, CArm(0, 0, (0, 0, 0), field=64), 64, 5, last=2.0)
    assert layers.sum(axis=(1, 2)) == pytest.approx([0, 0, 0.5, 0.5, 0])


def test_contrast_arrives_later_and_wider_downstream():
    injection = bolus.Injection(start=1.0, duration=1.5)
    times = np.linspace(0, 12, 1201)
    curve = bolus.artery_curve(injection, times, np.array([0.0, 2.0]))
    assert (curve[times <= 1.0] == 0).all()
    centre = (curve * times[:, None]).sum(axis=0) / curve.sum(axis=0)
    # box of 1.5 s and a gamma-variate of mean 3 x width, 28 % of it with a width 0.5 s larger: centres by hand
    assert centre == pytest.approx([1 + 0.75 + 3 * 0.085 + 0.42, 1 + 2 + 0.75 + 3 * (0.085 + 0.2) + 0.42], abs=0.01)
    assert curve.max(axis=0)[0] > curve.max(axis=0)[1]
    assert (curve <= injection.strength).all()


def test_phase_boundaries_by_hand():
    artery = np.array([0, 0.05, 0.2, 1.0, 0.6, 0.3, 0.1, 0.0])
    tissue = np.array([0, 0.0, 0.0, 0.1, 0.5, 1.0, 0.7, 0.2])
    vein = np.array([0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.8, 1.0])
    phase = bolus.phases(artery, tissue, vein)
    assert list(phase) == ["before_contrast"] * 2 + ["arterial"] * 3 + ["capillary"] + ["venous"] * 2
    assert bolus.representative_frame(phase, artery, tissue) == 3
    assert bolus.representative_frame(np.array(["before_contrast"] * 8), artery, tissue) == -1


@pytest.mark.parametrize("body", ["carotid", "vertebral"])
def test_phases_come_in_order_and_the_chosen_frame_is_arterial(body, request):
    body = request.getfixturevalue(body)
    for duration in (1.6, 2.4):
        phase, best = contrast_timing(body, bolus.Injection(start=0.9, duration=duration), np.arange(0, 9, 0.25))
        order = [bolus.PHASES.index(name) for name in phase]
        assert order == sorted(order) and set(order) == {0, 1, 2, 3}
        assert phase[best] == "arterial"
        seconds = np.bincount(order) * 0.25
        assert 1.8 <= seconds[1] <= 3.6 and 0.5 <= seconds[2] <= 2.5


def test_noise_follows_exposure_and_motion_leaves_edges():
    rng = np.random.default_rng(0)
    arm = CArm(0, 0, (0, 0, 0), field=100)
    thickness = np.where(np.arange(100) < 50, 0.2, 1.2) * np.ones((100, 100))
    still = Exposure(2e4, np.zeros((2, 2)), (0, 99, 0, 99))
    frames = expose(thickness, np.zeros((2, 100, 100)), still, arm, rng).astype(float) - 24
    log = np.log(frames)
    difference = log[1] - log[0]
    for columns, depth in ((slice(2, 48), 0.2), (slice(52, 98), 1.2)):
        assert difference[:, columns].std() == pytest.approx(np.sqrt(2 * np.exp(depth) / 2e4), rel=0.06)
    moved = Exposure(1e9, np.array([[0, 0], [0.4, 0]]), (0, 99, 0, 99))
    log = np.log(expose(thickness, np.zeros((2, 100, 100)), moved, arm, rng).astype(float) - 24)
    edge = np.abs(log[1] - log[0]).mean(axis=0)
    assert edge[49:51].mean() > 0.1 and edge[5:40].mean() < 0.005


def test_dense_contrast_saturates_at_the_scatter():
    arm = CArm(0, 0, (0, 0, 0), field=100)
    still = Exposure(1e9, np.zeros((3, 2)), (0, 63, 0, 63))
    contrast = np.ones((3, 64, 64)) * np.array([0.0, 0.5, 1e3])[:, None, None]  # mm of iodine path
    level = np.median(expose(np.zeros((64, 64)), contrast, still, arm, np.random.default_rng(0)) - 24.0, axis=(1, 2))
    assert level[2] / level[0] == pytest.approx(SCATTER / (1 + SCATTER), abs=0.01)
    assert level[1] / level[0] == pytest.approx((np.exp(-0.5 * MU_IODINE) + SCATTER) / (1 + SCATTER), abs=0.01)


def test_swallowing_moves_the_neck_and_not_the_vault():
    arm = CArm(-90, 0, (0, 16, -2), field=220, flip=True)
    rows = 1.0 + 0.5 * np.sin(np.arange(128) / 2.0)[:, None] * np.ones((128, 128))
    exposure = Exposure(1e12, np.zeros((2, 2)), (0, 127, 0, 127), np.array([0.0, 0.8]))
    first, second = np.log(expose(rows, np.zeros((2, 128, 128)), exposure, arm, np.random.default_rng(0)) - 23.0)
    change = np.abs(second - first).mean(axis=1)
    jaw = int(arm.project(np.array([[0, 0, JAW_MM]]), 128)[1][0])
    assert change[: jaw - 2].max() < 0.01 < 5 * change[: jaw - 2].max() + 0.05 < change[jaw + 16 :].mean()


def test_the_vault_fades_out_at_the_skull_base(patient):
    """An ellipsoid that fades below a plane: whole above it, nothing well below, and no edge in between."""
    source, direction = CArm(-90, 0, (0, 19, 23), field=220).rays(128)
    whole = _chord(source, direction, (0, 19, 23), (77, 99, 81))
    faded = _chord(source, direction, (0, 19, 23), (77, 99, 81), SKULL_BASE)
    assert faded[:50] == pytest.approx(whole[:50])
    assert faded[112:].max() == 0 and whole[108].max() > 30
    assert np.abs(np.diff(faded[50:, 45:85], axis=0)).max() < 0.08 * whole.max()


def test_blood_of_the_cortex_is_streaked():
    """Near one tip chance alone would give counts in 2 mm cells whose variance is about their mean."""
    tree = Tree(np.zeros((2, 3)), np.array([-1, 0]), np.full(2, np.nan))
    points, feeding = territories.capillary_bed(tree, np.array([1]), np.random.default_rng(0), 60_000)
    assert (feeding == 1).all() and 0.4 < len(points) / 60_000 < 0.75
    near = points[np.abs(points).max(axis=1) < 4]
    counts, _ = np.histogramdd(near, bins=4, range=[(-4, 4)] * 3)
    assert counts.var() > 3 * counts.mean()
    assert points.std(axis=0) == pytest.approx(5.5, rel=0.1)


def test_the_shutter_hides_the_rest():
    rng = np.random.default_rng(0)
    exposure = Exposure(1e5, np.zeros((1, 2)), (10, 40, 5, 60))
    frame = expose(np.zeros((64, 64)), np.zeros((1, 64, 64)), exposure, CArm(0, 0, (0, 0, 0)), rng)[0]
    assert (frame[5:61, 10:41] > 3000).all()
    assert frame[:, 41:].max() == frame[:5].max() == frame[:, :10].max() == 24


def test_rendered_run_is_raw_and_repeatable(patient, vertebral):
    times = np.arange(8) * 0.7
    arms = [CArm(0, 0, (0, 24, 6), 195), CArm(-90, 0, (0, 24, 6), 195, flip=True)]
    exposures = [Exposure(1e5, np.zeros((8, 2)), (0, 71, 0, 71))] * 2
    injection = bolus.Injection(start=0.9, duration=1.8)
    runs = [render_run(vertebral, injection, arms, exposures, times, 72, patient, [5, 1]) for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(runs[0].frames, runs[1].frames, strict=True))
    for frames, mask in zip(runs[0].frames, runs[0].masks, strict=True):
        assert frames.dtype == np.uint16 and frames.max() <= 4095
        before, best = np.log(frames[0] + 1.0), np.log(frames[runs[0].representative] + 1.0)
        darkening = before - best
        assert darkening[mask == 1].mean() > 0.2 > 10 * abs(np.median(darkening[mask == 0]))
        assert set(np.unique(mask)) == {0, 1, 2, 3}
        assert before.std() > 0.3  # unsubtracted: the skull is there
