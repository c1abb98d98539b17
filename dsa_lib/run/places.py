"""Where the project's own files lie: published tables, vocabulary, weights that ship, notebooks.

In a checkout they lie beside the library, in an installed library inside it. A wheel carries what setup.py lists: data_manifests, the two small networks of
models, the rating page and the two benchmark results that audits quote. The rest does not travel, and `in_checkout` refuses it.
"""

from pathlib import Path

from dsa_lib.run.errors import StudyError

LIBRARY = Path(__file__).resolve().parents[1]
INSTALLED = (LIBRARY / "data_manifests").is_dir()
PROJECT = LIBRARY if INSTALLED else LIBRARY.parent


def in_checkout(path: Path) -> Path:
    """`path`, a file or folder of the project. Raises StudyError where the library is installed without it."""
    if INSTALLED and not path.exists() and path.is_relative_to(PROJECT):
        raise StudyError(
            f"{path.relative_to(PROJECT).as_posix()} is not part of the installed library: clone the project, and work there or "
            "install it from there with pip install --editable ."
        )
    return path
