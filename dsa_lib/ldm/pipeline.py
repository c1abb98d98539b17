"""From sentence to image: BERT → denoising UNet → sampler → decoder (Fig. 5, Eqs. 5–6), as one diffusers pipeline that can be saved and opened."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel, UNet2DModel
from transformers import BertModel, PreTrainedTokenizerFast

from dsa_lib.core.condition_sentences import Condition, SeenConditions, as_condition
from dsa_lib.ldm import autoencoder, sampler, text
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track

Asked = Condition | str | tuple[str, str, float, float]
CODE = (
    sys.modules[__name__],
    autoencoder,
    sampler,
    text,
)  # what decides an image besides the weights: for `sampling.code_digest`

# Saved beside the weights. diffusers looks for the class that model_index.json names in this file, so that `DiffusionPipeline.from_pretrained`
# finds one that is not its own.
OPENER = '''"""Where diffusers finds the class of this pipeline: DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)."""

from dsa_lib.pipeline import DSAPipeline

__all__ = ["DSAPipeline"]
'''


class DSAPipeline(DiffusionPipeline):
    """From sentences or conditions to DSA frames.

    `text_encoder` and `tokenizer` are None in the unconditional pipeline. `seen` are the conditions of the training set, as
    `SeenConditions.to_config` writes them; None if they were not recorded, and then no condition is refused. `condition_dropout` is the share of
    training samples without a sentence: above 0 the model can be guided. Both are saved with the pipeline.

    The sampler is `scheduler`, which may be exchanged for any of diffusers' own made with `from_config(pipeline.scheduler.config)`. The progress bar
    shows on a terminal alone; `set_progress_bar_config(disable=False)` brings it into a notebook, `disable=True` takes it away.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["text_encoder", "tokenizer"]  # noqa: RUF012  diffusers adds it to a list

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel | UNet2DModel,
        scheduler: DDPMScheduler,
        text_encoder: BertModel | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
        seen: Mapping[str, str] | None = None,
        condition_dropout: float = 0.0,
    ):
        super().__init__()
        if text_encoder is not None:
            # diffusers' own opener reads weights of half precision into a float32 network, and leaves transformers' as they are stored.
            text_encoder.to(dtype=unet.dtype)
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(seen=None if seen is None else dict(seen), condition_dropout=float(condition_dropout))
        self.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
        for module in (vae, unet, text_encoder):
            if module is not None:
                module.eval()  # BERT has dropout; an image must not depend on it

    @property
    def seen(self) -> SeenConditions | None:
        """The conditions of the training set, or None where they were not recorded."""
        return None if self.config.seen is None else SeenConditions.from_config(self.config.seen)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options) -> "DSAPipeline":
        """Open a saved pipeline; `options` are those of diffusers, e.g. scheduler=…, variant="fp16", dtype=….

        Computes in float32 unless `dtype` says otherwise, also where the weights are stored in half precision: processors compute in that slowly
        or not at all, and rounding each step to 11 bits shows in fine vessels.

        Raises StudyError for a folder of models/ that is not here.
        """
        if Path(folder).parts[:1] == ("models",) and not Path(folder).exists():
            raise StudyError(
                f"there is no folder {folder} here: weights that ship lie in a clone of the project; give the path to that folder in one"
            )
        if not {"dtype", "torch_dtype"} & options.keys():
            options["dtype"] = torch.float32
        return super().from_pretrained(folder, **options)

    @classmethod
    def load_config(cls, *arguments, **options):
        """As in diffusers; but the class is known here, so that no code that lies in the folder is run."""
        loaded = super().load_config(*arguments, **options)
        (loaded[0] if isinstance(loaded, tuple) else loaded)["_class_name"] = cls.__name__
        return loaded

    def save_pretrained(self, save_directory: str | Path, **options) -> None:
        """Save everything, so that this class and diffusers' own `DiffusionPipeline` open it; no path of this machine is kept."""
        super().save_pretrained(save_directory, **options)
        folder = Path(save_directory)
        (folder / "pipeline.py").write_text(OPENER)
        for path in (folder / "model_index.json", *folder.glob("*/*config.json")):
            content = json.loads(path.read_text())
            content.pop("_name_or_path", None)
            if path.parent == folder:
                content["_class_name"] = ["pipeline", type(self).__name__]
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    @torch.no_grad()
    def __call__(
        self,
        conditions: Sequence[Asked] | Asked | None = None,
        *,
        seeds: Sequence[int],
        num_inference_steps: int = 25,
        guidance_scale: float = 1.0,
        allow_unseen: bool = False,
        callback_on_step_end: Callable[["DSAPipeline", int, int, dict], dict] | None = None,
    ) -> np.ndarray:
        """uint8 frames [n, H, W], one for each of `seeds`.

        `conditions`: n of them, or one for all images, each a sentence (§2.3), a Condition or (circulation, plane, primary angle, secondary angle);
        None for the unconditional pipeline. Image i depends on its seed and condition alone, not on what else is in the batch.

        `guidance_scale` w other than 1 takes ε_∅ + w (ε_c − ε_∅), ∅ the empty sentence (Ho & Salimans 2022). `callback_on_step_end` is called as
        diffusers does it, `callback(pipeline, step, timestep, {"latents": z})`, and may give back other latents.

        Raises StudyError for what is no condition, for one that the model never saw (unless `allow_unseen`), and for guidance of a model that was
        trained without condition dropout.
        """
        seeds = list(seeds)
        sentences = self._sentences(conditions, len(seeds), allow_unseen)
        guided = self._guided(guidance_scale, sentences)
        device = self._execution_device
        context = self._context(sentences + [text.EMPTY] * len(seeds) if guided else sentences)

        def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            z = torch.cat([z, z]) if guided else z
            prediction = self.unet(z.to(self.unet.dtype), t, **context).sample.float()
            return guide(*prediction.chunk(2), guidance_scale) if guided else prediction

        def after_step(step: int, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return callback_on_step_end(self, step, t, {"latents": z}).get("latents", z)

        z = sampler.sample(
            predict,
            self.scheduler,
            seeds,
            self.latent_shape,
            num_inference_steps,
            device,
            network=self.unet,
            after_step=None if callback_on_step_end is None else after_step,
            progress=self.progress_bar,
        )
        frames = self.decode(z)
        self.maybe_free_model_hooks()
        return frames

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        return self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size

    def decode(self, z: torch.Tensor) -> np.ndarray:
        """Eq. 6: uint8 frames [n, H, W] of latents [n, C, h, w]."""
        return autoencoder.decode(self.vae, z)

    def _sentences(self, conditions: Sequence[Asked] | Asked | None, count: int, allow_unseen: bool) -> list[str]:
        """The sentences to encode, empty in the unconditional pipeline."""
        if (conditions is None) != (self.text_encoder is None):
            need = (
                "gives sentences or conditions"
                if self.text_encoder is not None
                else "gives none: the unconditional model has no text encoder"
            )
            raise StudyError(f"this pipeline wants a call that {need}")
        if conditions is None:
            return []
        if _is_one(conditions):
            conditions = [conditions] * count
        asked = [as_condition(condition) for condition in conditions]
        if len(asked) != count:
            raise StudyError(f"{len(asked)} conditions for {count} seeds: give one of each an image")
        if self.seen is not None and not allow_unseen:
            self.seen.require(asked)
        return [condition.sentence() for condition in asked]

    def _guided(self, scale: float, sentences: list[str]) -> bool:
        """Whether the empty sentence has a part in the prediction."""
        if not 0 <= scale < float("inf"):
            raise StudyError(
                f"guidance_scale {scale} is not 0 or more: give 1 for no guidance, 1.5 to 4 to lean on the sentence"
            )
        if scale == 1:
            return False
        if not sentences:
            raise StudyError("the unconditional pipeline has no sentence to be guided by: leave guidance_scale at 1")
        if not self.config.condition_dropout:
            raise StudyError(
                f"guidance_scale {scale} needs a model trained with diffusion.condition_dropout above 0; this one knows no empty sentence: leave it at 1"
            )
        return True

    def _context(self, sentences: list[str]) -> dict[str, torch.Tensor | None]:
        """What the UNet attends to: token states and their mask (§4.4); nothing in the unconditional pipeline."""
        if not sentences:
            return {}
        tokens = {
            name: values.to(self._execution_device) for name, values in text.tokenize(self.tokenizer, sentences).items()
        }
        states, mask = text.encode(self.text_encoder, tokens["input_ids"], tokens["attention_mask"])
        return {"encoder_hidden_states": states.to(self.unet.dtype), "encoder_attention_mask": mask}


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """ε_∅ + w (ε_c − ε_∅): 1 is the conditional prediction, 0 the one without a sentence, more than 1 leans on the sentence (Ho & Salimans 2022)."""
    return unconditional + scale * (conditional - unconditional)


def in_batches(
    pipeline: DSAPipeline,
    conditions: Sequence[Asked] | None,
    seeds: Sequence[int],
    batch_size: int,
    what: str = "images",
    **options,
) -> np.ndarray:
    """uint8 frames [n, H, W] of `conditions` (None: of the unconditional model), one for each of `seeds`, `batch_size` at a time.

    `options` are those of the pipeline's call; `what` names the images where progress is told.
    """
    parts = []
    for first in track(range(0, len(seeds), batch_size), what=f"batches of {what}"):
        here = slice(first, first + batch_size)
        parts.append(pipeline(None if conditions is None else conditions[here], seeds=seeds[here], **options))
    return np.concatenate(parts)


def _is_one(conditions: object) -> bool:
    """A single condition, not a sequence of them; a tuple with a number in it is (circulation, plane, primary angle, secondary angle)."""
    if isinstance(conditions, str | Condition):
        return True
    return isinstance(conditions, tuple) and not all(
        isinstance(item, str | Condition | tuple | list) for item in conditions
    )


def watch(
    pipeline: DSAPipeline, condition: Asked | None, seed: int, steps: int, shown: int = 8, guidance: float = 1.0
) -> tuple[list[int], np.ndarray]:
    """One image on its way from noise: t (T to 0, as in Eq. 5) and the latents z_t decoded, uint8 [shown, H, W], at about equal distances."""
    moments = {}

    def keep(pipe: DSAPipeline, step: int, t: torch.Tensor, tensors: dict) -> dict:
        moments[step] = tensors["latents"]
        return tensors

    pipeline(condition, seeds=[seed], num_inference_steps=steps, guidance_scale=guidance, callback_on_step_end=keep)
    # After step i the latent is z at the timestep of step i + 1; after the last one it is z_0. diffusers counts t from 0, the paper from 1.
    times = [*(int(t) + 1 for t in pipeline.scheduler.timesteps), 0]
    latents = [
        sampler.noise([torch.Generator().manual_seed(seed)], pipeline.latent_shape),
        *(moments[step].cpu() for step in sorted(moments)),
    ]
    chosen = np.unique(np.linspace(0, len(latents) - 1, shown).round().astype(int))
    z = torch.cat([latents[index] for index in chosen]).to(pipeline._execution_device)
    return [times[index] for index in chosen], pipeline.decode(z)
