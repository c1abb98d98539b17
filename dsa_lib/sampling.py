"""Stratified sampling of the canonical conditions (§2.3, §2.5): a plan, one seed an image, files that are there are not made again."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dsa_lib.conditions import CANONICAL
from dsa_lib.diffusion import DSAPipeline
from dsa_lib.workspace import atomic_write

SYNTHETIC_MARK = "Synthetic image made by a latent diffusion model. It shows no patient."


def stratified_plan(seed: int, per_condition: int, batches: int = 1) -> pd.DataFrame:
    """One row an image: image_id, batch, cell, circulation, plane, angles, sentence, seed.

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
    return pd.DataFrame(rows).sort_values("image_id", ignore_index=True)


def generate(
    pipeline: DSAPipeline,
    plan: pd.DataFrame,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    model: str,
    digest: str,
    track: Callable = iter,
) -> pd.DataFrame:
    """Write one PNG a row of `plan` into `folder`, then `manifest.parquet`; returns the manifest.

    `model` is the hash that the manifest names. Images made before under the same `digest` (model, numbers and code) and plan are kept, so that an
    interrupted run goes on; others are removed first.
    """
    folder = Path(folder)
    made_by = {"model": model, "scheduler": type(pipeline.scheduler).__name__, "steps": steps}
    key = hashlib.sha256(json.dumps([made_by, digest, plan.to_csv(index=False)]).encode()).hexdigest()
    mark = folder / ".made_by"
    if not mark.exists() or mark.read_text() != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mark.write_text(key)
    missing = plan[[not (folder / name).exists() for name in plan["file"]]]
    batches = [missing.iloc[first : first + batch_size] for first in range(0, len(missing), batch_size)]
    for batch in track(batches):
        frames = pipeline(batch["sentence"].tolist(), seeds=batch["seed"].tolist(), num_inference_steps=steps)
        for name, frame in zip(batch["file"], frames, strict=True):
            save_png(folder / name, frame)
    manifest = plan.assign(**made_by)
    with atomic_write(folder / "manifest.parquet") as temporary:
        manifest.to_parquet(temporary, index=False)
    return manifest


def save_png(path: Path, frame: np.ndarray) -> None:
    """Write a uint8 frame [H, W] as PNG with the mark that it is synthetic; nothing in the file tells the condition."""
    text = PngInfo()
    text.add_text("Comment", SYNTHETIC_MARK)
    with atomic_write(path) as temporary:
        Image.fromarray(frame).save(temporary, pnginfo=text)
