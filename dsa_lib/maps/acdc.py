"""Cardiac cine MR of the ACDC challenge (Bernard et al., IEEE TMI 2018) as slices with label maps: the data of the anatomy study's own table.

The folder is the public one: training/ and testing/ with a subfolder for each patient, in it Info.cfg (lines "ED: 1" and "ES: 12") and, of these two phases,
patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz. data_manifests/schemas/acdc.md says what is made of them.
"""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from scipy.ndimage import affine_transform, gaussian_filter

from dsa_lib.core.pairs import AnatomySet, read_patients
from dsa_lib.core.splits import SPLITS
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import Acdc

CLASSES = (
    "right ventricle",
    "myocardium",
    "left ventricle",
)  # 1, 2, 3 in the challenge's maps; the ventricles are their cavities
PHASES = ("ED", "ES")
TRAINING, TESTING = "training", "testing"
SMOOTHING = 0.42  # SD of the smoothing before a grid √(1 + 1) times as coarse, in its pixels: half a pixel's FWHM
OWN_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    ImageFileError,
    zlib.error,
)  # of nibabel, for files that are no volume or break off


def read(folder: Path, size: int, seed: int, settings: Acdc) -> tuple[AnatomySet, pd.DataFrame]:
    """(slices `size`² with their label maps, quarantine [patient, reason]: one row a patient that was left out) of the public layout in `folder`.

    Patients of testing/ are the test part; those of training/ are divided into train and val at random by `seed`, and into test too where no patient of
    testing/ can be used (the challenge first came without its labels). Slices without any label are left out: without edges a model would be told nothing
    of them. A patient with a missing or damaged file is left out and listed. Raises StudyError where fewer than three patients remain.
    """
    homes = _patients(Path(folder))
    slices, quarantine = read_patients(
        homes, lambda path: of_patient(path, size, settings), "patients of ACDC", "complete the download"
    )
    part = split({path.name: home for path, home in homes.items() if path.name in slices}, settings, seed)
    frames, labels = (np.concatenate(each) for each in zip(*slices.values(), strict=True))
    whose = np.repeat(np.array(list(slices)), [len(each[0]) for each in slices.values()])
    data = AnatomySet(frames, labels, whose, np.array([part[name] for name in whose]), np.full(len(whose), ""), CLASSES)
    return data, quarantine


def _patients(folder: Path) -> dict[Path, str]:
    """Patient's folder → TRAINING or TESTING; a folder that holds the patients themselves is taken as training/."""
    found = {}
    for home in (TRAINING, TESTING):
        here = folder / home if (folder / TRAINING).is_dir() else folder
        if here.is_dir() and (here != folder or home == TRAINING):
            found |= {path: home for path in sorted(here.glob("patient*")) if path.is_dir()}
    if not found:
        raise StudyError(
            "the parameter acdc names no folder of the ACDC challenge: give the one that holds training/ with patient001/, patient002/ and so on"
        )
    names = [path.name for path in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StudyError(
            f"{twice[0]} lies in training/ and in testing/: remove one, or it would be tested on what it taught"
        )
    return found


def split(official: Mapping[str, str], settings: Acdc, seed: int) -> dict[str, str]:
    """Part (of SPLITS) of each patient, from the folder that it lies in; at least one patient a part."""
    test = [name for name, home in official.items() if home == TESTING]
    others = [str(name) for name in np.random.default_rng(seed).permutation(sorted(set(official) - set(test)))]
    if not test:
        count = max(round(settings.test_fraction * len(others)), 1)
        test, others = others[:count], others[count:]
    count = max(round(settings.val_fraction * len(others)), 1)
    parts = dict(zip(SPLITS, (others[count:], others[:count], test), strict=True))
    if empty := [name for name, members in parts.items() if not members]:
        raise StudyError(
            f"no usable patient of ACDC is left for the part {empty[0]}: complete the download of training/"
        )
    return {name: part for part, members in parts.items() for name in members}


def of_patient(path: Path, size: int, settings: Acdc) -> tuple[np.ndarray, np.ndarray]:
    """(frames, labels) uint8 [n, size, size] of the labelled slices of a patient's two phases, from the base of the heart on as the file has them.

    Raises StudyError for a file that is missing, damaged or not finite, label maps of another shape or with unknown labels, and no label at all.
    """
    frames, labels = [], []
    for number in _phases(path):
        stem = f"{path.name}_frame{number:02d}"
        (image, zooms), (truth, _) = _volume(path, stem), _volume(path, f"{stem}_gt")
        if image.shape != truth.shape:
            raise StudyError(f"{stem}_gt has shape {truth.shape} and its image {image.shape}: download both again")
        if unknown := sorted(set(np.unique(truth)) - set(range(len(CLASSES) + 1))):
            raise StudyError(
                f"{stem}_gt holds the label {unknown[0]:g}: 0 to {len(CLASSES)} are known; download it again"
            )
        low, high = np.percentile(image, settings.percentiles)
        for k in range(image.shape[2]):
            here = resample(truth[..., k], zooms, size, settings.field_mm, 0).astype(np.uint8).T
            if here.any():
                grey = (resample(image[..., k], zooms, size, settings.field_mm, 1).T - low) / max(high - low, 1e-9)
                frames.append(np.rint(255 * grey.clip(0, 1)).astype(np.uint8))
                labels.append(here)
    if not frames:
        raise StudyError(
            "no slice has a label within the field of view: look at the label maps, or widen acdc.field_mm"
        )
    return np.stack(frames), np.stack(labels)


def _phases(path: Path) -> list[int]:
    """Numbers of the end-diastolic and the end-systolic frame, from Info.cfg."""
    try:
        text = (path / "Info.cfg").read_text()
    except (OSError, UnicodeDecodeError):
        raise StudyError("Info.cfg is missing or is no text: download it again") from None
    found = [re.search(rf"^\s*{phase}\s*:\s*(\d+)\s*$", text, re.MULTILINE) for phase in PHASES]
    if absent := [phase for phase, match in zip(PHASES, found, strict=True) if match is None]:
        raise StudyError(f"Info.cfg names no frame {absent[0]}: download it again")
    return sorted({int(match[1]) for match in found})


def _volume(path: Path, stem: str) -> tuple[np.ndarray, tuple[float, float]]:
    """(values float32 [x, y, slice], pixel size in mm) of `stem`.nii.gz, or .nii as some mirrors unpack it."""
    file = next((path / f"{stem}{end}" for end in (".nii.gz", ".nii") if (path / f"{stem}{end}").is_file()), None)
    if file is None:
        raise StudyError(f"{stem}.nii.gz is missing: download it again")
    try:
        volume = nibabel.load(file)
        values = np.asarray(volume.dataobj, np.float32)
        zooms = tuple(float(each) for each in volume.header.get_zooms()[:2])
    except OWN_FAULTS:
        raise StudyError(f"{file.name} is no NIfTI volume or breaks off before its end: download it again") from None
    if values.ndim != 3 or min(values.shape) < 1:
        raise StudyError(f"{file.name} has shape {values.shape}, and a volume of slices is needed: download it again")
    if not np.isfinite(values).all():
        raise StudyError(f"{file.name} holds values that are no finite numbers: download it again")
    if min(zooms) <= 0:
        raise StudyError(f"{file.name} gives a pixel size of {zooms[0]:g} × {zooms[1]:g} mm: mend its header")
    return values, zooms


def resample(values: np.ndarray, zooms: tuple[float, float], size: int, field_mm: float, order: int) -> np.ndarray:
    """A slice [x, y] of pixels `zooms` mm on a square of `field_mm` about its middle, [size, size]: cut there, or black beyond the image.

    order: 1 for grey values, which are smoothed first where the new pixels are coarser; 0 for labels.
    """
    ratio = field_mm / size / np.array(zooms)  # old pixels that a step of the new grid crosses
    sigma = SMOOTHING * np.sqrt(np.maximum(np.square(ratio) - 1, 0)) if order else np.zeros(2)
    smooth = gaussian_filter(values, sigma, mode="nearest") if sigma.any() else values
    offset = (np.array(values.shape) - 1) / 2 - ratio * (size - 1) / 2
    # Half a pixel beyond the outermost middles still lies within the image: the edge's own value is taken there.
    padded = np.pad(smooth, 1, mode="edge")
    moved = affine_transform(padded, ratio, offset + 1, (size, size), order=order, mode="constant", cval=0.0)
    place = offset[:, None] + ratio[:, None] * np.arange(size)
    inside = (place > -0.5 - 1e-6) & (place < np.array(values.shape)[:, None] - 0.5 + 1e-6)
    return np.where(inside[0][:, None] & inside[1][None], moved, 0)
