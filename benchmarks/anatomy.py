"""The training of the weights of notebook 21 that ship (models/anatomy), and what a run that goes on from them reaches.

    python benchmarks/anatomy.py train                  # hours; writes models/anatomy; the same command continues
    python benchmarks/anatomy.py train --steps 12000    # longer; from the first step, since the learning rate ends with the steps
    python benchmarks/anatomy.py train --more 1200      # so many steps more from the weights in models/anatomy, at the full learning rate again
    python benchmarks/anatomy.py train --anew LDM       # one method again from the first step, for as many steps as the others have had
    python benchmarks/anatomy.py train --only spade     # one model alone, so that several can learn side by side; writes no weights
    python benchmarks/anatomy.py report --run phantom   # writes benchmarks/anatomy.json from notebooks 21 and 22 of that run

Everything is simulated anatomy. `train` first makes a phantom archive of its own by notebooks 00 to 02 (run `anatomy_weights`, values in
data_manifests/anatomy_weights.json): its patients are in no other archive of this project. The six models then learn from that run's training patients, on
latents of the autoencoder in models/phantom, one after the other, each with its checkpoint in the run.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dsa_lib.curation import annotations
from dsa_lib.ldm import autoencoder
from dsa_lib.maps import data as map_data
from dsa_lib.maps import map_weights
from dsa_lib.maps import models as map_models
from dsa_lib.maps.models import EVERY, METHODS, WITH, WITHOUT
from dsa_lib.nn import export, shipped
from dsa_lib.phantom import truth
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile, load_profile
from dsa_lib.run.session import environment
from dsa_lib.run.workspace import PROJECT, Workspace, write_json

RUN = "anatomy_weights"
VALUES = PROJECT / "data_manifests" / "anatomy_weights.json"
OUT = Path(__file__).with_suffix(".json")
NAMES = tuple(map_models.name_of(method, half) for method, half in sorted(EVERY))
NOTEBOOKS = ("21_maps_and_edges", "22_map_edits")
WHAT = "notebooks 21 and 22 on a phantom archive (simulated anatomy); see the head of benchmarks/anatomy.py"
TABLES = ("scores", "budget", "differences", "spectra", "segmenters", "compliance", "edits")


# ---- training --------------------------------------------------------------------------------------------------------


def archive(overrides: dict) -> Workspace:
    """The run that holds the frames; notebooks 00 to 02 of it are run where they have not been."""
    own = {name: value for name, value in overrides.items() if not name.startswith(("anatomy.", "spade."))}
    command = [sys.executable, str(PROJECT / "workflow" / "launch.py"), "--run", RUN, "--profile", "phantom"]
    command += ["--archive", "", "--classifier", "", "--overrides", json.dumps(own), "--parameters", ""]
    command += ["--snakemake", "--until notebook_02_classifier"]
    if subprocess.run(command, cwd=PROJECT, check=False).returncode:
        raise StudyError(f"notebooks 00 to 02 of run {RUN!r} did not finish: the same command goes on with them")
    return Workspace(RUN)


def material(ws: Workspace, profile: Profile) -> map_models.Material:
    """Frames, the phantom's label maps, edges and latents of the run."""
    key = annotations.read_key(ws.private("series_key.parquet"))
    files = ws.root / "archive", ws.root / "archive_truth_masks.npz"
    label_maps = truth.label_maps(key, *files, profile.curation.image_size)
    frames = np.load(ws.root / "frames.npy", mmap_mode="r")
    arterial = pd.read_parquet(ws.root / "arterial.parquet")
    data, rows = map_data.of_frames(arterial, frames, label_maps, profile.anatomy)
    data = map_data.with_edges(data, profile.anatomy, rows["cell"].to_numpy(), annotation="the phantom's truth")
    vae = autoencoder.AutoencoderKL.from_pretrained(shipped.FOLDER / "vae").float()
    return map_models.material(data, vae, profile)


def train(steps: int, only: str = "", more: bool = False, anew: str = "") -> None:
    """All six, then models/anatomy; or the model `only` alone, whose checkpoint the call for all of them then takes up.

    more: `steps` more of the weights that models/anatomy holds, which have learned from the same patients; what comes of it takes their place. anew: the two
    models of this method alone, from random weights, for the steps that models/anatomy has had; the other four stay as they are.
    """
    overrides = json.loads(VALUES.read_text())
    before = map_weights.card() if more or anew else None
    if steps or anew:
        overrides["anatomy.steps"] = before["steps"] if anew else steps
    profile = load_profile("phantom", overrides)
    ws = archive(overrides)
    same = {"patients": export.patients_seen(ws), "autoencoder": shipped.digest(shipped.FOLDER)}
    same["shapes"] = map_weights.shapes(profile)
    if before and (other := [name for name, value in same.items() if before[name] != value]):
        raise StudyError(f"{', '.join(other)} of this run differ from those of models/anatomy: train all six")
    given = material(ws, profile)
    digest = profile.digest("anatomy", "spade", "diffusion", "text") + same["autoencoder"]
    digest += map_weights.digest(map_weights.FOLDER if more else None)
    perceptual = map_models.perceptual(profile, shipped.FOLDER / "classifier")
    folders, logs, seconds = {}, {}, {}
    wanted = [(method, half) for method, half in sorted(EVERY) if anew in ("", method)]
    for method, half in wanted:
        name = map_models.name_of(method, half)
        if only not in ("", name):
            continue
        folders[name] = ws.path(f"anatomy/{name}")
        # Another seed in each stage, so that it draws other batches and other noise.
        stage = len(before["stages"][name]) if more else 0
        own = dataclasses.replace(given, profile=dataclasses.replace(profile, seed=profile.seed + stage))
        start = map_weights.of_model(map_weights.FOLDER if more else None, name)
        logs[name], took = train_one(own, method, half, perceptual, ws, folders[name], digest, start)
        seconds[name] = total_seconds(ws.checkpoints(name) / "seconds.json", digest, took)
    if only:
        print(f"{only} has learned: the same command without --only trains the others and writes models/anatomy")
        return
    stages = {name: [*(before["stages"][name] if more else []), profile.anatomy.steps] for name in folders}
    card = (
        {
            "run": RUN,
            "profile": profile.name,
            "overrides": overrides,
            "archive": dataclasses.asdict(profile.archive) | {"seed": profile.seed},
            "images": {part: len(given.data.rows(part)) for part in ("train", "val")},
            "steps": sum(stages[next(iter(stages))]),
            "stages": stages,  # each with a warm-up and a cosine of its own
            "calls": [*(before["calls"] if before else []), shlex.join(sys.argv[1:])],
            "batch_size": profile.anatomy.batch_size,
            "seconds": seconds,
            "device": environment()["device"],
            "commit": environment()["commit"],
        }
        | same
    )
    if more:
        logs = {name: map_weights.longer_log(name, log) for name, log in logs.items()}
        card["seconds"] = {name: round(before["seconds"][name] + each, 1) for name, each in seconds.items()}
    if anew:
        kept = [name for name in NAMES if name not in folders]
        card["stages"] |= {name: before["stages"][name] for name in kept}
        card["seconds"] |= {name: before["seconds"][name] for name in kept}
        folders |= {name: map_weights.FOLDER / name for name in kept}
        logs |= {name: map_weights.log(name) for name in kept}
    parts, logs = {name: folders[name] for name in NAMES}, {name: logs[name] for name in NAMES}
    card = export.write(map_weights.WEIGHTS, parts, logs, card, readme)
    print(f"models/anatomy: {sum(card['parameters'].values()) / 1e6:.1f} M parameters, {len(card['files'])} files")


def train_one(given, method: str, half: str, perceptual, ws: Workspace, folder: Path, digest: str, start: Path | None):
    """(log, seconds) of one model, saved to `folder`."""
    checkpoints = ws.checkpoints(map_models.name_of(method, half))
    how = {"folder": checkpoints, "digest": digest, "whole": True, "start": start}
    model, log, took = map_models.train(given, method, half, perceptual, **how)
    map_models.save(given, method, half, model, folder)
    return log, took


def total_seconds(clock: Path, digest: str, took: float) -> float:
    """Seconds of a training that may have been broken off and is timed in parts, which the file `clock` adds up."""
    earlier = json.loads(clock.read_text()) if clock.exists() else {"digest": digest, "seconds": 0.0}
    total = took + (earlier["seconds"] if earlier["digest"] == digest else 0.0)
    write_json(clock, {"digest": digest, "seconds": total})
    return round(total, 1)


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


def readme(card: Mapping, logs: Mapping[str, pd.DataFrame]) -> str:
    """What README.md of models/anatomy says, by the card's content."""
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


# ---- report ----------------------------------------------------------------------------------------------------------


def report(run: str) -> None:
    """benchmarks/anatomy.json: the tables of notebooks 21 and 22 of a finished run, and the card of the weights that it went on from."""
    ws = Workspace(run)
    manifests = {name: ws.manifest(name) for name in NOTEBOOKS}
    for name, manifest in manifests.items():
        if (manifest or {}).get("status") != "finished":
            raise StudyError(f"run {run!r} has not finished notebook {name}: make extensions RUN={run} goes on with it")
    first, second = manifests.values()
    facts = first["facts"] | second["facts"]
    found = {"what": WHAT, "run": run, "profile": first["profile"], "facts": facts}
    for name in TABLES:
        table = pd.read_csv(ws.root / "tables" / f"maps_{name}.csv")
        found[name] = json.loads(table.round(5).to_json(orient="records"))
    provenance = [json.loads((ws.root / "provenance" / f"{name}.json").read_text()) for name in NOTEBOOKS]
    found |= {"seconds": sum(one["seconds"] for one in provenance), "environment": provenance[0]["environment"]}
    if (started := facts["started_from"]) != "nothing":
        if started != map_weights.digest(map_weights.FOLDER):
            raise StudyError(f"run {run!r} went on from other weights than those in models/anatomy now: run it again")
        card = map_weights.card()
        told = ("run", "calls", "steps", "stages", "batch_size", "seconds", "images", "parameters", "commit")
        found["weights"] = {name: card[name] for name in told}
    write_json(OUT, found)
    print(*facts["scores"], facts["use"], *facts["edits"], sep="\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument(
        "--steps", type=int, default=0, help="of each model; 0: those of data_manifests/anatomy_weights.json"
    )
    parser.add_argument("--more", type=int, default=0, help="steps of each model from the weights in models/anatomy on")
    parser.add_argument("--only", default="", choices=("", *NAMES), help="train this model alone")
    parser.add_argument(
        "--anew", default="", choices=("", *METHODS), help="train this method again from the first step"
    )
    parser.add_argument("--run", default="phantom", help="of report")
    request = parser.parse_args()
    if bool(request.anew) + bool(request.more) + bool(request.steps) > 1:
        parser.error("--steps, --more and --anew exclude each other: --anew takes the steps that the others have had")
    of_method = [map_models.name_of(request.anew, half) for half in (WITH, WITHOUT)] if request.anew else NAMES
    if request.only and request.only not in of_method:
        parser.error(f"--only {request.only} is not a model of {request.anew}: choose {' or '.join(of_method)}")
    if (request.anew or request.more) and not (map_weights.FOLDER / "card.json").exists():
        parser.error("--more and --anew need the weights in models/anatomy: run train without them first")
    try:
        if request.what == "report":
            report(request.run)
        else:
            train(request.more or request.steps, request.only, more=bool(request.more), anew=request.anew)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
