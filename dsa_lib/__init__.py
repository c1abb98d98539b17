"""Shared library of the DSA synthesis compendium: one module per idea, imported by the numbered notebooks."""

from dsa_lib import _torchvision_ops  # noqa: F401  must come before anything that imports torchvision

__version__ = "0.1.0"
