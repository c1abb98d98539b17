"""Trained weights of notebook 21 that ship with the project (models/anatomy): when a phantom run goes on from them, and what they have cost.

Six folders, one a model (`dsa_lib.maps.models.name_of`), with their logs and a card.json that says how they were made and which phantom patients they have
seen. `benchmarks/anatomy.py train` writes them. They were trained on latents of the autoencoder in models/phantom, so that a run takes them only where its
own went on from that one.
"""

from pathlib import Path

import pandas as pd

from dsa_lib.nn import shipped
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import PROJECT

WEIGHTS = shipped.StartingWeights(
    PROJECT / "models" / "anatomy",
    {name: shipped.SHAPES[name] for name in ("curation", "autoencoder", "text")}
    | {
        "diffusion": tuple(name for name in shipped.SHAPES["diffusion"] if name != "base_channels"),  # it has its own
        "anatomy": ("annotated", "edge_sigma", "edge_low", "edge_high", "to_latent", "base_channels"),
        "spade": (
            "channels", "hidden", "full_resolution", "latent", "discriminator_channels", "discriminators", "discriminator_layers",
        ),
    },
    largest_mb=25,
    told=", {steps} steps each",
    other_autoencoder="the autoencoder of this run did not go on from the one whose latents the weights know",
)  # fmt: skip
FOLDER, digest = WEIGHTS.folder, shipped.digest
card, shapes, log = WEIGHTS.card, WEIGHTS.shapes, WEIGHTS.log


def start(study: Study, from_scratch: bool, other_data: bool = False) -> Path | None:
    """`StartingWeights.start`; other_data: the images are not the run's own frames."""
    return WEIGHTS.start(study, from_scratch, why_not="the images are not frames of this run" if other_data else "")


def of_model(folder: Path | None, name: str) -> Path | None:
    """The folder of one model's weights, where there are any to go on from."""
    return None if folder is None else folder / name


def budget_row(
    folder: Path | None, name: str, log_of_run: pd.DataFrame, batch_size: int, seconds: float
) -> dict[str, int]:
    """Steps, images seen and seconds of model `name` in all: those of this run, and of the shipped weights where it went on from them (`folder`)."""
    steps, images = int(log_of_run["step"].max()), int(log_of_run["step"].max()) * batch_size
    if folder is not None:
        before = card()
        steps, images = steps + before["steps"], images + before["steps"] * before["batch_size"]
        seconds += before["seconds"][name]
    return {"steps": steps, "images seen": images, "seconds": round(seconds)}


def longer_log(name: str, log_of_more: pd.DataFrame) -> pd.DataFrame:
    """The log of model `name` with that of a further training from the shipped weights behind it, its steps counted on."""
    before = log(name)
    return pd.concat([before, log_of_more.assign(step=log_of_more["step"] + before["step"].max())], ignore_index=True)
