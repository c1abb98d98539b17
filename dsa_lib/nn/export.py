"""Trained phantom weights that ship with the project (models/phantom), written from a run.

`python -m dsa_lib.nn.export RUN` writes them, in half precision, from a run of profile `phantom` on a phantom archive of its own seed; `make weights` is that
run and this command.
"""

import dataclasses
import json
import sys
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from dsa_lib.nn.shipped import FOLDER, shapes
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import Workspace, atomic_write, sha256, write_json

LARGEST_MB = 80
# Every network: its folder here, and in the run it comes from.
NETWORKS = {
    "classifier": "classifier",
    "vae": "vae",
    "unet": "ldm/unet",
    "text_encoder": "ldm/text_encoder",
    "unet_unconditional": "ldm_unconditional/unet",
}
COPIED = ("model_index.json", "pipeline.py", "scheduler", "tokenizer")  # of ldm/: what makes the folder a pipeline
# Every training: its log's name here, and its checkpoint folder in the run.
LOGS = {"classifier": "classifier", "vae": "vae", "ldm": "ldm", "ldm_unconditional": "ldm_unconditional"}


def export(run: str, folder: Path = FOLDER) -> dict:
    """Write the networks, logs and card of `run` (profile `phantom`, phantom archive) to `folder`, in one step; returns the card.

    Raises StudyError if the run is not finished as far as notebook 04, its networks do not belong together or went on from weights of another run
    (whose patients the card would not name), or they come out larger than LARGEST_MB.
    """
    ws = Workspace(run)
    notebooks = ("02_classifier", "03_vae", "04_ldm")
    for notebook in ("00_phantom_archive", *notebooks):
        if (ws.manifest(notebook) or {}).get("status") != "finished":
            raise StudyError(f"run {run!r} has not finished notebook {notebook}: make weights goes on with it")
    provenance = {name: json.loads((ws.root / "provenance" / f"{name}.json").read_text()) for name in notebooks}
    parameters = provenance["04_ldm"]["parameters"]
    profile = load_profile(parameters["profile"], parameters.get("overrides"))
    study = Study("ship", run, profile, None, {})
    for name in ("classifier", "vae", "ldm", "ldm_unconditional"):
        study.read(name)  # raises StudyError where it is not as its notebook left it, or stale
    for name in notebooks:
        if (ws.manifest(name)["facts"].get("started_from") or "nothing") != "nothing":
            raise StudyError(
                f"notebook {name} of run {run!r} went on from weights that were trained before: set from_scratch and train anew"
            )
    with atomic_write(folder) as temporary:
        temporary.mkdir(parents=True)
        for name, source in NETWORKS.items():
            _half(ws.root / source, temporary / name)
        for name in COPIED:
            _copy(ws.root / "ldm" / name, temporary / name)
        for name, source in LOGS.items():
            _copy(ws.root / "checkpoints" / source / "log.jsonl", temporary / "logs" / f"{name}.jsonl")
        files = {str(p.relative_to(temporary)): sha256(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        written = {
            "run": run,
            "commit": {name: record["environment"]["commit"] for name, record in provenance.items()},
            "device": {name: record["environment"]["device"] for name, record in provenance.items()},
            "profile": profile.name,
            "overrides": parameters.get("overrides") or {},
            "shapes": shapes(profile),
            "patients": patients_seen(ws),
            "archive": dataclasses.asdict(profile.archive) | {"seed": profile.seed},
            "parameters": {name: _count(temporary / name) for name in NETWORKS},
            "files": files,
        }
        write_json(temporary / "card.json", written)
        write(written, temporary)
        size = sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file()) / 2**20
        if size > LARGEST_MB:
            raise StudyError(
                f"the weights of run {run!r} take {size:.0f} MB, more than {LARGEST_MB}: shrink the networks"
            )
    return written


def patients_seen(ws: Workspace) -> dict[str, list[str]]:
    """PatientIDs whose frames trained the networks or chose their weights, by split."""
    key = pd.read_parquet(ws.private("series_key.parquet"))[["series", "series_instance_uid"]]
    truth = pd.read_parquet(ws.root / "archive_truth.parquet", columns=["series_instance_uid", "patient_id"])
    frames = pd.read_parquet(ws.root / "frames.parquet", columns=["series", "split"]).drop_duplicates()
    table = frames.merge(key, on="series").merge(truth.drop_duplicates(), on="series_instance_uid")
    return {split: sorted(table.loc[table["split"] == split, "patient_id"].unique()) for split in ("train", "val")}


def _half(source: Path, target: Path) -> None:
    """Copy a network's folder with its floating-point weights in half precision."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".safetensors":
            weights = {name: v.half() if v.is_floating_point() else v for name, v in load_file(path).items()}
            if not all(torch.isfinite(v).all() for v in weights.values() if v.is_floating_point()):
                raise StudyError(f"{path.name} of {source.name} holds weights beyond half precision: train it again")
            save_file(weights, target / path.name, metadata={"format": "pt"})
        elif path.is_file():
            _copy(path, target / path.name)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        for path in source.rglob("*"):
            if path.is_file():
                _copy(path, target / path.relative_to(source))
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def _count(folder: Path) -> int:
    return sum(v.numel() for file in folder.glob("*.safetensors") for v in load_file(file).values())


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m dsa_lib.nn.export RUN", file=sys.stderr)
        return 2
    try:
        manifest = Workspace(sys.argv[1]).manifest("04_ldm") or {"profile": "phantom"}
        if manifest["profile"] != "phantom":
            raise StudyError(f"run {sys.argv[1]!r} is of profile {manifest['profile']}: only weights of phantom ship")
        written = export(sys.argv[1])
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"models/phantom: {sum(written['parameters'].values()) / 1e6:.1f} M parameters, {len(written['files'])} files"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())


TEMPLATE = """# Trained phantom weights

Latent diffusion of **simulated** cerebral angiograms, conditioned on sentences. No patient's image was used: all training frames come from the phantom archive
that notebook 00 draws, and everything these weights generate is simulated anatomy. They are for trying the compendium and for testing
methods, not for any clinical use.

Trained by notebooks 00–04 (run `{run}`; `make weights` repeats it), half precision, {million:.1f} M parameters together.

## What is here

| folder | network | parameters |
|---|---|---|
{networks}

The folder itself is a pipeline:

```python
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.ldm.sampler import make_scheduler

pipeline = DSAPipeline.from_pretrained("models/phantom")
pipeline.scheduler = make_scheduler("dpmsolver++", pipeline.scheduler)  # saved with DDPM, the published sampler of 1000 steps
frames = pipeline([("anterior", "A", 0, 0)], seeds=[1], num_inference_steps=20)
```

## How they were trained

Phantom archive of {patients} simulated patients (seed {seed}); {train} patients trained, {val} chose the weights. `card.json` lists them
by PatientID: a run that evaluates on one of them is refused.

| training | steps | validation loss, first and best | where |
|---|---|---|---|
{trainings}

Profile `{profile}` with these values of its own:

```json
{overrides}
```

The logs are in `logs/`, one line an evaluation. Code: commit {commit}.

## What they reach

The figures measured on patients of another archive stand in `benchmarks/phantom_quality.json`.

## Limits

- {size} × {size} pixels, where the paper has 256 × 256; simulated vessel trees, without lesions.
- The four canonical conditions and the oblique angles of the archive; the pipeline refuses what it never saw unless told otherwise.
- Features and judges trained on phantom frames know nothing of clinical ones.
"""


def write(card: dict, folder: Path) -> None:
    """Write README.md for the weights in `folder`, whose logs lie there; `card` is the content of card.json."""
    roles = {
        "classifier": "ResNet-18 family, arterial phase",
        "vae": "KL autoencoder",
        "unet": "conditional denoising network",
        "text_encoder": "BERT for the sentences",
        "unet_unconditional": "unconditional denoising network",
    }
    networks = [f"| `{name}/` | {roles[name]} | {count:,} |" for name, count in card["parameters"].items()]
    trainings = []
    for path in sorted((folder / "logs").glob("*.jsonl")):
        log = pd.read_json(path, lines=True)
        device = card["device"][
            "02_classifier" if path.stem == "classifier" else "03_vae" if path.stem == "vae" else "04_ldm"
        ]
        losses = f"{log['val_loss'].iloc[0]:.4g}, {log['val_loss'].min():.4g}"
        trainings.append(f"| {path.stem} | {int(log['step'].max()):,} | {losses} | {device} |")
    text = TEMPLATE.format(
        run=card["run"],
        million=sum(card["parameters"].values()) / 1e6,
        networks="\n".join(networks),
        trainings="\n".join(trainings),
        patients=card["archive"]["patients"],
        seed=card["archive"]["seed"],
        train=len(card["patients"]["train"]),
        val=len(card["patients"]["val"]),
        profile=card["profile"],
        overrides=json.dumps(card["overrides"], indent=1),
        commit=", ".join(sorted(set(card["commit"].values()))),
        size=card["shapes"]["curation.image_size"],
    )
    (folder / "README.md").write_text(text)
