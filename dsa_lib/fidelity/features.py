"""Feature extractors: frames in, one vector an image out, computed once and used by every metric.

"inception": pool3 of the Inception-V3 that the Fréchet inception distance is defined with (§2.5; torch-fidelity's network and weights).
"dsa-network" and "phase-network": stage means of networks that the run itself trained; always at hand, and their distance is called "DSA-feature distance",
never FID. The phase network has a part in the autoencoder's loss where `autoencoder.perceptual` says so; the DSA network in none of the models it measures.
"dinov2" and "radimagenet": public networks, where their weights are at hand (`dsa_lib.fidelity.public_features`).
"""

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dsa_lib.fidelity.extractor import FeatureCache
from dsa_lib.run.errors import StudyError
from dsa_lib.run.progress import track
from dsa_lib.run.workspace import sha256

FID = "FID"
DSA_DISTANCE = "DSA-feature distance"
INCEPTION_SIZE = 256  # §2.5: images resized to 256×256 before the network
# Stages of the run's own networks whose channel means make up the feature vector (width·(1 + 2 + 4) values). On real frames altered on purpose, relative
# to the floor: the first three answer to blur, contrast, noise, wrong layout, wrong condition and few distinct images alike. The last stage alone answers
# strongly to layout and weakly to contrast and noise; with it the dimension more than doubles, and the ratio of dimension to
# images sets the bias of a Fréchet distance.
STAGES = (0, 1, 2)


BLOCK_BATCHES = 8  # of features kept together on disk: an interruption costs no more than that


@dataclass(frozen=True)
class Extractor:
    """A feature extractor: `name`, the `distance` it may be reported as, and `compute` (uint8 frames [b, H, W] → float32 [b, d]).

    `digest` stands for everything that decides its values (`identity`); with it, `cached` keeps features on disk. `weights_sha256`: hash of the weights where
    they come from outside the run and no public hash is known; provenance has to name it.
    """

    name: str
    distance: str
    compute: Callable[[np.ndarray], np.ndarray]
    batch_size: int = 64
    digest: str = ""
    cache: FeatureCache | None = None
    weights_sha256: str = ""

    def __call__(self, frames: np.ndarray, rows: np.ndarray | None = None, what: str = "frames") -> np.ndarray:
        """Features [n, d] (float32) of uint8 frames [n, H, W], or of their `rows` alone.

        A memory map or `images.ImageFiles` is read batch by batch: beyond the features, two batches are in memory at a time. `what` names the set in
        messages. Raises StudyError on frames unfit for use, and on values that are not finite as soon as a batch has them.
        """
        check_frames(frames, what)
        rows = np.arange(len(frames)) if rows is None else np.asarray(rows)
        if len(rows) == 0:
            raise StudyError(f"{what} number 0: there is nothing to compute features of")
        features, done = None, 0
        batches = -(-len(rows) // self.batch_size)
        for values in track(self._batches(frames, rows), batches, f"batches of {self.name} features, {what}"):
            check_features(values, f"{self.name} features of the {what}", first=done)
            if features is None:
                features = np.empty((len(rows), values.shape[1]), np.float32)
            features[done : done + len(values)] = values
            done += len(values)
        return features

    def _batches(self, frames, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Features of one batch after the other; blocks that the cache has are read from it, others computed and kept there."""
        if self.cache is None:
            yield from map(self.compute, _read_ahead(frames, rows, self.batch_size))
            return
        size = self.batch_size * BLOCK_BATCHES
        for block in (rows[start : start + size] for start in range(0, len(rows), size)):
            path = self.cache.path(frames, block)
            values = self.cache.load(path, len(block))
            if values is not None:
                yield from (values[start : start + self.batch_size] for start in range(0, len(block), self.batch_size))
                continue
            parts = []
            for images in _read_ahead(frames, block, self.batch_size):
                parts.append(self.compute(images))
                yield parts[-1]
            # Reached only when the caller found the values finite.
            self.cache.store(path, np.concatenate(parts).astype(np.float32))


def _read_ahead(frames, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`frames` at `rows` in batches; the next batch is read, and decoded where it lies in files, while the last is worked on."""

    def read(start: int) -> np.ndarray:
        return np.ascontiguousarray(frames[rows[start : start + size]])

    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(read, 0)
        for start in range(size, len(rows) + size, size):
            images = following.result()
            if start < len(rows):
                following = reader.submit(read, start)
            yield images


def cached(extractor: Extractor, folder: Path) -> Extractor:
    """`extractor`, which from now on keeps its features under `folder` and takes them from there. One without a digest stays as it is."""
    if not extractor.digest:
        return extractor
    return replace(extractor, cache=FeatureCache(folder, extractor.name, extractor.digest))


def identity(*facts: object, weights: Path | torch.nn.Module, code: Sequence[ModuleType] = ()) -> str:
    """Digest of an extractor: its `weights` (a file, or a network's values), the source of this module and of `code`, and further `facts` (by repr)."""
    digest = hashlib.sha256(repr(facts).encode())
    for file in (Path(__file__), *(Path(module.__file__) for module in code)):
        digest.update(sha256(file).encode())
    if isinstance(weights, Path):
        digest.update(sha256(weights).encode())
    else:
        for name, value in sorted(weights.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_frames(frames: np.ndarray, what: str, least: int = 1) -> None:
    """Raise StudyError unless `frames` is uint8 [n ≥ least, H, W]."""
    if frames.ndim != 3 or frames.dtype != np.uint8:
        raise StudyError(
            f"{what} are {frames.dtype} of shape {frames.shape}: 8-bit grey images [n, height, width] are needed; export them as such"
        )
    if len(frames) < least:
        raise StudyError(f"{what} number {len(frames)}, and at least {least} are needed: generate or hold out more")


def check_features(features: np.ndarray, what: str, first: int = 0) -> np.ndarray:
    """`features` if finite; StudyError otherwise. `first`: the number of the first image, where these are one batch of several."""
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise StudyError(
            f"{what}: {bad.sum()} of {len(features)} images give values that are not finite (first: image {first + int(np.flatnonzero(bad)[0])}); "
            "look at those images and at the network's weights"
        )
    return features


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
        from dsa_lib.fidelity import public_features

        return public_features.open_public(name, batch_size, weights_sha256)
    raise StudyError(f"fidelity.features {name!r} is not inception, dsa-network, phase-network, dinov2 or radimagenet")


def check_weights(name: str, weights_sha256: str = "") -> None:
    """Raise StudyError now if the published weights of the features `name` cannot be had; the run's own networks need none."""
    if name == "inception":
        from dsa_lib.nn.public_weights import weights_file

        weights_file("inception-v3-fid")
    elif name in ("dinov2", "radimagenet"):
        from dsa_lib.fidelity import public_features

        public_features.open_public(name, 1, weights_sha256)


def phase_extractor(classifier: Path, size: int, batch_size: int, training_frames: np.ndarray) -> Extractor:
    """Stage means of the run's phase network in the folder `classifier`, at input `size`; see `stage_extractor`."""
    from transformers import ResNetForImageClassification

    model = ResNetForImageClassification.from_pretrained(classifier)
    return stage_extractor("phase-network", model, size, batch_size, training_frames)


def dsa_extractor(network: Path, batch_size: int, training_frames: np.ndarray) -> Extractor:
    """Stage means of the run's DSA network in the folder `network`, at its own input size; see `stage_extractor`."""
    from dsa_lib.fidelity import dsa_network

    model, facts = dsa_network.load(network)
    return stage_extractor("dsa-network", model, facts.input_size, batch_size, training_frames)


def stage_extractor(name: str, model: nn.Module, size: int, batch_size: int, training_frames: np.ndarray) -> Extractor:
    """Channel means of the first stages (STAGES) of a network that `phase.build_resnet` made, at input `size`.

    Each stage is centred on its mean over `training_frames` (real, uint8 [n, H, W]) and divided by one number, the root of its mean channel variance
    there. Stages then weigh alike, and a distance reads in units of the spread of real frames: the mean channel variance of real frames is 1.
    One number a stage and not one a channel, because dividing a nearly dead channel by its spread would blow up noise.
    """
    from dsa_lib.curation import phase

    check_frames(training_frames, "real training frames", least=2)
    device = _device()
    model = model.to(device).eval()

    @torch.no_grad()
    def stage_means(frames: np.ndarray) -> list[torch.Tensor]:
        maps = phase.stage_features(model, phase.to_input(frames, size).to(device))
        return [maps[stage].mean(dim=(2, 3)).double().cpu() for stage in STAGES]

    scales = _stage_scales(name, stage_means, training_frames, batch_size)

    def compute(frames: np.ndarray) -> np.ndarray:
        means = stage_means(frames)
        return (
            torch.cat([(m - centre) / spread for m, (centre, spread) in zip(means, scales, strict=True)], 1)
            .float()
            .numpy()
        )

    digest = identity(size, STAGES, [(c.tolist(), s.item()) for c, s in scales], weights=model, code=[phase])
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

    from dsa_lib.nn.public_weights import weights_file

    path = weights if weights is not None else weights_file("inception-v3-fid")
    try:
        with _tensors_only():
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
            )
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudyError(
            f"{path} is not a weights file of torch-fidelity's Inception-V3 ({reason}): put the one listed in data_manifests/weights.csv there"
        ) from None
    network = network.to(_device())

    @torch.no_grad()
    def compute(frames: np.ndarray) -> np.ndarray:
        images = _resized(torch.from_numpy(frames)[:, None], INCEPTION_SIZE).expand(-1, 3, -1, -1)
        return network(images.to(_device()))[0].float().cpu().numpy()

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


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
