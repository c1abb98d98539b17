"""One training loop for classifier, judge, autoencoder and diffusion: mixed precision, EMA, early stopping, log, resume.

Everything random is a function of (seed, step, position in the batch), never of a generator that runs along. The state of a training is therefore
the weights, the optimiser and the step; after a kill the same call continues and ends with the same weights, bit for bit, on the same machine.
"""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from dsa_lib.errors import StudyError
from dsa_lib.progress import Lines
from dsa_lib.workspace import atomic_write


class Draws:
    """Random numbers of one batch, one stream a sample, keyed by (seed, step, position in the global batch)."""

    def __init__(self, seed: int, step: int, positions: range, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._streams = [torch.Generator().manual_seed(_key(seed, step, position)) for position in positions]

    def _stack(self, draw: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
        return torch.stack([draw(stream) for stream in self._streams]).to(self.device)

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
    """accelerate's mixed-precision name for a profile's precision: "auto" takes bf16 where the device computes in it, else fp32."""
    if name == "auto":
        if torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
        name = "bf16" if fast else "fp32"
    return {"bf16": "bf16", "fp32": "no"}[name]


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


def budget(size: int, batch_size: int, steps: int, epochs: int) -> dict[str, int]:
    """`steps` and `evaluate_every` for `fit`: `steps` in twenty stretches, or when it is 0 `epochs` passes, evaluated after each."""
    if steps:
        return {"steps": steps, "evaluate_every": max(steps // 20, 1)}
    epoch = max(size // batch_size, 1)
    return {"steps": epochs * epoch, "evaluate_every": epoch}


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
    evaluate_every: int = 0,
    patience: int = 0,
    precision: str = "fp32",
    ema_decay: float = 0.0,
    warmup_steps: int = 0,
    clip_norm: float = 0.0,
    weight_decay: float = 0.0,
    cosine: bool = False,
    weights: np.ndarray | None = None,
    log_every_s: float = 10.0,
    checkpoint_every_s: float = 60.0,
    what: str = "training",
) -> pd.DataFrame:
    """Train `model` in place for `steps` updates and return the log (one row a record).

    `loss(model, indices, draws)` gives a mapping whose entry "loss" is minimised. `validate(model)` is called every `evaluate_every` steps on the
    averaged weights when `ema_decay` is set; its entry "loss" decides which weights are kept and, with `patience` > 0 (in evaluations), when to stop.
    The checkpoint in `folder` is continued if it carries the same `digest`, and discarded otherwise. At the end `model` holds the best weights
    (the last ones without `validate`), averaged ones when `ema_decay` is set.
    """
    if size < 1:
        raise StudyError(
            f"{what}: there is no training sample; look at the counts that the notebook before this one printed"
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=precision_for(precision), cpu=not torch.cuda.is_available())
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    trained, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(trained)
    state = _State(plain, optimizer, ema_decay, Path(folder), digest)
    if state.load():
        print(f"  {what}: continues at step {state.step} of {steps}", flush=True)
    every = evaluate_every or max(steps // 20, 1)
    lines = Lines(what, steps, log_every_s, start=state.step)
    saved = time.monotonic()
    trained.train()
    while state.step < steps and not state.stopped:
        rate = learning_rate * _schedule(state.step, steps, warmup_steps, cosine)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(_key(seed, 3, state.step))  # dropout
        indices = batch_indices(size, batch_size, seed, state.step, weights)
        with accelerator.autocast():
            parts = loss(trained, indices, Draws(seed, state.step, range(len(indices)), accelerator.device))
        if not torch.isfinite(parts["loss"]):
            raise StudyError(
                f"{what}: the loss is {float(parts['loss'].detach())} at step {state.step}; lower the learning rate, or set precision to fp32, "
                f"and run again, the last good checkpoint is kept"
            )
        accelerator.backward(parts["loss"])
        if clip_norm:
            accelerator.clip_grad_norm_(trained.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.advance(plain, {name: float(value.detach()) for name, value in parts.items()})
        evaluate = state.step % every == 0 or state.step == steps
        if evaluate:
            record = {"step": state.step, "learning_rate": rate, **state.means()}
            if validate is not None:
                record |= {f"val_{name}": value for name, value in state.evaluate(plain, validate).items()}
                trained.train()
                state.judge(plain, record["val_loss"], patience)
            state.records.append(record)
            shown = " ".join(f"{name} {value:.4g}" for name, value in record.items() if name.endswith("loss"))
            lines.at(state.step, shown, last=state.step == steps)
        else:
            lines.at(state.step, f"loss {float(parts['loss'].detach()):.4g}")
        # Best weights and stopping are decided at evaluations only; between them the interval bounds what a kill can lose.
        if evaluate or time.monotonic() - saved > checkpoint_every_s:
            state.save()
            saved = time.monotonic()
    plain.load_state_dict(state.final(plain))
    plain.eval()
    accelerator.free_memory()
    return pd.DataFrame(state.records)


def _schedule(step: int, steps: int, warmup_steps: int, cosine: bool) -> float:
    """Factor on the learning rate: linear warm-up, then constant, or a half cosine down to a hundredth."""
    factor = min(1.0, (step + 1) / (warmup_steps + 1))
    if cosine:
        factor *= 0.505 + 0.495 * np.cos(np.pi * step / steps)
    return float(factor)


class _State:
    """Everything a training has to remember, saved in one atomic file beside its log."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema_decay: float, folder: Path, digest: str):
        self.optimizer, self.ema_decay, self.folder, self.digest = optimizer, ema_decay, folder, digest
        self.model = model
        self.ema = {name: value.detach().clone() for name, value in model.state_dict().items()} if ema_decay else None
        self.best: dict[str, torch.Tensor] | None = None
        self.best_loss, self.stale = float("inf"), 0
        self.step, self.stopped = 0, False
        self.records: list[dict] = []
        self.sums: dict[str, float] = {}
        self.summed = 0

    def advance(self, model: nn.Module, parts: dict[str, float]) -> None:
        self.step += 1
        self.summed += 1
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if self.ema is not None:
            # The decay grows with the steps, so that early averages do not carry the random initial weights along.
            decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    self.ema[name].lerp_(value.detach(), 1 - decay)
                else:
                    self.ema[name].copy_(value)

    def means(self) -> dict[str, float]:
        """Means of the training losses since the last record."""
        means = {f"train_{name}": value / self.summed for name, value in self.sums.items()}
        self.sums, self.summed = {}, 0
        return means

    @torch.no_grad()
    def evaluate(self, model: nn.Module, validate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        current = copy.deepcopy(model.state_dict()) if self.ema is not None else None
        if self.ema is not None:
            model.load_state_dict(self.ema)
        model.eval()
        values = {name: float(value) for name, value in validate(model).items()}
        if current is not None:
            model.load_state_dict(current)
        return values

    def judge(self, model: nn.Module, value: float, patience: int) -> None:
        """Keep the weights if they are the best so far; stop after `patience` evaluations without improvement."""
        if value < self.best_loss:
            self.best_loss, self.stale = value, 0
            source = self.ema if self.ema is not None else model.state_dict()
            self.best = {name: tensor.detach().clone() for name, tensor in source.items()}
        else:
            self.stale += 1
            self.stopped = bool(patience) and self.stale >= patience

    def final(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return self.best or self.ema or model.state_dict()

    def save(self) -> None:
        progress = {
            name: getattr(self, name) for name in ("digest", "step", "stopped", "best_loss", "stale", "sums", "summed")
        }
        content = {
            "progress": json.dumps(progress | {"records": self.records}),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "best": self.best,
        }
        with atomic_write(self.folder / "state.pt") as temporary:
            torch.save(content, temporary)
        with atomic_write(self.folder / "log.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in self.records))

    def load(self) -> bool:
        """Take up the checkpoint in the folder; False when there is none, or it belongs to other parameters or data."""
        path = self.folder / "state.pt"
        if not path.exists():
            return False
        content = torch.load(path, map_location="cpu", weights_only=True)
        progress = json.loads(content["progress"])
        if progress.pop("digest") != self.digest:
            return False
        for name, value in progress.items():
            setattr(self, name, value)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        for name in ("ema", "best"):
            held = content[name]
            device = next(self.model.parameters()).device
            setattr(self, name, None if held is None else {key: value.to(device) for key, value in held.items()})
        return True
