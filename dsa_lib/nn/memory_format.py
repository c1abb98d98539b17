"""The order in which images lie in memory while a network is applied."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def channels_last(*networks: nn.Module) -> Iterator[None]:
    """Within it, the convolutions of `networks` that are on a CPU work channels last, which is faster there (`benchmarks/memory_format.json`).

    For networks that are applied, not trained: gradients gain nothing. Afterwards the weights lie as before.
    """
    kernels = [
        weight
        for network in networks
        for weight in network.parameters()
        if weight.dim() == 4 and weight.device.type == "cpu"
    ]
    before = [weight.data for weight in kernels]
    for weight in kernels:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight, data in zip(kernels, before, strict=True):
            weight.data = data
