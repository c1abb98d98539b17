"""The environment is pinned once: pip's lock, conda's file and what the library asks for must agree."""

import re
from importlib.metadata import PackageNotFoundError, version

import pytest
import yaml

from dsa_lib.run.workspace import PROJECT


def pins(lines):
    return {
        re.sub(r"[-_.]+", "-", name).lower(): pinned
        for name, pinned in (line.strip().split("==") for line in lines if line.strip() and not line.startswith("#"))
    }


LOCK = pins((PROJECT / "requirements.lock").read_text().splitlines())


def test_conda_and_pip_pin_the_same_versions():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pins(pip) == LOCK
    assert "python=3.11" in environment["dependencies"]


def test_every_requirement_is_locked():
    asked = [
        line for line in (PROJECT / "requirements.in").read_text().splitlines() if line and not line.startswith("#")
    ]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[=<>~\[; ]", line)[0]).lower() for line in asked}
    assert names <= set(LOCK), names - set(LOCK)


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
    import subprocess
    import sys

    code = "import dsa_lib, torchvision, lpips, torch_fidelity; from diffusers import AutoencoderKL; from transformers import BertModel"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
