"""The plan is stratified and blind; shards add up to the whole set; generation resumes; files are marked synthetic."""

import multiprocessing
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dsa_lib.core.condition_sentences import CANONICAL, CELLS, Condition, SeenConditions, parse_sentence
from dsa_lib.core.images import read_images
from dsa_lib.ldm import sampling
from dsa_lib.ldm.autoencoder import build_autoencoder
from dsa_lib.ldm.diffusion import build_unet, noise_schedule
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.ldm.sampler import make_scheduler
from dsa_lib.ldm.sampling import MADE_BY, PLAN, SYNTHETIC_MARK, compare_samplers, generate, stratified_plan
from dsa_lib.ldm.text import build_encoder, build_tokenizer
from dsa_lib.run import shards
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import SMOKE
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import sha256

FORK = multiprocessing.get_context("fork")
OPTIONS = dict(steps=4, batch_size=3, model="m", digest="a")


class Pipeline:
    """Stands in for a trained pipeline: the seed decides the image."""

    seen = None

    scheduler = type("scheduler", (), {})()

    def __init__(self, seconds=0.0):
        self.made, self.seconds = [], seconds

    def __call__(self, sentences, seeds, num_inference_steps, guidance_scale, allow_unseen):
        self.made += list(seeds)
        time.sleep(self.seconds)
        return np.stack([np.random.default_rng(seed).integers(0, 255, (8, 8)).astype(np.uint8) for seed in seeds])


@pytest.fixture(scope="module")
def real_pipeline():
    """Untrained networks of profile smoke, which depend on noise, sentence and timestep like trained ones."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    return DSAPipeline(
        build_autoencoder(SMOKE.autoencoder),
        build_unet(SMOKE.diffusion, 3, 16, SMOKE.text.width),
        noise_schedule(SMOKE.diffusion),
        build_encoder(SMOKE.text, len(tokenizer)),
        tokenizer,
    )


def test_every_batch_is_stratified_and_numbers_are_blind():
    plan = stratified_plan(seed=1, per_condition=10, batches=10)
    assert len(plan) == 400 and plan["image_id"].is_unique and plan["seed"].is_unique
    assert (plan.groupby(["batch", "cell"]).size() == 10).all()
    numbers = plan["image_id"].str[3:].astype(int)
    assert abs(np.corrcoef(numbers, plan["cell"].map({cell: i for i, cell in enumerate(CELLS)}))[0, 1]) < 0.15
    assert plan.equals(stratified_plan(seed=1, per_condition=10, batches=10))


def test_the_manifest_has_a_row_an_image_and_says_who_made_it(tmp_path):
    plan = stratified_plan(seed=1, per_condition=2)
    manifest = generate(Pipeline(), plan, tmp_path, **OPTIONS, guidance=1.5)
    assert pd.read_parquet(tmp_path / "manifest.parquet").equals(manifest)
    assert list(manifest.columns) == [*PLAN, *MADE_BY]
    assert manifest[list(PLAN)].equals(plan)
    assert manifest[list(MADE_BY)].drop_duplicates().to_dict("records") == [
        {"model": "m", "scheduler": "scheduler", "steps": 4, "guidance": 1.5}
    ]
    kinds = {name: manifest[name].dtype.kind for name in ("seed", "steps", "batch", "guidance", "primary_angle_deg")}
    assert kinds == {"seed": "i", "steps": "i", "batch": "i", "guidance": "f", "primary_angle_deg": "f"}
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(manifest["file"])


def test_an_interrupted_set_goes_on_and_another_model_starts_anew(tmp_path):
    plan = stratified_plan(seed=1, per_condition=2)
    whole = generate(Pipeline(), plan, tmp_path / "whole", **OPTIONS)
    assert len(whole) == 8
    pipeline = Pipeline()
    generate(pipeline, plan, tmp_path / "broken", **OPTIONS)
    (tmp_path / "broken" / plan["file"][5]).unlink()
    (tmp_path / "broken" / plan["file"][2]).write_bytes(b"not an image")
    pipeline.made = []
    generate(pipeline, plan, tmp_path / "broken", **OPTIONS)
    assert pipeline.made == plan["seed"][[2, 5]].tolist()
    assert sha256(tmp_path / "broken") == sha256(tmp_path / "whole")
    pipeline.made = []
    generate(pipeline, plan, tmp_path / "broken", **(OPTIONS | {"batch_size": 1}))
    assert pipeline.made == []
    generate(pipeline, plan, tmp_path / "broken", **(OPTIONS | {"digest": "b"}))
    assert len(pipeline.made) == 8


def test_images_of_an_earlier_larger_set_do_not_stay(tmp_path):
    generate(Pipeline(), stratified_plan(1, 3), tmp_path, **OPTIONS)
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "img00000.dcm").touch()
    small = generate(Pipeline(), stratified_plan(1, 1), tmp_path, **OPTIONS)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted([*small["file"], "manifest.parquet"])


def test_the_union_of_shards_is_the_unsharded_set_in_any_order(tmp_path):
    plan = stratified_plan(seed=1, per_condition=3)
    generate(Pipeline(), plan, tmp_path / "whole", **OPTIONS)
    pipeline, folder = Pipeline(), tmp_path / "shards"
    assert generate(pipeline, plan, folder, **OPTIONS, shard=2, num_shards=4) is None
    assert "shards 0, 1 and 3 of 4 are missing" in shards.missing(folder)
    assert generate(pipeline, plan, folder, **OPTIONS, shard=0, num_shards=4) is None
    assert generate(pipeline, plan, folder, **OPTIONS, shard=3, num_shards=4) is None
    assert "shard 1 of 4 is missing" in shards.missing(folder) and not (folder / "manifest.parquet").exists()
    assert generate(pipeline, plan, folder, **OPTIONS, shard=1, num_shards=4) is not None
    assert sorted(pipeline.made) == sorted(plan["seed"])  # each once
    assert shards.missing(folder) == "" and sha256(folder) == sha256(tmp_path / "whole")


def test_more_shards_than_images(tmp_path):
    plan = stratified_plan(seed=1, per_condition=1)
    whole = generate(Pipeline(), plan, tmp_path / "whole", **OPTIONS)
    made = [generate(Pipeline(), plan, tmp_path / "set", **OPTIONS, shard=shard, num_shards=6) for shard in range(6)]
    assert made[2] is None and made[5].equals(whole) and sha256(tmp_path / "set") == sha256(tmp_path / "whole")


def test_a_call_without_shards_makes_what_is_missing_and_no_more(tmp_path):
    plan, pipeline = stratified_plan(seed=1, per_condition=3), Pipeline()
    generate(pipeline, plan, tmp_path, **OPTIONS, shard=1, num_shards=3)
    assert len(generate(pipeline, plan, tmp_path, **OPTIONS)) == 12
    assert sorted(pipeline.made) == sorted(plan["seed"])


def test_a_part_without_its_images_does_not_make_the_set_whole(tmp_path):
    plan, pipeline = stratified_plan(seed=1, per_condition=2), Pipeline()
    generate(pipeline, plan, tmp_path, **OPTIONS, shard=0, num_shards=2)
    (tmp_path / plan["file"][0]).unlink()
    assert generate(pipeline, plan, tmp_path, **OPTIONS, shard=1, num_shards=2) is None
    assert generate(pipeline, plan, tmp_path, **OPTIONS, shard=0, num_shards=2) is not None


def test_a_notebook_further_down_says_which_shards_it_waits_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    sampling = Study("05_sampling", "t", SMOKE, None, {})
    folder = sampling.write("samples/fid")
    generate(Pipeline(), stratified_plan(1, 2), folder, **OPTIONS, shard=1, num_shards=2)
    with pytest.raises(SystemExit) as ended:
        sampling.pause(shards.missing(folder))
    assert ended.value.code == 0 and sampling.ws.manifest("05_sampling") is None
    assert "05_sampling is not finished: shard 0 of 2 is missing" in capsys.readouterr().out
    with pytest.raises(
        StudyError, match=r"samples/fid is not whole: shard 0 of 2 is missing: run notebooks/05_sampling"
    ):
        Study("07_fid", "t", SMOKE, None, {}).read("samples/fid")
    generate(Pipeline(), stratified_plan(1, 2), folder, **OPTIONS)
    sampling.finish()
    assert Study("07_fid", "t", SMOKE, None, {}).read("samples/fid") == folder


@pytest.mark.parametrize("shard, num_shards", [(-1, 2), (2, 2), (0, 0), (1, 1)])
def test_a_shard_that_does_not_exist(tmp_path, shard, num_shards):
    with pytest.raises(StudyError, match="does not exist: shards are numbered from 0"):
        generate(Pipeline(), stratified_plan(1, 1), tmp_path, **OPTIONS, shard=shard, num_shards=num_shards)


def start(folder, shard, num_shards, seconds):
    """A process of its own at this shard."""
    how = OPTIONS | {"shard": shard, "num_shards": num_shards}
    process = FORK.Process(target=generate, args=(Pipeline(seconds), stratified_plan(1, 6), folder), kwargs=how)
    process.start()
    return process


def test_shards_that_run_at_the_same_moment_and_twice(tmp_path):
    """Two processes for each of two shards: what a scheduler does that restarts a job it took for dead."""
    generate(Pipeline(), stratified_plan(1, 6), tmp_path / "whole", **OPTIONS)
    processes = [start(tmp_path / "set", shard, 2, 0.05) for shard in (0, 1, 0, 1)]
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    assert sha256(tmp_path / "set") == sha256(tmp_path / "whole")


def test_killed_at_any_moment_it_goes_on(tmp_path):
    plan = stratified_plan(1, 6)
    generate(Pipeline(), plan, tmp_path / "whole", **OPTIONS)
    folder, kept = tmp_path / "set", {}
    for most in (4, 11):  # killed twice
        process = start(folder, 0, 1, 0.3)
        deadline = time.time() + 600
        while len(list(folder.glob("*.png"))) < most and time.time() < deadline:
            time.sleep(0.01)
        process.kill()
        process.join()
        found = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
        assert most <= len(found) < 24 and not (folder / "manifest.parquet").exists()
        assert kept.items() <= found.items()  # made once
        kept = found
    pipeline = Pipeline()
    assert generate(pipeline, plan, folder, **OPTIONS) is not None
    assert len(pipeline.made) == 24 - len(kept) and all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert sha256(folder) == sha256(tmp_path / "whole")


@pytest.mark.parametrize("name", ["ddpm", "dpmsolver++"])
def test_pixels_agree_whatever_the_batch_size_and_shard(real_pipeline, tmp_path, name):
    """Within one grey level: the order of summation in a convolution depends on the batch."""
    real_pipeline.scheduler = make_scheduler(name, noise_schedule(SMOKE.diffusion))
    plan = stratified_plan(seed=5, per_condition=4)
    files = plan["file"].tolist()
    sets = {}
    for size in (1, 3, 16):
        generate(real_pipeline, plan, tmp_path / str(size), steps=6, batch_size=size, model="m", digest="a")
        sets[size] = read_images(tmp_path / str(size), files).astype(int)
    for shard in (2, 0, 1):
        generate(real_pipeline, plan, tmp_path / "shards", steps=6, batch_size=4, model="m", digest="a", shard=shard, num_shards=3)  # fmt: skip
    sets["shards"] = read_images(tmp_path / "shards", files).astype(int)
    for other in (3, 16, "shards"):
        assert np.abs(sets[other] - sets[1]).max() <= 1, other
    assert np.abs(sets[1][0] - sets[1][1]).mean() > 5  # images differ among each other by far more
    parts = [pd.read_parquet(tmp_path / folder / "manifest.parquet") for folder in ("1", "shards")]
    assert parts[0].equals(parts[1])


def test_a_condition_that_the_model_never_saw_is_refused_before_the_work(real_pipeline, tmp_path):
    seen = SeenConditions.of([CANONICAL["AC A"].sentence(), CANONICAL["PC A"].sentence(), CANONICAL["AC B"].sentence()])
    careful = DSAPipeline(**real_pipeline.components, seen=seen.to_config())
    plan = stratified_plan(1, 1)
    with pytest.raises(StudyError, match="never saw a condition like posterior B"):
        generate(careful, plan, tmp_path, **OPTIONS)
    assert not list(tmp_path.glob("*.png"))
    assert len(generate(careful, plan, tmp_path, **OPTIONS, allow_unseen=True)) == 4


def test_the_samplers_that_draw_no_noise_come_near_the_solution(real_pipeline):
    samplers = {name: make_scheduler(name, noise_schedule(SMOKE.diffusion)) for name in ("ddpm", "ddim", "unipc")}
    before = real_pipeline.scheduler
    few, frames = compare_samplers(real_pipeline, CANONICAL["AC A"], [1, 2], samplers, steps=5, solved=100)
    many, _ = compare_samplers(real_pipeline, CANONICAL["AC A"], [1, 2], samplers, steps=50, solved=100)
    assert np.isnan(few.loc["ddpm", "grey_from_solution"])
    assert many.loc["ddim", "grey_from_solution"] < few.loc["ddim", "grey_from_solution"]
    assert frames["ddim"].shape == (2, 64, 64) and real_pipeline.scheduler is before


def test_a_file_says_that_it_is_synthetic_and_not_its_condition(tmp_path):
    plan = stratified_plan(seed=1, per_condition=1)
    generate(Pipeline(), plan, tmp_path, **OPTIONS)
    sets = set()
    for row in plan.itertuples():
        image = Image.open(tmp_path / row.file)
        assert image.text["Comment"] == SYNTHETIC_MARK and set(image.text) == {"Comment", "Set"}
        sets.add(image.text["Set"])
        raw = (tmp_path / row.file).read_bytes()
        assert b"anterior" not in raw and b"posterior" not in raw
    assert len(sets) == 1  # the same in every file: it tells nothing about one


def test_numbers_tell_nothing_of_condition_or_batch():
    """In plan order, four files in five would lie beside one of their own condition; at random it is one in four, of ten batches one in ten."""
    plan = stratified_plan(seed=1, per_condition=10, batches=10).sort_values("image_id")
    beside = {name: (plan[name].to_numpy()[1:] == plan[name].to_numpy()[:-1]).mean() for name in ("cell", "batch")}
    assert beside["cell"] == pytest.approx(0.25, abs=0.08) and beside["batch"] == pytest.approx(0.1, abs=0.06)


def test_a_plan_has_the_angles_that_its_sentence_names(monkeypatch):
    asked = Condition("anterior", "A", primary_angle_deg=-12, secondary_angle_deg=23)
    monkeypatch.setattr(sampling, "CANONICAL", {"AC A": asked})
    (row,) = stratified_plan(seed=1, per_condition=1).to_dict("records")
    assert (row["primary_angle_deg"], row["secondary_angle_deg"]) == (-12.0, 23.0)
    assert parse_sentence(row["sentence"]) == asked
