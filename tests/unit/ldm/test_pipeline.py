"""The pipeline: what it is asked, what it refuses, saved and opened by this project and by diffusers itself."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from dsa_lib.core.condition_sentences import CANONICAL, Condition, SeenConditions
from dsa_lib.ldm.autoencoder import build_autoencoder
from dsa_lib.ldm.diffusion import build_unet, noise_schedule
from dsa_lib.ldm.pipeline import DiffusionPipeline, DSAPipeline, guide, in_batches, watch
from dsa_lib.ldm.sampler import SAMPLERS, make_scheduler
from dsa_lib.ldm.text import build_encoder, build_tokenizer
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import SMOKE

SEEN = SeenConditions.of([*(condition.sentence() for condition in CANONICAL.values()),
                          Condition("anterior", "A", -32, 18).sentence()])  # fmt: skip
ASKED = Condition("anterior", "B", -90, 0)


def build(**options):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    unet = build_unet(SMOKE.diffusion, 3, 16, SMOKE.text.width)
    # An untrained last layer hardly tells one prediction from another; these are told apart.
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    return DSAPipeline(
        build_autoencoder(SMOKE.autoencoder),
        unet,
        noise_schedule(SMOKE.diffusion),
        build_encoder(SMOKE.text, len(tokenizer)),
        tokenizer,
        **options,
    )


@pytest.fixture(scope="module")
def pipeline():
    return build(seen=SEEN.to_config(), condition_dropout=0.1)


@pytest.fixture
def saved(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "ldm")
    return tmp_path / "ldm"


def draw(pipeline, conditions=ASKED, seeds=(3, 4), **options):
    return pipeline(conditions, seeds=seeds, **{"num_inference_steps": 3} | options)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(pipeline, name, monkeypatch):
    monkeypatch.setattr(pipeline, "scheduler", make_scheduler(name, noise_schedule(SMOKE.diffusion)))
    together = draw(pipeline, [CANONICAL["AC A"], CANONICAL["PC B"]], [11, 12])
    alone = draw(pipeline, CANONICAL["PC B"], [12])
    assert together.shape == (2, 64, 64) and together.dtype == np.uint8
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert np.abs(together[0].astype(int) - together[1]).max() > 5


def test_a_saved_pipeline_draws_the_same_images(pipeline, saved):
    again = DSAPipeline.from_pretrained(saved)
    assert np.array_equal(draw(pipeline), draw(again))
    assert again.seen.angles == SEEN.angles and again.config.condition_dropout == 0.1
    again.save_pretrained(saved.parent / "twice")
    for path in (saved.parent / "twice").rglob("*.json"):
        assert str(saved.parent) not in path.read_text(), "no path of the machine that saved it"


def test_diffusers_opens_it_without_knowing_its_class(pipeline, saved):
    """In a process that has imported nothing of this project but what mends torchvision."""
    code = (
        "import sys, dsa_lib, numpy, torch\n"
        "from diffusers import DiffusionPipeline\n"
        "assert 'dsa_lib.ldm.pipeline' not in sys.modules\n"
        "pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "numpy.save(sys.argv[2], pipeline(('anterior', 'B', -90, 0), seeds=[3, 4], num_inference_steps=3))"
    )
    subprocess.run([sys.executable, "-c", code, saved, saved / "made.npy"], check=True, timeout=600)
    assert np.array_equal(np.load(saved / "made.npy"), draw(pipeline))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(saved)


def test_our_own_opener_runs_no_code_of_the_folder(saved):
    (saved / "pipeline.py").write_text("raise SystemExit('code of the folder was run')")
    assert isinstance(DSAPipeline.from_pretrained(saved), DSAPipeline)


def test_samplers_are_exchanged_before_and_after_opening(saved):
    from diffusers import EulerDiscreteScheduler  # after dsa_lib, which mends torchvision

    first = DSAPipeline.from_pretrained(saved)
    ddim = SAMPLERS["ddim"].from_config(first.scheduler.config)
    with_ddpm = draw(first)
    first.scheduler = ddim
    second = DSAPipeline.from_pretrained(saved, scheduler=ddim)
    assert np.array_equal(draw(first), draw(second)) and not np.array_equal(draw(first), with_ddpm)
    assert second.scheduler.config.beta_end == SMOKE.diffusion.beta_end
    second.scheduler = EulerDiscreteScheduler.from_config(first.scheduler.config)  # scales its latents, unlike ours
    assert draw(second).shape == (2, 64, 64)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_of_half_precision_are_computed_with_in_single(pipeline, saved, variant):
    DSAPipeline.from_pretrained(saved, dtype=torch.float16).save_pretrained(saved.parent / "half", variant=variant)
    options = {} if variant is None else {"variant": variant}
    half = DSAPipeline.from_pretrained(saved.parent / "half", **options)
    other = DiffusionPipeline.from_pretrained(saved.parent / "half", trust_remote_code=True, **options)
    for opened in (half, other):
        assert {opened.unet.dtype, opened.vae.dtype, opened.text_encoder.dtype} == {torch.float32}
    assert np.array_equal(draw(half), draw(other))
    assert np.abs(draw(half).astype(int) - draw(pipeline)).max() <= 2


def test_a_condition_may_be_written_in_every_form(pipeline):
    rough = "This is a anterior DSA scan taken in Plane B, with a primary angle of -88° and a secondary angle of 1°."
    forms = [ASKED, ASKED.sentence(), ("anterior", "B", -90, 0), ["anterior", "B", np.float32(-90), np.int64(0)], rough]
    images = draw(pipeline, forms, [5] * len(forms))
    assert np.abs(images.astype(int) - images[0]).max() <= 1
    for one in forms[:3]:
        assert np.abs(draw(pipeline, one, [5, 5]).astype(int) - images[:2]).max() <= 1


@pytest.mark.parametrize(
    "conditions, sentence",
    [
        (None, "sentences or conditions"),
        ([ASKED], "1 conditions for 2 seeds"),
        (("venous", "A", 0, 0), "circulation 'venous' is not one of anterior, posterior"),
        (("anterior", "C", 0, 0), "plane 'C' is not one of A, B"),
        (("anterior", "A", 400, 0), "primary_angle_deg 400 is outside ±180°"),
        (("anterior", "A", "left", 0), "primary_angle_deg 'left' is not a number"),
        ((ASKED, 7), "7 is not a condition: give a sentence"),
        (ASKED.sentence().replace("-90", "-400"), "-400.0 is outside ±180°"),
        ("a cat", "it does not know 'cat'"),
        (ASKED.sentence().replace("anterior", "anteriar"), "did you mean 'anterior'"),
        (ASKED.sentence().replace("Plane B", "Plane C"), "the planes are A and B"),
        ("posterior, plane B, -90 and 0 degrees", CANONICAL["PC B"].sentence()),
        ("", "is not in the grammar"),
    ],
)
def test_nonsense_is_refused_with_what_would_do(pipeline, conditions, sentence):
    if isinstance(conditions, tuple) and conditions[1:] == (7,):
        conditions = list(conditions)
    with pytest.raises(StudyError) as refusal:
        draw(pipeline, conditions)
    assert sentence in str(refusal.value)


def test_what_the_model_never_saw_is_refused_and_the_nearest_named(pipeline):
    never = ("posterior", "B", 30, 10)
    with pytest.raises(
        StudyError, match=r"never saw a condition like posterior B 30°/10°.*nearest are posterior B -90°/0°"
    ):
        draw(pipeline, [ASKED, never])
    assert draw(pipeline, [ASKED, never], allow_unseen=True).shape == (2, 64, 64)
    assert draw(build(), never).shape == (2, 64, 64), "a pipeline that recorded nothing refuses nothing"


def test_guidance(pipeline):
    plain = draw(pipeline)
    assert np.array_equal(draw(pipeline, guidance_scale=1.0), plain)
    assert np.abs(draw(pipeline, guidance_scale=1.0001).astype(int) - plain).max() <= 1
    empty = draw(pipeline, guidance_scale=0.0)
    assert not np.array_equal(empty, plain)
    assert np.abs(empty.astype(int) - draw(pipeline, CANONICAL["PC A"], guidance_scale=0.0)).max() <= 1
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert [float(guide(conditional, unconditional, w)) for w in (0, 1, 2.5)] == [1, 3, 6]


def test_guidance_needs_a_model_that_was_trained_for_it(pipeline):
    with pytest.raises(StudyError, match=r"needs a model trained with diffusion\.condition_dropout"):
        draw(build(), guidance_scale=2)
    with pytest.raises(StudyError, match="guidance_scale -1 is not 0 or more"):
        draw(pipeline, guidance_scale=-1)


def test_the_unconditional_pipeline(tmp_path):
    torch.manual_seed(0)
    parts = build_autoencoder(SMOKE.autoencoder), build_unet(SMOKE.diffusion, 3, 16, None)
    unconditional = DSAPipeline(*parts, noise_schedule(SMOKE.diffusion))
    unconditional.save_pretrained(tmp_path)
    assert np.array_equal(draw(DSAPipeline.from_pretrained(tmp_path), None), draw(unconditional, None))
    with pytest.raises(StudyError, match="gives none"):
        draw(unconditional, ASKED)
    with pytest.raises(StudyError, match="no sentence to be guided by"):
        draw(unconditional, None, guidance_scale=2)


def test_images_made_in_batches_are_those_made_at_once(pipeline):
    asked, seeds = [ASKED, CANONICAL["AC A"], ASKED], [3, 4, 5]
    parts = in_batches(pipeline, asked, seeds, 2, "images", num_inference_steps=3)
    assert np.abs(parts.astype(int) - draw(pipeline, asked, seeds)).max() <= 1


def test_the_callback_sees_every_step_and_may_change_it(pipeline):
    steps = []

    def callback(pipe, step, t, tensors):
        steps.append((step, int(t)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    made = draw(pipeline, callback_on_step_end=callback)
    assert steps == [(step, int(t)) for step, t in enumerate(pipeline.scheduler.timesteps)] and len(steps) == 3
    assert np.array_equal(made, pipeline.decode(torch.zeros(2, 3, 16, 16)))


def test_an_image_is_watched_from_pure_noise_to_its_end(pipeline):
    times, frames = watch(pipeline, ASKED, seed=3, steps=6, shown=4)
    assert times[0] == 1000 and times[-1] == 0 and times == sorted(times, reverse=True) and len(frames) == 4
    made = draw(pipeline, ASKED, [3], num_inference_steps=6)[0]
    assert np.abs(frames[-1].astype(int) - made).max() <= 1
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    assert np.abs(frames[0].astype(int) - pipeline.decode(noise)[0]).max() <= 1


def test_the_progress_bar_keeps_out_of_batch_runs(saved, capfd):
    pipeline = DSAPipeline.from_pretrained(saved)
    capfd.readouterr()
    draw(pipeline)
    assert capfd.readouterr().err == ""
    pipeline.set_progress_bar_config(disable=False)
    draw(pipeline)
    assert "3/3" in capfd.readouterr().err
