"""What generated frames give as training data, with more seeds, longer trainings and all control arms than notebook 14 has time for.

    python benchmarks/utility.py --run phantom

reads a finished run (notebooks 01 to 05) and writes benchmarks/utility.json; started again it goes on. Everything is simulated anatomy.

- Measures of `dsa_lib.audits.utility` by task, share of the real patients and arm, and paired differences from real frames alone, intervals over seeds.
- The shortcut: false alarms on decoded non-arterial frames.
- What the generator knew. The run's own was trained on all training patients of the run and, where it went on from the weights that ship, on those of
  models/phantom/card.json. Two others stand beside it, with as many images: the shipped generator, which saw no patient of this run ("shipped"), and,
  with --few N, for each of N seeds one that was trained from random weights on the latents of the smallest share's patients alone ("few"; autoencoder and
  choice of the arterial frames are still the run's). Their gains at the smallest share are paired by seed with the run's.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dsa_lib.audits import utility, utility_tasks
from dsa_lib.audits.utility_tasks import MIXED, REAL
from dsa_lib.core.images import read_images
from dsa_lib.ldm import autoencoder, diffusion, pipeline, sampling, text
from dsa_lib.ldm.pipeline import SeenConditions
from dsa_lib.nn import shipped
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.session import Study, environment, profile_of
from dsa_lib.run.workspace import Workspace, sha256, write_json

OUT = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="phantom")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--few", type=int, default=0, help="generators trained on the smallest share's patients alone")
    parser.add_argument("--write", default=str(OUT))
    request = parser.parse_args()
    ws = Workspace(request.run)
    profile = profile_of(ws)
    settings = replace(
        profile.utility,
        seeds=request.seeds,
        steps=request.steps,
        side_arms=utility_tasks.ARMS[2:],
        side_shares=profile.utility.shares,
        decoys=200,
    )
    study = Study("benchmark_utility", request.run, profile, None, {})
    frames = np.load(study.read("frames.npy"), mmap_mode="r")
    arterial = pd.read_parquet(study.read("arterial.parquet"))
    bench = Bench(study, frames, arterial, settings)

    generated, cells = utility_tasks.library(study)
    tasks, reasons = utility_tasks.tasks_of_run(study, frames, arterial, generated, cells, settings, (0, 1))
    if reasons:
        raise StudyError(f"{reasons[0]}: use a larger archive")
    rows = bench.compare(tasks, "run")
    report = {
        "what": "generated frames as training data, on held-out phantom patients (simulated anatomy); see the head of benchmarks/utility.py",
        "environment": environment(),
        "run": {"profile": profile.name, "seed": profile.seed, "model": sha256(ws.root / "ldm")[:16]},
        "settings": {name: getattr(settings, name) for name in ("seeds", "steps", "input_size", "width", "synthetic_share")},
        "patients": {
            "train": len(set(tasks[0].real.patients)),
            "held out": len(set(tasks[0].test.patients)),
            "further, of the shipped generator": further_patients(),
        },
        "generated frames": len(generated),
        "levels": {metric: records(utility.levels(rows, metric)) for metric in utility.METRICS},
        "paired difference from real frames alone": {metric: records(utility.differences(rows, metric)) for metric in utility.METRICS},
        "verdict (AUC)": utility.verdict(rows),
        "shortcut": records(utility.shortcut_table(rows)),
        "generators": generators(bench, rows, request.few),
    }  # fmt: skip
    write_json(Path(request.write), report)
    print(json.dumps(report, indent=1))


class Bench:
    """A run's data, and trainings that leave their rows in its folder of checkpoints."""

    def __init__(self, study: Study, frames: np.ndarray, arterial: pd.DataFrame, settings):
        self.study, self.frames, self.arterial, self.settings = study, frames, arterial, settings

    def compare(
        self, tasks, name: str, settings=None, seed: int | None = None, only=utility_tasks.ARMS
    ) -> pd.DataFrame:
        study, profile = self.study, self.study.profile
        return utility.compare(
            tasks,
            settings or self.settings,
            profile.classifier,
            background_grey=profile.curation.background_grey,
            seed=profile.seed if seed is None else seed,
            folder=study.ws.checkpoints(f"benchmark_utility/{name}"),
            digest=profile.digest("classifier") + sampling.code_digest(utility.CODE),
            only=only,
            precision=profile.precision,
        )  # fmt: skip

    def sample(self, folder: Path, name: str, per_condition: int) -> tuple[np.ndarray, list[str]]:
        """As many images of each condition by the generator in `folder`; those that are there are not made again."""
        config, device = self.study.profile.sampling, "cuda" if torch.cuda.is_available() else "cpu"
        dsa = pipeline.DSAPipeline.from_pretrained(folder).to(device)
        dsa.set_progress_bar_config(disable=True)
        dsa.scheduler = diffusion.sampler(config.scheduler, dsa.scheduler)
        target = self.study.ws.checkpoints(f"benchmark_utility/{name}_images")
        manifest = sampling.generate(
            dsa,
            sampling.stratified_plan(self.study.profile.seed + 1, per_condition),
            target,
            steps=config.steps,
            guidance=config.guidance,
            batch_size=config.batch_size,
            model=sha256(folder),
            digest=sampling.code_digest([autoencoder, diffusion, pipeline, text]),
            allow_unseen=True,  # a few patients do not show every condition
            track=partial(track, what=f"batches of {name}"),
        )
        return read_images(target, manifest["file"].tolist()), manifest["cell"].tolist()

    def tasks(self, generated: np.ndarray, cells: list[str]) -> list[utility_tasks.Task]:
        bare = replace(self.settings, side_shares=())  # nothing is decoded: two arms alone
        return utility_tasks.tasks_of_run(self.study, self.frames, self.arterial, generated, cells, bare)[0]


def generators(bench: Bench, rows: pd.DataFrame, few: int) -> dict[str, object]:
    """Gain of real + generated frames at the smallest share, AUC, by who generated them: the Fréchet set of the run, and equally many of the others."""
    study = bench.study
    smallest = replace(bench.settings, shares=(min(bench.settings.shares),), side_shares=())
    manifest = pd.read_parquet(study.read("samples/fid") / "manifest.parquet")
    per_condition = int(manifest.groupby("cell").size().min())
    made = {"run": (read_images(study.read("samples/fid"), manifest["file"].tolist()), manifest["cell"].tolist())}
    why = other_shapes(study)
    if not why:
        made["shipped"] = bench.sample(shipped.FOLDER, "shipped", per_condition)
    parts = [rows[(rows["arm"] == REAL) & rows["share"].isin(smallest.shares)].assign(generator="none")]
    for name, (generated, cells) in made.items():
        found = bench.compare(bench.tasks(generated, cells), f"generator_{name}", smallest, only=(MIXED,))
        parts.append(found.assign(generator=name))
    real_patients = bench.tasks(*made["run"])[0].real.patients
    for number in range(few):
        seed = study.profile.seed + number
        patients = utility_tasks.nested_patients(real_patients, smallest.shares, seed)[smallest.shares[0]]
        generated, cells = bench.sample(small_generator(study, patients, seed), f"few_{number}", per_condition)
        one = replace(smallest, seeds=1)
        found = bench.compare(bench.tasks(generated, cells), "generator_few", one, seed, only=(MIXED,))
        parts.append(found.assign(generator="few"))
    table = pd.concat(parts, ignore_index=True)
    against = {}
    for reference in ("none", "run"):
        arms = table.assign(arm=table["generator"])
        against[f"AUC, paired difference from {reference}"] = records(utility.differences(arms, "auc", reference))
    return {"images each": 4 * per_condition, "share": smallest.shares[0], "not measured": why, **against}


def small_generator(study: Study, patients: list[str], seed: int) -> Path:
    """A conditional generator trained from random weights on the latents of `patients` alone, as notebook 04 trains it."""
    target = study.ws.checkpoints("benchmark_utility") / f"few_{seed}"
    if (target / "model_index.json").exists():
        return target
    profile, config = study.profile, study.profile.diffusion
    index = pd.read_parquet(study.read("latents/index.parquet"))
    mean, std = (np.load(study.read(f"latents/{name}.npy"), mmap_mode="r") for name in ("mean", "std"))
    vae = autoencoder.AutoencoderKL.from_pretrained(study.read("vae"))
    tokenizer = text.build_tokenizer(profile.text.max_tokens)
    chosen = np.flatnonzero(index["patient"].isin(patients) & (index["split"] == "train"))
    scale, sentences = vae.config.scaling_factor, index["sentence"].tolist()
    part = {"train": chosen, "val": chosen}  # no other patient may choose the weights
    sets = {name: diffusion.LatentSet(mean, std, scale, sentences, tokenizer, rows) for name, rows in part.items()}
    schedule = diffusion.noise_schedule(config)
    torch.manual_seed(seed)
    encoder = text.build_encoder(profile.text, len(tokenizer))
    unet = diffusion.build_unet(config, *mean.shape[1:3], context=profile.text.width)
    diffusion.train(
        diffusion.ConditionalDenoiser(unet, encoder),
        sets,
        schedule,
        profile,
        steps=config.steps_conditional,
        epochs=config.epochs_conditional,
        weights=diffusion.balancing_weights(index["cell"].iloc[chosen], config.balance),
        folder=study.ws.checkpoints(f"benchmark_utility/few_{seed}_training"),
        digest=profile.digest("diffusion", "text") + "".join(sorted(patients)),
        what=f"generator of {len(patients)} patients",
    )
    facts = {
        "seen": SeenConditions.of(index["sentence"].iloc[chosen]).to_config(),
        "condition_dropout": config.condition_dropout,
    }
    pipeline.DSAPipeline(vae, unet, schedule, encoder, tokenizer, **facts).save_pretrained(target)
    return target


def other_shapes(study: Study) -> str:
    """Why the shipped generator cannot stand beside the run's, or ""."""
    if not (shipped.FOLDER / "card.json").exists():
        return "models/phantom holds no weights"
    if other := shipped.WEIGHTS.differing(study.profile):
        return f"the shipped generator differs from the run's in {', '.join(other)}"
    shipped.check_unseen(
        pd.read_parquet(study.read("archive_truth.parquet"), columns=["patient_id"])["patient_id"].unique()
    )
    return ""


def further_patients() -> int:
    return len(shipped.card()["patients"]["train"]) if (shipped.FOLDER / "card.json").exists() else 0


def records(table: pd.DataFrame) -> list[dict]:
    return json.loads(table.round(4).to_json(orient="records"))


if __name__ == "__main__":
    main()
