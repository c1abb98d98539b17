"""The judge of lesions: what it learns from, its losses by hand, files, and whom it may judge."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.lesions import judge as lesion_judge
from dsa_lib.lesions.judge import KINDS, UNKNOWN, Judge, answers, check_unseen, labels, load, losses, save, train
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters_extensions import LesionSentences

SHIPPED = pytest.mark.skipif(
    not (lesion_judge.FOLDER / "card.json").exists(), reason="no weights in models/lesion_judge"
)
CHANNELS = (8, 8, 8, 8, 8, 8)
SETTINGS = replace(
    LesionSentences(), judge_channels=CHANNELS, judge_size=32, judge_steps=150, judge_batch=8, judge_learning_rate=5e-3
)


def pairs(count=48) -> TranslationSet:
    """Frames with a dark disc (an aneurysm, here) or a broad dark block (an AVM), or nothing."""
    rng = np.random.default_rng(0)
    frames = np.clip(150 + 3 * rng.normal(size=(count, 32, 32)), 0, 255).astype(np.uint8)
    masks, kinds = np.zeros((count, 32, 32), bool), np.array(["", "aneurysm", "AVM"])[np.arange(count) % 3]
    for n, kind in enumerate(kinds):
        row, column = rng.integers(8, 16, 2)
        side = {"": 0, "aneurysm": 3, "AVM": 10}[kind]
        masks[n, row : row + side, column : column + side] = True
        frames[n][masks[n]] = 70
    part = np.array(["train" if n < 36 else "val" if n < 42 else "test" for n in range(count)])
    whose = np.array([f"p{n}" for n in range(count)])
    return TranslationSet(frames[:, None], frames, masks, kinds, whose, part, np.full(count, ""))


def test_losses_by_hand():
    image = torch.tensor([[0.0, 0, 0, 0, 0], [0, np.log(4), 0, 0, 0]])
    pixels = torch.zeros(2, 4, 2, 2)
    masks = torch.zeros(2, 1, 2, 2)
    masks[1, 0, 0, 0] = 1
    found = losses(image, pixels, torch.tensor([0, 1]), masks)
    # log 5 for even scores; e^s = 4 against four of 1: log 2. Each of 32 pixel terms costs log 2, the one inside twenty times.
    assert float(found["named"]) == pytest.approx((np.log(5) + np.log(2)) / 2)
    assert float(found["where"]) == pytest.approx(np.log(2) * (31 + 20) / 32)
    assert float(losses(image, pixels, torch.tensor([0, UNKNOWN]), masks)["named"]) == pytest.approx(np.log(5))
    assert float(losses(image, pixels, torch.tensor([UNKNOWN, UNKNOWN]), masks)["named"]) == 0


def test_it_learns_to_name_what_is_there(tmp_path):
    given = pairs()
    model, log = train(given, SETTINGS, seed=0, folder=tmp_path, digest="a", live=False)
    test = given.rows("test")
    found = answers(model, given.targets[test], 32)
    assert found.shape == (6, 5) and found.sum(axis=1) == pytest.approx(np.ones(6))
    assert (found.argmax(axis=1) == labels(given.kinds[test])).mean() > 0.8 and "val_named right" in log
    ill = test[given.kinds[test] != ""]
    middles = np.array([np.argwhere(given.lesions[n]).mean(axis=0) + 0.5 for n in ill]) / 32
    where = lesion_judge.places(model, given.targets[ill], given.kinds[ill], 32, batch_size=3)
    assert np.abs(where - middles).max() < 0.2  # within the block, of which it is the middle
    with pytest.raises(StudyError, match="has no place"):
        lesion_judge.places(model, given.targets[test], given.kinds[test], 32)


def test_names():
    assert labels(np.array(["", "AVM", "stenosis"])).tolist() == [0, 4, 2]
    with pytest.raises(StudyError, match="no lesion 'infarct'"):
        labels(np.array(["infarct"]))


def test_files_and_patients(tmp_path):
    model = Judge(CHANNELS).eval()
    card = save(model, tmp_path / "judge", {"size": 32, "channels": list(CHANNELS), "patients": ["p1"]})
    again, read = load(tmp_path / "judge")
    frames = pairs(6).targets
    assert np.abs(answers(again.cpu(), frames, 32) - answers(model, frames, 32)).max() < 0.02 and read == card
    check_unseen(["p2"], read)
    with pytest.raises(StudyError, match=r"1 patients .*p1"):
        check_unseen(np.array(["p1", "p2"]), read)
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(StudyError, match="not those that"):
        load(tmp_path / "judge")
    with pytest.raises(StudyError, match="lacks patients"):
        save(model, tmp_path / "other", {"size": 32, "channels": []})
    with pytest.raises(StudyError, match="does not hold a lesion judge"):
        load(tmp_path)


@SHIPPED
def test_the_shipped_judge_opens():
    model, card = load()
    frames = np.full((2, 128, 128), 150, np.uint8)
    assert answers(model, frames, card["size"]).shape == (2, len(KINDS)) and card["patients"]
