"""A run as far as the rating page needs one, made up in a second: a reader set, arterial frames, series. Its images show random lines and nothing else."""

import numpy as np
import pandas as pd
from scipy import ndimage

from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.ldm import sampling
from dsa_lib.run.workspace import LAYOUT, Workspace, sha256, write_json

SIZE = 32


def lines(rng, size=SIZE):
    """uint8 [size, size]: dark wandering lines on grey, for something to look at."""
    image = np.zeros((size, size))
    for _ in range(6):
        y, x, direction = size * 0.9, size / 2, rng.uniform(-2.4, -0.7)
        for _ in range(2 * size):
            direction += rng.normal(0, 0.15)
            y, x = y + 0.6 * np.sin(direction), x + 0.6 * np.cos(direction)
            if 0 <= y < size and 0 <= x < size:
                image[int(y), int(x)] = 1
    dark = ndimage.gaussian_filter(image, size / 128)
    return np.clip(205 - 150 * dark / dark.max() + rng.normal(0, 3, dark.shape), 0, 255).astype(np.uint8)


def record(ws, notebook, *outputs, status="finished", reason=None):
    """The manifest that `notebook` would have left."""
    hashes = {name: sha256(ws.root / name) for name in outputs}
    write_json(
        ws.manifest_path(notebook),
        {"notebook": notebook, "layout": LAYOUT, "status": status, "reason": reason, "inputs": {}, "outputs": hashes},
    )


def reader_set(ws, per_condition=3, seed=0, size=SIZE):
    """samples/reader as notebook 05 leaves it; returns its manifest."""
    plan = sampling.stratified_plan(seed, per_condition)
    rng = np.random.default_rng(seed)
    for name in plan["file"]:
        sampling.save_png(ws.path(f"samples/reader/{name}"), lines(rng, size), key="set")
    plan.to_parquet(ws.path("samples/reader/manifest.parquet"))
    record(ws, "05_sampling", "samples/reader")
    return plan


def real_frames(ws, series=12, frames=5, seed=1, size=SIZE):
    """series.parquet, frames.parquet, frames.npy and arterial.parquet of made-up series in the four conditions, a third of them in the test split."""
    rng = np.random.default_rng(seed)
    np.save(ws.path("frames.npy"), np.stack([lines(rng, size) for _ in range(series * frames)]))
    cells = list(CANONICAL)
    rows, stored = [], []
    for n in range(series):
        condition, split = CANONICAL[cells[n % 4]], "test" if n // 4 == 0 else "train"
        shared = {
            "series": f"S{n:010x}",
            "circulation": condition.circulation,
            "plane": condition.plane,
            "split": split,
        }
        rows.append({**shared, "kept": True, "first_frame": n * frames, "frames": frames, "frames_in_file": frames + 1})
        # Of some runs the first frame is the mask, which is no frame of the study.
        stored += [
            {"frame_id": n * frames + i, **shared, "frame": i + n % 2, "cell": cells[n % 4]} for i in range(frames)
        ]
    stored = pd.DataFrame(stored)
    pd.DataFrame(rows).to_parquet(ws.path("series.parquet"))
    stored.drop(columns="cell").to_parquet(ws.path("frames.parquet"))
    stored[(stored["frame_id"] % frames).isin([1, 2])].to_parquet(ws.path("arterial.parquet"))
    record(ws, "01_curation", "series.parquet", "frames.npy", "frames.parquet")
    record(ws, "02_classifier", "arterial.parquet")


def whole(run="tiny", **sizes):
    """All of it; the workspace."""
    ws = Workspace(run)
    reader_set(ws, **sizes)
    real_frames(ws, size=sizes.get("size", SIZE))
    return ws
