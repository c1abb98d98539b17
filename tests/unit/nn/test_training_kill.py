"""`kill -9` at any moment and the same call again: the weights are those of an uninterrupted training, bit for bit."""

import multiprocessing
import os
import signal
import time

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from dsa_lib.nn import checkpoint
from dsa_lib.nn.training import fit

FORK = multiprocessing.get_context("fork")
DATA = torch.randn(50, 16, generator=torch.Generator().manual_seed(4))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 256), nn.Dropout(0.2), nn.SiLU(), nn.Linear(256, 256), nn.Linear(256, 16))


def loss(model, indices, draws):
    x = DATA[indices] + 0.1 * draws.normal(16)
    return {"loss": (model(x) - x.flip(1)).square().mean(), "size": x.abs().mean()}


def slow(model, indices, draws):
    time.sleep(0.015)
    return loss(model, indices, draws)


def validate(model):
    return {"loss": (model(DATA) - DATA.flip(1)).square().mean()}


def train(folder, loss=loss, **changes):
    """All that a state has to carry: averages, warm-up, cosine, accumulation, clipping, best weights, losses since the last record."""
    model = network()
    options = dict(size=50, steps=36, batch_size=5, accumulate=2, learning_rate=0.01, seed=7, folder=folder, digest="d")
    options |= dict(ema_decay=0.9, warmup_steps=10, cosine=True, clip_norm=1.0, evaluate_every=7, validate=validate)
    log = fit(model, loss, **options | {"checkpoint_every_s": 0.0, "log_every_s": 1e9} | changes)
    return model, log


def one_thread(function, *arguments, **keywords):
    torch.set_num_threads(1)
    function(*arguments, **keywords)


def equal(a, b):
    (first, log), (second, other) = a, b
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return log.equals(other) and all(torch.equal(x, y) for x, y in states)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield train(tmp_path_factory.mktemp("whole"))
    torch.set_num_threads(threads)


def test_killed_at_random_moments(tmp_path, whole):
    delays = np.random.default_rng()
    kills = 0
    while kills < 20:
        process = FORK.Process(target=one_thread, args=(train, tmp_path, slow))
        process.start()
        process.join(delays.uniform(0.05, 0.5))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 2, f"killed {kills} times"
    assert equal(whole, train(tmp_path))


@pytest.mark.parametrize("moment", ["half of the file written", "written, not yet in place", "in place"])
@pytest.mark.parametrize("step", [1, 21, 33])
def test_killed_while_the_checkpoint_is_written(tmp_path, whole, monkeypatch, moment, step):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_save(content, path):
        torch.serialization.save(content, path)
        if f'"step": {step},' in content["progress"]:
            if moment == "half of the file written":
                os.truncate(path, path.stat().st_size // 2)
                die()
            replace = os.replace

            def dying_replace(source, target):
                if moment == "in place":
                    replace(source, target)
                die()

            os.replace = dying_replace

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", dying_save)
        process = FORK.Process(target=one_thread, args=(train, tmp_path))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob(".writing-*"))
    assert equal(whole, train(tmp_path))
    assert not list(tmp_path.glob(".writing-*"))  # what the kill left lying is removed
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(whole[1])


def test_two_processes_killed_together_leave_none_behind_and_continue_bit_identical(tmp_path, whole):
    two = train(tmp_path / "whole", processes=2)
    process = FORK.Process(target=one_thread, args=(train, tmp_path / "killed", slow), kwargs={"processes": 2})
    process.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    children = [child.pid for child in psutil.Process(process.pid).children()]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(children) == 2
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(child) for child in children)
    assert equal(two, train(tmp_path / "killed", processes=2))


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
