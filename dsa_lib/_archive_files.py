"""Reading the files of an archive in parallel, each once, with results that outlive a kill; used by `dsa_lib.cohort` alone."""

import dataclasses
import functools
import hashlib
import hmac
import json
import multiprocessing
import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from dsa_lib import _xa_tags, _xa_values, burned_in, circulation, deidentification, dicom, filter_flow, subtraction
from dsa_lib.errors import StudyError
from dsa_lib.profiles import Curation
from dsa_lib.workspace import Workspace, atomic_write, sha256, write_json

BYTES_PER_WORKER = 64 << 20  # a further process takes about a second to start: not worth it for less
_DIGITS = {"P": 8, "E": 8, "S": 10, "F": 10}  # patient, examination (study), series, file


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Short keyed pseudonym: HMAC-SHA256 of `value`, its first hex digits after the letter `kind` (P, E, S or F). Without the key it leads nowhere."""
    return kind + hmac.new(key, f"{kind}:{value}".encode(), hashlib.sha256).hexdigest()[: _DIGITS[kind]]


def run_key(ws: Workspace, seed: int | None) -> bytes:
    """The run's key, from private/key.hex; made where there is none: at random (secret), or from `seed` for an archive of nobody."""
    path = ws.private("key.hex")
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.touch(mode=0o600)
            fixed = hashlib.sha256(f"phantom {seed}".encode()).hexdigest()
            temporary.write_text((secrets.token_hex(32) if seed is None else fixed) + "\n")
    try:
        return bytes.fromhex(path.read_text().strip())
    except ValueError:
        raise StudyError(
            "private/key.hex is not a hexadecimal key: restore it, or remove it to draw new pseudonyms"
        ) from None


@dataclasses.dataclass(frozen=True)
class Task:
    """One file of the archive and where its result goes."""

    path: Path
    name: str  # its path inside the archive
    record: Path  # what became of it, with identifiers: in private/
    array: Path  # its frames, where it was kept
    fingerprint: str  # of the file's size and time, the settings and the code: another one is read anew
    settings: Curation
    vocabulary: Path
    by_hand: Path | None = None  # an expert's answers
    cleared: bool = False  # of burned-in text, by a person


def _finished(task: Task) -> dict | None:
    """The record of a file that an earlier call finished under the same settings and the same answer by hand, else None."""
    try:
        record = json.loads(task.record.read_text())
    except (OSError, ValueError):
        return None
    usable = record.get("fingerprint") == task.fingerprint and (not record.get("kept") or task.array.exists())
    if usable and "quarantined" not in record:
        usable = record["by_hand"] == filter_flow.as_written(_answer(task, record["sop_uid"]))
    return record if usable else None


@functools.lru_cache(maxsize=2)
def _terms(vocabulary: Path, changed_ns: int) -> tuple[circulation.Term, ...]:
    """The vocabulary, parsed once a process and version of the file."""
    return circulation.read_vocabulary(vocabulary)


@functools.lru_cache(maxsize=2)
def _answers(by_hand: Path, changed_ns: int) -> dict[str, circulation.Match]:
    return circulation.read_by_hand(by_hand)


def _answer(task: Task, sop_uid: str) -> circulation.Match | None:
    """What an expert said of this run; None where nobody did."""
    return None if task.by_hand is None else _answers(task.by_hand, task.by_hand.stat().st_mtime_ns).get(sop_uid)


def _read_file(task: Task) -> dict:
    """Read one file and keep what became of it. The array is in place before the record that says so."""
    if (record := _finished(task)) is not None:
        return record
    record = {"fingerprint": task.fingerprint}
    try:
        acquisition = dicom.read_acquisition(task.path)
        terms = _terms(task.vocabulary, task.vocabulary.stat().st_mtime_ns)
        record |= filter_flow.judge(acquisition, terms, task.settings.differencing, _answer(task, acquisition.sop_uid))
        if record["kept"]:
            settings = task.settings
            run = dicom.subtracted_run(
                task.path, acquisition, settings.image_size, settings.background_grey, settings.contrast_per_grey
            )
            if not task.cleared:
                burned_in.hold_back(dicom.read_header(task.path), run.text)
            record |= run.window | {"frame_numbers": run.numbers.tolist()}
            with atomic_write(task.array) as temporary:
                np.save(temporary, run.frames)
    except _xa_tags.Unreadable as fault:
        record = {"fingerprint": task.fingerprint, "quarantined": fault.reason, "remedy": fault.remedy}
    except OSError:
        record = {
            "fingerprint": task.fingerprint,
            "quarantined": "the file cannot be opened",
            "remedy": "check that it is readable and copy it again",
        }
    if not record.get("kept"):
        task.array.unlink(missing_ok=True)  # pixels of an earlier reading that has since been refused
    write_json(task.record, record)
    return record


def _follow_parent() -> None:
    """End this worker when the process that started it is gone (a killed notebook must not leave readers behind)."""
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: (wait([parent]), os._exit(1)), daemon=True).start()


def read_all(tasks: list[Task], workers: int) -> Iterator[dict]:
    if workers == 1:
        yield from map(_read_file, tasks)
        return
    # A fork server starts clean, single-threaded children; forking the notebook's own, many-threaded process is not safe.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dsa_lib._archive_files"])
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
            yield from pool.map(_read_file, tasks, chunksize=4)
    except BrokenProcessPool:
        raise StudyError(
            "a worker was ended from outside, most likely for lack of memory: run again with fewer workers, finished series are kept"
        ) from None


def plan(
    archive: Path, ws: Workspace, key: bytes, settings: Curation, vocabulary: Path, by_hand: Path | None = None
) -> tuple[list[Task], int]:
    """(one task a file under `archive`, in the order of the paths; bytes in all). What the file system lists first makes no difference."""
    modules = (dicom, _xa_tags, _xa_values, subtraction, burned_in, circulation, filter_flow)
    reviewed = deidentification.reviewed(ws)
    code = "".join(sha256(Path(module.__file__)) for module in modules)
    made_from = f"{settings.image_size} {settings.background_grey} {settings.contrast_per_grey} {settings.differencing} {sha256(vocabulary)} {code}"
    paths = sorted(Path(folder, name) for folder, _, names in os.walk(archive) for name in names)
    tasks, size = [], 0
    for path in paths:
        if not path.is_file():
            continue
        name, stat = path.relative_to(archive).as_posix(), path.stat()
        short = pseudonym(key, "F", name)
        cleared = short in reviewed
        facts = f"{name} {stat.st_size} {stat.st_mtime_ns} {made_from}{' cleared' if cleared else ''}"
        fingerprint = hashlib.sha256(facts.encode()).hexdigest()
        record, array = ws.private(f"curation/{short}.json"), ws.checkpoints("curation") / f"{short}.npy"
        tasks.append(Task(path, name, record, array, fingerprint, settings, vocabulary, by_hand, cleared))
        size += stat.st_size
    return tasks, size
