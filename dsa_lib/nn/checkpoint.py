"""What a training has to remember: weights, optimiser, averages, best weights, losses; saved in one atomic file, and taken up from it."""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import atomic_write, sha256

# What is simply a number or a list of them; tensors are kept apart.
PROGRESS = ("digest", "step", "stopped", "best_loss", "stale", "sums", "records")


class State:
    """The state of one training of `model`, with its checkpoint in `folder`: `state.pt`, and `log.jsonl` for the eye."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        ema_decay: float,
        folder: Path,
        digest: str,
    ):
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.ema_decay, self.folder = ema_decay, folder
        # Callers hash the code of dsa_lib.nn.training; the averages are made here.
        self.digest = f"{digest} {sha256(Path(__file__))}"
        self.ema: dict[str, torch.Tensor] | None = _copy(model.state_dict()) if ema_decay else None
        self.best: dict[str, torch.Tensor] | None = None
        self.best_loss, self.stale = float("inf"), 0
        self.step, self.stopped = 0, False
        self.records: list[dict] = []
        self.sums: dict[str, list[float]] = {}  # of every loss since the last record: total and number of steps
        self._unread: list[Mapping[str, torch.Tensor]] = []
        self._saved, self._save_s = time.monotonic(), 0.0

    def done(self, steps: int) -> bool:
        return self.stopped or self.step >= steps

    # --- a step -------------------------------------------------------------------------------------------------------

    def advance(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Count one update, whose losses are `parts`, and average the weights."""
        self.step += 1
        if parts:
            self._unread.append(parts)
        if self.ema is None:
            return
        # The decay grows with the steps, so that early averages do not carry the random initial weights along.
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        averaged, current = [], []
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.ema[name])
                current.append(value)
            else:
                self.ema[name].copy_(value)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def read_losses(self, what: str) -> float:
        """Add up the losses of the steps since the last call, and return the last one.

        Apart from the steps, because reading a number from a GPU waits until all that was asked of it is done. Raises StudyError when one is not finite.
        """
        first = self.step - len(self._unread)
        for number, parts in enumerate(self._unread):
            values = {name: float(value) for name, value in parts.items()}
            if not math.isfinite(values["loss"]):
                raise StudyError(
                    f"{what}: the loss is {values['loss']} at step {first + number}; lower the learning rate, or set precision to fp32, and run "
                    f"again (a training with other numbers starts anew)"
                )
            for name, value in values.items():
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = [total + value, count + 1]
        self._unread = []
        return values["loss"]

    # --- an evaluation ------------------------------------------------------------------------------------------------

    def means(self) -> dict[str, float]:
        """Means of the training losses since the last record."""
        means = {f"train_{name}": total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means

    @contextlib.contextmanager
    def kept_weights(self) -> Iterator[None]:
        """The model, in evaluation mode, with the weights that would be kept if training ended here: the averaged ones, if there are any."""
        current = _copy(self.model.state_dict()) if self.ema is not None else None
        if self.ema is not None:
            self.model.load_state_dict(self.ema)
        self.model.eval()
        try:
            yield
        finally:
            if current is not None:
                self.model.load_state_dict(current)
            self.model.train()

    def judge(self, value: float, patience: int) -> None:
        """Keep the weights if they are the best so far; stop after `patience` evaluations without improvement."""
        if value < self.best_loss:
            self.best_loss, self.stale = value, 0
            self.best = _copy(self.ema if self.ema is not None else self.model.state_dict())
        else:
            self.stale += 1
            self.stopped = bool(patience) and self.stale >= patience

    def final(self) -> Mapping[str, torch.Tensor]:
        return self.best or self.ema or self.model.state_dict()

    # --- the checkpoint -----------------------------------------------------------------------------------------------

    def due(self, every_s: float) -> bool:
        """Whether the last checkpoint is `every_s` old. A large one is written less often, so that writing takes no more than a twentieth of the time."""
        return time.monotonic() - self._saved > (max(every_s, 20 * self._save_s) if every_s else 0)

    def save(self) -> None:
        started = time.monotonic()
        # A gradient can be infinite where the loss is not: then the checkpoint before this one stays the last.
        if not all(
            torch.isfinite(value).all() for value in self.model.state_dict().values() if value.is_floating_point()
        ):
            raise StudyError(
                f"the weights are not finite any more at step {self.step}; lower the learning rate, or set precision to fp32, and run again (a "
                f"training with other numbers starts anew)"
            )
        for left in self.folder.glob(".writing-*"):  # by a write that a kill cut off
            shutil.rmtree(left, ignore_errors=True)
        content = {
            "progress": json.dumps({name: getattr(self, name) for name in PROGRESS}),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "ema": self.ema,
            "best": self.best,
        }
        # The log first: cut off between the two, it is written again with the next checkpoint.
        with atomic_write(self.folder / "log.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        with atomic_write(self.folder / "state.pt") as temporary:
            torch.save(content, temporary)
        self._saved = time.monotonic()
        self._save_s = self._saved - started

    def load(self) -> bool:
        """Take up the checkpoint in the folder; False when there is none, or it belongs to other parameters or data."""
        path = self.folder / "state.pt"
        if not path.exists():
            return False
        content = torch.load(path, map_location="cpu", weights_only=True)
        progress = json.loads(content["progress"])
        if progress["digest"] != self.digest:
            return False
        for name, value in progress.items():
            setattr(self, name, value)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(content["scaler"])
        device = next(self.model.parameters()).device
        if self.ema is not None:
            self.ema = {name: value.to(device) for name, value in content["ema"].items()}
        if content["best"] is not None:
            self.best = {name: value.to(device) for name, value in content["best"].items()}
        return True


def _copy(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
