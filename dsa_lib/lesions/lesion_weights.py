"""Trained phantom weights of notebook 23 that ship with the project (models/lesions): the base image-to-image model and the pix2pix baseline.

Both were trained on phantom patients of their own in the latent space of the autoencoder of models/phantom. `benchmarks/lesions.py` writes them; card.json
says how they were made and whom they have seen.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from dsa_lib.nn import shipped
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import PROJECT, atomic_write, sha256, write_json

FOLDER = PROJECT / "models" / "lesions"
LARGEST_MB = 15
BASE, PIX2PIX = "base", "pix2pix"
# Profile values that must be alike for a run to go on from them, besides those of models/phantom (`shipped.SHAPES`).
SHAPES = {
    "lesions": ("source_as", "base_channels", "multipliers", "layers_per_block"),
    "pix2pix": ("channels", "discriminator_width", "discriminator_levels"),
}
SHARED = ("curation", "autoencoder", "diffusion")


def card() -> dict:
    """What card.json says: `shapes`, `patients` (train, val), `seed`, `autoencoder`, `steps`, `calls`, `device`, `files` with their sha256."""
    return json.loads((FOLDER / "card.json").read_text())


def shapes(profile: Profile) -> dict[str, object]:
    """The profile values that the weights depend on, by dotted name, as JSON holds them."""
    values = {
        f"{part}.{name}": getattr(getattr(profile, part), name) for part, names in SHAPES.items() for name in names
    }
    shared = {name: value for name, value in shipped.shapes(profile).items() if name.split(".")[0] in SHARED}
    of_others = (
        "diffusion.base_channels",
        "diffusion.multipliers",
        "diffusion.layers_per_block",
        "diffusion.attention_levels",
    )
    kept = {name: value for name, value in shared.items() if name not in of_others}
    return json.loads(json.dumps(values | kept))


def start(study: Study, pairs_patients: Iterable[str], from_scratch: bool) -> Path | None:
    """The folder of the shipped weights where this run goes on from them, else None; says in one line which, and why.

    pairs_patients: the patients of the run's own pairs, none of whom the weights may have seen (StudyError). The run's autoencoder must have gone on from
    that of models/phantom: weights speak the language of one latent space. Raises StudyError for a damaged file.
    """
    why = _why_not(study, from_scratch)
    study.note("started_from", "nothing" if why else sha256(FOLDER / "card.json"))
    if why:
        print(f"Trained from scratch: {why}.")
        return None
    told = card()
    for name, digest in told["files"].items():
        if not (FOLDER / name).exists() or sha256(FOLDER / name) != digest:
            raise StudyError(
                f"models/lesions/{name} is not the file that card.json names: restore it from version control, or set from_scratch"
            )
    check_unseen(pairs_patients)
    print("Goes on from the trained weights that ship with the project (models/lesions).")
    return FOLDER


def _why_not(study: Study, from_scratch: bool) -> str:
    if from_scratch:
        return "from_scratch is set"
    if study.profile.name != "phantom":
        return f"the weights that ship are of profile phantom, this is {study.profile.name}"
    if not (FOLDER / "card.json").exists():
        return "models/lesions holds no weights"
    told = card()
    other = [name for name, value in shapes(study.profile).items() if told["shapes"].get(name) != value]
    if other:
        return f"{', '.join(other)} differ from those of the weights that ship"
    made = (study.ws.manifest("03_vae") or {"facts": {}})["facts"].get("started_from")
    if made != told["autoencoder"]:
        return "the run's autoencoder did not go on from that of models/phantom, in whose latent space the weights were trained"
    return ""


def check_unseen(patients: Iterable[str]) -> None:
    """Raise StudyError if one of these patients was among those that the shipped weights were trained on or chosen by."""
    seen = set().union(*map(set, card()["patients"].values()))
    if shared := sorted(seen & set(map(str, patients))):
        raise StudyError(
            f"{len(shared)} patients of these pairs (first: {shared[0]}) were seen in training the weights of models/lesions, so that nothing measured on "
            "them would be held out: give the profile another seed, or set from_scratch"
        )


def told_of_pix2pix(profile: Profile) -> str:
    """One sentence on what the two shipped networks have seen, since their budgets differ; batches as in `profile`, which the weights were trained with."""
    steps = card()["steps"]
    seen = steps[PIX2PIX] * profile.pix2pix.batch_size, steps[BASE] * profile.lesions.batch_size
    return (
        f"pix2pix is taken as it ships: it has seen {seen[0]:,} images of the patients of which the base model has seen {seen[1]:,}, and none of this run's. "
        "A comparison with it is one of budgets too."
    )


def digest(folder: Path | None) -> str:
    """What a checkpoint's digest has to add for weights that it started from: nothing from scratch."""
    return "" if folder is None else sha256(folder / "card.json")


def log(name: str) -> pd.DataFrame:
    """The log of the training `name` (BASE or PIX2PIX) that the shipped weights ended."""
    return pd.read_json(FOLDER / "logs" / f"{name}.jsonl", lines=True)


README = """# Trained phantom weights of notebook 23

Translation of **simulated** unsubtracted angiograms into subtracted ones that show a lesion. No patient's image was used, and nothing these networks make shows
a patient: they are for trying the compendium and for testing methods, not for any clinical use.

| folder | network | steps |
|---|---|---|
{rows}

Trained by `python benchmarks/lesions.py` with {calls} (the sequence has not been repeated), on {patients} phantom
patients ({chosen_by} more chose the weights), in the latent space of the autoencoder of `models/phantom`. `card.json` lists the patients: a run that would
evaluate on one of them is refused. Half precision; `logs/` holds the curves, of the base model that of its last stage.
"""
NAMES = {BASE: "conditional latent diffusion, source beside the latent", PIX2PIX: "pix2pix baseline"}


def write(
    networks: Mapping[str, Path], logs: Mapping[str, Path], profile: Profile, facts: dict, folder: Path = FOLDER
) -> dict:
    """Write networks (folders, in half precision already) and logs (files) by name to `folder` in one step, with the card, which is returned.

    facts: `patients` (train, val), `steps` by name, and whatever else the card has to say. Raises StudyError where they come out larger than LARGEST_MB.
    """
    with atomic_write(folder) as temporary:
        for name, source in networks.items():
            _copy(source, temporary / name)
        for name, source in logs.items():
            _copy(source, temporary / "logs" / f"{name}.jsonl")
        files = {str(p.relative_to(temporary)): sha256(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        autoencoder = sha256(shipped.FOLDER / "card.json")
        told = {"shapes": shapes(profile), "autoencoder": autoencoder, "files": files} | facts
        write_json(temporary / "card.json", told)
        rows = "\n".join(f"| `{name}/` | {NAMES[name]} | {facts['steps'][name]:,} |" for name in networks)
        counts = {part: len(names) for part, names in facts["patients"].items()}
        calls = " and then ".join(f"`{call}`" for call in facts.get("calls", ["train"]))
        text = README.format(rows=rows, patients=counts["train"], chosen_by=counts["val"], calls=calls)
        (temporary / "README.md").write_text(text)
        size = sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file()) / 2**20
        if size > LARGEST_MB:
            raise StudyError(f"the lesion weights take {size:.0f} MB, more than {LARGEST_MB}: shrink the networks")
    return told


def _copy(source: Path, target: Path) -> None:
    for path in [source] if source.is_file() else source.rglob("*"):
        if path.is_file():
            to = target if path == source else target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
