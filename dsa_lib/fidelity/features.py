"""Feature extractors: frames in, one vector an image out, computed once and used by every metric.

"inception": pool3 of the Inception-V3 that the Fréchet inception distance is defined with (§2.5; torch-fidelity's network and weights).
"dsa-network" and "phase-network": stage means of networks that the run itself trained; always at hand, and their distance is called "DSA-feature distance",
never FID. The phase network has a part in the autoencoder's loss where `autoencoder.perceptual` says so; the DSA network in none of the models it measures.
"dinov2" and "radimagenet": public networks, where their weights are at hand (`dsa_lib.fidelity.public_features`).
"""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dsa_lib.core.images import check_frames
from dsa_lib.fidelity import dsa_network, public_features
from dsa_lib.fidelity.extractor import Extractor, cached, identity
from dsa_lib.nn import public_weights, resnet
from dsa_lib.nn.processes import default_device
from dsa_lib.run.errors import StudyError
from dsa_lib.run.session import Study

FID = "FID"
DSA_DISTANCE = "DSA-feature distance"
INCEPTION_SIZE = 256  # §2.5: images resized to 256×256 before the network
# Stages of the run's own networks whose channel means make up the feature vector (width·(1 + 2 + 4) values). On real frames altered on purpose, relative
# to the floor: the first three answer to blur, contrast, noise, wrong layout, wrong condition and few distinct images alike. The last stage alone answers
# strongly to layout and weakly to contrast and noise; with it the dimension more than doubles, and the ratio of dimension to
# images sets the bias of a Fréchet distance.
STAGES = (0, 1, 2)
SCALE_FRAMES = 2048  # training frames, at most, whose spread the stages are measured in


def of_run(study: Study, frames: np.ndarray, train_rows: np.ndarray, network: Path | None) -> Extractor:
    """The extractor that the run's `fidelity.features` names, with its cache in the run's `checkpoints/features`; otherwise as `open_extractor`.

    frames: uint8 [n, H, W], all of the run; train_rows: the rows of its training frames, of which SCALE_FRAMES at most, drawn by the run's seed, set the
    scale; network: folder of the run's DSA network, None where it has none. Inception's features need neither network.
    """
    settings = study.profile.fidelity
    if settings.features == "inception":
        return cached(inception_extractor(settings.batch_size), study.ws.checkpoints("features"))
    some = np.sort(np.random.default_rng(study.profile.seed).permutation(train_rows)[:SCALE_FRAMES])
    classifier = study.read("classifier")
    extractor = open_extractor(
        settings.features,
        classifier=classifier,
        size=resnet.load_classifier(classifier)[1]["input_size"],
        batch_size=settings.batch_size,
        training_frames=frames[some],
        network=network,
        weights_sha256=settings.weights_sha256,
    )
    return cached(extractor, study.ws.checkpoints("features"))


def open_extractor(
    name: str,
    *,
    classifier: Path,
    size: int,
    batch_size: int,
    training_frames: np.ndarray,
    network: Path | None = None,
    weights_sha256: str = "",
) -> Extractor:
    """The extractor that profile field `fidelity.features` names.

    `classifier` is the run's phase network, `size` its input size, `network` the run's DSA network (None where none was trained), `weights_sha256` what
    the weights of a public network must have ("": any). Raises StudyError for an unknown name or weights that cannot be had.
    """
    if name == "inception":
        return inception_extractor(batch_size)
    if name == "dsa-network":
        if network is None:
            raise StudyError(
                "features dsa-network need the run's DSA network, and none could be trained: set fidelity.features to phase-network"
            )
        return dsa_extractor(network, batch_size, training_frames)
    if name == "phase-network":
        return phase_extractor(classifier, size, batch_size, training_frames)
    if name in ("dinov2", "radimagenet"):
        return public_features.open_public(name, batch_size, weights_sha256)
    raise StudyError(f"fidelity.features {name!r} is not inception, dsa-network, phase-network, dinov2 or radimagenet")


def check_weights(name: str, weights_sha256: str = "") -> None:
    """Raise StudyError now if the published weights of the features `name` cannot be had; the run's own networks need none."""
    if name == "inception":
        public_weights.weights_file("inception-v3-fid")
    elif name in ("dinov2", "radimagenet"):
        public_features.open_public(name, 1, weights_sha256)


def phase_extractor(classifier: Path, size: int, batch_size: int, training_frames: np.ndarray) -> Extractor:
    """Stage means of the run's phase network in the folder `classifier`, at input `size`; see `stage_extractor`."""
    from transformers import ResNetForImageClassification

    model = ResNetForImageClassification.from_pretrained(classifier)
    return stage_extractor("phase-network", model, size, batch_size, training_frames)


def dsa_extractor(network: Path, batch_size: int, training_frames: np.ndarray) -> Extractor:
    """Stage means of the run's DSA network in the folder `network`, at its own input size; see `stage_extractor`."""
    model, facts = dsa_network.load(network)
    return stage_extractor("dsa-network", model, facts.input_size, batch_size, training_frames)


def stage_extractor(name: str, model: nn.Module, size: int, batch_size: int, training_frames: np.ndarray) -> Extractor:
    """Channel means of the first stages (STAGES) of a network that `resnet.build_resnet` made, at input `size`.

    Each stage is centred on its mean over `training_frames` (real, uint8 [n, H, W]) and divided by one number, the root of its mean channel variance
    there. Stages then weigh alike, and a distance reads in units of the spread of real frames: the mean channel variance of real frames is 1.
    One number a stage and not one a channel, because dividing a nearly dead channel by its spread would blow up noise.
    """
    check_frames(training_frames, "real training frames", least=2)
    device = default_device()
    model = model.to(device).eval()

    @torch.no_grad()
    def stage_means(frames: np.ndarray) -> list[torch.Tensor]:
        maps = resnet.stage_features(model, resnet.to_input(frames, size).to(device))
        return [maps[stage].mean(dim=(2, 3)).double().cpu() for stage in STAGES]

    scales = _stage_scales(name, stage_means, training_frames, batch_size)

    def compute(frames: np.ndarray) -> np.ndarray:
        means = stage_means(frames)
        return (
            torch.cat([(m - centre) / spread for m, (centre, spread) in zip(means, scales, strict=True)], 1)
            .float()
            .numpy()
        )

    digest = identity(size, STAGES, [(c.tolist(), s.item()) for c, s in scales], weights=model, code=[resnet])
    return Extractor(name, DSA_DISTANCE, compute, batch_size, digest)


def _stage_scales(
    name: str, stage_means: Callable, frames: np.ndarray, batch_size: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = [stage_means(frames[start : start + batch_size]) for start in range(0, len(frames), batch_size)]
    stages = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    scales = [(stage.mean(0), stage.var(0).mean().sqrt()) for stage in stages]
    if any(not torch.isfinite(spread) or spread <= 0 for _, spread in scales):
        notebook = "07_fid" if name == "dsa-network" else "02_classifier"
        raise StudyError(
            f"a stage of the {name} gives the same value for every training frame: its training failed; run notebooks/{notebook}.ipynb again"
        )
    return scales


def inception_extractor(batch_size: int, weights: Path | None = None) -> Extractor:
    """pool3 (2048 values) of torch-fidelity's Inception-V3, frames resized to 256² and replicated to three channels (§2.5).

    `weights`: a file in torch-fidelity's format; by default the listed one (`nn.public_weights`), which is checked against its sha256. Raises StudyError
    for a file of another kind, or one that holds more than tensors.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = weights if weights is not None else public_weights.weights_file("inception-v3-fid")
    try:
        with _tensors_only():
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
            )
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudyError(
            f"{path} is not a weights file of torch-fidelity's Inception-V3 ({reason}): put the one listed in data_manifests/public_weights.csv there"
        ) from None
    network = network.to(default_device())

    @torch.no_grad()
    def compute(frames: np.ndarray) -> np.ndarray:
        images = _resized(torch.from_numpy(frames)[:, None], INCEPTION_SIZE).expand(-1, 3, -1, -1)
        return network(images.to(default_device()))[0].float().cpu().numpy()

    return Extractor("inception", FID, compute, batch_size, identity(INCEPTION_SIZE, weights=Path(path)))


def _resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [n, 1, H, W] at `size`², antialiased bicubic and rounded to whole greys, as an image file would hold it; unchanged where it fits."""
    if images.shape[-2:] == (size, size):
        return images
    resized = F.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8)


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Within it, torch.load reads tensors only, whatever the caller asks for (torch-fidelity asks for full unpickling)."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
