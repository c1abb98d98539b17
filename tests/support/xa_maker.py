"""Small multi-frame XA files for tests; every element can be overridden or removed (None)."""

import struct

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, XRayAngiographicImageStorage, generate_uid


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
    if compress == JPEGLosslessSV1:
        dataset.PixelData = encapsulate([jpeg_lossless(frame, bits) for frame in frames])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    elif compress is not None:
        dataset.compress(compress, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def jpeg_lossless(frame: np.ndarray, bits: int = 16) -> bytes:
    """`frame` [rows, columns] as lossless JPEG, process 14 with selection value 1 (ITU-T T.81 annex H): what most angiography systems archive.

    No package at hand encodes it. The Huffman code has fixed lengths, given to the categories by their frequency.
    """
    values = frame.astype(np.int64) & (2**bits - 1)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    residual = (values - predicted + 32768) % 65536 - 32768  # modulo 2^16 (H.1.2.1)
    residual = residual.ravel()
    category = np.ceil(np.log2(np.abs(residual) + 1)).astype(
        np.int64
    )  # bits that the residual needs; 16 stands for −32768 alone
    lengths = np.array([2, *[3] * 5, *range(4, 15)])  # of the 17 categories, commonest first
    order = np.argsort(-np.bincount(category, minlength=17), kind="stable")
    code, codes, length = 0, np.zeros(17, np.int64), np.zeros(17, np.int64)
    for place, symbol in enumerate(order):  # canonical code (C.2)
        code <<= int(lengths[place] - lengths[max(place - 1, 0)])
        codes[symbol], length[symbol] = code, lengths[place]
        code += 1
    extra = np.where(category == 16, 0, category)
    word = (codes[category] << extra) | np.where(residual > 0, residual, residual + (1 << extra) - 1) % (1 << extra)
    size = length[category] + extra
    pixel = np.repeat(np.arange(len(size)), size)
    place = np.arange(len(pixel)) - np.repeat(np.cumsum(size) - size, size)
    stream = ((word[pixel] >> (size[pixel] - 1 - place)) & 1).astype(np.uint8)
    stream = np.concatenate([stream, np.ones(-len(stream) % 8, np.uint8)])
    scan = np.packbits(stream).tobytes().replace(b"\xff", b"\xff\x00")
    counts = [int((lengths == n).sum()) for n in range(1, 17)]
    table = bytes([0, *counts, *order.tolist()])
    rows, columns = frame.shape
    return (
        b"\xff\xd8"
        + struct.pack(">HHBHHB3B", 0xFFC3, 11, bits, rows, columns, 1, 1, 0x11, 0)
        + struct.pack(">HH", 0xFFC4, 2 + len(table))
        + table
        + struct.pack(">HHB2B3B", 0xFFDA, 8, 1, 1, 0, 1, 0, 0)
        + scan
        + b"\xff\xd9"
    )
