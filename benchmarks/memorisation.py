"""How often the memorisation audit flags an honest generator, and how often one that copies a share of its images.

    python benchmarks/memorisation.py --run phantom --samples FOLDER

reads a finished run of profile phantom (notebooks 01 to 07) and writes benchmarks/memorisation.json. Everything is simulated anatomy, and there is one
archive: rates are over random splits of its patients and over seeds of sampling, not over archives. FOLDER keeps further images of the model, so that
a stopped call goes on.

- Honest, real frames: patients are split at random into training, held-out and "generated"; frames of the last stand in the place of generated
  images, and the tests are told whose they are.
- Honest, the run's model: images of each seed, against the run's own split, and against a split of the patients drawn for that seed. The model went on from
  shipped weights for a few steps at a low rate, so that all patients of the archive are all but new to it.
- Power: the same images, with a share of them replaced by copies of training frames of the split.

Intervals are Clopper and Pearson's at 95 %.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from dsa_lib.audits import copy_search, memorisation, planted_copies
from dsa_lib.audits.copy_search import Nearest, Space
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.images import read_images
from dsa_lib.fidelity import features
from dsa_lib.ldm import autoencoder, sampler, sampling
from dsa_lib.ldm.pipeline import DSAPipeline, in_batches
from dsa_lib.nn import resnet
from dsa_lib.run.profiles import Profile, load_profile
from dsa_lib.run.progress import track
from dsa_lib.run.session import environment
from dsa_lib.run.workspace import Workspace, atomic_write, sha256, write_json

SEED = 20261126
PER_SERIES = 2  # canonical frames of a series that are looked up: further ones hardly add
SPLIT = {"real frames": (22, 10), "model": (28, 12)}  # training and held-out patients of a random split
EXTRA = 100  # images of a batch
COPIED = 100  # training frames of which copies are kept ready
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
OUT = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="phantom")
    parser.add_argument("--samples", type=Path, required=True, help="folder that keeps further images of the model")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--images", type=int, default=100, help="of a seed; a quarter a condition")
    parser.add_argument("--splits", type=int, default=400, help="of the real frames")
    request = parser.parse_args()
    ws = Workspace(request.run)
    provenance = json.loads((ws.root / "provenance" / "04_ldm.json").read_text())["parameters"]
    profile = load_profile(provenance["profile"], provenance.get("overrides"))
    arterial = pd.read_parquet(ws.root / "arterial.parquet")
    frames = np.load(ws.root / "frames.npy", mmap_mode="r")
    images, cells = generated(ws, profile, request)
    archive = Archive(ws, profile, arterial, frames, images)
    report = {
        "what": "false alarms and power of the memorisation audit on phantom patients (simulated); see the head of benchmarks/memorisation.py",
        "run": {"profile": profile.name, "seed": profile.seed, "patients": int(arterial["patient"].nunique())},
        "model": sha256(ws.root / "ldm")[:16],
        "level": profile.privacy.level,
        "environment": environment(),
        "spaces": [space.name for space in archive.spaces],
        "false alarms": {
            "real frames of other patients": real_frames(archive, profile, request.splits),
            "the run's model, its own split": model(archive, profile, cells, request, own_split=True),
            "the run's model, a split of each seed": model(archive, profile, cells, request, own_split=False),
        },
        "power": power(archive, profile, cells, request),
    }
    write_json(OUT, report)
    print(json.dumps(report, indent=1))


def generated(ws: Workspace, profile: Profile, request) -> tuple[np.ndarray, np.ndarray]:
    """Images of the run's model, [seeds · images, H, W], and their conditions: set after set, each with equally many of the four.

    First the images that the run has made itself, then further ones, a batch of EXTRA for each file of the folder.
    """
    images, cells = [], []
    for name in ("fid", "reader"):
        manifest = pd.read_parquet(ws.root / "samples" / name / "manifest.parquet")
        images.append(read_images(ws.root / "samples" / name, manifest["file"].tolist()))
        cells.append(manifest["cell"].to_numpy().astype(str))
    each = request.images // len(CELLS)
    batch = 0
    while min((np.concatenate(cells) == cell).sum() for cell in CELLS) < each * request.seeds:
        path = request.samples / f"{batch}.npz"
        if not path.exists():
            sample(ws, profile, batch, path)
        content = np.load(path)
        images.append(content["frames"])
        cells.append(content["cells"].astype(str))
        print(f"batch {batch} of {EXTRA} images", flush=True)
        batch += 1
    images, cells = np.concatenate(images), np.concatenate(cells)
    of_cell = [np.flatnonzero(cells == cell)[: each * request.seeds].reshape(request.seeds, each) for cell in CELLS]
    order = np.concatenate(of_cell, axis=1).ravel()
    return images[order], cells[order]


def sample(ws: Workspace, profile: Profile, batch: int, path: Path) -> None:
    """Write a batch of EXTRA images of the run's model, as its profile samples, and their conditions to `path`."""
    dsa = DSAPipeline.from_pretrained(ws.root / "ldm").to("cuda" if torch.cuda.is_available() else "cpu")
    dsa.set_progress_bar_config(disable=True)
    dsa.scheduler = sampler.make_scheduler(profile.sampling.scheduler, dsa.scheduler)
    plan = sampling.stratified_plan(1000 + batch, EXTRA // len(CELLS))
    sentences, seeds = plan["sentence"].tolist(), plan["seed"].tolist()
    frames = in_batches(dsa, sentences, seeds, 20, num_inference_steps=profile.sampling.steps, allow_unseen=True)
    with atomic_write(path) as temporary:
        np.savez(temporary, frames=frames, cells=plan["cell"].to_numpy().astype(str))


class Archive:
    """Distances of real, generated and copied images to every patient of the archive, in every space: all splits are then a choice of columns."""

    def __init__(self, ws: Workspace, profile: Profile, arterial: pd.DataFrame, frames: np.ndarray, images: np.ndarray):
        self.rows = arterial.reset_index(drop=True)
        self.patients = self.rows["patient"].to_numpy()
        canonical = self.rows[self.rows["cell"].isin(CELLS)]
        shuffled = canonical.sample(frac=1, random_state=SEED)
        self.real = shuffled.groupby("series").head(PER_SERIES).sort_index().index.to_numpy()
        rng = np.random.default_rng(SEED)
        self.copied = np.sort(rng.choice(canonical.index.to_numpy(), min(COPIED, len(canonical)), replace=False))
        store = frames[self.rows["frame_id"].to_numpy()]
        vae = autoencoder.AutoencoderKL.from_pretrained(ws.root / "vae").eval()
        self.copies = planted_copies.by_hand(store[self.copied], lambda some: autoencoder.reconstruct(vae, some), SEED)
        _, facts = resnet.load_classifier(ws.root / "classifier")
        some = rng.permutation(np.flatnonzero(self.rows["split"] == "train"))[:2048]
        extractor = features.open_extractor(
            profile.fidelity.features,
            classifier=ws.root / "classifier",
            size=facts["input_size"],
            batch_size=64,
            training_frames=store[np.sort(some)],
            network=ws.root / "dsa_network",
        )
        self.spaces: list[Space] = copy_search.spaces_of(ws.root / "classifier", extractor.name)
        looked_up = np.concatenate([store[self.real], images, *self.copies.values()])
        itself = np.concatenate([self.real, np.full(len(looked_up) - len(self.real), -1)])
        self.found: dict[str, Nearest] = {}
        for space in self.spaces:
            vectors = space.embed is None
            queries = copy_search.embed(space, extractor(looked_up) if vectors else looked_up)
            source = extractor(store, what="archive") if vectors else store
            self.found[space.name] = copy_search.search(
                space, queries, source, np.arange(len(store)), self.patients, itself
            )
        self.first_image = len(self.real)
        self.first_copy = len(self.real) + len(images)

    def looked_up(self, space: str, training: set, held_out: set, leave_one_out: int, rng) -> tuple:
        """The `memorisation.Lookup` and held-out `memorisation.Images` that the audit of a split would have."""
        whose = self.patients[self.real]
        among = np.array(sorted(training))
        h = np.flatnonzero(np.isin(whose, list(held_out)))
        t = rng.permutation(np.flatnonzero(np.isin(whose, among)))
        turn = pd.Series(whose[t]).groupby(whose[t]).cumcount().to_numpy()
        t = t[np.argsort(turn, kind="stable")][:leave_one_out]
        near = self.found[space].among(among)
        none = np.zeros(0)
        lookup = memorisation.Lookup(
            near.at(none.astype(int)), near.at(h), near.at(t).without(whose[t]), whose[t], none, none, none
        )
        cells = self.rows["cell"].to_numpy()[self.real[h]]
        return near, lookup, memorisation.Images(None, self.real[h], cells, whose[h])

    def verdict(self, profile: Profile, training: set, held_out: set, images, cells, seed: int, patients=None) -> dict:
        """`flagged` and the spaces' adjusted p for `images`, positions among all that were looked up, of the conditions `cells`."""
        rows = []
        for space in self.found:
            rng = np.random.default_rng([SEED, seed])
            near, lookup, real = self.looked_up(space, training, held_out, profile.privacy.leave_one_out, rng)
            tests = memorisation.tests(lookup, real, near.at(images), cells, patients)
            rows.append({"space": space} | tests)
        table = memorisation.judged(pd.DataFrame(rows), profile.privacy.level)
        return {"flagged": bool(table["flagged"].any())} | {
            f"{row.space}, {name}": getattr(row, name)
            for row in table.itertuples()
            for name in ("p_nearer", "p_near_copies", "flagged", "farther")
        }


def split(archive: Archive, sizes: tuple[int, int], seed: int) -> tuple[set, set, set]:
    """Training, held-out and remaining patients of a random split."""
    names = np.random.default_rng([SEED, seed, 1]).permutation(np.unique(archive.patients))
    a, b = sizes[0], sum(sizes)
    return set(names[:a]), set(names[a:b]), set(names[b:])


def real_frames(archive: Archive, profile: Profile, splits: int) -> dict:
    whose = archive.patients[archive.real]
    cells = archive.rows["cell"].to_numpy()[archive.real]
    rows = []
    for seed in track(range(splits), what="splits of the real frames"):
        training, held_out, rest = split(archive, SPLIT["real frames"], seed)
        images = np.flatnonzero(np.isin(whose, list(rest)))
        rows.append(archive.verdict(profile, training, held_out, images, cells[images], seed, whose[images]))
    return rates(rows)


def of_seed(archive: Archive, cells: np.ndarray, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    here = np.arange(seed * count, (seed + 1) * count)
    return archive.first_image + here, cells[here]


def patients_of(archive: Archive, seed: int, own_split: bool) -> tuple[set, set]:
    if not own_split:
        return split(archive, SPLIT["model"], seed)[:2]
    whose = archive.rows.groupby("split")["patient"].unique()
    return set(whose["train"]), set(whose["val"]) | set(whose["test"])


def model(archive: Archive, profile: Profile, cells: np.ndarray, request, own_split: bool) -> dict:
    rows = []
    for seed in range(request.seeds):
        images, named = of_seed(archive, cells, seed, request.images)
        rows.append(archive.verdict(profile, *patients_of(archive, seed, own_split), images, named, seed))
    return rates(rows)


def power(archive: Archive, profile: Profile, cells: np.ndarray, request) -> dict:
    """Share of seeds flagged by kind and share of the copies; copies are of training frames of the split that the seed draws."""
    found: dict[str, dict] = {}
    all_cells = archive.rows["cell"].to_numpy()
    for number, kind in enumerate(archive.copies):
        for share in SHARES:
            rows = []
            for seed in range(request.seeds):
                images, named = of_seed(archive, cells, seed, request.images)
                training, held_out = patients_of(archive, seed, own_split=False)
                known = np.flatnonzero(np.isin(archive.patients[archive.copied], list(training)))
                place = planted_copies.planted_places(len(images), share, seed)
                taken = np.random.default_rng([SEED, seed, 2]).choice(known, len(place))
                images, named = images.copy(), named.astype(object)
                images[place] = archive.first_copy + number * len(archive.copied) + taken
                named[place] = all_cells[archive.copied[taken]]
                rows.append(archive.verdict(profile, training, held_out, images, named, seed))
            found.setdefault(kind, {})[f"{len(place)} of {request.images}"] = interval([row["flagged"] for row in rows])
    return found


def rates(rows: list[dict]) -> dict:
    """Share flagged overall, by space and by test (each test by itself at the level of 5 %), with intervals."""
    table = pd.DataFrame(rows)
    out = {"flagged": interval(table["flagged"])}
    for name in table.columns.drop("flagged"):
        if name.endswith("flagged"):
            out[name] = interval(table[name])
        elif name.endswith("farther"):
            out[f"{name}, median"] = round(float(table[name].median()), 3)
        else:
            out[f"{name} below 0.05"] = interval(table[name] < 0.05)
    return out


def interval(hits) -> dict:
    hits = np.asarray(hits, bool)
    bounds = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="exact")
    return {
        "rate": round(float(hits.mean()), 4),
        "of": len(hits),
        "interval": [round(bounds.low, 4), round(bounds.high, 4)],
    }


if __name__ == "__main__":
    main()
