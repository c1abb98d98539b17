"""Curation of an archive against a plain loop over its files: frames per second, cost per series, memory.

python benchmarks/curation.py      # about three minutes on two idle cores and 6 GB of temporary disk; prints the figures and writes benchmarks/curation.json

The archives are simulated: a smooth field with noise, written as XA files. Each measurement is a process of its own; plain loop and curation take turns,
and medians are compared. Counted is what repeats with every file; what a session pays once (imports, and starting the server that reader processes are
forked from) is printed apart.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pydicom
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless, generate_uid

PROJECT = Path(__file__).resolve().parent.parent
SYNTAXES = {  # name: (transfer syntax, files of 14 frames at 512²)
    "JPEG 2000": (JPEG2000Lossless, 24),
    "JPEG lossless": (JPEGLosslessSV1, 64),
    "RLE": (RLELossless, 96),
    "uncompressed": (None, 96),
}
REPEATS, WORKERS, SERIES, LARGE = 3, 2, (100, 2000), 8
SHORT_REPEATS = 5  # of the small archive, whose time varies more


def write_archive(folder: Path, files: int, side: int, frames: int, compress, noise: float = 12.0) -> Path:
    """`files` runs of `frames` frames, 12 bits in 16: four different images, each file with UIDs of its own."""
    sys.path.insert(0, str(PROJECT / "tests" / "support"))
    from xa_maker import make_xa

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    smooth = 500 + 2500 * np.outer(np.hanning(side), np.linspace(0.3, 1, side))
    for number in range(4):
        run = np.clip(smooth + rng.normal(0, noise, (frames, side, side)), 0, 4095).astype(np.uint16)
        dataset = make_xa(folder / "image", run, compress=compress)
        for copy in range(number, files, 4):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.PatientID = f"patient {copy // 10}"
            dataset.save_as(folder / f"{copy:05d}.dcm", enforce_file_format=True)
    (folder / "image").unlink()
    return folder


# --- one measurement, in a process of its own -------------------------------------------------------------------------------------------------


def measure(what: str, archive: Path) -> dict:
    files = sorted(archive.iterdir())
    if what == "plain":
        pydicom.dcmread(files[0]).pixel_array  # noqa: B018  loads the decoder
        started, computed = time.perf_counter(), computing()
        frames = sum(len(pydicom.dcmread(file).pixel_array) for file in files)
        return {"frames": frames, "seconds": time.perf_counter() - started, "cpu_s": computing() - computed}
    from dsa_lib.curation import cohort
    from dsa_lib.run.profiles import Curation
    from dsa_lib.run.workspace import Workspace

    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        os.environ["DSA_RUNS"] = temporary
        first = Path(temporary, "first")
        first.mkdir()
        shutil.copy(files[0], first)
        started = time.perf_counter()
        cohort.curate(first, Workspace("first"), Curation(), seed=1, workers=1, simulated=True)
        once = time.perf_counter() - started
        started, computed = time.perf_counter(), computing()
        found = cohort.curate(archive, Workspace("run"), Curation(), seed=1, workers=WORKERS, simulated=True)
        seconds, computed = time.perf_counter() - started, computing() - computed
        assert found.flow["series kept"] == len(files)
        return {"frames": found.flow["frames"], "seconds": seconds, "cpu_s": computed, "once_s": once}


def computing() -> float:
    """Seconds of computing of this process and all it started, those that ended included."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (me, *me.children(recursive=True)))


def watched(what: str, archive: Path) -> dict:
    """`measure` in a new process, with the peak memory of its whole tree.

    Memory is the proportional set size where the system tells it (shared pages counted once), else the resident size.
    """
    command = [sys.executable, __file__, "--measure", what, str(archive)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak, done = 0, threading.Event()

    def watch():
        nonlocal peak
        root = psutil.Process(process.pid)
        while not done.wait(0.1):
            held = 0
            try:
                tree = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for member in tree:
                try:
                    memory = member.memory_full_info()
                    held += getattr(memory, "pss", memory.rss)
                except psutil.Error:
                    continue
            peak = max(peak, held)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit("a measurement failed: see the message above")
    lines = output.splitlines()
    return json.loads(lines[-1]) | {"peak_mb": peak / 1e6}


# --- all measurements -------------------------------------------------------------------------------------------------------------------------


def speed(folder: Path) -> dict:
    result = {}
    for name, (syntax, files) in SYNTAXES.items():
        archive = write_archive(folder / name, files, 512, 14, syntax)
        plain, ours = [], []
        for _ in range(REPEATS):
            plain.append(watched("plain", archive))
            ours.append(watched("curate", archive))
        shutil.rmtree(archive)
        rates = [statistics.median(run["frames"] / run["seconds"] for run in runs) for runs in (plain, ours)]
        costs = [statistics.median(run["cpu_s"] / run["frames"] for run in runs) for runs in (plain, ours)]
        result[name] = {
            "plain_frames_per_s": round(rates[0], 1),
            "curation_frames_per_s": round(rates[1], 1),
            "ratio": round(rates[1] / rates[0], 2),
            "plain_cpu_ms_per_frame": round(1000 * costs[0], 2),
            "curation_cpu_ms_per_frame": round(1000 * costs[1], 2),
            # What the ratio would be with a core for each worker: the clock says less when other work shares the cores.
            "ratio_by_computing_time": round(WORKERS * costs[0] / costs[1], 2),
            "once_s": round(statistics.median(run["once_s"] for run in ours), 2),
        }
        print(
            f"{name:14s} plain {rates[0]:7.1f} frames/s, curation {rates[1]:7.1f} frames/s: ratio {result[name]['ratio']:.2f}, "
            f"by computing time {result[name]['ratio_by_computing_time']:.2f}",
            flush=True,
        )
    return result


def scale(folder: Path) -> dict:
    small, large = (write_archive(folder / str(count), count, 256, 14, JPEGLosslessSV1, noise=4.0) for count in SERIES)
    runs = {small: [], large: []}
    before = SHORT_REPEATS // 2
    for archive in (
        [small] * before + [large] + [small] * (SHORT_REPEATS - before)
    ):  # the machine may drift: before and after
        runs[archive].append(watched("curate", archive))
    result = {}
    for archive, count in zip((small, large), SERIES, strict=True):
        result[str(count)] = {
            "ms_per_series": round(1000 * statistics.median(run["seconds"] for run in runs[archive]) / count, 2),
            "cpu_ms_per_series": round(1000 * statistics.median(run["cpu_s"] for run in runs[archive]) / count, 2),
            "peak_mb": round(max(run["peak_mb"] for run in runs[archive])),
        }
        print(
            f"{count} series: {result[str(count)]['ms_per_series']} ms a series, peak {result[str(count)]['peak_mb']} MB"
        )
    a, b = (result[str(count)] for count in SERIES)
    result["cost_ratio"] = round(b["ms_per_series"] / a["ms_per_series"], 3)
    result["cost_ratio_by_computing_time"] = round(b["cpu_ms_per_series"] / a["cpu_ms_per_series"], 3)
    print(
        f"cost per series at {SERIES[1]} to that at {SERIES[0]}: {result['cost_ratio']:.3f}, "
        f"by computing time {result['cost_ratio_by_computing_time']:.3f}"
    )
    hospital = write_archive(folder / "hospital", LARGE, 1024, 30, JPEGLosslessSV1)
    result["1024² × 30 frames"] = {"series": LARGE, "peak_mb": round(watched("curate", hospital)["peak_mb"])}
    print(f"{LARGE} series of 1024² × 30 frames: peak {result['1024² × 30 frames']['peak_mb']} MB")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args().measure
    if asked:
        print(json.dumps(measure(asked[0], Path(asked[1]))))
        return
    load = os.getloadavg()[0]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        result = {"speed, 512² × 14 frames": speed(Path(temporary)), "256² × 14 frames": scale(Path(temporary))}
    packages = ("numpy", "pydicom", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pillow")
    result |= {
        "what": f"curation with {WORKERS} workers against a one-process loop of dcmread(file).pixel_array, same files, simulated",
        "memory": "peak of the whole process tree, proportional set size",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
