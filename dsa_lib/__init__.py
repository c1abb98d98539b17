"""Shared library of the DSA synthesis compendium: one package a topic, one module an idea, imported by the numbered notebooks."""

from dsa_lib import _torchvision_ops

_torchvision_ops.declare_before_torchvision()  # before anything can import torchvision

__version__ = "0.1.0"
