"""Spectra of sets and their distances, worked by hand. The spectrum of one image is tested in test_vessel_measures.py."""

import numpy as np
import pytest

from dsa_lib.run.errors import StudyError
from dsa_lib.vessels import spectra


def noise(sd, n=24, side=32, seed=0):
    return np.random.default_rng(seed).normal(128, sd, (n, side, side)).round().clip(0, 255).astype(np.uint8)


def test_the_distance_of_two_spectra_by_hand():
    assert spectra.log_spectral_distance(np.array([10.0, 10.0]), np.array([1.0, 1.0])) == pytest.approx(10)
    assert spectra.log_spectral_distance(np.array([10.0, 0.1]), np.array([1.0, 1.0])) == pytest.approx(10)
    assert spectra.log_spectral_distance(np.array([100.0, 1.0]), np.array([1.0, 1.0])) == pytest.approx(20 / np.sqrt(2))
    assert np.isnan(spectra.log_spectral_distance(np.array([0.0, 1.0]), np.array([1.0, 1.0])))


def test_a_set_of_noise_has_its_standard_deviation_as_amplitude():
    found = spectra.of_set(noise(20, n=60))
    assert found.power.shape == (60, 16) and found.frequency[-1] == 0.5
    assert found.amplitude[3:] == pytest.approx(20, rel=0.1)


def test_twice_the_contrast_is_six_decibels_in_every_band():
    true = spectra.of_set(noise(10))
    double = spectra.Spectra(true.frequency, 4 * true.power)
    same = spectra.Spectra(true.frequency, true.power)
    patients = np.repeat(np.arange(6), 4)
    table = spectra.distances({"double": double, "same": same}, true, patients, draws=50).set_index(["set", "band"])
    six = 10 * np.log10(4)
    for band in spectra.BANDS:
        assert table.loc[("double", band)].tolist() == pytest.approx([six] * 3)
        assert table.loc[("same", band)].tolist() == pytest.approx([0] * 3)


def test_the_band_says_where_a_set_differs():
    true = spectra.of_set(noise(10))
    high = spectra.bands(true.frequency)["high"]
    sharper = spectra.Spectra(true.frequency, np.where(high, 10 * true.power, true.power))
    table = spectra.distances({"sharper": sharper}, true, np.arange(24), draws=20).set_index("band")
    assert table.distance_db["low"] == pytest.approx(0) and table.distance_db["high"] == pytest.approx(10)
    assert 0 < table.distance_db["all"] < 10


def test_sets_that_do_not_pair_are_refused():
    true = spectra.of_set(noise(10))
    with pytest.raises(StudyError, match="one image of the same size"):
        spectra.distances({"few": spectra.of_set(noise(10, n=3))}, true, np.arange(24))
    with pytest.raises(StudyError, match="8-bit grey"):
        spectra.of_set(noise(10).astype(float))


@pytest.mark.parametrize("side", [8, 9])
def test_rings_weigh_mirrored_frequencies_as_the_whole_plane_does(side):
    """rfft2 holds one of each mirrored pair, and the zero and Nyquist columns once: the ring means are those of the whole plane."""
    frame = noise(20, 1, side, seed=3)[0]
    window = np.hanning(side + 1)[:-1]
    window = window[:, None] * window[None]
    x = frame.astype(float)
    x = (x - (x * window).sum() / window.sum()) * window
    power = np.abs(np.fft.fft2(x)) ** 2 / np.square(window).sum()
    places = np.fft.fftfreq(side) * side
    ring = np.rint(np.hypot(places[:, None], places[None])).astype(int)
    expected = [power[ring == k].mean() for k in range(1, side // 2 + 1)]
    assert np.allclose(spectra.spectrum(frame)[1], expected)
