"""Channels last while a network is applied: the same answer, and weights that lie as before."""

import pytest
import torch
from torch import nn

from dsa_lib.nn.memory_format import channels_last


def test_the_answer_is_the_same_and_the_weights_lie_as_before():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 3)), torch.randn(2, 3, 9, 7)
    weight = network[0].weight
    with torch.no_grad():
        wanted = network(x)
        with channels_last(network):
            assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
            got = network(x)
    assert torch.allclose(got, wanted, atol=1e-6)
    assert network[0].weight is weight and weight.is_contiguous()


def test_one_by_one_kernels_have_their_strides_back():
    """Both formats hold for them, so that a conversion back would leave them as they are."""
    network = nn.Conv2d(4, 6, 1)
    before = network.weight.stride()
    with channels_last(network):
        pass
    assert network.weight.stride() == before


def test_an_error_leaves_the_weights_as_they_were():
    network = nn.Conv2d(3, 8, 3)
    with pytest.raises(ValueError), channels_last(network):
        raise ValueError
    assert network.weight.is_contiguous()
