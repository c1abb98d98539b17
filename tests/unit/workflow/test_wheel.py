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
    "rating/jupyter/voila/templates/offline/conf.json",
    "rating/jupyter/voila/templates/offline/index.html.j2",
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
    """What LOOK prints in a fresh environment with the wheel, run in a folder of its own; `packages` and `folder` are those two places.

    The dependencies are those of the environment under test, by their path alone: its own dsa_lib is not found.
    """
    environment, folder = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    hidden = ("PYTHONPATH", "DSA_RUNS", "DSA_WEIGHTS")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    found = json.loads(run(python, "-c", LOOK, cwd=folder, env=variables).splitlines()[-1])
    return found | {"packages": packages, "folder": folder}


LOOK = """
import importlib, json, pkgutil
import dsa_lib

names = [item.name for item in pkgutil.walk_packages(dsa_lib.__path__, "dsa_lib.")]
found = {"modules": {name: importlib.import_module(name).__file__ for name in names if not name.endswith("__main__")}}

from dsa_lib.core.published import published
from dsa_lib.curation.circulation import VOCABULARY
from dsa_lib.lesions import judge
from dsa_lib.nn import public_weights, shipped
from dsa_lib.paper.ledger import CELLS, FILE
from dsa_lib.pipeline import DSAPipeline
from dsa_lib.run import artifacts, places, session, workspace
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import load_profile
from dsa_lib.vessels import unet


def refusal(what):
    try:
        what()
    except StudyError as error:
        return str(error)


found |= {
    "rows": len(published(5)),
    "files": [path.exists() for path in (VOCABULARY, FILE, CELLS)],
    "notebook": artifacts.find("tables/table5.csv").notebook,
    "matrix": load_profile("phantom").archive.matrix,
    "networks": [type(module.load()[0]).__name__ for module in (unet, judge)],
    "places": [str(path) for path in (places.PROJECT, workspace.runs_folder(), public_weights.weights_folder())],
    "commit": session.environment()["commit"],
    "notebooks refused": refusal(lambda: session.declared_parameters("07_fid")),
    "weights refused": refusal(shipped.card),
    "pipeline refused": refusal(lambda: DSAPipeline.from_pretrained("models/phantom")),
}
print(json.dumps(found))
"""


def run(*command, **how):
    answer = subprocess.run([str(word) for word in command], capture_output=True, text=True, **how)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def pip(*arguments):
    # What PYTHONPATH shows would count as installed.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, env=variables)


def test_the_wheel_holds_the_code_and_the_small_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"dsa_lib/{name}" for name in IN_WHEEL} <= names
    modules = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "dsa_lib").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert not any(name.startswith("dsa_lib/models/phantom") for name in names)
    assert wheel.stat().st_size < 5e6


def test_every_module_is_imported_from_the_wheel(outside):
    assert len(outside["modules"]) > 120
    assert all(file.startswith(str(outside["packages"])) for file in outside["modules"].values())


def test_tables_vocabulary_profiles_and_small_networks_open(outside):
    assert outside["rows"] > 0
    assert outside["files"] == [True] * 3
    assert outside["notebook"] == "07_fid"
    assert outside["matrix"] == 144
    assert len(outside["networks"]) == 2


def test_runs_lie_in_the_current_folder_and_the_version_stands_for_the_commit(outside):
    project, runs, weights = outside["places"]
    assert project == str(outside["packages"] / "dsa_lib")
    assert runs == str(outside["folder"] / "runs")
    assert not weights.startswith(str(outside["packages"]))
    assert outside["commit"] == "dsa_lib 0.1.0"


def test_what_does_not_travel_is_refused_with_the_remedy(outside):
    remedy = "is not part of the installed library: clone the project, and work there or install it from there with pip install --editable ."
    assert outside["notebooks refused"] == f"notebooks/07_fid.ipynb {remedy}"
    assert outside["weights refused"] == f"models/phantom/card.json {remedy}"
    assert outside["pipeline refused"].startswith(
        "there is no folder models/phantom here: weights that ship lie in a clone of the project"
    )
