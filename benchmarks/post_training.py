"""What image-space losses cost: peak memory and time of a post-training step, with the decoder's activations kept or computed again, whole batch or in parts.

    python benchmarks/post_training.py [--profile phantom] [--batch 16]     # writes benchmarks/post_training.json

Every variant runs in a process of its own, since a process gives memory back to nobody; memory is the most that it held beyond what
it had before the first step. Seconds are those of the processor, so that other work on the machine counts little. The gradients of all
variants are compared: the savings change no number beyond rounding.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dsa_lib.ldm import autoencoder, diffusion
from dsa_lib.lesions import post_training, translation
from dsa_lib.nn.training import Draws
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.session import environment, processor
from dsa_lib.run.workspace import write_json

OUT = Path(__file__).with_suffix(".json")
# (name, checkpointing, images decoded at once; None: no image losses)
VARIANTS = (
    ("latent loss alone", False, None),
    ("plain", False, 0),
    ("checkpointing", True, 0),
    ("checkpointing, 4 at once", True, 4),
    ("checkpointing, 1 at once", True, 1),
)
STEPS = 4


class Random:
    """Latents of no image."""

    def __init__(self, batch: int, shape: tuple[int, ...]):
        self.mean = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float16)

    def latents(self, indices: np.ndarray, noise: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.mean[indices].astype(np.float32)) + 0.1 * noise


def held_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux


def one(name: str, profile_name: str, batch: int) -> dict:
    """Memory, seconds and a sum of gradients of one variant."""
    _, checkpointing, at_once = next(variant for variant in VARIANTS if variant[0] == name)
    torch.set_num_threads(1)
    profile = load_profile(profile_name)
    torch.manual_seed(0)
    vae = autoencoder.build_autoencoder(profile.autoencoder)
    shape = autoencoder.latent_shape(profile.autoencoder)
    model = translation.build(profile, 1, *shape[:2])
    size, weight = profile.curation.image_size, float(at_once is not None)
    settings = replace(
        profile.post_training, image_weight=weight, lesion_weight=weight, latest=1.0, checkpointing=checkpointing, decoded_at_once=at_once or 0
    )  # fmt: skip
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 255, (batch, size, size)).astype(np.uint8)
    sources = torch.from_numpy(rng.normal(size=(batch, 1, size, size)).astype(np.float32))
    y = translation.condition(sources, vae, shape[1], "unshuffle")
    loss = post_training.training_loss(
        Random(batch, shape),
        lambda model, z_t, t, rows, draws: model(z_t, t, y),
        diffusion.noise_schedule(profile.diffusion),
        vae,
        targets,
        targets > 250,
        settings,
    )
    before, times = held_mb(), []
    for step in range(STEPS):
        model.zero_grad(set_to_none=True)
        began = time.process_time()
        loss(model, np.arange(batch), Draws(0, step, range(batch)))["loss"].backward()
        times.append(time.process_time() - began)
    gradient = sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)
    seconds = round(float(np.median(times)), 3)
    return {
        "variant": name,
        "memory_mb": round(held_mb() - before),
        "processor_seconds": seconds,
        "gradient": gradient,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="phantom")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--one", help="measure one variant, in this process")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.profile, arguments.batch)))
        return
    rows = []
    for name, *_ in VARIANTS:
        command = [
            sys.executable,
            __file__,
            "--one",
            name,
            "--profile",
            arguments.profile,
            "--batch",
            str(arguments.batch),
        ]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append(json.loads(answer.splitlines()[-1]))
        print(rows[-1], flush=True)
    plain = next(row for row in rows if row["variant"] == "plain")
    gradient = plain["gradient"]
    for row in rows:
        row["memory_of_plain"] = round(row["memory_mb"] / plain["memory_mb"], 3)
        row["processor_seconds_of_plain"] = round(row["processor_seconds"] / plain["processor_seconds"], 3)
        row["gradient_of_plain"] = round(row.pop("gradient") / gradient, 6)
    told = {"profile": arguments.profile, "batch": arguments.batch, "steps": STEPS, "rows": rows}
    write_json(arguments.out, told | {"device": f"{environment()['device']}, {processor()}", "threads": 1})


if __name__ == "__main__":
    main()
