"""Trained weights of notebook 21 that ship with the project (models/anatomy): when a phantom run goes on from them, and how they are written.

Six folders, one a model (`models.name_of`), with their logs and a card.json that says how they were made and which phantom patients they have
seen. `benchmarks/anatomy.py train` writes them. They were trained on latents of the autoencoder in models/phantom, so that a run takes them only where its
own went on from that one.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from dsa_lib.nn import shipped
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import PROJECT, atomic_write, sha256, write_json

FOLDER = PROJECT / "models" / "anatomy"
LARGEST_MB = 25
# Profile values that must be alike for a run to go on from the weights, beside those of `shipped.SHAPES`.
SHAPES = {
    "anatomy": ("annotated", "edge_sigma", "edge_low", "edge_high", "to_latent", "base_channels"),
    "spade": (
        "channels", "hidden", "full_resolution", "latent", "discriminator_channels", "discriminators", "discriminator_layers",
    ),
}  # fmt: skip
NOT_HERE = (
    "diffusion.base_channels",
    "classifier.input_size",
    "classifier.width",
)  # of shipped.SHAPES: of other networks


def shapes(profile: Profile) -> dict[str, object]:
    """The profile values that the weights depend on, by dotted name, as JSON holds them."""
    own = {f"{part}.{name}": getattr(getattr(profile, part), name) for part, names in SHAPES.items() for name in names}
    shared = {name: value for name, value in shipped.shapes(profile).items() if name not in NOT_HERE}
    return json.loads(json.dumps(shared | own))


def card(folder: Path | None = None) -> dict:
    """What card.json says.

    `run`, `shapes`, `patients` (train, val), `archive`, `steps`, `stages` (of each model's steps), `calls` (of the benchmark), `seconds`, `parameters`,
    `device`, `files` (sha256).
    """
    return json.loads(((folder or FOLDER) / "card.json").read_text())


def start(study: Study, from_scratch: bool, other_data: bool = False) -> Path | None:
    """The folder of the shipped weights where this run goes on from them, else None; says in one line which, and why.

    other_data: the images are not the run's own frames. Raises StudyError where a patient of the archive was trained on, or a file is damaged.
    """
    why = "the images are not frames of this run" if other_data else _why_not(study, from_scratch)
    study.note("started_from", "nothing" if why else sha256(FOLDER / "card.json"))
    if why:
        print(f"Trained from scratch: {why}.")
        return None
    for name, digest in card()["files"].items():
        if not (FOLDER / name).exists() or sha256(FOLDER / name) != digest:
            raise StudyError(
                f"models/anatomy/{name} is not the file that card.json names: restore it from version control, or set from_scratch"
            )
    truth = pd.read_parquet(study.ws.root / "archive_truth.parquet", columns=["patient_id"])
    check_unseen(truth["patient_id"].unique())
    print(
        f"Goes on from the trained weights that ship with the project (models/anatomy, {card()['steps']} steps each)."
    )
    return FOLDER


def _why_not(study: Study, from_scratch: bool) -> str:
    if from_scratch:
        return "from_scratch is set"
    if study.profile.name != "phantom":
        return f"the weights that ship are of profile phantom, this is {study.profile.name}"
    if study.archive is not None:
        return "the weights that ship belong to the phantom archive, and this run has an archive of its own"
    if not (FOLDER / "card.json").exists():
        return "models/anatomy holds no weights"
    other = [name for name, value in shapes(study.profile).items() if card()["shapes"].get(name) != value]
    if other:
        return f"{', '.join(other)} differ from those of the weights that ship"
    facts = (study.ws.manifest("03_vae") or {"facts": {}})["facts"]
    if facts.get("started_from") != card()["autoencoder"]:
        return "the autoencoder of this run did not go on from the one whose latents the weights know"
    return ""


def check_unseen(patients) -> None:
    """Raise StudyError if one of these phantom patients (PatientID) was among those that the weights were trained on or chosen by."""
    seen = set().union(*map(set, card()["patients"].values()))
    if shared := sorted(seen & set(patients)):
        raise StudyError(
            f"{len(shared)} patients of this archive (first: {shared[0]}) were seen in training the weights of models/anatomy, so that nothing "
            "measured on them would be held out: give the archive another seed, or set from_scratch"
        )


def of_model(folder: Path | None, name: str) -> Path | None:
    """The folder of one model's weights, where there are any to go on from."""
    return None if folder is None else folder / name


def digest(folder: Path | None) -> str:
    """What a checkpoint's digest has to add for weights that it started from: nothing from scratch."""
    return "" if folder is None else sha256(folder / "card.json")


def log(name: str) -> pd.DataFrame:
    """The log of the training of model `name` that the shipped weights ended."""
    return pd.read_json(FOLDER / "logs" / f"{name}.jsonl", lines=True)


def budget_row(
    folder: Path | None, name: str, log_of_run: pd.DataFrame, batch_size: int, seconds: float
) -> dict[str, int]:
    """Steps, images seen and seconds of model `name` in all: those of this run, and of the shipped weights where it went on from them (`folder`)."""
    steps, images = int(log_of_run["step"].max()), int(log_of_run["step"].max()) * batch_size
    if folder is not None:
        before = card(folder)
        steps, images = steps + before["steps"], images + before["steps"] * before["batch_size"]
        seconds += before["seconds"][name]
    return {"steps": steps, "images seen": images, "seconds": round(seconds)}


def longer_log(name: str, log_of_more: pd.DataFrame) -> pd.DataFrame:
    """The log of model `name` with that of a further training from the shipped weights behind it, its steps counted on."""
    before = log(name)
    return pd.concat([before, log_of_more.assign(step=log_of_more["step"] + before["step"].max())], ignore_index=True)


def export(models: Mapping[str, Path], logs: Mapping[str, pd.DataFrame], facts: Mapping[str, object]) -> dict:
    """Write `models` (name → folder as `anatomy.save` or `spade.save` left it) in half precision with their logs; returns the card.

    facts: what the card has to say: run, profile, shapes, patients, archive, autoencoder, steps, stages, batch_size, seconds, device, commit. Raises
    StudyError where weights lie beyond half precision or take more than LARGEST_MB.
    """
    with atomic_write(FOLDER) as temporary:
        for name, source in models.items():
            _half(Path(source), temporary / name)
        for name, rows in logs.items():
            path = temporary / "logs" / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.to_json(path, orient="records", lines=True)
        parameters = {name: _count(temporary / name) for name in models}
        files = {str(p.relative_to(temporary)): sha256(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        written = dict(facts) | {"parameters": parameters, "files": files}
        write_json(temporary / "card.json", written)
        (temporary / "README.md").write_text(_readme(written, logs))
        size = sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file()) / 2**20
        if size > LARGEST_MB:
            raise StudyError(f"the weights take {size:.0f} MB, more than {LARGEST_MB}: shrink the networks")
    return written


def _half(source: Path, target: Path) -> None:
    """Copy a model's folder with its floating-point weights in half precision."""
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".safetensors":
            place.write_bytes(path.read_bytes())
            continue
        weights = {name: v.half() if v.is_floating_point() else v for name, v in load_file(path).items()}
        if not all(torch.isfinite(v).all() for v in weights.values() if v.is_floating_point()):
            raise StudyError(f"{path.name} of {source.name} holds weights beyond half precision: train it again")
        save_file(weights, place, metadata={"format": "pt"})


def _count(folder: Path) -> int:
    return sum(v.numel() for file in folder.rglob("*.safetensors") for v in load_file(file).values())


README = """# Trained weights of notebook 21

Generators of **simulated** cerebral angiograms from label maps and edges: latent diffusion, SPADE and SPADE with VAE, each with edges and without. No
patient's image was used. They are for trying the compendium and for testing methods, not for any clinical use.

Trained by `python benchmarks/anatomy.py` with {calls} (the sequence has not been repeated) on a phantom archive of
{patients} simulated patients (seed {seed}); {train} trained, {val} chose the weights.
`card.json` lists them: a run that evaluates on one of them is refused. Half precision. Every model saw {images:,} images ({steps:,} steps).

Parameters are those of the files, discriminators among them. The held-out loss is the denoising loss of the diffusion, the perceptual distance of SPADE.

| folder | parameters | steps, stage by stage | seconds of training | held-out loss, first and best |
|---|---|---|---|---|
{rows}

Each stage has a warm-up and a cosine of its own. Seconds are of the machine of that stage and not to be compared between models. Last device: {device}.
Code of the last stage: commit {commit}. The logs are in `logs/`.
"""


def _readme(card: Mapping, logs: Mapping[str, pd.DataFrame]) -> str:
    rows = []
    for name, count in card["parameters"].items():
        losses = logs[name].get("val_loss", pd.Series(dtype=float)).dropna()
        told = f"{losses.iloc[0]:.4g}, {losses.min():.4g}" if len(losses) else "–"
        stages = " + ".join(f"{steps:,}" for steps in card["stages"][name])
        rows.append(f"| `{name}/` | {count:,} | {stages} | {card['seconds'][name]:,.0f} | {told} |")
    return README.format(
        patients=card["archive"]["patients"],
        seed=card["archive"]["seed"],
        train=len(card["patients"]["train"]),
        val=len(card["patients"]["val"]),
        calls=" and then ".join(f"`{call}`" for call in card["calls"]),
        images=card["steps"] * card["batch_size"],
        steps=card["steps"],
        rows="\n".join(rows),
        device=card["device"],
        commit=card["commit"],
    )
