"""Features of two public networks, for users who put their weights at hand: DINOv2 and RadImageNet. Neither is downloaded, neither distance is an FID.

No public sha256 of these weights is listed with this project, so a file cannot be told to be the right one. What is found is loaded without running code that
may lie in it (safetensors, or tensors only), its sha256 is printed and kept in the run's manifest, and `fidelity.weights_sha256` makes
a run insist on one: the hash says whether two runs measured with the same network, not where it came from.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dsa_lib.fidelity.extractor import Extractor, identity
from dsa_lib.nn.processes import default_device
from dsa_lib.nn.public_weights import weights_folder
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import sha256

DINOV2_DISTANCE = "Fréchet distance in DINOv2 features"
RADIMAGENET_DISTANCE = "Fréchet distance in RadImageNet features"
SIDE = 224  # pixels, the input of both
IMAGENET_MEAN, IMAGENET_SD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of [0, 1], as DINOv2 was trained (Oquab et al. 2023)
RADIMAGENET_FILE = "radimagenet-resnet50.pt"
# The published file names the children of torchvision's resnet50 by their position in a sequence called "backbone" (github.com/BMEII-AI/RadImageNet).
_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def open_public(name: str, batch_size: int, wanted_sha256: str = "") -> Extractor:
    """The extractor "dinov2" or "radimagenet". Raises StudyError where its weights are not at hand, unfit, or not those of `wanted_sha256`."""
    return {"dinov2": dinov2_extractor, "radimagenet": radimagenet_extractor}[name](batch_size, wanted_sha256)


def dinov2_extractor(batch_size: int, wanted_sha256: str = "") -> Extractor:
    """The class token of a DINOv2 vision transformer (Oquab et al. 2023; as features for distances: Stein et al. 2023), in the folder dinov2-… of the
    weights folder, as transformers saves it (config.json, model.safetensors). Frames resized to 224², three equal channels, ImageNet's mean and SD."""
    from transformers import Dinov2Model
    from transformers.utils import logging

    folders = [path for path in sorted(weights_folder().glob("dinov2-*")) if path.is_dir()]
    if len(folders) != 1:
        found = f"holds {len(folders)} of them" if folders else "holds none"
        raise StudyError(
            f"features dinov2 take one folder dinov2-… with config.json and model.safetensors, and {weights_folder()} {found}: "
            "put the model there, e.g. facebook/dinov2-large as dinov2-large"
        )
    file = folders[0] / "model.safetensors"
    if not file.is_file():
        raise StudyError(
            f"{folders[0]} has no model.safetensors: save the model there in that format; files that can hold code are not opened"
        )
    digest = _checked(file, wanted_sha256)
    logging.disable_progress_bar()
    try:
        network, problems = Dinov2Model.from_pretrained(
            folders[0], local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"{folders[0]} cannot be opened as a DINOv2 model ({type(error).__name__}): put config.json and model.safetensors of one model there"
        ) from None
    if problems["missing_keys"] or problems["mismatched_keys"]:
        raise StudyError(
            f"{file} lacks weights of the DINOv2 model that its config.json describes: fetch both from one place"
        )
    network = network.to(default_device()).eval()

    def class_token(images: torch.Tensor) -> torch.Tensor:
        return network(pixel_values=images).last_hidden_state[:, 0]

    mean, sd = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_SD))
    return _extractor("dinov2", DINOV2_DISTANCE, class_token, mean, sd, batch_size, file, digest)


def radimagenet_extractor(batch_size: int, wanted_sha256: str = "") -> Extractor:
    """Average-pooled output (2048 values) of the ResNet-50 trained on radiological images (Mei et al., Radiology: AI 2022), from radimagenet-resnet50.pt in
    the weights folder: the published state dict, or one with torchvision's names. Frames resized to 224², grey 0–255 mapped to −1–1, as it was trained."""
    from torchvision.models import resnet50

    file = weights_folder() / RADIMAGENET_FILE
    if not file.is_file():
        raise StudyError(
            f"features radimagenet need {RADIMAGENET_FILE} in {weights_folder()}: put ResNet50.pt of github.com/BMEII-AI/RadImageNet there under this name"
        )
    digest = _checked(file, wanted_sha256)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network = resnet50(weights=None)
        network.fc = nn.Identity()
        network.load_state_dict(
            {_torchvision_name(key): value for key, value in state.items() if not key.startswith("fc.")}
        )
    except Exception as error:  # of torch.load alone: UnpicklingError, RuntimeError, EOFError
        raise StudyError(
            f"{file} is not the state dict of a ResNet-50 without its head ({type(error).__name__}): fetch it again"
        ) from None
    network = network.to(default_device()).eval()
    return _extractor(
        "radimagenet", RADIMAGENET_DISTANCE, network, torch.tensor(0.5), torch.tensor(0.5), batch_size, file, digest
    )


def _torchvision_name(key: str) -> str:
    """ "backbone.4.0.conv1.weight" → "layer1.0.conv1.weight"; other names are left as they are."""
    first, _, rest = key.partition(".")
    index, _, rest = rest.partition(".")
    return f"{_CHILDREN[int(index)]}.{rest}" if first == "backbone" else key


def _checked(file: Path, wanted: str) -> str:
    """sha256 of the file; StudyError where it is not `wanted` (if that is given)."""
    digest = sha256(file)
    if wanted and digest != wanted.lower():
        raise StudyError(
            f"{file} has the sha256 {digest}, and fidelity.weights_sha256 asks for {wanted}: fetch the other file, or correct the hash"
        )
    print(f"{file.name}: sha256 {digest}", flush=True)
    return digest


def _extractor(name, distance, network, mean, sd, batch_size: int, file: Path, digest: str) -> Extractor:
    @torch.no_grad()
    def compute(frames: np.ndarray) -> np.ndarray:
        images = torch.tensor(frames)[:, None].float() / 255
        images = F.interpolate(images, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return network(((images - mean) / sd).expand(-1, 3, -1, -1).to(default_device())).float().cpu().numpy()

    return Extractor(
        name,
        distance,
        compute,
        batch_size,
        identity(name, weights=file, code=[sys.modules[__name__]]),
        weights_sha256=digest,
    )
