"""Links of every Markdown page and notebook lead to a tracked file, heading or picture; the site shows every page of docs/."""

import functools
import json
import os
import posixpath
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from dsa_lib.run.artifacts import EVERY, REPRODUCED
from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import PROJECT
from dsa_lib.run.workspace import LAYOUT, Workspace, write_json

PLACES = ("README.md", "docs", "data_manifests", "models")


@functools.cache
def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return frozenset(listed.splitlines())


def markdown(path):
    """The Markdown of a page or of a notebook's cells, without code."""
    text = (PROJECT / path).read_text()
    if path.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(
        r"^```.*?^```|``[^`]+``|`[^`\n]+`", lambda code: "`" * code[0].startswith("`") + "x", text, flags=re.M | re.S
    )


def slug(heading):
    """The anchor that code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@functools.cache
def anchors(path):
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", markdown(path), re.M)}


def broken(path, text):
    """Relative links of `text`, which stands at `path`, that lead nowhere."""
    for link in re.findall(r"\]\(<?([^)\s>]+)|<img[^>]* src=\"([^\"]+)", text):
        link = "".join(link)
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
        if file not in tracked() or (anchor and anchor not in anchors(file)):
            yield link


PAGES = sorted(
    path
    for path in tracked()
    if (path.endswith(".md") and path.split("/")[0] in PLACES) or re.fullmatch(r"notebooks/\w+\.ipynb", path)
)


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path):
    assert list(broken(path, markdown(path))) == []


def test_pages_notebooks_and_cards_are_among_them():
    assert {"README.md", "docs/results.md", "data_manifests/README.md", "models/phantom/README.md"} <= set(PAGES)
    assert {f"notebooks/{name}.ipynb" for name in EVERY} <= set(PAGES)


@pytest.mark.parametrize(
    "link", ["[a](nowhere.md)", "[a](limits.md#nowhere)", "![a](../figures/nowhere.png)", '<img src="nowhere.png">']
)
def test_a_broken_link_is_found(link):
    assert list(broken("docs/results.md", f"text {link} text")) != []


@pytest.mark.parametrize(
    "link",
    [
        "[a](limits.md)",
        "[a](own_archive.md#arterial-frames)",
        "![a](../figures/figure2.png)",
        "[a](#results-of-the-phantom-run)",
    ],
)
def test_a_sound_link_is_not(link):
    assert list(broken("docs/results.md", f"text {link} text")) == []


# ---- the site --------------------------------------------------------------------------------------------------------


@pytest.fixture
def site_pages(monkeypatch):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make docs installs it")
    pytest.importorskip("latex2mathml", reason="latex2mathml is not installed: make docs installs it")
    monkeypatch.syspath_prepend(PROJECT / "workflow" / "site")
    import site_pages

    return site_pages


def leaves(navigation):
    for entry in navigation:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else leaves(value)


def test_the_navigation_lists_every_page(site_pages):
    listed = list(leaves(site_pages.navigation()))
    assert len(listed) == len(set(listed))
    assert {path for path in PAGES if path.endswith(".md")} <= set(listed)
    assert {f"notebooks/{name}.md" for name in EVERY} <= set(listed)
    assert {f"api/{path.parent.name}.md" for path in (PROJECT / "dsa_lib").glob("*/__init__.py")} <= set(listed)


def test_readme_links_every_page_of_docs(site_pages):
    text = (PROJECT / "README.md").read_text()
    assert [page for page in site_pages.guide() if f"]({page})" not in text] == []


def test_a_run_that_is_not_there_is_refused(site_pages, monkeypatch, tmp_path):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    monkeypatch.setenv("RUN", "nowhere")
    with pytest.raises(StudyError, match="'nowhere' has no executed notebooks: name a run in"):
        site_pages.newest_run()


def finish(run, names):
    for name in names:
        write_json(Workspace(run).manifest_path(name), {"status": "finished", "layout": LAYOUT})


def test_the_newest_whole_run_of_a_phantom_archive_is_shown(site_pages, monkeypatch, tmp_path):
    monkeypatch.setenv("DSA_RUNS", str(tmp_path))
    monkeypatch.delenv("RUN", raising=False)
    assert site_pages.newest_run() is None
    finish("whole", REPRODUCED)
    finish("patients", [name for name in REPRODUCED if name != "00_phantom_archive"])  # of an own archive
    finish("begun", ["00_phantom_archive", "90_report"])
    for age, run in enumerate(("whole", "patients", "begun")):
        os.utime(Workspace(run).manifest_path("90_report"), (age, age))
    assert site_pages.newest_run().run == "whole"
    monkeypatch.setenv("RUN", "patients")
    Workspace("patients").path("notebooks/x").touch()
    assert site_pages.newest_run().run == "patients"


class Requests(HTMLParser):
    """What a browser loads by itself for a page: scripts, styles, pictures."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.found += [attributes.get("src") or ""]
        if tag == "link" and attributes.get("rel") != "canonical":
            self.found += [attributes.get("href") or ""]


def test_the_site_builds_without_a_warning_and_asks_no_other_host(site_pages, tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "workflow/site/mkdocs.yml"]
    runs = {**os.environ, "DSA_RUNS": str(tmp_path / "runs"), "RUN": ""}
    done = subprocess.run(
        [*command, "--site-dir", tmp_path / "site"], cwd=PROJECT, env=runs, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert (tmp_path / "site" / "docs" / "results.html") in pages and (
        tmp_path / "site" / "api" / "dicom.html"
    ) in pages
    for page in pages:
        requests = Requests()
        requests.feed(page.read_text())
        assert [url for url in requests.found if re.match(r"(https?:)?//", url)] == [], page
        formulas = re.findall(r"<math.*?</math>|arithmatex", page.read_text(), re.S)
        assert [text for text in formulas if re.search(r"\\[A-Za-z]|arithmatex", text)] == [], page  # not converted
