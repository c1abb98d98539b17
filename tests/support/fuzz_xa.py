"""Mutated XA files: every one must be read or quarantined with a reason and a remedy, and harmless changes must not touch a pixel.

python tests/support/fuzz_xa.py --count 2000 [--seed 1]      # prints the outcomes and exits with 1 at a fault; test_fuzz.py runs fewer
"""

import argparse
import functools
import os
import socket
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

sys.path.insert(0, str(Path(__file__).parent))
from xa_maker import avg_sub, item, make_xa, mask_module

from dsa_lib.curation import archive_files, cohort
from dsa_lib.curation.circulation import VOCABULARY
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import Workspace

# Bounds small enough that a hang costs a moment; the base files take a hundredth of either.
SETTINGS = Curation(image_size=16, file_seconds=4, file_memory_mb=256)
UID = "1.2.826.0.1.3680043.8.498.4711"  # of every base file; its last digits are the file's own
BASES = {
    "explicit": (ExplicitVRLittleEndian, None, {}),
    "implicit": (ImplicitVRLittleEndian, None, {}),
    "big endian": (ExplicitVRBigEndian, None, {}),
    "deflated": (DeflatedExplicitVRLittleEndian, None, {}),
    "RLE": (ExplicitVRLittleEndian, RLELossless, {}),
    "JPEG 2000": (ExplicitVRLittleEndian, JPEG2000Lossless, {}),
    "JPEG lossless": (ExplicitVRLittleEndian, JPEGLosslessSV1, {}),
    "stored subtracted": (
        ExplicitVRLittleEndian,
        None,
        {"PixelIntensityRelationship": "DISP", "MaskSubtractionSequence": None, "WindowCenter": "2000", "WindowWidth": "3000"},
    ),
    "shutter and times": (
        ExplicitVRLittleEndian,
        None,
        {
            "ShutterShape": ["RECTANGULAR", "CIRCULAR"],
            "ShutterLeftVerticalEdge": 2,
            "ShutterRightVerticalEdge": 31,
            "ShutterUpperHorizontalEdge": 2,
            "ShutterLowerHorizontalEdge": 31,
            "CenterOfCircularShutter": [16, 16],
            "RadiusOfCircularShutter": 15,
            "FrameTimeVector": [0, 500, 250, 250],
            "FrameTime": None,
            "RescaleSlope": "2",
            "RescaleIntercept": "1",
            "MaskSubtractionSequence": mask_module(avg_sub(1, 2, ApplicableFrameRange=[1, 4], MaskSubPixelShift=[0.5, 0.25])),
        },
    ),
    "logarithmic": (ExplicitVRLittleEndian, None, {"PixelIntensityRelationship": "LOG", "MaskSubtractionSequence": None}),
}  # fmt: skip


@dataclass
class Base:
    path: Path
    dataset: pydicom.Dataset
    raw: bytes
    pixels: int  # offset of the pixel data element, or of the end
    elements: list[int]  # offsets of the top-level elements of the data set
    explicit: bool
    endian: str


MUTATORS = {}


def mutator(share: float = 1.0):
    def register(function):
        MUTATORS[function.__name__] = (function, share)
        return function

    return register


def make_bases(folder: Path) -> dict[str, Base]:
    rng = np.random.default_rng(7)
    frames = rng.integers(500, 4000, (4, 32, 32), dtype=np.uint16)
    bases = {}
    for name, (syntax, compress, elements) in BASES.items():
        path = folder / f"base {name}"
        make_xa(path, frames, syntax=syntax, compress=compress, SOPInstanceUID=UID + "000000", **elements)
        bases[name] = open_base(path)
    return bases


def open_base(path: Path) -> Base:
    dataset, raw = pydicom.dcmread(path), path.read_bytes()
    offsets = [
        element.file_tell if hasattr(element, "file_tell") else element.value_tell for element in dataset._dict.values()
    ]
    deflated = dataset.file_meta.TransferSyntaxUID.is_deflated
    implicit, little = dataset.original_encoding
    values = [] if deflated else [offset for offset in offsets if offset]
    pixel = raw.find(b"\xe0\x7f\x10\x00" if little else b"\x7f\xe0\x00\x10")
    return Base(path, dataset, raw, len(raw) if pixel < 0 else pixel, values, not implicit, "<" if little else ">")


def saved(dataset: pydicom.Dataset, folder: Path) -> bytes:
    path = folder / "scratch"
    dataset.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def put(dataset: pydicom.Dataset, keyword: str, value: bytes) -> None:
    """Write `value` as it is, whatever the VR allows."""
    tag = Tag(pydicom.datadict.tag_for_keyword(keyword))
    vr = pydicom.datadict.dictionary_VR(tag)
    implicit, little = dataset.original_encoding
    value += b" " * (len(value) % 2)
    dataset._dict[tag] = RawDataElement(tag, vr[:2], len(value), value, 0, implicit, little)


def copy_of(base: Base) -> pydicom.Dataset:
    return pydicom.dcmread(base.path)


# --- mutations of the bytes -------------------------------------------------------------------------------------------------------------------


def flipped(raw: bytes, rng, first: int, last: int) -> bytes:
    changed = bytearray(raw)
    for place in rng.integers(first, max(first + 1, last), rng.integers(1, 9)):
        changed[min(place, len(raw) - 1)] ^= 1 << rng.integers(8)
    return bytes(changed)


@mutator(4)
def flip_header(base, rng, folder):
    return flipped(base.raw, rng, 128, base.pixels), False


@mutator(3)
def flip_pixels(base, rng, folder):
    return flipped(base.raw, rng, min(base.pixels, len(base.raw) - 100), len(base.raw)), False


@mutator(2)
def truncate(base, rng, folder):
    return base.raw[: rng.integers(0, len(base.raw))], False


@mutator(1)
def truncate_at_an_element(base, rng, folder):
    place = int(rng.choice(base.elements)) if base.elements else 400
    return base.raw[: place + int(rng.integers(-9, 3))], False


@mutator(3)
def wrong_length(base, rng, folder):
    place = int(rng.choice(base.elements)) if base.elements else int(rng.integers(140, 400))
    lengths = (0, 1, 7, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, int(rng.integers(2**31)))
    changed = bytearray(base.raw)
    value = int(rng.choice(lengths))
    if base.explicit and rng.random() < 0.7:
        struct.pack_into(base.endian + "H", changed, place - 2, value & 0xFFFF)
    else:
        struct.pack_into(base.endian + "I", changed, place - 4, value)
    return bytes(changed), False


@mutator(2)
def wrong_vr(base, rng, folder):
    place = int(rng.choice(base.elements)) if base.elements else 200
    changed = bytearray(base.raw)
    vr = (b"SQ", b"OB", b"UN", b"DS", b"US", b"UI", b"FD", b"AT", b"\x00\x00", b"zz", b"OW", b"UT", b"SV")[
        rng.integers(13)
    ]
    changed[place - 4 : place - 2] = vr
    return bytes(changed), False


@mutator(2)
def cut_or_repeat(base, rng, folder):
    first = int(rng.integers(132, len(base.raw) - 2))
    last = min(len(base.raw), first + int(rng.integers(1, 200)))
    kind = rng.integers(3)
    middle = (b"", base.raw[first:last] * 2, bytes(last - first))[kind]
    return base.raw[:first] + middle + base.raw[last:], False


@mutator(1)
def noise_behind_the_prefix(base, rng, folder):
    return bytes(128) + b"DICM" + rng.bytes(int(rng.integers(0, 3000))), False


@mutator(0.5)
def short_or_noise(base, rng, folder):
    return rng.bytes(int(rng.choice([0, 1, 2, 127, 131, 132, 133, 140, 4000]))), False


@mutator(2)
def other_transfer_syntax(base, rng, folder):
    uid = str(
        rng.choice(
            [
                "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50",
                "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81",
                "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5",
                "1.2.840.10008.5.1.4.1.1.12.1", "1.2.3", "",
            ]
        )
    )  # fmt: skip
    return with_syntax(base, uid) + base.raw[meta_end(base.raw) :], False


def with_syntax(base: Base, uid: str) -> bytes:
    """Preamble and file meta information of `base`, but for the transfer syntax."""
    head = b""
    for element in base.dataset.file_meta:
        if element.tag in (0x00020002, 0x00020003, 0x00020010):
            value = uid if element.tag == 0x00020010 else str(element.value)
            value = value.encode() + b"\0" * (len(value) % 2)
            head += struct.pack("<HH2sH", element.tag.group, element.tag.element, b"UI", len(value)) + value
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(head)) + head


def meta_end(raw: bytes) -> int:
    return 144 + struct.unpack_from("<I", raw, 140)[0]


# --- mutations of the elements ----------------------------------------------------------------------------------------------------------------


@mutator(3)
def missing(base, rng, folder):
    dataset = copy_of(base)
    del dataset[sorted(dataset._dict)[rng.integers(len(dataset._dict))]]
    return saved(dataset, folder), False


@mutator(2)
def empty(base, rng, folder):
    dataset = copy_of(base)
    tag = sorted(dataset._dict)[rng.integers(len(dataset._dict))]
    if tag == 0x7FE00010:
        del dataset[tag]
    else:
        implicit, little = dataset.original_encoding
        dataset._dict[tag] = RawDataElement(tag, dataset[tag].VR, 0, b"", 0, implicit, little)
    return saved(dataset, folder), False


@mutator(4)
def absurd_dimensions(base, rng, folder):
    dataset = copy_of(base)
    for _ in range(rng.integers(1, 4)):
        name = str(
            rng.choice(
                ["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation"]
            )
        )
        setattr(dataset, name, int(rng.choice([0, 1, 2, 7, 8, 12, 16, 17, 24, 25, 32, 64, 4096, 60000, 65535])))
    if rng.random() < 0.5:
        put(
            dataset,
            "NumberOfFrames",
            bytes(rng.choice([b"0", b"-1", b"1", b"3", b"5", b"2000", b"99999999999999", b"1e9", b"NaN", b"1\\2"])),
        )
    return saved(dataset, folder), False


NUMERIC = """PositionerPrimaryAngle PositionerSecondaryAngle PositionerPrimaryAngleIncrement FrameTime FrameTimeVector CineRate RescaleSlope RescaleIntercept
    WindowCenter WindowWidth CenterOfCircularShutter RadiusOfCircularShutter ShutterLeftVerticalEdge ShutterUpperHorizontalEdge
    VerticesOfThePolygonalShutter CenterOfCircularCollimator RadiusOfCircularCollimator""".split()


@mutator(5)
def absurd_numbers(base, rng, folder):
    dataset = copy_of(base)
    values = (
        b"NaN",
        b"inf",
        b"-1e308",
        b"1e400",
        b"9" * 400,
        b"abc",
        b"\\",
        b"1\\2\\3",
        b"\xff\xfe",
        b"0",
        b"-0",
        b"1e-320",
        b"-7",
        b"1e9",
        b"1\\" * 5000,
    )
    for _ in range(rng.integers(1, 4)):
        put(dataset, str(rng.choice(NUMERIC)), values[rng.integers(len(values))])
    if rng.random() < 0.3:
        dataset.ShutterShape = str(rng.choice(["RECTANGULAR", "CIRCULAR", "POLYGONAL"]))
    return saved(dataset, folder), False


@mutator(2)
def absurd_texts(base, rng, folder):
    dataset = copy_of(base)
    names = """PatientID PatientAge PatientSex PatientBirthDate StudyDate SeriesDescription ProtocolName BodyPartExamined ImageType PixelIntensityRelationship
        PhotometricInterpretation PositionerMotion SOPClassUID SeriesInstanceUID StudyInstanceUID""".split()
    values = (
        b"",
        b"\0" * 64,
        b"\\" * 9,
        b"x" * 5000,
        b"\xff\xfe\xfd",
        b"19001332",
        b"999Y",
        b"-01Y",
        "ü".encode("latin-1"),
        b"ICA\\VA",
        b"\x1b$B",
        b"ICA\0",
    )
    put(dataset, names[rng.integers(len(names))], values[rng.integers(len(values))])
    return saved(dataset, folder), False


@mutator(2)
def absurd_masks(base, rng, folder):
    dataset = copy_of(base)
    numbers = (["0"], [1, 4], [5], [65535], [1] * 3000, [2, 2, 2], [])
    items = []
    for _ in range(rng.integers(0, 4)):
        entry = item(MaskOperation=str(rng.choice(["AVG_SUB", "AVG_SUB", "TID", "REV_TID", "NONE", "", "x"])))
        chosen = numbers[rng.integers(len(numbers))]
        if chosen:
            entry.MaskFrameNumbers = [int(number) for number in chosen]
        if rng.random() < 0.4:
            entry.ApplicableFrameRange = [int(n) for n in rng.integers(0, 9, rng.integers(1, 5))]
        if rng.random() < 0.4:
            entry.MaskSubPixelShift = [float(n) for n in rng.choice([0, 0.5, -3, 1e6, 1e30], rng.integers(1, 4))]
        if rng.random() < 0.3:
            entry.TIDOffset = int(rng.choice([-3, 0, 1, 30000]))
        items.append(entry)
    dataset.MaskSubtractionSequence = mask_module(*items)
    return saved(dataset, folder), False


@mutator(1)
def absurd_modality_lut(base, rng, folder):
    dataset = copy_of(base)
    count = int(rng.choice([0, 1, 2, 4096, 65535]))
    data = rng.bytes(int(rng.choice([0, 2, 8192, 131072])))
    dataset.PixelIntensityRelationship = "LOG"
    dataset.ModalityLUTSequence = mask_module(item(LUTDescriptor=[count, int(rng.integers(0, 3)), 16], LUTData=data))
    return saved(dataset, folder), False


@mutator(1)
def nested_sequences(base, rng, folder):
    """Sequences in sequences, to 10,000 levels, in a private element or in place of the mask module."""
    if not (base.explicit and base.endian == "<") or base.dataset.file_meta.TransferSyntaxUID.is_deflated:
        return truncate(base, rng, folder)
    depth = int(rng.choice([10, 100, 1000, 10000]))
    group, element = ((0x0009, 0x1001), (0x0028, 0x6100))[rng.integers(2)]
    opening = struct.pack("<HH2sHI", group, element, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    place = base.pixels
    return base.raw[:place] + opening * depth + closing * depth * int(rng.integers(2)) + base.raw[place:], False


@mutator(1)
def undefined_length(base, rng, folder):
    if not (base.explicit and base.endian == "<") or not base.elements:
        return truncate(base, rng, folder)
    vr = (b"UN", b"OB", b"OW", b"UT", b"SQ")[rng.integers(5)]
    extra = struct.pack("<HH2sHI", 0x0027, 0x1010, vr, 0, 0xFFFFFFFF) + rng.bytes(int(rng.integers(0, 60)))
    return base.raw[: base.pixels] + extra + base.raw[base.pixels :], False


@mutator(3)
def broken_fragments(base, rng, folder):
    if not base.dataset.file_meta.TransferSyntaxUID.is_encapsulated or base.pixels + 12 > len(base.raw):
        return flip_pixels(base, rng, folder)
    changed = bytearray(base.raw)
    marks = [
        p
        for p in range(base.pixels + 12, len(changed) - 8)
        if changed[p : p + 4] in (b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0")
    ]
    place = marks[rng.integers(len(marks))]
    kind = rng.integers(5)
    if kind == 0:
        struct.pack_into("<I", changed, place + 4, int(rng.choice([0, 1, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 50])))
    elif kind == 1:
        del changed[place : place + 8]
    elif kind == 2:
        changed = changed[:place]
    elif kind == 3:
        changed[place : place + 4] = rng.bytes(4)
    else:
        changed[place + 8 : place + 12] = rng.bytes(4)
    return bytes(changed), False


# --- bombs ------------------------------------------------------------------------------------------------------------------------------------


@mutator(0.3)
def deflate_bomb(base, rng, folder):
    return with_syntax(base, DeflatedExplicitVRLittleEndian) + deflated_zeros(), False


@functools.cache
def deflated_zeros() -> bytes:
    """A private element of 320 MB in 320 kB."""
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    parts = [packer.compress(struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 320 << 20))]
    block = bytes(1 << 24)
    parts += [packer.compress(block) for _ in range(20)]
    return b"".join(parts) + packer.flush()


@mutator(1)
def declared_bomb(base, rng, folder):
    dataset = copy_of(base)
    dataset.Rows = dataset.Columns = int(rng.choice([4096, 2048, 512]))
    dataset.NumberOfFrames = int(rng.choice([2000, 500, 4]))
    return saved(dataset, folder), False


@mutator(1)
def codestream_bomb(base, rng, folder):
    """The image inside the fragment claims another size than the header: SIZ of JPEG 2000, SOF3 of JPEG."""
    changed = bytearray(base.raw)
    siz, sof = base.raw.find(b"\xff\x4f\xff\x51"), base.raw.find(b"\xff\xc3")
    side = int(rng.choice([1, 23, 25, 4096, 20000, 65000]))
    if siz > 0:
        struct.pack_into(">II", changed, siz + 8, side, side)
        struct.pack_into(">II", changed, siz + 24, side, side)
    elif sof > 0:
        struct.pack_into(">HH", changed, sof + 5, side, side)
    else:
        return flip_pixels(base, rng, folder)
    return bytes(changed), False


@mutator(0.5)
def rle_bomb(base, rng, folder):
    start = base.raw.find(struct.pack("<II", 2, 64), base.pixels)
    if "RLE" not in base.path.name or start < 0:
        return flip_pixels(base, rng, folder)
    changed = bytearray(base.raw)
    kind = rng.integers(3)
    if kind == 0:
        struct.pack_into("<I", changed, start, int(rng.choice([0, 1, 3, 15, 16, 0xFFFFFFFF])))
    elif kind == 1:
        struct.pack_into("<II", changed, start + 4, *(int(n) for n in rng.integers(0, 2**32, 2)))
    else:
        changed[start + 64 :] = b"\x81\xff" * ((len(changed) - start - 64) // 2)
    return bytes(changed), False


# --- changes that must not touch a pixel ------------------------------------------------------------------------------------------------------


@mutator(4)
def harmless(base, rng, folder):
    dataset = copy_of(base)
    for kind in rng.permutation(10)[: rng.integers(1, 4)]:
        if kind == 0:
            dataset.PatientName = "Andere^Person"
        elif kind == 1:
            put(dataset, "PatientName", b"\xc3\x28\xff^\xfe")
        elif kind == 2:
            put(dataset, "SpecificCharacterSet", b"ISO_IR 999")
        elif kind == 3:
            dataset.private_block(0x0019, "VENDOR", create=True).add_new(1, "OB", rng.bytes(200))
        elif kind == 4:
            dataset.private_block(0x0021, "HUGE", create=True).add_new(1, "OB", bytes(3 << 20))
        elif kind == 5:
            dataset.ReferencedImageSequence = mask_module(item(ReferencedSOPInstanceUID="1.2.3"), item())
        elif kind == 6:
            dataset.InstitutionName, dataset.ImageComments = "Klinik", "x" * 9000
        elif kind == 7:
            dataset.DataSetTrailingPadding = bytes(512)
        elif kind == 8:
            put(dataset, "StudyTime", b"99:99:99")
            put(dataset, "ContentDate", b"yesterday")
        else:
            put(dataset, "InstanceNumber", b"NaN")
    return saved(dataset, folder), True


# --- the run ----------------------------------------------------------------------------------------------------------------------------------


def odd_entries(archive: Path) -> dict[str, str]:
    """Things in a folder that are no files, and what should be said of them ("" for folders and links that lead to files and folders)."""
    odd = archive / "odd"
    (odd / "folder.dcm").mkdir(parents=True)
    os.mkfifo(odd / "fifo")
    (odd / "nowhere").symlink_to(odd / "absent")
    (odd / "circle").symlink_to(odd / "circle")
    (odd / "folder.dcm" / "up").symlink_to(archive, target_is_directory=True)
    (odd / "device").symlink_to("/dev/zero")
    at = os.getcwd()
    with socket.socket(socket.AF_UNIX) as plug:
        os.chdir(odd)  # the path of a socket may not be long
        try:
            plug.bind("socket")
        finally:
            os.chdir(at)
    expected = dict.fromkeys(("odd/fifo", "odd/socket", "odd/device"), "a device, pipe or socket, not a file")
    expected |= dict.fromkeys(("odd/nowhere", "odd/circle"), "a link that leads nowhere")
    if os.geteuid() != 0:
        (odd / "closed").write_bytes(b"closed")
        (odd / "closed").chmod(0)
        expected["odd/closed"] = "the file cannot be opened"
    return expected


def fuzz(folder: Path, count: int, seed: int, workers: int = 2) -> tuple[Counter, list[str]]:
    """Curate `count` mutated files; (outcomes by mutator and reason, faults found)."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    rng = np.random.default_rng(seed)
    archive, scratch = folder / "archive", folder / "scratch"
    archive.mkdir()
    scratch.mkdir()
    names = list(MUTATORS)
    shares = np.array([MUTATORS[name][1] for name in names])
    rounds = [*names, *rng.choice(names, max(0, count - len(names)), p=shares / shares.sum())]  # each at least once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bases = make_bases(scratch)
        for name, base in bases.items():
            (archive / f"base {name}").write_bytes(numbered(base.raw, 900_000 + len(name)))
        harmless_of = {}
        for number, name in enumerate(rounds[:count]):
            base_name = str(rng.choice([*bases]))
            raw, same = MUTATORS[name][0](bases[base_name], rng, scratch)
            path = archive / f"{name} {number:05d} {base_name}"
            path.write_bytes(numbered(raw, number))
            if same:
                harmless_of[path.name] = f"base {base_name}"
    expected = odd_entries(archive)
    ws = Workspace("fuzz")
    tasks, _ = archive_files.plan(archive, ws, archive_files.run_key(ws, 1), SETTINGS, VOCABULARY)
    read = dict(zip((task.name for task in tasks), archive_files.read_all(tasks, workers), strict=True))
    # Looked at before curation: it keeps no frames of copies, and mutants of a deflated file are copies.
    arrays = {task.name: np.load(task.array) for task in tasks if read[task.name].get("kept")}
    cohort.curate(archive, ws, SETTINGS, seed=1, workers=workers, simulated=True)
    quarantine = pd.read_csv(ws.private("quarantine_files.csv"), keep_default_na=False).set_index("path")
    outcomes, faults = Counter(), []
    for task in tasks:
        record = read[task.name]
        kind = task.name.rsplit(" ", 2)[0] if task.name[0] != "b" else task.name
        kind = next((name for name in names if task.name.startswith(name + " ")), kind)
        row = quarantine.loc[task.name] if task.name in quarantine.index else None
        reason = (
            row["reason"]
            if row is not None
            else ("kept" if record.get("kept") else f"excluded: {record.get('reason')}")
        )
        outcomes[kind, reason] += 1
        if row is not None and not (row["reason"] and row["remedy"]):
            faults.append(f"{task.name}: quarantined without reason or remedy")
        if "unforeseen" in reason or (row is None and not record):
            faults.append(f"{task.name}: {reason}")
        if record.get("kept"):
            frames = arrays[task.name]
            if frames.shape != (len(record["frame_numbers"]), 16, 16) or frames.dtype != np.uint8:
                faults.append(f"{task.name}: frames {frames.shape}")
        if task.name in harmless_of:
            original = arrays.get(harmless_of[task.name])
            if not record.get("kept") or original is None or not np.array_equal(arrays[task.name], original):
                faults.append(
                    f"{task.name}: a harmless change, but {reason if not record.get('kept') else 'other frames'}"
                )
        if task.name in expected and reason != expected[task.name]:
            faults.append(f"{task.name}: {reason}")
    missing_odd = [name for name in expected if name not in quarantine.index]
    faults += [f"{name}: not accounted for" for name in missing_odd]
    if len(tasks) != min(count, len(rounds)) + len(bases) + len(expected):
        faults.append(f"{len(tasks)} files accounted for")
    if any(f"base {name}" not in arrays for name in bases):
        faults.append("a base file was not kept")
    return outcomes, faults


def numbered(raw: bytes, number: int) -> bytes:
    """`raw` with a SOP instance UID of its own, so that files do not count as copies (deflated ones may)."""
    return raw.replace((UID + "000000").encode(), f"{UID}{number:06d}".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["DSA_RUNS"] = str(Path(temporary, "runs"))
        outcomes, faults = fuzz(Path(temporary), asked.count, asked.seed)
    reasons = Counter()
    for (_, reason), n in outcomes.items():
        reasons[reason] += n
    for reason, n in reasons.most_common():
        print(f"{n:6d}  {reason}")
    print(f"{sum(reasons.values())} files, {len(faults)} faults, {time.perf_counter() - started:.0f} s")
    for reason in (reason for reason, _ in archive_files._STOPPED.values()):
        by = {kind: n for (kind, said), n in sorted(outcomes.items()) if said == reason}
        print(f"{reason}, by mutation: {by}")
    for fault in faults:
        print("FAULT", fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
