"""The training of the weights of notebook 23 that ship (models/lesions).

    python benchmarks/lesions.py --run lesions train     # pairs, base model, pix2pix; writes models/lesions; the same command continues
    python benchmarks/lesions.py --run lesions train --more 1000   # so many steps more of the base model in models/lesions, at the full rate again

Everything is simulated anatomy: phantom patients whom neither the archive of `make reproduce` nor that of models/phantom has, in the latent space of the
autoencoder of models/phantom. The test patients of these pairs choose nothing. Work lies in runs/<run>/checkpoints.
"""

import argparse
import dataclasses
import functools
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import torch

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.ldm import autoencoder, diffusion
from dsa_lib.lesions import comparison, lesion_weights, pix2pix, translation
from dsa_lib.nn import export, shipped
from dsa_lib.phantom import lesion_archive
from dsa_lib.run.profiles import Profile, load_profile
from dsa_lib.run.progress import track
from dsa_lib.run.session import environment, processor
from dsa_lib.run.workspace import PROJECT, Workspace

PATIENTS = 200
BASE_STEPS, PIX2PIX_STEPS = 3_000, 1_500
EMA = 0.999


def profile_of(arguments: argparse.Namespace) -> Profile:
    """Profile `phantom` with the seed of models/phantom, more patients and longer trainings."""
    seed = json.loads((PROJECT / "data_manifests" / "phantom_weights.json").read_text())["seed"]
    profile = load_profile("phantom", {"seed": seed, "lesions.patients": arguments.patients, **arguments.overrides})
    return replace(
        profile,
        lesions=replace(
            profile.lesions, steps=arguments.steps, ema_decay=EMA, train_fraction=0.8, val_fraction=0.05, evaluated=0
        ),
    )


def prepared(arguments: argparse.Namespace):
    """(profile, workspace, pairs, pairs by part as the diffusion draws them, autoencoder, noise schedule)."""
    profile, ws = profile_of(arguments), Workspace(arguments.run)
    pairs, found = lesion_archive.pairs(
        profile, ws.checkpoints("lesion_pairs"), progress=functools.partial(track, what="series of lesion pairs")
    )
    print(f"{len(pairs)} pairs: {found}", flush=True)
    vae = autoencoder.AutoencoderKL.from_pretrained(shipped.FOLDER / "vae").float().eval()
    data = comparison.training_data(pairs, vae, profile.lesions.source_as)
    return profile, ws, pairs, data, vae, diffusion.noise_schedule(profile.diffusion)


def digest(name: str, profile: Profile, further: object = "") -> str:
    """What a checkpoint belongs to: the numbers that decide the base model, and `further` ones."""
    told = dataclasses.asdict(profile.lesions)
    free = ("steps_continued", "sampling_steps", "scheduler", "evaluated")
    kept = {name: value for name, value in told.items() if name not in free}
    return f"{name} {profile.seed} {sorted(kept.items())} {further}"


def base_model(profile: Profile, ws: Workspace, data, vae, schedule) -> tuple[translation.Translator, pd.DataFrame]:
    torch.manual_seed(profile.seed)
    model = translation.build(profile, 1, *data["train"].latents.mean.shape[1:3])
    log = translation.train(
        model, data, schedule, vae, profile, folder=ws.checkpoints("lesions_base"), digest=digest("base", profile)
    )  # fmt: skip
    return model, log


def base_model_trained_on(profile: Profile, ws: Workspace, data, vae, schedule, steps: int):
    """(model, log) of `steps` more from the weights in models/lesions, in batches that those have not seen in this order; the log is of these steps alone."""
    own = replace(profile, seed=profile.seed + 1, lesions=replace(profile.lesions, steps=steps))
    model = translation.load(lesion_weights.FOLDER / lesion_weights.BASE)
    told = digest("base, more", own, lesion_weights.digest(lesion_weights.FOLDER))
    log = translation.train(model, data, schedule, vae, own, folder=ws.checkpoints("lesions_base_more"), digest=told)
    return model, log.assign(step=log["step"] + lesion_weights.card()["steps"][lesion_weights.BASE])


def baseline(profile: Profile, ws: Workspace, pairs: TranslationSet, steps: int):
    return pix2pix.train(
        pairs,
        replace(profile.pix2pix, steps=steps),
        seed=profile.seed,
        folder=ws.checkpoints("lesions_pix2pix"),
        digest=digest("pix2pix", profile, (steps, profile.pix2pix)),
        precision=profile.precision,
    )


def train(arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    profile, ws, pairs, data, vae, schedule = prepared(arguments)
    patients = {part: sorted({str(p) for p in pairs.patients[pairs.rows(part)]}) for part in ("train", "val")}
    work, before = ws.checkpoints("lesions_weights"), lesion_weights.card() if arguments.more else None
    same = {
        "patients": patients,
        "autoencoder": shipped.digest(shipped.FOLDER),
        "shapes": lesion_weights.shapes(profile),
    }
    if before and (other := [name for name, value in same.items() if before[name] != value]):
        raise SystemExit(f"error: {', '.join(other)} differ from those of models/lesions: train without --more")
    if before:
        base, log = base_model_trained_on(profile, ws, data, vae, schedule, arguments.more)
        steps, calls = before["steps"][lesion_weights.BASE] + arguments.more, before["calls"]
        gan, gan_log = lesion_weights.FOLDER / lesion_weights.PIX2PIX, lesion_weights.log(lesion_weights.PIX2PIX)
        pix2pix_steps = before["steps"][lesion_weights.PIX2PIX]
    else:
        base, log = base_model(profile, ws, data, vae, schedule)
        steps, calls, pix2pix_steps = arguments.steps, [], arguments.pix2pix_steps
        model, gan_log = baseline(profile, ws, pairs, pix2pix_steps)
        gan = work / lesion_weights.PIX2PIX
        pix2pix.save(model, gan, profile.pix2pix, pairs.targets.shape[-1])
    translation.save(base, work / lesion_weights.BASE)
    told = export.write(
        lesion_weights.WEIGHTS,
        {lesion_weights.BASE: work / lesion_weights.BASE, lesion_weights.PIX2PIX: gan},
        {lesion_weights.BASE: log, lesion_weights.PIX2PIX: gan_log},
        same
        | {
            "seed": profile.seed,
            "pairs": {part: len(pairs.rows(part)) for part in ("train", "val")},
            "steps": {lesion_weights.BASE: steps, lesion_weights.PIX2PIX: pix2pix_steps},
            "calls": [*calls, shlex.join(sys.argv[1:])],
            "seconds_of_this_call": round(time.monotonic() - began),
            "device": f"{environment()['device']}, {processor()}",
            "commit": environment()["commit"],
        },
        readme,
        what="the lesion weights",
    )
    print(f"models/lesions: {len(told['files'])} files, {len(patients['train'])} training patients", flush=True)


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
NAMES = {
    lesion_weights.BASE: "conditional latent diffusion, source beside the latent",
    lesion_weights.PIX2PIX: "pix2pix baseline",
}


def readme(card: Mapping, logs: Mapping[str, pd.DataFrame]) -> str:
    """What README.md of models/lesions says, by the card's content."""
    return README.format(
        rows="\n".join(f"| `{name}/` | {NAMES[name]} | {steps:,} |" for name, steps in card["steps"].items()),
        patients=len(card["patients"]["train"]),
        chosen_by=len(card["patients"]["val"]),
        calls=" and then ".join(f"`{call}`" for call in card["calls"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train",))
    parser.add_argument("--run", default="lesions", help="folder under runs/ for pairs and checkpoints")
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--steps", type=int, default=BASE_STEPS, help="of the base model")
    parser.add_argument("--pix2pix-steps", type=int, default=PIX2PIX_STEPS)
    parser.add_argument(
        "--more", type=int, default=0, help="steps of the base model from the weights in models/lesions on"
    )
    parser.add_argument("--overrides", type=json.loads, default={}, help="further values of the profile, in JSON")
    arguments = parser.parse_args()
    train(arguments)


if __name__ == "__main__":
    main()
