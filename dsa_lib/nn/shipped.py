"""Trained weights that ship with the project, each set in a folder of models/ with a card.json: when a run goes on from them, and how they are opened.

The card says how the weights were made, what their files hash to and which phantom patients they have seen, none of whom may be measured on. `StartingWeights`
are those that a run of profile `phantom` goes on from (`dsa_lib.nn.export` writes them); a `ShippedNetwork` is one network, used as it is.

The functions of this module are of models/phantom, for notebooks 02 to 04: itself a pipeline that `DSAPipeline.from_pretrained` opens, with the unconditional
network, the phase classifier and the logs beside it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import PROJECT, in_checkout
from dsa_lib.run.profiles import Profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import Workspace, atomic_write, sha256, write_json

# Learning rate of a continued stretch, as a share of the profile's: a cosine's tail, where the trained weights were left.
CONTINUED_RATE = 0.02


@dataclass
class ShippedWeights:
    """Weights in `folder` and their card.

    seen: what a run is told some of whose patients they know; of the folder's `name`, the `count` of those patients and the `first` of them.
    """

    folder: Path
    _: KW_ONLY
    seen: str = (
        "{count} patients of this archive (first: {first}) were seen in training the weights of models/{name}, so that nothing "
        "measured on them would be held out: give the archive another seed, or set from_scratch"
    )

    def card(self) -> dict:
        """What card.json says: at least `patients` (PatientID; all, or by split) and the sha256 of the files.

        Raises StudyError where the library is installed without these weights.
        """
        return json.loads(in_checkout(self.folder / "card.json").read_text())

    def check_unseen(self, patients: Iterable[str], card: Mapping | None = None) -> None:
        """Raise StudyError if one of these patients (PatientID) was among those that the weights of `card` were trained on or chosen by."""
        seen = (self.card() if card is None else card)["patients"]
        seen = set().union(*seen.values()) if isinstance(seen, Mapping) else set(seen)
        if shared := sorted(seen & set(map(str, patients))):
            raise StudyError(self.seen.format(count=len(shared), first=shared[0], name=self.folder.name))


@dataclass
class StartingWeights(ShippedWeights):
    """Weights that a run of profile `phantom` goes on from.

    sections: profile section → its fields that must be alike for that; largest_mb: what the folder may hold, in MB; told: what of the card is said where a
    run goes on; other_autoencoder: why a run does not, where the weights know one latent space and its autoencoder did not go on from the card's.
    """

    sections: Mapping[str, tuple[str, ...]]
    _: KW_ONLY
    largest_mb: float
    told: str = ""
    other_autoencoder: str = ""

    def shapes(self, profile: Profile) -> dict[str, object]:
        """The profile values that the weights depend on, by dotted name, as JSON holds them."""
        found = {f"{part}.{name}": getattr(getattr(profile, part), name) for part, names in self.sections.items() for name in names}  # fmt: skip
        return json.loads(json.dumps(found))

    def differing(self, profile: Profile) -> list[str]:
        """Names of the profile's values that are not those of the weights."""
        shapes = self.card()["shapes"]
        return [name for name, value in self.shapes(profile).items() if shapes.get(name) != value]

    def start(
        self, study: Study, from_scratch: bool, patients: Iterable[str] | None = None, why_not: str = ""
    ) -> Path | None:
        """The folder of the weights where this run goes on from them, else None; says in one line which, and why.

        patients: whom the run learns from and is measured on; by default those of its phantom archive, and a run with an archive of its own starts from
        scratch. why_not: the caller's own reason, if any. Raises StudyError where the weights have seen one of the patients, or a file is damaged.
        """
        why_not = why_not or self._why_not(study, from_scratch, any_archive=patients is not None)
        study.note("started_from", "nothing" if why_not else digest(self.folder))
        if why_not:
            print(f"Trained from scratch: {why_not}.")
            return None
        card, place = self.card(), f"models/{self.folder.name}"
        for name, expected in card["files"].items():
            if not (self.folder / name).exists() or sha256(self.folder / name) != expected:
                raise StudyError(
                    f"{place}/{name} is not the file that card.json names: restore it from version control, or set from_scratch"
                )
        self.check_unseen(phantom_patients(study.ws) if patients is None else patients, card)
        print(f"Goes on from the trained weights that ship with the project ({place}{self.told.format(**card)}).")
        return self.folder

    def _why_not(self, study: Study, from_scratch: bool, any_archive: bool) -> str:
        if from_scratch:
            return "from_scratch is set"
        if study.profile.name != "phantom":
            return f"the weights that ship are of profile phantom, this is {study.profile.name}"
        if study.archive is not None and not any_archive:
            return "the weights that ship belong to the phantom archive, and this run has an archive of its own"
        if not (self.folder / "card.json").exists():
            return f"models/{self.folder.name} holds no weights"
        if other := self.differing(study.profile):
            return f"{', '.join(other)} differ from those of the weights that ship"
        if self.other_autoencoder:
            facts = (study.ws.manifest("03_vae") or {"facts": {}})["facts"]
            if facts.get("started_from") != self.card()["autoencoder"]:
                return self.other_autoencoder
        return ""

    def log(self, name: str) -> pd.DataFrame:
        """The log of the training `name` that the weights ended."""
        return pd.read_json(in_checkout(self.folder / "logs" / f"{name}.jsonl"), lines=True)


@dataclass
class ShippedNetwork(ShippedWeights):
    """One network, in model.safetensors beside its card. Other folders of that kind are written and opened like the one that ships.

    build: the untrained network by the card's `channels`; needs: what the card has to say, `lacks` the sentence for what is `absent` of it; what: the network
    in other sentences; again: how a folder of one's own is made whole.
    """

    _: KW_ONLY
    build: Callable[[tuple[int, ...]], nn.Module]
    needs: tuple[str, ...]
    lacks: str
    what: str
    again: str

    def save(self, model: nn.Module, folder: Path, facts: Mapping) -> dict:
        """Write the network to `folder` in one step, in half precision, with the card: `facts` and the weights' `sha256`; returns the card.

        Raises StudyError where the facts lack one of `needs` (`patients`: all whom the network has seen), or weights lie beyond half precision.
        """
        if absent := [name for name in self.needs if name not in facts]:
            raise StudyError(self.lacks.format(absent=" and ".join(absent)))
        weights = half(model.state_dict(), f"the {self.what}")
        with atomic_write(folder) as temporary:
            temporary.mkdir(parents=True)
            save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
            card = dict(facts) | {"sha256": sha256(temporary / "model.safetensors")}
            write_json(temporary / "card.json", card)
        return card

    def load(self, folder: Path | None = None) -> tuple[nn.Module, dict]:
        """(network in eval mode, on the GPU where there is one; its card) of the folder that ships, or of one that `save` wrote.

        Raises StudyError where it holds none or is damaged.
        """
        folder = self.folder if folder is None else Path(folder)
        again = "restore it from version control" if folder.resolve() == self.folder else self.again
        try:
            card = json.loads((folder / "card.json").read_text())
            if sha256(folder / "model.safetensors") != card["sha256"]:
                raise StudyError(f"the weights in {folder.name} are not those that their card.json names: {again}")
            model = self.build(tuple(card["channels"]))
            load(model, folder)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise StudyError(
                f"the folder {folder.name!r} does not hold a {self.what} ({type(error).__name__}): {again}"
            ) from None
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), card


def half(weights: Mapping[str, torch.Tensor], what: str) -> dict[str, torch.Tensor]:
    """Weights by name with floating-point ones in half precision, as they ship. Raises StudyError, which names `what`, where one lies beyond it."""
    halved = {name: (v.half() if v.is_floating_point() else v).contiguous().cpu() for name, v in weights.items()}
    if not all(torch.isfinite(v).all() for v in halved.values() if v.is_floating_point()):
        raise StudyError(f"{what} holds weights beyond half precision: train it again")
    return halved


def load(module: nn.Module, folder: Path) -> None:
    """Load the half-precision weights of `folder` into `module`, which keeps its own precision."""
    files = sorted(Path(folder).glob("*.safetensors"))
    weights = {name: value for file in files for name, value in load_file(file).items()}
    module.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    )


def digest(folder: Path | None) -> str:
    """What a checkpoint's digest has to add for weights that it started from: nothing from scratch."""
    return "" if folder is None else sha256(folder / "card.json")


def phantom_patients(ws: Workspace) -> Iterable[str]:
    """PatientIDs of the run's phantom archive."""
    return pd.read_parquet(ws.root / "archive_truth.parquet", columns=["patient_id"])["patient_id"].unique()


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


# ---- models/phantom --------------------------------------------------------------------------------------------------

WEIGHTS = StartingWeights(
    PROJECT / "models" / "phantom",
    {
        "curation": ("image_size", "background_grey", "contrast_per_grey"),
        "classifier": ("input_size", "width"),
        "autoencoder": ("latent_channels", "block_channels", "layers_per_block", "norm_groups"),
        "text": ("layers", "width", "heads", "max_tokens", "pooled"),
        "diffusion": (
            "timesteps", "beta_start", "beta_end", "beta_schedule", "prediction", "base_channels", "multipliers", "layers_per_block",
            "attention_levels", "head_channels", "norm_groups",
        ),
    },
    largest_mb=80,
    told=", run {run!r}",
)  # fmt: skip
FOLDER, SHAPES = WEIGHTS.folder, WEIGHTS.sections
card, shapes, start, check_unseen, log = WEIGHTS.card, WEIGHTS.shapes, WEIGHTS.start, WEIGHTS.check_unseen, WEIGHTS.log


def check_given(study: Study, folder: Path) -> None:
    """`check_unseen` where a network of models/phantom is applied to a phantom archive by hand."""
    truth = study.ws.root / "archive_truth.parquet"
    if study.archive is None and Path(folder).resolve().is_relative_to(WEIGHTS.folder) and truth.exists():
        check_unseen(phantom_patients(study.ws))
