"""Opening and closing of a notebook: parameters checked, inputs verified against their recorded hashes, outputs recorded.

study = begin("04_ldm", globals())
latents = study.read("latents/mean.npy")     # an error names the notebook to run when it is missing or stale
target = study.write("ldm")
study.finish()
"""

import ast
import contextlib
import difflib
import hashlib
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from dsa_lib.run import hidden_paths, shards
from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import INSTALLED, PROJECT, in_checkout
from dsa_lib.run.profiles import Profile, load_profile
from dsa_lib.run.workspace import LAYOUT, RUN_NAME, Workspace, sha256, write_json

VERSIONED = ("torch", "diffusers", "transformers", "accelerate", "pydicom", "numpy", "pandas")
_KINDS = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "dict": (dict, str),
    "list": (list, tuple),
}


class Study:
    """What one notebook knows of its run: `run`, `profile`, `ws` (Workspace), `archive` (Path or None)."""

    def __init__(self, notebook: str, run: str, profile: Profile, archive: Path | None, parameters: dict):
        self.notebook, self.run, self.profile, self.archive = notebook, run, profile, archive
        self.ws = Workspace(run)
        self._parameters = parameters
        self._inputs: dict[str, str] = {}
        self._outputs: dict[str, Path] = {}
        self._facts: dict[str, object] = {}
        self._started = time.time()

    def read(self, name: str) -> Path:
        """Path of the upstream artifact `name`, verified.

        Raises StudyError, naming the notebook to run, when it is missing or waits for shards, was changed after it was written, or was made from inputs that
        have been made anew since.
        """
        path = self.ws.root / name
        producer = self.ws.producer(name)
        manifest = self.ws.manifest(producer)
        again = f"run notebooks/{producer}.ipynb"
        if manifest is not None and manifest["status"] == "skipped" and name not in manifest["outputs"]:
            raise StudyError(f"{_shown(path)} does not exist because {producer} was skipped: {manifest['reason']}")
        if why := shards.missing(path):
            raise StudyError(f"{_shown(path)} is not whole: {why}")
        if manifest is None or not path.exists():
            raise StudyError(f"{_shown(path)} is missing: {again} with run={self.run!r} first")
        if name not in manifest["outputs"]:
            raise StudyError(f"{_shown(path)} is not among what {producer} recorded: {again} again")
        digest = sha256(path)
        if digest != manifest["outputs"][name]:
            raise StudyError(f"{_shown(path)} has changed since {producer} wrote it: {again} again")
        if (stale := self._stale(producer)) is not None:
            raise StudyError(
                f"{_shown(path)} is stale: {stale[1]} has been regenerated since; run notebooks/{stale[0]}.ipynb again"
            )
        self._inputs[name] = digest
        return path

    def _stale(self, notebook: str) -> tuple[str, str] | None:
        """(notebook to run again, its input that changed) for the first such notebook at or above `notebook`, else None."""
        manifest = self.ws.manifest(notebook) or {"inputs": {}}
        for name, digest in manifest["inputs"].items():
            producer = self.ws.producer(name)
            if (above := self._stale(producer)) is not None:
                return above
            if (self.ws.manifest(producer) or {"outputs": {}})["outputs"].get(name) != digest:
                return notebook, name
        return None

    def has(self, name: str) -> bool:
        """Whether the artifact `name` was written in this run."""
        manifest = self.ws.manifest(self.ws.producer(name))
        return manifest is not None and name in manifest["outputs"] and (self.ws.root / name).exists()

    def skipped_upstream(self, *names: str) -> str | None:
        """The sentence with which an upstream notebook was skipped, for the first of `names` that therefore does not exist; else None."""
        for name in names:
            producer = self.ws.producer(name)
            manifest = self.ws.manifest(producer)
            if manifest is not None and manifest["status"] == "skipped" and name not in manifest["outputs"]:
                # The first cause alone: each notebook on the way down has put its own artifact before it.
                return f"{name} was not made: {manifest['reason'].rpartition(' was not made: ')[2]}"
        return None

    def write(self, name: str) -> Path:
        """Path to write the output `name` to (recorded by `finish`)."""
        self._outputs[name] = self.ws.path(name)
        return self._outputs[name]

    def note(self, key: str, value: object) -> None:
        """Keep a small fact (anything JSON can hold) in the manifest, for the report."""
        self._facts[key] = value

    def digest(self, *sections: str, code: Sequence[ModuleType]) -> str:
        """What a training or a set of images belongs to: profile sections, everything read so far, and the modules that decide the result.

        A checkpoint of another digest is not continued, so that weights never stand under code that did not make them.
        """
        # By content alone: a module that moves trains nothing again.
        sources = sorted(sha256(Path(module.__file__)) for module in code)
        content = json.dumps([self.profile.digest(*sections), sorted(self._inputs.items()), sources])
        return hashlib.sha256(content.encode()).hexdigest()

    def skip(self, reason: str) -> None:
        """Record that this notebook cannot do its work on this archive, say so, and end it with exit status 0."""
        self._record("skipped", reason)
        print(f"{self.notebook} skipped: {reason}", flush=True)
        raise SystemExit(0)

    def pause(self, reason: str) -> None:
        """End this notebook with exit status 0 and leave the record of the run as it is: others have to add their share first."""
        print(f"{self.notebook} is not finished: {reason}", flush=True)
        raise SystemExit(0)

    def finish(self):
        """Hash the outputs, record the manifest, show the outputs and name the next notebook. Raises StudyError if a declared output is absent."""
        absent = [name for name, path in self._outputs.items() if not path.exists()]
        if absent:
            raise StudyError(
                f"{self.notebook} declared {', '.join(absent)} and did not write it: run the notebook from its first cell"
            )
        recorded = self._record("finished", None)
        later = [name for name in EVERY if name > self.notebook]
        seconds = time.time() - self._started
        print(
            f"{self.notebook} finished in {seconds:.0f} s." + (f" Next: notebooks/{later[0]}.ipynb" if later else ""),
            flush=True,
        )
        import pandas as pd

        return pd.DataFrame([{"output": name, "sha256": digest[:12]} for name, digest in recorded["outputs"].items()])

    def _record(self, status: str, reason: str | None) -> dict:
        # What decides whether later notebooks are stale is kept apart from what changes at every run (times, machine).
        manifest = {
            "notebook": self.notebook,
            "layout": LAYOUT,
            "status": status,
            "reason": reason,
            "profile": self.profile.name,
            "profile_digest": self.profile.digest(),
            "inputs": self._inputs,
            "outputs": {name: sha256(path) for name, path in self._outputs.items() if path.exists()},
            "facts": self._facts,
        }
        record = {
            "parameters": self._parameters,
            "environment": environment(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._started)),
            "seconds": round(time.time() - self._started, 1),
        }
        write_json(self.ws.path(f"provenance/{self.notebook}.json"), record)
        write_json(self.ws.manifest_path(self.notebook), manifest)
        return manifest


def begin(notebook: str, namespace: Mapping[str, object]) -> Study:
    """Open `notebook`: check what papermill injected, load the profile, print the provenance.

    `namespace` is the notebook's `globals()`; a parameter that is a reference (`dsa_lib.run.hidden_paths`) holds its path there afterwards. Raises
    StudyError for an unknown or ill-typed parameter (papermill itself only warns).
    """
    declared = declared_parameters(notebook)
    for name in _injected_names(namespace):
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(declared)}"
            raise StudyError(f"{notebook} has no parameter {name!r}: {hint}")
    values = {name: namespace[name] for name in declared if name in namespace}
    for name, value in values.items():
        kind = declared[name]
        wrong = not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "bool")
        if kind == "str" and isinstance(value, int | float) and not isinstance(value, bool):
            raise StudyError(
                f"parameter {name} of {notebook} arrived as the number {value!r}: pass it with papermill's -r, which keeps text as text"
            )
        if wrong:
            raise StudyError(f"parameter {name} of {notebook} is {value!r}: give a value of type {kind}")
    values = hidden_paths.resolved(notebook, str(values["run"]), values)
    if isinstance(namespace, dict):  # under its own name the notebook finds the path itself
        namespace.update({name: value for name, value in values.items() if value != namespace[name]})
    hidden_paths.hide(values)
    archive = str(values.get("archive") or "")
    study = Study(
        notebook,
        str(values["run"]),
        load_profile(str(values["profile"]), values.get("overrides")),
        _archive_folder(archive) if archive else None,
        {name: _recorded(name, value) for name, value in values.items() if name != "archive"},
    )
    facts = environment()
    versions = " ".join(f"{name} {facts[name]}" for name in VERSIONED if name in facts)
    print(f"{notebook} · run {study.run} · profile {study.profile.name} · code {facts['commit']} · {facts['device']}")
    print(f"{versions} · parameters {json.dumps(study._parameters, default=str)}", flush=True)
    return study


def declared_parameters(notebook: str) -> dict[str, str]:
    """Names and types of the parameters of `notebook`, read from its cell tagged `parameters`."""
    source = json.loads(in_checkout(PROJECT / "notebooks" / f"{notebook}.ipynb").read_text())
    for cell in source["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            tree = ast.parse("".join(cell["source"]))
            return {
                node.target.id: ast.unparse(node.annotation) for node in tree.body if isinstance(node, ast.AnnAssign)
            }
    raise StudyError(f"notebooks/{notebook}.ipynb has no cell tagged 'parameters': restore it from version control")


def _injected_names(namespace: Mapping[str, object]) -> list[str]:
    """Names that papermill assigned: its injected cell opens with the comment `# Parameters`."""
    cells = [text for text in namespace.get("In", []) if str(text).lstrip().startswith("# Parameters\n")]
    return [
        target.id
        for text in cells[-1:]
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]


def environment() -> dict[str, str]:
    """Versions, commit and device: what a result's provenance names. The commit of an installed library is its version."""
    facts = {"python": platform.python_version(), "commit": _commit(), "device": _device()}
    for name in VERSIONED:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def _commit() -> str:
    if INSTALLED:  # git would answer for whatever repository the environment lies in
        return f"dsa_lib {version('dsa_lib')}"
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        # Not asked of torch, which would open the GPU in this process: trainings in several processes could then not be started from it.
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[
                0
            ]
            return found.strip()
        return "GPU"
    return f"CPU, {torch.get_num_threads()} threads ({platform.machine()}, {sys.platform})"


def profile_of(ws: Workspace, notebook: str = "04_ldm") -> Profile:
    """The profile, overrides included, that `notebook` of a finished run was run with."""
    asked = json.loads((ws.root / "provenance" / f"{notebook}.json").read_text())["parameters"]
    return load_profile(asked["profile"], asked.get("overrides"))


def processor() -> str:
    """The processor's name: what a benchmark's seconds belong to."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _recorded(name: str, value: object) -> object:
    """A parameter as provenance may hold it: a path of the user, which can bear names of people, as the fingerprint of what lies there."""
    if not isinstance(value, str) or not value or name in ("run", "profile"):
        return value
    if re.fullmatch(RUN_NAME, value) and Workspace(value).root.is_dir():
        return value
    path = Path(value).expanduser()
    if path.exists():
        return f"{'folder' if path.is_dir() else 'file'} sha256:{sha256(path)[:12]}"
    return "a path at which nothing lies" if len(path.parts) > 1 or path.suffix else value


def _archive_folder(archive: str) -> Path:
    path = Path(archive).expanduser().resolve()
    if not path.is_dir():
        raise StudyError("what the parameter archive names is not a folder: give the folder that holds the DICOM files")
    return path


def _shown(path: Path) -> str:
    """A path as the user would type it: relative to the runs folder's parent where it lies inside."""
    base = Workspace("x").root.parent.parent
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
