"""Image files are read as they are, when they are asked for, or refused by name before any is decoded."""

import numpy as np
import pytest
from PIL import Image

from dsa_lib.core import images
from dsa_lib.core.images import ImageFiles, read_images
from dsa_lib.run.errors import StudyError


@pytest.fixture
def folder(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name, image in (
        ("a.png", Image.fromarray(grey)),
        ("rgb.png", Image.fromarray(np.repeat(grey[..., None], 3, axis=2))),
        ("deep.png", Image.fromarray(grey.astype(np.uint16) * 256)),
        ("wide.png", Image.fromarray(np.repeat(grey, 2, axis=1))),
        ("b.png", Image.fromarray(255 - grey)),
        ("c.png", Image.fromarray(grey // 2)),
    ):
        image.save(tmp_path / name)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[:40])
    (tmp_path / "cut.png").write_bytes(whole[:-14])  # header and most pixels are there
    (tmp_path / "empty.png").write_bytes(b"")
    return tmp_path


BAD = (
    ("rgb.png", "mode RGB"),
    ("deep.png", "mode I;16"),
    ("wide.png", "16×8 and a.png 8×8"),
    ("broken.png", "cannot be read"),
    ("cut.png", "cannot be read"),
    ("empty.png", "cannot be read"),
    ("absent.png", "cannot be read"),
)


def test_image_files_of_another_kind_are_refused_by_name(folder):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(read_images(folder, ["a.png", "a.png"]), np.stack([grey, grey]))
    for name, fault in BAD:
        with pytest.raises(StudyError, match=f"{name} .*{fault}"):
            read_images(folder, ["a.png", name])


@pytest.mark.parametrize(("name", "fault"), BAD)
def test_every_file_is_checked_before_the_first_is_decoded(folder, monkeypatch, name, fault):
    monkeypatch.setattr(ImageFiles, "_pixels", lambda *args: pytest.fail("an image was decoded"))
    with pytest.raises(StudyError, match=f"{name} .*{fault}"):
        ImageFiles(folder, ["a.png"] * 20 + [name])


def test_files_read_like_an_array_and_only_what_is_asked(folder, monkeypatch):
    names = ["a.png", "b.png", "c.png"]
    whole = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    files = ImageFiles(folder, names)
    assert (files.shape, files.dtype, files.ndim, len(files)) == ((3, 8, 8), np.uint8, 3, 3)
    assert files[:0].shape == (0, 8, 8)
    opened = []
    monkeypatch.setattr(images.Image, "open", lambda path, real=Image.open: opened.append(path.name) or real(path))
    for index in (1, -1, slice(1, 3), np.array([2, 0, 2]), np.array([True, False, True]), [1]):
        assert np.array_equal(files[index], whole[index])
    assert opened == "b.png c.png b.png c.png c.png a.png c.png a.png c.png b.png".split()
    assert np.array_equal(np.asarray(files), whole)
    assert np.array_equal([frame for frame in files], whole)


def test_an_image_that_changes_after_the_check_is_refused(folder):
    files = ImageFiles(folder, ["a.png", "b.png"])
    Image.open(folder / "wide.png").save(folder / "b.png")
    with pytest.raises(StudyError, match=r"b\.png .*has changed"):
        files[:]


def test_content_follows_the_bytes_and_the_order_of_the_files(folder):
    files = ImageFiles(folder, ["a.png", "b.png"])
    before = files.content(np.array([0, 1]))
    assert before == ImageFiles(folder, ["a.png", "b.png"]).content(np.array([0, 1]))
    assert before != files.content(np.array([1, 0]))
    Image.open(folder / "c.png").save(folder / "b.png")
    assert before != files.content(np.array([0, 1]))
