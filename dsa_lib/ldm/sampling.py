"""Stratified sampling of the canonical conditions (§2.3, §2.5): a plan, one seed an image, shards, and images that are there are not made again."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dsa_lib.core.condition_sentences import CANONICAL, parse_sentence
from dsa_lib.run import shards
from dsa_lib.run.workspace import atomic_write, sha256

if TYPE_CHECKING:  # plans and manifests are read without torch
    from dsa_lib.ldm.pipeline import Asked, DSAPipeline

SYNTHETIC_MARK = "Synthetic image made by a latent diffusion model. It shows no patient."
# Columns of a manifest: those of the plan, then who made the image (`made_by`).
PLAN = ("image_id", "file", "batch", "cell", "circulation", "plane", "primary_angle_deg", "secondary_angle_deg", "sentence", "seed")  # fmt: skip
MADE_BY = ("model", "scheduler", "steps", "guidance")
# For a first look, and in profile phantom. Whether so few steps come within 3 % of DDPM with 1000, the 48 images of benchmarks/sampling.json cannot
# tell; DDIM's distance is the nearest there, and smaller with 400 images (sampling_400.json). But at as good a distance to the test patients DDIM with 20 steps
# keeps 0.76 of the peripheral arteries' area, DPM-Solver++ 0.94 (phantom_quality_ddim.json, phantom_quality.json): distal vessels, the weak point, decide.
FAST_SAMPLER, FAST_STEPS = "dpmsolver++", 20
ABANDONED_S = 3600.0  # a half-written file that old was left by a process that was killed


def stratified_plan(seed: int, per_condition: int, batches: int = 1) -> pd.DataFrame:
    """One row an image: image_id, file, batch, cell, circulation, plane, angles, sentence, seed.

    Every batch holds `per_condition` images of each of the four conditions. Numbers are given out in random order, so that an image_id (and the
    file name made of it) tells a blinded reader nothing about the condition.
    """
    cells = [(batch, cell) for batch in range(batches) for cell in CANONICAL for _ in range(per_condition)]
    rng = np.random.default_rng([seed, per_condition, batches])
    numbers = rng.permutation(len(cells))
    seeds = rng.integers(2**31, size=len(cells))
    rows = []
    for number, (batch, cell), image_seed in zip(numbers, cells, seeds, strict=True):
        condition = CANONICAL[cell]
        rows.append(
            {
                "image_id": f"img{number:05d}",
                "file": f"img{number:05d}.png",
                "batch": batch,
                "cell": cell,
                "circulation": condition.circulation,
                "plane": condition.plane,
                "primary_angle_deg": float(condition.primary_angle_deg),
                "secondary_angle_deg": float(condition.secondary_angle_deg),
                "sentence": condition.sentence(),
                "seed": int(image_seed),
            }
        )
    return pd.DataFrame(rows, columns=PLAN).sort_values("image_id", ignore_index=True)


def made_by(pipeline: "DSAPipeline", model: str, steps: int, guidance: float) -> dict[str, object]:
    """What a manifest says of the maker of an image: hash of the model, sampler, number of steps, guidance scale."""
    return dict(zip(MADE_BY, (model, type(pipeline.scheduler).__name__, steps, float(guidance)), strict=True))


def code_digest(code: Sequence[ModuleType]) -> str:
    """sha256 over the source of the modules that decide an image: images of other code are made anew."""
    return hashlib.sha256("".join(sha256(Path(module.__file__)) for module in code).encode()).hexdigest()


def generate(
    pipeline: "DSAPipeline",
    plan: pd.DataFrame,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    model: str,
    digest: str,
    guidance: float = 1.0,
    shard: int = 0,
    num_shards: int = 1,
    allow_unseen: bool = False,
    track: Callable = iter,
) -> pd.DataFrame | None:
    """Write one PNG for each row of `plan` that belongs to `shard` into `folder`; the shard that finds the set whole writes `manifest.parquet`.

    Returns the manifest, or None while images of other shards are missing (`shards.missing` says which). `model` is the hash that the manifest names,
    `digest` that of whatever else decides the images. An image bears the mark of its set (plan, model, sampler, digest): those that are there are kept,
    so that an interrupted run goes on, and those of another set are written over. Batch size and shards are not part of that mark: an image starts from
    the noise of its own seed, and its pixels agree within one grey level whichever images are computed beside it.

    Raises StudyError for a condition that the model never saw (unless `allow_unseen`) and for a shard that does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    maker = made_by(pipeline, model, steps, guidance)
    key = hashlib.sha256(json.dumps([maker, digest, plan.to_csv(index=False)]).encode()).hexdigest()
    mine = shards.rows(plan, shard, num_shards)
    if pipeline.seen is not None and not allow_unseen:
        pipeline.seen.require(
            parse_sentence(sentence) for sentence in plan["sentence"].unique()
        )  # before hours of work
    missing = mine[np.array([not _bears(folder / name, key) for name in mine["file"]], dtype=bool)]
    if len(missing):
        # What the folder holds is no whole set any more, or never was.
        (folder / shards.MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder / "dicom", ignore_errors=True)
    shards.forget_others(folder, key)
    batches = [missing.iloc[first : first + batch_size] for first in range(0, len(missing), batch_size)]
    for batch in track(batches):
        frames = pipeline(
            batch["sentence"].tolist(),
            seeds=batch["seed"].tolist(),
            num_inference_steps=steps,
            guidance_scale=guidance,
            allow_unseen=allow_unseen,
        )
        for name, frame in zip(batch["file"], frames, strict=True):
            save_png(folder / name, frame, key)
    shards.write_part(folder, key, shard, num_shards, mine.assign(**maker))
    return _merge(folder, plan.assign(**maker), key)


def _merge(folder: Path, whole: pd.DataFrame, key: str) -> pd.DataFrame | None:
    """Write the manifest `whole` if the parts of all shards are there, with their images. Two shards that do this at once write the same."""
    made = pd.concat(shards.read_parts(folder, key)).drop_duplicates("image_id")
    if set(made["image_id"]) != set(whole["image_id"]) or not all(_bears(folder / name, key) for name in made["file"]):
        return None
    for path in folder.glob("*.png"):
        if path.name not in set(whole["file"]):
            path.unlink(missing_ok=True)  # of an earlier, larger set
    for left in folder.glob(".writing-*"):
        if left.exists() and time.time() - left.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    manifest = made.sort_values("image_id", ignore_index=True)
    with atomic_write(folder / shards.MANIFEST) as temporary:
        manifest.to_parquet(temporary, index=False)
    return manifest


def _bears(path: Path, key: str) -> bool:
    """Whether the image is there and bears the mark of the set `key`."""
    try:
        with Image.open(path) as image:
            return image.info.get("Set") == key
    except (OSError, SyntaxError):  # not there, or damaged, on which Pillow raises either
        return False


def save_png(path: Path, frame: np.ndarray, key: str = "") -> None:
    """Write a uint8 frame [H, W] as PNG that says that it is synthetic, and to which set it belongs; nothing in the file tells the condition."""
    text = PngInfo()
    text.add_text("Comment", SYNTHETIC_MARK)
    if key:
        text.add_text("Set", key)
    with atomic_write(path) as temporary:
        Image.fromarray(frame).save(temporary, pnginfo=text)


def compare_samplers(
    pipeline: "DSAPipeline",
    asked: "Asked",
    seeds: Sequence[int],
    samplers: dict[str, object],
    steps: int,
    solved: int = 200,
    guidance: float = 1.0,
    allow_unseen: bool = False,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The same noise through several samplers: a table, one row a sampler, and their frames, uint8 [n, H, W] each.

    `samplers`: name → scheduler. `s_per_image` is the time at `steps` steps. Without noise on the way the reverse process is an ordinary differential
    equation, whose solution the noise z_T alone determines (Song et al. 2021); DDIM, DPM-Solver++ and UniPC solve it. `grey_from_solution` is the mean
    absolute difference, in grey levels, from its solution by DDIM in `solved` steps; NaN for a sampler that draws noise on the way (DDPM).
    """
    before, rows, frames = pipeline.scheduler, [], {}
    options = {"seeds": seeds, "guidance_scale": guidance, "allow_unseen": allow_unseen}
    try:
        pipeline.scheduler = samplers["ddim"]
        solved = min(solved, pipeline.scheduler.config.num_train_timesteps)
        solution = pipeline(asked, num_inference_steps=solved, **options).astype(float)
        for name, scheduler in samplers.items():
            pipeline.scheduler = scheduler
            started = time.perf_counter()
            frames[name] = pipeline(asked, num_inference_steps=steps, **options)
            seconds = (time.perf_counter() - started) / len(seeds)
            apart = np.nan if name == "ddpm" else np.abs(frames[name] - solution).mean()
            rows.append({"sampler": name, "steps": steps, "s_per_image": seconds, "grey_from_solution": apart})
    finally:
        pipeline.scheduler = before
    return pd.DataFrame(rows).set_index("sampler"), frames
