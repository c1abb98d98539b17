"""Text burned into the pixels of a run: a screen that sends files to a person, no proof that a file is free of text.

Annotation that a system writes into an image is the same in every frame, drawn in thin strokes of high contrast, and stands in lines. Anatomy fails at
least one of these: quantum noise and contrast medium change from frame to frame, bones and coils do not stand in lines of even height. Subtraction would
take constant text away from the vessels but leave its outline as a hole in the noise, so the screen looks at the frames before it.

Fewer than `GLYPHS` characters in a line are let pass: the lead markers of side (R, L) and view are usual in angiography and identify nobody. What it
cannot see: text in a few frames only, names of three letters, handwriting, strokes of low contrast or blurred by a lossy codec, faces.
"""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from dsa_lib.dicom.tags import Unreadable

GLYPHS = 4  # characters in a line from which it counts as text
FEW = 4  # frames below which stillness alone says little: the characters of a line must also be of one grey
FRAMES = 5  # looked at, evenly spread over the run
STILL, CONTRAST = (
    0.02,
    0.2,
)  # of the range of grey values: largest change over the frames; smallest height of a stroke over its surroundings
CALM = 0.5  # of the change that noise makes: most of a stroke is calmer than this, codecs included
QUIET = 0.1  # of the change that noise makes: only what has no noise is as still as this
SMALLEST_PX = 5  # height of a character; smaller ones cannot be read
LARGEST = 1 / 8  # of the longer side: height of a character
MOST_PIECES = 1500  # considered at a time, largest first
DECLARED = "the header says that annotation is burned into the image"
LIKELY = "burned-in text is likely"


def declared(header: Dataset) -> bool:
    """Whether Burned In Annotation (0028,0301) says YES. NO and absence prove nothing: the pixels are looked at as well."""
    return str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES"


def hold_back(header: Dataset, places: Sequence[str]) -> None:
    """Raise Unreadable, for review by a person, where the header declares annotation or text is likely at `places`."""
    if declared(header) or places:
        where = f" ({', '.join(places)})" if places else ""
        remedy = f"look at the image{where}; if nothing in it identifies anyone, add this file's name to private/reviewed.csv"
        raise Unreadable(LIKELY if places else DECLARED, remedy)


class Still:
    """What stays the same over a run of `total` frames: minimum and maximum of a few of its planes, as they pass by."""

    def __init__(self, total: int) -> None:
        self.frames = 0
        self._passed = -1
        self._chosen = set(np.linspace(0, total - 1, min(FRAMES, total)).round().astype(int).tolist())
        self._lowest: np.ndarray | None = None
        self._highest: np.ndarray | None = None

    def add(self, plane: np.ndarray) -> None:
        """Take note of the next plane, float32 [rows, columns], before any mask is subtracted from it."""
        self._passed += 1
        if self._passed not in self._chosen:
            return
        if self._lowest is None:
            self._lowest, self._highest = plane.copy(), plane.copy()
        else:
            np.minimum(self._lowest, plane, out=self._lowest)
            np.maximum(self._highest, plane, out=self._highest)
        self.frames += 1

    def text(self, logged: bool = False) -> list[str]:
        """Where in the image lines of text are likely ("upper left", ...); [] where there are none. `logged`: the planes are logarithms of grey values."""
        if self._lowest is None:
            return []
        rows, columns = self._lowest.shape
        boxes = text_lines(self._lowest, self._highest, self.frames, logged)
        places = (_place((top + bottom) / 2 / rows, (left + right) / 2 / columns) for top, bottom, left, right in boxes)
        return list(dict.fromkeys(places))


def _place(down: float, across: float) -> str:
    row = "upper" if down < 0.4 else "lower" if down > 0.6 else "middle"
    column = "left" if across < 0.4 else "right" if across > 0.6 else "centre"
    return f"{row} {column}"


def text_lines(
    lowest: np.ndarray, highest: np.ndarray, frames: int, logged: bool = False
) -> list[tuple[int, int, int, int]]:
    """Boxes (top, bottom, left, right), half open, of likely lines of text, horizontal or vertical, brighter or darker than their surroundings.

    `lowest`, `highest` [rows, columns]: smallest and largest grey value, or its logarithm (`logged`), of each pixel over `frames` frames. A single frame
    says nothing about change; the characters of a line must then be of one grey.
    """
    if min(lowest.shape) < 3 * SMALLEST_PX:
        return []
    # In the logarithm the contrast of bright text would shrink.
    linear = np.exp if logged else np.asarray
    # Every fifth row crosses every character: looking there spares most runs the rest.
    if not any(_signs(linear(lowest[::SMALLEST_PX]), linear(highest[::SMALLEST_PX]), frames)):
        return []
    lowest, highest = linear(lowest), linear(highest)
    low, high = float(lowest.min()), float(highest.max())
    full = high - low
    contrasty, quiet_strokes = _signs(lowest, highest, frames)
    change = highest - lowest
    still = change <= STILL * full
    # Wide enough that a bold stroke of the largest character does not contain the window.
    window = max(SMALLEST_PX, round(max(lowest.shape) * LARGEST / 5) | 1)
    found = []
    if contrasty:
        one_grey = 0.05 * full if frames < FEW else None
        # Letters of anatomy, edges of bone cut up by noise, move as much as all else does.
        calm = change <= max(CALM * _noise(change, np.abs(np.diff(lowest, axis=1))), 0.002 * full)
        for plane in (lowest - low, high - highest):
            strokes = still & (plane - ndimage.grey_opening(plane, size=(window, window)) > CONTRAST * full)
            found += _text(strokes, plane, one_grey, calm)
    # White on nearly white, in a noisy run: strokes show by their want of noise, in the subtracted frames too.
    if quiet_strokes:
        quiet = change <= QUIET * _noise(change, np.abs(np.diff(lowest, axis=1)))
        thick = ndimage.maximum_filter(ndimage.minimum_filter(quiet, window), window)
        found += _text(quiet & ~thick & ~_speckled(quiet, window), lowest, None, quiet)
    return found


def _signs(lowest: np.ndarray, highest: np.ndarray, frames: int) -> tuple[bool, bool]:
    """(Are there still pixels beside steep steps along a row; are there a few pixels without noise in a noisy run.) Cheap, and true of every text."""
    full = float(highest.max()) - float(lowest.min())
    change = highest - lowest
    still = change <= STILL * full
    if full <= 0:
        return False, False
    steps = np.abs(np.diff(lowest, axis=1))
    contrasty = np.count_nonzero((steps > CONTRAST * full) & (still[:, 1:] | still[:, :-1])) >= 2 * GLYPHS
    noise = _noise(change, steps)
    if frames < 3 or noise <= 0:
        return contrasty, False
    quiet = change <= QUIET * noise
    # Two side by side: by chance alone this hardly happens.
    pairs = np.count_nonzero(quiet[:, 1:] & quiet[:, :-1])
    return contrasty, bool(GLYPHS <= pairs < change.size / 4)


def _speckled(quiet: np.ndarray, window: int) -> np.ndarray:
    """Where single quiet pixels lie about, as at the edge of saturation: there they also cluster, and no cluster is a stroke."""
    labels, number = ndimage.label(quiet, np.ones((3, 3)))
    small = np.bincount(labels.ravel(), minlength=number + 1) < SMALLEST_PX
    return ndimage.uniform_filter((quiet & small[labels]).astype(np.float32), 3 * window) > 0.005


def _noise(change: np.ndarray, steps: np.ndarray) -> float:
    """Change over the frames that noise alone makes in most pixels: their median change, but no more than the steps between neighbours allow (motion)."""
    return min(float(np.median(change[:, ::4])), 4 * float(np.median(steps[:, ::4])))


def _text(
    strokes: np.ndarray, plane: np.ndarray, one_grey: float | None, calm: np.ndarray
) -> list[tuple[int, int, int, int]]:
    """Boxes of horizontal and of vertical lines of text among the `strokes` bool [rows, columns]."""
    pieces = _pieces(strokes, plane, one_grey, calm)
    turned = [_Piece(p.left, p.right, p.top, p.bottom, p.across, p.down, p.peak) for p in pieces]
    upright = [(top, bottom, left, right) for left, right, top, bottom in _lines(turned, one_grey)]
    return _lines(pieces, one_grey) + upright


class _Piece:
    """A connected piece of strokes: half-open box, number of strokes crossed along a row (`down` the page: rows) and along a column, and its peak."""

    __slots__ = ("across", "bottom", "down", "left", "peak", "right", "top")

    def __init__(self, top, bottom, left, right, down, across, peak):
        self.top, self.bottom, self.left, self.right = top, bottom, left, right
        self.down, self.across, self.peak = down, across, peak

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def glyphs(self) -> int:
        """Characters that this piece holds: letters that touch are told by the strokes a row crosses."""
        width = self.right - self.left
        return max(1, min(self.down // 2, round(width / (0.6 * self.height))))


def _pieces(strokes: np.ndarray, plane: np.ndarray, one_grey: float | None, calm: np.ndarray) -> list[_Piece]:
    largest = max(plane.shape) * LARGEST
    labels, _ = ndimage.label(strokes, np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    sizes = sorted(range(len(boxes)), key=lambda i: -max(side.stop - side.start for side in boxes[i]))
    pieces = []
    for index in sizes:
        rows, columns = boxes[index]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        # The longer side of a lying I is its height; lines of a frame or an edge are longer than any character.
        if min(height, width) > largest or max(height, width) < SMALLEST_PX:
            continue
        inside = labels[rows, columns] == index + 1
        if inside.mean() > 0.85 and min(height, width) > 0.35 * max(height, width):
            continue  # a filled block
        values = plane[rows, columns][inside]
        if calm[rows, columns][inside].mean() < 0.75:
            continue
        if one_grey is not None and np.mean(values >= values.max() - one_grey) < 0.35:
            continue  # noise has peaks, strokes are even
        runs = np.diff(np.pad(inside, ((0, 0), (1, 0))).astype(np.int8), axis=1) == 1
        stacks = np.diff(np.pad(inside, ((1, 0), (0, 0))).astype(np.int8), axis=0) == 1
        pieces.append(
            _Piece(
                rows.start,
                rows.stop,
                columns.start,
                columns.stop,
                int(runs.sum(1).max()),
                int(stacks.sum(0).max()),
                float(values.max()),
            )
        )
        if len(pieces) == MOST_PIECES:
            break
    return pieces


def _lines(pieces: list[_Piece], one_grey: float | None) -> list[tuple[int, int, int, int]]:
    """Boxes of rows of pieces that stand beside each other, about equally high, on one base line."""
    pieces = [piece for piece in pieces if piece.height >= SMALLEST_PX]
    if not pieces:
        return []
    top, bottom, left, right, peak = (
        np.array([getattr(piece, name) for piece in pieces], float)
        for name in ("top", "bottom", "left", "right", "peak")
    )
    height = bottom - top
    smaller, larger = np.minimum.outer(height, height), np.maximum.outer(height, height)
    overlap = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    gap = np.maximum.outer(left, left) - np.minimum.outer(right, right)
    beside = (overlap >= 0.6 * smaller) & (larger <= 2 * smaller) & (gap <= larger) & (gap > -0.5 * smaller)
    if one_grey is not None:
        beside &= np.abs(np.subtract.outer(peak, peak)) <= one_grey
    _, line = connected_components(beside, directed=False)
    found = []
    for number in np.flatnonzero(np.bincount(line) > 0):
        members = np.flatnonzero(line == number)
        tolerance = max(1.0, 0.15 * np.percentile(height[members], 80))
        on_base = members[np.abs(bottom[members] - np.median(bottom[members])) <= tolerance]
        wide = (right - left)[on_base] >= 0.3 * height[on_base]  # ticks of a ruler are all narrow
        if len(on_base) > 1 and sum(pieces[i].glyphs for i in on_base) >= GLYPHS and wide.any():
            found.append(tuple(int(edge) for edge in (top[members].min(), bottom[members].max(), left[members].min(), right[members].max())))  # fmt: skip
    return found
