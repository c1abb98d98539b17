"""Sentences with lesions: the enlarged vocabulary, training and asking, the rates by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_peripheral import pipeline

from dsa_lib.core.condition_sentences import Condition, Finding
from dsa_lib.core.pairs import TranslationSet
from dsa_lib.ldm.text import build_encoder, build_tokenizer, encode, tokenize
from dsa_lib.lesions import lesion_requests as lesion_sentences
from dsa_lib.lesions.lesion_requests import asked_rows, confusion, enlarged, kinds_asked, rates, verdict
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import SMOKE

PLAIN = Condition("anterior", "A", 0, 0)
LEFT = Condition("anterior", "A", 0, 0, Finding("aneurysm", "left", "middle cerebral artery"))
RIGHT = Condition("anterior", "A", 0, 0, Finding("stenosis", "right", "middle cerebral artery"))
BASILAR = Condition("posterior", "B", -90, 0, Finding("occlusion", "", "basilar artery"))


def pairs(count=20) -> TranslationSet:
    rng = np.random.default_rng(0)
    conditions, kinds = [PLAIN, LEFT, RIGHT, BASILAR], ["", "aneurysm", "stenosis", "occlusion"]
    targets = rng.integers(60, 200, (count, 64, 64)).astype(np.uint8)
    lesions = np.zeros((count, 64, 64), bool)
    lesions[:, 20:26, 20:26] = np.array([bool(kinds[k % 4]) for k in range(count)])[:, None, None]
    return TranslationSet(
        targets[:, None], targets, lesions, np.array([kinds[k % 4] for k in range(count)]),
        np.array([f"p{k}" for k in range(count)]),
        np.array(["train" if k < count - 8 else "val" if k < count - 4 else "test" for k in range(count)]),
        np.array([conditions[k % 4].sentence() for k in range(count)]),
    )  # fmt: skip


def test_old_words_keep_their_meaning():
    """Whatever their numbers: what the encoder says of a plain sentence does not change, and embeddings are copied by word."""
    torch.manual_seed(0)
    old, new = build_tokenizer(), build_tokenizer(findings=True)
    encoder = build_encoder(SMOKE.text, len(old)).eval()
    larger = enlarged(encoder, old, new, seed=1)
    tables = [each.embeddings.word_embeddings.weight for each in (encoder, larger)]
    assert all(torch.equal(tables[0][n], tables[1][new.get_vocab()[word]]) for word, n in old.get_vocab().items())
    assert len(tables[1]) == len(new) > len(old)
    fresh = tables[1][[n for word, n in new.get_vocab().items() if word not in old.get_vocab()]]
    again = enlarged(encoder, old, new, seed=1).embeddings.word_embeddings.weight
    assert 0.01 < fresh.std() < 0.03 and torch.equal(tables[1], again)
    with torch.no_grad():
        said = [
            encode(each, **tokenize(reader, [PLAIN.sentence()]))[0] for each, reader in ((encoder, old), (larger, new))
        ]
    assert torch.equal(*said)
    with pytest.raises(StudyError, match="lacks"):
        enlarged(larger, new, old, 0)


def test_training_teaches_a_copy_and_lesions_can_be_asked_for(tmp_path):
    base, given = pipeline(), pairs()
    before = torch.cat([p.flatten() for p in base.unet.parameters()]).clone()
    profile = replace(SMOKE, lesion_sentences=replace(SMOKE.lesion_sentences, steps=2))
    able, log = lesion_sentences.train(base, given, profile, folder=tmp_path, digest="a", live=False)
    assert torch.equal(torch.cat([p.flatten() for p in base.unet.parameters()]), before) and "val_loss" in log
    with pytest.raises(StudyError, match="cannot be asked for"):
        base([LEFT], seeds=[0], num_inference_steps=2)
    assert able([LEFT], seeds=[0], num_inference_steps=2).shape == (1, 64, 64)
    images = lesion_sentences.generate(able, [LEFT.sentence(), PLAIN.sentence()], [3, 3], profile)
    assert images.shape == (2, 64, 64) and images.dtype == np.uint8


def test_what_is_asked_for_is_held_out_and_of_every_kind():
    given = pairs()
    rows = asked_rows(given, 5)
    assert set(given.part[rows]) <= {"val", "test"} and len(rows) == 5
    assert set(given.kinds[asked_rows(given, 4)]) == {"", "aneurysm", "stenosis", "occlusion"}
    assert kinds_asked(given.sentences[:4]).tolist() == ["none", "aneurysm", "stenosis", "occlusion"]
    nidus = Finding("arteriovenous malformation", "left", "middle cerebral artery")
    assert kinds_asked([replace(PLAIN, finding=nidus).sentence()])[0] == "AVM"


def test_rates_by_hand():
    asked = np.array(["none", "none", "aneurysm", "AVM"], object)
    named = np.array([0, 1, 1, 1])
    table = rates({"generated": (asked, named), "held-out": (asked, np.array([0, 0, 1, 4]))})
    overall = table.query("set == 'generated' and scope == 'overall'").iloc[0]
    assert (overall["images"], overall["named_right"], overall["rate"]) == (4, 2, 0.5)
    # Named: none once, aneurysm three times of four. Chance: two frames of none (1/4 each), one aneurysm (3/4), one AVM (0).
    assert overall["chance"] == pytest.approx((0.25 + 0.25 + 0.75 + 0) / 4)
    assert overall["low"] < 0.5 < overall["high"]
    assert set(table["scope"]) == {"overall", "none", "aneurysm", "AVM"}
    counts = confusion(asked, named)
    assert counts.loc["none"].tolist() == [1, 1, 0, 0, 0] and counts.to_numpy().sum() == 4
    told = verdict(table)
    assert "50% of 4 generated" in told and "not shown to be above chance" in told and "right in 100%" in told


def test_sides_of_a_frontal_frame():
    right_half, left_half = (np.full((64, 64), 150, np.uint8) for _ in range(2))
    right_half[20:40, 40:60], left_half[20:40, 5:25] = 60, 60
    empty = np.full((64, 64), 150, np.uint8)
    sentences = [
        LEFT.sentence(),
        LEFT.sentence(),
        RIGHT.sentence(),
        RIGHT.sentence(),
        PLAIN.sentence(),
        BASILAR.sentence(),
    ]
    found = lesion_sentences.injected_sides(
        np.stack([right_half, left_half, left_half, empty, left_half, left_half]), sentences
    )
    assert (found["images"], found["named_right"]) == (3, 2)


def test_a_verdict_without_real_frames():
    table = rates({"generated": (np.array(["none"] * 30, object), np.zeros(30, int))})
    assert "100% of 30" in verdict(table) and isinstance(table, pd.DataFrame)


def test_a_kind_that_the_judge_does_not_know_on_real_frames_is_not_decided():
    asked = np.array(["none"] * 30 + ["stenosis"] * 30, object)
    blind = np.array([0] * 60)  # says "none" whatever it sees
    told = verdict(rates({"generated": (asked, blind), "held-out": (asked, blind)}))
    assert "Not decidable" in told and "stenosis" in told and "Best kept" not in told
    able = np.array([0] * 30 + [2] * 30)
    told = verdict(rates({"generated": (asked, blind), "held-out": (asked, able)}))
    assert "Not decidable" not in told and "least stenosis (0%)" in told


def test_a_place_belongs_to_the_artery_whose_lesions_lie_nearest():
    given = pairs()
    given.lesions[:] = False
    given.lesions[1::4, 20:24, 40:44] = True  # aneurysms, left: at the right of a frontal frame
    given.lesions[2::4, 20:24, 10:14] = True  # stenoses, right
    given.lesions[3::4, 50:54, 30:34] = True
    known = lesion_sentences.known_places(given)
    assert len(known) == 3 and known.loc[known["side"] == "left", "column"].item() == pytest.approx(42 / 64)
    sentences = [LEFT.sentence(), RIGHT.sentence(), BASILAR.sentence(), LEFT.sentence()]
    at_left, at_right, low = (22 / 64, 42 / 64), (22 / 64, 12 / 64), (52 / 64, 32 / 64)
    found = lesion_sentences.located({"generated": np.array([at_left, at_right, low, at_right])}, sentences, known)
    found = found.set_index("scope")
    # Three frontal frames name a side, two of them where it lies; the artery is the middle cerebral or the basilar, right in all four.
    assert found.loc["side", ["images", "named_right"]].tolist() == [3, 2]
    assert found.loc["artery", ["images", "named_right"]].tolist() == [4, 4]
    assert found.loc["side", "chance"] == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)  # named: left once, right twice


def test_what_is_said_of_places_says_what_real_frames_give():
    row = {"images": 40, "named_right": 30, "rate": 0.75, "low": 0.6, "high": 0.86, "chance": 0.5}
    sure = pd.DataFrame([{"set": "generated", "scope": "side"} | row, {"set": "held-out", "scope": "side"} | row])
    assert "75% of 40 generated frames" in lesion_sentences.located_verdict(sure)
    assert lesion_sentences.located_verdict(sure).endswith("above chance.")
    blind = sure.assign(low=[0.6, 0.4])
    assert "not decidable" in lesion_sentences.located_verdict(blind)


def test_what_is_asked_for_is_shown_with_an_example_of_each_kind():
    table = lesion_sentences.asked_table([PLAIN.sentence(), RIGHT.sentence(), LEFT.sentence(), RIGHT.sentence()])
    assert table["images"].to_dict() == {"none": 1, "aneurysm": 1, "stenosis": 2}
    assert table.loc["stenosis", "example"] == RIGHT.sentence() and list(table.index) == [
        "none",
        "aneurysm",
        "stenosis",
    ]


def test_the_judge_is_asked_once_for_all_that_is_told(monkeypatch):
    """A judge that names an aneurysm in every frame, at the place of the left ones."""
    given = pairs()
    given.lesions[:] = False
    given.lesions[1::4, 20:24, 40:44] = True
    given.lesions[2::4, 20:24, 10:14] = True
    given.lesions[3::4, 50:54, 30:34] = True
    sizes = []

    def says(judge, frames, size):
        sizes.append(size)
        return np.tile([0.1, 0.6, 0.1, 0.1, 0.1], (len(frames), 1))

    monkeypatch.setattr(lesion_sentences.lesion_judge, "answers", says)
    monkeypatch.setattr(lesion_sentences.lesion_judge, "places", lambda judge, frames, kinds, size: np.full((len(frames), 2), (22 / 64, 42 / 64)))  # fmt: skip
    wanted = given.sentences[:4]
    frames = {"held-out": given.targets[:4], "generated": given.targets[4:8]}
    found = lesion_sentences.judged(None, 64, frames, wanted, lesion_sentences.known_places(given))
    assert sizes == [64, 64] and found.asked.tolist() == ["none", "aneurysm", "stenosis", "occlusion"]
    assert found.named["generated"].tolist() == [1] * 4
    overall = found.rates.query("scope == 'overall'").set_index("set")
    assert overall["named_right"].to_dict() == {"held-out": 1, "generated": 1}
    assert found.confusions()["generated"].loc["stenosis", "aneurysm"] == 1
    side = found.located.query("set == 'generated' and scope == 'side'").iloc[0]
    assert (side["images"], side["named_right"]) == (2, 1)  # of a left and a right lesion in frontal frames
    assert list(found.sides.index) == ["held-out", "generated"]
    assert found.verdict().startswith("The judge names") and "The side that was asked for" in found.verdict()
