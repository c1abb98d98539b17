"""The table of notebook 23 by hand, which pairs are scored and shown, and the one-step estimate's error over time."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.fidelity.extractor import Extractor
from dsa_lib.ldm.autoencoder import build_autoencoder, to_frames
from dsa_lib.ldm.diffusion import noise_schedule
from dsa_lib.lesions import lesion_scores, translation
from dsa_lib.nn.training import Draws
from dsa_lib.run.profiles import SMOKE


def pairs(patients=("a", "a", "a", "b", "b", "c"), size=32):
    n = len(patients)
    rng = np.random.default_rng(0)
    lesions = np.zeros((n, size, size), bool)
    for row in range(0, n, 2):
        lesions[row, 2 : 4 + row, 2:8] = True
    return TranslationSet(
        sources=rng.integers(0, 255, (n, 1, size, size)).astype(np.uint8),
        targets=np.full((n, size, size), 100, np.uint8),
        lesions=lesions,
        kinds=np.where(lesions.any((1, 2)), "AVM", ""),
        patients=np.array(patients),
        part=np.full(n, "test"),
        sentences=np.full(n, ""),
    )


def test_errors_by_hand_become_cells_and_published_ones_stay_empty():
    given = pairs()
    off = given.targets + np.where(given.lesions, 8, 2).astype(np.uint8)
    scores = lesion_scores.of_images(given, {"cLDM": given.targets + np.uint8(4), "cLDM-PT": off})
    assert list(scores.groupby("model", sort=False)["mae"].mean().index) == ["cLDM", "cLDM-PT"]
    assert scores.loc[scores["model"] == "cLDM", "mae"].eq(4).all()
    assert scores.loc[scores["model"] == "cLDM-PT", "lesion_mae"].dropna().eq(8).all()
    table = lesion_scores.table(scores)
    found = lesion_scores.contract(table, {"cLDM": 0.5}, "DSA-feature distance", "phantom")
    assert list(found.columns) == ["row", "column", "published", "this_run", "source"]
    assert found["published"].isna().all()
    wide = found.pivot(index="row", columns="column", values="this_run")
    assert wide.loc["cLDM", "MAE"] == 4 and wide.loc["cLDM-PT", "lesion MAE"] == 8
    assert wide.loc["cLDM", "DSA-feature distance"] == 0.5 and np.isnan(wide.loc["cLDM-PT", "DSA-feature distance"])
    assert (found["source"].eq("phantom") == found["this_run"].notna()).all()
    assert lesion_scores.shown(table).loc["cLDM", "MAE"] == "4.000 ± 0.000"


def test_distances_are_between_the_true_and_the_made_images():
    given = pairs()
    extractor = Extractor("mean", "d", lambda frames: frames.reshape(len(frames), -1)[:, :2].astype(np.float32))
    found = lesion_scores.distances(given, {"same": given.targets, "off": given.targets + np.uint8(3)}, extractor)
    assert found["same"] == pytest.approx(0, abs=1e-8) and found["off"] == pytest.approx(2 * 3**2, rel=1e-6)
    assert np.isnan(lesion_scores.distances(given.at(np.array([0])), {"same": given.targets[:1]}, extractor)["same"])


def test_patients_take_turns_in_what_is_scored():
    given = pairs()
    assert lesion_scores.sampled_rows(given, "test", 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert lesion_scores.sampled_rows(given, "test", 3).tolist() == [0, 3, 5]
    assert lesion_scores.sampled_rows(given, "test", 5).tolist() == [0, 1, 3, 4, 5]


def test_pairs_are_counted_by_kind_and_part():
    counted = lesion_scores.counts(replace(pairs(), part=np.array(["train"] * 3 + ["test"] * 3)))
    assert list(counted.columns) == ["train", "val", "test"] and counted["val"].eq(0).all()
    assert counted["train"].to_dict() == {"AVM": 2, "no lesion": 1} and counted["test"].sum() == 3


def test_a_figure_shows_every_kind_and_a_pair_without_lesion_last():
    given = pairs()
    rows = lesion_scores.panel_rows(given)
    assert [given.kinds[row] for row in rows] == ["AVM", ""]
    assert len(lesion_scores.panel_rows(given, each=2)) == 4


def test_the_estimate_is_the_autoencoder_s_image_at_first_and_noise_hurts_a_denoiser_that_does_nothing():
    profile = replace(SMOKE, lesions=replace(SMOKE.lesions, base_channels=8))
    torch.manual_seed(0)
    vae = build_autoencoder(replace(profile.autoencoder, image_size=32, block_channels=(8, 16, 16)))
    data = translation.Pairs(pairs(), vae, "unshuffle")
    model = translation.build(profile, 1, 3, 8)
    last = model.unet.conv_out
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    model.unet.conv_in = torch.nn.Conv2d(3 + 16, model.unet.conv_in.out_channels, 3, padding=1)
    schedule = noise_schedule(replace(profile.diffusion, prediction="v_prediction"))
    when = translation.times(1000, 3)
    assert when.tolist() == [1, 500, 1000]
    curve = translation.curve(model, data, vae, schedule, when, seed=1)
    assert isinstance(curve, pd.DataFrame) and curve["t"].tolist() == [1, 500, 1000]
    assert np.isfinite(curve[["mae", "lesion_mae"]].to_numpy()).all()
    (first, frame), *_, (at_end, _) = translation.examples(model, data, vae, schedule, curve["t"], seed=1, count=2)
    assert (first, at_end) == (1, 1000) and frame.shape == (32, 32)
    # The network says v = 0, so that the estimate is √ᾱ z_t: at t = 1 the latent as it is nearly, the autoencoder's own image; at T nothing of it is left.
    rows = np.array([0, 1])
    made = translation.estimates(model, data, rows, vae, schedule, 1, seed=1)
    draws = Draws(1, 0, range(2))
    z_0 = data.latents.latents(rows, draws.normal(*data.latents.mean.shape[1:]))
    with torch.no_grad():
        own = to_frames(vae.decode(z_0 / vae.config.scaling_factor).sample)
    assert np.abs(made.astype(int) - own).mean() < 3
    last = translation.estimates(model, data, rows, vae, schedule, 1000, seed=1)
    with torch.no_grad():
        empty = to_frames(vae.decode(torch.zeros_like(z_0)).sample)
    assert np.abs(last.astype(int) - empty).mean() < 3 < np.abs(own.astype(int) - empty).mean()
