"""Do features of the run's own networks answer to what is wrong with an image? Real frames altered on purpose, against held-out ones.

    python benchmarks/dsa_features.py --run phantom

reads a finished run (notebooks 01, 02 and 07) and writes benchmarks/dsa_features.json: the Fréchet distance to held-out frames of real training frames
that were blurred, given noise, changed in contrast, exchanged for frames of another condition, or reduced to few distinct ones, as a ratio to the floor,
the distance of the same training frames left as they are. A ratio near 1 means that the features do not see the fault. Medians over `DRAWS` draws, for the
phase network (which also has a part in the autoencoder's loss where `autoencoder.perceptual` says so) and the DSA network. On the phantom archive the
frames are simulated.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import features
from dsa_lib.nn import resnet
from dsa_lib.run.errors import StudyError
from dsa_lib.run.session import environment
from dsa_lib.run.workspace import Workspace, write_json

SEED = 20261126
DRAWS = 5
LEAST = 20  # images a draw
OUT = Path(__file__).with_suffix(".json")


def blurred(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda frames: gaussian_filter(frames.astype(np.float32), (0, sigma, sigma)).round().astype(np.uint8)


def noisy(grey: float) -> Callable[[np.ndarray], np.ndarray]:
    def alter(frames: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(SEED).normal(0, grey, frames.shape)
        return (frames + noise).round().clip(0, 255).astype(np.uint8)

    return alter


def contrasted(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """About each frame's own mean."""

    def alter(frames: np.ndarray) -> np.ndarray:
        mean = frames.mean(axis=(1, 2), keepdims=True)
        return (mean + factor * (frames - mean)).round().clip(0, 255).astype(np.uint8)

    return alter


def few(count: int) -> Callable[[np.ndarray], np.ndarray]:
    """`count` distinct frames, evenly chosen, shown again and again: a generator that has collapsed."""
    return lambda frames: frames[np.linspace(0, len(frames) - 1, count).round().astype(int)][
        np.arange(len(frames)) % count
    ]


ALTERED = {
    "blur, SD 0.5 pixels": blurred(0.5),
    "blur, SD 1 pixel": blurred(1),
    "blur, SD 2 pixels": blurred(2),
    "noise, SD 3 grey": noisy(3),
    "noise, SD 6 grey": noisy(6),
    "contrast × 0.7": contrasted(0.7),
    "contrast × 0.9": contrasted(0.9),
    "contrast × 1.3": contrasted(1.3),
    "mirrored": lambda frames: frames[:, :, ::-1],
    "8 distinct images": few(8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="phantom")
    request = parser.parse_args()
    ws = Workspace(request.run)
    arterial = pd.read_parquet(ws.root / "arterial.parquet")
    arterial = arterial[arterial["cell"].isin(CELLS)].reset_index(drop=True)
    training = arterial[arterial["split"] == "train"].reset_index(drop=True)
    held_out = arterial[arterial["split"] != "train"].reset_index(drop=True)
    frames = np.load(ws.root / "frames.npy", mmap_mode="r")
    _, facts = resnet.load_classifier(ws.root / "classifier")
    some = frames[np.sort(np.random.default_rng(SEED).permutation(training["frame_id"].to_numpy())[:1024])]
    of = {
        "phase-network": features.phase_extractor(ws.root / "classifier", facts["input_size"], 64, some),
        "dsa-network": features.dsa_extractor(ws.root / "dsa_network", 64, some),
    }
    report = {
        "what": "Fréchet distance of altered real training frames to held-out ones, over that of the unaltered ones (the floor)",
        "held_out_frames": len(held_out),
        "draws": DRAWS,
        "environment": environment(),
        **{name: ratios(extractor, frames, training, held_out) for name, extractor in of.items()},
    }
    write_json(OUT, report)
    print(json.dumps(report, indent=1))


def ratios(extractor, frames: np.ndarray, training: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, object]:
    """Median ratio to the floor of each alteration, the number of images and of feature dimensions."""
    real = extractor(frames, held_out["frame_id"].to_numpy(), "held-out frames")
    reference = fidelity_distances.statistics(real)
    # As many a condition as the held-out frames have, so that the floor is that of other patients alone.
    wanted = held_out["cell"].value_counts().to_dict()
    rows = []
    for draw in range(DRAWS):
        rng = np.random.default_rng([SEED, draw])
        chosen = training.iloc[fidelity_distances.draw(training["cell"].to_numpy(), wanted, "balanced", rng)]
        if len(chosen) < LEAST:
            raise StudyError(
                f"the run has {len(chosen)} training frames of the four conditions, {LEAST} are needed: use a larger one"
            )
        stack = frames[chosen["frame_id"].to_numpy()]

        def distance(altered: np.ndarray) -> float:
            return fidelity_distances.frechet_distance(
                fidelity_distances.statistics(extractor(altered, what="altered frames")), reference
            )

        floor = distance(stack)
        row = {"images": len(chosen), "floor": floor}
        row |= {name: distance(np.ascontiguousarray(alter(stack))) / floor for name, alter in ALTERED.items()}
        row["another condition"] = distance(exchanged(frames, training, chosen, rng)) / floor
        rows.append(row)
    table = pd.DataFrame(rows)
    shown = {name: round(float(value), 3) for name, value in table.drop(columns="images").median().items()}
    return {"images": int(table["images"].median()), "dimension": real.shape[1]} | shown


def exchanged(frames: np.ndarray, training: pd.DataFrame, chosen: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Real frames in the numbers of `chosen`, but a quarter of them of the next condition in CELLS instead of their own."""
    ids = chosen["frame_id"].to_numpy().copy()
    for place in rng.choice(len(chosen), len(chosen) // 4, replace=False):
        cell = CELLS[(CELLS.index(chosen["cell"].iloc[place]) + 1) % len(CELLS)]
        ids[place] = rng.choice(training.loc[training["cell"] == cell, "frame_id"].to_numpy())
    return frames[ids]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
