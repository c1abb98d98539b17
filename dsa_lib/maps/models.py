"""The six models of notebook 21 on one footing: same images, same conditions, same number of steps and images a step, with edges and without.

What differs is the method alone: latent diffusion (`map_diffusion`) or a GAN in pixels (`spade`). Each trains from random weights, or goes on from trained
ones that ship (`map_weights`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from torch import nn

from dsa_lib.ldm import autoencoder, diffusion, latents, text
from dsa_lib.maps import data as map_data
from dsa_lib.maps import map_diffusion, spade
from dsa_lib.maps.data import MapSet
from dsa_lib.nn import public_weights, resnet, shipped, training
from dsa_lib.nn.processes import default_device
from dsa_lib.run.profiles import Profile
from dsa_lib.run.session import Study
from dsa_lib.run.workspace import atomic_write

METHODS = ("LDM", "SPADE", "SPADE w/ VAE")  # rows of the source's Table 1
WITH, WITHOUT = "w/ edges", "w/o edges"  # its two halves
EVERY = tuple((method, half) for half in (WITH, WITHOUT) for method in METHODS)
CODE = (map_diffusion, diffusion, spade, text, training)  # beside this module: what decides the weights
HELD_OUT_SEED = 0  # of the noise in the held-out loss: the same in every stage of a training, whose own seed may change
SHORT = {"LDM": "ldm", "SPADE": "spade", "SPADE w/ VAE": "spade_vae"}


def name_of(method: str, half: str) -> str:
    """Name of a model's folder and checkpoint: ldm_edges, ldm, spade_edges, …"""
    return SHORT[method] + ("_edges" if half == WITH else "")


@dataclass(frozen=True)
class Material:
    """What all models learn from: the set, and for the diffusion the autoencoder with the posteriors of all images, [n, C, h, w] each."""

    data: MapSet
    vae: AutoencoderKL
    mean: np.ndarray
    std: np.ndarray
    profile: Profile

    def maps(self, half: str) -> map_diffusion.ConditionMaps:
        """The conditions of one half of the table."""
        return self.data.conditions(half == WITH)

    def latents(self, part: str) -> diffusion.LatentSet:
        """Latents and sentences of "train", "val" or "test"."""
        tokenizer = text.build_tokenizer(self.profile.text.max_tokens)
        scale = self.vae.config.scaling_factor
        return diffusion.LatentSet(
            self.mean, self.std, scale, self.data.sentences.tolist(), tokenizer, self.data.rows(part)
        )


def material(
    data: MapSet,
    vae: AutoencoderKL,
    profile: Profile,
    posteriors: tuple[np.ndarray, np.ndarray] | None = None,
) -> Material:
    """`data` with its latents; the autoencoder comes to the device that there is and stays as it is.

    posteriors: mean and standard deviation of the frames, [n, C, h, w] each, where the run has them already.
    """
    vae = vae.to(default_device()).eval().requires_grad_(False)
    mean, std = latents.posteriors(vae, data.frames) if posteriors is None else posteriors
    return Material(data, vae, mean, std, profile)


def own_autoencoder(study: Study, data: MapSet) -> tuple[AutoencoderKL, pd.DataFrame, str]:
    """(autoencoder, log, what the weights belong to) of images that are not the run's own frames: trained as notebook 03 trains on those."""
    digest = study.digest("autoencoder", code=[autoencoder, training]) + map_data.digest(data)
    parts, folder = (data.rows("train"), data.rows("val")), study.ws.checkpoints("maps_vae")
    vae, log = autoencoder.train(data.frames, *parts, study.profile, folder=folder, digest=digest)
    return vae, log, digest


def budget(profile: Profile, start: Path | None, whole: bool = False) -> dict:
    """What `training.fit` is to do for each of the six: the whole budget from scratch, or a short stretch from trained weights.

    whole: the whole budget from the trained weights too, as when those that ship learn on.
    """
    own = profile.anatomy
    everything = {
        "steps": own.steps,
        "evaluate_every": max(own.steps // 12, 5),
        "learning_rate": own.learning_rate,
        "cosine": True,
        "warmup_steps": own.warmup_steps,
    }
    return everything if whole else shipped.stretch(start, own, everything)


def drawn_of(method: str, log: pd.DataFrame) -> tuple[tuple[str, str], str]:
    """(columns of the log, their name) that a curve of the training shows: of SPADE the one part that its held-out images are judged by."""
    if method == METHODS[0]:
        return ("train_loss", "val_loss"), "loss"
    part = "perceptual" if "train_perceptual" in log else "l1"
    return (f"train_{part}", f"val_{part}"), {"perceptual": "perceptual distance", "l1": "mean absolute error"}[part]


def generator_parameters(model: nn.Module) -> int:
    """Number of weights of what makes images: all of the LDM's denoiser, and of SPADE what is no discriminator."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("discriminator"))


def shared_options(profile: Profile) -> dict:
    """Options of `training.fit` that all six share."""
    return {"batch_size": profile.anatomy.batch_size, **training.run_options(profile)}


def train(
    given: Material, method: str, half: str, distance: nn.Module | None, **how
) -> tuple[nn.Module, pd.DataFrame, float]:
    """(model, log, seconds) of one of EVERY, by `train_ldm` or `train_spade` with the options `how`; distance: `perceptual`, in SPADE's loss alone."""
    if method == METHODS[0]:
        return train_ldm(given, half, **how)
    return train_spade(given, half, method == METHODS[2], distance, **how)


def train_ldm(
    given: Material, half: str, *, folder: Path, digest: str, start: Path | None = None, whole: bool = False
) -> tuple[map_diffusion.MapDenoiser, pd.DataFrame, float]:
    """(denoiser, log, seconds) of the diffusion with (`half` WITH) or without edges, by the run's own noise schedule and prediction.

    start: a folder of trained weights (unet/, text_encoder/) to go on from, for a short stretch or the `whole` budget. The held-out loss of the validation
    patients chooses the weights.
    """
    profile, maps = given.profile, given.maps(half)
    schedule = diffusion.noise_schedule(profile.diffusion)
    torch.manual_seed(profile.seed)
    model = map_diffusion.build(
        profile, maps.shape[1], given.mean.shape[1], given.mean.shape[-1], given.data.frames.shape[-1]
    )
    if start is not None:
        shipped.load(model.unet, start / "unet")
        shipped.load(model.encoder, start / "text_encoder")
    gamma, held_out = profile.anatomy.min_snr_gamma, given.latents("val")
    started = time.time()
    log = training.fit(
        model,
        map_diffusion.training_loss(
            given.latents("train"),
            maps,
            schedule,
            min_snr_gamma=gamma,
            condition_dropout=profile.anatomy.condition_dropout,
        ),
        size=len(given.data.rows("train")),
        validate=map_diffusion.validation_loss(held_out, maps, schedule, HELD_OUT_SEED, gamma)
        if len(held_out)
        else None,
        ema_decay=profile.anatomy.ema_decay,
        clip_norm=profile.diffusion.clip_norm,
        folder=folder,
        digest=digest,
        what=f"LDM {half}",
        **(budget(profile, start, whole) | shared_options(profile)),
    )
    return model, log, time.time() - started


def train_spade(
    given: Material,
    half: str,
    vae: bool,
    perceptual: nn.Module | None,
    *,
    folder: Path,
    digest: str,
    start: Path | None = None,
    whole: bool = False,
) -> tuple[spade.SpadeModel, pd.DataFrame, float]:
    """(model, log, seconds) of SPADE, with or without a `vae`, as `train_ldm`; learning rates and averaging are SPADE's own (`profile.spade`)."""
    profile = given.profile
    planned = budget(profile, start, whole)
    del planned["learning_rate"]
    started = time.time()
    model, log = spade.train(
        given.data,
        given.maps(half),
        profile.spade,
        vae=vae,
        perceptual=perceptual,
        folder=folder,
        digest=digest,
        start=start,
        rate=1.0 if start is None or whole else shipped.CONTINUED_RATE,
        what=f"{METHODS[2] if vae else METHODS[1]} {half}",
        **(planned | shared_options(profile)),
    )
    return model, log, time.time() - started


def perceptual(profile: Profile, classifier: Path | None) -> nn.Module | None:
    """The distance in SPADE's loss: LPIPS where the profile has it, else that of the run's phase network in the folder `classifier`; None without one."""
    if profile.autoencoder.perceptual == "lpips":
        return autoencoder.Lpips(public_weights.load("vgg16"))
    if classifier is None:
        return None
    network, _ = resnet.load_classifier(classifier)
    network.eval().requires_grad_(False)
    return autoencoder.FeatureDistance(lambda x: resnet.stage_features(network, (x + 1) / 2), network)


# ---- images ----------------------------------------------------------------------------------------------------------


def generate(
    given: Material,
    method: str,
    half: str,
    model: nn.Module,
    rows: np.ndarray,
    told: bool = False,
) -> np.ndarray:
    """uint8 frames [n, H, W] by one of EVERY for the conditions of the images at `rows` [n] of the set, whose positions are the seeds.

    told: whether the LDM is told the sentences of the images too.
    """
    maps, sentences = given.maps(half)[rows], given.data.sentences[rows].tolist() if told else None
    if method == METHODS[0]:
        return generate_ldm(model, given.vae, given.profile, maps, rows, sentences, f"images, {method} {half}")
    return spade.generate(model, maps, [int(row) for row in rows])


def generate_ldm(
    model: map_diffusion.MapDenoiser,
    vae: AutoencoderKL,
    profile: Profile,
    maps: np.ndarray | map_diffusion.ConditionMaps,
    seeds: Sequence[int],
    sentences: Sequence[str] | None = None,
    what: str = "images",
) -> np.ndarray:
    """uint8 frames [n, H, W] of maps [n, C, H, W], one a seed, as the profile samples; without a sentence unless `sentences` are given."""
    own = profile.anatomy
    schedule = diffusion.noise_schedule(profile.diffusion)
    told = [text.EMPTY] * len(seeds) if sentences is None else sentences
    numbers = [int(seed) for seed in seeds]
    return map_diffusion.generate(
        model, vae, maps, told, numbers, own.sampling_steps, schedule, name=own.scheduler, what=what
    )


# ---- files -----------------------------------------------------------------------------------------------------------


def save(given: Material, method: str, half: str, model: nn.Module, folder: Path) -> None:
    """Write one of EVERY to `folder`, in one step: `open_ldm` or `spade.load` open it again."""
    data = given.data
    if method == METHODS[0]:
        facts = {"annotated": list(data.annotated), "classes": list(data.classes), "edges": half == WITH}
        map_diffusion.save(model, folder, facts)
    else:
        spade.save(model, folder, given.profile.spade, given.maps(half).shape[1], data.frames.shape[-1])


def open_ldm(folder: Path) -> map_diffusion.MapDenoiser:
    """The denoiser that `save` wrote to `folder`, on the device that there is."""
    return map_diffusion.load(folder)[0].to(default_device())


def save_images(path: Path, outputs: Mapping[tuple[str, str], np.ndarray]) -> None:
    """Write images uint8 [n, H, W] of models among EVERY to one .npz file, in one step, under the names of `name_of`."""
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **{name_of(*key): made for key, made in outputs.items()})


def load_images(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """The inverse of `save_images`: (method, half) → uint8 [n, H, W], in the order in which they were written."""
    keys = {name_of(*key): key for key in EVERY}
    with np.load(path, allow_pickle=False) as content:
        return {keys[name]: content[name] for name in content.files}
