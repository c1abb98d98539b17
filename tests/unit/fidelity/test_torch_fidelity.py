"""The same image files through torch-fidelity's `calculate_metrics`: FID, KID, precision and recall, overall and per condition (§2.5).

Weights are random. Left as they are drawn, activations shrink layer by layer, every distance comes out near 1e-12 and any comparison passes; so batch
normalisation is calibrated on a few images, and the test asserts that the distances are far above 1.
"""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import dsa_lib  # noqa: F401  before torch_fidelity: it makes torchvision importable
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.images import ImageFiles
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import extractor as fidelity_extractor
from dsa_lib.fidelity import features, table5
from dsa_lib.run.workspace import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import fid as benchmark

RELATIVE = 1e-3


def write_set(folder, per_cell, seed, size=256):
    """PNGs in one folder a condition, and all of them in `overall`; conditions and sets differ in brightness, stripes and noise."""
    rng = np.random.default_rng(seed)
    x = np.arange(size)
    names, cells = [], np.repeat(CELLS, per_cell)
    for index, cell in enumerate(cells):
        stripes = 40 * np.sin(x / (4 + 3 * CELLS.index(cell)) + rng.uniform(0, 6)) + rng.normal(0, 10)
        pixels = np.clip(128 + stripes[:, None] + rng.normal(0, 5 + 6 * seed, (size, size)), 0, 255).astype(np.uint8)
        names.append(f"{index:03d}.png")
        for place in (cell, "overall"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / place / names[-1])
    return ImageFiles(folder / "overall", names), cells


def assert_equal_to_torch_fidelity(tmp_path, extractor, per_cell, scopes, neighbours, **options):
    import torch_fidelity

    sets = {}
    for seed, name in ((1, "generated"), (2, "real")):
        files, cells = write_set(tmp_path / name, per_cell, seed)
        sets[name] = fidelity_distances.ImageSet(extractor(files, what=name), cells)
    for scope in scopes:
        made, real = sets["generated"].scope(scope), sets["real"].scope(scope)
        ours = fidelity_distances.neighbour_scores(made, real, neighbours)
        ours["fid"] = fidelity_distances.frechet_distance(
            fidelity_distances.statistics(made), fidelity_distances.statistics(real)
        )
        ours["kid"], _ = fidelity_distances.kernel_distance(made, real, subset=len(made))
        theirs = torch_fidelity.calculate_metrics(
            input1=str(tmp_path / "generated" / scope), input2=str(tmp_path / "real" / scope), fid=True, kid=True, prc=True, kid_subsets=1,
            kid_subset_size=len(made), prc_neighborhood=neighbours, batch_size=8, cuda=False, cache=False, save_cpu_ram=True, verbose=False, **options,
        )  # fmt: skip
        assert ours["fid"] > 10
        assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=RELATIVE), scope
        assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=RELATIVE), scope
        assert ours["precision"] == pytest.approx(theirs["precision"], abs=1e-6), scope
        assert ours["recall"] == pytest.approx(theirs["recall"], abs=1e-6), scope
    return sets


class Backbone(nn.Module):
    """uint8 [n, 3, H, W] → [n, 24]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.Conv2d(8, 24, 5, 4), nn.ReLU())

    def forward(self, images):
        return self.body(images.float() / 16 - 8).mean((2, 3)) * 100


def test_five_distances_of_one_pass_equal_five_calls(tmp_path):
    benchmark.register("test-backbone", Backbone)
    network = Backbone().eval()

    @torch.no_grad()
    def compute(frames):
        return network(torch.from_numpy(frames)[:, None].expand(-1, 3, -1, -1)).numpy()

    extractor = fidelity_extractor.Extractor("backbone", "distance", compute, batch_size=16)
    assert_equal_to_torch_fidelity(
        tmp_path, extractor, 40, fidelity_distances.SCOPES, neighbours=3, feature_extractor="test-backbone"
    )


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A file in torch-fidelity's format: random weights, batch normalisation calibrated on noise."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    benchmark.random_inception(path)
    return path


def test_inception_distances_equal_torch_fidelity(tmp_path, inception_weights):
    extractor = features.inception_extractor(batch_size=8, weights=inception_weights)
    sets = assert_equal_to_torch_fidelity(
        tmp_path, extractor, 3, ("overall", "PC A"), neighbours=1, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights),
    )  # fmt: skip
    assert sets["real"].features.shape == (12, 2048)
    # Three images in 2,048 dimensions: flagged.
    held_out = fidelity_distances.ImageSet(sets["real"].features, sets["real"].cells, np.arange(12))
    from dsa_lib.run.profiles import load_profile

    settings = load_profile("paper", {"fidelity.repeats": 1}).fidelity
    table = table5.evaluate(sets["generated"], held_out, held_out, settings, seed=1)
    assert table["rank_deficient"].all() and pd.api.types.is_bool_dtype(table["rank_deficient"])
