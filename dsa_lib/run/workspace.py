"""One run's folder: where each artifact lies, atomic writes, hashes. The only place that knows paths.

`runs/<run>/` holds everything that one run of the study wrote; the folder `runs` is that of the checkout, with an installed library that of the current folder,
and DSA_RUNS moves it elsewhere. What must never be shared (the mapping back to the archive) lies in `private/`; training checkpoints lie in
`checkpoints/`, outside everything a workflow rule declares, because a workflow tool deletes the declared outputs of a rule that was killed.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dsa_lib.run import artifacts
from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import INSTALLED, PROJECT

RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
LAYOUT = 2  # of a run's folder: names of notebooks and artifacts; 1 had none written down


def runs_folder() -> Path:
    """The folder of all runs: DSA_RUNS, else `runs` in the checkout, or in the current folder where the library is installed."""
    return Path(os.environ.get("DSA_RUNS") or (Path.cwd() if INSTALLED else PROJECT) / "runs").expanduser().resolve()


class Workspace:
    """The folder of one run."""

    def __init__(self, run: str):
        if not re.fullmatch(RUN_NAME, run):
            raise StudyError(
                f"the run name {run!r} cannot be a folder: use letters, digits, '.', '_' and '-', starting with a letter or digit"
            )
        self.run = run
        self.root = runs_folder() / run

    def path(self, name: str) -> Path:
        """Where the artifact `name` lies; its parent folder exists afterwards."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def private(self, name: str) -> Path:
        """Never shared: keys and the mapping back to the archive. Its folders, and what `atomic_write` puts there, open to their owner alone."""
        path = self.path(f"private/{name}")
        for folder in path.parents[: len(Path(name).parts)]:
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
        return path

    def checkpoints(self, name: str) -> Path:
        folder = self.path(f"checkpoints/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def manifest_path(self, notebook: str) -> Path:
        return self.root / "manifests" / f"{notebook}.json"

    def manifest(self, notebook: str) -> dict | None:
        """What `notebook` recorded when it finished or was skipped in this run; None if it has done neither."""
        path = self.manifest_path(notebook)
        if not path.exists():
            return None
        manifest = json.loads(path.read_text())
        if manifest.get("layout") != LAYOUT:
            raise StudyError(
                f"the run {self.run!r} was made by an earlier version of this project, whose notebooks and files had other names: "
                f"choose another RUN; the old one can be kept, or removed with make clean-run RUN={self.run}"
            )
        return manifest

    def check_layout(self) -> None:
        """Raise StudyError for a run folder of an earlier layout, whichever notebooks it holds."""
        for path in sorted((self.root / "manifests").glob("*.json")):
            self.manifest(path.stem)

    def producer(self, name: str) -> str:
        """The notebook that writes the artifact `name`."""
        if (line := artifacts.find(name)) is not None:
            return line.notebook
        for notebook in artifacts.EVERY:
            if name in (self.manifest(notebook) or {"outputs": {}})["outputs"]:
                return notebook
        raise StudyError(f"no notebook writes {name!r}: data_manifests/artifacts.csv lists the artifacts of a run")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` (file or folder), on failure it is removed.

    A reader, or the same command after a kill, therefore sees the old artifact or the new one, never a part of it. In a folder that only its owner can
    open (`Workspace.private`) a file gets that protection too, wherever it may be copied.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: writers such as savefig choose the format by it.
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=".writing-"))
    temporary = folder / path.name
    try:
        yield temporary
        if temporary.is_file() and not path.parent.stat().st_mode & 0o077:
            temporary.chmod(0o600)
        if temporary.is_dir() and path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, or of a folder's relative names and their digests in sorted order (dot files left out)."""
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for item in sorted(path.rglob("*")):
            relative = item.relative_to(path)
            if item.is_file() and not any(part.startswith(".") for part in relative.parts):
                digest.update(f"{relative.as_posix()} {sha256(item)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(1 << 16):
            digest.update(block)
    return digest.hexdigest()
