"""Latent diffusion that is told an anatomy: a label map of which some classes are annotated, and the Canny edges of the whole field of view.

Capitão et al., "Anatomy-compliant medical image synthesis by latent diffusion models" (§2, Fig. 1): one-hot labels y and binary boundaries e_x, concatenated
with the noisy latent. The sentence still enters by cross-attention (§4.4 of the DSA study); an empty one leaves the map alone.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from scipy.ndimage import binary_dilation
from skimage.feature import canny
from skimage.segmentation import find_boundaries
from torch import nn
from transformers import BertModel

from dsa_lib.core.splits import evenly
from dsa_lib.ldm import autoencoder, diffusion, sampler, text
from dsa_lib.nn.training import held_out
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import atomic_write, write_json

SOBEL = 8.0  # the operator of skimage's detector gives so many times the gradient
TO_LATENT = ("unshuffle", "area")
EDITED = ("withheld", "redrawn")
EDIT_MARGIN = 3  # pixels: the detector's Gaussian moves a boundary by one or two


# ---- the condition ---------------------------------------------------------------------------------------------------


def edges(frames: np.ndarray, sigma: float, low: float, high: float) -> np.ndarray:
    """Canny's boundaries e_x of uint8 frames [n, H, W] over the whole field of view: bool [n, H, W].

    sigma: of the Gaussian, in pixels; low, high: of the gradient, in grey levels a pixel. Raises StudyError for thresholds that are not in order.
    """
    if not 0 < low <= high:
        raise StudyError(f"edge thresholds {low} and {high} are not 0 < low ≤ high: set anatomy.edge_low and edge_high")
    found = np.zeros(frames.shape, bool)
    for n, frame in enumerate(frames):
        found[n] = canny(frame.astype(float), sigma=sigma, low_threshold=SOBEL * low, high_threshold=SOBEL * high)
    return found


def condition_maps(
    labels: np.ndarray, edge_maps: np.ndarray | None, annotated: Sequence[str], classes: Sequence[str]
) -> np.ndarray:
    """What a model is told, float32 [n, A (+ 1), H, W]: one-hot maps of the A `annotated` among `classes`, and the boundaries where they are given.

    labels: uint8 [n, H, W], k for the k-th of `classes`; edge_maps: bool of that shape, or None. A class that is not annotated is told by nothing but its
    edges, as an organ that nobody has outlined (§1). Raises StudyError for a class that does not exist, none at all, or shapes that differ.
    """
    if unknown := [name for name in annotated if name not in classes]:
        raise StudyError(f"the annotated class {unknown[0]!r} does not exist: choose from {', '.join(classes)}")
    if not annotated:
        raise StudyError("no class is annotated: a model with masks needs one in anatomy.annotated at least")
    if edge_maps is not None and edge_maps.shape != labels.shape:
        raise StudyError(f"edges of shape {edge_maps.shape} for label maps of shape {labels.shape}: give one shape")
    layers = [labels == classes.index(name) + 1 for name in annotated]
    return np.stack(layers if edge_maps is None else [*layers, edge_maps], axis=1).astype(np.float32)


class ConditionMaps:
    """`condition_maps` of a whole set, made batch by batch: maps[rows] is float32 [k, C, H, W]. A set of paper size would not fit into memory as floats."""

    def __init__(
        self, labels: np.ndarray, edge_maps: np.ndarray | None, annotated: Sequence[str], classes: Sequence[str]
    ):
        self.labels, self.edge_maps, self.annotated, self.classes = labels, edge_maps, tuple(annotated), tuple(classes)
        self.shape = (len(labels), *self[:1].shape[1:])  # and a class that does not exist is refused here

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> np.ndarray:
        edge_maps = None if self.edge_maps is None else self.edge_maps[rows]
        return condition_maps(self.labels[rows], edge_maps, self.annotated, self.classes)


def edited_edges(edge_maps: np.ndarray, edited: np.ndarray, region: np.ndarray, how: str) -> np.ndarray:
    """Boundaries that go with an edited label map, bool [n, H, W]: those along the edit say otherwise and must not be told.

    edge_maps: bool [n, H, W] of the image before; edited: the label maps afterwards, uint8; region: bool, where they were changed. "withheld" takes the
    edges in the region and EDIT_MARGIN pixels about it away; "redrawn" puts the outline of what the edited map still holds there in their place.
    """
    if how not in EDITED:
        raise StudyError(f"edges along an edit are {' or '.join(EDITED)}, not {how!r}")
    disc = np.hypot(*np.mgrid[-EDIT_MARGIN : EDIT_MARGIN + 1, -EDIT_MARGIN : EDIT_MARGIN + 1]) <= EDIT_MARGIN
    about = np.stack([binary_dilation(each, disc) for each in region])
    found = edge_maps & ~about
    if how == "redrawn":
        outline = np.stack([find_boundaries(each > 0, connectivity=1, mode="inner") for each in edited])
        found |= outline & about
    return found


def to_latent(maps: torch.Tensor, side: int, how: str) -> torch.Tensor:
    """Maps [n, C, H, W] at latent size: [n, C f², side, side] for "unshuffle" with f = H / side, [n, C, side, side] for "area".

    "unshuffle" moves the f × f pixels that share a latent into channels, so that nothing is lost: most vessels and all boundaries are narrower than a latent.
    "area", their mean, says how much of a class lies there and not where; it is what resizing the map to latent size comes to.
    """
    if how not in TO_LATENT:
        raise StudyError(f"anatomy.to_latent {how!r} is not {' or '.join(TO_LATENT)}")
    factor = maps.shape[-1] // side
    if factor * side != maps.shape[-1] or maps.shape[-1] != maps.shape[-2]:
        raise StudyError(f"maps of {tuple(maps.shape[2:])} do not divide into latents of {side}²: give square maps")
    return F.pixel_unshuffle(maps, factor) if how == "unshuffle" else F.avg_pool2d(maps, factor)


# ---- the network -----------------------------------------------------------------------------------------------------


class MapDenoiser(nn.Module):
    """ε_θ(z_t, t, c, y, e_x): the map at latent size is concatenated with z_t, the sentence enters as in `diffusion.ConditionalDenoiser`."""

    def __init__(self, unet: UNet2DConditionModel, encoder: BertModel, how: str):
        super().__init__()
        self.unet, self.encoder, self.how = unet, encoder, how

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, given: dict) -> torch.Tensor:
        """given: "maps" [n, C, H, W] and "tokens" (`text.tokenize`)."""
        tokens = given["tokens"]
        context, mask = text.encode(self.encoder, tokens["input_ids"], tokens["attention_mask"])
        joined = torch.cat([z_t, to_latent(given["maps"].to(z_t.dtype), z_t.shape[-1], self.how)], dim=1)
        return self.unet(joined, t, encoder_hidden_states=context, encoder_attention_mask=mask).sample


def settings_of(profile):
    """The study's diffusion section with what notebook 21 has of its own: widths and training of the denoiser."""
    names = ("base_channels", "batch_size", "learning_rate", "ema_decay", "warmup_steps", "steps_continued")
    own = {name: getattr(profile.anatomy, name) for name in (*names, "condition_dropout", "min_snr_gamma")}
    return replace(profile.diffusion, accumulate=1, **own)


def build(profile, channels: int, latent_channels: int, latent_size: int, image_size: int) -> MapDenoiser:
    """The untrained denoiser for maps of `channels` channels and images of `image_size` pixels a side."""
    config, how = settings_of(profile), profile.anatomy.to_latent
    factor = image_size // latent_size
    extra = channels * factor**2 if how == "unshuffle" else channels
    with torch.device("meta"):  # its configuration alone: the same network but for the channels that enter
        plain = diffusion.build_unet(config, latent_channels, latent_size, context=profile.text.width)
    unet = UNet2DConditionModel.from_config(dict(plain.config) | {"in_channels": latent_channels + extra})
    encoder = text.build_encoder(profile.text, len(text.build_tokenizer(profile.text.max_tokens)))
    return MapDenoiser(unet, encoder, how)


# ---- training --------------------------------------------------------------------------------------------------------


def training_loss(
    data: diffusion.LatentSet,
    maps: ConditionMaps,
    schedule: DDPMScheduler,
    *,
    min_snr_gamma: float = 0.0,
    condition_dropout: float = 0.0,
):
    """The loss closure for `training.fit`: Eq. 4 of the DSA study with the map in the condition.

    data: latents and sentences (its `rows` say which of the set); maps: of all of the set. `condition_dropout` is the share of samples that see an empty
    sentence; their map they always see.
    """

    def further(indices: np.ndarray, device: torch.device) -> dict[str, torch.Tensor]:
        return {"maps": torch.from_numpy(maps[data.rows[indices]]).to(device)}

    return diffusion.training_loss(
        data, schedule, min_snr_gamma=min_snr_gamma, condition_dropout=condition_dropout, further=further
    )


def validation_loss(data: diffusion.LatentSet, maps: ConditionMaps, schedule: DDPMScheduler, seed: int, gamma: float):
    """`validate` for `training.fit`: the same loss on held-out latents, with noise and timesteps that never change and no sentence told."""
    loss = training_loss(data, maps, schedule, min_snr_gamma=gamma, condition_dropout=1.0)
    return held_out(loss, evenly(np.arange(len(data)), diffusion.HELD_OUT), seed)


# ---- generation ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def generate(
    model: MapDenoiser,
    vae: AutoencoderKL,
    maps,
    sentences: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    scheduler: DDPMScheduler,
    name: str = "ddim",
    batch_size: int = 32,
    what: str = "images",
) -> np.ndarray:
    """uint8 frames [n, H, W] of n maps (an array or `ConditionMaps`, [n, C, H, W]), sentences ("" for none) and seeds.

    scheduler: the noise schedule of the training; name: of the sampler (`sampler.SAMPLERS`). Image i depends on its map, sentence and seed alone. Raises
    StudyError where their numbers differ.
    """
    if not len(maps) == len(sentences) == len(seeds):
        raise StudyError(f"{len(maps)} maps, {len(sentences)} sentences, {len(seeds)} seeds: give one of each an image")
    tokenizer = text.build_tokenizer(model.encoder.config.max_position_embeddings)
    device, side = next(model.parameters()).device, model.unet.config.sample_size
    shape = (model.unet.config.out_channels, side, side)
    model.eval()
    vae.to(device).eval()
    solver, parts = sampler.make_scheduler(name, scheduler), []
    for first in track(range(0, len(seeds), batch_size), what=f"batches of {what}"):
        here = slice(first, min(first + batch_size, len(seeds)))
        tokens = text.tokenize(tokenizer, list(sentences[here]))
        given = {
            "maps": torch.from_numpy(np.asarray(maps[here], np.float32)).to(device),
            "tokens": {key: value.to(device) for key, value in tokens.items()},
        }

        def predict(z: torch.Tensor, t: torch.Tensor, given: dict = given) -> torch.Tensor:
            return model(z, t.expand(len(z)), given)

        z = sampler.sample(predict, solver, seeds[here], shape, steps, device, network=model)
        parts.append(autoencoder.decode(vae, z))
    return np.concatenate(parts)


# ---- files -----------------------------------------------------------------------------------------------------------


def save(model: MapDenoiser, folder: Path, facts: dict) -> None:
    """Write the denoiser to `folder` in one step: unet/, text_encoder/ and anatomy.json with `facts` (what its maps hold)."""
    with atomic_write(folder) as temporary:
        temporary.mkdir(parents=True)
        model.unet.save_pretrained(temporary / "unet")
        model.encoder.save_pretrained(temporary / "text_encoder")
        write_json(temporary / "anatomy.json", facts | {"to_latent": model.how})


def load(folder: Path) -> tuple[MapDenoiser, dict]:
    """(denoiser in eval mode, its facts) of a folder that `save` wrote. Raises StudyError where it holds none."""
    folder = Path(folder)
    try:
        facts = json.loads((folder / "anatomy.json").read_text())
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
        encoder = BertModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        model = MapDenoiser(unet, encoder, facts["to_latent"])
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(
            f"the folder {folder.name!r} does not hold a denoiser with maps ({type(error).__name__}): write it with map_diffusion.save"
        ) from None
    return model.eval(), facts
