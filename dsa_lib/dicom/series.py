"""One XA file in, subtracted frames and acquisition facts out, or a reason why not (§2.1–2.2; DICOM PS3.3 C.7.6.10 mask, C.8.7 X-ray angiography).

A stored value becomes a frame of the study in five steps, frame by frame so that memory holds one frame at full size:
value → log intensity (only if linear) → mask − frame → shutter, square, antialiased resize → one grey window for the series.
`planes` opens and decodes, `tags` reads the header's facts, `values` what a stored value means, `mask_subtraction` pairs frames with their masks and
subtracts.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from dsa_lib.dicom import mask_subtraction, tags
from dsa_lib.dicom.mask_subtraction import Pairing
from dsa_lib.dicom.planes import FIRST_FRAMES, Planes, read_header
from dsa_lib.dicom.tags import Unreadable, find

MAX_SIDE, MAX_FRAMES = 4096, 2000  # beyond any angiographic detector or run: a damaged header, not an image
NATIVE_PER_GREY = (
    0.01  # log intensity of one grey level of an unsubtracted frame: 256 of them span direct beam and petrous bone
)
NATIVE_WHITE = 250  # grey of its direct beam
LEVEL_FRAMES = 64  # of a run stored subtracted, from which its background and polarity are measured (twice as many where it has few)


@dataclass(frozen=True)
class Acquisition:
    """What the header says. The identifying fields (patient, uids, texts) never leave `dsa_lib.curation.cohort` in the clear.

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
    table_moves: bool
    differencing: bool  # every mask operation is time-interval differencing
    frames: int
    frame_times_s: tuple[float, ...]
    frame_time_source: str
    relationship: str  # LIN, LOG or DISP
    study_date: str = ""  # DA
    relationship_assumed: bool = False  # the header states none of the three

    def obstacle(self, differencing: str = "subtract") -> str:
        """Why this run cannot give subtracted frames of a known view; "" where it can. `differencing` as in `profiles.Curation`."""
        if self.rotational:
            return "rotational run: the view changes"
        if self.table_moves:
            return "moving table: the view changes"
        if self.plane is None or self.primary_angle_deg is None or self.secondary_angle_deg is None:
            return "no C-arm angles in the header"
        if max(abs(self.primary_angle_deg), abs(self.secondary_angle_deg)) > 180:
            return "impossible C-arm angles in the header"
        if self.differencing and differencing == "exclude":
            return "time-interval differencing: shows the change between frames, not the filled vessels"
        if self.frames == 1 and self.relationship != "DISP":
            return "a single unsubtracted frame"
        return ""


@dataclass(frozen=True)
class Run:
    """Subtracted frames uint8 [n, size, size], dark vessels on `background_grey`; `numbers` [n], their frame numbers in the file from 0 (frames that the
    mask module leaves unsubtracted are not among them); the constants of how they were made; and where burned-in text is likely."""

    frames: np.ndarray
    numbers: np.ndarray
    window: dict[str, object] = field(default_factory=dict)
    text: tuple[str, ...] = ()


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
        raise Unreadable("impossible dimensions in the header", "export the run again")
    if int(header.get("SamplesPerPixel", 1)) != 1 or int(header.get("BitsAllocated", 0)) not in (8, 16):
        raise Unreadable("not an 8 or 16 bit grey-scale image", "export the run as grey-scale XA")
    primary_deg, secondary_deg = tags.angles_deg(header)
    plane, plane_source = tags.plane_of(header, primary_deg)
    times, time_source = tags.frame_times_s(header, frames)
    relationship, assumed = str(find(header, "PixelIntensityRelationship") or "").upper(), False
    if relationship not in ("LIN", "LOG", "DISP"):
        # Not stated, or OTHER: what was processed for display, else what leads back to linear, else the detector's own values.
        types = header.get("ImageType") or [""]
        derived = str(types if isinstance(types, str) else types[0]).upper() == "DERIVED"
        table = tags.sequence_item(header, "PixelIntensityRelationshipLUTSequence")
        relationship = "DISP" if derived else "LOG" if table is not None else "LIN"
        assumed = True
    applied = find(header, "ImageProcessingApplied") or []
    if "DIGITAL_SUBTR" in ([applied] if isinstance(applied, str) else list(applied)):
        relationship = "DISP"  # Enhanced XA: subtracted before it was stored
    sex = str(header.get("PatientSex") or "").upper()
    return Acquisition(
        patient_id=str(header.PatientID),
        study_uid=str(header.StudyInstanceUID),
        series_uid=str(header.SeriesInstanceUID),
        sop_uid=str(header.SOPInstanceUID),
        texts=tags.texts(header),
        sex=sex if sex in ("F", "M", "O") else "",
        age=tags.ages(header),
        plane=plane,
        plane_source=plane_source,
        primary_angle_deg=primary_deg,
        secondary_angle_deg=secondary_deg,
        rotational=tags.is_rotational(header),
        table_moves=tags.table_moves(header),
        differencing=mask_subtraction.only_differencing(header),
        frames=frames,
        frame_times_s=times,
        frame_time_source=time_source,
        relationship=relationship,
        relationship_assumed=assumed,
        study_date=str(header.get("StudyDate") or ""),
    )


def subtracted_run(
    path: Path,
    acquisition: Acquisition,
    size: int,
    background_grey: int,
    contrast_per_grey: float,
    rounded: bool = True,
) -> Run:
    """Frames of one series, subtracted, squared, resized and windowed.

    Contrast (log attenuation over the mask) becomes grey = background_grey − contrast / contrast_per_grey. Runs that were stored subtracted keep their
    grey values but for one linear map: the background mode to `background_grey`, full opacity to 0. `rounded` False gives float32 frames, clipped to
    the grey range but not rounded: references of measurements, never what networks see. Raises Unreadable.
    """
    grey = np.uint8 if rounded else np.float32
    with tags.faults_named():
        planes = Planes(path, acquisition.relationship)
        plan, window = _plan(planes, acquisition)
    weight = np.array(_squared(planes.inside.astype(np.float32), size))
    if plan is None:
        numbers = np.arange(planes.frames)
        stored = np.empty((planes.frames, size, size), np.float32)
        for index, plane in enumerate(planes):
            stored[index] = _squared(planes.in_field(plane), size)
        # Blanking that no shutter element tells of counts as outside the field.
        blank = mask_subtraction.blank(stored)
        stored[:, blank], weight[blank] = 0, 0
        # Levels of a long run are measured on some of its frames: they take several copies of what they look at.
        seen = stored[:: max(1, planes.frames // LEVEL_FRAMES), weight > 0.99]
        background = mask_subtraction.background_level(seen)
        dark = mask_subtraction.vessels_are_dark(seen, background)
        span = background if dark else background - 1
        frames = np.empty(stored.shape, grey)
        for index, small in enumerate(stored):
            # The field's edge and the squared margins were filled with 0; now that the background is known they are filled with it.
            small += (1 - weight) * background
            frames[index] = _as_grey(background_grey * (small if dark else small - 1) / span, rounded)
        window |= {"background": round(background, 6), "contrast_per_grey": round(span / background_grey, 8)}
    else:
        numbers = np.array(list(plan))
        frames = np.empty((len(plan), size, size), grey)
        per_grey = contrast_per_grey if acquisition.relationship != "DISP" else 1 / 255
        for index, (_, _, difference) in enumerate(mask_subtraction.subtracted(planes, plan)):
            frames[index] = _as_grey(background_grey - _squared(planes.in_field(difference), size) / per_grey, rounded)
        window |= {"background": 0.0, "contrast_per_grey": per_grey}
    window |= {
        "relationship": acquisition.relationship,
        "log_per_value": round(planes.values.log_per_value, 10),
        "value_mapping": planes.values.mapping + ("; relationship assumed" if acquisition.relationship_assumed else ""),
    }
    text = tuple(planes.still.text(logged=acquisition.relationship == "LIN"))
    return Run(frames, numbers, window, text)


def _as_grey(values: np.ndarray, rounded: bool) -> np.ndarray:
    return np.clip(np.rint(values) if rounded else values, 0, 255)


def _plan(planes: Planes, acquisition: Acquisition) -> tuple[dict[int, Pairing] | None, dict[str, object]]:
    """(pairing of each frame, or None for a run stored subtracted; what was done, for the record).

    The mask module decides where there is one. Without one a display run is looked at (`mask_subtraction.is_native`), and a native run of any kind takes the
    brightest of its first frames as mask.
    """
    if (plan := mask_subtraction.pairings(planes.header, planes.frames)) is not None:
        operations = sorted({pairing.operation for pairing in plan.values()})
        named = sorted({frame for pairing in plan.values() for frame in pairing.mask})
        if operations != ["AVG_SUB"]:
            return plan, _how(f"mask module, {' and '.join(operations)}", [])
        return plan, _how("mask module", named)
    first = list(planes.keep(range(min(FIRST_FRAMES, max(1, planes.frames // 3)))))
    if acquisition.relationship == "DISP":
        second = planes.plane(min(1, planes.frames - 1))
        seen = planes.inside & ~mask_subtraction.blank(np.stack([first[0], second]))
        if not seen.any() or not mask_subtraction.is_native(first[0][seen], second[seen], alone=planes.frames == 1):
            return None, _how("stored subtracted", [])
        if planes.frames == 1:
            raise Unreadable("a single frame that is not subtracted", "export the run with its mask frames")
    chosen = mask_subtraction.brightest(first, planes.inside)
    pairing = {frame: Pairing((frame,), (chosen,), (0.0, 0.0), "AVG_SUB") for frame in range(planes.frames)}
    return pairing, _how("chosen from the first frames", [chosen])


def _how(source: str, frames: list[int]) -> dict[str, object]:
    return {"mask_source": source, "mask_frames": " ".join(str(frame + 1) for frame in frames)}


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


def stored_size(path: Path) -> int:
    """Longer side of the frames in pixels, as they are stored in the file."""
    header = read_header(path)
    return max(int(header.Rows), int(header.Columns))


def example(path: Path, frame: int) -> dict[str, np.ndarray]:
    """Planes of frame `frame` (number in the file from 0) at full size for a figure: "raw" and "mask" where there is a mask, and "subtracted" (raw − mask,
    or as stored: vessels dark)."""
    acquisition = read_acquisition(path)
    planes = Planes(path, acquisition.relationship)
    plan, _ = _plan(planes, acquisition)
    if plan is None:
        return {"subtracted": planes.plane(frame)}
    raw, mask, difference = next(iter(mask_subtraction.subtracted(planes, {frame: plan[frame]})))
    return {"raw": raw, "mask": mask, "subtracted": -difference}


def unsubtracted(path: Path, frame: int) -> np.ndarray:
    """Plane float32 of frame `frame` (from 0) at full size, unsubtracted: log intensity, or display value where the run is stored for display."""
    return Planes(path, read_acquisition(path).relationship).plane(frame)


def native_frame(path: Path, acquisition: Acquisition, frame: int, size: int) -> np.ndarray:
    """Frame `frame` (from 0) as acquired, bones and all, uint8 [size, size] on the grid of the curated frames: nothing is subtracted from it.

    One grey level is NATIVE_PER_GREY of log intensity, so that a vessel's darkness means as much contrast medium in every frame; the brightest twentieth
    of the field lies at white or close to it, and the outside of the shutter is black. Runs stored for display keep their values.
    """
    planes = Planes(path, acquisition.relationship)
    plane = planes.plane(frame)
    if acquisition.relationship == "DISP":
        grey = 255 * plane
    else:
        grey = NATIVE_WHITE + (plane - np.quantile(plane[planes.inside], 0.95)) / NATIVE_PER_GREY
    return np.clip(np.rint(_squared(planes.in_field(grey.astype(np.float32)), size)), 0, 255).astype(np.uint8)
