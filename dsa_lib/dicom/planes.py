"""Opening an XA file and decoding it frame by frame into planes of log intensity or display value; used by `dsa_lib.dicom.series` alone."""

import functools
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
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

from dsa_lib.dicom import burned_in, tags
from dsa_lib.dicom.tags import Unreadable
from dsa_lib.dicom.values import value_table

FIRST_FRAMES = 5  # planes kept for later passes; among so many a run without mask module finds its mask


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
    with tags.faults_named():
        synthetic = tags.is_synthetic(header)
    if synthetic:
        raise Unreadable(
            "marked as synthetic: it shows no patient",
            "nothing to do: generated images never enter a cohort of patients",
        )
    if sop_class not in (XRayAngiographicImageStorage, EnhancedXAImageStorage):
        raise Unreadable("not an X-ray angiography image", "nothing to do: other objects are not part of the study")
    return header


class Planes:
    """Frames of one file as float32 planes within the shutter's bounding box: log intensity (LIN, LOG) or display value in [0, 1] (DISP)."""

    def __init__(self, path: Path, relationship: str):
        self.path, self.header = path, read_header(path)
        self.frames = int(self.header.get("NumberOfFrames") or 1)
        self.shape = int(self.header.Rows), int(self.header.Columns)
        self.values = value_table(self.header, relationship)
        self.rows, self.columns, self.inside = tags.shutter(self.header, self.shape)
        self._whole = bool(self.inside.all())
        self._kept: dict[
            int, np.ndarray
        ] = {}  # decoded for the mask, and not again for the run: decoding is most of the work
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        self.recent = 1  # how many of the planes seen last `plane` has at hand

    def __iter__(self) -> Iterator[np.ndarray]:
        self.still = burned_in.Still(self.frames)
        for plane in self.at(range(self.frames)):
            self.still.add(plane)
            yield plane

    def each(self) -> Iterator[int]:
        """Frame numbers in order, decoding in one stream; while a number is out, `plane` has its plane at hand."""
        for index, plane in enumerate(self):
            self._see(index, plane)
            yield index

    def plane(self, index: int) -> np.ndarray:
        """One plane, from those at hand where it is among them, else decoded."""
        if index not in self._recent:
            self._see(index, next(self.at([index])))
        return self._recent[index]

    def _see(self, index: int, plane: np.ndarray) -> None:
        self._recent[index] = plane
        while len(self._recent) > self.recent:
            self._recent.popitem(last=False)

    def mean(self, indices: tuple[int, ...]) -> np.ndarray:
        """Mean of the planes `indices`."""
        if len(indices) == 1:
            return self.plane(indices[0])
        total = np.zeros(self.inside.shape)
        for plane in map(self.plane, indices) if len(indices) <= self.recent else self.at(indices):
            total += plane
        return (total / len(indices)).astype(np.float32)

    def mask(self, indices: tuple[int, ...]) -> np.ndarray:
        """Mean of the planes `indices`, which are kept for the pass over the run that follows."""
        total = np.zeros(self.inside.shape)
        for plane in self.keep(indices):
            total += plane
        return (total / len(indices)).astype(np.float32)

    def keep(self, indices) -> Iterator[np.ndarray]:
        """As `at`, but the first few planes stay at hand for later passes."""
        indices = list(indices)
        for index, plane in zip(indices, self.at(indices), strict=True):
            if len(self._kept) < FIRST_FRAMES:
                self._kept[index] = plane
            yield plane

    def in_field(self, values: np.ndarray) -> np.ndarray:
        """`values` [rows, columns], 0 outside the shutter."""
        return values if self._whole else values * self.inside

    def at(self, indices) -> Iterator[np.ndarray]:
        """Planes float32 [rows, columns] of the frames `indices` (0-based). Raises Unreadable when they cannot be decoded."""
        indices = list(indices)
        held = {
            index: self._kept[index] for index in indices if index in self._kept
        }  # more may come while this one is under way
        fresh = self._fresh([index for index in indices if index not in held])
        for index in indices:
            yield held[index] if index in held else next(fresh)

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
            yield np.take(self.values.table, cropped.view(f"u{cropped.dtype.itemsize}"), mode="clip")
            count += 1
        if count != len(indices):
            raise Unreadable("fewer frames are present than the header states", "the file is truncated: copy it again")

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
