"""Trained weights that ship with the project (`dsa_lib.nn.shipped`): how they are written, and those of models/phantom from a run.

`python -m dsa_lib.nn.export RUN` writes models/phantom from a run of profile `phantom` on a phantom archive of its own seed; `make weights` is that
run and this command.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

from dsa_lib.nn import shipped
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import Workspace, atomic_write, sha256, write_json

# Every network of models/phantom: its folder there, and in the run it comes from.
NETWORKS = {
    "classifier": "classifier",
    "vae": "vae",
    "unet": "ldm/unet",
    "text_encoder": "ldm/text_encoder",
    "unet_unconditional": "ldm_unconditional/unet",
}
COPIED = ("model_index.json", "pipeline.py", "scheduler", "tokenizer")  # of ldm/: what makes the folder a pipeline
TRAININGS = ("classifier", "vae", "ldm", "ldm_unconditional")  # by the names of their logs, checkpoints and folders


def write(
    weights: shipped.StartingWeights,
    parts: Mapping[str, Path],
    logs: Mapping[str, pd.DataFrame],
    facts: Mapping[str, object],
    readme: Callable[[dict, Mapping[str, pd.DataFrame]], str],
    *,
    folder: Path | None = None,
    what: str = "the weights",
) -> dict:
    """Write the weights in one step, to `folder` or where they ship: their `parts`, `logs`, card.json and README.md; returns the card.

    parts: file or folder by name, copied with networks in half precision; facts: what the card has to say (at least `shapes` and `patients`: train, val)
    beside the `parameters` of each network and the sha256 of all `files`; readme: what README.md says, by card and logs. Raises StudyError where a network
    lies beyond half precision, or `what` is written takes more than `weights.largest_mb`.
    """
    with atomic_write(folder or weights.folder) as temporary:
        counts = {name: _copy(source, temporary / name) for name, source in parts.items()}
        (temporary / "logs").mkdir(parents=True, exist_ok=True)
        for name, rows in logs.items():
            rows.to_json(temporary / "logs" / f"{name}.jsonl", orient="records", lines=True, double_precision=15)
        files = {str(p.relative_to(temporary)): sha256(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        parameters = {name: count for name, count in counts.items() if count}
        card = dict(facts) | {"parameters": parameters, "files": files}
        write_json(temporary / "card.json", card)
        (temporary / "README.md").write_text(readme(card, logs))
        size = sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file()) / 2**20
        if size > weights.largest_mb:
            raise StudyError(f"{what} take {size:.0f} MB, more than {weights.largest_mb}: shrink the networks")
    return card


def _copy(source: Path, target: Path) -> int:
    """Copy a file or folder, its weights in half precision; returns how many there are."""
    count = 0
    for path in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            weights = shipped.half(load_file(path), f"{path.name} of {source.name}")
            save_file(weights, place, metadata={"format": "pt"})
            count += sum(v.numel() for v in weights.values())
        else:
            place.write_bytes(path.read_bytes())
    return count


# ---- models/phantom --------------------------------------------------------------------------------------------------


def export(run: str, folder: Path | None = None) -> dict:
    """Write the networks, logs and card of `run` (profile `phantom`, phantom archive) to `folder` or models/phantom, in one step; returns the card.

    Raises StudyError if the run is not finished as far as notebook 04, its networks do not belong together or went on from weights of another run
    (whose patients the card would not name), or they come out too large.
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
    for name in TRAININGS:
        study.read(name)  # raises StudyError where it is not as its notebook left it, or stale
    for name in notebooks:
        if (ws.manifest(name)["facts"].get("started_from") or "nothing") != "nothing":
            raise StudyError(
                f"notebook {name} of run {run!r} went on from weights that were trained before: set from_scratch and train anew"
            )
    parts = {name: ws.root / source for name, source in NETWORKS.items()}
    parts |= {name: ws.root / "ldm" / name for name in COPIED}
    logs = {name: ws.root / "checkpoints" / name / "log.jsonl" for name in TRAININGS}
    logs = {name: pd.read_json(path, lines=True) for name, path in logs.items() if path.exists()}
    facts = {
        "run": run,
        "commit": {name: record["environment"]["commit"] for name, record in provenance.items()},
        "device": {name: record["environment"]["device"] for name, record in provenance.items()},
        "profile": profile.name,
        "overrides": parameters.get("overrides") or {},
        "shapes": shipped.shapes(profile),
        "patients": patients_seen(ws),
        "archive": dataclasses.asdict(profile.archive) | {"seed": profile.seed},
    }
    return write(shipped.WEIGHTS, parts, logs, facts, readme, folder=folder, what=f"the weights of run {run!r}")


def patients_seen(ws: Workspace) -> dict[str, list[str]]:
    """PatientIDs whose frames trained the networks or chose their weights, by split."""
    key = pd.read_parquet(ws.private("series_key.parquet"))[["series", "series_instance_uid"]]
    truth = pd.read_parquet(ws.root / "archive_truth.parquet", columns=["series_instance_uid", "patient_id"])
    frames = pd.read_parquet(ws.root / "frames.parquet", columns=["series", "split"]).drop_duplicates()
    table = frames.merge(key, on="series").merge(truth.drop_duplicates(), on="series_instance_uid")
    return {split: sorted(table.loc[table["split"] == split, "patient_id"].unique()) for split in ("train", "val")}


README = """# Trained phantom weights

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
from dsa_lib.ldm.sampler import make_scheduler
from dsa_lib.pipeline import DSAPipeline

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


def readme(card: Mapping, logs: Mapping[str, pd.DataFrame]) -> str:
    """What README.md of models/phantom says, by the card's content."""
    roles = {
        "classifier": "ResNet-18 family, arterial phase",
        "vae": "KL autoencoder",
        "unet": "conditional denoising network",
        "text_encoder": "BERT for the sentences",
        "unet_unconditional": "unconditional denoising network",
    }
    networks = [f"| `{name}/` | {roles[name]} | {count:,} |" for name, count in card["parameters"].items()]
    notebooks = {"classifier": "02_classifier", "vae": "03_vae"}
    trainings = []
    for name, log in sorted(logs.items()):
        device = card["device"][notebooks.get(name, "04_ldm")]
        losses = f"{log['val_loss'].iloc[0]:.4g}, {log['val_loss'].min():.4g}"
        trainings.append(f"| {name} | {int(log['step'].max()):,} | {losses} | {device} |")
    return README.format(
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
