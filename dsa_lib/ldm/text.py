"""The sentence encoder: a tokenizer built from the sentence grammar and a BERT trained from scratch (§4.4)."""

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from dsa_lib.core.condition_sentences import parse_sentence, sentence_words
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Text

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
EMPTY = ""  # the sentence that says nothing: [CLS] [SEP], what condition dropout trains on and guidance leads away from


def build_tokenizer(max_tokens: int = 64, findings: bool = False) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of the sentence grammar; digits and signs are tokens of their own, so that unseen angles can be written.

    `findings` adds the words of lesions, after all others: an encoder of the plain grammar is enlarged by rows at the end of its embedding.
    """
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *sentence_words(findings)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[A-Za-z]+|[^A-Za-z]"), behavior="isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def build_encoder(config: Text, vocabulary: int) -> BertModel:
    """BERT with `config.layers` layers of `config.width`, randomly initialised: nothing is pre-trained (§4.4).

    The pooling layer is always built, because `BertModel.from_pretrained` would otherwise add an untrained one; it is frozen where it is not used.
    """
    encoder = BertModel(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.width,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=config.max_tokens,
            type_vocab_size=1,
            pooled_context=config.pooled,
        )
    )
    encoder.pooler.requires_grad_(config.pooled)
    return encoder


def tokenize(tokenizer: PreTrainedTokenizerFast, sentences: list[str]) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, [n, tokens], padded to the longest.

    Raises StudyError for a sentence outside the grammar (EMPTY is in it), and for a finding where the tokenizer has no words for findings.
    """
    for sentence in set(sentences) - {EMPTY}:
        finding = parse_sentence(sentence).finding
        if finding is not None and tokenizer.unk_token_id in tokenizer(sentence)["input_ids"]:
            raise StudyError(
                f"this model was not trained on findings and cannot be asked for {finding.text()!r}: leave it out, or use a model that notebook 24 trained"
            )
    encoded = tokenizer(list(sentences), padding=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def encode(
    encoder: BertModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The context c of Eq. L_cond and its mask: the token sequence [n, tokens, width], or one pooled vector [n, 1, width] without a mask."""
    output = encoder(input_ids=input_ids, attention_mask=attention_mask)
    if encoder.config.pooled_context:
        return output.pooler_output[:, None], None
    return output.last_hidden_state, attention_mask
