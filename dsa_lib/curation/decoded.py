"""Whatever a run may write, turned into texts and pictures that can be searched; used by `dsa_lib.curation.identifier_search` alone."""

import base64
import binascii
import bz2
import gzip
import html
import io
import json
import lzma
import mmap
import re
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Part = tuple[str, "str | np.ndarray"]  # (where in the file, a text or a picture [rows, columns])
DEPTH = 5  # containers in containers
WHOLE = 256 << 20  # larger files are searched as bytes where they lie on disk
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}(?:\s{1,2}[A-Za-z0-9+/]{4,})*={0,2}")
# Runs of readable bytes in UTF-8 or Latin-1, and of two-byte characters below U+0180 either way round.
_RUNS = (
    (re.compile(rb"(?:[\x20-\x7e]|[\xc3-\xc5][\x80-\xbf]){7,}"), "utf-8"),
    (re.compile(rb"[\x20-\x7e\xc0-\xff]{7,}"), "latin-1"),
    (re.compile(rb"(?:[\x20-\xff][\x00\x01]){7,}", re.DOTALL), "utf-16-le"),
    (re.compile(rb"(?:[\x00\x01][\x20-\xff]){7,}", re.DOTALL), "utf-16-be"),
)


def parts_of_file(path: Path, pictures: bool) -> Iterator[Part]:
    """Texts of a file, decoded, and its pictures where `pictures` are wanted. What cannot be decoded is searched as bytes."""
    with Path(path).open("rb") as file:
        if path.stat().st_size > WHOLE:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from _readable(data, "bytes")
            return
        yield from parts(file.read(), "", pictures)


def parts(data: bytes, where: str, pictures: bool, depth: int = DEPTH) -> Iterator[Part]:
    """The same of bytes in memory; `where` names the containers around them."""
    if depth == 0 or not data:
        return
    for start, name, decode in (
        (b"PAR1", "parquet", _parquet),
        (b"\x89PNG\r\n\x1a\n", "PNG", _png),
        (b"RIFF", "RIFF", _riff),
        (b"%PDF", "PDF", _pdf),
        (b"PK\x03\x04", "zip", _zip),
        (b"\x1f\x8b", "gzip", lambda content, *further: parts(gzip.decompress(content), *further)),
        (b"BZh", "bzip2", lambda content, *further: parts(bz2.decompress(content), *further)),
        (b"\xfd7zXZ", "xz", lambda content, *further: parts(lzma.decompress(content), *further)),
        (b"\x93NUMPY", "npy", _npy),
    ):
        if data.startswith(start):
            inside = f"{where} › {name}".removeprefix(" › ")
            try:
                yield from decode(data, inside, pictures, depth - 1)
            except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, lzma.LZMAError):
                yield from _readable(data, f"{inside}, damaged: bytes")
            return
    yield from _text_or_bytes(data, where, pictures, depth)


def _text_or_bytes(data: bytes, where: str, pictures: bool, depth: int) -> Iterator[Part]:
    for encoding in ("utf-8",) if data[:2] not in (b"\xff\xfe", b"\xfe\xff") else ("utf-16",):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            break
        if "\x00" not in text:
            yield from _text(text, where or "text", pictures, depth)
            return
    yield from _readable(data, f"{where}: bytes".removeprefix(": "))


def _text(text: str, where: str, pictures: bool, depth: int) -> Iterator[Part]:
    yield where, _BASE64.sub(lambda run: run[0] if len(run[0]) < 200 else " ", text)
    if "&" in text and "<" in text:
        yield where, html.unescape(_BASE64.sub(" ", text))
    if "%" in text:
        yield where, urllib.parse.unquote(_BASE64.sub(" ", text))
    if text.lstrip()[:1] in ("{", "["):
        try:
            strings = list(_strings(json.loads(text)))
        except ValueError:
            strings = []
        plain = "\n".join(item for item in strings if len(item) < 10_000)
        yield f"{where}, JSON", plain
        for item in strings:
            if len(item) >= 10_000 and item not in text:  # escaped there, so not seen below
                yield from _text(item, where, pictures, depth - 1)
    for run in _BASE64.finditer(text.replace("\\n", "\n")):
        try:
            content = base64.b64decode(re.sub(r"\s", "", run[0]).rstrip("=") + "==")
        except (binascii.Error, ValueError):
            continue
        yield from parts(content, f"{where} › base64", pictures, depth - 1)


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys too; a list of strings (lines of a notebook) also as one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            yield "".join(value)
        else:
            for item in value:
                yield from _strings(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _readable(data: bytes, where: str) -> Iterator[Part]:
    for pattern, encoding in _RUNS:
        found = (run[0].decode(encoding, errors="ignore") for run in pattern.finditer(data))
        yield where, "\n".join(found)


def _parquet(data: bytes, where: str, pictures: bool, depth: int) -> Iterator[Part]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    for key, value in (table.schema.metadata or {}).items():
        yield f"{where} metadata", key.decode("utf-8", "replace")
        yield from parts(value, f"{where} metadata", pictures, depth)
    for name, column in zip(table.column_names, table.columns, strict=True):
        yield f"{where} column name", name
        kind = column.type
        if pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            continue
        try:
            values = column.unique().to_pylist()
        except pa.ArrowException:  # nested types have no unique
            values = column.to_pylist()
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            for value in values:
                yield from parts(value or b"", f"{where} column", pictures, depth)
        elif any(isinstance(value, str) and len(value) > 500 for value in values):
            for value in values:
                yield from _text(str(value), f"{where} column", pictures, depth)
        else:
            yield f"{where} column", "\n".join(str(value) for value in values)


def _png(data: bytes, where: str, pictures: bool, depth: int) -> Iterator[Part]:
    place, end = 8, len(data)
    while place + 8 <= end:
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        content = data[place + 8 : place + 8 + length]
        place += 12 + length
        if kind == b"tEXt":
            yield f"{where} text", content.decode("latin-1")
        elif kind == b"zTXt":
            key, _, packed = content.partition(b"\x00")
            yield f"{where} text", f"{key.decode('latin-1')} {zlib.decompress(packed[1:]).decode('latin-1')}"
        elif kind == b"iTXt":
            key, _, rest = content.partition(b"\x00")
            packed, (language, _, rest) = rest[:1] == b"\x01", rest[2:].partition(b"\x00")
            title, _, value = rest.partition(b"\x00")
            value = zlib.decompress(value) if packed else value
            yield f"{where} text", b" ".join([key, language, title, value]).decode("utf-8", "replace")
        elif kind not in (b"IDAT", b"IHDR", b"PLTE", b"IEND"):
            yield from _readable(content, f"{where} chunk")
        if kind == b"IEND":
            break
    yield from parts(data[place:], f"{where}, after its end", pictures, depth)
    if pictures:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            yield where, np.asarray(image.convert("L"), np.float32)


def _riff(data: bytes, where: str, pictures: bool, depth: int) -> Iterator[Part]:
    """A WebP picture, or anything else in RIFF chunks: what is not pixels is searched as bytes."""
    place, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while place + 8 <= end:
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind not in (b"VP8 ", b"VP8L", b"ALPH"):
            yield from _readable(data[place + 8 : place + 8 + length], f"{where} chunk")
        place += 8 + length + length % 2
    yield from parts(data[end:], f"{where}, after its end", pictures, depth)
    if pictures and data[8:12] == b"WEBP":
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            yield where, np.asarray(image.convert("L"), np.float32)


def _pdf(data: bytes, where: str, pictures: bool, depth: int) -> Iterator[Part]:
    """As bytes, and each compressed stream unpacked."""
    yield from _readable(data, where)
    for stream in re.finditer(rb"stream\r?\n(.*?)\r?\n?endstream", data, re.DOTALL):
        try:
            content = zlib.decompressobj().decompress(stream[1])
        except zlib.error:  # not compressed, or in another way
            continue
        yield from _readable(content, f"{where} stream")


def _zip(data: bytes, where: str, pictures: bool, depth: int) -> Iterator[Part]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        yield f"{where} comment", archive.comment.decode("latin-1")
        for member in archive.infolist():
            yield f"{where} member name", member.filename
            yield from parts(archive.read(member), where, pictures, depth)


def _npy(data: bytes, where: str, pictures: bool, depth: int) -> Iterator[Part]:
    array = np.load(
        io.BytesIO(data), allow_pickle=False
    )  # an array of objects raises ValueError and is searched as bytes
    yield f"{where} header", str(array.dtype)
    if array.dtype.kind in "US":
        yield where, "\n".join(item.decode("latin-1") if isinstance(item, bytes) else item for item in array.ravel().tolist())  # fmt: skip
    else:
        yield from _readable(data, f"{where}: bytes")
    if pictures and array.dtype.kind in "uif" and array.ndim >= 2 and min(array.shape[-2:]) > 1:
        for frame in array.reshape(-1, *array.shape[-2:]):
            yield where, frame.astype(np.float32)
