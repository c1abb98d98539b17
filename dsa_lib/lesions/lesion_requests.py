"""Sentences that name a lesion: the text-conditioned model learns them from frames with lesions, is asked for them, and an independent judge looks.

The grammar has findings ("…, showing an aneurysm of the left middle cerebral artery."). The encoder of the plain grammar gets the further words, and both
networks go on from what the run taught them.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import BertModel, PreTrainedTokenizerFast

from dsa_lib.core.condition_sentences import SeenConditions, parse_sentence
from dsa_lib.core.pairs import TranslationSet
from dsa_lib.core.statistics import wilson_interval
from dsa_lib.ldm import diffusion
from dsa_lib.ldm.latents import posteriors
from dsa_lib.ldm.pipeline import DSAPipeline, in_batches
from dsa_lib.ldm.text import build_tokenizer
from dsa_lib.lesions import judge as lesion_judge
from dsa_lib.lesions.judge import KINDS, Judge
from dsa_lib.nn.training import fit, run_options
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Profile

OVERALL = "overall"
SCOPES = ("side", "artery")  # of a lesion's place
FIELD_MIDDLE = 0.5  # of the frame's width
LEAST_DARK = 12.0  # grey levels below the frame's median: contrast, of which the injected side is read


def enlarged(
    encoder: BertModel, tokenizer: PreTrainedTokenizerFast, larger: PreTrainedTokenizerFast, seed: int
) -> BertModel:
    """A copy of `encoder` that reads the vocabulary of `larger`: words of `tokenizer` keep their embeddings, whatever their number; new ones are random.

    Raises StudyError where `larger` lacks a word of `tokenizer`.
    """
    old, new = tokenizer.get_vocab(), larger.get_vocab()
    if absent := sorted(set(old) - set(new)):
        raise StudyError(f"the larger vocabulary lacks {absent[0]!r}: build both tokenizers from one grammar")
    config = copy.deepcopy(encoder.config)
    config.vocab_size = len(new)
    found = BertModel(config)
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    name = "embeddings.word_embeddings.weight"
    known = weights[name]
    rows = torch.empty(len(new), known.shape[1])
    nn.init.normal_(rows, std=config.initializer_range, generator=torch.Generator().manual_seed(seed))
    for word, number in old.items():
        rows[new[word]] = known[number].float()
    weights[name] = rows.to(known.dtype)
    found.load_state_dict(weights)
    for parameter, like in zip(found.parameters(), encoder.parameters(), strict=True):
        parameter.requires_grad_(like.requires_grad)
    return found.to(encoder.dtype).eval()


def latents(
    vae: AutoencoderKL, pairs: TranslationSet, tokenizer: PreTrainedTokenizerFast, part: str
) -> diffusion.LatentSet:
    """Posteriors of the target frames of `part`, with their sentences, as the diffusion trains on them."""
    rows = pairs.rows(part)
    mean, std = posteriors(vae, pairs.targets, rows, np.float32)
    sentences = [str(sentence) for sentence in pairs.sentences[rows]]
    return diffusion.LatentSet(mean, std, vae.config.scaling_factor, sentences, tokenizer)


def train(
    pipeline: DSAPipeline, pairs: TranslationSet, profile: Profile, *, folder: Path, digest: str, **options
) -> tuple[DSAPipeline, pd.DataFrame]:
    """Go on from `pipeline`, which stays as it is, with the target frames of `pairs` and their sentences. Returns (pipeline that knows findings, log).

    `options` go to `training.fit`. The same call continues a training that was broken off.
    """
    config = profile.lesion_sentences
    tokenizer = build_tokenizer(profile.text.max_tokens, findings=True)
    encoder = enlarged(pipeline.text_encoder, pipeline.tokenizer, tokenizer, profile.seed)
    model = diffusion.ConditionalDenoiser(copy.deepcopy(pipeline.unet), encoder)
    schedule = diffusion.noise_schedule(profile.diffusion)
    data = {part: latents(pipeline.vae, pairs, tokenizer, part) for part in ("train", "val")}
    log = fit(
        model,
        diffusion.training_loss(
            data["train"],
            schedule,
            min_snr_gamma=profile.diffusion.min_snr_gamma,
            condition_dropout=profile.diffusion.condition_dropout,
        ),
        size=len(data["train"]),
        validate=diffusion.validation_loss(
            data["val"], schedule, profile.seed, min_snr_gamma=profile.diffusion.min_snr_gamma
        ),
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=min(profile.diffusion.warmup_steps, config.steps // 10),
        cosine=True,
        ema_decay=profile.diffusion.ema_decay,
        clip_norm=profile.diffusion.clip_norm,
        folder=folder,
        digest=digest,
        **({"what": "sentences with lesions", **run_options(profile)} | options),
    )
    seen = SeenConditions.of(str(sentence) for sentence in pairs.sentences[pairs.rows("train")]).to_config()
    told = {"seen": seen, "condition_dropout": profile.diffusion.condition_dropout}
    return DSAPipeline(pipeline.vae, model.unet, pipeline.scheduler, model.encoder, tokenizer, **told), log


def asked_rows(pairs: TranslationSet, count: int) -> np.ndarray:
    """Positions of the held-out pairs (val and test) whose sentences are asked for: at most `count`, in turn of each kind of lesion and of none."""
    held_out = np.sort(np.concatenate([pairs.rows("val"), pairs.rows("test")]))
    place = pd.Series(pairs.kinds[held_out]).groupby(pairs.kinds[held_out]).cumcount().to_numpy()
    return np.sort(held_out[np.argsort(place, kind="stable")[:count]])


def generate(pipeline: DSAPipeline, sentences, seeds, profile: Profile) -> np.ndarray:
    """uint8 frames [n, H, W] of sentences, one seed each; guided by `lesion_sentences.guidance` where the model was trained for it.

    Angles and findings need not have occurred together in training.
    """
    return in_batches(
        pipeline,
        [str(sentence) for sentence in sentences],
        [int(seed) for seed in seeds],
        profile.sampling.batch_size,
        num_inference_steps=profile.sampling.steps,
        guidance_scale=profile.lesion_sentences.guidance if pipeline.config.condition_dropout else 1.0,
        allow_unseen=True,
    )


# ---- is what was asked for there? ------------------------------------------------------------------------------------


def kinds_asked(sentences) -> np.ndarray:
    """The kind of lesion [n], of `judge.KINDS`, that each sentence asks for."""
    found = [parse_sentence(str(sentence)).finding for sentence in sentences]
    short = {"arteriovenous malformation": "AVM"}
    return np.array(["none" if each is None else short.get(each.lesion, each.lesion) for each in found], object)


def asked_table(sentences) -> pd.DataFrame:
    """What is asked for: a row a kind of lesion, columns `images` and an `example` sentence, the first."""
    table = pd.DataFrame({"lesion": kinds_asked(sentences), "example": sentences})
    found = (
        table.groupby("lesion")["example"]
        .agg(["size", "first"])
        .reindex([k for k in KINDS if k in set(table["lesion"])])
    )
    return found.set_axis(["images", "example"], axis=1)


@dataclass(frozen=True)
class Judged:
    """What the judge sees in sets of frames that were asked for by the same sentences.

    asked: kind of lesion [n] of each sentence; named: set → number in KINDS [n] that the judge names; rates, located: the tables of these names; sides: the
    injected side (`injected_sides`), a row a set.
    """

    asked: np.ndarray
    named: dict[str, np.ndarray]
    rates: pd.DataFrame
    located: pd.DataFrame
    sides: pd.DataFrame

    def confusions(self) -> dict[str, pd.DataFrame]:
        """`confusion` of each set."""
        return {name: confusion(self.asked, named) for name, named in self.named.items()}

    def verdict(self) -> str:
        return " ".join([verdict(self.rates), located_verdict(self.located)])


def judged(judge: Judge, size: int, frames: Mapping[str, np.ndarray], sentences, known: pd.DataFrame) -> Judged:
    """Ask the judge, whose input has side `size`, what sets of uint8 frames [n, H, W] show that were asked for by `sentences` [n].

    known: `known_places` of the training patients. Where a lesion lies is asked of the sentences with a finding alone.
    """
    asked, wanted = kinds_asked(sentences), np.asarray(sentences)
    named = {name: lesion_judge.answers(judge, images, size).argmax(axis=1) for name, images in frames.items()}
    ill = asked != "none"
    found = {name: lesion_judge.places(judge, images[ill], asked[ill], size) for name, images in frames.items()}
    return Judged(
        asked,
        named,
        rates({name: (asked, numbers) for name, numbers in named.items()}),
        located(found, wanted[ill], known),
        pd.DataFrame({name: injected_sides(images, wanted) for name, images in frames.items()}).T,
    )


def rates(answers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """How often the judge names the lesion that was asked for: one row a set and scope (overall, each of KINDS that was asked for).

    answers: set → (kinds asked [n], numbers in KINDS that the judge named [n]). Columns: set, scope, images, named_right, rate, low, high (Wilson, 95 %), and
    chance: the rate of a judge that names each kind as often, whatever it sees.
    """
    rows = []
    for name, (asked, named) in answers.items():
        asked, called = np.asarray(asked, object), np.array(KINDS, object)[np.asarray(named)]
        for scope in (OVERALL, *KINDS):
            here = np.ones(len(asked), bool) if scope == OVERALL else asked == scope
            if not here.any():
                continue
            right = int((asked == called)[here].sum())
            low, high = wilson_interval(right, int(here.sum()))
            chance = float(np.mean([(called == kind).mean() for kind in asked[here]]))
            row = {"set": name, "scope": scope, "images": int(here.sum()), "named_right": right}
            rows.append(row | {"rate": right / int(here.sum()), "low": low, "high": high, "chance": chance})
    return pd.DataFrame(rows)


def confusion(asked: np.ndarray, named: np.ndarray) -> pd.DataFrame:
    """Counts: lesion asked for (rows) by lesion named (columns), both in the order of KINDS."""
    asked, called = np.asarray(asked, object), np.array(KINDS, object)[np.asarray(named)]
    counts = [[int(((asked == a) & (called == b)).sum()) for b in KINDS] for a in KINDS]
    return pd.DataFrame(counts, index=pd.Index(KINDS, name="asked"), columns=pd.Index(KINDS, name="named"))


def injected_sides(frames: np.ndarray, sentences) -> dict[str, float]:
    """Of the frames in plane A whose sentence names a side: how often the contrast lies on that side of the frame, with Wilson's 95 % interval.

    That is the side that is injected, whether or not a lesion is there; for the side of the lesion see `located`. Frames without contrast are left out.

    A frontal view shows the patient's left at the right. Contrast: pixels LEAST_DARK grey levels or more below the frame's median, weighted by depth.
    """
    right = total = 0
    for frame, sentence in zip(frames, sentences, strict=True):
        condition = parse_sentence(str(sentence))
        if condition.plane != "A" or condition.finding is None or not condition.finding.side:
            continue
        dark = np.clip(np.median(frame) - frame.astype(float) - LEAST_DARK, 0, None).sum(axis=0)
        if dark.sum() == 0:
            continue
        middle = (dark * (np.arange(len(dark)) + 0.5)).sum() / dark.sum() / len(dark)
        right += ("left" if middle > FIELD_MIDDLE else "right") == condition.finding.side
        total += 1
    low, high = wilson_interval(right, total)
    return {
        "images": total,
        "named_right": right,
        "rate": right / total if total else float("nan"),
        "low": low,
        "high": high,
    }


def known_places(pairs: TranslationSet) -> pd.DataFrame:
    """Where lesions of training patients lie: circulation, plane, side, artery (as their sentences say) and the mean row and column, in shares of the frame."""
    rows = []
    for row in pairs.rows("train"):
        condition = parse_sentence(str(pairs.sentences[row]))
        if condition.finding is None or not pairs.lesions[row].any():
            continue
        middle = (np.argwhere(pairs.lesions[row]).mean(axis=0) + 0.5) / pairs.lesions.shape[-1]
        found = condition.finding
        rows.append((condition.circulation, condition.plane, found.side, found.artery, *middle))
    columns = ["circulation", "plane", "side", "artery", "row", "column"]
    return pd.DataFrame(rows, columns=columns).groupby(columns[:4], as_index=False).mean()


def located(places: Mapping[str, np.ndarray], sentences, known: pd.DataFrame) -> pd.DataFrame:
    """How often a lesion lies where the side and the artery that were asked for have theirs: one row a set and scope (SCOPES).

    places: set → (row, column) [n, 2] in shares of the frame (`judge.places`), one for each of the `sentences` [n], all of which name a finding. A place
    belongs to the (side, artery) of the nearest mean place in `known` (`known_places`) among those of its circulation and plane. "side" counts plane A
    alone, where the sides do not lie over one another, and arteries with a side; "artery" counts all. Columns as in `rates`; the chance is that of answers
    given in the same numbers whatever is asked.
    """
    rows = []
    for name, where in places.items():
        answers = []
        for place, sentence in zip(where, sentences, strict=True):
            condition = parse_sentence(str(sentence))
            near = known[(known["circulation"] == condition.circulation) & (known["plane"] == condition.plane)]
            if condition.finding is None or near.empty:
                continue
            distance = np.hypot(near["row"] - place[0], near["column"] - place[1])
            best = near.loc[distance.idxmin()]
            asked = condition.finding
            answers.append((condition.plane, asked.side, best["side"], asked.artery, best["artery"]))
        found = pd.DataFrame(answers, columns=["plane", "asked_side", "side", "asked_artery", "artery"])
        for scope in SCOPES:
            here = found[(found["plane"] == "A") & (found["asked_side"] != "")] if scope == "side" else found
            asked, named = here[f"asked_{scope}"].to_numpy(), here[scope].to_numpy()
            right = int((asked == named).sum())
            low, high = wilson_interval(right, len(here))
            chance = float(np.mean([(named == each).mean() for each in asked])) if len(here) else float("nan")
            row = {"set": name, "scope": scope, "images": len(here), "named_right": right}
            share = right / len(here) if len(here) else float("nan")
            rows.append(row | {"rate": share, "low": low, "high": high, "chance": chance})
    return pd.DataFrame(rows)


def undecidable(table: pd.DataFrame, real: str = "held-out") -> list[str]:
    """Scopes of `rates` or `located` that the judge cannot tell on real frames (its interval there does not lie above chance): nothing is said of them."""
    of = table[(table["set"] == real) & (table["scope"] != OVERALL)]
    return of.loc[~(of["low"] > of["chance"]), "scope"].tolist()


def located_verdict(table: pd.DataFrame, generated: str = "generated", real: str = "held-out") -> str:
    """One sentence a scope of `located`: generated frames against chance, and what the same answer reaches on real frames."""
    told, blind = [], undecidable(table, real)
    for scope, rows in table.groupby("scope", sort=False):
        of, there = (rows.set_index("set").loc[name] for name in (generated, real))
        if not of["images"]:
            continue
        beyond = "above chance" if of["low"] > of["chance"] else "not shown to be above chance"
        beyond = "not decidable, since real frames are not read above chance" if scope in blind else beyond
        told.append(
            f"The {scope} that was asked for is where the lesion would lie in {of['rate']:.0%} of {int(of['images'])} generated frames "
            f"(95 % interval {of['low']:.0%} to {of['high']:.0%}, chance {of['chance']:.0%}; real frames {there['rate']:.0%}): {beyond}."
        )
    return " ".join(told)


def verdict(table: pd.DataFrame, generated: str = "generated", real: str = "held-out") -> str:
    """One sentence on the overall rates: generated against chance and against what the judge reaches on real frames."""
    overall = table[table["scope"] == OVERALL].set_index("set")
    of = overall.loc[generated]
    beyond = "above what chance would give" if of["low"] > of["chance"] else "not shown to be above chance"
    blind = undecidable(table, real) if real in overall.index else []
    kinds = table[(table["set"] == generated) & ~table["scope"].isin([OVERALL, *blind])].set_index("scope")
    text = (
        f"The judge names the lesion that the sentence asked for in {of['rate']:.0%} of {int(of['images'])} generated frames "
        f"(95 % interval {of['low']:.0%} to {of['high']:.0%}), {beyond} ({of['chance']:.0%})"
    )
    if real in overall.index:
        text += f"; on {real} frames of the same sentences it is right in {overall.loc[real, 'rate']:.0%}"
    text += "."
    if len(kinds):
        text += f" Best kept is {kinds['rate'].idxmax()} ({kinds['rate'].max():.0%}), least {kinds['rate'].idxmin()} ({kinds['rate'].min():.0%})."
    if blind:
        text += f" Not decidable, since the judge does not know them on {real} frames: {', '.join(blind)}."
    return text
