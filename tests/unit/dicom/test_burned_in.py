"""The screen for burned-in text: planted text of several fonts, sizes, places and polarities; and what angiograms have that is none."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from scipy import ndimage

from dsa_lib.dicom import burned_in
from dsa_lib.dicom.planes import Planes
from dsa_lib.dicom.tags import Unreadable
from dsa_lib.run.workspace import PROJECT

SIDE = 384
FONTS = {"Pillow": None, "mono": "DejaVuSansMono.ttf", "serif": "DejaVuSerif.ttf", "bold": "DejaVuSans-Bold.ttf"}


def background(frames: int = 8, noise: float = 40, seed: int = 0) -> np.ndarray:
    """Frames [n, SIDE, SIDE] of 12 bits like a raw run: smooth head, dark bone edge, bright air, a vessel that fills, quantum noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    head = np.where(np.hypot(x, y * 0.9) < 0.85, 1200 + 500 * np.hypot(x, y), 3300.0)
    head -= 500 * (np.abs(np.hypot(x, y * 0.9) - 0.85) < 0.03)
    vessel = ndimage.gaussian_filter((np.abs(y - 0.3 * np.sin(5 * x)) < 0.02).astype(float), 1)
    filled = np.linspace(0, 1, frames)[:, None, None]
    return np.clip(head - 400 * filled * vessel + rng.normal(0, noise, (frames, SIDE, SIDE)), 0, 4095)


def drawn(text: str, font: str = "Pillow", points: int = 18, place: str = "upper left") -> np.ndarray:
    """Coverage [SIDE, SIDE] in 0–1 of a line of text."""
    face = ImageFont.load_default(points)
    if FONTS[font]:
        face = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", FONTS[font])), points)
    _, _, right, bottom = face.getbbox(text)
    y = 5 if place.startswith("upper") else SIDE - bottom - 5
    x = 5 if place.endswith("left") else SIDE - right - 5
    image = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(image).text((x, y), text, fill=255, font=face)
    return np.asarray(image) / 255


def places(frames: np.ndarray, logged: bool = False) -> list[str]:
    still = burned_in.Still(len(frames))
    for frame in frames:
        still.add((np.log(np.maximum(frame, 1)) if logged else frame).astype(np.float32))
    return still.text(logged)


def with_text(frames: np.ndarray, cover: np.ndarray, grey: float) -> np.ndarray:
    return frames * (1 - cover) + grey * cover


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("points", [14, 20, 32])
@pytest.mark.parametrize("place", ["upper left", "upper right", "lower left", "lower right"])
def test_planted_text_is_found_where_it_is(font, points, place):
    frames = with_text(background(), drawn("MUELLER^E. 1961", font, points, place), 0)
    found = places(frames, logged=True)
    assert any(word.split()[0] == place.split()[0] for word in found)


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("grey", [0, 4095])
def test_black_and_white_on_dark_and_bright(logged, grey):
    for place in ("upper left", "lower right"):
        assert places(with_text(background(), drawn("Mueller, Erika", points=24, place=place), grey), logged)


def test_white_on_nearly_white_shows_by_its_want_of_noise():
    bright = background() * 0 + 3800 + np.random.default_rng(1).normal(0, 60, (8, SIDE, SIDE))
    assert places(np.clip(with_text(bright, drawn("ERIKA MUELLER", points=24), 4095), 0, 4095), logged=True)


def test_runs_stored_subtracted_and_single_frames():
    shown = np.clip(0.64 + (background() - background().mean(0)) / 4095, 0, 1)
    assert places(with_text(shown, drawn("12.03.1961", points=18), 1.0))
    assert places(shown) == []
    one = with_text(shown[-1:], drawn("12.03.1961 MUELLER", points=18), 1.0)
    assert places(one) and places(shown[-1:]) == []


def test_text_on_its_side():
    assert places(with_text(background(), drawn("MUELLER 4711").T, 0), logged=True)


def test_a_careful_lossy_codec_does_not_hide_it():
    marked = with_text(background(), drawn("MUELLER ERIKA", points=20), 0) / 16
    coded = []
    for frame in marked:
        file = io.BytesIO()
        Image.fromarray(frame.astype(np.uint8)).save(file, "JPEG", quality=95)
        coded.append(np.asarray(Image.open(file), np.float32) * 16)
    assert places(np.stack(coded), logged=True)


def rectangle(top, bottom, left, right):
    cover = np.zeros((SIDE, SIDE))
    cover[top:bottom, left:right] = 1
    return cover


def metal():
    """Coils, clips and fillings: dense pieces of odd shape and height, saturated to black and therefore without noise."""
    rng, cover = np.random.default_rng(5), np.zeros((SIDE, SIDE))
    for _ in range(25):
        y, x = rng.integers(40, SIDE - 40, 2)
        radii = rng.integers(2, 16, 2)
        rows, columns = np.ogrid[:SIDE, :SIDE]
        cover[((rows - y) / radii[0]) ** 2 + ((columns - x) / radii[1]) ** 2 <= 1] = 1
    return cover


CLEAN = {
    "head": lambda: background(),
    "two frames": lambda: background(2),
    "without noise": lambda: background(noise=0),
    "side marker": lambda: with_text(background(), drawn("R", "bold", 40), 300),
    "view marker": lambda: with_text(background(), drawn("LAO", "bold", 30), 300),
    "collimator edges": lambda: background() * rectangle(30, SIDE - 25, 22, SIDE - 40),
    "round field": lambda: background() * (np.hypot(*np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]) < 0.95),
    "saturated air": lambda: np.minimum(background() * 1.4, 4095),
    "air at the edge of saturation": lambda: np.minimum(background() * 4095 / 3300, 4095),
    "metal": lambda: with_text(background(), metal(), 0),
    "catheter": lambda: with_text(
        background(), ndimage.rotate(rectangle(0, SIDE, 190, 194), 8, reshape=False, order=1), 200
    ),
    "shaking head": lambda: np.stack([np.roll(frame, 3 * i, axis=1) for i, frame in enumerate(background())]),
    "one grey": lambda: np.full((4, SIDE, SIDE), 7.0),
    "tiny": lambda: background()[:, :12, :12],
}


@pytest.mark.parametrize("case", CLEAN)
@pytest.mark.parametrize("logged", [True, False])
def test_what_is_no_text_is_let_pass(case, logged):
    assert places(CLEAN[case](), logged) == []


def test_the_header_is_believed_when_it_says_yes_and_not_when_it_says_no():
    header = Dataset()
    burned_in.hold_back(header, [])
    header.BurnedInAnnotation = "NO"
    burned_in.hold_back(header, [])
    with pytest.raises(Unreadable, match="burned-in text is likely") as caught:
        burned_in.hold_back(header, ["upper left", "lower right"])
    assert "(upper left, lower right)" in caught.value.remedy and "private/reviewed.csv" in caught.value.remedy
    header.BurnedInAnnotation = "YES"
    with pytest.raises(Unreadable, match="header says"):
        burned_in.hold_back(header, [])


REAL = PROJECT.parent / "shared" / "real_dsa" / "gendsa_2d_head.dcm"


@pytest.mark.skipif(
    not REAL.exists(), reason="the real run ../shared/real_dsa/gendsa_2d_head.dcm is not beside the project"
)
def test_a_real_run_is_let_pass_and_marked_it_is_not():
    from dsa_lib.dicom import series as dicom_series

    planes = Planes(REAL, dicom_series.read_acquisition(REAL).relationship)
    frames = np.stack(list(planes.at(range(0, planes.frames, 9))))
    assert places(frames) == []
    cover = np.zeros(frames.shape[1:])
    cover[20 : 20 + SIDE, 20 : 20 + SIDE] = drawn("MUELLER^ERIKA", points=24)
    for grey in (0.0, 1.0):
        assert places(with_text(frames, cover, grey)) == ["upper left"]
