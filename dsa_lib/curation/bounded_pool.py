"""A small pool of processes that survives what it works on: each task under a bound of time and memory; used by `dsa_lib.curation.archive_files` alone.

A damaged file can make a decoder loop for ever, ask for more memory than there is, or crash in C. `concurrent.futures` bounds none of that, and one dead
worker ends its whole pool. Here a worker has one task at a time, so that the task which ended it is known and costs that task alone.
"""

import contextlib
import math
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path

from dsa_lib.run.errors import StudyError

WAITING = 4  # times its computing time that a task may last, waiting for a slow disk or its share of a busy machine
START_S = 120.0  # until a worker has imported what it needs
TASKS_PER_WORKER = 500  # then a fresh one: what C decoders leak stays small
SERVER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # the workers are the parallelism: threads in each would only compete
    "OPENBLAS_NUM_THREADS": "1",
    # glibc hands large blocks back to the system and asks for them anew with every frame; keeping them saves up to a third of the time beside decoding.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


@dataclass(frozen=True)
class Bounds:
    """What one task may take: `seconds` of computing, and `memory_bytes` beyond what its worker holds already.

    Computing time, not the clock, so that a busy machine stops nothing more than a quiet one. Memory is bounded as address space, which Linux enforces; on
    other systems only the time is bounded.
    """

    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Stopped:
    """Why a task has no result: it took too much "time" or "memory", or its worker "died" of it, twice, the second time with nothing else running."""

    why: str


def run(
    work: Callable, tasks: Sequence, workers: int, bounds: Callable[[object], Bounds], preload: Sequence[str] = ()
) -> Iterator:
    """Yield `work(task)` or a Stopped for each of `tasks`, in their order. `work` is a function of a module; what it raises is raised here.

    Workers end when the iterator is closed and when this process dies. `preload` names modules to import once for all of them. Raises StudyError when
    a worker cannot start.
    """
    _start_server([work.__module__, *preload])
    crew: list[_Worker] = []
    waiting, suspects = deque(range(len(tasks))), deque()
    suspected, results = set(), {}

    def hand_out() -> None:
        while suspects or waiting:
            busy = [worker.place for worker in crew if worker.place is not None]
            # A task whose worker died may have been the victim of another's hunger: it is tried once more with nothing beside it.
            if len(busy) == workers or (busy and (suspects or busy[0] in suspected)):
                return
            idle = next((worker for worker in crew if worker.place is None), None)
            if idle is None:
                crew.append(idle := _Worker(work))
            place = (suspects or waiting).popleft()
            idle.give(place, tasks[place], bounds(tasks[place]))

    def collect() -> None:
        for worker in _with_news(crew):
            place, result = worker.take()
            if isinstance(result, Stopped) and result.why == "died" and place not in suspected:
                suspected.add(place)
                suspects.append(place)
            else:
                results[place] = result
            if worker.spent:
                worker.end()
                crew.remove(worker)

    try:
        for place in range(len(tasks)):
            while place not in results:
                hand_out()
                collect()
            yield results.pop(place)
    finally:
        for worker in crew:
            worker.end()


def _with_news(crew: list["_Worker"]) -> list["_Worker"]:
    """Wait until a busy worker has answered or died, or one is late; the late are ended."""
    busy = [worker for worker in crew if worker.place is not None]
    left = min(worker.deadline for worker in busy) - time.monotonic()
    ready = wait([worker.pipe for worker in busy], min(max(left, 0.0), 60.0))
    for worker in busy:
        if worker.pipe not in ready and worker.deadline <= time.monotonic():
            worker.late()
    return [worker for worker in busy if worker.pipe in ready]


class _Worker:
    """One process and what it has to do: `place` of its task in the list, or None; `spent` when it is not to be given another."""

    def __init__(self, work: Callable):
        context = multiprocessing.get_context("forkserver")
        self.pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, work), daemon=True)
        self.place, self.deadline, self.spent = None, math.inf, False
        self._tasks, self._late = 0, False
        try:
            with _no_main_module():
                self._process.start()
            there.close()
            if not self.pipe.poll(START_S):
                raise EOFError
            self.pipe.recv()  # its greeting
        except (EOFError, OSError):
            self.end()
            raise StudyError(
                "a process for reading files cannot be started: see the message above, and run again with fewer workers if memory is short"
            ) from None

    def give(self, place: int, task: object, bounds: Bounds) -> None:
        self.place, self._tasks = place, self._tasks + 1
        self.deadline = time.monotonic() + WAITING * bounds.seconds
        with contextlib.suppress(BrokenPipeError):  # died meanwhile: `take` finds out
            self.pipe.send((task, bounds))

    def late(self) -> None:
        self._late, self.deadline = True, math.inf
        self._process.kill()

    def take(self) -> tuple[int, object]:
        """(place, result or Stopped) of its task. Raises what the task raised."""
        place, self.place = self.place, None
        try:
            raised, result = self.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self.spent = True
            self._process.join()
            late = self._late or self._process.exitcode == -signal.SIGXCPU
            return place, Stopped("time" if late else "died")
        if raised is not None:
            raise raised
        self.spent = self._late or self._tasks >= TASKS_PER_WORKER
        return place, result

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


# --- in the worker ----------------------------------------------------------------------------------------------------------------------------


def _serve(pipe: Connection, work: Callable) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the keyboard is the parent's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's data
    _follow_parent()
    pipe.send("ready")
    # Decoders write to the standard streams in C, which a notebook may keep; their messages can quote header values.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    while True:
        try:
            task, bounds = pipe.recv()
        except EOFError:
            return
        _bound(bounds)
        raised = result = None
        try:
            result = work(task)
        except MemoryError:
            result = Stopped("memory")
        except Exception as fault:
            raised = fault.with_traceback(None)
        _soft_limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
        pipe.send((raised, result))


def _follow_parent() -> None:
    """End this worker when the process that started it is gone (a killed notebook must not leave readers behind)."""
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: (wait([parent]), os._exit(1)), daemon=True).start()


def _bound(bounds: Bounds) -> None:
    """Set the limits of the next task. Past its time the system ends the worker (SIGXCPU); past its memory allocation fails."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _soft_limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + bounds.seconds))
    with contextlib.suppress(FileNotFoundError):  # no /proc: not Linux
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _soft_limit(resource.RLIMIT_AS, held + bounds.memory_bytes)


def _soft_limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
        value = hard
    resource.setrlimit(kind, (value, hard))


def _start_server(preload: list[str]) -> None:
    """Start the process that workers are forked from: clean, single-threaded, what they need imported. Forking this, many-threaded one is not safe."""
    forkserver.set_forkserver_preload(preload)
    before = {name: os.environ.get(name) for name in SERVER_ENVIRONMENT}
    os.environ.update(SERVER_ENVIRONMENT)
    try:
        with _no_main_module():
            forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep multiprocessing from importing the caller's script into every worker: it would take time, and run a script that has no `__main__` guard again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
