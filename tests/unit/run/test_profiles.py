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


def test_digest_follows_the_named_sections_alone():
    base, other = load_profile("smoke"), load_profile("smoke", {"readers.bootstrap": 100})
    assert base.digest("diffusion", "text") == other.digest("diffusion", "text")
    assert base.digest() != other.digest()
    assert base.digest("diffusion") != load_profile("smoke", {"diffusion.batch_size": 4}).digest("diffusion")
    assert base.digest("diffusion") != load_profile("smoke", {"seed": 3}).digest("diffusion")


def test_profiles_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROFILES["paper"].diffusion.batch_size = 1
