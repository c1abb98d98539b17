"""Weights of public networks: a local file first, then a download, each checked against its sha256, else a sentence saying which file to put where.

Only profile `paper` needs them (LPIPS, Inception-V3). `smoke` and `phantom` never touch the network. The registry is data_manifests/public_weights.csv.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pooch

from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import INSTALLED, PROJECT
from dsa_lib.run.workspace import sha256

if TYPE_CHECKING:
    import torch


def weights_folder() -> Path:
    """Where weight files are looked for and kept: DSA_WEIGHTS, else `models/weights` in the checkout, or the user's cache where the library is installed."""
    default = pooch.os_cache("dsa_lib") if INSTALLED else PROJECT / "models" / "weights"
    return Path(os.environ.get("DSA_WEIGHTS") or default).expanduser()


def weights_file(name: str) -> Path:
    """Path of the checked weights file of `name` (a row of the registry). Raises StudyError where it is neither at hand nor reachable."""
    registry = pd.read_csv(PROJECT / "data_manifests" / "public_weights.csv").set_index("name")
    if name not in registry.index:
        raise StudyError(
            f"no weights {name!r} in data_manifests/public_weights.csv: it knows {', '.join(registry.index)}"
        )
    row = registry.loc[name]
    path = weights_folder() / row["file"]
    if path.exists():
        if sha256(path) != row["sha256"]:
            raise StudyError(
                f"{path} is not the file that {name} needs (its sha256 differs from {row['sha256']}): delete it and fetch it from {row['url']}"
            )
        return path
    try:
        pooch.retrieve(
            row["url"],
            known_hash=f"sha256:{row['sha256']}",
            fname=row["file"],
            path=weights_folder(),
            progressbar=False,
        )
    except Exception as error:
        raise StudyError(
            f"the weights of {name} are missing and could not be downloaded ({type(error).__name__}): put {row['file']} (from {row['url']}, "
            f"sha256 {row['sha256']}) into {weights_folder()}"
        ) from None
    return path


def load(name: str) -> "dict[str, torch.Tensor]":
    """The checked state dict of `name`."""
    import torch  # here, because every command of make looks for weights first, and torch takes seconds to import

    return torch.load(weights_file(name), map_location="cpu", weights_only=True)
