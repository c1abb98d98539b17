"""CT perfusion → diffusion MRI: a folder of NIfTI volumes as pairs of slices, the task of the lesion-aware post-training's source.

Every volume of a patient is brought onto the slices of the diffusion scan by the affines of the files, so CT and MRI must already share scanner space
(registered where the patient was moved, as between two scanners). data_manifests/schemas/ct_perfusion.md describes the folder.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from scipy.ndimage import affine_transform, binary_fill_holes, gaussian_filter, label
from skimage.filters import threshold_otsu

from dsa_lib.core.pairs import TranslationSet, read_patients
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import CtPerfusion

SERIES, MAPS, TARGETS = "ctp", ("cbf", "cbv", "mtt", "tmax"), ("dwi", "adc")
LESION = "infarct"
ADC_BRAIN = (300.0, 3000.0)  # 10⁻⁶ mm²/s: where the median ADC of a brain lies, whatever the file's unit is
ADC_UNITS = (1.0, 1e3, 1e6)  # files hold 10⁻⁶, 10⁻³ or 1 mm²/s
SMOOTHING = 0.42  # SD of the smoothing before a grid √(1 + 1) times as coarse, in its pixels: half a pixel's FWHM


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a patient's slices lie: `affine` from (row, column, slice) to mm, `shape` of the same order.

    Rows run from the front of the head to its back, columns from the patient's right to the left, as radiologists look at it.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Volumes:
    """What was read: `pairs`, the names of the source's `channels`, and `quarantine` [patient, reason], one row a patient that was left out."""

    pairs: TranslationSet
    channels: tuple[str, ...]
    quarantine: pd.DataFrame


def read(folder: Path, size: int, seed: int, settings: CtPerfusion) -> Volumes:
    """Pairs of slices `size`² from `folder`, one subfolder a patient; patients are split at random by `seed`.

    The source is the perfusion series where most patients have one, else the perfusion maps that all patients with maps share. A patient whose files are
    missing, damaged or do not fit together is left out and listed. Raises StudyError where fewer than three patients remain.
    """
    if settings.target not in TARGETS:
        raise StudyError(f"ct_perfusion.target {settings.target!r} is not dwi or adc: choose one of them")
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(
            "what the parameter ct_perfusion names is not a folder: give the folder that holds a subfolder for each patient"
        )
    patients = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = source_files(patients)
    channels = tuple(f"moment {k + 1}" for k in range(settings.time_points)) if names == (SERIES,) else names
    found, quarantine = read_patients(
        patients, lambda path: of_patient(path, names, size, settings), "patients", "add patients or mend files"
    )
    part = split(sorted(found), settings, seed)
    counts = [len(each[1]) for each in found.values()]
    sources, targets, lesions = (np.concatenate(values) for values in zip(*found.values(), strict=True))
    whose = np.repeat(np.array(list(found), object), counts)
    kinds = np.where(lesions.any(axis=(1, 2)), LESION, "").astype(object)
    empty = np.full(len(whose), "", object)
    parts = np.array([part[name] for name in whose], object)
    pairs = TranslationSet(sources, targets, lesions, kinds, whose, parts, empty)
    return Volumes(pairs, channels, quarantine)


def source_files(patients: list[Path]) -> tuple[str, ...]:
    """("ctp",) where at least as many patients have a series as have maps, else the maps that every patient with maps has.

    Raises StudyError where there is neither.
    """
    series = sum(_file(path, SERIES).exists() for path in patients)
    held = [{name for name in MAPS if _file(path, name).exists()} for path in patients]
    held = [each for each in held if each]
    if series and series >= len(held):
        return (SERIES,)
    shared = set(MAPS).intersection(*held) if held else set()
    if not shared:
        raise StudyError(
            f"no perfusion is shared by the {len(patients)} patients of the folder: give each {SERIES}.nii.gz, or the same of {', '.join(MAPS)}"
        )
    return tuple(name for name in MAPS if name in shared)


def of_patient(path: Path, names: tuple[str, ...], size: int, settings: CtPerfusion) -> tuple[np.ndarray, ...]:
    """(sources uint8 [n, C, size, size], targets uint8 [n, size, size], lesions bool [n, size, size]) of one patient's usable slices.

    Raises StudyError for a file that is missing, damaged, not finite or of the wrong kind, and for volumes that do not overlap.
    """
    needed = [*names, *{"dwi", settings.target}, "lesion"]
    if absent := [name for name in needed if not _file(path, name).exists()]:
        raise StudyError(f"{absent[0]}.nii.gz is missing: put it beside the patient's other volumes")
    dwi = _open(path, "dwi")
    grid = slices(dwi, size, settings.field_mm)
    dwi_there, _ = resample(_values(dwi, "dwi"), dwi.affine, grid)
    brain = brain_of(dwi_there)
    if not brain.any():
        raise StudyError("dwi.nii.gz shows no brain: look at the volume")
    lesion = _lesion(_open(path, "lesion"), grid)
    target = dwi_there if settings.target == "dwi" else _adc(_open(path, "adc"), grid, brain, settings)
    target = _grey(target, brain, settings.percentiles if settings.target == "dwi" else None, settings.adc_window)
    sources, covered = _sources(path, names, grid, brain, settings)
    of_slice = brain.sum(axis=(0, 1))
    seen = (brain & covered).sum(axis=(0, 1)) >= settings.least_covered * np.maximum(of_slice, 1)
    kept = np.flatnonzero(seen & (of_slice >= settings.least_brain * size**2))
    if not len(kept):
        raise StudyError(
            f"no slice holds {settings.least_brain:.0%} of brain that the perfusion scan covers: check that the volumes are registered"
        )
    first = [np.moveaxis(values[..., kept], -1, 0) for values in (*sources, target, lesion)]
    return np.stack(first[:-2], axis=1), first[-2], first[-1]


def slices(volume, size: int, field_mm: float) -> Grid:
    """The grid of a patient's slices: those of the diffusion volume, cut or extended to a square of `field_mm` about its middle, `size`² pixels each."""
    canonical = nibabel.as_closest_canonical(volume)
    step = canonical.affine[:3, :3]
    along = step / np.linalg.norm(step, axis=0)  # unit vectors to the right, to the front and up, tilted as the scan is
    middle = canonical.affine[:3, 3] + step @ ((np.array(canonical.shape[:3]) - 1) / 2)
    pixel, count = field_mm / size, canonical.shape[2]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = -pixel * along[:, 1], -pixel * along[:, 0], step[:, 2]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array([size, size, count]) - 1) / 2)
    return Grid(affine, (size, size, count))


def resample(values: np.ndarray, affine: np.ndarray, grid: Grid, order: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(values on `grid`, float32; which of its pixels lie inside the volume, bool) of a volume [i, j, k] with its `affine` to mm.

    A voxel finer than the grid's is smoothed first, so that noise and edges are averaged and not picked at random. Raises StudyError where the two do
    not overlap.
    """
    try:
        to_voxel = np.linalg.inv(affine) @ grid.affine
    except np.linalg.LinAlgError:
        raise StudyError("the affine of a volume cannot be inverted: mend the file's header") from None
    # How many voxels one step of the grid crosses along each axis of the volume.
    ratio = np.linalg.norm(to_voxel[:3, :3], axis=1)
    sigma = SMOOTHING * np.sqrt(np.maximum(np.square(ratio) - 1, 0)) if order else np.zeros(3)
    smooth = gaussian_filter(values.astype(np.float32), sigma, mode="nearest") if sigma.any() else values
    place = np.indices(grid.shape, dtype=np.float32).reshape(3, -1)
    voxel = to_voxel[:3, :3] @ place + to_voxel[:3, 3:]
    inside = ((voxel > -0.5 - 1e-3) & (voxel < np.array(values.shape)[:, None] - 0.5 + 1e-3)).all(axis=0)
    if not inside.any():
        raise StudyError("two volumes do not overlap in scanner space: register them to each other")
    moved = affine_transform(
        smooth.astype(np.float32), to_voxel[:3, :3], to_voxel[:3, 3], grid.shape, order=order, mode="nearest"
    )
    inside = inside.reshape(grid.shape)
    return np.where(inside, moved, 0).astype(np.float32), inside


def brain_of(dwi: np.ndarray) -> np.ndarray:
    """Voxels [h, w, slices] bool of the head in a diffusion-weighted volume: above Otsu's threshold of its logarithm, the largest piece, holes filled.

    Fat and skull are dark on it. The logarithm keeps a bright infarct from drawing the threshold above healthy brain.
    """
    positive = np.log1p(np.clip(dwi, 0, None))
    if np.ptp(positive) == 0:
        return np.zeros(dwi.shape, bool)
    found, count = label(positive > threshold_otsu(positive))
    if not count:
        return np.zeros(dwi.shape, bool)
    largest = found == 1 + np.bincount(found.ravel())[1:].argmax()
    return np.stack([binary_fill_holes(largest[..., k]) for k in range(dwi.shape[2])], axis=-1)


def bolus(curve: np.ndarray, count: int, share: float) -> np.ndarray:
    """`count` moments [count] (in frames, between frames too), even over the bolus of the brain's mean density `curve` [frames].

    The bolus lasts from the last moment before the peak to the first one after it at which the enhancement falls below `share` of the peak; frames are
    taken as evenly spaced in time, for the format keeps no other times.
    """
    rise = curve - curve[: max(len(curve) // 10, 1)].mean()
    peak = int(rise.argmax())
    if len(curve) < 2 or rise[peak] <= 0:
        raise StudyError(
            "ctp.nii.gz shows no bolus: the brain's density does not rise over the series; give a perfusion series with contrast"
        )
    below = rise < share * rise[peak]
    before, after = np.flatnonzero(below[:peak]), np.flatnonzero(below[peak:])
    first = before[-1] if len(before) else 0
    last = peak + after[0] if len(after) else len(curve) - 1
    return np.linspace(first, last, count)


def split(patients: list[str], settings: CtPerfusion, seed: int) -> dict[str, str]:
    """Part of each of three or more patients, drawn by `seed`; no part is empty."""
    order = np.random.default_rng(seed).permutation(sorted(patients))
    val = max(round(settings.val_fraction * len(order)), 1)
    test = max(round((1 - settings.train_fraction - settings.val_fraction) * len(order)), 1)
    train = len(order) - val - test
    if train < 1:
        raise StudyError(
            f"{len(order)} patients leave none to train on: raise ct_perfusion.train_fraction, or add patients"
        )
    names = ["train"] * train + ["val"] * val + ["test"] * test
    return dict(zip((str(name) for name in order), names, strict=True))


# ---- files -----------------------------------------------------------------------------------------------------------


def _file(path: Path, name: str) -> Path:
    return path / f"{name}.nii.gz"


def _open(path: Path, name: str):
    try:
        volume = nibabel.load(_file(path, name))
    except (OSError, EOFError, ValueError, ImageFileError, zlib.error):
        raise StudyError(f"{name}.nii.gz is no NIfTI volume, or its header is damaged: copy it again") from None
    wanted = 4 if name == SERIES else 3
    if len(volume.shape) == 4 and wanted == 3 and volume.shape[3] == 1:
        volume = volume.slicer[..., 0]
    if len(volume.shape) != wanted:
        raise StudyError(
            f"{name}.nii.gz has {len(volume.shape)} dimensions, and {wanted} are needed: export it as described in ct_perfusion.md"
        )
    return volume


def _values(volume, name: str, frame: int | None = None) -> np.ndarray:
    """float32 [i, j, k] of a volume, or of one frame of a series."""
    try:
        values = np.asarray(volume.dataobj if frame is None else volume.dataobj[..., frame], np.float32)
    except (OSError, EOFError, ValueError, zlib.error):
        raise StudyError(f"{name}.nii.gz breaks off before its end: copy it again") from None
    if bad := int((~np.isfinite(values)).sum()):
        raise StudyError(f"{name}.nii.gz holds {bad} values that are no finite numbers: export it again without them")
    return values


def _on_grid(volume, name: str, grid: Grid, frame: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    try:
        return resample(_values(volume, name, frame), volume.affine, grid)
    except StudyError as error:
        text = str(error)
        raise StudyError(text if name in text else f"{name}.nii.gz and dwi.nii.gz: {text}") from None


def _lesion(volume, grid: Grid) -> np.ndarray:
    values = _values(volume, "lesion")
    if not np.isin(np.unique(values), (0.0, 1.0)).all():
        raise StudyError("lesion.nii.gz is not binary: give 1 inside the infarct and 0 elsewhere")
    resampled = _on_grid(volume, "lesion", grid)[0]
    return resampled >= 0.5


def _adc(volume, grid: Grid, brain: np.ndarray, settings: CtPerfusion) -> np.ndarray:
    """ADC in 10⁻⁶ mm²/s, in whichever of the three usual units the file has it."""
    values = _on_grid(volume, "adc", grid)[0]
    middle = float(np.median(values[brain]))
    units = [unit for unit in ADC_UNITS if ADC_BRAIN[0] <= middle * unit <= ADC_BRAIN[1]]
    if not units:
        raise StudyError(
            f"adc.nii.gz has a median of {middle:.3g} in the brain, which no unit of ADC explains (mm²/s, or 10⁻³ or 10⁻⁶ of it): check the file"
        )
    return values * units[0]


def _sources(path: Path, names: tuple[str, ...], grid: Grid, brain: np.ndarray, settings: CtPerfusion):
    """(grey channels [h, w, slices] uint8 each, pixels that the perfusion scan covers)."""
    if names != (SERIES,):
        read = [_on_grid(_open(path, name), name, grid) for name in names]
        covered = np.logical_and.reduce([inside for _, inside in read])
        return [_grey(values, brain & covered, settings.percentiles, None) for values, _ in read], covered
    volume = _open(path, SERIES)
    frames = [_on_grid(volume, SERIES, grid, frame) for frame in range(volume.shape[3])]
    covered = frames[0][1]
    if not (brain & covered).any():
        raise StudyError("ctp.nii.gz and dwi.nii.gz: the perfusion scan covers no brain: register them to each other")
    curve = np.array([values[brain & covered].mean() for values, _ in frames])
    found = []
    for moment in bolus(curve, settings.time_points, settings.bolus_share):
        before = min(int(moment), len(frames) - 2)
        share = moment - before
        mixed = (1 - share) * frames[before][0] + share * frames[before + 1][0]
        found.append(_grey(np.where(covered, mixed, settings.hu_window[0]), None, None, settings.hu_window))
    return found, covered


def _grey(values: np.ndarray, inside, percentiles, window) -> np.ndarray:
    """uint8: a fixed `window`, or the `percentiles` of the values `inside`, from black to white."""
    if percentiles is not None:
        if not inside.any():
            raise StudyError("a perfusion map covers no brain: register it to dwi.nii.gz")
        window = np.percentile(values[inside], percentiles)
    low, high = window
    return np.rint(255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)
