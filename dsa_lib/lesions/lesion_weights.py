"""Trained phantom weights of notebook 23 that ship with the project (models/lesions): the base image-to-image model and the pix2pix baseline.

Both were trained on phantom patients of their own in the latent space of the autoencoder of models/phantom. `benchmarks/lesions.py` writes them; card.json
says how they were made and whom they have seen.
"""

from collections.abc import Iterable
from pathlib import Path

from dsa_lib.nn import shipped
from dsa_lib.run.profiles import Profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import PROJECT

BASE, PIX2PIX = "base", "pix2pix"
OWN = ("base_channels", "multipliers", "layers_per_block", "attention_levels")  # of the study's own network alone
WEIGHTS = shipped.StartingWeights(
    PROJECT / "models" / "lesions",
    {
        "lesions": ("source_as", "base_channels", "multipliers", "layers_per_block"),
        "pix2pix": ("channels", "discriminator_width", "discriminator_levels"),
        "curation": shipped.SHAPES["curation"],
        "autoencoder": shipped.SHAPES["autoencoder"],
        "diffusion": tuple(name for name in shipped.SHAPES["diffusion"] if name not in OWN),
    },
    largest_mb=15,
    seen="{count} patients of these pairs (first: {first}) were seen in training the weights of models/{name}, so that nothing measured on "
    "them would be held out: give the profile another seed, or set from_scratch",
    other_autoencoder="the run's autoencoder did not go on from that of models/phantom, in whose latent space the weights were trained",
)
FOLDER, digest = WEIGHTS.folder, shipped.digest
card, shapes, log = WEIGHTS.card, WEIGHTS.shapes, WEIGHTS.log


def start(study: Study, pairs_patients: Iterable[str], from_scratch: bool) -> Path | None:
    """`StartingWeights.start`; pairs_patients: the patients of the run's own pairs, none of whom the weights may have seen."""
    return WEIGHTS.start(study, from_scratch, pairs_patients)


def told_of_pix2pix(profile: Profile) -> str:
    """One sentence on what the two shipped networks have seen, since their budgets differ; batches as in `profile`, which the weights were trained with."""
    steps = card()["steps"]
    seen = steps[PIX2PIX] * profile.pix2pix.batch_size, steps[BASE] * profile.lesions.batch_size
    return (
        f"pix2pix is taken as it ships: it has seen {seen[0]:,} images of the patients of which the base model has seen {seen[1]:,}, and none of this run's. "
        "A comparison with it is one of budgets too."
    )
