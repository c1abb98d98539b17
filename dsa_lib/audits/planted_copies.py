"""The planted test of the audit: generators that do copy, and whether the audit says so.

`train_to_copy` trains the run's unconditional diffusion model on, on a few training frames alone, until it knows them by heart. The other controls copy
by hand: frames as they are, mirrored, shifted, noisy, and passed through the autoencoder, all of them or a share among honest images.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.audits import memorisation
from dsa_lib.audits.copy_search import Space, embed, search
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.ldm import diffusion, sampler
from dsa_lib.ldm.pipeline import DSAPipeline, in_batches
from dsa_lib.nn import training
from dsa_lib.nn.processes import default_device
from dsa_lib.nn.training import fit, run_options
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile
from dsa_lib.run.session import Study

EMA_DECAY = 0.97
NOISE_GREY = 6.0  # SD of the noise of a noisy copy, grey levels
SHIFT = 1 / 32  # of the frame: how far a shifted copy is moved
SHARE = 0.1  # of copies among honest images


CODE = (sys.modules[__name__], diffusion, training)  # what decides the planted model's weights: for `Study.digest`


def cannot_plant(study: Study) -> str | None:
    """Why no model is made to copy in this run; None where one is."""
    if study.profile.privacy.planted_steps == 0:
        return "privacy.planted_steps is 0"
    if missing := [name for name in ("ldm_unconditional", "latents/index.parquet") if not study.has(name)]:
        return f"this run has no {missing[0]}"
    return None


def chosen(cells: np.ndarray, patients: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of up to `count` frames: of every patient one before a second of any, and within that cell after cell in turn. StudyError without any."""
    if len(cells) == 0:
        raise StudyError("there is no training frame to plant copies of: use a larger archive")
    table = pd.DataFrame({"position": np.random.default_rng([seed, 62]).permutation(len(cells))})
    table["cell"], table["patient"] = np.asarray(cells)[table["position"]], np.asarray(patients)[table["position"]]
    table["of_patient"] = table.groupby("patient").cumcount()
    table["of_cell"] = table.groupby(["of_patient", "cell"]).cumcount()
    return table.sort_values(["of_patient", "of_cell"], kind="stable")["position"].to_numpy()[:count]


def frames_to_learn(index: pd.DataFrame, count: int, seed: int) -> np.ndarray:
    """Rows of `index` (latents/index.parquet) of `count` training frames: of each patient the most probably arterial one, so that vessels show.

    Frames of the four conditions, where there are any.
    """
    rows = index.reset_index(drop=True)
    rows = rows[rows["split"] == "train"]
    rows = rows[rows["cell"].isin(CELLS)] if rows["cell"].isin(CELLS).any() else rows
    rows = rows.sort_values("probability", ascending=False, kind="stable")
    rows = rows.assign(turn=rows.groupby("patient").cumcount())
    turns = max(-(-count // max(rows["patient"].nunique(), 1)), 1)
    rows = rows[rows["turn"] < turns]
    return rows.index.to_numpy()[chosen(rows["cell"].to_numpy(), rows["patient"].to_numpy(), count, seed)]


def train_to_copy(
    pipeline: DSAPipeline, data: diffusion.LatentSet, profile: Profile, folder: Path, digest: str
) -> DSAPipeline:
    """The unconditional `pipeline`, its network trained on until it knows the latents of `data` by heart: every step shows it all of them.

    Trained in place by the loop of every other model (resumed from `folder` by the same `digest`) for `privacy.planted_steps` steps. All timesteps weigh
    alike, whatever the profile says: which of the frames a sample becomes is decided where noise is strong, and min-SNR weights leave that unlearnt.
    """
    settings = profile.privacy
    fit(
        diffusion.UnconditionalDenoiser(pipeline.unet),
        diffusion.training_loss(data, diffusion.noise_schedule(profile.diffusion)),
        size=len(data),
        batch_size=len(data),
        steps=settings.planted_steps,
        learning_rate=settings.planted_learning_rate,
        cosine=True,
        warmup_steps=settings.planted_steps // 25,
        clip_norm=1.0,
        ema_decay=EMA_DECAY,
        folder=folder,
        digest=digest,
        live=False,
        what="planted model",
        **run_options(profile),
    )
    return pipeline


def sampled(pipeline: DSAPipeline, profile: Profile) -> np.ndarray:
    """uint8 frames [privacy.planted_images, H, W] of the unconditional `pipeline`, by the sampler of the profile's `sampling` section."""
    settings, count = profile.sampling, profile.privacy.planted_images
    pipeline.scheduler = sampler.make_scheduler(settings.scheduler, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(default_device())
    seeds = np.random.default_rng([profile.seed, 63]).integers(2**31, size=count).tolist()
    what = "images of the planted model"
    return in_batches(pipeline, None, seeds, settings.batch_size, what, num_inference_steps=settings.steps)


def model_of_run(study: Study, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The run's unconditional model made to copy: the uint8 frames [n, H, W] of the store `frames` that it was trained on, and its samples.

    Where `cannot_plant` says so, there is none.
    """
    profile = study.profile
    index = pd.read_parquet(study.read("latents/index.parquet"))
    known = frames_to_learn(index, profile.privacy.planted_frames, profile.seed)
    posterior = [np.load(study.read(f"latents/{name}.npy"), mmap_mode="r") for name in ("mean", "std")]
    pipeline = DSAPipeline.from_pretrained(study.read("ldm_unconditional"))
    copying = train_to_copy(
        pipeline,
        diffusion.LatentSet(*posterior, pipeline.vae.config.scaling_factor, rows=known),
        profile,
        folder=study.ws.checkpoints("planted_copies"),
        digest=study.digest("privacy", "diffusion", code=CODE),
    )
    return frames[index["frame_id"].to_numpy()[known]], sampled(copying, profile)


def by_hand(
    frames: np.ndarray, decode: Callable[[np.ndarray], np.ndarray] | None, seed: int
) -> Mapping[str, np.ndarray]:
    """Copies of uint8 `frames` [n, H, W], by what was done to them; `decode` passes frames through the autoencoder (None: leaves that out)."""
    noise = np.random.default_rng([seed, 64]).normal(0, NOISE_GREY, frames.shape)
    moved = max(round(frames.shape[-1] * SHIFT), 1)
    copies = {
        "exact": frames,
        "mirrored": frames[:, :, ::-1],
        "shifted": np.concatenate([frames[:, :, :1].repeat(moved, axis=2), frames[:, :, :-moved]], axis=2),
        "noisy": np.clip(frames + noise, 0, 255).round().astype(np.uint8),
    }
    return copies if decode is None else copies | {"through the autoencoder": decode(frames)}


def controls(
    audited: memorisation.Audit,
    spaces: Sequence[Space],
    generated: memorisation.Images,
    held_out: memorisation.Images,
    training: memorisation.Images,
    planted: Mapping[str, np.ndarray],
    vectors: Callable[[np.ndarray], np.ndarray],
    seed: int,
) -> pd.DataFrame:
    """The verdict on planted images, each kind alone and as a SHARE of the generated images.

    `planted`: kind → uint8 frames [n, H, W]; `vectors`: frames → features [n, d], for a `feature_space`. `audited`, `spaces` and the sets are those of
    the audit. An image counts as of the condition of its nearest training frame among those of the four conditions, so that all enter the test.
    One row a kind and share: `images`, of which `planted`, the spaces that are
    `flagged_in` at the level of the audit, the smallest `p_adjusted`, and `flagged`.
    """
    generated, held_out = generated.canonical(), held_out.canonical()
    every = np.concatenate(list(planted.values()))
    ends = np.cumsum([len(images) for images in planted.values()])
    rows = []
    for space in spaces:
        source, places = training.source(space)
        queries = embed(space, every if space.embed is not None else vectors(every), what="planted images")
        near = search(space, queries, source, places, np.asarray(training.patients))
        cells = _conditions(space, queries, training.canonical())
        found = audited.lookups[space.name]
        for kind, end in zip(planted, ends, strict=True):
            here = np.arange(end - len(planted[kind]), end)
            rows.append(
                {"kind": kind, "share": 1.0, "images": len(here), "planted": len(here), "space": space.name}
                | memorisation.tests(found, held_out, near.at(here), cells[here])
            )
            place = planted_places(len(generated.rows), SHARE, seed)
            taken = here[np.arange(len(place)) % len(here)]
            mixed_cells = np.asarray(generated.cells).copy()
            mixed_cells[place] = cells[taken]
            rows.append(
                {"kind": kind, "share": SHARE, "images": len(mixed_cells), "planted": len(place), "space": space.name}
                | memorisation.tests(found, held_out, found.generated.replaced(place, near.at(taken)), mixed_cells)
            )
    groups = pd.DataFrame(rows).groupby(["kind", "share", "images", "planted"], sort=False)
    return pd.DataFrame(
        [dict(zip(groups.keys, key, strict=True)) | _verdict(part, audited.level) for key, part in groups]
    )


def _conditions(space: Space, queries: np.ndarray, training: memorisation.Images) -> np.ndarray:
    """The cell [n] of each query's nearest frame of `training`."""
    source, places = training.source(space)
    near = search(space, queries, source, places, np.asarray(training.patients))
    return np.asarray(training.cells)[near.at_best("position")]


def _verdict(part: pd.DataFrame, level: float) -> dict:
    table = memorisation.judged(part.reset_index(drop=True), level)
    return {
        "flagged_in": ", ".join(table.loc[table["flagged"], "space"]),
        "p_adjusted": float(table["p_adjusted"].min()),
        "flagged": bool(table["flagged"].any()),
    }


def statement(table: pd.DataFrame) -> str:
    """One sentence on the `controls`: how many are flagged, and which the audit misses."""
    missed = [f"{each.kind} ({each.share:.0%} of the images)" for each in table[~table["flagged"]].itertuples()]
    return (
        f"Of {len(table)} planted controls, {int(table['flagged'].sum())} are flagged"
        f"{'; missed: ' + ', '.join(missed) if missed else ''}."
    )


def planted_places(images: int, share: float, seed: int) -> np.ndarray:
    """Positions of the `share` (rounded) of `images` that give way to copies."""
    return np.sort(np.random.default_rng([seed, 65]).permutation(images)[: round(share * images)])
