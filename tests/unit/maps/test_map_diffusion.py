"""Mask + edge conditioning: edges, maps, their way to latent size, the network, loss, sampling keyed by seed, files."""

import numpy as np
import pytest
import torch

from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.ldm import autoencoder, diffusion, sampler, text
from dsa_lib.ldm.latents import posteriors
from dsa_lib.maps import map_diffusion
from dsa_lib.nn import training
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PAPER, load_profile

CLASSES = ("proximal", "medium", "peripheral")
PROFILE = load_profile("smoke", {"text.width": 16})


def test_edges_frame_a_bar_and_nothing_else():
    frame = np.full((1, 32, 32), 160, np.uint8)
    frame[0, :, 12:18] = 60
    found = map_diffusion.edges(frame, 1.0, 0.5, 1.25)[0]
    assert found.dtype == bool and found[8:24].any(axis=0)[[11, 12]].any() and found[8:24].any(axis=0)[[17, 18]].any()
    assert not found[:, :9].any() and not found[:, 21:].any()


def test_edge_thresholds_are_gradients_in_grey_levels_a_pixel():
    ramp = np.tile(np.clip(np.arange(40) * 3 - 30, 0, 60), (40, 1)).astype(np.uint8)[None]  # 3 grey levels a pixel
    assert map_diffusion.edges(ramp, 0.5, 1.0, 2.5)[0, 10:30].any()
    assert not map_diffusion.edges(ramp, 0.5, 3.5, 3.5)[0, 10:30].any()
    with pytest.raises(StudyError, match="not 0 < low ≤ high"):
        map_diffusion.edges(ramp, 1.0, 2.0, 1.0)


def test_only_annotated_classes_are_told_and_the_edges_come_last():
    labels = np.array([[[0, 1], [2, 3]]], np.uint8)
    boundaries = np.array([[[True, False], [False, True]]])
    maps = map_diffusion.condition_maps(labels, boundaries, ("proximal", "medium"), CLASSES)
    assert maps.dtype == np.float32
    assert maps[0].tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]], [[1, 0], [0, 1]]]
    assert map_diffusion.condition_maps(labels, None, ("peripheral",), CLASSES)[0].tolist() == [[[0, 0], [0, 1]]]
    with pytest.raises(StudyError, match="'distal' does not exist"):
        map_diffusion.condition_maps(labels, None, ("distal",), CLASSES)
    with pytest.raises(StudyError, match="no class is annotated"):
        map_diffusion.condition_maps(labels, None, (), CLASSES)
    with pytest.raises(StudyError, match="edges of shape"):
        map_diffusion.condition_maps(labels, boundaries[:, :1], ("proximal",), CLASSES)


def test_maps_made_batch_by_batch_are_the_same():
    rng = np.random.default_rng(0)
    labels, boundaries = rng.integers(0, 4, (5, 8, 8)).astype(np.uint8), rng.random((5, 8, 8)) < 0.2
    lazy = map_diffusion.ConditionMaps(labels, boundaries, ("proximal", "medium"), CLASSES)
    whole = map_diffusion.condition_maps(labels, boundaries, ("proximal", "medium"), CLASSES)
    assert lazy.shape == whole.shape and len(lazy) == 5
    rows = np.array([4, 1])
    assert np.array_equal(lazy[rows], whole[rows]) and np.array_equal(lazy[1:3], whole[1:3])


def test_edges_along_an_edit_are_withheld_or_redrawn_and_others_stay():
    before = np.zeros((1, 24, 24), np.uint8)
    before[0, :, 8:14] = 1
    edited = before.copy()
    edited[0, 10:14, 8:10] = edited[0, 10:14, 12:14] = 0  # narrowed to two pixels
    region = edited != before
    boundaries = np.zeros((1, 24, 24), bool)
    boundaries[0, :, [8, 13]] = True
    boundaries[0, :, 22] = True
    withheld = map_diffusion.edited_edges(boundaries, edited, region, "withheld")[0]
    assert not withheld[8:16, 5:17].any() and withheld[:4, [8, 13]].all() and withheld[:, 22].all()
    redrawn = map_diffusion.edited_edges(boundaries, edited, region, "redrawn")[0]
    assert redrawn[10:14, 10:12].all() and not redrawn[11:13, [8, 9, 12, 13]].any() and redrawn[:, 22].all()
    with pytest.raises(StudyError, match="withheld or redrawn, not 'kept'"):
        map_diffusion.edited_edges(boundaries, edited, region, "kept")


def test_unshuffled_maps_keep_every_pixel_and_means_do_not():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    kept = map_diffusion.to_latent(maps, 2, "unshuffle")
    assert kept.shape == (1, 4, 2, 2) and kept[0, :, 0, 1].tolist() == [2, 3, 6, 7]
    assert map_diffusion.to_latent(maps, 2, "area")[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    with pytest.raises(StudyError, match="do not divide"):
        map_diffusion.to_latent(maps, 3, "area")
    with pytest.raises(StudyError, match="is not unshuffle or area"):
        map_diffusion.to_latent(maps, 2, "nearest")


def small():
    torch.manual_seed(0)
    channels, side, _ = autoencoder.latent_shape(PROFILE.autoencoder)
    model = map_diffusion.build(PROFILE, 3, channels, side, PROFILE.autoencoder.image_size)
    return model, autoencoder.build_autoencoder(PROFILE.autoencoder), diffusion.noise_schedule(PROFILE.diffusion)


def data(vae, n=6):
    rng = np.random.default_rng(1)
    size = PROFILE.autoencoder.image_size
    labels = rng.integers(0, 4, (n, size, size)).astype(np.uint8)
    frames = (160 - 30 * labels).astype(np.uint8)
    sentences = [condition.sentence() for condition in CANONICAL.values()][: n - 1] + [""] * max(n - 4, 1)
    boundaries = map_diffusion.edges(frames, 1.0, 0.5, 1.25)
    maps = map_diffusion.ConditionMaps(labels, boundaries, ("proximal", "medium"), CLASSES)
    return frames, sentences[:n], maps


def test_a_training_step_sees_map_and_sentence_of_its_rows():
    _, vae, schedule = small()
    frames, sentences, maps = data(vae)
    mean, std = posteriors(vae, frames)
    assert mean.dtype == np.float16 and len(mean) == len(frames)
    rows = np.array([5, 2, 0])
    latents = diffusion.LatentSet(mean, std, 1.0, sentences, text.build_tokenizer(PROFILE.text.max_tokens), rows)
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, z_t, t, given):
            seen.append(given)
            return torch.zeros_like(z_t)

    loss = map_diffusion.training_loss(latents, maps, schedule, condition_dropout=0.0)
    draws = training.Draws(3, 0, range(2))
    value = loss(Spy(), np.array([0, 2]), draws)["loss"]
    assert torch.equal(seen[0]["maps"], torch.from_numpy(maps[np.array([5, 0])]))
    again = training.Draws(3, 0, range(2))
    z_0 = latents.latents(np.array([0, 2]), again.normal(*mean.shape[1:]))
    t = again.integers(1000, 1)[:, 0]
    noise = again.normal(*mean.shape[1:])
    target = noise if schedule.config.prediction_type == "epsilon" else schedule.get_velocity(z_0, noise, t)
    torch.testing.assert_close(value, target.square().mean())
    blind = map_diffusion.training_loss(latents, maps, schedule, condition_dropout=1.0)
    blind(Spy(), np.array([0, 2]), training.Draws(3, 0, range(2)))
    assert (seen[1]["tokens"]["attention_mask"].sum(1) == 2).all(), "the empty sentence is [CLS] [SEP]"


def test_an_image_hangs_on_its_map_and_seed_and_not_on_the_batch(tmp_path):
    model, vae, schedule = small()
    _, sentences, maps = data(vae)
    every = map_diffusion.generate(model, vae, maps[:3], sentences[:3], [7, 8, 9], 3, schedule, batch_size=3)
    alone = map_diffusion.generate(model, vae, maps[1:2], sentences[1:2], [8], 3, schedule)
    assert every.dtype == np.uint8 and every.shape == (3, 64, 64)
    assert np.abs(every[1].astype(int) - alone[0]).max() <= 1
    other = map_diffusion.generate(model, vae, maps[2:3], sentences[1:2], [8], 3, schedule)
    assert not np.array_equal(other[0], alone[0])
    for name in sampler.SAMPLERS:
        assert map_diffusion.generate(model, vae, maps[:1], [""], [1], 2, schedule, name=name).shape == (1, 64, 64)
    with pytest.raises(StudyError, match="give one of each"):
        map_diffusion.generate(model, vae, maps[:3], sentences[:2], [1, 2, 3], 3, schedule)
    map_diffusion.save(model, tmp_path / "ldm", {"channels": 3})
    loaded, facts = map_diffusion.load(tmp_path / "ldm")
    assert facts == {"channels": 3, "to_latent": "unshuffle"}
    weights, kept = model.state_dict(), loaded.state_dict()
    assert weights.keys() == kept.keys() and all(torch.equal(kept[name], weights[name]) for name in weights)
    # Equal weights elsewhere in memory: some processors then add in another order.
    again = map_diffusion.generate(loaded, vae, maps[1:2], sentences[1:2], [8], 3, schedule)
    assert np.abs(again.astype(int) - alone).max() <= 1
    with pytest.raises(StudyError, match="does not hold a denoiser"):
        map_diffusion.load(tmp_path)


def test_training_lowers_the_held_out_loss_and_goes_on_after_a_stop(tmp_path):
    model, vae, schedule = small()
    frames, sentences, maps = data(vae)
    mean, std = posteriors(vae, frames)
    latents = diffusion.LatentSet(mean, std, 1.0, sentences, text.build_tokenizer(PROFILE.text.max_tokens))
    loss = map_diffusion.training_loss(latents, maps, schedule, condition_dropout=0.5)
    validate = map_diffusion.validation_loss(latents, maps, schedule, 0, 0.0)
    with torch.no_grad():
        before = validate(model)["loss"]
    options = {"size": 6, "batch_size": 3, "learning_rate": 3e-3, "seed": 0, "digest": "x", "validate": validate}
    log = training.fit(model, loss, steps=12, evaluate_every=6, folder=tmp_path, **options)
    assert log["val_loss"].iloc[-1] < before
    with torch.no_grad():
        assert validate(model)["loss"] == pytest.approx(log["val_loss"].min(), rel=1e-5)


def test_paper_size_is_the_papers_network_with_more_channels_and_fits_a_gpu():
    channels, side, _ = autoencoder.latent_shape(PAPER.autoencoder)
    with torch.device("meta"):
        model = map_diffusion.build(PAPER, 3, channels, side, PAPER.autoencoder.image_size)
        z = torch.zeros(2, channels, side, side)
        joined = torch.cat(
            [z, map_diffusion.to_latent(torch.zeros(2, 3, 256, 256), side, PAPER.anatomy.to_latent)], dim=1
        )
        context = torch.zeros(2, 30, PAPER.text.width)
        assert model.unet(joined, torch.ones(2, dtype=torch.long), context).sample.shape == z.shape
    unet = sum(p.numel() for p in model.unet.parameters())
    assert unet == 499_587_203 + 3 * 16 * 9 * 224, "the map enters by the first convolution alone"
    state = (
        16 * sum(p.numel() for p in model.parameters()) + 4 * unet
    )  # weights, gradients, two Adam moments; the average
    assert state / 1e9 < 12
