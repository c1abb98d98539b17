"""One plane of a run as multi-frame X-Ray Angiographic Image Storage (PS3.3 A.14), the way a biplane suite stores it."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

SIMULATED = "Simulated phantom angiogram: no patient was examined."


def _text(value: float) -> str:
    return f"{value:.6g}"


def _date(day) -> str:
    return day.strftime("%Y%m%d")


def dataset(row: dict, acquisition, frames: np.ndarray, config) -> Dataset:
    """The DICOM data set of one plane.

    row: its line of the plan; acquisition: `acquisition.Acquisition`; frames: [frames, matrix, matrix] uint16 of 12 bits, raw and
    unsubtracted, linear in exposure (PixelIntensityRelationship LIN), so a reader must take logarithms before it subtracts the mask.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = XRayAngiographicImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = row["sop_instance_uid"]
    ds.file_meta.ImplementationClassUID = generate_uid(entropy_srcs=["dsa phantom", "implementation"])
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = [
        "ORIGINAL",
        "PRIMARY",
        f"BIPLANE {row['plane']}" if acquisition.rotation_deg == () else "SINGLE PLANE",
    ]
    if len(row["partners"]) and acquisition.rotation_deg == ():
        other = Dataset()
        other.ReferencedSOPClassUID = XRayAngiographicImageStorage
        other.ReferencedSOPInstanceUID = row["partners"][0]
        ds.ReferencedImageSequence = Sequence([other])
    _who_and_when(ds, row)
    _how(ds, row, acquisition, config)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LIN", 1
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    ds.FrameTime, ds.FrameIncrementPointer = _text(config.frame_time_ms), 0x00181063
    ds.CineRate = ds.RecommendedDisplayFrameRate = max(round(1000 / config.frame_time_ms), 1)
    ds.LossyImageCompression, ds.BurnedInAnnotation = "00", "NO"
    ds.ImageComments = ds.DerivationDescription = SIMULATED
    if acquisition.rotation_deg == ():
        mask = Dataset()
        mask.MaskOperation = "AVG_SUB"
        mask.MaskFrameNumbers = list(acquisition.mask_frames)
        ds.MaskSubtractionSequence = Sequence([mask])
        ds.RecommendedViewingMode = "SUB"
    ds.PixelData = frames.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _who_and_when(ds: Dataset, row: dict) -> None:
    day = row["study_date"]
    ds.PatientName = f"PHANTOM^{row['patient'] + 1:04d}"
    ds.PatientID, ds.PatientSex = row["patient_id"], row["sex"]
    ds.PatientAge = f"{row['age']:03d}Y"
    born = day - datetime.timedelta(days=int(row["age"] * 365.25) + 1 + (row["patient"] * 37) % 340)
    ds.PatientBirthDate = _date(born)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = row["study_instance_uid"], row["series_instance_uid"]
    ds.StudyID, ds.AccessionNumber = f"{row['study_number']}", f"PH{row['patient'] + 1:05d}{row['study_number']:02d}"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = _date(day)
    clock = datetime.datetime(2000, 1, 1, 8) + datetime.timedelta(minutes=(row["patient"] * 53) % 480)
    ds.StudyTime = clock.strftime("%H%M%S")
    clock += datetime.timedelta(minutes=5 + 3 * row["acquisition_number"])
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = clock.strftime("%H%M%S")
    ds.ReferringPhysicianName = ""
    ds.Modality, ds.Manufacturer = "XA", "dsa_lib simulated biplane phantom (not a medical device)"
    ds.ManufacturerModelName, ds.SoftwareVersions, ds.InstitutionName = (
        "Biplane phantom",
        "1",
        "Phantom archive (simulated)",
    )
    ds.StudyDescription, ds.ProtocolName = (
        "Zerebrale Angiographie",
        "DSA 2 F/s Carotis" if row["vessel"] != "VA" else "DSA 2 F/s",
    )
    ds.ProtocolName = "3D rot" if row["kind"] == "rotational" else "DSA Kopf 2 B/s"
    ds.SeriesDescription = row["description"]
    ds.BodyPartExamined = {"arch": "CHEST", "spinal": "SPINE", "femoral": "PELVIS"}.get(row["kind"], "HEAD")
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = row["series_number"], row["acquisition_number"], 1
    ds.PatientOrientation = ["P", "F"] if row["plane"] == "B" else ["L", "F"]
    ds.ContrastBolusAgent = "Iodine 300 mg/ml (simulated)"


def _how(ds: Dataset, row: dict, acquisition, config) -> None:
    arm, exposure = acquisition.arm, acquisition.exposure
    magnification = arm.source_detector / arm.source_isocentre
    pitch = arm.field / config.matrix * magnification
    ds.KVP, ds.XRayTubeCurrent, ds.ExposureTime = "75", 320, 80
    ds.RadiationSetting, ds.TableMotion = "GR", "STATIC"
    ds.DistanceSourceToDetector = _text(round(arm.source_detector, 1))
    ds.DistanceSourceToPatient = _text(round(arm.source_isocentre, 1))
    ds.EstimatedRadiographicMagnificationFactor = _text(magnification)
    ds.ImagerPixelSpacing = [_text(pitch), _text(pitch)]
    ds.FieldOfViewShape, ds.FieldOfViewDimensions = "RECTANGLE", [round(pitch * config.matrix)] * 2
    ds.FieldOfViewRotation, ds.FieldOfViewHorizontalFlip = "0", "YES" if arm.flip else "NO"
    ds.PositionerMotion = "STATIC"
    ds.PositionerPrimaryAngle, ds.PositionerSecondaryAngle = (
        _text(row["primary_angle_deg"]),
        _text(row["secondary_angle_deg"]),
    )
    if acquisition.rotation_deg:
        ds.PositionerMotion = "DYNAMIC"
        ds.PositionerPrimaryAngle = _text(acquisition.rotation_deg[0])
        steps = np.diff(acquisition.rotation_deg, prepend=acquisition.rotation_deg[0])
        ds.PositionerPrimaryAngleIncrement = [_text(round(s, 2)) for s in steps]
        ds.PositionerSecondaryAngleIncrement = ["0"] * len(steps)
    left, right, upper, lower = exposure.shutter
    matrix = config.matrix
    for prefix in ("Shutter", "Collimator"):
        setattr(ds, f"{prefix}Shape", "RECTANGULAR")
        setattr(ds, f"{prefix}LeftVerticalEdge", left + 1)
        setattr(ds, f"{prefix}RightVerticalEdge", min(right + 1, matrix))
        setattr(ds, f"{prefix}UpperHorizontalEdge", upper + 1)
        setattr(ds, f"{prefix}LowerHorizontalEdge", min(lower + 1, matrix))


def write_xa(path: Path, row: dict, acquisition, frames: np.ndarray, config) -> None:
    """Write one plane as a DICOM file. The same inputs give the same bytes."""
    pydicom.dcmwrite(path, dataset(row, acquisition, frames, config), enforce_file_format=True)
