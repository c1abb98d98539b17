"""Channels last against the usual order of memory, for networks that are applied on a CPU: seconds in pairs, one after the other, and their ratio.

    python benchmarks/memory_format.py

writes benchmarks/memory_format.json: sampling of 40 images and decoding of 64 by the shipped phantom model, with 1 and 2 threads. Each figure is the median
of PAIRS ratios (usual order / channels last, so that above 1 is faster), with the smallest and the largest.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.ldm import autoencoder, sampler
from dsa_lib.nn.memory_format import channels_last
from dsa_lib.pipeline import DSAPipeline
from dsa_lib.run.places import PROJECT
from dsa_lib.run.session import processor

PAIRS, STEPS = 5, 10


def main() -> None:
    dsa = DSAPipeline.from_pretrained(PROJECT / "models" / "phantom")
    dsa.set_progress_bar_config(disable=True)
    sentences = [condition.sentence() for condition in CANONICAL.values()] * 10
    latents = torch.randn(64, dsa.unet.config.in_channels, dsa.unet.config.sample_size, dsa.unet.config.sample_size)
    work = {
        "sampling of 40 images": lambda: dsa(sentences, seeds=list(range(40)), num_inference_steps=STEPS),
        "decoding of 64 images": lambda: dsa.decode(latents),
    }
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, call in work.items():
            title = f"{name}, {threads} thread{'s' * (threads > 1)}"
            found[title] = compare(call)
            print(title, found[title], flush=True)
    record = {"processor": processor(), "torch": torch.__version__, "pairs": PAIRS, "ratios": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def compare(call: Callable[[], object]) -> dict[str, float]:
    """Ratios of the seconds in the usual order over those channels last."""
    call()  # once for what a first call sets up
    ratios = []
    for _ in range(PAIRS):
        usual = seconds(call, lambda *networks: contextlib.nullcontext())
        ratios.append(usual / seconds(call, channels_last))
    return {
        "median": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
    }


def seconds(call: Callable[[], object], order: Callable) -> float:
    for module in (autoencoder, sampler):
        module.channels_last = order
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
