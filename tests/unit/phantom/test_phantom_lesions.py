"""Lesions of the phantom: their size and place by hand, and a tree without one is drawn as before."""

import numpy as np
import pytest

from dsa_lib.phantom.body import lesions as phantom_lesions
from dsa_lib.phantom.body.head import draw_patient
from dsa_lib.phantom.body.territories import arterial_samples, inject
from dsa_lib.phantom.body.trees import sample_edges
from dsa_lib.phantom.imaging.bolus import Injection
from dsa_lib.phantom.imaging.projection import CArm
from dsa_lib.phantom.imaging.render import contrast_images, truth_mask

ARM = CArm(0.0, 0.0, (0.0, 18.0, 19.0), 200.0)
TIMES = np.arange(0, 7, 0.5)
BOLUS = Injection(start=0.7, duration=2.0, strength=0.9)


@pytest.fixture(scope="module")
def carotid():
    return inject(draw_patient(np.random.default_rng(3)), "ICA", 1, 11)


@pytest.fixture(scope="module")
def vertebral():
    return inject(draw_patient(np.random.default_rng(4)), "VA", -1, 12)


def with_lesion(body, kind, seed=0, side=1):
    return phantom_lesions.add_lesion(body, side, kind, np.random.default_rng(seed))


def test_without_a_lesion_the_samples_are_those_of_the_tree(carotid):
    ours, edges = arterial_samples(carotid, 1.0), sample_edges(carotid.tree, 1.0)
    assert all(np.array_equal(ours[key], edges[key]) for key in edges)


def test_a_sac_holds_its_volume_beside_the_vessel(carotid):
    for seed in range(6):
        body, lesion = with_lesion(carotid, "aneurysm", seed)
        sac = body.lesion
        assert sac["volume"].sum() == pytest.approx(1.2 * 4 / 3 * np.pi * lesion.size_mm**3)
        # Its neck: the nearest part of the sac lies at the wall of the parent artery, its far end an egg's length away.
        centre = sac["point"].mean(axis=0)
        assert np.linalg.norm(sac["point"] - centre, axis=1).max() < 1.35 * lesion.size_mm
        gap = (
            np.linalg.norm(carotid.tree.position[:, None] - sac["point"][None, ::7], axis=2)
            - carotid.tree.radius[:, None]
        )
        assert gap.min() < 1.0
        assert lesion.side == "left" and lesion.artery in {site[2] for site in phantom_lesions.SITES["aneurysm", "ICA"]}


def test_projected_contrast_of_a_sac_is_its_volume(carotid):
    """Path length times pixel area, summed, is the volume; at the isocentre's depth the magnification is 1 within a few per cent."""
    body, lesion = with_lesion(carotid, "aneurysm", 2)
    late = TIMES[-8:]  # sac and tree both filled; everything else is alike
    with_sac, _ = contrast_images(body, BOLUS, ARM, 160, late)
    without, _ = contrast_images(carotid, BOLUS, ARM, 160, late)
    curve_peak = (with_sac - without).sum(axis=(1, 2)).max() * (ARM.field / 160) ** 2
    volume = 1.2 * 4 / 3 * np.pi * lesion.size_mm**3
    assert 0.5 * volume < curve_peak < 1.25 * volume  # diluted by the bolus, magnified by the beam


def test_a_stenosis_narrows_to_what_it_says(carotid):
    for seed in range(6):
        body, lesion = with_lesion(carotid, "stenosis", seed)
        ratio = body.tree.radius / carotid.tree.radius
        assert ratio.min() == pytest.approx(1 - lesion.lost)
        changed = np.flatnonzero(ratio < 1)
        spread = np.ptp(carotid.tree.distance[changed]) if len(changed) > 1 else 0.0
        assert spread < lesion.size_mm
        assert 0.5 <= lesion.lost <= 0.85


def test_an_occlusion_takes_everything_downstream(carotid):
    for seed in range(6):
        body, lesion = with_lesion(carotid, "occlusion", seed)
        tree = body.tree
        assert len(tree) < len(carotid.tree)
        assert (tree.parent[1:] < np.arange(1, len(tree))).all() and tree.parent[0] == -1
        # Edges that are left are edges of the whole tree, at their old places.
        old = {tuple(p) for p in carotid.tree.position.tolist()}
        assert all(tuple(p) in old for p in tree.position.tolist())
        assert len(body.tissue) < len(carotid.tissue) and body.tissue_tip.max() < len(tree)
        assert np.allclose(body.tissue_arrival, tree.arrival[body.tissue_tip])
        shown, _ = contrast_images(body, BOLUS, ARM, 96, TIMES[:5])
        whole, _ = contrast_images(carotid, BOLUS, ARM, 96, TIMES[:5])
        mask = phantom_lesions.lesion_mask(lesion, ARM, 96)
        assert shown[-1][mask].mean() < whole[-1][mask].mean()


def test_a_nidus_shunts_into_a_vein_that_is_no_artery(vertebral):
    body, lesion = with_lesion(vertebral, "AVM", 1, side=-1)
    added = body.lesion
    vein = added["label"] == 0
    assert vein.any() and added["arrival"][vein].min() < vertebral.first_vein + 1.0
    assert lesion.side == "right"
    mask = truth_mask(arterial_samples(body, 1.0), ARM, 96)
    alone = {key: values[vein] for key, values in added.items()}
    assert not truth_mask(alone, ARM, 96).any()
    inside = phantom_lesions.lesion_mask(lesion, ARM, 96)
    assert (mask[inside] > 0).mean() > 0.3


@pytest.mark.parametrize("kind", phantom_lesions.KINDS)
def test_the_same_seed_gives_the_same_lesion_and_leaves_the_body_alone(carotid, kind):
    before = carotid.tree.radius.copy(), len(carotid.tissue)
    (one, first), (other, second) = with_lesion(carotid, kind, 5), with_lesion(carotid, kind, 5)
    assert np.array_equal(one.tree.radius, other.tree.radius) and first.artery == second.artery
    assert np.array_equal(first.extent["point"], second.extent["point"])
    assert (
        np.array_equal(carotid.tree.radius, before[0]) and len(carotid.tissue) == before[1] and carotid.lesion is None
    )


def test_what_has_no_sites_is_refused(carotid):
    with pytest.raises(ValueError, match="no lesion 'fistula'"):
        with_lesion(carotid, "fistula")


@pytest.mark.parametrize("kind", phantom_lesions.KINDS)
def test_the_basilar_artery_has_no_side_whatever_the_lesion(vertebral, kind):
    for seed in range(8):
        _, lesion = with_lesion(vertebral, kind, seed, side=-1)
        assert (lesion.side == "") == (lesion.artery == "basilar artery")
