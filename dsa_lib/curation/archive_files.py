"""Reading the files of an archive in parallel, each once and under bounds, with results that outlive a kill; used by `dsa_lib.curation.cohort` alone."""

import contextlib
import dataclasses
import functools
import hashlib
import hmac
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dsa_lib.curation import bounded_pool, circulation, filter_flow, keep_list
from dsa_lib.dicom import burned_in, mask_subtraction
from dsa_lib.dicom import planes as dicom_planes
from dsa_lib.dicom import series as dicom_series
from dsa_lib.dicom import tags as dicom_tags
from dsa_lib.dicom import values as dicom_values
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import Workspace, atomic_write, sha256, write_json

BYTES_PER_WORKER = 8 << 20  # below that a further process would take longer to start than it saves
# Computing time allowed beyond curation.file_seconds. A slow decoder (JPEG 2000) takes 0.1 to 0.3 s a compressed MB.
SECONDS_PER_MB = 4.0
_DECODERS = ("pydicom.pixels.decoders.pylibjpeg", "pylibjpeg", "openjpeg", "libjpeg", "rle")
# What decides a file's result besides this module: a change of any reads every file anew.
_CODE = (dicom_planes, dicom_tags, dicom_values, burned_in, circulation, dicom_series, filter_flow, mask_subtraction)
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """What all tasks share: where they read and write, and what decides the result."""

    archive: Path
    records: Path  # what became of each file, with identifiers: in private/
    arrays: Path  # the frames of those that were kept
    settings: Curation
    vocabulary: Path
    by_hand: Path | None  # an expert's answers


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One file of the archive and where its result goes."""

    place: _Place
    inside: str  # its path inside the archive, as the system gives it
    short: str  # its pseudonym
    bytes: int
    fingerprint: str  # of the file's size and time, the settings and the code: another one is read anew
    fault: tuple[str, str] | None = None  # (reason, remedy) where there is no file to open
    state: str = ""  # size and time of change
    cleared: bool = False  # of burned-in text, by a person

    @property
    def path(self) -> Path:
        return self.place.archive / self.inside

    @property
    def name(self) -> str:
        """Its path inside the archive; bytes that are no text are written as \\x.. ."""
        return _shown(self.inside)

    @property
    def record(self) -> Path:
        return self.place.records / f"{self.short}.json"

    @property
    def array(self) -> Path:
        return self.place.arrays / f"{self.short}.npy"

    def bounds(self) -> bounded_pool.Bounds:
        settings = self.place.settings
        seconds = settings.file_seconds + SECONDS_PER_MB * self.bytes / 1e6
        return bounded_pool.Bounds(seconds, settings.file_memory_mb << 20)

    def bounded_fingerprint(self) -> str:
        """Of a file that was stopped: other bounds read it anew."""
        return f"{self.fingerprint} {self.place.settings.file_seconds:g} s {self.place.settings.file_memory_mb} MB"


def _shown(inside: str) -> str:
    return os.fsencode(inside).decode(errors="backslashreplace")


def path_of(archive: Path, name: str) -> Path:
    """The file of `archive` that tables call `name` (`Task.name`), which differs from its path where that is no text."""
    if (archive / name).exists():
        return archive / name
    return next((archive / inside for inside, _ in listing(archive) if _shown(inside) == name), archive / name)


def _finished(task: Task) -> dict | None:
    """The record of a file that an earlier call finished under the same settings and the same answer by hand, else None."""
    try:
        record = json.loads(task.record.read_text())
        if record["fingerprint"] not in (task.fingerprint, task.bounded_fingerprint()):
            return None
        if "quarantined" not in record and record["by_hand"] != filter_flow.as_written(
            _answer(task, record["sop_uid"])
        ):
            return None
        # Shorter after a loss of power: what was written last may not have reached the disk.
        pixels = len(record.get("frame_numbers", ())) * task.place.settings.image_size**2
        return record if not record.get("kept") or task.array.stat().st_size > pixels else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


@functools.lru_cache(maxsize=2)
def _terms(vocabulary: Path, changed_ns: int) -> tuple[circulation.Term, ...]:
    """The vocabulary, parsed once a process and version of the file."""
    return circulation.read_vocabulary(vocabulary)


@functools.lru_cache(maxsize=2)
def _answers(by_hand: Path, changed_ns: int) -> dict[str, circulation.Match]:
    return circulation.read_by_hand(by_hand)


def _answer(task: Task, sop_uid: str) -> circulation.Match | None:
    """What an expert said of this run; None where nobody did."""
    by_hand = task.place.by_hand
    return None if by_hand is None else _answers(by_hand, by_hand.stat().st_mtime_ns).get(sop_uid)


def _read_file(task: Task) -> dict:
    """Read one file and keep what became of it. The array is in place before the record that says so."""
    record, settings, vocabulary = {"fingerprint": task.fingerprint}, task.place.settings, task.place.vocabulary
    run = None
    try:
        acquisition = dicom_series.read_acquisition(task.path)
        terms = _terms(vocabulary, vocabulary.stat().st_mtime_ns)
        record |= filter_flow.judge(acquisition, terms, settings.differencing, _answer(task, acquisition.sop_uid))
        if record["kept"]:
            run = dicom_series.subtracted_run(
                task.path, acquisition, settings.image_size, settings.background_grey, settings.contrast_per_grey
            )
            if not task.cleared:
                burned_in.hold_back(dicom_series.read_header(task.path), run.text)
            record |= run.window | {"frame_numbers": run.numbers.tolist()}
    except dicom_tags.Unreadable as fault:
        record = {"fingerprint": task.fingerprint, "quarantined": fault.reason, "remedy": fault.remedy}
    except OSError:
        reason, remedy = _UNOPENED
        record = {"fingerprint": task.fingerprint, "quarantined": reason, "remedy": remedy}
    except (MemoryError, StudyError):
        raise
    except Exception as fault:  # one file that nobody foresaw must not end the run; its place is named, never a value
        where = fault.__traceback__
        while where.tb_next is not None:
            where = where.tb_next
        where = f"{type(fault).__name__} in {Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
        reason, remedy = (
            f"an unforeseen fault of the reader ({where})",
            "please report it: the reader should have named it",
        )
        record = {"fingerprint": task.fingerprint, "quarantined": reason, "remedy": remedy}
    record["state"] = task.state
    with _writing():
        if record.get("kept"):
            with atomic_write(task.array) as temporary:
                np.save(temporary, run.frames)
        else:
            task.array.unlink(missing_ok=True)  # pixels of an earlier reading that has since been refused
        write_json(task.record, record)
    return record


_UNOPENED = ("the file cannot be opened", "check that it is readable and copy it again")
_STOPPED = {
    "time": (
        "reading it did not end in time",
        "it is damaged, or larger than foreseen: copy it again, else raise curation.file_seconds",
    ),
    "memory": (
        "reading it takes more memory than one file may",
        "it is damaged, or larger than foreseen: copy it again, else raise curation.file_memory_mb",
    ),
    "died": ("a decoder crashed on it", "it is damaged: copy it again, or export the run uncompressed"),
}


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"the run's folder cannot be written ({error.strerror}): make room or check its permissions, then run again; finished files are kept"
        ) from None


def read_all(tasks: list[Task], workers: int) -> Iterator[dict]:
    """Yield what became of each of `tasks`, in their order; only what no earlier call has finished is read, in `workers` processes.

    A file that takes too much time or memory, or crashes a decoder, is quarantined as any other that cannot be read.
    """
    unread = [task.fault is None and _finished(task) is None for task in tasks]
    with contextlib.closing(
        bounded_pool.run(
            _read_file, [task for task, new in zip(tasks, unread, strict=True) if new], workers, Task.bounds, _DECODERS
        )
    ) as results:
        for task, new in zip(tasks, unread, strict=True):
            if task.fault is not None:
                yield {"quarantined": task.fault[0], "remedy": task.fault[1]}
            elif new:
                result = next(results)
                yield _stopped(task, result) if isinstance(result, bounded_pool.Stopped) else result
            else:
                yield _finished(task)


def _stopped(task: Task, result: bounded_pool.Stopped) -> dict:
    reason, remedy = _STOPPED[result.why]
    record = {"fingerprint": task.bounded_fingerprint(), "quarantined": reason, "remedy": remedy}
    if result.why != "died":  # that may have come from outside: the next call tries again
        with _writing():
            write_json(task.record, record)
    return record


def plan(
    archive: Path,
    ws: Workspace,
    key: bytes,
    settings: Curation,
    vocabulary: Path,
    by_hand: Path | None = None,
    most_files: int = 0,
) -> tuple[list[Task], int]:
    """(one task a file under `archive`, in the order of the paths; bytes in all). What the file system lists first makes no difference.

    `most_files` > 0 leaves tasks for the first so many files. What was read of others by an earlier call is kept.
    """
    code = [Path(__file__), *(Path(module.__file__) for module in _CODE)]
    made_from = (
        f"{settings.image_size} {settings.background_grey} {settings.contrast_per_grey} {settings.differencing} {sha256(vocabulary)} "
        + "".join(sorted(sha256(path) for path in code))
    )
    reviewed = keep_list.reviewed(ws)
    place = _Place(archive, ws.private("curation/x").parent, ws.checkpoints("curation"), settings, vocabulary, by_hand)
    store = [folder for folder in ws.root.glob(".writing-*") if (folder / "frames.npy").exists()]
    for left in (*store, *place.records.glob(".writing-*"), *place.arrays.glob(".writing-*")):
        shutil.rmtree(left, ignore_errors=True)  # by a run that was killed
    tasks, size = [], 0
    listed = sorted(listing(archive))
    for inside, fault in listed[: most_files or None]:
        bytes_, changed_ns = 0, 0
        if not fault:
            try:
                found = (archive / inside).stat()
                bytes_, changed_ns = found.st_size, found.st_mtime_ns
                if not stat.S_ISREG(found.st_mode):
                    fault = ("a device, pipe or socket, not a file", "nothing to do: it holds no image")
            except OSError:
                fault = (
                    _UNOPENED
                    if not (archive / inside).is_symlink()
                    else ("a link that leads nowhere", "remove the link, or put back the file it led to")
                )
        task = Task(place, inside, "", bytes_, "", fault or None)
        short = pseudonym(key, "F", task.name)
        state = f"{bytes_} {changed_ns}"
        cleared = short in reviewed and _state(place.records / f"{short}.json") == state
        facts = f" {state} {made_from}{' cleared' if cleared else ''}"
        fingerprint = hashlib.sha256(os.fsencode(inside) + facts.encode()).hexdigest()
        tasks.append(dataclasses.replace(task, short=short, fingerprint=fingerprint, state=state, cleared=cleared))
        size += bytes_
    present = {pseudonym(key, "F", _shown(inside)) for inside, _ in listed}
    for left in (*place.records.glob("*.json"), *place.arrays.glob("*.npy")):
        if left.stem not in present:
            left.unlink()  # of a file that is no longer in the archive
    return tasks, size


def _state(record: Path) -> str:
    """Size and time of the file that `record` is about: what a person has cleared is that file, and no other one put in its place."""
    try:
        return json.loads(record.read_text())["state"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def listing(archive: Path) -> Iterator[tuple[str, tuple[str, str] | tuple[()]]]:
    """(path inside `archive`, () or (reason, remedy)) of everything in it but folders that open.

    Links to folders are followed, after all folders proper; each folder is listed once, whatever leads to it, so that a loop of links ends.
    """
    folders, linked, seen = [""], [], set()
    while folders or linked:
        inside = folders.pop() if folders else linked.pop()
        try:
            state = (archive / inside).stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(archive / inside) as entries:
                listed = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield inside or ".", ("the folder cannot be opened", "check that it is readable and run again")
            continue
        for entry in listed:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                linked.append(path)
            else:
                yield path, ()


def join_frames(path: Path, arrays: Iterable[Path], shape: tuple[int, int, int]) -> None:
    """Write the uint8 frames of `arrays`, one after the other, as one .npy of `shape` [n, H, W].

    Through the file rather than a memory map, whose pages would count as this process's memory and grow with the archive.
    """
    with _writing(), atomic_write(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.load(array).data)
