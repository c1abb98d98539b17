"""The tokenizer and the sentence encoder: every angle can be written, padding says nothing, the empty sentence exists."""

import pytest
import torch

from dsa_lib.core.condition_sentences import CANONICAL, CIRCULATIONS, PLANES, Condition, Finding
from dsa_lib.ldm.text import EMPTY, build_encoder, build_tokenizer, encode, tokenize
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PROFILES, SMOKE


def test_every_condition_has_words_of_its_own_and_digits_are_tokens():
    """Angles that no training set holds too: nothing is [UNK], no two conditions share their tokens, and the angle can be read back."""
    tokenizer = build_tokenizer(SMOKE.text.max_tokens)
    angles = [(p, s) for p in range(-180, 181, 7) for s in (-179, -41, -6, 0, 33, 180)]
    conditions = [Condition(c, p, *pair) for c in CIRCULATIONS for p in PLANES for pair in angles]
    ids = [tuple(row) for row in tokenizer([condition.sentence() for condition in conditions])["input_ids"]]
    assert not any(tokenizer.unk_token_id in row for row in ids)
    assert len(set(ids)) == len({condition.sentence() for condition in conditions})
    assert max(map(len, ids)) <= min(profile.text.max_tokens for profile in PROFILES.values())
    words = tokenizer.convert_ids_to_tokens(tokenizer(Condition("anterior", "A", -137, 46).sentence())["input_ids"])
    assert "".join(words).count("angleof-137°") == 1 and "".join(words).count("angleof46°") == 1
    assert {"-", "1", "3", "7", "4", "6"} <= set(words) and "137" not in words


@torch.no_grad()
def test_a_sentence_is_encoded_alike_beside_a_longer_one():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    encoder = build_encoder(SMOKE.text, len(tokenizer)).eval()
    short, long = CANONICAL["AC A"].sentence(), Condition("anterior", "A", -137, -46).sentence()
    alone, both = tokenize(tokenizer, [short]), tokenize(tokenizer, [short, long])
    length = alone["input_ids"].shape[1]
    assert both["input_ids"].shape[1] > length and int(both["attention_mask"][0].sum()) == length
    states = encode(encoder, **alone)[0][0]
    assert torch.allclose(states, encode(encoder, **both)[0][0, :length], atol=1e-5)


def test_the_empty_sentence_is_two_marks():
    tokenizer = build_tokenizer()
    tokens = tokenize(tokenizer, [EMPTY, CANONICAL["AC A"].sentence()])
    assert tokenizer.convert_ids_to_tokens(tokens["input_ids"][0])[:3] == ["[CLS]", "[SEP]", "[PAD]"]
    assert int(tokens["attention_mask"][0].sum()) == 2


def test_only_a_tokenizer_with_words_for_findings_takes_them():
    sentence = Condition("anterior", "A", 0, 0, Finding("occlusion", "right", "middle cerebral artery")).sentence()
    plain, whole = build_tokenizer(), build_tokenizer(findings=True)
    with pytest.raises(StudyError, match="not trained on findings"):
        tokenize(plain, [sentence])
    ids = tokenize(whole, [sentence, CANONICAL["PC B"].sentence()])["input_ids"]
    assert whole.unk_token_id not in ids
    # The words before keep their places: an encoder of the plain grammar goes on with a longer embedding.
    assert torch.equal(
        tokenize(plain, [CANONICAL["PC B"].sentence()])["input_ids"],
        tokenize(whole, [CANONICAL["PC B"].sentence()])["input_ids"],
    )
