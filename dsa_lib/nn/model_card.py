"""The card beside trained weights, written from what their runs recorded: what they are, how they were made, what they can and cannot do."""

import json
from pathlib import Path

import pandas as pd

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
from dsa_lib.ldm.diffusion import sampler
from dsa_lib.ldm.pipeline import DSAPipeline

pipeline = DSAPipeline.from_pretrained("models/phantom")
pipeline.scheduler = sampler("dpmsolver++", pipeline.scheduler)  # saved with DDPM, the published sampler of 1000 steps
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
