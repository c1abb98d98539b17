"""How near a generated image is to the true one, image by image: SSIM, NMSE, MAE, PSNR, MS-SSIM, and the error inside a lesion.

SSIM (by scikit-image): Wang et al., IEEE TIP 2004. MS-SSIM (by MONAI): Wang, Simoncelli and Bovik, Asilomar 2003. SSIM and NMSE are the columns of Table 1
of the anatomy study (Capitão et al.), MAE, PSNR, MS-SSIM and lesion MAE those of the lesion study (Lee et al.). All need a true image for each generated one.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from monai.metrics.regression import compute_ms_ssim
from skimage.metrics import structural_similarity

from dsa_lib.core.images import check_frames
from dsa_lib.run.errors import StudyError

SCORES = ("ssim", "nmse", "mae", "psnr", "ms_ssim")
LESION_MAE = "lesion_mae"
GREATEST = 255  # data range of SSIM, MS-SSIM and PSNR: that of the file format, not of the image at hand

WINDOW, SIGMA = 11, 1.5  # Gaussian window of SSIM, pixels
K1, K2 = 0.01, 0.03
# Exponents of MS-SSIM from the full resolution down (Wang et al. 2003). Scales that an image is too small for are left out, and the exponents of the others
# are divided by their sum: 5 scales from 176 pixels a side on, 4 at 128, 3 at 64.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
BATCH = 64


def image_scores(true: np.ndarray, generated: np.ndarray, lesions: np.ndarray | None = None) -> pd.DataFrame:
    """One row an image, columns SCORES, and `lesion_mae` where `lesions` are given.

    true, generated: uint8 [n, H, W], at least 11 pixels a side; lesions: bool [n, H, W]. Errors in grey levels (MAE) or decibels (PSNR, infinite for equal
    images). NMSE is ‖x − y‖² / ‖x‖² with x the true image in grey levels from 0; it is no share of the variance, so that a bright field makes it small
    (the source states no convention; this is the usual one of reconstruction work). `lesion_mae` is NaN where an image has no lesion. Raises StudyError
    for other types or shapes, and for a true image that is black everywhere, whose NMSE does not exist.
    """
    check_frames(true, "true images", least=1)
    check_frames(generated, "generated images", least=1)
    if true.shape != generated.shape:
        raise StudyError(
            f"{generated.shape} generated images for {true.shape} true ones: give one generated image of the same size for each true one"
        )
    if min(true.shape[1:]) < WINDOW:
        raise StudyError(f"images of {true.shape[1]}×{true.shape[2]} pixels: SSIM needs {WINDOW} a side or more")
    if lesions is not None and (lesions.shape != true.shape or lesions.dtype != bool):
        raise StudyError(
            f"lesions are {lesions.dtype} of shape {lesions.shape} for images {true.shape}: give one bool mask an image"
        )
    x, y = (images.reshape(len(images), -1).astype(np.float64) for images in (true, generated))
    energy = np.square(x).sum(axis=1)
    if (energy == 0).any():
        raise StudyError(
            f"true image {int(np.flatnonzero(energy == 0)[0])} is black everywhere: leave it out, because its NMSE is undefined"
        )
    error = x - y
    mse = np.square(error).mean(axis=1)
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(GREATEST**2 / mse)
    scores = {
        "ssim": [_ssim(a, b) for a, b in zip(true, generated, strict=True)],
        "nmse": np.square(error).sum(axis=1) / energy,
        "mae": np.abs(error).mean(axis=1),
        "psnr": psnr,
        "ms_ssim": ms_ssim(true, generated),
    }
    if lesions is not None:
        inside = lesions.reshape(len(lesions), -1)
        pixels = inside.sum(axis=1)
        total = np.where(inside, np.abs(error), 0).sum(axis=1)
        scores[LESION_MAE] = np.where(pixels > 0, total / np.maximum(pixels, 1), np.nan)
    return pd.DataFrame(scores)


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    return structural_similarity(
        x, y, gaussian_weights=True, sigma=SIGMA, use_sample_covariance=False, data_range=GREATEST, K1=K1, K2=K2
    )


def scales(height: int, width: int) -> int:
    """How many scales MS-SSIM has for such images: five at most, those at which the window still fits.

    MONAI asks for (n − 1)² windows a side, which is more than the window needs at four scales alone (99 pixels instead of 88).
    """
    side, most = min(height, width), len(SCALE_WEIGHTS)
    return next((n for n in range(most, 0, -1) if side // max(2 ** (n - 1), (n - 1) ** 2) >= WINDOW), 0)


def ms_ssim(true: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """MS-SSIM [n] of uint8 images [n, H, W]: l_M^{α_M} · Π_j cs_j^{α_j}, j from full resolution (1) to the coarsest scale M.

    cs_j is the mean of contrast times structure at scale j, and the coarsest term is SSIM whole, luminance included. A negative mean counts as 0, since
    it has no real power. Between scales 2 × 2 pixels are averaged; only places where the whole window fits are counted. In single precision.
    """
    weights = SCALE_WEIGHTS[: scales(*true.shape[1:])]
    how = {"spatial_dims": 2, "data_range": GREATEST, "kernel_size": WINDOW, "kernel_sigma": SIGMA, "k1": K1, "k2": K2}
    how["weights"] = [weight / sum(weights) for weight in weights]
    found = []
    for first in range(0, len(true), BATCH):
        x, y = (torch.from_numpy(np.ascontiguousarray(of[first : first + BATCH]))[:, None] for of in (true, generated))
        found.append(compute_ms_ssim(y.float(), x.float(), **how)[:, 0].double().numpy())
    return np.concatenate(found)


def summary(scores: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """Mean ± SD over images of every score, long form: the columns `by`, then `score`, `images` (that have a value), `mean`, `sd`.

    SD of the sample (n − 1), NaN for one image. Groups keep the order in which they first occur. Raises StudyError where a column of `by` is missing.
    """
    by = [by] if isinstance(by, str) else list(by)
    if absent := [name for name in by if name not in scores]:
        raise StudyError(f"the scores have no column {absent[0]!r}: add it before they are summed up")
    measured = [name for name in (*SCORES, LESION_MAE) if name in scores]
    rows = []
    for key, group in scores.groupby(by, sort=False):
        for name in measured:
            values = group[name].dropna().to_numpy()
            row = dict(zip(by, key, strict=True)) | {"score": name, "images": len(values)}
            mean = values.mean() if len(values) else np.nan
            rows.append(row | {"mean": mean, "sd": values.std(ddof=1) if len(values) > 1 else np.nan})
    return pd.DataFrame(rows, columns=[*by, "score", "images", "mean", "sd"])
