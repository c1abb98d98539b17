"""Post-training of the text-conditioned model with peripheral arteries as the lesion: training, its control, and the comparison by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dsa_lib.core.condition_sentences import CANONICAL, CELLS
from dsa_lib.ldm.autoencoder import build_autoencoder
from dsa_lib.ldm.diffusion import LatentSet, build_unet, noise_schedule
from dsa_lib.ldm.pipeline import DSAPipeline
from dsa_lib.ldm.sampler import make_scheduler
from dsa_lib.ldm.text import build_encoder, build_tokenizer
from dsa_lib.lesions import peripheral
from dsa_lib.lesions.peripheral import AFTER, AREA, BEFORE, CONTRAST, CONTROL, DISTANCE, RATE, Looked
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import SMOKE

PROFILE = replace(
    SMOKE, peripheral=replace(SMOKE.peripheral, latest=1.0, steps=3, batch_size=2, bootstrap=50, distance_bootstrap=5)
)


def pipeline():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    return DSAPipeline(
        build_autoencoder(SMOKE.autoencoder),
        build_unet(SMOKE.diffusion, 3, 16, SMOKE.text.width),
        make_scheduler("ddim", noise_schedule(SMOKE.diffusion)),
        build_encoder(SMOKE.text, len(tokenizer)),
        tokenizer,
        condition_dropout=0.1,
    )


def training_set(tokenizer):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(6, 3, 16, 16)).astype(np.float16)
    sentences = [CANONICAL[CELLS[k % 4]].sentence() for k in range(6)]
    frames = rng.integers(90, 180, (6, 64, 64)).astype(np.uint8)
    return LatentSet(mean, np.full_like(mean, 0.1), 1.0, sentences, tokenizer), frames, frames < 100


def weights(pipe):
    return torch.cat([p.detach().flatten() for p in (*pipe.unet.parameters(), *pipe.text_encoder.parameters())])


def test_training_changes_a_copy_and_the_control_is_another(tmp_path):
    base = pipeline()
    data, frames, masks = training_set(base.tokenizer)
    before, found = weights(base), {}
    for name, in_images in (("control", False), ("after", True)):
        where = {"folder": tmp_path / name, "digest": name, "live": False}
        found[name], log = peripheral.train(base, data, frames, masks, PROFILE, in_images=in_images, **where)
        assert ("train_lesion" in log) == in_images
    assert torch.equal(weights(base), before)
    assert not torch.equal(weights(found["control"]), before)
    assert not torch.equal(weights(found["control"]), weights(found["after"]))
    asked = peripheral.plan(2, 0)
    images = peripheral.generate(found["after"], asked, PROFILE.sampling)
    assert images.shape == (8, 64, 64) and images.dtype == np.uint8
    with pytest.raises(StudyError, match="shares its decoder"):
        open_decoder = replace(PROFILE, post_training=replace(PROFILE.post_training, decoder_trained=True))
        peripheral.train(base, data, frames, masks, open_decoder, in_images=True, **where)


def test_the_arms_are_the_model_as_it_is_its_control_and_the_post_trained_one(tmp_path):
    base = pipeline()
    data, frames, masks = training_set(base.tokenizer)
    profile = replace(PROFILE, peripheral=replace(PROFILE.peripheral, steps=1))
    folders = {name: tmp_path / name for name in (CONTROL, AFTER)}
    arms = peripheral.arms(base, data, frames, masks, profile, folders=folders, digest="a")
    assert list(arms) == [BEFORE, CONTROL, AFTER] and arms[BEFORE] is base
    assert not torch.equal(weights(arms[CONTROL]), weights(arms[AFTER]))


def test_every_arm_is_asked_for_the_same():
    asked = peripheral.plan(3, 5)
    assert len(asked) == 12 and asked.groupby("cell")["seed"].apply(tuple).nunique() == 1
    assert asked.equals(peripheral.plan(3, 5)) and not asked.equals(peripheral.plan(3, 6))


def test_area_and_contrast_of_a_drawn_artery():
    frame = np.full((128, 128), 150, np.uint8)
    frame[40:43, 20:100] = 130
    classes = np.where(frame == 130, peripheral.PERIPHERAL, 0).astype(np.uint8)
    empty = np.full((128, 128), 150, np.uint8)
    found = peripheral.look(
        np.stack([frame, empty]), np.array(["AC A", "PC B"]), np.arange(2),
        lambda frames, what: np.stack([classes, np.zeros_like(classes)]),
        lambda frames: frames.reshape(2, -1)[:, :4].astype(np.float32), lambda frames: np.array(["AC A", "AC B"]), "two",
    )  # fmt: skip
    assert found.values[AREA].tolist() == pytest.approx([3 * 80 / 128**2, 0])
    assert found.values.loc[0, CONTRAST] == pytest.approx(20, abs=6) and np.isnan(found.values.loc[1, CONTRAST])
    assert found.values[RATE].tolist() == [1.0, 0.0]


def looked(area, shift=0.0, groups=4):
    """Four conditions, `groups` images each, of one area; features about `shift`."""
    cells = np.repeat(CELLS, groups)
    rng = np.random.default_rng(1)
    values = pd.DataFrame({AREA: area, CONTRAST: 10.0, RATE: 1.0}, index=range(len(cells)))
    return Looked(values, (rng.normal(size=(len(cells), 3)) + shift), cells, np.tile(np.arange(groups), 4))


def test_comparison_by_hand():
    arms = {BEFORE: looked(0.02, 1.0), AFTER: looked(0.03, 0.0)}
    table = peripheral.compare(arms, looked(0.04), PROFILE.peripheral, 0, BEFORE).set_index(["arm", "measure"])
    assert table.loc[(BEFORE, AREA), "value"] == pytest.approx(0.5)
    after = table.loc[(AFTER, AREA)]
    assert after["value"] == pytest.approx(0.75) and after["change"] == pytest.approx(0.25)
    assert (after["change_low"], after["change_high"]) == pytest.approx((0.25, 0.25))  # all images alike
    assert table.loc[(BEFORE, DISTANCE), "value"] == pytest.approx(3.0)  # a shift by (1, 1, 1), equal covariances
    assert table.loc[(AFTER, DISTANCE), "value"] == pytest.approx(0.0, abs=1e-6)
    assert table.loc[(AFTER, DISTANCE), "change_high"] < 0
    told = peripheral.statement(table.reset_index(), BEFORE)
    assert any("Peripheral area" in text and "0.750 post-trained" in text and "it rises" in text for text in told)
    assert any("Peripheral contrast" in text and "no change is shown" in text for text in told)


def test_the_control_is_what_is_compared_with():
    with pytest.raises(StudyError, match="no arm 'trained on'"):
        peripheral.compare({BEFORE: looked(0.02)}, looked(0.04), PROFILE.peripheral, 0)


def test_an_interval_holds_the_spread_of_the_seeds():
    rng = np.random.default_rng(0)
    arms = {BEFORE: looked(0.02), AFTER: looked(0.02)}
    arms[AFTER].values[AREA] += rng.normal(0, 0.01, 16)
    row = (
        peripheral.compare(arms, looked(0.04), PROFILE.peripheral, 0, BEFORE)
        .query("arm == @AFTER and measure == @AREA")
        .iloc[0]
    )
    assert row["change_low"] < row["change"] < row["change_high"]


def test_only_frames_in_which_the_arteries_are_filled_are_learned_from():
    frames = pd.DataFrame(
        {
            "frame_id": [30, 31, 32, 10, 11, 12],
            "series": list("aaabbb"),
            "frame": [0, 1, 2] * 2,
            "probability": [0.5, 0.95, 1.0, 0.99, 1.0, 0.2],
            "split": ["train"] * 6,
        }
    )
    settings = replace(PROFILE.anatomy, frames_per_series=1, least_share=0.9)
    assert peripheral.filled_rows(frames, settings, 10).tolist() == [2, 4]
    halves = frames.assign(split=["train"] * 3 + ["val"] * 3)
    assert peripheral.filled_rows(halves, settings, 10).tolist() == [2]
    assert peripheral.filled_rows(halves, settings, 10, ("val", "test")).tolist() == [4]


def test_depth_of_a_mask_is_the_contrast_of_what_it_covers():
    frame = np.full((64, 64), 150, np.uint8)
    frame[:, 30:32] = 140
    there, beside = np.zeros((2, 64, 64), bool)
    there[:, 30:32], beside[:, 50:52] = True, True
    found = peripheral.mask_depths(np.stack([frame] * 3), np.stack([there, beside, np.zeros((64, 64), bool)]))
    assert found[0] == pytest.approx(10, abs=0.5) and found[1] == pytest.approx(0, abs=0.5) and np.isnan(found[2])
