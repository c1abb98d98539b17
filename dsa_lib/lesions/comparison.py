"""The models of notebook 23: the autoencoder under them, the base translator, its copies trained further by either loss, and the pix2pix baseline.

Each function trains what the run does not have yet, goes on where it was broken off, and names its checkpoints by all that decides the result: `given` is what
the run's inputs do not tell (hashes of the pairs, and of weights that it starts from).
"""

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, DDPMScheduler

from dsa_lib.core.pairs import TranslationSet
from dsa_lib.ldm import autoencoder, diffusion
from dsa_lib.lesions import lesion_weights, pix2pix, post_training, translation
from dsa_lib.nn import training
from dsa_lib.nn.processes import default_device
from dsa_lib.run.hyperparameters_extensions import Lesions, PostTraining
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import sha256

CODE = (sys.modules[__name__], translation, post_training, diffusion, training)  # decides what a translator learns


@dataclass(frozen=True)
class Arm:
    """A translator, the autoencoder that decodes its latents, and the log of its training."""

    model: translation.Translator
    decoder: AutoencoderKL
    log: pd.DataFrame


def latent_space(study: Study, pairs: TranslationSet, given: str, own: bool) -> tuple[AutoencoderKL, str]:
    """(frozen autoencoder, `given` for what learns in its latents): that of the run, or where `own` one trained on the targets, in lesions/vae."""
    if not own:
        vae = AutoencoderKL.from_pretrained(study.read("vae"))
    else:
        vae, _ = autoencoder.train(
            pairs.targets,
            pairs.rows("train"),
            pairs.rows("val"),
            study.profile,
            folder=study.ws.checkpoints("lesions_vae"),
            digest=study.digest("autoencoder", code=[autoencoder, training]) + given,
        )
        vae.save_pretrained(study.write("lesions/vae"))
        given += sha256(study.ws.path("lesions/vae/diffusion_pytorch_model.safetensors"))
    return vae.to(default_device()).eval().requires_grad_(False), given


def training_data(pairs: TranslationSet, vae: AutoencoderKL, source_as: str) -> dict[str, translation.Pairs]:
    """The parts "train" and "val" of `pairs` as a translator's training draws from them."""
    return {part: translation.Pairs(pairs.at(pairs.rows(part)), vae, source_as) for part in ("train", "val")}


def base(
    study: Study,
    data: Mapping[str, translation.Pairs],
    schedule: DDPMScheduler,
    vae: AutoencoderKL,
    given: str,
    start: Path | None = None,
    **options,
) -> Arm:
    """The base model, from random weights or for a short stretch from the shipped ones in the folder `start`; `options` go to `translation.train`."""
    profile, train = study.profile, data["train"]
    torch.manual_seed(profile.seed)
    model = translation.build(profile, train.source_channels, *train.latents.mean.shape[1:3])
    if start:
        model.load_state_dict(translation.load(start / lesion_weights.BASE).state_dict())
    digest = study.digest("lesions", "diffusion", code=CODE) + given
    folder = study.ws.checkpoints("lesions_base")
    log = translation.train(model, data, schedule, vae, profile, folder=folder, digest=digest, start=start, **options)
    return Arm(model, vae, log)


def further(
    study: Study,
    base: Arm,
    data: Mapping[str, translation.Pairs],
    schedule: DDPMScheduler,
    settings: PostTraining,
    given: str,
    **options,
) -> Arm:
    """A copy of `base` trained further by the losses of `settings`; `base` stays as it is. `options` go to `translation.train_further`.

    Its decoder is that of `base`, or a copy that was trained along where `settings.decoder_trained` asks for it and a loss in the image reaches it.
    """
    model, decoder, seen = copy.deepcopy(base.model), base.decoder, post_training.in_images(settings)
    trained = model
    if settings.decoder_trained and seen:
        decoder = copy.deepcopy(decoder)
        trained = post_training.WithDecoder(model, decoder)
    log = translation.train_further(
        trained,
        data,
        schedule,
        decoder,
        study.profile,
        settings,
        folder=study.ws.checkpoints(f"lesions_{'post' if seen else 'control'}"),
        digest=study.digest("lesions", "diffusion", "post_training", code=CODE) + given,
        **options,
    )
    return Arm(model, decoder, log)


def baseline(
    study: Study, pairs: TranslationSet, given: str, start: Path | None = None, **options
) -> tuple[pix2pix.Pix2PixModel, pd.DataFrame]:
    """(pix2pix, the log of its training): trained here, or as it ships in the folder `start`, which is said. `options` go to `pix2pix.train`."""
    if start:
        print(lesion_weights.told_of_pix2pix(study.profile))
        return pix2pix.load(start / lesion_weights.PIX2PIX), lesion_weights.log(lesion_weights.PIX2PIX)
    profile = study.profile
    kept = {name: getattr(profile, name) for name in ("seed", "precision", "log_every_s", "checkpoint_every_s")}
    return pix2pix.train(
        pairs,
        profile.pix2pix,
        folder=study.ws.checkpoints("lesions_pix2pix"),
        digest=study.digest("pix2pix", code=[pix2pix, training]) + given,
        **kept,
        **options,
    )


def translations(
    arms: Mapping[str, Arm], schedule: DDPMScheduler, sources: np.ndarray, seeds: Sequence[int], config: Lesions
) -> dict[str, np.ndarray]:
    """Target images uint8 [n, H, W] of every arm for the source images uint8 [n, C, H, W], sampled as `config` says; seed i is that of image i in all arms."""
    sampling = {"steps": config.sampling_steps, "source_as": config.source_as, "scheduler": config.scheduler}
    return {
        name: translation.translate(
            arm.model.to(default_device()), arm.decoder, schedule, sources, seeds=seeds, **sampling
        )
        for name, arm in arms.items()
    }


def loss_parts(arms: Mapping[str, Arm]) -> pd.DataFrame:
    """The parts of each arm's training loss in the first and the last row of its log."""
    return pd.concat({name: arm.log.filter(like="train_").iloc[[0, -1]] for name, arm in arms.items()})
