"""What is measured on real and phantom frames, against hand-made images of known answers; and the phantom against the kept table."""

import numpy as np
import pandas as pd
import pytest

from dsa_lib.phantom import realism, run_measures
from dsa_lib.phantom.run_measures import CALIBRES, Curves, Run
from dsa_lib.run.workspace import PROJECT

GREY = 162.0
TABLE = PROJECT / "benchmarks/phantom_realism.csv"


def _bars(*bars: tuple[int, int], depth: float = 60, size: int = 128) -> np.ndarray:
    """A grey frame with vertical bars (first column, width) that run over its whole height."""
    frame = np.full((size, size), GREY)
    for first, width in bars:
        frame[:, first : first + width] -= depth
    return frame


@pytest.mark.parametrize("width", [1, 3, 5, 7])
def test_a_bar_of_known_width(width):
    frame = _bars((50, width))
    vessels = run_measures.segment(run_measures.depth(frame))
    rows = slice(12, -12)  # a skeleton ends short of the border
    assert np.array_equal(np.flatnonzero(vessels[64]), np.arange(50, 50 + width))
    assert run_measures.widths(vessels)[rows][vessels[rows]] == pytest.approx(width, abs=0.6)
    assert (run_measures.widths(vessels)[~vessels] == 0).all()


def test_bars_fall_into_their_calibre_classes():
    vessels = run_measures.segment(run_measures.depth(_bars((20, 2), (50, 4), (90, 6), size=160)))
    width = run_measures.widths(vessels)
    for name, columns in {"fine": slice(18, 24), "medium": slice(48, 56), "trunk": slice(88, 98)}.items():
        low, high = CALIBRES[name]
        inside = width[20:-20, columns][vessels[20:-20, columns]]
        assert ((inside >= low) & (inside < high)).all(), name


def test_a_blush_is_no_vessel_and_a_vessel_on_it_keeps_its_depth():
    y, x = np.mgrid[:128, :128]
    blush = 20 * np.exp(-((x - 64) ** 2 + (y - 64) ** 2) / (2 * 40**2))
    assert not run_measures.segment(run_measures.depth(GREY - blush)).any()
    with_vessel = run_measures.depth(_bars((63, 3), depth=30) - blush)
    assert with_vessel[64, 64] == pytest.approx(30, abs=2)


def test_noise_alone_gives_no_vessels():
    noise = np.random.default_rng(0).normal(GREY, 0.9, (256, 256))
    assert run_measures.segment(run_measures.depth(noise)).mean() < 0.002


@pytest.mark.parametrize("sd", [0.5, 2.0])
def test_noise_of_known_sd_on_a_ramp(sd):
    rng = np.random.default_rng(1)
    frame = np.linspace(40, 200, 256)[None] + 10 * np.sin(np.linspace(0, 6, 256))[:, None]
    assert run_measures.noise_sd(frame) < 0.02
    assert run_measures.noise_sd(frame + rng.normal(0, sd, (256, 256))) == pytest.approx(sd, rel=0.03)


def test_noise_is_read_where_it_is_asked_for():
    frame = np.full((64, 64), GREY)
    frame[:, 32:] += np.random.default_rng(2).normal(0, 3, (64, 32))
    left = np.zeros((64, 64), bool)
    left[:, :30] = True
    assert run_measures.noise_sd(frame, left) == 0 and run_measures.noise_sd(frame, ~left) > 2


@pytest.mark.parametrize("slope", [-2.0, -3.0])
def test_slope_of_a_made_spectrum(slope):
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    frequency[0, 0] = 1
    found = []
    for seed in range(40):  # one image's low frequencies are few
        white = np.fft.fft2(np.random.default_rng(seed).normal(size=(256, 256)))
        found.append(run_measures.spectrum_slope(np.fft.ifft2(white * frequency ** (slope / 2)).real))
    assert np.mean(found) == pytest.approx(slope, abs=0.06)


def test_what_the_shutter_covers_is_not_exposed():
    frames = np.full((5, 32, 32), 162, np.uint8)
    frames[:, 4:20, 6:30] += np.random.default_rng(4).integers(0, 3, (5, 16, 24), np.uint8)
    field = run_measures.exposed(frames)
    assert field[4:20, 6:30].mean() > 0.9 and field.sum() == field[4:20, 6:30].sum()


def _made_run() -> Run:
    """Frames 0.5 s apart: an artery filled in 2-6, a blush in 6-9, a vein in 9-13, one after the other with a shared frame."""
    y, x = np.mgrid[:128, :128]
    blush = 24 * np.exp(-((x - 64) ** 2 + (y - 64) ** 2) / (2 * 34**2))
    amount = {
        "artery": np.interp(range(16), [1, 3, 5, 8, 11], [0, 1, 1, 0.2, 0]),
        "blush": np.interp(range(16), [4, 8, 12], [0, 1, 0]),
        "vein": np.interp(range(16), [8, 11, 15], [0, 1, 0.6]),
    }
    frames = np.full((16, 128, 128), GREY)
    frames[:, :, 40:43] -= 50 * amount["artery"][:, None, None]
    frames[:, :, 90:94] -= 40 * amount["vein"][:, None, None]
    frames -= blush * amount["blush"][:, None, None]
    frames += np.random.default_rng(5).normal(0, 0.5, frames.shape)
    return Run("made", np.clip(np.rint(frames), 0, 255).astype(np.uint8), np.arange(16) * 0.5), amount


def test_curves_tell_arteries_blush_and_veins_apart():
    run, amount = _made_run()
    c = run_measures.curves(run.frames)
    for measured, name in ((c.artery, "artery"), (c.blush, "blush"), (c.vein, "vein")):
        assert measured == pytest.approx(amount[name], abs=0.1), name
    assert c.fullest() in (3, 4, 5) and 10 < c.blush_grey.max() < 24


def test_durations_by_hand():
    c = Curves(
        artery=np.array([0, 0.1, 0.6, 1.0, 0.8, 0.4, 0.2, 0.1]),
        blush=np.array([0, 0, 0, 0.1, 0.5, 1.0, 0.7, 0.2]),
        vein=np.array([0, 0, 0, 0, 0, 0.3, 0.9, 1.0]),
        blush_grey=np.zeros(8),
        darkness=np.zeros((8, 1, 1)),
    )
    found = run_measures.durations(c, np.arange(8) * 0.5)
    assert found == {
        "arterial phase": 2.0,  # frames 1 to 4
        "capillary phase": 0.5,  # frame 5
        "arteries above half": 1.5,  # frames 2, 3 and 4
        "blush peak after arterial peak": 1.0,
    }


def test_measures_of_a_made_run():
    run, _ = _made_run()
    found = run_measures.measure(run)
    assert found["noise SD [grey]"] == pytest.approx(0.55, abs=0.1)  # 0.5 and the rounding to whole grey levels
    assert found["background before contrast [grey]"] == pytest.approx(GREY, abs=0.2)
    assert found["vessels, fullest arterial frame [% of field]"] == pytest.approx(100 * 3 / 128, rel=0.1)
    assert found["contrast, medium [grey]"] == pytest.approx(50, abs=3)
    assert np.isnan(found["contrast, trunk [grey]"]) and found["vessels, trunk [% of field]"] == 0


@pytest.fixture(scope="module")
def phantom():
    """Four common carotid runs in the lateral view, drawn and curated at 256² (about 6 s)."""
    return realism.phantom_runs(
        seed=0, kinds=[k for k in realism.PHANTOM_RUNS if (k[0], k[2]) in realism.LIKE_REAL][:4]
    )


def test_measured_phases_agree_with_the_phantoms_truth(phantom):
    for run in phantom:
        found = run_measures.durations(run_measures.curves(run.frames), run.times)
        for name in ("arterial", "capillary"):
            true = (run.phase == name).sum() * 0.2
            assert found[f"{name} phase"] == pytest.approx(true, abs=0.8), run.name


def _band(statistic: str) -> float:
    kept = pd.read_csv(TABLE)
    return float(kept.loc[kept["source"].str.startswith("real") & (kept["statistic"] == statistic), "median"].iloc[0])


def test_the_phantom_lies_within_stated_bands_of_the_kept_real_values(phantom):
    """Medians over four runs against the one real run: the same segmentation, so these are the phantom's own deviations."""
    found = pd.DataFrame([run_measures.measure(run) for run in phantom]).median()
    for statistic, unit, share in (
        ("vessels, fullest arterial frame", "% of field", 0.3),
        ("vessels, fine", "% of field", 0.3),
        ("vessels, trunk", "% of field", 0.4),
        ("contrast, trunk", "grey", 0.2),
        ("contrast, fine", "grey", 0.5),
        ("blush at its peak", "grey", 0.3),
        ("noise SD", "grey", 0.35),
        ("arterial contrast left at the blush's peak", "% of peak", 0.3),
    ):
        assert found[f"{statistic} [{unit}]"] == pytest.approx(_band(statistic), rel=share), statistic
    assert found["background in the fullest arterial frame [grey]"] == pytest.approx(GREY, abs=2.2)


def test_arteries_stay_filled_while_the_blush_begins(phantom):
    for run in phantom:
        c = run_measures.curves(run.frames)
        begun = int(np.argmax(c.blush > 0.5))
        assert c.artery[begun] > 0.45, run.name
        assert 0.2 < c.artery[int(np.argmax(c.blush))] < 0.7, run.name


def test_the_kept_table_holds_numbers_and_their_source():
    kept = pd.read_csv(TABLE)
    assert list(kept.columns) == ["statistic", "unit", "median", "least", "largest", "source"]
    assert all(pd.api.types.is_numeric_dtype(kept[column]) for column in ("median", "least", "largest"))
    real, simulated = (kept[kept["source"].str.startswith(word)] for word in ("real: ", "phantom: "))
    assert len(real) == len(simulated) == len(kept) / 2 and set(real["statistic"]) == set(simulated["statistic"])
    assert simulated["source"].str.contains("simulated").all()


def test_table_command_and_picture(phantom, tmp_path, monkeypatch, capsys):
    real = [Run("real 1", phantom[0].frames, phantom[0].times)]
    monkeypatch.setattr(realism, "real_runs", lambda folder: real)
    monkeypatch.setattr(realism, "phantom_runs", lambda seed: phantom)
    monkeypatch.setattr(realism, "DRAWN", (0, 1))
    arguments = ["--real", str(tmp_path), "--picture", str(tmp_path / "a.png"), "--table", str(tmp_path / "a.csv")]
    realism.main(arguments)
    table = pd.read_csv(tmp_path / "a.csv")
    first = table[table["source"].str.startswith("real")]
    assert (first["median"] == first["least"]).all() and len(table) == 2 * len(first)
    assert (tmp_path / "a.png").stat().st_size > 10_000 and "noise SD" in capsys.readouterr().out


def test_real_pixels_are_refused_inside_the_project(tmp_path, capsys):
    with pytest.raises(SystemExit):
        realism.main(["--real", str(tmp_path), "--picture", str(PROJECT / "figures/side.png")])
    assert "real pixels stay outside" in capsys.readouterr().err
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(SystemExit, match="no XA DICOM run"):
        realism.main(["--real", str(tmp_path), "--picture", str(tmp_path / "side.png")])
