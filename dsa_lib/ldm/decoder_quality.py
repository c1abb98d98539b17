"""What a decoded frame keeps of its original, or of the phantom's noise-free truth: PSNR, SSIM, and vessel contrast by calibre."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import maximum_filter
from skimage.metrics import structural_similarity

from dsa_lib.vessels import filters as vessel_filters

# Contrast, in grey levels below the background, from which a pixel counts as vessel when errors are reported apart from the background.
VESSEL_GREY_LEVELS = 12
FILLED_GREY_LEVELS = 4.0  # below its surroundings: an artery shallower than this holds no contrast yet
CREST = 0.75  # of the deepest pixel around: what is shallower lies on a vessel's flank


def psnr_db(reference: np.ndarray, images: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all pixels of all images together, for grey values up to 255."""
    return _psnr(np.square(reference.astype(np.float64) - images).mean())


def _psnr(mean_square: float) -> float:
    return float(10 * np.log10(255**2 / mean_square)) if mean_square > 0 else float("inf")


def reconstruction_quality(frames: np.ndarray, decoded: np.ndarray, background_grey: int) -> dict[str, float]:
    """PSNR [dB] over all pixels and over vessel pixels, SSIM, and the share of vessel contrast kept, on uint8 [n, H, W].

    Most of a DSA frame is background, so that PSNR over all pixels says little about vessels: both are given. Vessel pixels are those darker than
    the background by VESSEL_GREY_LEVELS or more in the original. Contrast kept = Σ decoded depth / Σ original depth over those pixels.
    """
    x, y = frames.astype(np.float64), decoded.astype(np.float64)
    vessel = x <= background_grey - VESSEL_GREY_LEVELS
    error = (x - y) ** 2

    return {
        "psnr_db": _psnr(error.mean()),
        "psnr_vessel_db": _psnr(error[vessel].mean()) if vessel.any() else float("nan"),
        "ssim": float(
            np.mean([structural_similarity(a, b, data_range=255) for a, b in zip(frames, decoded, strict=True)])
        ),
        "vessel_contrast_kept": float((background_grey - y[vessel]).sum() / (background_grey - x[vessel]).sum())
        if vessel.any()
        else float("nan"),
    }


def truth_quality(decoded: np.ndarray, truth: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Decoded phantom frames against what they show without noise: PSNR [dB] over all pixels, and the contrast kept by calibre (`contrast_kept`).

    decoded: uint8 or float [n, H, W]; truth: noise-free frames [n, H, W] and masks: uint8 [n, H, W] with 1 proximal, 2 medium, 3 peripheral arteries, as
    `phantom.truth` gives them.
    """
    return {"psnr_truth_db": psnr_db(truth, decoded)} | contrast_kept(decoded, truth, masks)


def contrast_kept(decoded: np.ndarray, reference: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Share of vessel contrast kept by calibre: Σ decoded depth / Σ reference depth, over all frames [n, H, W] together.

    Depth is how far a pixel lies below its own image's surroundings (`vessels.surroundings`), so that neither blush nor a haze in the place of a lost
    vessel counts as contrast. `masks` [n, H, W] holds the class of each pixel (1 proximal, 2 medium, 3 peripheral); of these, pixels count whose reference
    depth is FILLED_GREY_LEVELS or more in that frame, since early frames do not fill all vessels. Two ways: "ridge <class>" over the vessels' darkest lines
    alone, which is the headline: blur takes contrast from there and nothing gives it back; "area <class>" over all pixels of the class, where flanks that
    blur has widened make up for part of the loss. NaN where no pixel counts.
    """
    sums = np.zeros((2, len(vessel_filters.CLASSES), 2))
    for image, original, mask in zip(decoded, reference, masks, strict=True):
        true, kept = _depth(original), _depth(image)
        filled = true >= FILLED_GREY_LEVELS
        for way, where in enumerate((filled & _darkest_line(true), filled)):
            for k in range(len(vessel_filters.CLASSES)):
                here = where & (mask == k + 1)
                sums[way, k] += kept[here].sum(), true[here].sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)
    return {
        f"{way} {name}": float(share[w, k])
        for w, way in enumerate(("ridge", "area"))
        for k, name in enumerate(vessel_filters.CLASSES)
    }


def calibre_maps(frames: Sequence[np.ndarray]) -> np.ndarray:
    """`vessels.calibres` of every frame, uint8 [n, H, W]: what stands for the truth's masks where there is no truth."""
    return np.stack([vessel_filters.calibres(frame) for frame in frames])


def _depth(frame: np.ndarray) -> np.ndarray:
    """Grey levels below the surroundings [h, w]; not clipped, so that an error above them counts against what is kept."""
    frame = np.asarray(frame, np.float32)
    return vessel_filters.surroundings(frame, vessel_filters.window(vessel_filters.WIDE, max(frame.shape))) - frame


def _darkest_line(depth: np.ndarray) -> np.ndarray:
    """Pixels [h, w] bool deeper than both neighbours in at least one of four directions, and no flank: the lines along which vessels are darkest."""
    shifts = ((0, 1), (1, 0), (1, 1), (1, -1))
    padded = np.pad(depth, 1, constant_values=-np.inf)
    h, w = depth.shape

    def moved(down: int, right: int) -> np.ndarray:
        return padded[1 + down : 1 + down + h, 1 + right : 1 + right + w]

    crest = np.any([(depth > moved(-a, -b)) & (depth >= moved(a, b)) for a, b in shifts], axis=0)
    return crest & (depth >= CREST * maximum_filter(depth, 3))
