"""One training loop for classifier, judge, autoencoder and diffusion: mixed precision, EMA, early stopping, log, resume, several processes.

Everything random is a function of (seed, step, position in the global batch), never of a generator that runs along. The state of a training is
therefore the weights, the optimiser and the step; after a kill the same call continues and ends with the same weights, bit for bit, on the same
machine. For the same reason neither micro-batches (`accumulate`) nor several processes change what is computed, beyond rounding; batch normalisation is
the exception, which sees each micro-batch for itself.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from dsa_lib.nn.checkpoint import State
from dsa_lib.nn.monitor import Monitor
from dsa_lib.nn.processes import run_in_processes
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile

# Updates in a row that fp16 may skip. Each halves the loss scale, which starts at 2^16: by then it is far below anything that could overflow.
MOST_SKIPPED = 40


class Draws:
    """Random numbers of one batch, one stream a sample, keyed by (seed, step, position in the global batch).

    `step` is that of the training (0-based), for losses that change with it.
    """

    def __init__(self, seed: int, step: int, positions: range, device: torch.device | str = "cpu"):
        self.step, self.device = step, torch.device(device)
        self._streams = [torch.Generator().manual_seed(_key(seed, step, position)) for position in positions]

    def _stack(self, draw: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
        numbers = torch.stack([draw(stream) for stream in self._streams])
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()  # the copy then does not wait for what the GPU is at
        return numbers.to(self.device, non_blocking=True)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal, [batch, *shape]."""
        return self._stack(lambda stream: torch.randn(shape, generator=stream))

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform in [0, 1), [batch, *shape]."""
        return self._stack(lambda stream: torch.rand(shape, generator=stream))

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """Whole numbers in [0, high), [batch, *shape]."""
        return self._stack(lambda stream: torch.randint(high, shape, generator=stream))


def _key(*numbers: int) -> int:
    """A 63-bit seed from whole numbers; SeedSequence spreads neighbouring keys apart."""
    return int(np.random.SeedSequence([number & 0xFFFFFFFF for number in numbers]).generate_state(1, np.uint64)[0] >> 1)


def precision_for(name: str) -> str:
    """accelerate's mixed-precision name for a profile's precision: "auto" takes bf16 where the device computes in it, else fp32.

    Raises StudyError for fp16 without a GPU: processors do not compute in it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
        name = "bf16" if fast else "fp32"
    if name == "fp16" and not torch.cuda.is_available():
        raise StudyError(
            "precision fp16 needs an NVIDIA GPU, and this machine shows none: set precision to auto, bf16 or fp32"
        )
    return {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}[name]


def batch_indices(size: int, batch_size: int, seed: int, step: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Sample indices of global step `step` (0-based): shuffled epochs, or drawn by `weights` [size] with replacement."""
    if weights is not None:
        rng = np.random.default_rng(_key(seed, 2, step))
        return rng.choice(size, batch_size, p=weights / weights.sum())
    first = step * batch_size
    chosen = []
    for epoch in range(first // size, (first + batch_size - 1) // size + 1):
        order = np.random.default_rng(_key(seed, 1, epoch)).permutation(size)
        chosen.append(order[max(first - epoch * size, 0) : first + batch_size - epoch * size])
    return np.concatenate(chosen)


def budget(size: int, batch_size: int, steps: int, epochs: int, accumulate: int = 1) -> dict[str, int]:
    """What `fit` is to do: `steps`, or when that is 0 `epochs` passes, evaluated after each."""
    if steps:
        return {"steps": steps}
    epoch = max(size // (batch_size * accumulate), 1)
    return {"steps": epochs * epoch, "evaluate_every": epoch}


def run_options(profile: Profile) -> dict[str, object]:
    """What every training of a run takes from its profile, as options of `fit`: seed, precision, how often it is told of and kept."""
    return {name: getattr(profile, name) for name in ("seed", "precision", "log_every_s", "checkpoint_every_s")}


def held_out(
    loss: Callable[[nn.Module, np.ndarray, Draws], Mapping[str, torch.Tensor]],
    rows: np.ndarray,
    seed: int,
    batch_size: int = 32,
) -> Callable[[nn.Module], dict[str, float]]:
    """`validate` for `fit`: the mean of every part of `loss` over the samples `rows` [n], with draws that are the same at every call."""

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        totals: dict[str, float] = {}
        for first in range(0, len(rows), batch_size):
            indices = rows[first : first + batch_size]
            draws = Draws(seed, 0, range(first, first + len(indices)), device)
            for name, value in loss(model, indices, draws).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(indices)
        return {name: total / len(rows) for name, total in totals.items()}

    return validate


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, np.ndarray, Draws], dict[str, torch.Tensor]],
    *,
    size: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    folder: Path,
    digest: str,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    sample: Callable[[nn.Module], np.ndarray | None] | None = None,
    evaluate_every: int = 0,
    evaluate_first: bool = False,
    patience: int = 0,
    precision: str = "fp32",
    accumulate: int = 1,
    ema_decay: float = 0.0,
    warmup_steps: int = 0,
    clip_norm: float = 0.0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    rates: Mapping[str, float] | None = None,
    cosine: bool = False,
    weights: np.ndarray | None = None,
    processes: int = 1,
    live: bool = True,
    log_every_s: float = 10.0,
    checkpoint_every_s: float = 60.0,
    what: str = "training",
) -> pd.DataFrame:
    """Train `model` in place for `steps` updates and return the log (one row a record; the same rows as `log.jsonl` in `folder`).

    `loss(model, indices, draws)` gives a mapping whose entry "loss" is minimised; every entry is a mean over the samples asked for. One update takes
    `accumulate` batches of `batch_size` samples. `validate(model)` is called every `evaluate_every` steps (0: twenty times a training, at most at every
    fifth step) on the averaged weights when `ema_decay` is set; its entry "loss" decides which weights are kept and, with `patience` > 0 (in
    evaluations), when to stop. `sample(model)` is called then too, on the same weights; uint8 frames [n, H, W] that it returns are saved as a picture
    in `folder/samples`. Both compute at full precision, in which the model is used later.

    `betas` are AdamW's. `rates` gives parts of `model` (attributes, by name) a learning rate of their own in the place of `learning_rate`, as for the two
    players of a GAN; warm-up and cosine apply to all. Gradients are then clipped part by part, so that no part's step hangs on another's gradients.

    With `evaluate_first` the weights that `model` comes with are judged before the first step, and kept if nothing better follows.

    The checkpoint in `folder` is continued if it carries the same `digest`, and discarded otherwise. At the end `model` holds the best weights
    (the last ones without `validate`), averaged ones when `ema_decay` is set.

    `processes` > 1 splits every batch over so many processes, one a GPU, or one thread each on a machine without: the log and the weights are those
    of one process, up to the rounding of sums (dropout, where a model has it, draws other masks). The model then may have no batch normalisation,
    and no cell of the notebook may have used the GPU before. With `live`, a notebook that somebody looks at shows a curve that
    grows (plain lines with several processes).

    Raises StudyError for a loss that is not finite, fp16 without a GPU, and a batch that cannot be split.
    """
    arguments = dict(locals())
    if size < 1:
        raise StudyError(
            f"{what}: there is no training sample; look at the counts that the notebook before this one printed"
        )
    if processes > 1:
        _refuse_to_split(model, batch_size, processes, what)
        run_in_processes(fit, arguments | {"processes": 1, "live": False}, processes, what)
        # They leave their result in the checkpoint. It is taken up without opening a GPU here: the next training could not be forked any more.
        optimizer = torch.optim.AdamW(_groups(model, learning_rate, rates, what))
        state = State(model, optimizer, None, ema_decay, Path(folder), digest)
        state.load()
        return _finished(model, state)
    accelerator = _accelerator(precision)
    model.to(accelerator.device)
    groups = _groups(model, learning_rate, rates, what)
    parameters = [parameter for group in groups for parameter in group["params"]]
    # Not the fused kernel in fp16: when gradients overflow it leaves the update out by itself, and nobody hears of it.
    fused = accelerator.scaler is None
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=fused)
    optimizer = accelerator.prepare(optimizer)
    main, several = accelerator.is_main_process, accelerator.num_processes > 1
    state = State(model, optimizer, accelerator.scaler, ema_decay if main else 0.0, Path(folder), digest)
    continued, shown = state.load(), main and not state.done(steps)
    if continued and shown:
        print(f"  {what}: continues at step {state.step} of {steps}", flush=True)
    monitor = Monitor(what, steps, Path(folder), log_every_s, start=state.step, shown=shown, live=live)
    every = evaluate_every or max(steps // 20, 5)
    if main and evaluate_first and validate is not None and state.step == 0 and not state.records:
        with state.kept_weights(), torch.no_grad():
            found = {name: float(value) for name, value in validate(model).items()}
            state.judge(found["loss"], patience)
        state.records.append(
            {"step": 0, "learning_rate": 0.0} | {f"val_{name}": value for name, value in found.items()}
        )
    skipped = 0
    model.train()
    while not state.done(steps):
        schedule = _schedule(state.step, steps, warmup_steps, cosine)
        rate = learning_rate * schedule
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = own["lr"] * schedule
        # In order, so that a memory map is read forwards.
        indices = np.sort(batch_indices(size, batch_size * accumulate, seed, state.step, weights))
        parts: dict[str, torch.Tensor] = {}
        for here in _positions(batch_size, accumulate, accelerator.process_index, accelerator.num_processes):
            torch.manual_seed(_key(seed, 3, state.step, here.start))  # dropout
            with accelerator.autocast():
                draws = Draws(seed, state.step, here, accelerator.device)
                found = loss(model, indices[here.start : here.stop], draws)
            share = len(here) / len(indices)
            accelerator.backward(found["loss"] * share)
            for name, value in found.items():
                parts[name] = parts.get(name, 0.0) + share * value.detach().float()
        if several:
            parts = _sum_over_processes(accelerator, parameters, parts)
        if clip_norm:
            accelerator.unscale_gradients(optimizer)
            for group in groups:
                nn.utils.clip_grad_norm_(group["params"], clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if optimizer.step_was_skipped:  # fp16 gradients overflowed: the same step again, at half the scale of the loss
            skipped += 1
            if skipped == MOST_SKIPPED or not torch.isfinite(parts["loss"]):
                raise StudyError(
                    f"{what}: fp16 overflows at step {state.step}; set precision to bf16 or fp32, and run again"
                )
            continue
        skipped = 0
        state.advance(parts if main else {})
        evaluate = state.step % every == 0 or state.step == steps
        if main:
            # Best weights and stopping are decided at evaluations only; between them the interval bounds what a kill can lose.
            save = evaluate or state.due(checkpoint_every_s)
            if save or monitor.due():
                last = state.read_losses(what)
                if not evaluate:
                    monitor.step(state.step, last)
            if evaluate:
                record = {"step": state.step, "learning_rate": rate, **state.means()}
                with state.kept_weights(), torch.no_grad():
                    if validate is not None:
                        found = {name: float(value) for name, value in validate(model).items()}
                        record |= {f"val_{name}": value for name, value in found.items()}
                        state.judge(found["loss"], patience)
                    frames = sample(model) if sample is not None else None
                state.records.append(record)
                monitor.record(state.records, frames)
            if save:
                state.save()
        if several and evaluate:
            stopped = torch.tensor(float(state.stopped), device=accelerator.device)
            state.stopped = bool(accelerator.reduce(stopped, "sum") > 0)
    monitor.close()
    accelerator.free_memory()
    return _finished(model, state)


def _finished(model: nn.Module, state: State) -> pd.DataFrame:
    model.load_state_dict(state.final())
    model.eval()
    return pd.DataFrame(state.records)


def _groups(
    model: nn.Module, learning_rate: float, rates: Mapping[str, float] | None, what: str
) -> list[dict[str, object]]:
    """What AdamW is to step: one group for each part of `model` that `rates` names, the first one for all the rest.

    Raises StudyError for a part that the model does not have or that has nothing to train.
    """
    parts: dict[str, list[nn.Parameter]] = {"": [], **{name: [] for name in rates or {}}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = next((part for part in parts if part and name.startswith(f"{part}.")), "")
            parts[own].append(parameter)
    if empty := [part for part in rates or {} if not parts[part]]:
        raise StudyError(
            f"{what}: the model has nothing to train in a part named {empty[0]!r}; its parts are {', '.join(dict(model.named_children()))}"
        )
    return [
        {"params": chosen, "lr": (rates or {}).get(part, learning_rate)} for part, chosen in parts.items() if chosen
    ]


def _accelerator(precision: str) -> Accelerator:
    AcceleratorState._reset_state()  # a notebook may train at one precision after another; accelerate would keep to the first
    return Accelerator(mixed_precision=precision_for(precision), cpu=not torch.cuda.is_available())


def _schedule(step: int, steps: int, warmup_steps: int, cosine: bool) -> float:
    """Factor on the learning rate: linear warm-up, then constant, or a half cosine down to a hundredth."""
    factor = min(1.0, (step + 1) / (warmup_steps + 1))
    if cosine:
        factor *= 0.505 + 0.495 * np.cos(np.pi * step / steps)
    return float(factor)


def _positions(batch_size: int, accumulate: int, process: int, processes: int) -> Iterator[range]:
    """Where in the global batch of a step the share of one process lies, one range for each of its `accumulate` batches."""
    for first in range(0, batch_size * accumulate, batch_size):
        yield range(first + batch_size * process // processes, first + batch_size * (process + 1) // processes)


def _sum_over_processes(
    accelerator: Accelerator, parameters: list[nn.Parameter], parts: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Put the sum of all processes into every gradient, and return the summed losses.

    Each process has weighted its own by its share of the global batch, so that the sums are the means over that batch, however unequal the shares. Done by
    hand because torch's DistributedDataParallel sees only calls of the model itself, not those of `encode` and `decode`, and weights processes equally.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients] + [torch.stack(list(parts.values()))])
    *summed, losses = accelerator.reduce(flat, "sum").split([gradient.numel() for gradient in gradients] + [len(parts)])
    for gradient, total in zip(gradients, summed, strict=True):
        gradient.copy_(total.view_as(gradient))
    return dict(zip(parts, losses.clone(), strict=True))


def _refuse_to_split(model: nn.Module, batch_size: int, processes: int, what: str) -> None:
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise StudyError(
            f"{what}: the model normalises over its batch, and would be another one with the batch split over {processes} processes: set processes to 1"
        )
    if batch_size < processes:
        raise StudyError(
            f"{what}: a batch of {batch_size} cannot be split over {processes} processes: set processes to {batch_size} or less"
        )
