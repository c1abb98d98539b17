"""The library from a wheel, in an environment and a folder of its own: all modules, the data that travels, and what is refused because it does not."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from dsa_lib.run.places import PROJECT

IN_WHEEL = (
    "data_manifests/published/table5.csv",
    "data_manifests/artifacts.csv",
    "models/vessels/model.safetensors",
    "models/lesion_judge/card.json",
    "benchmarks/memorisation.json",
    "notebooks/rating_page.ipynb",
    "rating/page.js",
    "rating/page.css",
    "report/report.html.j2",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing of an earlier build gets in and none of this one stays."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("dsa_lib", "data_manifests", "models", "benchmarks", "notebooks"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        shutil.copy(PROJECT / name, source)
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", built, source)
    (found,) = built.glob("dsa_lib-*.whl")
    return found


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory):
    """A function that runs code in a fresh environment with the wheel, in a folder of its own, and returns what the code printed as JSON.

    The dependencies are those of the environment under test, by their path alone: its own dsa_lib is not found.
    """
    environment, folder = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DSA_RUNS", "DSA_WEIGHTS")}  # fmt: skip

    def run(code):
        answer = subprocess.run([python, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout.splitlines()[-1])

    run.packages, run.folder = packages, folder
    return run


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_wheel_holds_the_code_and_the_small_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"dsa_lib/{name}" for name in IN_WHEEL} <= names
    modules = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "dsa_lib").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert not any(name.startswith("dsa_lib/models/phantom") for name in names)
    assert wheel.stat().st_size < 5e6


def test_every_module_is_imported_from_the_wheel(outside):
    found = outside("""
import importlib, json, pkgutil, dsa_lib
names = [item.name for item in pkgutil.walk_packages(dsa_lib.__path__, "dsa_lib.")]
files = [importlib.import_module(name).__file__ for name in names if not name.endswith("__main__")]
print(json.dumps(files))
""")
    assert len(found) > 120
    assert all(name.startswith(str(outside.packages)) for name in found)


def test_tables_vocabulary_profiles_and_small_networks_open(outside):
    found = outside("""
import json
from dsa_lib.core.published import published
from dsa_lib.curation.circulation import VOCABULARY
from dsa_lib.lesions import judge
from dsa_lib.paper.ledger import CELLS, FILE
from dsa_lib.run import artifacts
from dsa_lib.run.profiles import load_profile
from dsa_lib.vessels import unet
print(json.dumps({
    "rows": len(published(5)),
    "files": [path.exists() for path in (VOCABULARY, FILE, CELLS)],
    "notebook": artifacts.find("tables/table5.csv").notebook,
    "matrix": load_profile("phantom").archive.matrix,
    "networks": [type(module.load()[0]).__name__ for module in (unet, judge)],
}))
""")
    assert found["rows"] > 0
    assert found["files"] == [True] * 3
    assert found["notebook"] == "07_fid"
    assert found["matrix"] == 144
    assert len(found["networks"]) == 2


def test_runs_lie_in_the_current_folder_and_the_version_stands_for_the_commit(outside):
    found = outside("""
import json
from dsa_lib.nn.public_weights import weights_folder
from dsa_lib.run.places import PROJECT
from dsa_lib.run.session import environment
from dsa_lib.run.workspace import runs_folder
print(json.dumps([*map(str, (PROJECT, runs_folder(), weights_folder())), environment()["commit"]]))
""")
    project, runs, weights, commit = found
    assert project == str(outside.packages / "dsa_lib")
    assert runs == str(outside.folder / "runs")
    assert not weights.startswith(str(outside.packages))
    assert commit == "dsa_lib 0.1.0"


@pytest.mark.parametrize(
    "imports, call, what",
    [
        ("from dsa_lib.run.session import declared_parameters", "declared_parameters('07_fid')", "notebooks/07_fid.ipynb"),
        ("from dsa_lib.nn import shipped", "shipped.card()", "models/phantom/card.json"),
    ],
)  # fmt: skip
def test_what_does_not_travel_is_refused_with_the_remedy(outside, imports, call, what):
    said = outside(f"""
import json
{imports}
from dsa_lib.run.errors import StudyError
try:
    {call}
except StudyError as error:
    print(json.dumps(str(error)))
""")
    assert said.startswith(f"{what} does not travel with the installed library: clone the project")
