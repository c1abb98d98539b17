"""What a training shows while it runs: plain lines, a curve where somebody looks on, TensorBoard where it is installed, pictures of samples.

Nothing here decides a result.
"""

import importlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dsa_lib.nn.curve import training_progress
from dsa_lib.run.progress import Lines
from dsa_lib.run.workspace import atomic_write


class Monitor:
    """The outward side of one training, from step `start` to `steps`. Unless `shown` it does nothing: in all processes but the main one, and when done."""

    def __init__(self, what: str, steps: int, folder: Path, every_s: float, start: int, shown: bool, live: bool):
        self.what, self.steps, self.folder, self.every_s = what, steps, folder, every_s
        self.lines = Lines(what, steps, every_s, start=start)
        self.curve = Curve(what, steps) if shown and live and somebody_looks() else None
        self.tensorboard = None
        self._last = time.monotonic()
        if not shown:
            return
        if start == 0:  # pictures and scalars of a training that was discarded
            for name in ("samples", "tensorboard"):
                shutil.rmtree(folder / name, ignore_errors=True)
        self.tensorboard = _tensorboard(folder / "tensorboard", start)

    def due(self) -> bool:
        """Whether it is time for a line."""
        return time.monotonic() - self._last > self.every_s

    def step(self, step: int, loss: float) -> None:
        """Tell the loss of a step, if it is time."""
        if self.due() and self.curve is not None:
            self._last = time.monotonic()
            self.curve.draw(step)
        self._line(step, f"loss {loss:.4g}")

    def _line(self, step: int, text: str) -> None:
        if self.curve is None and (self.due() or step == self.steps):
            self._last = time.monotonic()
            self.lines.at(step, text, last=True)

    def record(self, records: Sequence[Mapping[str, float]], frames: np.ndarray | None) -> None:
        """Tell the last of `records`, one an evaluation; `frames` uint8 [n, H, W] are saved as a picture."""
        record = records[-1]
        step = record["step"]
        losses = {name: value for name, value in record.items() if name != "step"}
        grid = None if frames is None else tiled(frames)
        if grid is not None:
            with atomic_write(self.folder / "samples" / f"{step:07d}.png") as temporary:
                Image.fromarray(grid).save(temporary)
        if self.tensorboard is not None:
            for name, value in losses.items():
                self.tensorboard.add_scalar(f"{self.what}/{name}", value, step)
            if grid is not None:
                self.tensorboard.add_image(f"{self.what}/samples", grid, step, dataformats="HW")
            self.tensorboard.flush()
        if self.curve is not None:
            self.curve.draw(step, records, grid)
        self._line(step, " ".join(f"{name} {value:.4g}" for name, value in losses.items() if name.endswith("loss")))

    def close(self) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()


class Curve:
    """A figure in the notebook that is drawn anew as the training goes on: losses over steps, and the last samples."""

    def __init__(self, what: str, steps: int):
        self.what, self.steps = what, steps
        self.handle = None
        self.records: Sequence[Mapping[str, float]] = []
        self.samples: np.ndarray | None = None
        self._mark = (time.monotonic(), None)

    def draw(self, step: int, records: Sequence[Mapping[str, float]] = (), samples: np.ndarray | None = None) -> None:
        import matplotlib.pyplot as plt
        from IPython.display import display

        self.records = records or self.records
        self.samples = samples if samples is not None else self.samples
        figure = training_progress(pd.DataFrame(self.records), self._title(step), self.samples)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
        plt.close(figure)  # or the notebook would show it once more at the end of the cell

    def _title(self, step: int) -> str:
        now, (then, before) = time.monotonic(), self._mark
        title = f"{self.what}: step {step} of {self.steps}"
        self._mark = (now, step)
        if before is not None and step > before:
            title += f", {(self.steps - step) * (now - then) / (step - before):.0f} s left"
        return title


def somebody_looks() -> bool:
    """Whether this cell was started by hand in a notebook: front ends with a person let the kernel ask for input; papermill, nbval, nbconvert do not."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def tiled(frames: np.ndarray) -> np.ndarray:
    """uint8 frames [n, H, W] side by side in a near-square grid, white where there is none: uint8 [rows · H, columns · W]."""
    count, height, width = frames.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    grid = np.full((rows * columns, height, width), 255, np.uint8)
    grid[:count] = frames
    return grid.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def _tensorboard(folder: Path, start: int):
    """A TensorBoard writer that forgets what an earlier run wrote after step `start`; None where TensorBoard is not installed."""
    try:
        module = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        return None
    return module.SummaryWriter(str(folder), purge_step=start + 1)
