"""Measures of one image's vessels on drawings whose counts are known by hand, and spectra of signals whose spectrum is known."""

import numpy as np
import pytest
from scipy.ndimage import rotate
from skimage.draw import line as draw_line

from dsa_lib.run.errors import StudyError
from dsa_lib.vessels import filters as vessel_filters
from dsa_lib.vessels import measures as vessel_measures
from dsa_lib.vessels.measures import of_classes, of_spectrum, transitions
from dsa_lib.vessels.spectra import spectrum

SIDE = 128


def drawing(*strokes, width: int = 3, side: int = SIDE) -> np.ndarray:
    """Class map with strokes (class, row, column, row, column), `width` pixels wide."""
    classes = np.zeros((side, side), np.uint8)
    for k, *ends in strokes:
        rows, columns = draw_line(*ends)
        for down in range(width):
            for right in range(width):
                classes[rows + down - width // 2, columns + right - width // 2] = k
    return classes


def test_a_straight_vessel():
    found = of_classes(drawing((2, 60, 14, 60, 113)))
    assert (found["pieces"], found["largest piece"]) == (1, 1.0)
    assert found["area medium"] == found["area"] == 3 * 102 / SIDE**2  # the pen reaches a pixel beyond both ends
    assert found["length"] * SIDE == pytest.approx(99, abs=3)  # thinning takes up to half a width at either end
    assert found["branchings"] == 0
    assert found["loose ends"] == pytest.approx(2 / found["length"])
    assert found["tortuosity"] == pytest.approx(1, abs=0.01)  # thinning bends the very ends
    assert found["length medium"] == found["length"] and found["length proximal"] == 0


@pytest.mark.parametrize("angle", range(0, 90, 7))
@pytest.mark.parametrize("width", [1, 3])
def test_a_straight_vessel_at_any_angle_has_two_ends_and_no_branching(angle, width):
    """Also where the grid makes a staircase of it."""
    turn = np.deg2rad(angle)
    ends = np.rint(64 + 50 * np.array([-np.sin(turn), -np.cos(turn), np.sin(turn), np.cos(turn)])).astype(int)
    found = of_classes(drawing((1, *ends), width=width))
    assert found["branchings"] == 0 and found["loose ends"] * found["length"] == pytest.approx(2)
    straight = np.hypot(ends[2] - ends[0], ends[3] - ends[1])
    # Paths from pixel to pixel overstate by 8.2 % at most (at 22.5°); the pen reaches beyond the ends, thinning takes some of that back.
    assert straight - 3 < found["length"] * SIDE < 1.083 * straight + 3


def test_a_fork_a_ring_and_two_pieces():
    fork = of_classes(drawing((1, 100, 64, 64, 64), (2, 64, 64, 30, 30), (3, 64, 64, 30, 98)))
    counts = {name: fork[name] * fork["length"] for name in ("branchings", "loose ends")}
    assert counts == pytest.approx({"branchings": 1, "loose ends": 3}) and fork["pieces"] == 1
    assert fork["length proximal"] * SIDE == pytest.approx(36, abs=3)
    assert fork["length medium"] * SIDE == pytest.approx(34 * np.sqrt(2), abs=4)
    assert fork["tortuosity"] == pytest.approx(1, abs=0.03)

    y, x = np.mgrid[:SIDE, :SIDE]
    radius = np.hypot(y - 64, x - 64)
    ring = of_classes(((radius > 28.5) & (radius < 31.5)).astype(np.uint8))
    assert ring["branchings"] == 0 and ring["loose ends"] == 0 and ring["pieces"] == 1
    assert ring["length"] * SIDE == pytest.approx(2 * np.pi * 30, rel=0.08)
    assert np.isnan(ring["tortuosity"])  # no stretch with two ends

    two = of_classes(drawing((1, 30, 14, 30, 113), (3, 90, 14, 90, 46)))
    assert two["pieces"] == 2 and two["branchings"] == 0
    assert two["largest piece"] == pytest.approx(3 * 102 / (3 * 102 + 3 * 35))
    assert two["loose ends"] * two["length"] == pytest.approx(4)


def test_a_crossing_counts_once():
    cross = of_classes(drawing((2, 64, 14, 64, 113), (2, 14, 64, 113, 64)))
    assert cross["branchings"] * cross["length"] == pytest.approx(1)
    assert cross["loose ends"] * cross["length"] == pytest.approx(4)


@pytest.mark.parametrize("radius", [20, 40, 55])
@pytest.mark.parametrize("turned", [0.0, 0.3, 0.8])
def test_a_half_circle_is_half_pi_tortuous(radius, turned):
    """One pixel wide: thinning would take the ends of a wider one, and with them some of its bend."""
    t = turned + np.linspace(0, np.pi, 5001)
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    drawn[np.rint(64 + radius * np.sin(t)).astype(int), np.rint(64 + radius * np.cos(t)).astype(int)] = 1
    assert of_classes(drawn)["tortuosity"] == pytest.approx(np.pi / 2, rel=0.015)


def test_a_sine_is_as_tortuous_as_its_arc_is_long():
    """Two periods of amplitude 12 over 100 pixels, and beside it a straight vessel, which counts by its length."""
    t = np.linspace(0, 1, 20001)
    rows, columns = 40 + 12 * np.sin(4 * np.pi * t), 14 + 100 * t
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    drawn[np.rint(rows).astype(int), np.rint(columns).astype(int)] = 1
    drawn = np.maximum(drawn, np.roll(drawn, 1, 0))
    arc = np.hypot(np.diff(rows), np.diff(columns)).sum()
    assert of_classes(drawn)["tortuosity"] == pytest.approx(arc / 100, rel=0.02)
    drawn[100, 14:114] = 1
    assert of_classes(drawn)["tortuosity"] == pytest.approx((arc + 99) / (100 + 99), rel=0.02)


@pytest.mark.parametrize("angle", range(0, 90, 7))
def test_a_straight_vessel_is_not_tortuous_at_any_angle(angle):
    turn = np.deg2rad(angle)
    ends = np.rint(64 + 50 * np.array([-np.sin(turn), -np.cos(turn), np.sin(turn), np.cos(turn)])).astype(int)
    assert of_classes(drawing((1, *ends)))["tortuosity"] == pytest.approx(1, abs=0.02)


def test_noise_is_no_piece_and_an_empty_frame_has_no_shares():
    classes = drawing((1, 60, 14, 60, 113))
    classes[10, 10:16] = 3  # one pixel fewer than vessels.SMALLEST
    assert of_classes(classes) == of_classes(drawing((1, 60, 14, 60, 113)))
    classes[10, 16] = 3
    assert of_classes(classes)["pieces"] == 2 and vessel_filters.SMALLEST == 7
    empty = of_classes(np.zeros((SIDE, SIDE), np.uint8))
    assert empty["area"] == empty["length"] == empty["pieces"] == 0
    assert all(np.isnan(empty[name]) for name in ("largest piece", "branchings", "loose ends", "tortuosity"))
    assert set(empty) | {"spectral slope", "fine power"} == set(vessel_measures.MEASURES)


def test_twice_the_frame_measures_the_same():
    small = drawing((1, 100, 64, 64, 64), (2, 64, 64, 30, 30), (3, 64, 64, 30, 98))
    large = np.repeat(np.repeat(small, 2, 0), 2, 1)
    a, b = of_classes(small), of_classes(large)
    for name in ("area", "area medium", "length", "branchings", "loose ends", "tortuosity"):
        assert b[name] == pytest.approx(a[name], rel=0.06), name


def test_crossing_numbers_by_hand():
    line = np.zeros((5, 5), bool)
    line[2, :] = True
    line[:2, 2] = True
    assert transitions(line)[2].tolist() == [1, 2, 3, 2, 1]
    stairs = np.zeros((4, 5), bool)
    stairs[0, 0] = stairs[0, 1] = stairs[1, 1] = stairs[1, 2] = stairs[2, 2] = stairs[2, 3] = True
    assert transitions(stairs).max() == 2 and (transitions(stairs) == 1).sum() == 2


def test_white_noise_has_its_variance_at_every_frequency():
    rng = np.random.default_rng(0)
    powers = np.mean([spectrum(rng.normal(100, 3, (SIDE, SIDE)))[1] for _ in range(60)], axis=0)
    frequency, _ = spectrum(np.zeros((SIDE, SIDE)))
    assert frequency[0] == 1 / SIDE and frequency[-1] == 0.5
    assert powers[3:] == pytest.approx(9, rel=0.08)
    found = of_spectrum(frequency, powers)
    assert found["spectral slope"] == pytest.approx(0, abs=0.03) and found["fine power"] == pytest.approx(9, rel=0.03)


def test_a_sinusoid_is_a_peak_at_its_frequency_whatever_its_direction():
    y, x = np.mgrid[:SIDE, :SIDE]
    for turn in (0.0, 0.7, np.pi / 2):
        wave = 50 + 10 * np.sin(2 * np.pi * 16 / SIDE * (x * np.cos(turn) + y * np.sin(turn)))
        frequency, power = spectrum(wave)
        assert frequency[power.argmax()] == 16 / SIDE
        assert power[np.abs(frequency - 16 / SIDE) > 3 / SIDE].max() < 1e-3 * power.max()


def test_a_spectrum_of_known_slope():
    rng = np.random.default_rng(1)
    down, right = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None]
    shape = np.hypot(down, right)
    shape[0, 0] = 1
    slopes = []
    for _ in range(20):
        field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) * shape ** (-1.5)).real  # power falls as f^−3
        slopes.append(of_spectrum(*spectrum(field))["spectral slope"])
    assert np.mean(slopes) == pytest.approx(-3, abs=0.1)


def test_a_smooth_frame_without_ends_that_meet_leaks_little():
    """A ramp, whose borders do not meet, has no fine power under the window."""
    ramp = np.broadcast_to(np.linspace(0, 200, SIDE), (SIDE, SIDE))
    assert of_spectrum(*spectrum(ramp))["fine power"] < 1e-4
    turned = rotate(ramp, 30, reshape=False, mode="nearest")
    assert of_spectrum(*spectrum(turned))["fine power"] < 0.05
    with pytest.raises(StudyError, match="square"):
        spectrum(np.zeros((4, 6)))
