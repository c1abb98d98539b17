"""The environment is asked for and pinned once: what is imported, requirements.in, pyproject.toml, pip's lock and conda's file must agree."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from dsa_lib.run.places import PROJECT


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines):
    return {
        canonical(name): pinned
        for name, pinned in (line.strip().split("==") for line in lines if line.strip() and not line.startswith("#"))
    }


def required():
    """(names that requirements.in calls imported, names that it calls not imported)."""
    names = {True: set(), False: set()}
    for line in (PROJECT / "requirements.in").read_text().splitlines():
        if line.startswith("#"):
            is_imported = not line.startswith("# Not imported")
        else:
            name = canonical(Requirement(line).name)
            assert name not in names[True] | names[False], f"requirements.in names {name} twice"
            names[is_imported].add(name)
    return names[True], names[False]


def sources(*places):
    for place in (PROJECT / name for name in places):
        yield from place.rglob("*.py") if place.is_dir() else [place]


def imported(paths):
    """Distributions that the sources import, at the top or inside a function; the standard library and the project's own modules left out."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    installed = packages_distributions()
    own = {"dsa_lib"} | {path.stem for path in sources("tests", "benchmarks", "workflow")}
    others = names - own - sys.stdlib_module_names
    return {canonical(installed[name][0]) if name in installed else name for name in others}


LOCK = pins((PROJECT / "requirements.lock").read_text().splitlines())
IMPORTED, NOT_IMPORTED = required()
DECODERS = {name for name in NOT_IMPORTED if name.startswith("pylibjpeg")}  # pydicom looks for them by itself
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
OF_LIBRARY = [Requirement(line) for line in SETTINGS["dependencies"]]
OF_GROUPS = [Requirement(line) for group in SETTINGS["optional-dependencies"].values() for line in group]


def test_what_is_imported_is_required_and_nothing_else():
    found = imported(sources("dsa_lib", "notebooks", "workflow", "tests", "benchmarks", "setup.py"))
    assert found - IMPORTED == set(), "imported, but not in requirements.in"
    assert IMPORTED - found == set(), "in requirements.in as imported, and nothing imports it"
    assert NOT_IMPORTED & found == set(), "in requirements.in as not imported"


def test_the_library_depends_on_what_it_imports():
    """All but the server of the rating page, which asks for itself."""
    named = {canonical(item.name) for item in OF_LIBRARY}
    assert named == imported(sources("dsa_lib")) - {"voila"} | DECODERS


def test_pip_and_requirements_name_the_same():
    assert {canonical(item.name) for item in OF_LIBRARY + OF_GROUPS} == IMPORTED | NOT_IMPORTED


@pytest.mark.parametrize("item", OF_LIBRARY + OF_GROUPS, ids=str)
def test_what_is_locked_satisfies_the_library(item):
    """No upper bound: an installed build of torch for the CPU is never replaced by one for CUDA."""
    assert item.specifier.contains(LOCK[canonical(item.name)])
    assert [bound.operator for bound in item.specifier] == [">="]


def test_conda_and_pip_pin_the_same_versions():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pins(pip) == LOCK
    assert "python=3.11" in environment["dependencies"]


def test_every_requirement_is_locked():
    assert IMPORTED | NOT_IMPORTED <= set(LOCK)


def test_starting_papermill_compiles_no_grammar():
    """jsonschema 4.24 and later ask for rfc3987-syntax, whose import compiles one with lark: more than papermill's own imports take."""
    assert Version(LOCK["jsonschema"]) < Version("4.24") and "rfc3987-syntax" not in LOCK


def test_torch_and_torchvision_are_the_tested_pair():
    assert (LOCK["torch"], LOCK["torchvision"]) == ("2.13.0", "0.28.0")


@pytest.mark.parametrize("name", ["torch", "diffusers", "transformers", "snakemake", "papermill", "nbval", "pingouin"])
def test_what_is_installed_is_what_is_locked(name):
    try:
        installed = version(name)
    except PackageNotFoundError:
        pytest.fail(f"{name} is not installed: build .venv with make")
    assert installed.split("+")[0] == LOCK[name]


def test_torchvision_and_what_needs_it_import_after_dsa_lib():
    code = "import dsa_lib, torchvision, lpips, torch_fidelity; from diffusers import AutoencoderKL; from transformers import BertModel"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
