"""The pages of the documentation site (`make docs`): a hook of MkDocs that collects them from where they lie.

Each page keeps its place in the repository, so that one relative link serves the site and a code host alike. README.md is the start page; its section
"Documentation" orders the pages of docs/. The reference of the library and the executed notebooks are generated at each build and never stored.
"""

import html
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from mkdocs.exceptions import ConfigurationError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from dsa_lib.run.artifacts import EVERY, REPRODUCED
from dsa_lib.run.errors import StudyError
from dsa_lib.run.places import PROJECT
from dsa_lib.run.workspace import Workspace, runs_folder

LINK = re.compile(r"\]\(<?([^)#\s>]+)")


def guide() -> list[str]:
    """Pages of docs/ in the order in which README.md links them, those that it does not link last."""
    linked = [link for link in LINK.findall((PROJECT / "README.md").read_text()) if link.startswith("docs/")]
    present = sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))
    return list(dict.fromkeys([*(link for link in linked if link in present), *present]))


def packages() -> list[str]:
    """Packages of dsa_lib, by name."""
    return sorted(path.parent.name for path in (PROJECT / "dsa_lib").glob("*/__init__.py"))


def file_formats() -> list[str]:
    """Pages on files that go in and out, and the cards of the weights."""
    found = [*(PROJECT / "data_manifests").rglob("*.md"), *(PROJECT / "models").glob("*/README.md")]
    return sorted(path.relative_to(PROJECT).as_posix() for path in found)


def title(page: str) -> str:
    """The first heading of a page."""
    return re.search(r"^# (.+)", (PROJECT / page).read_text(), re.MULTILINE)[1]


def navigation() -> list[dict]:
    """What MkDocs takes as `nav`."""
    return [
        {"Start": "README.md"},
        {"Guide": [{title(page): page} for page in guide()]},
        {"Notebooks": [{name: f"notebooks/{name}.md"} for name in EVERY]},
        {"Library": [{name: f"api/{name}.md"} for name in packages()]},
        {"Files and weights": [{title(page): page} for page in file_formats()]},
    ]


# ---- the run whose notebooks are shown ---------------------------------------------------------------------------------------------


def is_whole(ws: Workspace) -> bool:
    """Whether all that `make reproduce` runs has finished in this run."""
    return all((ws.manifest(name) or {}).get("status") == "finished" for name in REPRODUCED)


def newest_run() -> Workspace | None:
    """The run named by the variable RUN; else the whole run of a phantom archive that finished last. None where there is none.

    A run of an own archive holds frames of patients: it enters the site only when it is named.
    """
    if name := os.environ.get("RUN"):
        ws = Workspace(name)
        if not (ws.root / "notebooks").is_dir():
            raise StudyError(
                f"the run {name!r} has no executed notebooks: name a run in {runs_folder()}, or leave RUN out for the newest"
            )
        return ws
    reports = sorted(runs_folder().glob("*/manifests/90_report.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(reports):
        ws = Workspace(path.parents[1].name)
        if ws.manifest("00_phantom_archive") is not None and is_whole(ws):
            return ws
    return None


def notebook(name: str, ws: Workspace | None) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, executed where the run has it, and its pictures by file name."""
    executed = ws and ws.root / "notebooks" / f"{name}.ipynb"
    if executed and executed.exists():
        path, report = executed, ", [report](../run/report.html)" if (ws.root / "report.html").exists() else ""
        note = (
            f"As executed in the run `{ws.run}`{report}. Numbers of a phantom run are those of simulated angiography."
        )
    else:
        path = PROJECT / "notebooks" / f"{name}.ipynb"
        note = "As committed: not executed in a run that this site was built from, so most outputs are missing."
    body, resources = MarkdownExporter().from_notebook_node(
        nbformat.read(path, as_version=4), {"output_files_dir": f"{name}_files", "unique_key": "output"}
    )
    body = re.sub(
        r"[ \n]*(\$\$.+?\$\$[,.;]?)\s*", r"\n\n\1\n\n", body, flags=re.DOTALL
    )  # a formula is a paragraph of its own
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.DOTALL).replace(' border="1" class="dataframe"', "")
    heading, _, rest = body.lstrip().partition("\n")
    return f"{heading}\n\n!!! note\n    {note}\n{rest}", resources["outputs"]


# ---- what MkDocs calls -------------------------------------------------------------------------------------------------------------


def on_config(config):
    config.nav = navigation()
    return config


def pages(config) -> Iterator[File]:
    """Every page, and every file that a page links to."""
    for path in sorted((Path(__file__).parent / "assets").iterdir()):
        yield File.generated(config, f"assets/{path.name}", abs_src_path=str(path))
    sources = ["README.md", *guide(), *file_formats()]
    linked = set()
    for page in sources:
        targets = LINK.findall((PROJECT / page).read_text())
        linked |= {posixpath.normpath(posixpath.join(posixpath.dirname(page), target)) for target in targets}
        yield File.generated(config, page, abs_src_path=str(PROJECT / page))
    for name in packages():
        yield File.generated(config, f"api/{name}.md", content=f"# {name}\n\n::: dsa_lib.{name}\n")
    ws = newest_run()
    for name in EVERY:
        body, pictures = notebook(name, ws)
        linked |= {posixpath.normpath(f"notebooks/{target}") for target in LINK.findall(body)}
        yield File.generated(config, f"notebooks/{name}.md", content=body)
        for picture, content in pictures.items():
            yield File.generated(config, f"notebooks/{picture}", content=content)
    if ws and (ws.root / "report.html").exists():
        yield File.generated(config, "run/report.html", abs_src_path=str(ws.root / "report.html"))
    for target in sorted(linked):
        if not target.endswith(".md") and (PROJECT / target).is_file():
            yield File.generated(config, target, abs_src_path=str(PROJECT / target))


def on_files(files: Files, config) -> Files:
    """Ours in the place of those in `docs_dir`; the theme's stay."""
    for file in list(files.documentation_pages()):
        files.remove(file)
    try:
        for file in pages(config):
            files.append(file)
    except StudyError as error:
        raise ConfigurationError(str(error)) from None
    return files


def on_page_content(content: str, **_) -> str:
    """Formulas as MathML, which browsers draw by themselves."""

    def formula(match: re.Match) -> str:
        tex = html.unescape(match[2])
        tex = re.sub(r"\\tag\{([^}]*)\}", r"\\qquad(\1)", tex)
        tex = re.sub(r"\\[bB]igg?[lr]?(\\[lr]?Vert)(?![A-Za-z])", r"\1", tex)  # norms have one size
        if match[1] == "span":
            return convert(tex)
        return f'<div class="formula">{convert(tex, display="block")}</div>'

    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', formula, content, flags=re.DOTALL)
