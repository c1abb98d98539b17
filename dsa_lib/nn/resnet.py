"""The one ResNet of the project (§4.2): built, fed, opened at its stages, saved and loaded."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging

from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import Curation
from dsa_lib.run.workspace import atomic_write


def build_resnet(width: int, outputs: int) -> nn.Module:
    """ResNet-18 (He et al., CVPR 2016, Table 1) for one channel, `width` channels in its first stage (64 is the original), `outputs` logits."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=1,
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=outputs,
    )
    return ResNetForImageClassification(config)


def to_input(frames: np.ndarray, size: int) -> torch.Tensor:
    """uint8 frames [n, H, W] as a network's input: float [n, 1, size, size] in [0, 1], antialiased bilinear resize (§4.2)."""
    x = torch.tensor(np.asarray(frames))[:, None].float() / 255
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def stage_features(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of the four stages for x [n, 1, h, w] in [0, 1]: [n, w, h/4, …], [n, 2w, h/8, …], [n, 4w, h/16, …], [n, 8w, h/32, …].

    Differentiable in x. Put `model` into eval mode first: in training mode batch normalisation would mix the images of a batch.
    """
    return list(model.resnet(x, output_hidden_states=True).hidden_states[1:])


def save_classifier(folder: Path, model: nn.Module, facts: dict) -> None:
    """Write the network (safetensors) and `facts` (classifier.json) to `folder`, in one step."""
    logging.disable_progress_bar()  # one small file: a bar of its own says nothing
    with atomic_write(folder) as temporary:
        model.save_pretrained(temporary)
        (temporary / "classifier.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def load_classifier(folder: Path, curation: Curation | None = None) -> tuple[nn.Module, dict]:
    """The network in eval mode and its facts from a folder written by `save_classifier`.

    Raises StudyError if the folder holds none, or if `curation` (of the frames it is meant for) maps contrast to grey in another way.
    """
    from transformers import ResNetForImageClassification

    logging.disable_progress_bar()
    try:
        facts = json.loads((Path(folder) / "classifier.json").read_text())
        model = ResNetForImageClassification.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise StudyError(
            f"the folder {Path(folder).name!r} does not hold a trained classifier ({type(error).__name__}): give the classifier folder that notebook 02 wrote"
        ) from None
    for name in ("background_grey", "contrast_per_grey"):
        if curation is not None and facts.get(name) != getattr(curation, name):
            raise StudyError(
                f"the classifier was trained on frames with {name} {facts.get(name)}, these have {getattr(curation, name)}: "
                f"set curation.{name} alike and run notebooks/01_curation.ipynb again"
            )
    return model.eval(), facts
