"""Reading single facts out of XA and Enhanced XA headers; used by `dsa_lib.dicom` alone."""

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence

ROTATION_TOLERANCE_DEG = 1.0  # a held C-arm reads back within this
MAX_COMPRESSION = 1000  # pixel bytes to a byte of file; radiographs, whose noise does not compress, stay below 100
ASSUMED_FRAMES_PER_S = 3.0  # where a header gives no frame time; the usual rate of cerebral runs


class Unreadable(Exception):
    """This file cannot be read: `reason` and `remedy`, without any value of the header that could identify someone."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


# What pydicom and the conversions below raise on values that do not parse; a programming error (NameError, ...) is not among them.
_VALUE_FAULTS = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    BytesLengthException,
)


@contextlib.contextmanager
def faults_named() -> Iterator[None]:
    """Turn a header value that does not parse into Unreadable."""
    try:
        yield
    except _VALUE_FAULTS:
        raise Unreadable("a header value cannot be read", "export the run again") from None


def numbers(value: object) -> list[float]:
    """Numbers of a single or multi-valued element; [] where it is absent or empty. Raises ValueError on text and on non-finite numbers."""
    if value is None or value == "":
        return []
    values = [float(item) for item in (value if hasattr(value, "__iter__") and not isinstance(value, str) else [value])]
    if not all(math.isfinite(item) for item in values):
        raise ValueError("not a finite number")
    return values


def find(header: Dataset, keyword: str) -> object:
    """Element `keyword` of the data set, else of the shared, else of the first frame's functional groups (Enhanced XA); None where absent."""
    if (value := header.get(keyword)) not in (None, ""):
        return value
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in list(header.get(groups) or [])[:1]:
            if (value := _in_group(group, keyword)) is not None:
                return value
    return None


def _in_group(group: Dataset, keyword: str) -> object:
    for element in group:
        if isinstance(element.value, Sequence):
            for item in element.value:
                if (value := item.get(keyword)) not in (None, ""):
                    return value
    return None


def plane_of(header: Dataset, primary_angle_deg: float | None) -> tuple[str | None, str]:
    """(plane "A" or "B", where it was read). ImageType value 3, Enhanced XA's plane identification (0018,9457), else the primary angle."""
    image_type = [str(value).upper() for value in (header.get("ImageType") or [])]
    if len(image_type) > 2 and image_type[2] in ("BIPLANE A", "BIPLANE B"):
        return image_type[2][-1], "ImageType"
    identified = str(find(header, "PlaneIdentification") or "").upper()
    if identified in ("PLANE A", "PLANE B"):
        return identified[-1], "PlaneIdentification"
    if primary_angle_deg is None:
        return None, ""
    # The frontal C-arm works about 0°, the lateral one about ±90° (Table 1).
    return ("B" if abs(primary_angle_deg) > 45 else "A"), "geometry"


def is_rotational(header: Dataset) -> bool:
    """Whether the C-arm moved: positioner motion (0018,1500), angle increments (0018,1520/1521), or Enhanced XA's angles per frame."""
    motion = str(header.get("PositionerMotion") or "").upper()
    if motion == "DYNAMIC":
        return True
    for axis in ("Primary", "Secondary"):
        increments = numbers(header.get(f"Positioner{axis}AngleIncrement"))
        # Vendors differ in whether an increment counts from the first frame or from the one before; a held arm may jitter, so steps are summed
        # only where the header does not call it static.
        travelled = 0.0 if motion == "STATIC" else abs(sum(increments))
        if increments and max(travelled, max(increments) - min(increments)) > ROTATION_TOLERANCE_DEG:
            return True
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        angles = [value for group in groups for value in numbers(_in_group(group, f"Positioner{axis}Angle"))]
        if angles and max(angles) - min(angles) > ROTATION_TOLERANCE_DEG:
            return True
    return False


def frame_times_s(header: Dataset, frames: int) -> tuple[tuple[float, ...], str]:
    """(time of each frame in seconds from the first, where it was read): FrameTimeVector, FrameTime, CineRate, else an assumed rate."""
    vector = numbers(header.get("FrameTimeVector"))
    if len(vector) == frames and frames > 1:
        return tuple(np.round(np.cumsum([0.0, *vector[1:]]) / 1000, 6).tolist()), "FrameTimeVector"
    step, source = 1 / ASSUMED_FRAMES_PER_S, f"assumed {ASSUMED_FRAMES_PER_S:g}/s"
    if (time_ms := numbers(find(header, "FrameTime"))) and time_ms[0] > 0:
        step, source = time_ms[0] / 1000, "FrameTime"
    elif (rate := numbers(header.get("CineRate"))) and rate[0] > 0:
        step, source = 1 / rate[0], "CineRate"
    return tuple(round(index * step, 6) for index in range(frames)), source


def ages(header: Dataset) -> int | None:
    """Age in whole years from PatientAge, else from birth and study date; None where neither is usable."""
    text = str(header.get("PatientAge") or "").strip().upper()
    if len(text) == 4 and text[:3].isdigit() and text[3] in "YMWD":
        return int(int(text[:3]) / {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}[text[3]])
    born, studied = (str(header.get(name) or "") for name in ("PatientBirthDate", "StudyDate"))
    if len(born) == len(studied) == 8 and born.isdigit() and studied.isdigit() and studied >= born:
        return int(studied[:4]) - int(born[:4]) - (studied[4:] < born[4:])
    return None


@dataclass(frozen=True)
class MaskItem:
    """One item of the mask module: `frames` 0-based, `ranges` of 0-based inclusive (first, last), `shift` (rows, columns) of the mask in pixels."""

    frames: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    shift: tuple[float, float]

    def applies_to(self, frame: int) -> bool:
        return not self.ranges or any(first <= frame <= last for first, last in self.ranges)


def mask_items(header: Dataset, frames: int) -> list[MaskItem]:
    """Items of MaskSubtractionSequence with operation AVG_SUB (PS3.3 C.7.6.10); [] where there is none. Raises Unreadable on bad frame numbers."""
    items = []
    for item in header.get("MaskSubtractionSequence") or []:
        if str(item.get("MaskOperation") or "").upper() != "AVG_SUB":
            continue
        numbered = tuple(int(number) - 1 for number in numbers(item.get("MaskFrameNumbers")))
        if not numbered or not all(0 <= number < frames for number in numbered):
            raise Unreadable("the mask module names frames that do not exist", "export the run again")
        bounds = [int(number) - 1 for number in numbers(item.get("ApplicableFrameRange"))]
        shift = numbers(item.get("MaskSubPixelShift"))
        items.append(
            MaskItem(
                numbered,
                tuple(zip(bounds[::2], bounds[1::2], strict=False)),
                (shift[0], shift[1]) if len(shift) == 2 else (0.0, 0.0),
            )
        )
    return items


def only_differencing(header: Dataset) -> bool:
    """Whether every mask item is time-interval differencing (TID, REV_TID): the change between frames, not the opacified tree."""
    operations = [str(item.get("MaskOperation") or "").upper() for item in header.get("MaskSubtractionSequence") or []]
    return bool(operations) and all(operation in ("TID", "REV_TID") for operation in operations)


def shutter(header: Dataset, shape: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
    """(rows, columns) of the bounding box of the exposed field, and the field within it as bool [rows, columns].

    Display shutter (0018,16xx) and collimator (0018,17xx): rectangular edges are 1-based and belong to the field; circle and polygon are given as
    row\\column. Several shapes intersect. Raises Unreadable when nothing is left.
    """
    inside = np.ones(shape, bool)
    row, column = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    for kind in ("Shutter", "Collimator"):
        value = header.get(f"{kind}Shape") or []
        shapes = {str(item).upper() for item in ([value] if isinstance(value, str) else value)}
        if "RECTANGULAR" in shapes:
            edges = ("LeftVerticalEdge", "RightVerticalEdge", "UpperHorizontalEdge", "LowerHorizontalEdge")
            given = [numbers(header.get(f"{kind}{edge}")) for edge in edges]
            limits = (1, shape[1], 1, shape[0])
            left, right, upper, lower = (item[0] if item else limit for item, limit in zip(given, limits, strict=True))
            inside &= (column >= left) & (column <= right) & (row >= upper) & (row <= lower)
        centre, radius = numbers(header.get(f"CenterOfCircular{kind}")), numbers(header.get(f"RadiusOfCircular{kind}"))
        if "CIRCULAR" in shapes and len(centre) == 2 and radius:
            inside &= (row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius[0] ** 2
        vertices = numbers(header.get(f"VerticesOfThePolygonal{kind}"))
        if "POLYGONAL" in shapes and len(vertices) >= 6:
            outline = Image.new("1", (shape[1], shape[0]))
            points = [(x - 1, y - 1) for y, x in zip(vertices[::2], vertices[1::2], strict=False)]
            ImageDraw.Draw(outline).polygon(points, fill=1, outline=1)
            inside &= np.asarray(outline)
    if inside.sum() < 0.01 * inside.size:
        raise Unreadable("its shutter leaves no image", "export the run with its shutter corrected")
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return *box, inside[box]


def check_size(header: Dataset, frames: int, file_bytes: int) -> None:
    """Raises Unreadable where the header declares more pixels than a file of `file_bytes` can hold (a decompression bomb, or damage)."""
    declared = frames * int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
    if declared > MAX_COMPRESSION * file_bytes:
        raise Unreadable("more pixels declared than a file of its size can hold", "export the run again")
