"""Headless Chromium for tests of pages. Without it they are skipped and say so; with DSA_BROWSER=required, which .ci/run sets, they fail."""

import os
import shutil

import pytest

PATH = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
LAUNCH = {"executable_path": PATH, "headless": True, "args": OPTIONS}


def needed(what: str) -> None:
    """Skip the test of `what`, or fail it, where Chromium is missing."""
    if PATH is None:
        missing = f"Chromium is not installed (apt install chromium), so {what} is not tested in a browser"
        pytest.fail(missing) if os.environ.get("DSA_BROWSER") == "required" else pytest.skip(missing)
