"""Make torchvision importable beside a torch build that its compiled operators were not made for.

torchvision registers shape functions for `torchvision::nms` and `torchvision::qnms` while it is imported. Its wheel from the package index is a
CUDA build; beside a CPU build of torch the compiled library does not load, the two operators do not exist, and the import fails, taking
transformers, diffusers, lpips and torch-fidelity with it. Declaring the operators first cures that. They are never called in this project.

It is done at the first import of torchvision, not before: importing torch takes over a second and 200 MB, which processes that only read files do without.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path


def _compiled_operators_load() -> bool:
    """True where torchvision is absent (nothing to cure) or its compiled operator library loads beside this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = Path(spec.origin).parent / f"_C{suffix}"
        if library.exists():
            break
    else:
        libraries = list(Path(spec.origin).parent.glob("_C*.so"))
        if not libraries:
            return False
        library = libraries[0]
    import torch

    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


_DECLARATIONS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list = []  # the torch.library.Library: its declarations go when it is collected


def _declare() -> None:
    if _compiled_operators_load():
        return
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _DECLARATIONS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _kept.append(library)


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is looked for the first time."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)  # first: the check below looks for torchvision too
            _declare()


def declare_before_torchvision() -> None:
    """Have the operators declared when torchvision is first imported; nothing to do where it has been."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())
