"""Image files are read as they are, or refused by name."""

import numpy as np
import pytest
from PIL import Image

from dsa_lib.errors import StudyError
from dsa_lib.images import read_images


def test_image_files_of_another_kind_are_refused_by_name(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name, image in (
        ("a.png", Image.fromarray(grey)),
        ("rgb.png", Image.fromarray(np.repeat(grey[..., None], 3, axis=2))),
        ("deep.png", Image.fromarray(grey.astype(np.uint16) * 256)),
        ("wide.png", Image.fromarray(np.repeat(grey, 2, axis=1))),
    ):
        image.save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    assert np.array_equal(read_images(tmp_path, ["a.png", "a.png"]), np.stack([grey, grey]))
    for name, fault in (
        ("rgb.png", "mode RGB"),
        ("deep.png", "mode I;16"),
        ("wide.png", "16×8 and a.png 8×8"),
        ("broken.png", "cannot be read"),
        ("absent.png", "cannot be read"),
    ):
        with pytest.raises(StudyError, match=f"{name} .*{fault}"):
            read_images(tmp_path, ["a.png", name])
