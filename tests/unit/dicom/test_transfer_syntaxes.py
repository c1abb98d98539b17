"""One image in every transfer syntax: the frames of the study come out the same. Compressed forms were made by encoders the project does not use."""

import base64
import json

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from xa_maker import make_xa

from dsa_lib.dicom import series as dicom_series
from dsa_lib.run.workspace import PROJECT

ENCODED = json.loads((PROJECT / "tests" / "support" / "compressed_frames.json").read_text())


def image() -> np.ndarray:
    """Two 12-bit frames: a ramp with noise, and the same with a round shadow of contrast medium."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:32, :40]
    shadow = (x - 12) ** 2 + (y - 9) ** 2 < 20
    return np.stack(
        [(900 + 40 * x + 25 * y + rng.integers(0, 60, (32, 40)) - k * 700 * shadow).astype(np.uint16) for k in range(2)]
    )


def frames_of(path):
    return dicom_series.subtracted_run(path, dicom_series.read_acquisition(path), 40, 162, 0.008).frames


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """By plain NumPy: 32 of 40 rows, centred."""
    log = np.log(image().astype(np.float64))
    out = np.full((2, 40, 40), 162.0)
    out[:, 4:36] += (log - log[0]) / 0.008
    return np.clip(np.rint(out), 0, 255)


@pytest.mark.parametrize(
    ("syntax", "compress"),
    [
        (ExplicitVRLittleEndian, None),
        (ImplicitVRLittleEndian, None),
        (ExplicitVRBigEndian, None),
        (DeflatedExplicitVRLittleEndian, None),
        (ExplicitVRLittleEndian, RLELossless),
        (ExplicitVRLittleEndian, JPEG2000Lossless),
    ],
)
def test_written_by_pydicom(tmp_path, expected, syntax, compress):
    make_xa(tmp_path / "a", image(), syntax=syntax, compress=compress)
    assert np.abs(frames_of(tmp_path / "a") - expected).max() <= 1
    make_xa(tmp_path / "plain", image())
    assert np.array_equal(frames_of(tmp_path / "a"), frames_of(tmp_path / "plain"))


@pytest.mark.parametrize("offsets", ["basic", "none", "extended"])
@pytest.mark.parametrize("uid", [name for name in ENCODED if name[0] != "_"])
def test_written_by_other_encoders(tmp_path, expected, uid, offsets):
    """JPEG Lossless SV1, JPEG-LS, JPEG 2000, High-Throughput JPEG 2000; with a basic, an empty and an extended offset table."""
    make_xa(tmp_path / "plain", image())
    dataset = dcmread(tmp_path / "plain")
    streams = [base64.b64decode(text) for text in ENCODED[uid]]
    if offsets == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            streams
        )
    else:
        dataset.PixelData = encapsulate(streams, has_bot=offsets == "basic")
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = UID(uid)
    dataset.save_as(tmp_path / "encoded", enforce_file_format=True)
    assert np.abs(frames_of(tmp_path / "encoded") - expected).max() <= 1
    assert np.array_equal(frames_of(tmp_path / "encoded"), frames_of(tmp_path / "plain"))


@pytest.mark.parametrize(
    ("bits", "dtype"), [(8, np.uint8), (8, np.uint16), (10, np.uint16), (14, np.int16), (16, np.uint16), (16, np.int16)]
)
def test_bits_and_signs(tmp_path, bits, dtype):
    """The same exposure ratio of one half gives the same contrast at every depth: ln 2 / 0.008 = 86.6 grey levels."""
    top = 2 ** (bits - (np.dtype(dtype).kind == "i")) - 1
    frames = np.full((2, 8, 8), top - top % 2, dtype)
    frames[1, 3, 3] = (top - top % 2) // 2
    make_xa(tmp_path / "a", frames, bits=bits)
    result = dicom_series.subtracted_run(
        tmp_path / "a", dicom_series.read_acquisition(tmp_path / "a"), 8, 162, 0.008
    ).frames
    assert result[1, 3, 3] == 75
    assert np.delete(result[1].ravel(), 27).tolist() == [162] * 63
