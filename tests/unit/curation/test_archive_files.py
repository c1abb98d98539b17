"""The pool that reads an archive: bounds of time and memory, workers that die, a run killed at several moments, odd entries of a folder."""

import contextlib
import ctypes
import glob
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from xa_maker import make_xa

from dsa_lib.curation import archive_files, bounded_pool, cohort
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import Workspace

BOUNDS = bounded_pool.Bounds(seconds=1, memory_bytes=256 << 20)
OUTPUTS = ("series.parquet", "frames.parquet", "frames.npy", "quarantine.csv", "flow.json")


# --- the pool ---------------------------------------------------------------------------------------------------------------------------------


def work(task):
    """What a decoder may do on a bad file, in a worker."""
    kind, value = task
    if kind == "computes":
        while True:
            pass
    elif kind == "hangs in C":  # and holds the interpreter's lock
        re.match("(a+)+b", "a" * 60)
    elif kind == "waits":
        time.sleep(1000)
    elif kind == "hungry":
        bytearray(1 << 30)
    elif kind == "segfault":
        ctypes.string_at(0)
    elif kind == "exits":
        os._exit(3)
    elif kind == "dies once":
        if not value.exists():
            value.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "raises":
        raise StudyError(value)
    elif kind == "process":
        return os.getpid(), int(os.environ["OMP_NUM_THREADS"]), "torch" in sys.modules
    return value


def outcome(tasks, workers=2):
    return list(bounded_pool.run(work, tasks, workers, lambda task: BOUNDS))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("computes", "time"),
        ("hangs in C", "time"),
        ("waits", "time"),
        ("hungry", "memory"),
        ("segfault", "died"),
        ("exits", "died"),
    ],
)
def test_a_bad_task_costs_itself_alone(kind, why, workers):
    tasks = [("good", n) for n in range(12)]
    tasks[5] = (kind, None)
    expected = [n if n != 5 else bounded_pool.Stopped(why) for n in range(12)]
    started = time.monotonic()
    assert outcome(tasks, workers) == expected
    assert time.monotonic() - started < 20


def test_the_victim_of_another_is_tried_again(tmp_path):
    assert outcome([("good", 0), ("dies once", tmp_path / "marker"), ("good", 2)]) == [0, tmp_path / "marker", 2]


def test_an_error_of_the_run_is_raised_and_the_workers_end():
    results = bounded_pool.run(
        work, [("process", None), ("raises", "the disk is full"), ("good", 1)], 1, lambda task: BOUNDS
    )
    pid, threads, torch = next(results)
    assert (threads, torch) == (1, False)
    with pytest.raises(StudyError, match="the disk is full"):
        next(results)
    assert not psutil.pid_exists(pid)


def test_workers_are_renewed(monkeypatch):
    monkeypatch.setattr(bounded_pool, "TASKS_PER_WORKER", 3)
    pids = [pid for pid, *_ in outcome([("process", None)] * 9, workers=1)]
    assert len(set(pids)) == 3
    assert pids == sorted(pids, key=pids.index)


# --- an archive -------------------------------------------------------------------------------------------------------------------------------


def write_archive(folder: Path, files: int = 4, side: int = 16) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(files):
        frames = rng.integers(1500, 2500, (6, side, side), dtype=np.uint16)
        make_xa(folder / f"{number:03d}", frames, PatientID=str(number % 5))
    return folder


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path / "runs"))
    return Workspace("test")


def test_a_bomb_is_quarantined_and_the_rest_goes_on_and_other_bounds_read_it_anew(tmp_path, workspace):
    archive = write_archive(tmp_path / "archive")
    make_xa(archive / "large", np.full((2, 2048, 2048), 2000, np.uint16))
    tight = Curation(image_size=16, file_memory_mb=16)
    found = cohort.curate(archive, workspace, tight, seed=1)
    assert found.flow["quarantined"] == {"reading it takes more memory than one file may": 1}
    assert found.quarantine["remedy"].str.contains("curation.file_memory_mb").all()
    assert found.flow["series kept"] == 4
    found = cohort.curate(archive, workspace, Curation(image_size=16), seed=1)
    assert found.flow["series kept"] == 5


def test_every_entry_of_a_folder_is_accounted_for_once(tmp_path, workspace):
    archive = write_archive(tmp_path / "archive")
    outside = write_archive(tmp_path / "outside", files=2)
    (archive / "linked").symlink_to(outside)
    (archive / "linked again").symlink_to(outside)
    (outside / "back").symlink_to(archive)
    (archive / os.fsdecode(b"n\xe4me")).write_bytes(b"a name that is not UTF-8")
    os.mkfifo(archive / "fifo")
    found = cohort.curate(archive, workspace, Curation(image_size=16), seed=1)
    assert found.flow["quarantined"] == {"a device, pipe or socket, not a file": 1, "not a DICOM file": 1}
    assert found.flow["series kept"] == 6
    assert cohort.balance(found)["holds"].all()


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, workspace, monkeypatch):
    archive = write_archive(tmp_path / "archive")
    (archive / "closed").mkdir()
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = cohort.curate(archive, workspace, Curation(image_size=16), seed=1)
    assert found.flow["quarantined"] == {"the folder cannot be opened": 1}


def test_what_cannot_be_written_ends_the_run_and_quarantines_nothing(tmp_path, workspace):
    archive = write_archive(tmp_path / "archive")
    tasks, _ = archive_files.plan(archive, workspace, b"key", Curation(image_size=16), cohort.circulation.VOCABULARY)
    tasks[0].record.mkdir()  # in the way of the record
    with pytest.raises(StudyError, match="the run's folder cannot be written"):
        list(archive_files.read_all(tasks, 1))


def test_an_array_cut_short_by_a_loss_of_power_is_made_again(tmp_path, workspace):
    archive = write_archive(tmp_path / "archive")
    cohort.curate(archive, workspace, Curation(image_size=16), seed=1)
    whole = {name: workspace.path(name).read_bytes() for name in OUTPUTS}
    array = next(workspace.checkpoints("curation").glob("*.npy"))
    array.write_bytes(array.read_bytes()[:200])
    cohort.curate(archive, workspace, Curation(image_size=16), seed=1)
    assert {name: workspace.path(name).read_bytes() for name in OUTPUTS} == whole


# --- a run that is killed ---------------------------------------------------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from dsa_lib.curation import cohort
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import Workspace
cohort.curate(Path(sys.argv[1]), Workspace(sys.argv[2]), Curation(image_size=256), seed=1, workers=2, simulated=True)
"""


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(tmp_path, workspace, monkeypatch):
    """About 15 s: each start of the command imports what it needs."""
    archive = write_archive(tmp_path / "archive", files=30, side=256)
    (archive / "notes").write_text("no DICOM")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def start(run: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", RUN, str(archive), run], env=environment)

    assert start("whole").wait(120) == 0
    records = workspace.private("curation/x").parent
    moments = [
        lambda: len(list(records.glob("*.json"))) >= 1,
        lambda: glob.glob(f"{records}/.writing-*/*") and len(list(records.glob("*.json"))) >= 8,
        lambda: glob.glob(f"{workspace.root}/.writing-*/frames.npy"),
        lambda: workspace.path("frames.npy").exists(),
    ]
    for number, reached in enumerate(moments):
        process = start("test")
        while not reached() and process.poll() is None:
            time.sleep(0.0005)
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        assert psutil.wait_procs(family, timeout=10)[1] == [], f"a reader outlived the kill at moment {number}"
    assert start("test").wait(120) == 0
    for name in OUTPUTS:
        assert workspace.path(name).read_bytes() == Workspace("whole").path(name).read_bytes(), name
    assert not [*records.glob(".writing-*"), *workspace.checkpoints("curation").glob(".writing-*")]
