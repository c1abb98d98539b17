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
    on_cpu = [network for network in networks if next(network.parameters()).device.type == "cpu"]
    for network in on_cpu:
        network.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for network in on_cpu:
            network.to(memory_format=torch.contiguous_format)
