"""How often the screen for burned-in text finds planted text, by font and size, and how often it stops a run that has none.

    python benchmarks/burned_in.py ARCHIVE [ARCHIVE ...]

Text is planted, in memory, into runs of the given archives (four, evenly chosen): two lines, the four corners, black and white, in Pillow's own and
three DejaVu fonts. White on the nearly white air beside a head is among them: the hardest case. All runs of the archives are taken to be free of text.
"""

import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dsa_lib.dicom import burned_in
from dsa_lib.dicom import series as dicom_series
from dsa_lib.dicom.planes import Planes
from dsa_lib.dicom.tags import Unreadable

FONTS = ("Pillow", "DejaVuSansMono.ttf", "DejaVuSerif.ttf", "DejaVuSans-Bold.ttf")
POINTS = (10, 12, 16, 24, 48)
LINES = ("MUELLER^ERIKA", "Mueller, Erika 12.03.1961")


def screened(frames: list[np.ndarray], logged: bool) -> bool:
    still = burned_in.Still(len(frames))
    for frame in frames:
        still.add(frame)
    return bool(still.text(logged))


def main(archives: list[str]) -> None:
    paths, frames_of = [path for folder in archives for path in sorted(Path(folder).rglob("*.dcm"))], []
    chosen = set(np.linspace(0, len(paths) - 1, 4).astype(int).tolist())
    stopped = runs = spent = whole = 0
    for index, path in enumerate(paths):
        try:
            begun, acquisition = time.process_time(), dicom_series.read_acquisition(path)
            if not acquisition.obstacle():
                run = dicom_series.subtracted_run(path, acquisition, 256, 162, 0.008)
                whole += time.process_time() - begun
                frames = list(Planes(path, acquisition.relationship))
                begun, logged = time.process_time(), acquisition.relationship == "LIN"
                screened(frames, logged)
                spent += time.process_time() - begun
                runs, stopped = runs + 1, stopped + bool(run.text)
                if index in chosen:
                    frames_of.append((frames, logged))
        except Unreadable:
            continue
    print(f"runs without text: {stopped} of {runs} stopped; the screen took {spent / whole:.0%} of the time of reading")
    print("share of planted lines found, by size in points")
    print(f"{'':20}" + "".join(f"{points:>8}" for points in POINTS))
    for name in FONTS:
        print(f"{name:20}" + "".join(f"{rate(frames_of, name, points):>8.0%}" for points in POINTS), flush=True)


def rate(runs: list, name: str, points: int) -> float:
    font = ImageFont.load_default(points)
    if name != "Pillow":
        font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), points)
    found = []
    for frames, logged in runs:
        rows, columns = frames[0].shape
        brightest = max(float(frame.max()) for frame in frames)
        for line in LINES:
            _, _, right, bottom = font.getbbox(line)
            for x, y in (
                (4, 4),
                (columns - right - 4, 4),
                (4, rows - bottom - 4),
                (columns - right - 4, rows - bottom - 4),
            ):
                if x < 0 or right > columns:
                    continue
                image = Image.new("L", (columns, rows))
                ImageDraw.Draw(image).text((x, y), line, fill=255, font=font)
                cover = np.asarray(image, np.float32) / 255
                for grey in (0.0, np.exp(brightest) if logged else brightest):
                    marked = [(np.exp(frame) if logged else frame) * (1 - cover) + grey * cover for frame in frames[:6]]
                    found.append(screened([np.log(np.maximum(each, 1)) for each in marked] if logged else marked, logged))  # fmt: skip
    return float(np.mean(found)) if found else float("nan")


if __name__ == "__main__":
    main(sys.argv[1:])
