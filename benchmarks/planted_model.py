"""A diffusion model trained on eight frames until it copies them: does the memorisation audit say so?

    python benchmarks/planted_model.py --run phantom --steps 2000

reads a finished run (notebooks 01 to 05), trains its unconditional model on by `planted_copies.train_to_copy` for longer than notebook 13 has time for, and
writes benchmarks/planted_model.json and .png (the eight frames above samples of the model). Everything is simulated anatomy. Whether it copies is
measured apart from the audit: `correlation`, of every sample with the nearest of the eight frames, beside that of held-out frames of other patients.
A call that was stopped goes on.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.audits import copy_search, memorisation, planted_copies
from dsa_lib.core import images
from dsa_lib.fidelity import features
from dsa_lib.figures import samples, style
from dsa_lib.ldm import diffusion
from dsa_lib.ldm.autoencoder import AutoencoderKL
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.nn import resnet
from dsa_lib.run.session import environment, profile_of
from dsa_lib.run.workspace import Workspace, write_json

OUT = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="phantom")
    parser.add_argument("--steps", type=int, default=2000)
    request = parser.parse_args()
    style.apply()
    ws = Workspace(request.run)
    profile = profile_of(ws)
    profile = replace(profile, privacy=replace(profile.privacy, planted_steps=request.steps))
    frames = np.load(ws.root / "frames.npy", mmap_mode="r")
    index = pd.read_parquet(ws.root / "latents" / "index.parquet")
    learnt = planted_copies.frames_to_learn(index, profile.privacy.planted_frames, profile.seed)
    posterior = [np.load(ws.root / "latents" / f"{name}.npy", mmap_mode="r") for name in ("mean", "std")]
    scale = AutoencoderKL.from_pretrained(ws.root / "vae").config.scaling_factor
    model = planted_copies.train_to_copy(
        DSAPipeline.from_pretrained(ws.root / "ldm_unconditional"),
        diffusion.LatentSet(*posterior, scale, rows=learnt),
        profile,
        folder=ws.checkpoints("planted_model_benchmark"),
        digest=profile.digest("privacy", "diffusion"),
    )
    made = planted_copies.sampled(model, profile)
    known = frames[index["frame_id"].to_numpy()[learnt]]
    table, controls, others = audited(ws, profile, frames, made)
    closest = correlations(made, known).max(axis=1)
    report = {
        "what": "a model trained on eight frames alone, in the audit of benchmarks' phantom run (simulated); see the head of benchmarks/planted_model.py",
        "steps": request.steps,
        "images": len(made),
        "correlation of a sample with the nearest of the eight frames, 5 / 50 / 95 %": quantiles(closest),
        "the same for held-out frames of other patients": quantiles(correlations(others, known).max(axis=1)),
        "frames that a sample correlates with best": len(set(correlations(made, known).argmax(axis=1))),
        "honest images": {"flagged": bool(table["flagged"].any()), "p_adjusted": float(table["p_adjusted"].min())},
        "samples of the planted model": controls.round(6).to_dict("records"),
        "environment": environment(),
    }
    write_json(OUT, report)
    nearest = made[np.argsort(-closest)[: len(known)]]
    style.save(
        samples.image_grid([known, nearest, made[: len(known)]], ["trained on", "nearest", "first"]),
        OUT.with_suffix(".png"),
    )
    print(json.dumps(report, indent=1))


def audited(ws: Workspace, profile, frames, made: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """(audit of the run's own images, of the planted model's, held-out frames), in the spaces of notebook 13 with the phase network's features."""
    arterial = pd.read_parquet(ws.root / "arterial.parquet")
    training, held_out = arterial[arterial["split"] == "train"], arterial[arterial["split"] != "train"]
    _, facts = resnet.load_classifier(ws.root / "classifier")
    some = np.random.default_rng(profile.seed).permutation(training["frame_id"].to_numpy())[:2048]
    extractor = features.phase_extractor(ws.root / "classifier", facts["input_size"], 64, frames[np.sort(some)])
    spaces = copy_search.spaces_of(ws.root / "classifier", extractor.name)

    def real(rows: pd.DataFrame, what: str) -> memorisation.Images:
        places = rows["frame_id"].to_numpy()
        return memorisation.Images(
            frames, places, rows["cell"].to_numpy(), rows["patient"].to_numpy(), extractor(frames, places, what)
        )

    manifest = pd.read_parquet(ws.root / "samples" / "fid" / "manifest.parquet")
    generated = images.read_images(ws.root / "samples" / "fid", manifest["file"].tolist())
    honest = memorisation.Images(
        generated, np.arange(len(generated)), manifest["cell"].to_numpy(), vectors=extractor(generated)
    )
    sets = real(held_out, "held-out frames"), real(training, "training frames")
    audit = memorisation.audit(spaces, honest, *sets, profile.privacy, profile.seed)
    controls = planted_copies.controls(
        audit, spaces, honest, *sets, {"model trained on eight frames": made}, extractor, profile.seed
    )
    return audit.table, controls, frames[held_out["frame_id"].to_numpy()[:: max(len(held_out) // 300, 1)]]


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n, m] correlation of the grey values of every pair of frames."""
    flat = [x.reshape(len(x), -1).astype(np.float64) for x in (a, b)]
    flat = [x - x.mean(axis=1, keepdims=True) for x in flat]
    flat = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in flat]
    return flat[0] @ flat[1].T


def quantiles(values: np.ndarray) -> list[float]:
    return np.quantile(values, [0.05, 0.5, 0.95]).round(3).tolist()


if __name__ == "__main__":
    main()
