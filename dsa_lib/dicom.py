"""One XA file in, subtracted frames and acquisition facts out, or a reason why not (§2.1–2.2; DICOM PS3.3 C.7.6.10 mask, C.8.7 X-ray angiography).

A stored value becomes a frame of the study in five steps, frame by frame so that memory holds one frame at full size:
value → log intensity (only if linear) → mask − frame → shutter, square, antialiased resize → one grey window for the series.
"""

import functools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import iter_pixels
from pydicom.uid import (
    EnhancedXAImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    XRayAngiographicImageStorage,
)

from dsa_lib import _xa_tags as tags
from dsa_lib._xa_tags import Unreadable, find, numbers

MAX_SIDE, MAX_FRAMES = 4096, 2000  # beyond any angiographic detector or run: a damaged header, not an image
LEVEL_FRAMES = (
    64  # of a run stored subtracted, from which background and polarity are measured (twice as many where it has few)
)
KEPT_PLANES = 5  # decoded for the mask and not again for the run


@dataclass(frozen=True)
class Acquisition:
    """What the header says. The identifying fields (patient, uids, texts) never leave `dsa_lib.cohort` in the clear.

    Angles in degrees (positioner, +LAO/−RAO and +CRA/−CAU), None where absent; `frame_times_s` one a frame from 0; `plane` "A", "B" or None.
    """

    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    texts: tuple[str, str, str]  # series description, protocol name, body part
    sex: str
    age: int | None
    plane: str | None
    plane_source: str
    primary_angle_deg: float | None
    secondary_angle_deg: float | None
    rotational: bool
    differencing: bool  # every mask operation is time-interval differencing
    frames: int
    frame_times_s: tuple[float, ...]
    frame_time_source: str
    relationship: str  # LIN, LOG or DISP

    def obstacle(self) -> str:
        """Why this run cannot give subtracted frames of a known view; "" where it can."""
        if self.rotational:
            return "rotational run: the view changes"
        if self.plane is None or self.primary_angle_deg is None or self.secondary_angle_deg is None:
            return "no C-arm angles in the header"
        if max(abs(self.primary_angle_deg), abs(self.secondary_angle_deg)) > 180:
            return "impossible C-arm angles in the header"
        if self.differencing:
            return "time-interval differencing: shows the change between frames, not the filled vessels"
        if self.frames == 1 and self.relationship != "DISP":
            return "a single unsubtracted frame"
        return ""


@dataclass(frozen=True)
class Run:
    """Subtracted frames uint8 [n, size, size], dark vessels on `background_grey`, and the constants of how they were made."""

    frames: np.ndarray
    window: dict[str, object] = field(default_factory=dict)


def read_header(path: Path) -> Dataset:
    """The data set without pixels. Raises Unreadable for anything that is not an X-ray angiography image. Not to be changed: it is kept for the next call."""
    state = Path(path).stat()
    return _read_header(Path(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=1)  # facts and pixels of a file are asked for one after the other
def _read_header(path: Path, size: int, changed_ns: int) -> Dataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True)
            except InvalidDicomError:
                # Some exports lack the preamble; they still open with the SOP class (0008,0016) or another element of group 0008.
                with Path(path).open("rb") as file:
                    if file.read(2) not in (b"\x08\x00", b"\x02\x00"):
                        raise
                header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    except InvalidDicomError:
        raise Unreadable("not a DICOM file", "nothing to do if it does not belong to the archive") from None
    except MemoryError:  # deflated data that inflate without end: the reader's bound, not the header's damage
        raise
    except Exception:  # a damaged header fails in pydicom in more ways than can be listed
        raise Unreadable("the DICOM header is damaged", "export the run again") from None
    if sop_class == MediaStorageDirectoryStorage:
        raise Unreadable(
            "a DICOMDIR index, which holds no image", "nothing to do: the files it lists are read directly"
        )
    if sop_class not in (XRayAngiographicImageStorage, EnhancedXAImageStorage):
        raise Unreadable("not an X-ray angiography image", "nothing to do: other objects are not part of the study")
    return header


def read_acquisition(path: Path) -> Acquisition:
    """Facts of one file. Raises Unreadable when it is no XA image or lacks what every image must have."""
    header = read_header(path)
    with tags.faults_named():
        acquisition = _acquisition(header)
        tags.check_size(header, acquisition.frames, Path(path).stat().st_size)
        return acquisition


def _acquisition(header: Dataset) -> Acquisition:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Rows", "Columns"):
        if not header.get(keyword):
            raise Unreadable(f"{keyword} is missing", "export the run again with complete headers")
    frames = int(header.get("NumberOfFrames") or 1)
    rows, columns = int(header.Rows), int(header.Columns)
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and 0 < frames <= MAX_FRAMES):
        raise Unreadable(f"impossible dimensions {frames}×{rows}×{columns}", "export the run again")
    if int(header.get("SamplesPerPixel", 1)) != 1 or int(header.get("BitsAllocated", 0)) not in (8, 16):
        raise Unreadable("not an 8 or 16 bit grey-scale image", "export the run as grey-scale XA")
    primary, secondary = (numbers(find(header, f"Positioner{axis}Angle")) for axis in ("Primary", "Secondary"))
    primary_deg = primary[0] if primary else None
    plane, plane_source = tags.plane_of(header, primary_deg)
    times, time_source = tags.frame_times_s(header, frames)
    relationship = str(find(header, "PixelIntensityRelationship") or "").upper()
    if relationship not in ("LIN", "LOG", "DISP"):
        derived = str((header.get("ImageType") or [""])[0]).upper() == "DERIVED"
        relationship = "DISP" if derived else "LIN"
    sex = str(header.get("PatientSex") or "").upper()
    return Acquisition(
        patient_id=str(header.PatientID),
        study_uid=str(header.StudyInstanceUID),
        series_uid=str(header.SeriesInstanceUID),
        sop_uid=str(header.SOPInstanceUID),
        texts=tuple(str(header.get(name) or "") for name in ("SeriesDescription", "ProtocolName", "BodyPartExamined")),
        sex=sex if sex in ("F", "M", "O") else "",
        age=tags.ages(header),
        plane=plane,
        plane_source=plane_source,
        primary_angle_deg=primary_deg,
        secondary_angle_deg=secondary[0] if secondary else None,
        rotational=tags.is_rotational(header),
        differencing=tags.only_differencing(header),
        frames=frames,
        frame_times_s=times,
        frame_time_source=time_source,
        relationship=relationship,
    )


class _Planes:
    """Frames of one file as float32 planes within the shutter's bounding box: log intensity (LIN, LOG) or display value in [0, 1] (DISP)."""

    def __init__(self, path: Path, relationship: str):
        self.path, self.header = path, read_header(path)
        self.frames = int(self.header.get("NumberOfFrames") or 1)
        self.shape = int(self.header.Rows), int(self.header.Columns)
        self._lut, self.scale = value_lut(self.header, relationship)
        self.rows, self.columns, self.inside = tags.shutter(self.header, self.shape)
        self._whole = bool(self.inside.all())
        self._kept: dict[int, np.ndarray] = {}

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.at(range(self.frames))

    def at(self, indices) -> Iterator[np.ndarray]:
        """Planes float32 [rows, columns] of the frames `indices` (0-based). Raises Unreadable when they cannot be decoded."""
        indices = list(indices)
        fresh = self._fresh([index for index in indices if index not in self._kept])
        for index in indices:
            yield self._kept[index] if index in self._kept else next(fresh)

    def in_field(self, values: np.ndarray) -> np.ndarray:
        """`values` [rows, columns], 0 outside the shutter."""
        return values if self._whole else values * self.inside

    def keep(self, indices) -> Iterator[np.ndarray]:
        """As `at`, but the first few planes stay at hand for later passes: decoding is most of the work."""
        indices = list(indices)
        for index, plane in zip(indices, self.at(indices), strict=True):
            if len(self._kept) < KEPT_PLANES:
                self._kept[index] = plane
            yield plane

    def _fresh(self, indices: list[int]) -> Iterator[np.ndarray]:
        if not indices:  # which pydicom would take for all
            return
        count = 0
        for pixels in self._decoded(indices):
            if pixels.shape != self.shape or pixels.dtype.itemsize > 2:
                raise Unreadable("the pixels do not have the size that the header states", "export the run again")
            cropped = pixels[self.rows, self.columns]
            cropped = np.ascontiguousarray(cropped, cropped.dtype.newbyteorder("="))
            # The table covers every bit pattern, so that "clip" clips nothing: it is three times as fast as the checks of indexing.
            yield np.take(self._lut, cropped.view(f"u{cropped.dtype.itemsize}"), mode="clip")
            count += 1
        if count != len(indices):
            raise Unreadable(
                f"only {count} of {len(indices)} frames are present", "the file is truncated: copy it again"
            )

    def _decoded(self, indices: list[int]) -> Iterator[np.ndarray]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                source = self.path
                syntax = getattr(self.header.file_meta, "TransferSyntaxUID", None)
                # Two cases that pydicom cannot stream from the file: deflated, and no preamble to say the syntax.
                if syntax is None or syntax.is_deflated:
                    source = pydicom.dcmread(self.path, force=True)
                if syntax is None:
                    implicit, little = source.original_encoding
                    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                    source.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
                yield from iter_pixels(source, indices=indices, raw=True)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever their C library does
            if "missing" in str(error) and "dependenc" in str(error):
                raise Unreadable(
                    "no decoder for its transfer syntax is installed", "install the pinned requirements"
                ) from None
            raise Unreadable(
                "the pixel data cannot be decoded", "the file is truncated or damaged: copy it again"
            ) from None


def value_lut(header: Dataset, relationship: str) -> tuple[np.ndarray, float]:
    """(float32 table from the stored bit pattern to the plane's unit, log attenuation per stored value or 0).

    LIN: ln of the rescaled value. LOG: stored value times the log attenuation one step stands for, from the Modality LUT that leads back to linear
    (PS3.3 C.8.7.1.1.2) where present, else full range taken as ln(2^bits). DISP: display value in [0, 1] through the first VOI window.
    """
    allocated, stored = int(header.BitsAllocated), int(header.get("BitsStored") or header.BitsAllocated)
    if not 1 <= stored <= allocated:
        raise Unreadable(f"{stored} bits stored in {allocated}", "export the run again")
    if int(header.get("HighBit", stored - 1)) != stored - 1:
        raise Unreadable(
            "an obsolete bit layout, its values not in the lowest bits", "convert the run to a current form"
        )
    values = np.arange(2**stored, dtype=np.int64)
    low, high = 0, 2**stored - 1
    if int(header.get("PixelRepresentation") or 0) == 1:
        low, high = -(2 ** (stored - 1)), 2 ** (stored - 1) - 1
        values = np.where(values > high, values - 2**stored, values)
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable("an unknown photometric interpretation", "export the run as grey-scale XA")
    sign = find(header, "PixelIntensityRelationshipSign") if relationship != "DISP" else None
    if int(sign) == -1 if sign is not None else photometric == "MONOCHROME1":
        values = low + high - values
    scale = 0.0
    if relationship == "DISP":
        centre, width = numbers(header.get("WindowCenter")), numbers(header.get("WindowWidth"))
        if centre and width and width[0] > 1 and stored > 8:
            shown = (values - (centre[0] - 0.5)) / (width[0] - 1) + 0.5  # PS3.3 C.11.2.1.2.1
        else:
            shown = (values - low) / (high - low)
        table = np.clip(shown, 0, 1)
    elif relationship == "LOG":
        scale = _log_step(header, stored)
        table = values * scale
    else:
        slope, intercept = (numbers(find(header, f"Rescale{name}")) for name in ("Slope", "Intercept"))
        linear = values * (slope[0] if slope else 1.0) + (intercept[0] if intercept else 0.0)
        table = np.log(np.maximum(linear, 1.0))
    # Bits beside the stored ones (old overlays) carry no value: the table repeats over them.
    return np.tile(table.astype(np.float32), 2 ** (allocated - stored)), scale


def _log_step(header: Dataset, stored: int) -> float:
    items = header.get("ModalityLUTSequence")
    if items:
        entries, first, _ = numbers(items[0].LUTDescriptor)
        data = items[0].LUTData
        order = ">u2" if header.original_encoding[1] is False else "<u2"
        linear = np.frombuffer(data, order) if isinstance(data, bytes) else np.asarray(data)
        used = np.flatnonzero(linear > 0)
        if len(used) == len(linear) == (entries or 65536) and len(used) > 1:
            return float(abs(np.polyfit(used + first, np.log(linear[used].astype(float)), 1)[0]))
    return math.log(2**stored) / (2**stored - 1)


def subtracted_run(
    path: Path, acquisition: Acquisition, size: int, background_grey: int, contrast_per_grey: float
) -> Run:
    """Frames of one series, subtracted, squared, resized and windowed.

    Contrast (log attenuation over the mask) becomes grey = background_grey − contrast / contrast_per_grey. Runs that were stored subtracted keep their
    grey values but for one linear map: the background mode to `background_grey`, full opacity to 0. Raises Unreadable.
    """
    with tags.faults_named():
        planes = _Planes(path, acquisition.relationship)
        masks, window = _masks(planes, acquisition)
    weight = _squared(planes.inside.astype(np.float32), size)
    frames = np.empty((planes.frames, size, size), np.uint8)
    if masks is not None:
        per_grey = contrast_per_grey if acquisition.relationship != "DISP" else 1 / 255
        for index, plane in enumerate(planes):
            small = _squared(planes.in_field(masks[index] - plane), size)
            frames[index] = _as_grey(background_grey - small / per_grey)
        window |= {"background": 0.0, "contrast_per_grey": per_grey}
    else:
        stored = np.empty(frames.shape, np.float32)
        for index, plane in enumerate(planes):
            stored[index] = _squared(planes.in_field(plane), size)
        # Levels of a long run are measured on some of its frames: they take several copies of what they look at.
        seen = stored[:: max(1, planes.frames // LEVEL_FRAMES), weight > 0.99]
        background = background_level(seen)
        dark = vessels_are_dark(seen, background)
        span = background if dark else background - 1
        for index, small in enumerate(stored):
            # The field's edge and the squared margins were filled with 0; now that the background is known they are filled with it.
            small += (1 - weight) * background
            frames[index] = _as_grey(background_grey * (small if dark else small - 1) / span)
        window |= {"background": round(background, 6), "contrast_per_grey": round(span / background_grey, 8)}
    window |= {"relationship": acquisition.relationship, "log_per_value": round(planes.scale, 10)}
    return Run(frames, window)


def _as_grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255)


def _masks(planes: _Planes, acquisition: Acquisition) -> tuple[list[np.ndarray] | None, dict[str, object]]:
    """(mask of each frame, or None for a run stored subtracted; what was done).

    With a mask module the frames it names are averaged (AVG_SUB); several items each serve their frame range. Without one, a LIN or LOG run takes the
    brightest of its first frames: contrast medium only ever takes intensity away.
    """
    items = tags.mask_items(planes.header, planes.frames)
    if items:
        averaged = []
        for item in items:
            mask = np.zeros(planes.inside.shape, np.float64)
            for plane in planes.keep(item.frames):
                mask += plane
            mask = (mask / len(item.frames)).astype(np.float32)
            if any(item.shift):
                from scipy.ndimage import shift

                mask = shift(mask, item.shift, order=1, mode="nearest")
            averaged.append(mask)
        source = "mask module"
        listed = sorted({frame + 1 for item in items for frame in item.frames})
        return [averaged[_serving(items, frame)] for frame in range(planes.frames)], _how(source, listed)
    if acquisition.relationship == "DISP":
        return None, _how("stored subtracted", [])
    first = list(planes.keep(range(min(KEPT_PLANES, max(1, planes.frames // 3)))))
    chosen = int(np.argmax([plane[planes.inside].mean(dtype=np.float64) for plane in first]))
    return [first[chosen]] * planes.frames, _how("chosen from the first frames", [chosen + 1])


def _how(source: str, frames: list[int]) -> dict[str, object]:
    return {"mask_source": source, "mask_frames": " ".join(str(frame) for frame in frames)}


def _serving(items: list, frame: int) -> int:
    """Index of the mask item whose range holds `frame` (the last one, where several do; the first item, where none does)."""
    return next((i for i in reversed(range(len(items))) if items[i].applies_to(frame)), 0)


def _squared(plane: np.ndarray, size: int) -> np.ndarray:
    """`plane` centred on a square of zeros and resized, antialiased, to [size, size]: nothing in the field is cut off or stretched."""
    rows, columns = plane.shape
    side = max(rows, columns)
    if rows != columns:
        square = np.zeros((side, side), np.float32)
        top, left = (side - rows) // 2, (side - columns) // 2
        square[top : top + rows, left : left + columns] = plane
        plane = square
    if side == size:
        return plane
    # Pillow widens the kernel by the reduction factor; Hamming keeps vessel edges sharper than the triangle and does not ring.
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((size, size), Image.HAMMING))


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


def example(path: Path, frame: int) -> dict[str, np.ndarray]:
    """Planes of one frame at full size for a figure: "raw" and "mask" where there is a mask, and "subtracted" (raw − mask, or as stored: vessels dark)."""
    acquisition = read_acquisition(path)
    planes = _Planes(path, acquisition.relationship)
    masks, _ = _masks(planes, acquisition)
    plane = next(iter(planes.at([frame])))
    if masks is None:
        return {"subtracted": plane}
    return {"raw": plane, "mask": masks[frame], "subtracted": plane - masks[frame]}
