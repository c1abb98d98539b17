"""One run's folder: where each artifact lies, atomic writes, hashes. The only place that knows paths.

`runs/<run>/` holds everything that one run of the study wrote; DSA_RUNS moves the `runs` folder elsewhere. What must never be shared
(the mapping back to the archive) lies in `private/`; training checkpoints lie in `checkpoints/`, outside everything a workflow rule declares,
because a workflow tool deletes the declared outputs of a rule that was killed.
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

from dsa_lib.run.errors import StudyError

PROJECT = Path(__file__).resolve().parents[2]
RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
NOTEBOOKS = (
    "00_phantom_archive",
    "01_curation",
    "02_classifier",
    "03_vae",
    "04_ldm",
    "05_sampling",
    "06_reader_analysis",
    "07_fid",
    "10_report",
)
# Two neighbouring systems, after the study: `make extensions`.
EXTENSIONS = ("08_anatomy_conditioning", "09_lesion_post_training")
EVERY = (*NOTEBOOKS[:-1], *EXTENSIONS, NOTEBOOKS[-1])
# Which notebook writes an artifact: named to the user when it is missing. First match wins; patterns are of the path inside the run.
PRODUCERS = (
    (r"archive(/.*)?|archive_truth.*|annotations\.csv|figures/phantom_.*", "00_phantom_archive"),
    (
        r"series\.parquet|quarantine\.csv|frames\.(npy|parquet)|flow\.json|tables/paper_scale_.*|figures/(figure1_curation|curation_|paper_scale_).*",
        "01_curation",
    ),
    (
        r"classifier(_metrics\.csv|/.*)?|labelled\.parquet|arterial\.parquet|phases\.parquet|tables/table1\.csv|figures/(figure1\.png|classifier_.*)",
        "02_classifier",
    ),
    (r"(vae|latents)(/.*)?|vae_quality\.csv|figures/vae_.*", "03_vae"),
    (r"ldm(_unconditional)?(/.*)?|figures/ldm_.*", "04_ldm"),
    (r"samples(/.*)?|figures/(figure[235]|sampling_).*", "05_sampling"),
    (r"readers(/.*)?|tables/(reconstructed_)?table[234]\.csv|figures/(figure4|reader_).*", "06_reader_analysis"),
    (
        r"tables/table5(_context)?\.csv|fidelity(_(intervals|resampled|sensitivity))?\.csv|faithfulness\.csv|utility\.csv|plausibility\.csv"
        r"|privacy(_controls)?\.csv|memorisation_pairs\.csv|dsa_network(/.*)?|angle[a-z_]*\.csv"
        r"|figures/(fidelity|faithfulness|privacy|utility|angle|dsa_network|plausibility).*",
        "07_fid",
    ),
    (r"(anatomy|tables/anatomy)(_.*|/.*)?|figures/anatomy_.*", "08_anatomy_conditioning"),
    (r"(lesions|tables/lesions)(_.*|/.*)?|figures/lesion.*", "09_lesion_post_training"),
    (r"report\.html|ledger\.csv", "10_report"),
)


def runs_folder() -> Path:
    """The folder of all runs: DSA_RUNS, else `runs` in the project."""
    return Path(os.environ.get("DSA_RUNS") or PROJECT / "runs").expanduser().resolve()


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

    def table(self, number: int | str) -> Path:
        return self.path(f"tables/table{number}.csv")

    def figure(self, name: str) -> Path:
        return self.path(f"figures/{name}")

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
        return json.loads(path.read_text()) if path.exists() else None

    def producer(self, name: str) -> str:
        """The notebook that writes the artifact `name`."""
        for pattern, notebook in PRODUCERS:
            if re.fullmatch(pattern, name):
                return notebook
        for notebook in EVERY:
            if name in (self.manifest(notebook) or {"outputs": {}})["outputs"]:
                return notebook
        raise StudyError(
            f"no notebook writes {name!r}: see PRODUCERS in dsa_lib/run/workspace.py for the artifacts of a run"
        )


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
