"""The lesion-aware post-training on the text-conditioned model, with peripheral arteries in the place of the lesion.

Readers give distal vessels the lowest scores of all (the study's Table 3), and a lesion is to the source of the post-training what a distal artery is here:
small, faint, and half lost in latent space. Whether the losses in image space bring them back is measured on generated images, against held-out frames,
beside a control that was trained on as long without those losses.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dsa_lib.core.condition_sentences import CANONICAL, CELLS
from dsa_lib.core.splits import evenly
from dsa_lib.core.statistics import interval, whole_and_drawn
from dsa_lib.curation.annotations import best_filled
from dsa_lib.fidelity.distances import frechet_distance, statistics
from dsa_lib.ldm.diffusion import ConditionalDenoiser, LatentSet, noise_schedule
from dsa_lib.ldm.pipeline import DSAPipeline, in_batches
from dsa_lib.lesions import post_training
from dsa_lib.nn.training import Draws, fit, run_options
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile
from dsa_lib.vessels import filters as vessel_filters

PERIPHERAL = 1 + vessel_filters.CLASSES.index("peripheral")  # in class maps
BEFORE, CONTROL, AFTER = "before", "trained on", "post-trained"
AREA, CONTRAST, RATE, DISTANCE = "peripheral area", "peripheral contrast", "condition rate", "feature distance"
MEASURES = (AREA, CONTRAST, RATE, DISTANCE)


# ---- training --------------------------------------------------------------------------------------------------------


def filled_rows(index: pd.DataFrame, anatomy, count: int, parts: Sequence[str] = ("train",)) -> np.ndarray:
    """Rows of `index` (latents/index.parquet): at most `count` frames of the `parts` in which the arteries are filled (`annotations.best_filled`).

    anatomy: the profile's section, which says how many of a series. In earlier frames the mask of a series lies on vessels that are still empty, and an
    error inside it would teach to draw nothing there; nor can they be what a model that learned from filled ones is measured by.
    """
    place = pd.Series(np.arange(len(index)), index=index["frame_id"].to_numpy())
    filled = best_filled(index[index["split"].isin(parts)], anatomy.frames_per_series, anatomy.least_share)
    return evenly(np.sort(place[filled["frame_id"]].to_numpy()), count)


def mask_depths(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Grey levels by which masked pixels (bool [n, s, s]) lie below their surroundings, mean of each of the uint8 frames; NaN for an empty mask."""
    closing = vessel_filters.window(vessel_filters.WIDE, max(frames.shape[1:]))
    depths = (vessel_filters.depth(frame, closing)[mask] for frame, mask in zip(frames, masks, strict=True))
    return np.array([depth.mean() if len(depth) else np.nan for depth in depths])


def train(
    pipeline: DSAPipeline,
    data: LatentSet,
    targets: np.ndarray,
    masks: np.ndarray,
    profile: Profile,
    *,
    in_images: bool,
    folder: Path,
    digest: str,
    **options,
) -> tuple[DSAPipeline, pd.DataFrame]:
    """Train denoiser and sentence encoder of `pipeline` on, and return (a pipeline with the last weights, the log); `pipeline` stays as it is.

    data: latents with sentences; targets uint8 [n, H, W] and masks bool [n, H, W]: their frames, in the same order, and the peripheral arteries.
    Without `in_images` the losses in image space are left out: the control, with the same draws. `options` go to `training.fit`.
    """
    if pipeline.text_encoder is None:
        raise StudyError("the unconditional model has no sentence to keep to: give the pipeline in ldm")
    config = profile.peripheral
    settings = replace(profile.post_training, latest=config.latest)
    schedule = noise_schedule(profile.diffusion)
    model = ConditionalDenoiser(copy.deepcopy(pipeline.unet), copy.deepcopy(pipeline.text_encoder))
    vae = copy.deepcopy(pipeline.vae)
    if settings.decoder_trained:
        raise StudyError(
            "post_training.decoder_trained is set: the text-conditioned model shares its decoder, set it to false"
        )
    if not in_images:
        settings = post_training.without_images(settings)
    log = fit(
        model,
        post_training.training_loss(
            data,
            reading(data, profile.diffusion.condition_dropout),
            schedule,
            vae,
            targets,
            masks,
            settings,
            min_snr_gamma=profile.diffusion.min_snr_gamma,
        ),
        size=len(data),
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        cosine=True,  # ends at rest: the weights that it starts from are an average
        clip_norm=profile.diffusion.clip_norm,
        folder=folder,
        digest=digest,
        **({"what": "post-training" if in_images else "control", **run_options(profile)} | options),
    )
    told = {"seen": pipeline.config.seen, "condition_dropout": pipeline.config.condition_dropout}
    return DSAPipeline(vae, model.unet, pipeline.scheduler, model.encoder, pipeline.tokenizer, **told), log


def arms(
    pipeline: DSAPipeline,
    data: LatentSet,
    targets: np.ndarray,
    masks: np.ndarray,
    profile: Profile,
    *,
    folders: Mapping[str, Path],
    digest: str,
) -> dict[str, DSAPipeline]:
    """The pipeline as it is (BEFORE), trained on without the losses in the image (CONTROL), and with them (AFTER); arguments as of `train`.

    folders: where CONTROL and AFTER keep their checkpoints.
    """
    found = {BEFORE: pipeline}
    for name in (CONTROL, AFTER):
        where = {"folder": folders[name], "digest": digest, "in_images": name == AFTER}
        found[name], _ = train(pipeline, data, targets, masks, profile, **where)
    return found


def reading(data: LatentSet, condition_dropout: float) -> post_training.Predict:
    """`predict` for `post_training.training_loss`: the denoiser with the sentences of `data`, some of them dropped as in its first training."""

    def predict(model, z_t: torch.Tensor, t: torch.Tensor, indices: np.ndarray, draws: Draws) -> torch.Tensor:
        dropped = draws.uniform(1)[:, 0] < condition_dropout if condition_dropout else None
        return model(z_t, t, data.context(indices, z_t.device, dropped))

    return predict


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looked:
    """One set of images of the canonical conditions: values (a row an image; columns AREA, CONTRAST, RATE), features [n, d], cells [n], groups [n].

    `groups`: the patient of a real frame, the seed of a generated one: what the intervals draw.
    """

    values: pd.DataFrame
    features: np.ndarray
    cells: np.ndarray
    groups: np.ndarray


def plan(per_condition: int, seed: int, cells=CELLS) -> pd.DataFrame:
    """What every arm is asked for, the same in each: a row an image, columns cell, sentence, seed."""
    seeds = np.random.default_rng([seed, 23]).integers(2**31, size=per_condition)
    rows = [(cell, CANONICAL[cell].sentence(), int(number)) for cell in cells for number in seeds]
    return pd.DataFrame(rows, columns=["cell", "sentence", "seed"])


def generate(pipeline: DSAPipeline, asked: pd.DataFrame, sampling) -> np.ndarray:
    """uint8 frames [n, H, W] of a `plan`; steps, guidance and batch as the profile's section `sampling`."""
    how = {"num_inference_steps": sampling.steps, "guidance_scale": sampling.guidance}
    return in_batches(pipeline, asked["sentence"].tolist(), asked["seed"].tolist(), sampling.batch_size, **how)


def look(
    frames: np.ndarray,
    cells: np.ndarray,
    groups: np.ndarray,
    segment: Callable[[np.ndarray, str], np.ndarray],
    extractor: Callable[[np.ndarray], np.ndarray],
    judge: Callable[[np.ndarray], np.ndarray] | None,
    what: str,
) -> Looked:
    """Measure uint8 frames [n, s, s]: `segment` (segmenters.Segmenter) finds the arteries, `extractor` gives features, `judge` names the cell of each.

    Peripheral area is a share of the frame; contrast is how many grey levels peripheral arteries lie below their surroundings, NaN where none is found.
    """
    classes = segment(frames, what)
    inside = classes == PERIPHERAL
    values = pd.DataFrame({AREA: inside.mean(axis=(1, 2)), CONTRAST: mask_depths(frames, inside)})
    values[RATE] = np.nan if judge is None else (judge(frames) == np.asarray(cells)).astype(float)
    return Looked(values, extractor(frames), np.asarray(cells), np.asarray(groups))


def compare(
    arms: Mapping[str, Looked], held_out: Looked, settings, seed: int, reference: str = CONTROL
) -> pd.DataFrame:
    """One row an arm and measure: `value` with `low`, `high`, and `change` from the arm `reference` with `change_low`, `change_high`.

    Area and contrast: mean of the generated over mean of the held-out images, both the mean over conditions; condition rate: share of images in which the
    judge names what was asked; feature distance: squared Fréchet distance to the held-out frames. Intervals are 95 % percentile bootstrap: seeds, the same in
    every arm, and held-out patients are drawn anew; the distance draws seeds alone, and its own interval is left out, for resampling biases it upwards,
    in all arms alike.
    """
    names, rows = list(arms), []
    if reference not in arms:
        raise StudyError(f"no arm {reference!r} is there to compare with: give one of {', '.join(arms)}")
    cells = [
        cell for cell in CELLS if (held_out.cells == cell).any() and all((a.cells == cell).any() for a in arms.values())
    ]
    if not cells:
        raise StudyError("no condition has both generated and held-out images: hold out more patients")
    rng = np.random.default_rng([seed, 29])
    of_seeds = _weights(arms[names[0]].groups, settings.bootstrap, rng)
    of_patients = _weights(held_out.groups, settings.bootstrap, rng)
    for measure in (AREA, CONTRAST, RATE):
        below = 1.0 if measure == RATE else _balanced(held_out, measure, cells, of_patients)
        drawn = {name: _balanced(arms[name], measure, cells, of_seeds) / below for name in names}
        for name in names:
            rows.append(_row(name, measure, drawn[name], drawn[reference], len(arms[name].cells)))
    real = statistics(held_out.features, "held-out frames")
    which = np.unique(arms[names[0]].groups)
    picks = [which, *(rng.choice(which, len(which)) for _ in range(settings.distance_bootstrap))]
    drawn = {
        name: np.array([frechet_distance(statistics(_of(one, pick), name), real) for pick in picks])
        for name, one in arms.items()
    }
    for name in names:
        row = _row(name, DISTANCE, drawn[name], drawn[reference], len(arms[name].cells))
        rows.append(row | {"low": np.nan, "high": np.nan})
    return pd.DataFrame(rows)


def _of(one: Looked, groups: np.ndarray) -> np.ndarray:
    """Features of the images of `groups`, as often as each occurs there."""
    return np.concatenate([one.features[np.flatnonzero(one.groups == group)] for group in groups])


def _weights(groups: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """[1 + draws, n]: how often each image counts, first as it is, then with its groups drawn with replacement."""
    names, of = np.unique(groups, return_inverse=True)
    return whole_and_drawn(len(names), draws, rng)[:, of]


def _balanced(one: Looked, measure: str, cells: list[str], weights: np.ndarray) -> np.ndarray:
    """Mean over `cells` of the weighted mean of a measure, [draws]; a condition that a draw misses is left out of it."""
    values = one.values[measure].to_numpy(float)
    known = np.isfinite(values)
    means = []
    for cell in cells:
        here = known & (one.cells == cell)
        weight = weights[:, here]
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((weight @ values[here]) / weight.sum(axis=1))
    means = np.array(means)
    found = np.isfinite(means)
    return np.where(found.any(axis=0), np.where(found, means, 0).sum(axis=0) / np.maximum(found.sum(axis=0), 1), np.nan)


def _row(name: str, measure: str, drawn: np.ndarray, reference: np.ndarray, images: int) -> dict[str, object]:
    change = drawn - reference
    (low, change_low), (high, change_high) = interval(np.stack([drawn[1:], change[1:]], axis=1))
    row = {"arm": name, "measure": measure, "images": images, "value": float(drawn[0]), "low": low, "high": high}
    return row | {"change": float(change[0]), "change_low": change_low, "change_high": change_high}


def statement(table: pd.DataFrame, reference: str = CONTROL) -> list[str]:
    """One sentence a measure on what post-training did beyond training on as long without it, by the interval of the change from `reference`."""
    told = []
    better = {AREA: "nearer to 1 is better", CONTRAST: "nearer to 1 is better", RATE: "more is better", DISTANCE: "less is better"}  # fmt: skip
    for measure, rows in table.groupby("measure", sort=False):
        value = rows.set_index("arm")["value"]
        if not np.isfinite(value).all():
            continue
        row = rows.set_index("arm").loc[AFTER]
        low, high = row["change_low"], row["change_high"]
        moved = "no change is shown" if low <= 0 <= high else ("it rises" if low > 0 else "it falls")
        others = ", ".join(f"{value[name]:.3f} {name}" for name in value.index if name != AFTER)
        told.append(
            f"{measure.capitalize()} ({better[measure]}): {value[AFTER]:.3f} {AFTER}, {others}; "
            f"change from {reference} {row['change']:+.3f} (95 % interval {low:+.3f} to {high:+.3f}): {moved}."
        )
    return told
