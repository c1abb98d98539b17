"""The scripts of benchmarks/ as modules, for tests of what they write and count."""

import importlib.util
from types import ModuleType

from dsa_lib.run.workspace import PROJECT


def load(name: str) -> ModuleType:
    """benchmarks/<name>.py, run as far as its definitions; under a name of its own, for some are called as a module of the library is."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", PROJECT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
