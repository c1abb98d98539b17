"""`make lab` on a copy of the project under version control: the start page in a browser, and a session that leaves no tracked file changed."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import chromium
import made_up_run
import papermill
import pytest

from dsa_lib.run.workspace import PROJECT, Workspace

RUN, NOTEBOOK = "mine", "06_reader_analysis"
PARTS = ("dsa_lib", "notebooks", "workflow", "data_manifests", "docs", "pyproject.toml", ".gitignore")
REPORT = "<!doctype html><title>r</title><p>The report of the run.</p>"
PATIENCE = 60_000  # ms


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, committed, with a finished run."""
    root = tmp_path_factory.mktemp("lab") / "project"
    for name in PARTS:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        else:
            shutil.copy(source, root / name)
    for command in ("init -q", "add --all", "-c user.name=n -c user.email=e@x commit -qm all"):
        git(root, *command.split())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSA_RUNS", str(root / "runs"))
        patch.setenv("PYTHONPATH", str(root))
        patch.setenv("HOME", str(root.parent / "home"))  # no settings of whoever runs the tests
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
        ws = made_up_run.whole(RUN, size=64)
        ws.path(f"notebooks/{NOTEBOOK}.ipynb").write_text((root / "notebooks" / f"{NOTEBOOK}.ipynb").read_text())
        ws.path("report.html").write_text(REPORT)
        yield root


@pytest.fixture(scope="module")
def lab(project):
    """The address that the server of `make lab RUN=mine` prints."""
    command = [sys.executable, "workflow/lab.py", "--run", RUN, "--", "--no-browser", "--ServerApp.port=0"]
    environment = {name: value for name, value in os.environ.items() if name != "DSA_RUNS"}
    log = project.parent / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=project, env=environment, stdout=file, stderr=file)
    try:
        for _ in range(600):
            if found := re.search(
                r"http://(?:127\.0\.0\.1|localhost):\d+/lab/workspaces/\S+token=\w+", log.read_text()
            ):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield found[0]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page(lab):
    """A browser page with the lab's default address open, and `requests`, the addresses that it asked for."""
    chromium.needed("the lab")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**chromium.LAUNCH)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(PATIENCE)
        page.requests = []
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(lab)
        page.wait_for_selector(".jp-MarkdownViewer h1")
        yield page
        browser.close()


def git(root, *arguments):
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_the_start_page_lists_the_report_first_and_asks_no_other_host(page, lab):
    links = page.locator(".jp-MarkdownViewer a:not(.jp-InternalAnchorLink)").all_inner_texts()
    assert links[0] == "Report" and [NOTEBOOK, "00_phantom_archive", "01_curation"] == links[1:4]
    fits = "selector => { const e = document.querySelector(selector); return e.scrollWidth <= e.clientWidth }"
    assert page.evaluate(fits, "html") and page.evaluate(fits, ".jp-MarkdownViewer")
    chromium.screenshot(page, "lab_start")
    page.get_by_text("Report", exact=True).click()
    report = page.frame_locator("iframe").get_by_text("The report of the run.")
    report.wait_for()
    chromium.screenshot(page, "lab_report")
    page.wait_for_timeout(1000)  # what a page asks for once it stands
    assert not page.locator(".jp-Dialog").count(), "a question stands over the page"
    asked = {urlsplit(url).hostname for url in page.requests if url.startswith("http")}
    assert asked == {urlsplit(lab).hostname}


def test_a_session_leaves_no_tracked_file_changed_and_writes_into_the_run(project, lab):
    copy = f"runs/{RUN}/lab/{NOTEBOOK}.ipynb"
    contents(lab, f"notebooks/{NOTEBOOK}.ipynb")  # opened, not saved
    opened = contents(lab, copy)["content"]
    opened["metadata"]["seen"] = True
    contents(lab, copy, {"type": "notebook", "content": opened})
    assert json.loads((project / copy).read_text())["metadata"]["seen"]
    papermill.execute_notebook(project / copy, project / copy, cwd=(project / copy).parent, progress_bar=False)
    ws = Workspace(RUN)
    assert ws.manifest(NOTEBOOK)["status"] == "finished"
    commit = json.loads((ws.root / "provenance" / f"{NOTEBOOK}.json").read_text())["environment"]["commit"]
    assert commit == git(project, "describe", "--always") and git(project, "status", "--porcelain") == ""
    made = {item.suffix for item in Path(ws.root / "lab").rglob("*") if item.is_file()}
    assert made == {".ipynb", ".json", ".md"}  # no twins


def contents(lab, path, value=None):
    """The server's model of a file; `value` is saved there."""
    server = urlsplit(lab)
    request = urllib.request.Request(f"{server.scheme}://{server.netloc}/api/contents/{path}?{server.query}")
    if value is not None:
        request.method, request.data = "PUT", json.dumps(value).encode()
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
