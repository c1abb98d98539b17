"""Profiles against the numbers that the paper prints, and the checks that must come before any work."""

import dataclasses

import pytest

from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PROFILES, load_profile


@pytest.mark.parametrize(
    "dotted, value",
    [
        ("archive.patients", 859),  # §2.1
        ("archive.annotated_series", 953),  # §2.2
        ("classifier.input_size", 128),  # §4.2
        ("curation.image_size", 256),  # §4.5
        ("autoencoder.latent_channels", 3),
        ("autoencoder.block_channels", (128, 256, 512)),
        ("autoencoder.batch_size", 20),
        ("autoencoder.learning_rate", 2e-5),
        ("autoencoder.epochs", 100),
        ("autoencoder.patience", 10),
        ("autoencoder.kl_weight", 1e-6),
        ("autoencoder.perceptual", "lpips"),
        ("diffusion.timesteps", 1000),
        ("diffusion.beta_start", 0.0015),
        ("diffusion.beta_end", 0.0195),
        ("diffusion.prediction", "epsilon"),
        ("diffusion.base_channels", 224),
        ("diffusion.multipliers", (1, 2, 4, 4)),
        ("diffusion.head_channels", 32),
        ("diffusion.batch_size", 96),
        ("diffusion.learning_rate", 5e-5),
        ("diffusion.epochs_unconditional", 500),
        ("diffusion.epochs_conditional", 50),
        ("diffusion.ema_decay", 0.0),
        ("text.layers", 4),
        ("text.width", 512),
        ("sampling.reader_batches", 10),
        ("sampling.reader_per_condition", 10),
        ("sampling.fid_per_condition", 2500),
        ("fidelity.real_images", 5000),
        ("fidelity.features", "inception"),
    ],
)
def test_paper_profile_holds_the_published_number(dotted, value):
    section, name = dotted.split(".")
    assert getattr(getattr(PROFILES["paper"], section), name) == value


@pytest.mark.parametrize("name", ["smoke", "phantom"])
def test_small_profiles_need_no_download(name):
    profile = load_profile(name)
    assert profile.autoencoder.perceptual == "phase-network"
    assert profile.fidelity.features == "dsa-network"


def test_phantom_works_at_128_with_latents_of_3x32x32():
    auto = load_profile("phantom").autoencoder
    assert (auto.image_size, auto.latent_channels, auto.image_size // 2 ** (len(auto.block_channels) - 1)) == (
        128,
        3,
        32,
    )


def test_overrides_replace_single_values_and_leave_the_profile_alone():
    changed = load_profile("paper", {"diffusion.batch_size": 8, "seed": 1, "diffusion.multipliers": [1, 2, 4]
                                     , "diffusion.attention_levels": [False, True, True]})  # fmt: skip
    assert (changed.diffusion.batch_size, changed.seed, changed.diffusion.multipliers) == (8, 1, (1, 2, 4))
    assert changed.diffusion.learning_rate == 5e-5
    assert PROFILES["paper"].diffusion.batch_size == 96
    assert PROFILES["paper"].seed != 1


def test_overrides_may_come_as_json_or_as_numbers_that_yaml_left_as_text():
    assert load_profile("smoke", '{"diffusion.batch_size": 4}').diffusion.batch_size == 4
    assert load_profile("smoke", {"diffusion.learning_rate": "1e-4"}).diffusion.learning_rate == 1e-4
    assert load_profile("smoke", "").diffusion == PROFILES["smoke"].diffusion


@pytest.mark.parametrize(
    "name, overrides, words",
    [
        ("smok", {}, ["'smok'", "smoke, phantom, paper", "did you mean 'smoke'"]),
        ("smoke", {"diffusion.batchsize": 8}, ["diffusion.batchsize", "did you mean 'diffusion.batch_size'"]),
        ("smoke", {"difusion.batch_size": 8}, ["difusion.batch_size", "does not exist"]),
        ("smoke", {"diffusion": 8}, ["'diffusion'", "does not exist"]),
        ("smoke", {"name": "x"}, ["'name'", "does not exist"]),
        ("smoke", {"diffusion.batch_size": 8.5}, ["diffusion.batch_size", "whole number"]),
        ("smoke", {"diffusion.batch_size": True}, ["diffusion.batch_size", "whole number"]),
        ("smoke", {"diffusion.batch_size": "8"}, ["diffusion.batch_size", "whole number"]),
        ("smoke", {"diffusion.learning_rate": "fast"}, ["diffusion.learning_rate", "a number"]),
        ("smoke", {"diffusion.multipliers": 2}, ["diffusion.multipliers", "a list"]),
        ("smoke", {"text.pooled": 1}, ["text.pooled", "true or false"]),
        ("smoke", "{not json", ["not json", "JSON"]),
        ("smoke", "[1]", ["mapping"]),
    ],
)
def test_unknown_names_and_wrong_types_are_one_sentence(name, overrides, words):
    with pytest.raises(StudyError) as error:
        load_profile(name, overrides)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"autoencoder.image_size": 256}, "curation.image_size"),
        ({"curation.image_size": 66, "autoencoder.image_size": 66}, "divisible"),
        ({"diffusion.attention_levels": [True]}, "differ in length"),
        ({"diffusion.head_channels": 48}, "heads of 48"),
        ({"diffusion.norm_groups": 7}, "normalisation groups"),
        ({"text.heads": 3}, "into 3 heads"),
        ({"curation.train_fraction": 0.95}, "held-out"),
        ({"diffusion.beta_schedule": "cosine"}, "linear or scaled_linear"),
        ({"diffusion.beta_start": 0.5}, "beta_start"),
        ({"diffusion.ema_decay": 1.0}, "ema_decay"),
        ({"sampling.scheduler": "euler"}, "sampling.scheduler"),
        ({"sampling.steps": 2000}, "sampling.steps"),
        ({"autoencoder.l1_weight": 0.0, "autoencoder.perceptual_weight": 0.0}, "reconstructed"),
        ({"classifier.batch_size": 0}, "positive"),
        ({"classifier.learning_rate": -1.0}, "negative"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_impossible_combinations_are_refused_with_a_remedy(overrides, words):
    with pytest.raises(StudyError, match=words):
        load_profile("smoke", overrides)


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("classifier.steps", 0, "classifier.steps is 0: it must be positive"),
        ("diffusion.norm_groups", 0, "diffusion.norm_groups is 0: it must be positive"),
        ("text.heads", 0, "text.heads is 0: it must be positive"),
        ("classifier.threshold", 1.0, "classifier.threshold 1.0 is not between 0 and 1"),
        ("classifier.crop_fraction", 0.0, "classifier.crop_fraction 0.0 is not in (0, 1]"),
        ("text.dropout", 1.0, "text.dropout 1.0 is not in [0, 1)"),
        ("lesions.lesion_share", 1.5, "lesions.lesion_share 1.5 is not in [0, 1]"),
        ("curation.background_grey", 255, "curation.background_grey 255 is not in 1–254"),
        ("text.max_tokens", 39, "text.max_tokens 39 is shorter than the longest sentence: give 40 or more"),
        (
            "fidelity.subsample_share",
            0.4,
            "fidelity.subsample_share 0.4 is not in [0.5, 1): take half of the patients or more, not all",
        ),
        ("fidelity.features", "vgg", "fidelity.features 'vgg' is not inception, dsa-network, phase-network, dinov2 or radimagenet"),
        ("autoencoder.perceptual", "l2", "autoencoder.perceptual 'l2' is not lpips, phase-network or random (for benchmarks alone)"),
        ("precision", "fp8", "precision 'fp8' is not bf16, fp16, fp32 or auto"),
        ("classifier.jitter", -0.1, "classifier.jitter is -0.1: it cannot be negative"),
        ("classifier.jitter", float("nan"), "classifier.jitter is nan: it cannot be negative"),
        ("log_every_s", -1.0, "log_every_s is -1.0: it cannot be negative"),
        ("seed", -1, "seed is -1: it cannot be negative"),
    ],
)  # fmt: skip
def test_a_value_outside_its_limits_is_named_with_them(name, value, sentence):
    with pytest.raises(StudyError) as error:
        load_profile("smoke", {name: value})
    assert str(error.value) == f"profile smoke: {sentence}"


def test_digest_follows_the_named_sections_alone():
    base, other = load_profile("smoke"), load_profile("smoke", {"readers.bootstrap": 100})
    assert base.digest("diffusion", "text") == other.digest("diffusion", "text")
    assert base.digest() != other.digest()
    assert base.digest("diffusion") != load_profile("smoke", {"diffusion.batch_size": 4}).digest("diffusion")
    assert base.digest("diffusion") != load_profile("smoke", {"seed": 3}).digest("diffusion")


def test_profiles_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROFILES["paper"].diffusion.batch_size = 1
