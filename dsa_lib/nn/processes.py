"""A function in several processes that work on one training together, started from the process of the notebook (accelerate's notebook_launcher).

The processes are forked, so that models, memory maps and closures are simply there. What a fork does not carry over decides the rest: an opened GPU, and
the threads with which torch computes on the processor.
"""

import contextlib
import io
import logging
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TextIO

import torch
from accelerate import Accelerator, notebook_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from dsa_lib.run.errors import StudyError

# torch then asks the driver's library whether there is a GPU, instead of opening it, after which no process could be forked any more.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def run_in_processes(function: Callable, arguments: dict, processes: int, what: str) -> None:
    """Call `function(**arguments)` in `processes` processes joined to one group, and wait for all.

    On GPUs each process has one; without, each computes in one thread. Raises StudyError when a process raised one or was killed, RuntimeError with the
    process's own traceback for any other error. All processes have ended when this returns, and end when this process is killed.
    """
    if torch.cuda.is_initialized():
        raise StudyError(
            f"{what}: processes={processes} cannot be started because this notebook has used the GPU already: restart it, or set processes to 1"
        )
    # Processes that inherit the state of a training before this one would each believe to be alone.
    AcceleratorState._reset_state(reset_partial_state=True)
    errors: SimpleQueue = multiprocessing.get_context("fork").SimpleQueue()
    print(f"  {what}: {processes} processes", flush=True)
    member = (function, arguments, processes, errors, sys.stdout)
    with _quiet_launcher():
        try:
            notebook_launcher(_member, member, num_processes=processes, use_port=str(_free_port()))
        except SignalException:  # the notebook's stop button
            raise KeyboardInterrupt from None
        except ChildFailedError:
            raise _cause(errors, processes, what) from None


def _cause(errors: SimpleQueue, processes: int, what: str) -> Exception:
    """Why the group ended: what the first process to fail by itself said; the others fail because it is gone."""
    told = []
    while not errors.empty():
        told.append(errors.get())
    for kind, message, alone in told:
        if alone:
            return StudyError(message) if kind == "StudyError" else RuntimeError(message)
    others = f" (another says: {told[0][1].strip().splitlines()[-1]})" if told else ""
    return StudyError(
        f"{what}: one of {processes} processes was ended from outside, perhaps for want of memory{others}; "
        f"run the same call again to go on from the last checkpoint"
    )


def _member(function: Callable, arguments: dict, processes: int, errors: SimpleQueue, stdout: TextIO) -> None:
    """What one process does."""
    sys.stdout = stdout
    # torch's threads did not survive the fork: to compute with more than one would wait for them forever.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if sys.platform == "linux":  # the name of a host may lead to an interface that does not answer
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        on_gpu = torch.cuda.is_available()
        if on_gpu and torch.cuda.device_count() < processes:
            raise StudyError(
                f"processes={processes} needs as many GPUs and this machine has {torch.cuda.device_count()}: set processes to that"
            )
        # Without `cpu=True` accelerate runs as many independent trainings on a machine without GPU.
        # Patient, because the others wait for the main process while it evaluates, samples and saves.
        patient = InitProcessGroupKwargs(timeout=timedelta(hours=6))
        accelerator = Accelerator(cpu=not on_gpu, kwargs_handlers=[patient])
        if accelerator.num_processes != processes:
            raise StudyError(f"{processes} processes were started and found {accelerator.num_processes} in their group")
        function(**arguments)
        torch.distributed.destroy_process_group()
    except BaseException as error:
        kind = type(error).__name__
        alone = "distributed" not in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts
        errors.put((kind, str(error) if kind == "StudyError" else traceback.format_exc(), alone))
        raise


@contextlib.contextmanager
def _quiet_launcher() -> Iterator[None]:
    """No word of the launchers, which call a processor CUDA and log every failure with tracebacks of their own; signal handlers as they were."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    loggers = [logging.getLogger(name) for name in ("torch.distributed.elastic", "torch.multiprocessing")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
