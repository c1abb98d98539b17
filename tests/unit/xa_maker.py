"""Small multi-frame XA files for tests; every element can be overridden or removed (None)."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid


def item(**elements) -> Dataset:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def mask_module(*items: Dataset) -> Sequence:
    return Sequence([*items])


def avg_sub(*frames: int, **further) -> Dataset:
    return item(MaskOperation="AVG_SUB", MaskFrameNumbers=list(frames), **further)


def make_xa(path, frames: np.ndarray, syntax=ExplicitVRLittleEndian, compress=None, bits=12, **elements) -> Dataset:
    """Write `frames` [n, rows, columns]; LIN, plane A at 0°/0°, "ICA re", mask on frame 1, unless `elements` say otherwise."""
    frames = np.asarray(frames)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = XRayAngiographicImageStorage
    unique = [str(path)]
    defaults = {
        "SOPInstanceUID": generate_uid(entropy_srcs=[*unique, "sop"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[*unique, "series"]),
        "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
        "Modality": "XA",
        "PatientID": "4711",
        "PatientName": "Muster^Erika",
        "PatientSex": "F",
        "PatientAge": "056Y",
        "ImageType": ["ORIGINAL", "PRIMARY", "BIPLANE A"],
        "SeriesDescription": "ICA re",
        "PositionerMotion": "STATIC",
        "PositionerPrimaryAngle": "0",
        "PositionerSecondaryAngle": "0",
        "FrameTime": "500",
        "PixelIntensityRelationship": "LIN",
        "MaskSubtractionSequence": mask_module(avg_sub(1)),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "NumberOfFrames": frames.shape[0],
        "Rows": frames.shape[1],
        "Columns": frames.shape[2],
        "BitsAllocated": frames.dtype.itemsize * 8,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(frames.dtype.kind == "i"),
    }
    for name, value in (defaults | elements).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    order = frames.dtype.newbyteorder("<" if syntax.is_little_endian else ">")
    dataset.PixelData = frames.astype(order).tobytes()
    dataset["PixelData"].VR = "OW"
    if compress is not None:
        dataset.compress(compress, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return dataset
