"""Reading single facts out of XA and Enhanced XA headers; used by `dsa_lib.dicom.series` alone."""

import contextlib
import itertools
import math
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence
from pydicom.valuerep import DT

ROTATION_TOLERANCE_DEG = 1.0  # a held C-arm reads back within this
TABLE_TOLERANCE_MM = 1.0
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
    for group in [*_groups(header, "Shared"), *_groups(header, "PerFrame")[:1]]:
        if (value := _in_group(group, keyword)) is not None:
            return value
    return None


def sequence_item(header: Dataset, keyword: str) -> Dataset | None:
    """First item of the sequence `keyword` of the shared, else of the first frame's functional groups; None where absent or empty."""
    for group in [*_groups(header, "Shared"), *_groups(header, "PerFrame")[:1]]:
        if group.get(keyword):
            return group[keyword].value[0]
    return None


def per_frame_items(header: Dataset, frame: int, keyword: str) -> list[Dataset]:
    """Items of the sequence `keyword` that apply to `frame` (0-based): the shared ones, then the frame's own."""
    return [
        item
        for group in [*_groups(header, "Shared"), *_groups(header, "PerFrame")[frame : frame + 1]]
        for item in group.get(keyword) or []
    ]


def _groups(header: Dataset, kind: str) -> list[Dataset]:
    return list(header.get(f"{kind}FunctionalGroupsSequence") or [])


def _in_group(group: Dataset, keyword: str) -> object:
    for element in group:
        if isinstance(element.value, Sequence):
            for item in element.value:
                if (value := item.get(keyword)) not in (None, ""):
                    return value
    return None


def is_synthetic(header: Dataset) -> bool:
    """Whether the file says that its image was made up: Synthetic Data (0008,001C) "YES", conversion type SYN, or SYNTHETIC among the image types.

    Any one mark is enough, in an object of any class: software on the way may have dropped the others or turned a secondary capture into something else.
    """
    types = header.get("ImageType") or []
    types = [types] if isinstance(types, str) else list(types)
    return (
        str(header.get("SyntheticData") or "").upper() == "YES"
        or str(header.get("ConversionType") or "").upper() == "SYN"
        or "SYNTHETIC" in (str(value).upper() for value in types)
    )


def angles_deg(header: Dataset) -> tuple[float | None, float | None]:
    """Primary and secondary positioner angle in degrees: (0018,1510/1511), else Enhanced XA's isocentre angles (0018,9463/9464); None where absent."""
    found = []
    for axis in ("Primary", "Secondary"):
        value = find(header, f"Positioner{axis}Angle")
        value = find(header, f"PositionerIsocenter{axis}Angle") if value is None else value
        found.append((numbers(value) or [None])[0])
    return tuple(found)


def texts(header: Dataset) -> tuple[str, str, str]:
    """What names the vessel: series description, protocol name, body part (else the meaning of the anatomic region's code); "" where absent."""
    part = str(header.get("BodyPartExamined") or "")
    if not part:
        frame = sequence_item(header, "FrameAnatomySequence") or Dataset()
        region = (header.get("AnatomicRegionSequence") or frame.get("AnatomicRegionSequence") or [Dataset()])[0]
        part = str(region.get("CodeMeaning") or "")
    return str(header.get("SeriesDescription") or ""), str(header.get("ProtocolName") or ""), part


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
    """Whether the C-arm turned: positioner motion (0018,1500) with its increments (0018,1520/1521), or Enhanced XA's angles per frame."""
    motion = str(header.get("PositionerMotion") or "").upper()
    known = False
    for axis in ("Primary", "Secondary"):
        increments = numbers(header.get(f"Positioner{axis}AngleIncrement"))
        known |= bool(increments)
        if len(increments) == 1:  # the same step from each frame to the next
            increments *= max(1, int(header.get("NumberOfFrames") or 1) - 1)
        # Vendors differ in whether an increment counts from the first frame or from the one before; a held arm may jitter, so steps are summed
        # only where the header does not call it static.
        travelled = 0.0 if motion == "STATIC" else float(np.ptp(np.cumsum([0.0, *increments])))
        if increments and max(travelled, max(increments) - min(increments)) > ROTATION_TOLERANCE_DEG:
            return True
        for keyword in (f"Positioner{axis}Angle", f"PositionerIsocenter{axis}Angle"):
            angles = [value for group in _groups(header, "PerFrame") for value in numbers(_in_group(group, keyword))]
            known |= bool(angles)
            if angles and max(angles) - min(angles) > ROTATION_TOLERANCE_DEG:
                return True
    return motion == "DYNAMIC" and not known  # said to turn, without saying how far


def table_moves(header: Dataset) -> bool:
    """Whether the table travelled under the beam (0018,1134 and its increments), as in peripheral bolus chasing: no mask fits the next frame."""
    if str(header.get("TableMotion") or "").upper() != "DYNAMIC":
        return False
    steps = [numbers(header.get(f"Table{axis}Increment")) for axis in ("Vertical", "Lateral", "Longitudinal")]
    return not any(steps) or any(abs(value) > TABLE_TOLERANCE_MM for step in steps for value in step)


def frame_times_s(header: Dataset, frames: int) -> tuple[tuple[float, ...], str]:
    """(time of each frame in seconds from the first, where it was read): FrameTimeVector, Enhanced XA's frame times, FrameTime, CineRate, else an assumed
    rate."""
    vector = numbers(header.get("FrameTimeVector"))
    if len(vector) == frames and frames > 1:
        return tuple(np.round(np.cumsum([0.0, *vector[1:]]) / 1000, 6).tolist()), "FrameTimeVector"
    for keyword in ("FrameAcquisitionDateTime", "FrameReferenceDateTime"):
        stamps = [_in_group(group, keyword) for group in _groups(header, "PerFrame")]
        if len(stamps) == frames > 1 and None not in stamps:
            clock = [DT(str(stamp)) for stamp in stamps]
            seconds = [round((stamp - clock[0]).total_seconds(), 6) for stamp in clock]
            if all(later > earlier for earlier, later in itertools.pairwise(seconds)):
                return tuple(seconds), keyword
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


def shutter(header: Dataset, shape: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
    """(rows, columns) of the bounding box of the exposed field, and the field within it as bool [rows, columns].

    Display shutter (0018,16xx) and collimator (0018,17xx), of the data set or of Enhanced XA's functional groups: rectangular edges are 1-based and belong
    to the field; circle and polygon are given as row\\column. Several shapes, and the shapes of several frames, intersect. Raises Unreadable when nothing
    is left.
    """
    inside = np.ones(shape, bool)
    for item, kind in _shapes(header):
        inside &= _open(item, kind, shape)
    if inside.sum() < 0.01 * inside.size:
        raise Unreadable("its shutter leaves no image", "export the run with its shutter corrected")
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return *box, inside[box]


def _shapes(header: Dataset) -> list[tuple[Dataset, str]]:
    """Data sets that may hold a shutter's or collimator's shape, each once: most runs have the same one in every frame."""
    found = [(header, kind) for kind in ("Shutter", "Collimator")]
    seen = []
    for group in [*_groups(header, "Shared"), *_groups(header, "PerFrame")]:
        for keyword, kind in (("FrameDisplayShutterSequence", "Shutter"), ("CollimatorShapeSequence", "Collimator")):
            for item in group.get(keyword) or []:
                if item not in seen:
                    seen.append(item)
                    found.append((item, kind))
    return found


def _open(item: Dataset, kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Where one shutter or collimator lets light through, bool [rows, columns]."""
    inside = np.ones(shape, bool)
    row, column = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    value = item.get(f"{kind}Shape") or []
    shapes = {str(name).upper() for name in ([value] if isinstance(value, str) else value)}
    if "RECTANGULAR" in shapes:
        edges = ("LeftVerticalEdge", "RightVerticalEdge", "UpperHorizontalEdge", "LowerHorizontalEdge")
        given = [numbers(item.get(f"{kind}{edge}")) for edge in edges]
        limits = (1, shape[1], 1, shape[0])
        left, right, upper, lower = (edge[0] if edge else limit for edge, limit in zip(given, limits, strict=True))
        if right > left and lower > upper:  # all zero: not set
            inside &= (column >= left) & (column <= right) & (row >= upper) & (row <= lower)
    centre, radius = numbers(item.get(f"CenterOfCircular{kind}")), numbers(item.get(f"RadiusOfCircular{kind}"))
    if "CIRCULAR" in shapes and len(centre) == 2 and radius:
        inside &= (row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius[0] ** 2
    vertices = numbers(item.get(f"VerticesOfThePolygonal{kind}"))
    if "POLYGONAL" in shapes and len(vertices) >= 6:
        outline = Image.new("1", (shape[1], shape[0]))
        points = [(x - 1, y - 1) for y, x in zip(vertices[::2], vertices[1::2], strict=False)]
        ImageDraw.Draw(outline).polygon(points, fill=1, outline=1)
        inside &= np.asarray(outline)
    return inside


def check_size(header: Dataset, frames: int, file_bytes: int) -> None:
    """Raises Unreadable where the header declares more pixels than a file of `file_bytes` can hold (a decompression bomb, or damage)."""
    declared = frames * int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
    if declared > MAX_COMPRESSION * file_bytes:
        raise Unreadable("more pixels declared than a file of its size can hold", "export the run again")
