"""Images as arrays: checks, and image files of a run read like an array (8-bit grey, all of one size, decoded when they are asked for)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dsa_lib.run.errors import StudyError

PNG_END = b"IEND\xaeB`\x82"  # type and checksum of the last chunk of every whole PNG file


class ImageFiles:
    """Named image files of a folder, read like a uint8 array [n, H, W]: `files[3]`, `files[10:20]`, `files[[4, 1]]` decode those images and no others.

    Opening looks at the headers of all files, and at the ends of PNGs. Raises StudyError for a missing or truncated file, another mode (colour, 16 bit) or
    unlike sizes, so that ten thousand images are not half done when the odd one comes. `np.asarray(files)` holds them all: 64 kB each at 256².
    """

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, folder: Path, files: Sequence[str], what: str = "generated images"):
        self.folder, self.files, self.what = Path(folder), list(files), what
        self._height, self._width = 0, 0
        for index, name in enumerate(self.files):
            size = self._checked_size(name)
            if index == 0:
                self._width, self._height = size
            elif size != (self._width, self._height):
                raise StudyError(
                    f"{name} of the {what} is {size[0]}×{size[1]} and {self.files[0]} {self._width}×{self._height}: all must have one size"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.files), self._height, self._width

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self._pixels(self.files[index])
        rows = np.arange(len(self.files))[index]
        images = np.empty((len(rows), self._height, self._width), np.uint8)
        for place, row in enumerate(rows):
            images[place] = self._pixels(self.files[row])
        return images

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        images = self[:]
        return images if dtype is None else images.astype(dtype)

    def content(self, rows: np.ndarray) -> bytes:
        """sha256 over the bytes of the files at `rows`: tells whether features of them are still theirs, without decoding."""
        digest = hashlib.sha256()
        for row in rows:
            digest.update(hashlib.sha256((self.folder / self.files[row]).read_bytes()).digest())
        return digest.digest()

    def _checked_size(self, name: str) -> tuple[int, int]:
        try:
            with (self.folder / name).open("rb") as file:
                with Image.open(file) as image:
                    kind, mode, size = image.format, image.mode, image.size
                    if kind == "PNG":
                        file.seek(-len(PNG_END), 2)
                        if file.read() != PNG_END:
                            raise OSError("truncated")
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on some damaged PNGs
            raise self._unreadable(name, error) from None
        if mode != "L":
            raise StudyError(
                f"{name} of the {self.what} has mode {mode}: 8-bit grey (mode L) is needed; export it without colour, at 8 bits"
            )
        return size

    def _pixels(self, name: str) -> np.ndarray:
        try:
            with Image.open(self.folder / name) as image:
                pixels = np.asarray(image)
        except (OSError, SyntaxError) as error:
            raise self._unreadable(name, error) from None
        if pixels.dtype != np.uint8 or pixels.shape != (self._height, self._width):
            raise StudyError(f"{name} of the {self.what} has changed since it was opened: start again")
        return pixels

    def _unreadable(self, name: str, error: Exception) -> StudyError:
        return StudyError(
            f"{name} of the {self.what} cannot be read ({type(error).__name__}): generate it again with notebooks/05_sampling.ipynb"
        )


def read_images(folder: Path, files: Sequence[str], what: str = "generated images") -> np.ndarray:
    """uint8 [n, H, W] of the named 8-bit grey image files, all in memory; raises as `ImageFiles` does."""
    return np.asarray(ImageFiles(folder, files, what))


def check_frames(frames: np.ndarray, what: str, least: int = 1) -> None:
    """Raise StudyError unless `frames` is uint8 [n ≥ least, H, W]."""
    if frames.ndim != 3 or frames.dtype != np.uint8:
        raise StudyError(
            f"{what} are {frames.dtype} of shape {frames.shape}: 8-bit grey images [n, height, width] are needed; export them as such"
        )
    if len(frames) < least:
        raise StudyError(f"{what} number {len(frames)}, and at least {least} are needed: generate or hold out more")
