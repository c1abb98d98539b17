"""Five distances, KID and neighbour scores in one pass over image files, against torch-fidelity's single FID of the same files.

python benchmarks/fid.py      # about half an hour on two busy cores; prints the ratios and writes benchmarks/fid.json

The images are simulated: a smooth field with lines and noise, 256², written as 8-bit grey PNGs. Both sides start from the files and end with numbers, with
the same network: a small one that torch-fidelity is given as a registered extractor, and Inception-V3 with random weights in torch-fidelity's file format.
Every measurement is a process of its own with one computing thread (beside it run the readers: a thread of ours, four processes of torch-fidelity's); the
sides take turns, which goes first alternates, and medians are compared. Wall time says little where other work shares the cores: computing time, children
included, is told beside it. Importing and building the network are not counted on either side. Ours is what notebook 07 calls for the generated images:
the header check, features, five Fréchet distances, KID and neighbour scores for five scopes; no intervals. Memory is the peak resident size, at two numbers
of images, the feature matrices taken off.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import dsa_lib  # noqa: F401  before torch_fidelity: it makes torchvision importable
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.run.session import environment

PROJECT = Path(__file__).resolve().parent.parent
SIZES = {"small": (1400, 700), "inception": (200, 104)}  # images: generated, real (as 2 : 1 in §2.5)
REPEATS = {"small": 3, "inception": 2}
MEMORY = (1200, 4800)
SIDE, BATCH, DIMENSION = 256, 32, 256


class SmallBackbone(nn.Module):
    """uint8 [n, 3, H, W] → [n, 256]: four strided convolutions with random weights, averaged over the image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        widths = (3, 32, 64, 128, DIMENSION)
        layers = [[nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()] for a, b in itertools.pairwise(widths)]
        self.body = nn.Sequential(*(layer for pair in layers for layer in pair), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images.float() / 127.5 - 1) * 100


def write_images(folder: Path, count: int, seed: int) -> list[str]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    names = [f"{index:05d}.png" for index in range(count)]
    for name in names:
        a, b, c, d = rng.normal(size=4)
        field = 150 + 25 * np.sin(3 * a * x + 2 * b * y + c) - 60 * (np.abs(np.sin(6 * (x + d * y))) < 0.04)
        pixels = np.clip(field + rng.normal(0, 6 + 2 * seed, (SIDE, SIDE)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def random_inception(path: Path) -> None:
    """Random weights in torch-fidelity's format; batch normalisation calibrated, so that activations neither vanish nor grow."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    load, module.torch.load = module.torch.load, lambda *args, **kwargs: {}
    keep, cls = module.FeatureExtractorInceptionV3.load_state_dict, module.FeatureExtractorInceptionV3
    cls.load_state_dict = lambda self, state: None
    torch.manual_seed(0)
    network = cls("inception-v3-compat", ["2048"], feature_extractor_weights_path="-")
    module.torch.load, cls.load_state_dict = load, keep
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train()
            part.momentum = None
    with torch.no_grad():
        network(torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8))
    torch.save(network.state_dict(), path)


def register(name: str, network: Callable[[], nn.Module]) -> None:
    """Make `network` (uint8 [n, 3, H, W] → [n, d]) known to torch-fidelity as the feature extractor `name`."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)
            self.network = network()

        @staticmethod
        def get_provided_features_list():
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "pooled"

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images):
            return (self.network(images),)

    torch_fidelity.register_feature_extractor(name, Registered)


# --- one measurement, in a process of its own -------------------------------------------------------------------------------------------------


def clock() -> np.ndarray:
    """Wall seconds, and seconds of computing of this process and of the children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)])


def theirs(folder: Path, network: str) -> dict:
    import torch_fidelity

    options = {"feature_extractor_weights_path": str(folder / "inception.pth")}
    if network == "small":
        register("small", SmallBackbone)
        options = {"feature_extractor": "small"}
    started = clock()
    found = torch_fidelity.calculate_metrics(
        input1=str(folder / "generated"), input2=str(folder / "real"), fid=True, batch_size=BATCH, cuda=False, cache=False,
        verbose=False, **options,
    )  # fmt: skip
    took, built = clock() - started, clock()
    if network == "small":
        SmallBackbone()
    else:
        _inception(folder)
    # Their call builds the network within; what that takes is measured once more and taken off.
    took -= clock() - built
    return {"wall_s": took[0], "cpu_s": took[1], "fid": found["frechet_inception_distance"]}


def ours(folder: Path, network: str) -> dict:
    from dsa_lib.core import images
    from dsa_lib.fidelity import distances as fidelity_distances
    from dsa_lib.fidelity.extractor import Extractor
    from dsa_lib.run.profiles import load_profile

    settings = load_profile("paper").fidelity
    if network == "small":
        backbone = SmallBackbone().eval()

        @torch.no_grad()
        def compute(frames):
            return backbone(torch.from_numpy(frames)[:, None].expand(-1, 3, -1, -1)).numpy()

        extractor = Extractor("small", "distance", compute, BATCH)
    else:
        extractor = _inception(folder)
    started = clock()
    sets, features_bytes = {}, 0
    for name in ("generated", "real"):
        files = images.ImageFiles(folder / name, sorted(os.listdir(folder / name)), name)
        values = extractor(files, what=name)
        features_bytes += values.nbytes
        sets[name] = fidelity_distances.ImageSet(values, np.resize(CELLS, len(values)))
    distances = {}
    for scope in fidelity_distances.SCOPES:
        made, real = (sets[name].scope(scope) for name in ("generated", "real"))
        distances[scope] = fidelity_distances.frechet_distance(
            fidelity_distances.statistics(made), fidelity_distances.statistics(real)
        )
        fidelity_distances.kernel_distance(made, real, settings.kid_subset, settings.kid_subsets)
        fidelity_distances.neighbour_scores(made, real, settings.neighbours)
    took = clock() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sizes = {"peak_mb": peak, "features_mb": features_bytes / 2**20}
    return {"wall_s": took[0], "cpu_s": took[1], "fid": distances["overall"]} | sizes


def _inception(folder: Path):
    from dsa_lib.fidelity.features import inception_extractor

    return inception_extractor(BATCH, folder / "inception.pth")


def measured(side: str, folder: Path, network: str) -> dict:
    command = [sys.executable, __file__, "--measure", side, str(folder), network]
    environ = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environ, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# --- all measurements -------------------------------------------------------------------------------------------------------------------------


def speed(folder: Path, network: str) -> dict:
    for name, count, seed in zip(("generated", "real"), SIZES[network], (1, 2), strict=True):
        write_images(folder / name, count, seed)
    if network == "inception":
        random_inception(folder / "inception.pth")
    runs = {"ours": [], "torch-fidelity": []}
    sides = [("ours", "ours"), ("torch-fidelity", "theirs")]
    for repeat in range(REPEATS[network]):
        for name, side in sides[:: 1 if repeat % 2 == 0 else -1]:
            runs[name].append(measured(side, folder, network))
            run = runs[name][-1]
            print(f"  {network}, {name}: {run['wall_s']:.1f} s ({run['cpu_s']:.1f} s computing)", flush=True)
    fids = [runs[name][0]["fid"] for name in runs]
    result = {
        "images": dict(zip(("generated", "real"), SIZES[network], strict=True)),
        "repeats": REPEATS[network],
        "overall distance, ours and theirs": fids,
        "relative difference": abs(fids[0] / fids[1] - 1),
    }
    for kind, word in (("wall_s", "wall time"), ("cpu_s", "computing time")):
        medians = {name: statistics.median(run[kind] for run in values) for name, values in runs.items()}
        pairs = [a[kind] / b[kind] for a, b in zip(runs["ours"], runs["torch-fidelity"], strict=True)]
        ratio = medians["ours"] / medians["torch-fidelity"]
        result[word] = {
            "ratio of medians": round(ratio, 3),
            "paired ratios": [round(pair, 3) for pair in pairs],
            "median_s": {name: round(value, 2) for name, value in medians.items()},
        }
        print(f"{network}: five distances, KID and scores take {ratio:.2f} × one FID of torch-fidelity, {word}")
    return result


def memory(folder: Path) -> dict:
    found = {}
    for count in MEMORY:
        for name, seed in (("generated", 1), ("real", 2)):
            write_images(folder / str(count) / name, count // 2, seed)
        run = measured("ours", folder / str(count), "small")
        found[str(count)] = {"peak_mb": round(run["peak_mb"]), "features_mb": round(run["features_mb"], 1)}
    small, large = found.values()
    beyond = (large["peak_mb"] - large["features_mb"]) - (small["peak_mb"] - small["features_mb"])
    found["growth beyond the features, kB an image"] = round(beyond * 1024 / (MEMORY[1] - MEMORY[0]), 1)
    found["one image, kB"] = SIDE * SIDE / 1024
    print(f"memory: {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args().measure
    if asked:
        side, folder, network = asked
        print(json.dumps((ours if side == "ours" else theirs)(Path(folder), network)))
        return
    result = {"what": __doc__.splitlines()[0], "load at the start": round(os.getloadavg()[0], 1)}
    result["environment"] = environment() | {"torch-fidelity": version("torch-fidelity"), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as temporary:
        for name, part in (
            ("small backbone", lambda: speed(Path(temporary, "small"), "small")),
            ("memory, small backbone", lambda: memory(Path(temporary, "memory"))),
            ("Inception-V3, random weights", lambda: speed(Path(temporary, "inception"), "inception")),
        ):
            result[name] = part()
            Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
