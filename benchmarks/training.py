"""Seconds per training step: this library's loop against a bare PyTorch loop around the same modules.

python benchmarks/training.py                      # autoencoder and conditional diffusion of profile phantom; adds to benchmarks/training.json
python benchmarks/training.py --profile paper      # on a GPU: step time, memory, images/s and model FLOPs utilisation too
                              --compile --channels-last --no-sdpa --batch-size 48 --peak-tflops 989

Each step of the bare loop is taken in the midst of one of ours, so that both meet the same load of the machine; the median of the ratios is told. The bare loop
has the forward and backward pass, clipping where the profile clips, and AdamW: no averaged weights, log, checkpoint or resume. Batches, precision and modules
are the same; data are random numbers, which cost the same as frames.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.ldm import autoencoder, diffusion, text
from dsa_lib.nn import resnet
from dsa_lib.nn.training import Draws, fit, precision_for
from dsa_lib.run.profiles import PROFILES, Profile

# Dense bf16 peak of the tensor cores, TFLOP/s, from the makers' data sheets.
PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "A10": 125, "4090": 165}
WARM = 4  # steps before measuring: memory is claimed, kernels are chosen
SAMPLES = 256


class Case:
    """One model of a profile with its loss on random data."""

    def __init__(self, model: nn.Module, loss: Callable, section):
        self.model, self.loss = model, loss
        self.batch, self.rate, self.clip, self.ema = (
            section.batch_size, section.learning_rate, section.clip_norm, section.ema_decay,
        )  # fmt: skip


def autoencoder_case(profile: Profile, options) -> Case:
    config = replace(profile.autoencoder, batch_size=options.batch_size or profile.autoencoder.batch_size)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (SAMPLES, config.image_size, config.image_size), dtype=np.uint8)
    if config.perceptual == "lpips":
        perceptual = autoencoder.Lpips(None).to(options.device)  # random weights cost the same
    else:
        network = resnet.build_resnet(profile.classifier.width, 1).eval().requires_grad_(False).to(options.device)
        perceptual = autoencoder.FeatureDistance(lambda x: resnet.stage_features(network, (x + 1) / 2))
    model = autoencoder.build_autoencoder(config)
    return Case(model, autoencoder.training_loss(frames, np.arange(SAMPLES), config, perceptual), config)


def diffusion_case(profile: Profile, options) -> Case:
    config = replace(profile.diffusion, batch_size=options.batch_size or profile.diffusion.batch_size)
    shape = autoencoder.latent_shape(profile.autoencoder)
    rng = np.random.default_rng(0)
    mean, std = (rng.random((SAMPLES, *shape), dtype=np.float32).astype(np.float16) for _ in range(2))
    tokenizer = text.build_tokenizer(profile.text.max_tokens)
    sentences = [condition.sentence() for condition in CANONICAL.values()] * (SAMPLES // len(CANONICAL))
    data = diffusion.LatentSet(mean, std, 1.0, sentences, tokenizer)
    unet = diffusion.build_unet(config, shape[0], shape[1], profile.text.width)
    if options.no_sdpa:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())
    model = diffusion.ConditionalDenoiser(unet, text.build_encoder(profile.text, len(tokenizer)))
    return Case(model, diffusion.training_loss(data, diffusion.noise_schedule(config)), config)


CASES = {"autoencoder": autoencoder_case, "conditional diffusion": diffusion_case}


def built(name: str, profile: Profile, options) -> Case:
    torch.manual_seed(0)
    case = CASES[name](profile, options)
    case.model.to(options.device)
    if options.channels_last:
        case.model.to(memory_format=torch.channels_last)
    if options.compile:
        for module in case.model.children():
            module.compile()
    return case


def trained(case: Case, loss: Callable, steps: int, precision: str) -> None:
    """Our loop, with evaluation and checkpoint at the end alone."""
    with tempfile.TemporaryDirectory() as folder:
        fit(
            case.model, loss, size=SAMPLES, steps=steps, batch_size=case.batch, learning_rate=case.rate, seed=1, folder=Path(folder), digest="benchmark",
            evaluate_every=steps, precision=precision, ema_decay=case.ema, clip_norm=case.clip, live=False, log_every_s=10.0, checkpoint_every_s=1e9,
        )  # fmt: skip


class BareLoop:
    """What is left of a training when everything that can be left out is."""

    def __init__(self, case: Case, precision: str, device: torch.device):
        self.case, self.device, self.parameters = case, device, list(case.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=case.rate, weight_decay=0.0, fused=True)
        self.dtype = torch.bfloat16 if precision_for(precision) == "bf16" else None
        case.model.train()

    def loss(self, indices: np.ndarray) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return self.case.loss(self.case.model, indices, Plain(len(indices), self.device))["loss"]

    def step(self, indices: np.ndarray) -> None:
        with torch.autocast(self.device.type, enabled=False):
            self.loss(indices).backward()
            if self.case.clip:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.case.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


class Plain(Draws):
    """Random numbers of a batch from torch's own generator, as anyone would draw them."""

    def __init__(self, size: int, device: torch.device):
        self.size, self.device, self.step = size, device, 0

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(self.size, *shape, device=self.device)

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(self.size, *shape, device=self.device)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, (self.size, *shape), device=self.device)


def now(device: torch.device) -> np.ndarray:
    """Clock and computing time of this process, seconds; what was asked of a GPU is done by then."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def overhead(name: str, profile: Profile, options) -> dict:
    """Our loop and the bare one in turn, a step of each at a time."""
    ours, other = built(name, profile, options), built(name, profile, options)
    bare = BareLoop(other, profile.precision, options.device)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    mark = None

    def loss(model: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        nonlocal mark
        begun = now(options.device)
        bare.step(indices)
        between = now(options.device)
        if mark is not None:  # from the last pair to here, one step of ours was finished
            pairs.append((begun - mark, between - begun))
        mark = now(options.device)
        return ours.loss(model, indices, draws)

    trained(ours, loss, WARM + options.pairs + 1, profile.precision)
    measured = np.array(pairs[WARM:])  # [pairs, ours | bare, clock | computing]
    ratios = np.median(measured[:, 0] / measured[:, 1], axis=0)
    typical = np.median(measured, axis=0)
    return {
        "batch_size": ours.batch,
        "ours_s": round(typical[0, 0], 5),
        "bare_s": round(typical[1, 0], 5),
        "ratio": round(ratios[0], 4),
        "ratio_by_computing_time": round(ratios[1], 4),
        "pairs": len(measured),
    }


def throughput(name: str, profile: Profile, options) -> dict:
    """Our loop by itself, without waiting for the GPU between steps."""
    case = built(name, profile, options)
    bare = BareLoop(case, profile.precision, options.device)
    with FlopCounterMode(display=False) as counted:  # forward and backward pass of one batch
        bare.loss(np.arange(case.batch)).backward()
    case.model.zero_grad(set_to_none=True)
    del bare
    torch.cuda.reset_peak_memory_stats()
    marks = []

    def loss(model: nn.Module, indices: np.ndarray, draws: Draws) -> dict[str, torch.Tensor]:
        if draws.step in (WARM, WARM + options.pairs):
            marks.append(now(options.device)[0])
        return case.loss(model, indices, draws)

    trained(case, loss, WARM + options.pairs + 1, profile.precision)
    seconds = (marks[1] - marks[0]) / options.pairs
    peak = options.peak_tflops or peak_tflops(torch.cuda.get_device_name())
    return {
        "step_s": round(seconds, 5),
        "images_per_s": round(case.batch / seconds, 1),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "tflop_per_step": round(counted.get_total_flops() / 1e12, 3),
        "model_flops_utilisation": round(counted.get_total_flops() / seconds / (peak * 1e12), 3) if peak else None,
    }


def peak_tflops(device: str) -> float | None:
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)


def parameter_memory(profile: Profile) -> dict:
    """Parameters of the profile's models, and the GB that training needs for them at fp32 before any activation: weights, gradients, Adam's two moments."""
    shape = autoencoder.latent_shape(profile.autoencoder)
    vocabulary = len(text.build_tokenizer(profile.text.max_tokens))
    with torch.device("meta"):
        models = {
            "autoencoder": autoencoder.build_autoencoder(profile.autoencoder),
            "unconditional UNet": diffusion.build_unet(profile.diffusion, shape[0], shape[1], None),
            "conditional UNet": diffusion.build_unet(profile.diffusion, shape[0], shape[1], profile.text.width),
            "text encoder": text.build_encoder(profile.text, vocabulary),
        }
    counts = {name: sum(parameter.numel() for parameter in model.parameters()) for name, model in models.items()}
    return {
        name: {"million": round(count / 1e6, 1), "weights_gb": round(4e-9 * count, 2), "training_gb": round(16e-9 * count, 2)}
        for name, count in counts.items()
    }  # fmt: skip


def machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} {processor()}"
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"


def processor() -> str:
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "")
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="phantom", choices=sorted(PROFILES))
    parser.add_argument("--pairs", type=int, default=40, help="steps measured")
    parser.add_argument("--batch-size", type=int, default=0, help="instead of the profile's")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--no-sdpa", action="store_true", help="attention by plain matrix products")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of a GPU that PEAK_TFLOPS does not list")
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    options.device = torch.device("cuda" if on_gpu else "cpu")
    profile = PROFILES[options.profile]
    paper = parameter_memory(PROFILES["paper"])
    for name, figures in paper.items():
        print(
            f"paper, {name}: {figures['million']} M parameters, {figures['weights_gb']} GB, {figures['training_gb']} GB to train"
        )
    if profile.name == "paper" and not on_gpu:
        sys.exit("profile paper is measured on a GPU, and this machine shows none")
    load, result = os.getloadavg()[0], {}
    for name in CASES:
        result[name] = overhead(name, profile, options)
        if on_gpu:
            result[name] |= throughput(name, profile, options)
        told = ", ".join(f"{key} {value}" for key, value in result[name].items())
        print(f"{profile.name}, {name}: {told}", flush=True)
        write(result, profile, options, paper, load)


def write(result: dict, profile: Profile, options, paper: dict, load: float) -> None:
    """Add what was measured to the results; after every model, since they take long on a busy machine."""
    switches = {name: getattr(options, name) for name in ("channels_last", "compile", "no_sdpa")}
    facts = {
        "precision": precision_for(profile.precision).replace("no", "fp32"),
        **switches,
        "machine": machine(options.device),
        "load": f"{load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end",
        "torch": torch.__version__,
    }
    used = [name for name, value in switches.items() if value]
    if options.batch_size:
        used.append(f"batch {options.batch_size}")
    on_gpu = options.device.type == "cuda"
    file = Path(__file__).with_suffix(".json")
    kept = json.loads(file.read_text()) if file.exists() else {}
    kept["what"] = (
        "one training step of dsa_lib.nn.training.fit (ours) and of a bare loop, medians; ratio: median of ours / bare over interleaved pairs"
    )
    kept["paper: million parameters, GB of fp32 weights, GB with gradients and Adam's moments"] = paper
    kept[" ".join([f"{profile.name} on {'GPU' if on_gpu else 'CPU'}", *used])] = result | facts
    kept["measured on a GPU"] = on_gpu or kept.get("measured on a GPU", False)
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
