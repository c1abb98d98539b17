"""Simulated readers: screening and ratings from a model with stated parameters, until real readers have rated.

Whatever this module makes is to be called *simulated ratings*. Its parameters were chosen beforehand as plausible for
Likert readings of angiograms and are not fitted to any published table. What ties the ratings to the images is measured:
how far the vessels of an image, at three calibres, lie from those of real arterial frames of the same condition.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from dsa_lib.readers.rating_files import RATINGS, SCREENING
from dsa_lib.readers.tables import SEGMENTS

QUALITY_RANGE = (-3.0, 1.0)  # measured quality is clipped to this: beyond it a reader sees no difference
FEWEST_REAL = 8  # with fewer real frames of a condition the frames of all conditions serve as reference


@dataclass(frozen=True)
class RaterModel:
    """Parameters of the simulated readers; scores are on the Likert scale before rounding to 1-5.

    A reader's impression of a segment is

        typical_score + segment_effect + measured_slope * quality                 (what the image is)
        + image effect + image-by-segment effect                                  (seen by all readers alike)
        + leniency of the reader + noise                                          (the reader's own)

    with normal effects of the standard deviations below. Flags come before ratings: external circulation on the whole
    image, then absent segments, then segments too poor to judge.
    """

    raters: tuple[tuple[str, str], ...] = (("NR1", "NR"), ("NR2", "NR"), ("NS1", "NS"), ("IM1", "IM"))  # name, role
    typical_score: float = 3.4  # a segment that measures like that of a typical real frame
    segment_effect: tuple[float, float, float] = (
        0.2,
        0.0,
        -0.2,
    )  # large vessels are judged more kindly than small ones
    measured_slope: float = 0.5  # score per unit of measured quality
    image_sd: float = 0.6
    image_segment_sd: float = 0.4
    leniency_sd: float = 0.3
    expert_noise_sd: float = 0.6  # NR and NS
    other_noise_sd: float = 0.9
    absent_rate: tuple[float, float, float] = (0.04, 0.06, 0.10)  # segment truly absent, at quality 0
    absent_log_odds_per_quality: float = -0.8  # poor images lack vessels more often
    notice_absent: float = 0.9  # chance that a reader marks an absent segment as not present
    unreadable_below: float = 0.5  # impression under which a reader marks the segment as not applicable
    external_rate: float = 0.03  # image shows external carotid branches instead
    notice_external: float = 0.9
    screening_threshold: float = 3.0  # the senior reader keeps images whose impression is at least this
    screening_noise_sd: float = 0.5


def simulate(
    manifest: pd.DataFrame, quality: np.ndarray | None = None, seed: int = 0, model: RaterModel | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Simulated screening and ratings of a reader set.

    `manifest`: one row an image with image_id, circulation, plane. `quality`: [n] or [n, 3] (proximal, medium,
    peripheral), how well each image measures against real frames, in their standard deviations: 0 is typical, negative
    is worse (see `measured_quality`); None is 0 throughout. Every image has a random stream of its own, so its ratings
    depend on seed, image_id and quality alone, not on the other images or their order.

    Returns the frames of `screening.csv` (kept as bool) and `ratings.csv` (rating NaN where flagged).
    """
    model = model or RaterModel()
    quality = np.zeros(len(manifest)) if quality is None else np.asarray(quality, dtype=float)
    if quality.shape not in [(len(manifest),), (len(manifest), len(SEGMENTS))]:
        raise ValueError(f"quality has shape {quality.shape}; one value or three per image, {len(manifest)} images")
    quality = np.broadcast_to(quality.reshape(len(manifest), -1), (len(manifest), len(SEGMENTS)))
    leniency = np.random.default_rng(seed).normal(0, model.leniency_sd, len(model.raters))
    noise_sd = np.array([model.expert_noise_sd if r in ("NR", "NS") else model.other_noise_sd for _, r in model.raters])
    kept, rows = [], []
    for image_id, own_quality in zip(manifest["image_id"].astype(str), quality, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(image_id.encode())])
        image_effect = rng.normal(0, model.image_sd)
        looks = model.typical_score + model.measured_slope * own_quality + image_effect
        kept.append(looks.mean() + rng.normal(0, model.screening_noise_sd) >= model.screening_threshold)
        looks = looks + model.segment_effect + rng.normal(0, model.image_segment_sd, len(SEGMENTS))
        flags = _flags(rng, own_quality, model)
        seen = looks + leniency[:, None] + noise_sd[:, None] * rng.normal(size=(len(model.raters), len(SEGMENTS)))
        flags[(flags == "") & (seen < model.unreadable_below)] = "not_applicable"
        if not kept[-1]:
            continue
        for j, (rater, role) in enumerate(model.raters):
            for s, segment in enumerate(SEGMENTS):
                rating = np.nan if flags[j, s] else float(np.clip(np.rint(seen[j, s]), 1, 5))
                rows.append((image_id, rater, role, segment, rating, str(flags[j, s])))
    screening = manifest[["image_id", "circulation", "plane"]].astype(str).assign(kept=np.array(kept, dtype=bool))
    return screening[list(SCREENING.columns)], pd.DataFrame(rows, columns=list(RATINGS.columns))


def _flags(rng: np.random.Generator, quality: np.ndarray, model: RaterModel) -> np.ndarray:
    """Flags [raters, 3] that stem from what the image shows: absent segments and external circulation ("" for none)."""
    k = len(model.raters)
    flags = np.full((k, len(SEGMENTS)), "", dtype=object)
    rate = np.asarray(model.absent_rate)
    log_odds = np.log(rate / (1 - rate)) + model.absent_log_odds_per_quality * quality
    absent = rng.random(len(SEGMENTS)) < 1 / (1 + np.exp(-log_odds))
    flags[absent & (rng.random((k, len(SEGMENTS))) < model.notice_absent)] = "not_present"
    external = rng.random() < model.external_rate
    flags[external & (rng.random(k) < model.notice_external)] = "external_circulation"  # on all three segments
    return flags


def vessel_features(images: np.ndarray) -> np.ndarray:
    """Vessel signal at three calibres: grey images [n, H, W], vessels dark -> [n, 3, 2], coarse to fine.

    Each calibre is a difference of Gaussians (widths W/64..W/32, W/128..W/64, W/256..W/128), of which the part darker
    than its surroundings is kept. Features: log RMS (how much vessel) and log ratio of the 99th percentile to RMS (how
    concentrated on lines: mesh and noise have the same energy spread out).
    """
    images = np.asarray(images)
    if images.ndim != 3 or len(images) == 0:
        raise ValueError(f"images must be a stack [n, H, W]; got shape {images.shape}")
    width = images.shape[-1]
    features = np.empty((len(images), len(SEGMENTS), 2))
    for i, image in enumerate(images):
        smooth = [ndimage.gaussian_filter(image.astype(np.float32), width / d) for d in (32, 64, 128, 256)]
        for s in range(len(SEGMENTS)):
            dark = np.maximum(smooth[s] - smooth[s + 1], 0)
            rms = float(np.sqrt(np.mean(dark**2))) + 1e-3
            features[i, s] = np.log(rms), np.log((np.quantile(dark, 0.99) + 1e-3) / rms)
    return features


def measured_quality(
    images: np.ndarray, cells: Sequence[str], real: np.ndarray, real_cells: Sequence[str]
) -> np.ndarray:
    """How well generated images [n, H, W] measure against real frames [m, H, W] of their condition: [n, 3].

    Per calibre (proximal, medium, peripheral): the typical real frame's distance from the centre of the real frames,
    minus this image's distance, in standard deviations of the real frames and clipped to `QUALITY_RANGE`. A real frame
    scores about 0. Conditions with fewer than `FEWEST_REAL` real frames are compared with all of them.
    """
    ours, theirs = vessel_features(images), vessel_features(real)
    cells, real_cells = np.asarray(cells), np.asarray(real_cells)
    quality = np.empty(ours.shape[:2])
    for cell in np.unique(cells):
        reference = theirs[real_cells == cell]
        if len(reference) < FEWEST_REAL:
            reference = theirs
        centre = np.median(reference, axis=0)
        spread = np.maximum(
            reference.std(axis=0), 0.05
        )  # a handful of like frames must not make all else infinitely far

        def distance(features, centre=centre, spread=spread):
            return np.sqrt((((features - centre) / spread) ** 2).mean(axis=-1))

        quality[cells == cell] = np.median(distance(reference), axis=0) - distance(ours[cells == cell])
    return np.clip(quality, *QUALITY_RANGE)


def real_reference(
    frames: np.ndarray, arterial: pd.DataFrame, seed: int, per_cell: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Up to `per_cell` real arterial frames of every condition: images [m, H, W] and their cells [m].

    `frames`: the frame store [n, H, W] (may be memory-mapped); `arterial`: rows of it, by frame_id, with cell.
    """
    shuffled = arterial.sample(frac=1, random_state=seed)
    chosen = shuffled[shuffled.groupby("cell").cumcount() < per_cell].sort_values("frame_id")
    return np.asarray(frames[chosen["frame_id"].to_numpy()]), chosen["cell"].to_numpy()
