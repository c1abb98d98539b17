"""Which frames are subtracted from which, and the subtraction: the Mask Module (PS3.3 C.7.6.10), and what is done where a header has none.

`pairings` reads the module into one `Pairing` a frame. Where there is none, `is_native` tells a run that was stored subtracted from a native one, and
`brightest` chooses the mask among the first frames. `subtracted` carries a plan out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from dsa_lib.dicom.planes import Planes
from dsa_lib.dicom.tags import Unreadable, numbers, per_frame_items

OPERATIONS = ("AVG_SUB", "TID", "REV_TID")
# Anatomy that stays from frame to frame: in a native run the spread within a frame is many times that between frames, in a subtracted one both are noise.
NATIVE_SPREAD, NATIVE_RATIO = 0.06, 4.0


@dataclass(frozen=True)
class Pairing:
    """How one subtracted frame comes about, all numbers 0-based: the mean of the frames `contrast` minus the mean of the frames `mask`, the mask
    moved by `shift` (rows down, columns right, in pixels)."""

    contrast: tuple[int, ...]
    mask: tuple[int, ...]
    shift: tuple[float, float]
    operation: str


def pairings(header: Dataset, frames: int) -> dict[int, Pairing] | None:
    """Pairing by frame number (0-based) after the Mask Module; None where the header has no operation other than NONE.

    AVG_SUB: the mask frames averaged; TID: the frame `TIDOffset` (default 1) before; REV_TID: masks counted backwards from the first frame of the range.
    `ContrastFrameAveraging` frames starting with the current one are averaged. Without an applicable range AVG_SUB reaches to the last frame at which that
    many exist, TID over all frames that have a mask. Frames that no item applies to are not subtracted and absent here; where several items apply the last
    one counts (they are appended by later post-processing, PS3.17 FFF.2.3.3). Raises Unreadable where the module names frames that do not exist.
    """
    found, subtracts = {}, False
    for item in header.get("MaskSubtractionSequence") or []:
        operation = str(item.get("MaskOperation") or "").upper()
        applies = _range(item, frames)
        if operation not in OPERATIONS:
            for frame in range(frames) if applies is None else applies:
                found.pop(frame, None)
            continue
        subtracts = True
        count = int((numbers(item.get("ContrastFrameAveraging")) or [1])[0])
        if count < 1:
            raise Unreadable("the mask module averages no contrast frames", "export the run again")
        for frame, mask in _masks(item, operation, applies, frames, count):
            contrast = tuple(range(frame, min(frame + count, frames)))
            found[frame] = Pairing(contrast, mask, _shift(header, item, frame), operation)
    if subtracts and not found:
        raise Unreadable("the mask module leaves no frame to subtract", "export the run again")
    return dict(sorted(found.items())) if subtracts else None


def _range(item: Dataset, frames: int) -> list[int] | None:
    """Frames (0-based) of the applicable range, clipped to those that exist; None where the item has none."""
    bounds = [int(number) for number in numbers(item.get("ApplicableFrameRange"))]
    if not bounds:
        return None
    if len(bounds) % 2 or any(first > last for first, last in zip(bounds[::2], bounds[1::2], strict=True)):
        raise Unreadable("the mask module has a frame range that is none", "export the run again")
    pairs = zip(bounds[::2], bounds[1::2], strict=True)
    return [frame for first, last in pairs for frame in range(max(first - 1, 0), min(last, frames))]


def _masks(
    item: Dataset, operation: str, applies: list[int] | None, frames: int, count: int
) -> Iterable[tuple[int, tuple[int, ...]]]:
    """(frame, its mask frames) of one item (PS3.3 C.7.6.10.1.1)."""
    if operation == "AVG_SUB":
        mask = tuple(int(number) - 1 for number in numbers(item.get("MaskFrameNumbers")))
        if not mask or not all(0 <= number < frames for number in mask):
            raise Unreadable("the mask module names frames that do not exist", "export the run again")
        return [(frame, mask) for frame in (range(frames - count + 1) if applies is None else applies)]
    offset = int((numbers(item.get("TIDOffset")) or [1])[0])
    if operation == "REV_TID":
        if not applies:
            raise Unreadable("reversed time-interval differencing without a frame range", "export the run again")
        pairs = [(frame, (applies[0] - offset) - (frame - applies[0])) for frame in applies]
    else:
        pairs = [(frame, frame - offset) for frame in (range(frames) if applies is None else applies)]
    return [(frame, (mask,)) for frame, mask in pairs if 0 <= mask < frames]


def _shift(header: Dataset, item: Dataset, frame: int) -> tuple[float, float]:
    """Mask sub-pixel shift of a frame: the item's own, or Enhanced XA's for this frame and Subtraction Item ID (PS3.3 C.7.6.16.2.14)."""
    shift = numbers(item.get("MaskSubPixelShift"))
    identifier = item.get("SubtractionItemID")
    for own in per_frame_items(header, frame, "FramePixelShiftSequence"):
        if identifier is None or own.get("SubtractionItemID") == identifier:
            shift = numbers(own.get("MaskSubPixelShift")) or shift
    return (shift[0], shift[1]) if len(shift) == 2 else (0.0, 0.0)


def only_differencing(header: Dataset) -> bool:
    """Whether every subtraction is time-interval differencing: it shows what changed between two frames, not the whole filled tree."""
    operations = [str(item.get("MaskOperation") or "").upper() for item in header.get("MaskSubtractionSequence") or []]
    operations = [operation for operation in operations if operation in OPERATIONS]
    return bool(operations) and "AVG_SUB" not in operations


def blank(planes: np.ndarray) -> np.ndarray:
    """Where the display values [frames, rows, columns] are black, or white, in every frame: bars and corners that hold no image."""
    return (planes <= 0).all(axis=0) | (planes >= 1).all(axis=0)


def is_native(first: np.ndarray, second: np.ndarray, alone: bool = False) -> bool:
    """Whether a display run is native (unsubtracted), from its two first frames within the field, values in [0, 1].

    Skull and air that stay from one frame to the next spread the grey values far more than the difference of the two frames does. Of a frame `alone` the
    spread decides.
    """
    spread, between = _robust_sd(first), _robust_sd(second.astype(np.float64) - first)
    if alone:
        return spread > NATIVE_SPREAD
    return spread > NATIVE_SPREAD and spread > NATIVE_RATIO * between


def _robust_sd(values: np.ndarray) -> float:
    low, high = np.quantile(values, [0.1, 0.9])
    return float(high - low) / 2.563  # of a normal distribution


def brightest(planes: Iterable[np.ndarray], inside: np.ndarray) -> int:
    """Position of the plane with the highest mean within the field: contrast medium only ever takes intensity away."""
    return int(np.argmax([plane[inside].mean(dtype=np.float64) for plane in planes]))


def background_level(values: np.ndarray) -> float:
    """Robust mode of display values in [0, 1]: the peak of a smoothed histogram, refined by the median around it."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    peak = int(np.argmax(np.convolve(counts, np.ones(5), mode="same")))
    near = values[(values >= edges[max(peak - 3, 0)]) & (values <= edges[min(peak + 4, 256)])]
    return float(np.clip(np.median(near) if near.size else 0.5, 1 / 255, 254 / 255))


def vessels_are_dark(values: np.ndarray, background: float) -> bool:
    """Polarity of a subtracted display run: vessels are the heavier tail about the background."""
    away = values.astype(np.float64) - background
    return float(np.sum(away**3)) <= 0


def subtracted(planes: Planes, plan: Mapping[int, Pairing]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(plane of the frame, its mask, mask − averaged contrast frames) of every pairing, in order, float32 [H, W]: contrast medium is above 0."""
    if any(len(pairing.contrast) > 1 or pairing.operation != "AVG_SUB" for pairing in plan.values()):
        planes.recent = 8  # averaging and differencing look at neighbours
    first = next(iter(plan.values()))
    # Averaged masks, each serving many frames: the first before the pass over the run, so that its frames are decoded once.
    averaged = {first.mask: planes.mask(first.mask)} if first.operation == "AVG_SUB" else {}
    last: tuple = (None, None)
    for number in planes.each():
        if (pairing := plan.get(number)) is None:
            continue
        if pairing.operation != "AVG_SUB":
            mask = planes.plane(pairing.mask[0])
        else:
            if pairing.mask not in averaged:
                averaged = {pairing.mask: planes.mean(pairing.mask)}
            mask = averaged[pairing.mask]
        if any(pairing.shift):
            key = pairing.mask, pairing.shift
            if last[0] != key:  # usually the same for the frames that follow
                last = key, _shifted(mask, pairing.shift)
            mask = last[1]
        yield planes.plane(number), mask, mask - planes.mean(pairing.contrast)


def _shifted(mask: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """`mask` moved down and right by a fraction of a pixel, linearly interpolated (PS3.3 C.7.6.10.1.2)."""
    return ndimage.shift(mask, shift, order=1, mode="nearest")
