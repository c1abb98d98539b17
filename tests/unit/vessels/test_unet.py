"""The vessel network: shapes, augmentation that moves frame and labels alike, training on two frames to the point, files, refusals, the shipped weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dsa_lib.nn.training import Draws
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PHANTOM, SMOKE
from dsa_lib.vessels import overlap
from dsa_lib.vessels import unet as vessel_unet

SMALL = replace(
    SMOKE.plausibility, network_channels=(8, 8, 16, 16, 16, 8), network_size=64, network_crop=64, network_steps=120, network_batch=4,
    network_learning_rate=1e-2,
)  # fmt: skip
SHIPPED = pytest.mark.skipif(not (vessel_unet.FOLDER / "card.json").exists(), reason="no weights in models/vessels")


def crosses(n: int = 2, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Frames with a wide and a narrow dark bar, and their classes."""
    rng = np.random.default_rng(0)
    frames = rng.normal(162, 1, (n, side, side))
    classes = np.zeros((n, side, side), np.uint8)
    for index in range(n):
        row, column = 12 + 10 * index, 20 + 12 * index
        frames[index, :, column : column + 2] -= 25
        classes[index, :, column : column + 2] = 3
        frames[index, row : row + 5, :] = 80
        classes[index, row : row + 5, :] = 1
    return frames.round().astype(np.uint8), classes


def trained(tmp_path, settings=SMALL, **more):
    frames, classes = crosses()
    return vessel_unet.train(frames, classes, settings, seed=1, folder=tmp_path / "fit", digest="a", **more)


def test_two_frames_are_learnt(tmp_path, monkeypatch):
    for name, value in {"SCALE": (1.0, 1.0), "TURN": 0.0, "MIRRORED": 0.0}.items():
        monkeypatch.setattr(vessel_unet, name, value)
    model, history = trained(tmp_path)
    frames, classes = crosses()
    found = vessel_unet.segment(model, frames, 64)
    dice = overlap.ratio(overlap.counts(found, classes).sum(axis=0))
    assert dice[0] > 0.95 and dice[1] > 0.95 and dice[3] > 0.9
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]


def test_validation_chooses_and_a_training_goes_on(tmp_path):
    model, history = trained(tmp_path, replace(SMALL, network_steps=8), validation=crosses())
    assert history["val_loss"].notna().any()
    again, _ = trained(
        tmp_path, replace(SMALL, network_steps=8), validation=crosses()
    )  # finished: taken up, not trained anew
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frame_and_labels_are_moved_alike():
    """A label map in place of the frame comes out where its labels do."""
    classes = torch.from_numpy(crosses(4)[1])[:, None]
    x, labels = vessel_unet.augment((classes > 0).float(), classes, Draws(0, 3, range(4)), 48)
    assert x.shape == labels.shape == (4, 1, 48, 48)
    for image, label in zip(x[:, 0], labels[:, 0] > 0, strict=True):
        assert image[label].mean() - image[~label].mean() > 0.3
    assert set(labels.unique().tolist()) <= {0.0, 1.0, 3.0}
    same, _ = vessel_unet.augment((classes > 0).float(), classes, Draws(0, 3, range(4)), 48)
    assert torch.equal(x, same)


def test_the_background_grey_does_not_matter_and_sizes_are_kept():
    torch.manual_seed(0)
    model = vessel_unet.build(SMALL).eval()
    frames, _ = crosses()
    assert np.array_equal(vessel_unet.segment(model, frames, 64), vessel_unet.segment(model, frames - 40, 64))
    large = np.repeat(np.repeat(frames, 2, 1), 2, 2)
    assert vessel_unet.segment(model, large, 64).shape == large.shape
    assert vessel_unet.segment(model, frames[:, :32, :32].copy(), 64).shape == (2, 32, 32)
    # Batches do not mix: one by one gives the same.
    alone = np.concatenate([vessel_unet.segment(model, frame[None], 64) for frame in frames])
    assert np.array_equal(alone, vessel_unet.segment(model, frames, 64))


def test_saved_and_loaded_it_says_the_same(tmp_path):
    torch.manual_seed(0)
    model = vessel_unet.build(SMALL).eval()
    card = vessel_unet.save(model, tmp_path / "net", {"size": 64, "patients": []})
    loaded, read = vessel_unet.load(tmp_path / "net")
    assert read == card and tuple(card["channels"]) == SMALL.network_channels
    x = vessel_unet.to_input(crosses()[0], 64)
    with torch.no_grad():
        assert torch.allclose(model(x), loaded.cpu()(x), atol=2e-2)
    with pytest.raises(StudyError, match="lacks patients"):
        vessel_unet.save(model, tmp_path / "other", {"size": 64})
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    with pytest.raises(StudyError, match="the vessel network holds weights beyond half precision"):
        vessel_unet.save(model, tmp_path / "other", {"size": 64, "patients": []})


def test_damaged_and_missing_files_are_named(tmp_path):
    vessel_unet.save(vessel_unet.build(SMALL), tmp_path / "net", {"size": 64, "patients": []})
    weights = tmp_path / "net" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"xx")
    with pytest.raises(StudyError, match="not those that their card"):
        vessel_unet.load(tmp_path / "net")
    (tmp_path / "net" / "card.json").write_text("{")
    with pytest.raises(StudyError, match="does not hold a vessel network"):
        vessel_unet.load(tmp_path / "net")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f, c: (f, c[:, :32]), "label maps of shape"),
        (lambda f, c: (f, c + 3), "up to 6"),
        (lambda f, c: (f, c.astype(np.int64)), "int64"),
        (lambda f, c: (f, np.zeros_like(c)), "no label map holds a vessel"),
        (lambda f, c: (f.astype(float), c), "8-bit grey"),
        (lambda f, c: (f[:0], c[:0]), "at least 1"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(tmp_path, spoil, said):
    with pytest.raises(StudyError, match=said):
        vessel_unet.train(*spoil(*crosses()), SMALL, seed=0, folder=tmp_path, digest="a")


def test_a_patient_whom_the_network_has_seen_is_an_error():
    vessel_unet.check_unseen(["PHANTOM-2-0001"], {"patients": ["PHANTOM-1-0001"]})
    with pytest.raises(StudyError, match="PHANTOM-1-0001"):
        vessel_unet.check_unseen(["PHANTOM-2-0001", "PHANTOM-1-0001"], {"patients": ["PHANTOM-1-0001"]})


@SHIPPED
def test_the_shipped_weights_are_small_load_and_have_seen_no_patient_of_the_default_archive():
    files = list(vessel_unet.FOLDER.rglob("*"))
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 3 * 2**20
    _, card = vessel_unet.load()
    assert card["size"] == PHANTOM.plausibility.network_size and len(card["patients"]) > 50
    assert tuple(card["channels"]) == PHANTOM.plausibility.network_channels
    for profile in (PHANTOM, SMOKE):
        vessel_unet.check_unseen(plan_archive(profile.archive, profile.seed)["patient_id"], card)
    weights = json.loads((vessel_unet.FOLDER.parent / "phantom" / "card.json").read_text())
    assert not set(card["patients"]) & set().union(*weights["patients"].values())


@SHIPPED
def test_the_shipped_network_finds_a_phantom_artery_and_nothing_in_noise():
    model, card = vessel_unet.load()
    noise = np.random.default_rng(0).normal(162, 1.5, (2, 128, 128)).round().astype(np.uint8)
    assert (vessel_unet.segment(model, noise, card["size"]) > 0).mean() < 1e-3
    frame = noise[0].copy()
    for row in range(40, 128):
        frame[row, 60 + (row // 20) : 64 + (row // 20)] = 90
    found = vessel_unet.segment(model, frame[None], card["size"])[0]
    inside = np.abs(frame.astype(int) - 90) < 1
    assert (found[inside] > 0).mean() > 0.9 and (found[~inside] > 0).mean() < 0.02
