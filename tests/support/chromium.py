"""Headless Chromium for tests of pages. Without it they are skipped and say so; with DSA_BROWSER=required, which .ci/run sets, they fail."""

import os
import shutil
from pathlib import Path

import pytest

from dsa_lib.run.places import PROJECT

PATH = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
LAUNCH = {"executable_path": PATH, "headless": True, "args": OPTIONS}

SCREENSHOTS = PROJECT / "build" / "screenshots"  # for whoever wants to see what was tested; not under version control


def screenshot(page, name: str) -> Path:
    """The whole page as a PNG in SCREENSHOTS."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    return SCREENSHOTS / f"{name}.png"


def needed(what: str) -> None:
    """Skip the test of `what`, or fail it, where Chromium is missing."""
    if PATH is None:
        missing = f"Chromium is not installed (apt install chromium), so {what} is not tested in a browser"
        pytest.fail(missing) if os.environ.get("DSA_BROWSER") == "required" else pytest.skip(missing)
