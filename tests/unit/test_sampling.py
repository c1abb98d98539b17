"""The plan is stratified and blind; generation resumes; files are marked synthetic."""

import numpy as np
import pandas as pd
from PIL import Image

from dsa_lib.conditions import CELLS
from dsa_lib.images import read_images
from dsa_lib.sampling import SYNTHETIC_MARK, generate, stratified_plan


class Pipeline:
    """Stands in for a trained pipeline: the seed decides the image."""

    class scheduler:
        pass

    def __init__(self):
        self.made = []

    def __call__(self, sentences, seeds, num_inference_steps):
        self.made += list(seeds)
        return np.stack([np.random.default_rng(seed).integers(0, 255, (8, 8)).astype(np.uint8) for seed in seeds])


def test_every_batch_is_stratified_and_numbers_are_blind():
    plan = stratified_plan(seed=1, per_condition=10, batches=10)
    assert len(plan) == 400 and plan["image_id"].is_unique and plan["seed"].is_unique
    assert (plan.groupby(["batch", "cell"]).size() == 10).all()
    numbers = plan["image_id"].str[3:].astype(int)
    assert abs(np.corrcoef(numbers, plan["cell"].map({cell: i for i, cell in enumerate(CELLS)}))[0, 1]) < 0.15
    assert plan.equals(stratified_plan(seed=1, per_condition=10, batches=10))


def test_an_interrupted_set_goes_on_and_another_model_starts_anew(tmp_path):
    plan = stratified_plan(seed=1, per_condition=2)
    options = dict(steps=4, batch_size=3, model="m", digest="a")
    whole = generate(Pipeline(), plan, tmp_path / "whole", **options)
    assert len(whole) == 8 and pd.read_parquet(tmp_path / "whole" / "manifest.parquet").equals(whole)
    pipeline = Pipeline()
    generate(pipeline, plan, tmp_path / "broken", **options)
    (tmp_path / "broken" / plan["file"][5]).unlink()
    pipeline.made = []
    generate(pipeline, plan, tmp_path / "broken", **options)
    assert pipeline.made == [plan["seed"][5]]
    files = plan["file"].tolist()
    assert np.array_equal(read_images(tmp_path / "whole", files), read_images(tmp_path / "broken", files))
    pipeline.made = []
    generate(pipeline, plan, tmp_path / "broken", **(options | {"digest": "b"}))
    assert len(pipeline.made) == 8


def test_a_file_says_that_it_is_synthetic_and_not_its_condition(tmp_path):
    plan = stratified_plan(seed=1, per_condition=1)
    generate(Pipeline(), plan, tmp_path, steps=4, batch_size=4, model="m", digest="a")
    for row in plan.itertuples():
        image = Image.open(tmp_path / row.file)
        assert image.text == {"Comment": SYNTHETIC_MARK}
        raw = (tmp_path / row.file).read_bytes()
        assert b"anterior" not in raw and b"posterior" not in raw
