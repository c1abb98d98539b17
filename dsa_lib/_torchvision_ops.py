"""Make torchvision importable beside a torch build that its compiled operators were not made for.

torchvision registers shape functions for `torchvision::nms` and `torchvision::qnms` while it is imported. Its wheel from the package index is a
CUDA build; beside a CPU build of torch the compiled library does not load, the two operators do not exist, and the import fails, taking
transformers, diffusers, lpips and torch-fidelity with it. Declaring the operators first cures that. They are never called in this project.
"""

import importlib.machinery
import importlib.util
from pathlib import Path

import torch


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
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


_DECLARATIONS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None  # kept alive: the declarations go when it is collected

if not _compiled_operators_load():
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _name, _schema in _DECLARATIONS.items():
        if not hasattr(torch.ops.torchvision, _name):
            _library.define(_schema)
