"""Held against real angiography: the same measurements on curated real runs and on curated phantom runs, and both side by side.

python -m dsa_lib.phantom.realism --real FOLDER --picture OUT.png [--table OUT.csv]

Real and phantom runs go through the same curation (`dsa_lib.dicom`), so that what is measured is what the networks see. The picture
holds real pixels and is refused inside the project; the table holds numbers alone.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import convolve, distance_transform_edt, gaussian_filter, grey_closing, maximum_filter
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import remove_small_objects, skeletonize

from dsa_lib.dicom import Unreadable, read_acquisition, subtracted_run
from dsa_lib.errors import StudyError
from dsa_lib.phantom.acquisition import Bodies, acquire
from dsa_lib.phantom.anatomy import draw_patient
from dsa_lib.phantom.bolus import VISIBLE, phases
from dsa_lib.phantom.figures import draw_side_by_side
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.phantom.xa import write_xa
from dsa_lib.profiles import Archive, Curation
from dsa_lib.workspace import PROJECT

SIZE = 256
CLOSING = 21  # pixels at 256²: wider than any artery of the head, narrower than the blush
LOW, HIGH, SMALLEST = 3.5, 6.0, 14  # grey levels below the surroundings (hysteresis) and pixels of the smallest vessel piece
EDGE, REACH = 0.4, 7  # a vessel ends where it falls to this share of the darkest pixel in a window of so many pixels
CALIBRES = {"fine": (0.0, 2.5), "medium": (2.5, 4.2), "trunk": (4.2, np.inf)}  # width in pixels at 256²
PHANTOM_RUNS = (
    ("CCA", 1, "B", -90, 0), ("CCA", -1, "B", -90, 0), ("CCA", 1, "B", -90, 0), ("CCA", 1, "B", -90, 0), ("CCA", -1, "B", -90, 0), ("CCA", 1, "B", -90, 0),
    ("ICA", 1, "B", -90, 0), ("ICA", 1, "A", 0, 0), ("ICA", -1, "A", -28, 12), ("VA", 1, "B", -90, 0), ("VA", -1, "A", 0, 0), ("VA", 1, "A", 0, 28),
)  # fmt: skip
LIKE_REAL = (("CCA", "B"),)  # phantom runs of the real run's kind (common carotid, lateral): what the table compares
DRAWN = (0, 1, 2, 6, 7, 8, 9, 10, 11)


@dataclass(frozen=True)
class Run:
    """One curated run: frames uint8 [t, size, size], vessels dark; times [t] s; kind: vessel and plane where known; true phases of a phantom."""

    name: str
    frames: np.ndarray
    times: np.ndarray
    kind: tuple[str, str] = ("", "")
    phase: np.ndarray | None = None


def exposed(frames: np.ndarray) -> np.ndarray:
    """Pixels [size, size] bool inside the exposed field: those that change over time (what the shutter covers is constant)."""
    return frames.min(axis=0) != frames.max(axis=0)


def noise_sd(frame: np.ndarray, where: np.ndarray | None = None) -> float:
    """SD of white noise in grey levels by the mean absolute difference of two Laplacians (Immerkaer, Comput Vis Image Underst 1996).

    frame: [h, w]; where: pixels to use (bool), for instance those without vessels. Smooth structure of the image cancels.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], float)
    response = np.abs(convolve(frame.astype(float), kernel, mode="reflect"))
    inside = np.ones(frame.shape, bool) if where is None else where.copy()
    inside[[0, -1]] = False
    inside[:, [0, -1]] = False
    return float(np.sqrt(np.pi / 2) / 6 * response[inside].mean())


def surroundings(frame: np.ndarray) -> np.ndarray:
    """Grey level around the vessels [h, w]: what is left when dark structures narrower than `CLOSING` pixels are closed, smoothed."""
    return gaussian_filter(grey_closing(gaussian_filter(frame.astype(np.float32), 0.6), CLOSING, mode="nearest"), CLOSING / 6)


def depth(frame: np.ndarray) -> np.ndarray:
    """How many grey levels each pixel lies below its surroundings: vessels without the blush behind them (black top-hat)."""
    return np.clip(surroundings(frame) - frame.astype(np.float32), 0, None)


def segment(darkness: np.ndarray) -> np.ndarray:
    """Vessel pixels [h, w] bool of a `depth` image: above HIGH, or above LOW and joined to such a pixel; small pieces are noise.

    Blurred flanks are no vessel: a pixel also needs EDGE of the depth of the darkest one near it (about the full width at half maximum).
    """
    smoothed = gaussian_filter(darkness, 0.5)
    core = np.where(smoothed >= EDGE * maximum_filter(smoothed, REACH), smoothed, 0)
    return remove_small_objects(apply_hysteresis_threshold(core, LOW, HIGH), max_size=SMALLEST - 1, connectivity=2)


def widths(vessels: np.ndarray) -> np.ndarray:
    """Width in pixels [h, w] of the vessel that each pixel belongs to (0 outside): twice the distance from its centre line to the outside, less one."""
    if not vessels.any():
        return np.zeros(vessels.shape)
    line = skeletonize(vessels)
    on_line = 2 * distance_transform_edt(vessels)[line] - 1
    values = np.zeros(vessels.shape)
    values[line] = on_line
    smooth = gaussian_filter(values, 2) / np.maximum(gaussian_filter(line.astype(float), 2), 1e-9)  # along the line: pixels are coarse
    nearest = distance_transform_edt(~line, return_distances=False, return_indices=True)
    return np.where(vessels, smooth[tuple(nearest)], 0)


def spectrum_slope(frame: np.ndarray, low: float = 0.03, high: float = 0.25) -> float:
    """Slope of log power over log spatial frequency between `low` and `high` cycles a pixel, of the windowed radial power spectrum."""
    size = min(frame.shape)
    image = frame[:size, :size].astype(float)
    window = np.hanning(size)
    power = np.abs(np.fft.fft2((image - image.mean()) * window[:, None] * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    bins = np.geomspace(low, high, 13)
    which = np.digitize(frequency.ravel(), bins) - 1
    centres, values = [], []
    for n in range(12):
        inside = power.ravel()[which == n]
        if len(inside):
            centres.append(np.sqrt(bins[n] * bins[n + 1]))
            values.append(inside.mean())
    return float(np.polyfit(np.log(centres), np.log(np.maximum(values, 1e-12)), 1)[0])


@dataclass(frozen=True)
class Curves:
    """Time-intensity curves [t] of one run, each relative to its peak: arteries, blush, veins; and the darkness [t, h, w] they come from."""

    artery: np.ndarray
    blush: np.ndarray
    vein: np.ndarray
    blush_grey: np.ndarray
    darkness: np.ndarray

    def fullest(self) -> int:
        """Frame in which the arteries hold most contrast."""
        return int(np.argmax(self.artery))


def _at_peak(curve: np.ndarray) -> np.ndarray:
    return curve / max(float(curve.max()), 1e-9)


def curves(frames: np.ndarray) -> Curves:
    """Contrast over time in arteries, capillary bed and veins, told apart by when a pixel is darkest: before or after the blush is.

    frames: uint8 [t, h, w]. The blush is the mean darkening of the surroundings of the vessels, over the tenth of the field that darkens most.
    """
    field = exposed(frames)
    around = np.stack([surroundings(f) for f in frames])
    darkness = np.clip(around - frames.astype(np.float32), 0, None)
    veil = float(np.median(frames[0][field])) - around
    brain = field & (veil.mean(axis=0) >= np.quantile(veil.mean(axis=0)[field], 0.9)) if field.any() else field
    blush = np.clip(veil[:, brain].mean(axis=1), 0, None) if brain.any() else np.zeros(len(frames))
    # Within vessels only; a pixel's darkest moment is taken from a short mean, which noise moves little.
    vessels = segment(darkness.max(axis=0))
    smoothed = darkness[:, vessels]
    if len(frames) > 4:
        smoothed = (smoothed[:-2] + smoothed[1:-1] + smoothed[2:]) / 3
        smoothed = np.concatenate([smoothed[:1], smoothed, smoothed[-1:]])
    early = smoothed.argmax(axis=0) <= int(np.argmax(blush))
    inside = darkness[:, vessels]
    artery, vein = inside[:, early].sum(axis=1), inside[:, ~early].sum(axis=1)
    return Curves(*(_at_peak(c - np.quantile(c, 0.02)) for c in (artery, blush, vein)), blush, darkness)


def durations(c: Curves, times: np.ndarray) -> dict[str, float]:
    """Seconds of the arterial and capillary phase by `bolus.phases` on measured curves, and how long arteries stay filled."""
    phase = phases(c.artery, c.blush, c.vein)
    step = float(np.median(np.diff(times)))
    peak = c.fullest()
    return {
        "arterial phase": float((phase == "arterial").sum() * step),
        "capillary phase": float((phase == "capillary").sum() * step),
        "arteries above half": float((c.artery > 0.5).sum() * step),
        "blush peak after arterial peak": float(times[int(np.argmax(c.blush))] - times[peak]),
    }


def measure(run: Run) -> dict[str, float]:
    """Every statistic of one run, by name with its unit in brackets: background, noise, vessel area by calibre, contrast, times, spectrum."""
    field = exposed(run.frames)
    c = curves(run.frames)
    best = c.fullest()
    first = max(int(np.argmax(c.artery >= VISIBLE)), 1)
    vessels = segment(c.darkness[best])
    width = widths(vessels)
    free = field & ~segment(c.darkness.max(axis=0))
    area = max(int(field.sum()), 1)
    filled = [float((segment(d) & field).sum() / area) for d in c.darkness[c.artery >= 0.6]]
    out = {
        "background before contrast [grey]": float(run.frames[:first][:, field].mean()),
        "background in the fullest arterial frame [grey]": float(np.median(run.frames[best][free])) if free.any() else np.nan,
        "noise SD [grey]": noise_sd(run.frames[best], free),
        "vessels, fullest arterial frame [% of field]": 100 * float((vessels & field).sum() / area),
        "vessels, median of well filled frames [% of field]": 100 * float(np.median(filled)),
    }  # fmt: skip
    classes = {name: vessels & field & (width >= a) & (width < b) for name, (a, b) in CALIBRES.items()}
    out |= {f"vessels, {name} [% of field]": 100 * float(mask.sum() / area) for name, mask in classes.items()}
    for name, mask in classes.items():
        out[f"contrast, {name} [grey]"] = float(np.median(c.darkness[best][mask])) if mask.any() else np.nan
    out["blush at its peak [grey]"] = float(c.blush_grey.max())
    out |= {f"{name} [s]": seconds for name, seconds in durations(c, run.times).items()}
    out["arterial contrast left at the blush's peak [% of peak]"] = 100 * float(c.artery[int(np.argmax(c.blush))])
    out["slope of log power over log frequency, fullest arterial frame"] = spectrum_slope(run.frames[best])
    return out


def curate(path: Path, name: str) -> Run:
    """One DICOM file as the study's curation gives it, at `SIZE`. Raises dsa_lib.dicom's Unreadable."""
    curation = Curation()
    facts = read_acquisition(path)
    run = subtracted_run(path, facts, SIZE, curation.background_grey, curation.contrast_per_grey)
    return Run(name, run.frames, np.asarray(facts.frame_times_s), ("", facts.plane or ""))


def real_runs(folder: Path) -> list[Run]:
    """Every readable XA run of a folder, in the order of file names (which are not kept). Raises StudyError where there is none."""
    runs = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        try:
            runs.append(curate(path, f"real {len(runs) + 1}"))
        except Unreadable:
            continue
    if not runs:
        raise StudyError(f"{folder} holds no readable XA DICOM run: give a folder of real angiography")
    return runs


def phantom_runs(seed: int = 0, kinds=PHANTOM_RUNS) -> list[Run]:
    """Phantom runs of `kinds` (vessel, side, plane, primary and secondary angle), each of another patient, written as DICOM and curated like real ones."""
    config = Archive(patients=1, matrix=SIZE * 9 // 8, frames=48, frame_time_ms=200.0)
    row = plan_archive(Archive(patients=1, series_per_study=4), seed).iloc[0].to_dict()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for n, (vessel, side, plane, primary, secondary) in enumerate(kinds):
            bodies = Bodies(draw_patient(np.random.default_rng([seed, 7, n])), seed, n)
            row |= {"vessel": vessel, "side": side, "kind": "kept", "run": n, "plane": plane}
            row |= {"primary_angle_deg": primary, "secondary_angle_deg": secondary}
            facts, frames, truth = acquire([row], config, seed, bodies)
            write_xa(Path(folder) / f"{n}.dcm", row, facts[0], frames[0], config)
            view = f" {primary:+.0f}°/{secondary:+.0f}°" if (primary, secondary) not in ((0, 0), (-90, 0)) else ""
            run = curate(Path(folder) / f"{n}.dcm", f"phantom {vessel} {'lateral' if plane == 'B' else 'PA'}{view}")
            runs.append(replace(run, kind=(vessel, plane), phase=truth.phase))
    return runs


def table(real: list[Run], phantom: list[Run]) -> pd.DataFrame:
    """Statistics of both, one a row: median, least and largest over the runs, and a column that says what they were measured on."""
    alike = [run for run in phantom if run.kind in LIKE_REAL]
    rows = []
    for source, runs in ((f"real XA, curated to {SIZE}² ({len(real)} run)", real), (f"phantom (simulated), curated to {SIZE}² ({len(alike)} CCA lateral runs)", alike)):
        values = pd.DataFrame([measure(run) for run in runs])
        for name in values:
            statistic, _, unit = name.rstrip("]").partition(" [")
            rows.append({"statistic": statistic, "unit": unit, "median": values[name].median(), "least": values[name].min(),
                         "largest": values[name].max(), "source": source})  # fmt: skip
    return pd.DataFrame(rows).round(3)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dsa_lib.phantom.realism", description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True, help="folder of real XA DICOM")
    parser.add_argument("--picture", type=Path, required=True, help="PNG of both, outside the project")
    parser.add_argument("--table", type=Path, help="CSV of the statistics, numbers alone")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom patients")
    given = parser.parse_args(arguments)
    if given.picture.resolve().is_relative_to(PROJECT):
        parser.error(f"{given.picture} lies inside the project: real pixels stay outside it")
    try:
        real = real_runs(given.real)
    except StudyError as error:
        raise SystemExit(f"error: {error}") from None
    phantom = phantom_runs(given.seed)
    drawn = [*real, *(phantom[n] for n in DRAWN)]
    figure = draw_side_by_side(drawn, [shown(run) for run in drawn])
    figure.savefig(given.picture, dpi=128)
    statistics = table(real, phantom)
    if given.table:
        statistics.to_csv(given.table, index=False)
    wide = statistics.assign(on=statistics["source"].str.split().str[0]).pivot(
        index=["statistic", "unit"], columns="on", values=["median", "least", "largest"]
    )
    print(wide.loc[list(dict.fromkeys(zip(statistics["statistic"], statistics["unit"], strict=True)))].to_string())
    print(f"picture: {given.picture}")


def shown(run: Run, columns: int = 8) -> list[int]:
    """Frames of one run at like moments: three of the filling, the fullest, two of the blush, two venous (by measured curves)."""
    c = curves(run.frames)
    phase = phases(c.artery, c.blush, c.vein)
    onset = int(np.argmax(phase == "arterial"))
    best, blush = c.fullest(), int(np.argmax(c.blush))
    last = len(run.frames) - 1
    places = [onset, onset + 0.35 * (best - onset), onset + 0.7 * (best - onset), best, 0.5 * (best + blush), blush,
              blush + 0.4 * (last - blush), last]  # fmt: skip
    return [int(round(p)) for p in places][:columns]


if __name__ == "__main__":
    main()
