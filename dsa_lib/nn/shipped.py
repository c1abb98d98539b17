"""Trained phantom weights that ship with the project (models/phantom), for the notebooks that go on from them.

models/phantom is itself a pipeline that `DSAPipeline.from_pretrained` opens; the unconditional network, the phase classifier and the training logs
lie beside it, and card.json says how all of it was made and which phantom patients were seen. `dsa_lib.nn.export` writes them from a run.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file
from torch import nn

from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import PROJECT, sha256

FOLDER = PROJECT / "models" / "phantom"
# What the weights depend on: profile values that must be alike for a run to go on from them.
SHAPES = {
    "curation": ("image_size", "background_grey", "contrast_per_grey"),
    "classifier": ("input_size", "width"),
    "autoencoder": ("latent_channels", "block_channels", "layers_per_block", "norm_groups"),
    "text": ("layers", "width", "heads", "max_tokens", "pooled"),
    "diffusion": (
        "timesteps", "beta_start", "beta_end", "beta_schedule", "prediction", "base_channels", "multipliers", "layers_per_block",
        "attention_levels", "head_channels", "norm_groups",
    ),
}  # fmt: skip
# Learning rate of a continued stretch, as a share of the profile's: a cosine's tail, where the trained weights were left.
CONTINUED_RATE = 0.02


def card() -> dict:
    """What card.json says: `run`, `commit`, `device`, `archive`, `overrides`, `shapes`, `patients` (train, val), `parameters`, `files` with their sha256."""
    return json.loads((FOLDER / "card.json").read_text())


def start(study: Study, from_scratch: bool) -> Path | None:
    """The folder of the shipped weights where this run goes on from them, else None; says in one line which, and why.

    They are taken by profile `phantom` on its own phantom archive, with networks of the shipped shape, unless `from_scratch`. Raises StudyError where a
    patient of the archive was trained on (the run's evaluation would not be of held-out patients), or a file is damaged.
    """
    why = _why_not(study, from_scratch)
    study.note("started_from", "nothing" if why else sha256(FOLDER / "card.json"))
    if why:
        print(f"Trained from scratch: {why}.")
        return None
    damaged = [
        name
        for name, digest in card()["files"].items()
        if not (FOLDER / name).exists() or sha256(FOLDER / name) != digest
    ]
    if damaged:
        raise StudyError(
            f"models/phantom/{damaged[0]} is not the file that card.json names: restore it from version control, or set from_scratch"
        )
    check_unseen(
        pd.read_parquet(study.ws.root / "archive_truth.parquet", columns=["patient_id"])["patient_id"].unique()
    )
    print(f"Goes on from the trained weights that ship with the project (models/phantom, run {card()['run']!r}).")
    return FOLDER


def _why_not(study: Study, from_scratch: bool) -> str:
    if from_scratch:
        return "from_scratch is set"
    if study.profile.name != "phantom":
        return f"the weights that ship are of profile phantom, this is {study.profile.name}"
    if study.archive is not None:
        return "the weights that ship belong to the phantom archive, and this run has an archive of its own"
    if not (FOLDER / "card.json").exists():
        return "models/phantom holds no weights"
    other = [name for name, value in shapes(study.profile).items() if card()["shapes"].get(name) != value]
    return f"{', '.join(other)} differ from those of the weights that ship" if other else ""


def shapes(profile: Profile) -> dict[str, object]:
    """The profile values that the weights depend on, by dotted name, as JSON holds them."""
    values = {
        f"{part}.{name}": getattr(getattr(profile, part), name) for part, names in SHAPES.items() for name in names
    }
    return json.loads(json.dumps(values))


def check_unseen(patients: Iterable[str]) -> None:
    """Raise StudyError if one of these phantom patients (PatientID) was among those that the shipped weights were trained on or chosen by."""
    seen = set().union(*map(set, card()["patients"].values()))
    if shared := sorted(seen & set(patients)):
        raise StudyError(
            f"{len(shared)} patients of this archive (first: {shared[0]}) were seen in training the weights of models/phantom, so that nothing "
            "measured on them would be held out: give the archive another seed, or set from_scratch"
        )


def check_given(study: Study, folder: Path) -> None:
    """`check_unseen` where a network of the shipped weights is applied to a phantom archive by hand."""
    truth = study.ws.root / "archive_truth.parquet"
    if study.archive is None and Path(folder).resolve().is_relative_to(FOLDER) and truth.exists():
        check_unseen(pd.read_parquet(truth, columns=["patient_id"])["patient_id"].unique())


def digest(folder: Path | None) -> str:
    """What a checkpoint's digest has to add for weights that it started from: nothing from scratch."""
    return "" if folder is None else sha256(folder / "card.json")


def load(module: nn.Module, folder: Path) -> None:
    """Load the half-precision weights of `folder` into `module`, which keeps its own precision."""
    files = sorted(Path(folder).glob("*.safetensors"))
    weights = {name: value for file in files for name, value in load_file(file).items()}
    module.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    )


def log(name: str) -> pd.DataFrame:
    """The log of the training `name` (classifier, vae, ldm, ldm_unconditional) that the shipped weights ended."""
    return pd.read_json(FOLDER / "logs" / f"{name}.jsonl", lines=True)


def stretch(folder: Path | None, settings, whole: dict) -> dict:
    """What `training.fit` is to do: `whole` from scratch, or `settings.steps_continued` steps at a low rate.

    The weights are judged before the first step, so that, where there are held-out samples, the stretch cannot end worse than it began.
    """
    if folder is None:
        return whole
    steps = max(settings.steps_continued, 1)
    print(f"  a stretch of {steps} steps (steps_continued) in the place of {whole['steps']}")
    return whole | {
        "steps": steps,
        "evaluate_every": max(steps // 4, 1),
        "learning_rate": settings.learning_rate * CONTINUED_RATE,
        "cosine": False,
        "warmup_steps": 0,
        "evaluate_first": True,
        "patience": 0,
    }
