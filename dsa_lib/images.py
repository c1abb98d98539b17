"""Reading image files of a run: 8-bit grey, all of one size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dsa_lib.errors import StudyError


def read_images(folder: Path, files: Sequence[str], what: str = "generated images") -> np.ndarray:
    """uint8 [n, H, W] of the named 8-bit grey image files. Raises StudyError for a missing file, another mode (colour, 16 bit) or unlike sizes."""
    stack: np.ndarray | None = None
    for index, name in enumerate(files):
        try:
            with Image.open(Path(folder) / name) as image:
                mode, pixels = image.mode, np.asarray(image)
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on some damaged PNGs
            raise StudyError(
                f"{name} of the {what} cannot be read ({type(error).__name__}): generate it again with notebooks/05_sampling.ipynb"
            ) from None
        if mode != "L":
            raise StudyError(
                f"{name} of the {what} has mode {mode}: 8-bit grey (mode L) is needed; export it without colour, at 8 bits"
            )
        if stack is None:
            stack = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != stack.shape[1:]:
            raise StudyError(
                f"{name} of the {what} is {pixels.shape[1]}×{pixels.shape[0]} and {files[0]} {stack.shape[2]}×{stack.shape[1]}: all must have one size"
            )
        stack[index] = pixels
    return np.zeros((0, 0, 0), np.uint8) if stack is None else stack
