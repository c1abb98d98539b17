"""Quality against steps for each sampler, and images a second: which fast sampler may stand in for DDPM with 1000 steps.

    python benchmarks/sampling.py --run phantom --images 256

reads a finished run (notebooks 01 to 04) and writes benchmarks/sampling.json and benchmarks/sampling.png. Quality is the Fréchet distance between
generated and held-out frames in features of the run's own phase network ("DSA-feature distance"), with conditions at the frequencies of the
held-out frames. All samplers start from the same noise, image by image. Images are kept in the run's checkpoints, so that a call that was stopped goes on,
and one with more images makes only the further ones.

Seconds are measured apart, on one block of images at few and at more steps (the best of `REPEATS`), and are linear in the steps between and beyond: the images
themselves may be made while the machine is busy with other work.

The floor is the distance of equally many real frames of the training patients. The default fast sampler has the fewest steps, at most 25, whose distance is at
most 3 % above that of DDPM with the most steps that were asked for (1000).
"""

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dsa_lib.core.condition_sentences import CANONICAL, CELLS
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import features
from dsa_lib.figures import style
from dsa_lib.figures.samples import quality_against_steps
from dsa_lib.ldm import pipeline, sampler, sampling
from dsa_lib.nn import resnet
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.session import environment, processor, profile_of
from dsa_lib.run.workspace import Workspace, atomic_write, sha256, write_json

STEPS = (5, 10, 20, 50, 200, 1000)
MOST_STEPS, MARGIN = 25, 0.03  # of the default fast sampler
SEED = 20260201
BLOCK = 16  # images computed together and kept in one file
SUBSETS = 100  # random halves for the uncertainty
FLOOR_DRAWS = 10
TIMED_STEPS, REPEATS = (5, 25), 3


def main() -> None:
    request = _arguments()
    style.apply()
    ws = Workspace(request.run)
    arterial = pd.read_parquet(ws.root / "arterial.parquet")
    arterial = arterial[arterial["cell"].isin(CELLS)]
    training, held_out = arterial[arterial["split"] == "train"], arterial[arterial["split"] != "train"]
    frames = np.load(ws.root / "frames.npy", mmap_mode="r")
    cells = in_proportion(held_out["cell"].value_counts().to_dict(), request.images)
    _, facts = resnet.load_classifier(ws.root / "classifier")
    some = np.random.default_rng(SEED).permutation(training["frame_id"].to_numpy())[:2048]
    extractor = features.phase_extractor(ws.root / "classifier", facts["input_size"], 64, frames[np.sort(some)])
    real = fidelity_distances.statistics(extractor(frames, held_out["frame_id"].to_numpy(), "held-out frames"))
    others = fidelity_distances.ImageSet(
        extractor(frames, training["frame_id"].to_numpy(), "training frames"), training["cell"].to_numpy()
    )
    floor, floor_images = floor_of(others, cells, real)

    dsa = pipeline.DSAPipeline.from_pretrained(ws.root / "ldm").to("cuda" if torch.cuda.is_available() else "cpu")
    schedule, model = dsa.scheduler, sha256(ws.root / "ldm")
    guidance = profile_of(ws).sampling.guidance
    code = sampling.code_digest(pipeline.CODE)
    machine = f"{processor()}; {environment()['device']}; Python {platform.python_version()}, torch {torch.__version__}"
    rows, values = [], {}
    for steps in sorted(request.steps):
        for name in request.samplers if steps < max(request.steps) else request.longest:
            dsa.scheduler = sampler.make_scheduler(name, schedule)
            # The machine too: the seconds of another one are not to stand under this one's name.
            key = hashlib.sha256(json.dumps([model, code, name, steps, guidance, machine]).encode()).hexdigest()[:16]
            made = images_of(dsa, steps, guidance, cells, ws.checkpoints(f"sampling_benchmark/{name}-{steps}-{key}"))
            values[name, steps] = extractor(made, what=f"{name}, {steps} steps")
            distance = fidelity_distances.frechet_distance(fidelity_distances.statistics(values[name, steps]), real)
            rows.append({"sampler": name, "steps": steps, "distance": distance})
            print(f"{name:12} {steps:5} steps  distance {distance:8.4f}", flush=True)
    paces = {
        name: pace(dsa, sampler.make_scheduler(name, schedule), guidance, cells[:BLOCK]) for name in request.samplers
    }
    for row in rows:
        fixed, each = paces[row["sampler"]]
        row["s_per_image"] = fixed + each * row["steps"]
        row["images_per_s"] = 1 / row["s_per_image"]
    table = compare(pd.DataFrame(rows), values, real, ("ddpm", max(request.steps)))
    chosen = choose(table)
    result = {
        "what": f"{request.images} images a sampler against {len(held_out)} held-out frames, conditions at their frequencies",
        "distance": f"{extractor.distance}, {real.mean.size} features of the phase network",
        "run": request.run,
        "model": model,
        "guidance": guidance,
        "floor": floor,
        "floor_images": floor_images,
        "reference": f"ddpm, {max(request.steps)} steps",
        "default": chosen,
        "rows": table.to_dict("records"),
        "machine": machine,
    }
    write_json(Path(request.write).with_suffix(".json"), result)
    style.save(
        quality_against_steps(table, floor, extractor.distance), Path(request.write).with_suffix(".png"), dpi=110
    )
    print(f"\nfloor (real frames of other patients, {floor_images} images) {floor:.4f}\n")
    print(table.pivot(index="sampler", columns="steps", values="distance").round(4).to_string(), "\n")
    print(table.pivot(index="sampler", columns="steps", values="ratio").round(3).to_string(), "\n")
    print(statement(chosen, request.images))


def in_proportion(counts: Mapping[str, int], images: int) -> list[str]:
    """Cells of `images` images in the proportions of `counts`, in an order whose every beginning keeps to them as far as whole numbers can."""
    total, given, order = sum(counts.values()), dict.fromkeys(sorted(counts), 0), []
    for made in range(1, images + 1):
        cell = max(given, key=lambda name: counts[name] / total * made - given[name])
        given[cell] += 1
        order.append(cell)
    return order


def images_of(dsa: pipeline.DSAPipeline, steps: int, guidance: float, cells: list[str], folder: Path) -> np.ndarray:
    """uint8 frames [len(cells), H, W], from `folder` where they are there. Image i has seed SEED + i with every sampler."""
    blocks = []
    starts = range(0, len(cells), BLOCK)
    for start in track(starts, what=f"blocks of {BLOCK} images, {steps} steps"):
        wanted = cells[start : start + BLOCK]
        path = folder / f"{start:06d}.npz"
        block = _kept(path, wanted)
        if block is None:
            made = _made(dsa, wanted, range(SEED + start, SEED + start + len(wanted)), steps, guidance)
            block = {"frames": made, "cells": np.array(wanted)}
            with atomic_write(path) as temporary:
                np.savez(temporary, **block)
        blocks.append(block["frames"])
    return np.concatenate(blocks)


def _made(dsa: pipeline.DSAPipeline, cells: list[str], seeds: range, steps: int, guidance: float) -> np.ndarray:
    sentences = [CANONICAL[cell].sentence() for cell in cells]
    return dsa(sentences, seeds=seeds, num_inference_steps=steps, guidance_scale=guidance)


def pace(dsa: pipeline.DSAPipeline, scheduler, guidance: float, cells: list[str]) -> tuple[float, float]:
    """(seconds an image beside the steps, seconds an image and step), from the shortest of REPEATS times at each of TIMED_STEPS."""
    dsa.scheduler = scheduler
    best = dict.fromkeys(TIMED_STEPS, float("inf"))
    for _ in range(REPEATS):
        for steps in TIMED_STEPS:
            began = time.perf_counter()
            _made(dsa, cells, range(SEED, SEED + len(cells)), steps, guidance)
            best[steps] = min(best[steps], (time.perf_counter() - began) / len(cells))
    few, more = TIMED_STEPS
    each = (best[more] - best[few]) / (more - few)
    return max(best[few] - few * each, 0.0), each


def _kept(path: Path, wanted: list[str]) -> dict | None:
    if not path.exists():
        return None
    with np.load(path) as kept:
        return dict(kept) if kept["cells"].tolist() == wanted else None


def floor_of(
    training: fidelity_distances.ImageSet, cells: list[str], real: fidelity_distances.Statistics
) -> tuple[float, int]:
    """(median distance of real training frames in the numbers of the generated ones, how many there were: a scarce cell gives all it has)."""
    counts = {cell: cells.count(cell) for cell in CELLS}
    distances = []
    for draw in range(FLOOR_DRAWS):
        chosen = training.at(
            fidelity_distances.draw(training.cells, counts, "balanced", np.random.default_rng([SEED, draw]))
        )
        distances.append(fidelity_distances.frechet_distance(fidelity_distances.statistics(chosen.features), real))
    return float(np.median(distances)), len(chosen.features)


def compare(
    table: pd.DataFrame,
    values: Mapping[tuple[str, int], np.ndarray],
    real: fidelity_distances.Statistics,
    reference: tuple[str, int],
) -> pd.DataFrame:
    """`table` with `ratio` (distance over that of `reference`) and `ratio_error` (95 % half-width).

    The error is that of the drawn noise and conditions, by random halves of the images, the same for both since image i has the same seed: the deviation of
    the log ratio over halves estimates its standard error on all of them (delete-half jackknife, Shao & Wu 1989). The held-out frames are one set for all.
    """
    if reference not in values:
        raise StudyError(
            f"{reference[0]} with {reference[1]} steps was not among the samplers: add it, the others are compared with it"
        )
    halves = list(_halves(len(values[reference])))

    def over_halves(key: tuple[str, int]) -> np.ndarray:
        return np.log(
            [
                fidelity_distances.frechet_distance(fidelity_distances.statistics(values[key][half]), real)
                for half in halves
            ]
        )

    whole = table.set_index(["sampler", "steps"])["distance"]
    base, errors = over_halves(reference), []
    for key in track(list(whole.index), what="samplers compared"):
        errors.append(1.96 * float(np.std(over_halves(key) - base)) * whole[key] / whole[reference])
    return table.assign(ratio=(whole / whole[reference]).to_numpy(), ratio_error=errors)


def _halves(images: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(SEED)
    for _ in range(SUBSETS):
        yield np.sort(rng.choice(images, max(images // 2, 2), replace=False))


def choose(table: pd.DataFrame) -> dict:
    """The fewest steps, at most MOST_STEPS, within MARGIN of the reference; of equally many the smallest distance. `within` is False where none is."""
    few = table[table["steps"] <= MOST_STEPS]
    if few.empty:
        raise StudyError(f"no sampler was tried with at most {MOST_STEPS} steps: add such a number to --steps")
    within = few[few["ratio"] <= 1 + MARGIN]
    row = (within.sort_values(["steps", "distance"]) if len(within) else few.sort_values("distance")).iloc[0]
    error = float(row["ratio_error"])
    return {
        "sampler": row["sampler"],
        "steps": int(row["steps"]),
        "ratio": float(row["ratio"]),
        "ratio_error": error,
        "within": bool(len(within)),
        "resolved": error <= MARGIN,
    }


def statement(chosen: Mapping, images: int) -> str:
    """What was chosen, how sure that is, in whole sentences."""
    found = f"{chosen['sampler']} with {chosen['steps']} steps: {chosen['ratio']:.3f} ± {chosen['ratio_error']:.3f} times the distance of the reference"
    if chosen["within"]:
        text = f"Default fast sampler: {found}."
    else:
        text = f"No sampler of at most {MOST_STEPS} steps comes within {MARGIN:.0%}; the nearest is {found}."
    if not chosen["resolved"]:
        needed = int(np.ceil(images * (chosen["ratio_error"] / MARGIN) ** 2 / BLOCK) * BLOCK)
        text += (
            f" A difference of {MARGIN:.0%} cannot be resolved with {images} images; about {needed} would be needed."
        )
    return text


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Quality against steps for each sampler, and images a second.")
    parser.add_argument("--run", default="phantom", help="a finished run, a folder under runs/")
    parser.add_argument("--images", type=int, default=256, help="images a sampler and number of steps")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--samplers", nargs="+", default=list(sampler.SAMPLERS), choices=list(sampler.SAMPLERS))
    parser.add_argument(
        "--longest",
        nargs="+",
        choices=list(sampler.SAMPLERS),
        help="samplers that take the most steps too (all; ddpm, the reference, must be one)",
    )
    parser.add_argument(
        "--write", default=Path(__file__).with_suffix(""), help="where to write, without .json and .png"
    )
    request = parser.parse_args()
    request.longest = request.longest or request.samplers
    return request


if __name__ == "__main__":
    main()
