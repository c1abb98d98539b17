"""The search for identifiers finds one in every form that a run may write it in, and is silent where there is none."""

import base64
import bz2
import gzip
import io
import json
import lzma
import zipfile
import zlib

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from planted import cut, written
from pydicom.dataset import Dataset
from safetensors.numpy import save_file
from xa_maker import item, make_xa

from dsa_lib.curation import identifier_search as search
from dsa_lib.curation.identifier_search import Needle

NAME = "Grünewald^Käthe"
NEEDLES = [Needle("patient name", NAME)]


def png(text: str = "", kind: str = "tEXt", after: bytes = b"") -> bytes:
    notes, file = PngInfo(), io.BytesIO()
    if kind == "tEXt" and text:
        notes.add_text("Comment", text.encode("latin-1"))
    elif kind == "zTXt":
        notes.add_text("Comment", text.encode("latin-1"), zip=True)
    elif kind == "iTXt":
        notes.add_itxt("Comment", text, zip=True)
    elif text:
        notes.add(kind.encode(), text.encode())
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "PNG", pnginfo=notes)
    return file.getvalue() + after


def parquet(frame: pd.DataFrame, **attributes) -> bytes:
    frame.attrs = attributes
    file = io.BytesIO()
    frame.to_parquet(file, index=False)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(content: bytes, name: str = "member") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def webp(text="") -> bytes:
    """A WebP picture with XMP metadata."""
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "WEBP", xmp=text.encode())
    return file.getvalue()


def pdf(content="", metadata=None) -> bytes:
    """A PDF of matplotlib; `content` stands in a compressed stream of its own."""
    figure, file = plt.figure(figsize=(1, 1)), io.BytesIO()
    figure.savefig(file, format="pdf", metadata=metadata)
    plt.close(figure)
    packed = zlib.compress(f"BT ({content}) Tj ET".encode())
    return file.getvalue() + b"9 0 obj << /Filter /FlateDecode >> stream\n" + packed + b"\nendstream endobj\n"


def notebook(output) -> bytes:
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell])).encode()


def image_output(data: bytes):
    return nbformat.v4.new_output("display_data", {"image/png": base64.encodebytes(data).decode()})


ENCODED = {
    "text": f"a,b\n1,{NAME}\n".encode(),
    "text in Latin-1": f"Befund {NAME}".encode("latin-1"),
    "text in UTF-16": f"Befund {NAME}".encode("utf-16"),
    "other separators and case": b"x/gruenewald.csv GR\xc3\x9cNEWALD, K\xc3\x84THE",
    "inside a longer word": "meinegrünewaldkäthe2.png".encode(),
    "JSON escapes": json.dumps({"k": [1, {"x": NAME}]}).encode(),
    "HTML escapes": b"<p>Gr&uuml;newald&nbsp;K&auml;the</p>",
    "URL escapes": b"href=Gr%C3%BCnewald_K%C3%A4the",
    "base64": b"x " + base64.b64encode(f"..... {NAME} .....".encode()),
    "base64 over lines": base64.encodebytes(f"{'.' * 70} {NAME}".encode() * 3),
    "notebook stream": notebook(nbformat.v4.new_output("stream", text=f"reading {NAME}\n")),
    "notebook lines": notebook(nbformat.v4.new_output("stream", text="reading Grünewald^\nKäthe")),
    "notebook picture text": notebook(image_output(png(NAME))),
    "report picture text": b"<img src='data:image/png;base64," + base64.b64encode(png(NAME, "iTXt")) + b"'>",
    "report WebP picture text": b"<img src='data:image/webp;base64," + base64.b64encode(webp(NAME)) + b"'>",
    "WebP after its end": webp() + NAME.encode(),
    "PDF metadata": pdf(metadata={"Title": NAME}),
    "PDF stream": pdf(content=NAME),
    "PNG tEXt": png(NAME),
    "PNG zTXt": png(NAME, "zTXt"),
    "PNG iTXt": png(NAME, "iTXt"),
    "PNG other chunk": png(NAME, "prVt"),
    "PNG after its end": png(after=NAME.encode()),
    "parquet values": parquet(pd.DataFrame({"a": [NAME, "x"]})),
    "parquet categories": parquet(pd.DataFrame({"a": pd.Categorical([NAME, "x"])})),
    "parquet lists": parquet(pd.DataFrame({"a": [[NAME], ["x"]]})),
    "parquet bytes": parquet(pd.DataFrame({"a": [NAME.encode(), b"x"]})),
    "parquet column name": parquet(pd.DataFrame({NAME: [1]})),
    "parquet metadata": parquet(pd.DataFrame({"a": [1]}), source=NAME),
    "npy text": npy(np.array([NAME, "x"])),
    "npy bytes": npy(np.frombuffer(b"\0\1\2" + NAME.encode() + b"\0\1", np.uint8)),
    "npz": zipped(npy(np.array([NAME])), "a.npy"),
    "npz member name": zipped(b"x", f"{NAME}.npy"),
    "gzip": gzip.compress(NAME.encode()),
    "bzip2": bz2.compress(NAME.encode()),
    "xz": lzma.compress(NAME.encode()),
    "zip in gzip": gzip.compress(zipped(NAME.encode())),
    "binary, UTF-8": bytes(range(256)) + NAME.encode() + b"\0\xff",
    "binary, Latin-1": bytes(range(256)) + NAME.encode("latin-1") + b"\0\xff\0",
    "binary, UTF-16": bytes(range(256)) + b"\0\0" + NAME.encode("utf-16-le") + b"\0\0\xff",
}


@pytest.mark.parametrize("kind", ENCODED)
def test_an_identifier_is_found_in(tmp_path, kind):
    (tmp_path / "file").write_bytes(ENCODED[kind])
    found = search.find_identifiers(tmp_path, NEEDLES)
    assert {hit.kind for hit in found.hits} == {"patient name"} and found.files == 1
    assert {hit.file for hit in found.hits} == {"file"}
    # The same file does not answer to another name.
    assert not search.find_identifiers(tmp_path, [Needle("patient name", "Grünewald^Käte")]).hits


def test_in_weights(tmp_path):
    save_file({"w": np.zeros(4, np.float32)}, tmp_path / "w.safetensors", metadata={"made from": NAME})
    assert search.find_identifiers(tmp_path, NEEDLES).hits


def test_in_names_of_files_folders_and_targets_of_links_which_are_not_repeated(tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "plain.txt").write_text("x")
    (tmp_path / "link").symlink_to(f"/nowhere/{NAME}")
    hits = search.find_identifiers(tmp_path, NEEDLES).hits
    assert {(hit.where, hit.file) for hit in hits} == {("file name", ""), ("target of a link", "link")}


def test_what_is_left_out_is_not_searched(tmp_path):
    for folder in ("private", "kept"):
        (tmp_path / folder / "private").mkdir(parents=True)
        (tmp_path / folder / "private" / "x").write_text(NAME)
    assert [hit.file for hit in search.find_identifiers(tmp_path, NEEDLES).hits] == ["kept/private/x"]


def test_damaged_containers_are_searched_as_bytes(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + NAME.encode() + b"\0\1\xff")
    (tmp_path / "a.png").write_bytes(png(NAME)[:-30])
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b\0\xff" + NAME.encode())
    assert {hit.file for hit in search.find_identifiers(tmp_path, NEEDLES).hits} == {"a.parquet", "a.png", "a.gz"}


@pytest.mark.parametrize(
    "needle, inside, outside",
    [
        ("Mayr", "by Mayr, 2 pages", "Mayrhofer"),  # short words stand alone
        (
            "471100",
            "id=471100;",
            "0.471100 a471100 4711009",
        ),  # so do numbers: no part of a fraction, a hash or a longer number
        ("19610312", "born 19610312.", "819610312"),
        ("12.03.1961", "(12.03.1961)", "12.03.19615"),
    ],
)
def test_short_needles_and_numbers_stand_alone(tmp_path, needle, inside, outside):
    matcher = search.Matcher([Needle("it", needle)])
    assert matcher.kinds(inside) == {"it"} and matcher.kinds(outside) == set()


def test_what_is_too_short_is_counted_and_not_looked_for():
    needles = [Needle("a", "Wu"), Needle("b", "4711"), Needle("c", "Mayr")]
    assert search.unsearchable(needles) == 2
    assert search.Matcher(needles).kinds("Wu 4711") == set()


def test_random_bytes_and_hashes_hold_no_identifier(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "bytes").write_bytes(rng.bytes(3_000_000))
    (tmp_path / "hex").write_text("\n".join(rng.bytes(32).hex() for _ in range(2000)))
    (tmp_path / "numbers.csv").write_text("\n".join(f"{x:.8f}" for x in rng.random(20_000)))
    needles = [Needle("date", f"19{year}{month:02d}12") for year in range(20, 99) for month in range(1, 13)]
    needles += [Needle("name", name) for name in ("Weber", "Mayr", "Schulz", "Hofmann")]
    assert search.find_identifiers(tmp_path, needles).hits == []


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("where", ["png", "npy", "notebook"])
def test_burned_in_text_is_found_in_pixels_at_half_the_size(tmp_path, where, sign):
    noise = np.random.default_rng(1).normal(0, 6, (48, 48))
    shown = np.asarray(Image.fromarray(written("ERIKA", 20)).resize((48, 48), Image.HAMMING), float)
    clean, marked = (np.clip(128 + noise + sign * 0.45 * text, 0, 255).astype(np.uint8) for text in (0 * shown, shown))
    patterns = {"burned-in text": cut(written("ERIKA", 20))}
    for name, picture, hits in (("clean", clean, 0), ("marked", marked, 1)):
        folder = tmp_path / name
        folder.mkdir()
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        if where == "npy":
            np.save(folder / "frames.npy", np.stack([clean, picture]))
        else:
            (folder / "file").write_bytes(
                file.getvalue() if where == "png" else notebook(image_output(file.getvalue()))
            )
        found = search.find_identifiers(folder, [], patterns=patterns).hits
        assert len(found) == hits and all(hit.where.endswith("pixels") for hit in found)


def test_needles_come_from_every_corner_of_the_headers_and_from_file_names(tmp_path):
    folder = tmp_path / "Grünewald_3"
    folder.mkdir()
    dataset = Dataset()
    block = dataset.private_block(0x0011, "VENDOR Q", create=True)
    block.add_new(1, "LO", "vendor text 77")
    block.add_new(2, "UN", b"unknown bytes")
    make_xa(
        folder / "Bild77.dcm", np.full((2, 16, 16), 9, np.uint16), PatientName=NAME, PatientBirthDate="19610312",
        RequestAttributesSequence=[item(PatientID="nested 5")], BodyPartExamined="HEAD", SeriesDescription="lateral",
        **{"OperatorsName": ["Weber^A", "Schulz"]},
    )  # fmt: skip
    written_set = search.pydicom.dcmread(folder / "Bild77.dcm")
    for element in dataset:
        written_set[element.tag] = element
    written_set.save_as(folder / "Bild77.dcm")
    (folder / "notes of Hofmann.txt").write_text("not DICOM")
    needles = {text: kind for kind, text in search.needles_of(tmp_path)}
    assert {
        NAME: "PatientName", "Grünewald": "part of PatientName", "19610312": "PatientBirthDate", "12.03.1961": "PatientBirthDate",
        "nested 5": "PatientID", "Weber^A": "OperatorsName", "Schulz": "OperatorsName", "vendor text 77": "private element",
        "Grünewald_3": "file or folder name", "Bild77": "file or folder name", "notes of Hofmann": "file or folder name",
    }.items() <= needles.items()  # fmt: skip
    assert str(tmp_path.resolve()) in needles
    assert "lateral" not in needles and "HEAD" not in needles  # every run has these words
    assert not any(text.startswith("1.2.840.10008.") for text in needles)
