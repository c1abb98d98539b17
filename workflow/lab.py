"""JupyterLab on one run: working copies of the notebooks whose parameters already name it, and a page that lists what the run has made.

make lab calls this. The copies lie in the run's folder (`runs/<run>/lab/`), so that opening and running them changes no tracked file. A copy that somebody has
edited is kept; the others follow the tracked notebooks. Without RUN the newest run is opened, and without any run one of profile `smoke`.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat

from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hidden_paths import referred
from dsa_lib.run.workspace import PROJECT, Workspace, runs_folder, write_json

START = "start.md"
COMMON = ("run", "profile", "archive", "overrides")  # parameters that a notebook takes over from the others of its run
# Nothing is asked of another host: neither news nor updates nor a catalogue of extensions. Notebooks are not paired: the copies have no twins.
OPTIONS = [
    "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly",
    "--ServerApp.contents_manager_class=jupyter_server.services.contents.largefilemanager.AsyncLargeFileManager",
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Open JupyterLab on a run.")
    parser.add_argument("--run", default="", help="name of the run; without it the newest one")
    parser.add_argument("options", nargs="*", help="passed on to jupyter lab")
    request = parser.parse_args()
    try:
        ws = Workspace(request.run or newest())
        if request.run and not (ws.root / "manifests").is_dir():
            raise StudyError(
                f"there is no run {ws.run!r}: start it with make reproduce, or leave RUN out for the newest"
            )
        ws.check_layout()
        page = prepare(ws)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    root = PROJECT if page.is_relative_to(PROJECT) else runs_folder()
    address = f"/lab/tree/{page.relative_to(root).as_posix()}?factory=Markdown%20Preview"
    command = ["jupyter", "lab", f"--ServerApp.root_dir={root}", f"--LabApp.default_url={address}", *OPTIONS]
    os.execv(Path(sys.executable).with_name("jupyter"), [*command, *request.options])


def newest() -> str:
    """The run on which a notebook has finished last; `smoke` where there is none."""
    found = {path.stat().st_mtime: path.parent.parent.name for path in runs_folder().glob("*/manifests/*.json")}
    return found[max(found)] if found else "smoke"


def prepare(ws: Workspace) -> Path:
    """Make or refresh the working copies of the run, and its start page, whose path is returned."""
    folder = ws.path(f"lab/{START}").parent
    record = folder / ".made.json"
    made = json.loads(record.read_text()) if record.exists() else {}
    given, kept = parameters(ws), []
    for name in EVERY:
        path = folder / f"{name}.ipynb"
        copy = working_copy(name, given[name], folder)
        if path.exists():
            present = digest(nbformat.read(path, as_version=4))
            if present != made.get(name):
                kept.append(name)
                continue
            if present == digest(copy):  # with the outputs that it has
                continue
        nbformat.write(copy, path)
        made[name] = digest(copy)
    write_json(record, made)
    (folder / START).write_text(start_page(ws, kept))
    print(f"run {ws.run} · working copies in {os.path.relpath(folder)}")
    if kept:
        print(f"kept as edited: {', '.join(kept)} (delete one to have it made anew)")
    return folder / START


def parameters(ws: Workspace) -> dict[str, dict]:
    """For each notebook the parameters that this run gave it, paths as references. One that has not run gets what all have in common."""
    folder = ws.root / "private" / "parameters"
    known = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    common = {key: value for values in known.values() for key, value in values.items() if key in COMMON} | {
        "run": ws.run
    }
    found = {}
    for name in EVERY:
        values = known.get(name, common)
        if name not in known and "archive" in common:
            write_json(ws.private(f"parameters/{name}.json"), common)  # where its reference leads
        found[name] = {key: referred(key, value) for key, value in values.items()}
    return found


def working_copy(name: str, given: Mapping[str, object], folder: Path) -> nbformat.NotebookNode:
    """notebooks/<name>.ipynb without outputs and without a twin, with the values `given` in its parameters cell and its links seen from `folder`."""
    notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4)
    notebook.metadata.pop("jupytext", None)
    up = os.path.relpath(PROJECT, folder)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(\.\./", f"]({up}/", cell.source)
        else:
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = with_values(cell.source, given)
    return notebook


def with_values(source: str, given: Mapping[str, object]) -> str:
    """The lines `name: type = value  # remark` of a parameters cell with other values, type and remark unchanged; names it does not have are left out."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.AnnAssign) and node.target.id in given:
            first, last = node.value.lineno - 1, node.value.end_lineno - 1
            # ast counts bytes.
            before = lines[first].encode()[: node.value.col_offset].decode()
            after = lines[last].encode()[node.value.end_col_offset :].decode()
            value = given[node.target.id]
            lines[first : last + 1] = [
                before + (json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)) + after
            ]
    return "\n".join(lines)


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of what the cells say; outputs and the order of running do not count."""
    return hashlib.sha256(json.dumps([[cell.cell_type, cell.source] for cell in notebook.cells]).encode()).hexdigest()


def start_page(ws: Workspace, kept: list[str]) -> str:
    """The page that opens first: the report, the executed notebooks, then the working copies."""
    executed = [name for name in EVERY if (ws.root / "notebooks" / f"{name}.ipynb").exists()]
    lines = [f"# Run `{ws.run}`", ""]
    if (ws.root / "report.html").exists():
        lines += ["[**Report**](../report.html): tables, figures and provenance of the whole run on one page.", ""]
    if executed:
        lines += [
            "## Executed notebooks",
            "",
            "As the run left them. They are records: edit the working copies below.",
            "",
        ]
        lines += [f"- [{name}](../notebooks/{name}.ipynb) · {state(ws, name)}" for name in executed] + [""]
    else:
        lines += ["Nothing has run yet. Begin with the first working copy.", ""]
    lines += [
        "## Working copies", "",
        f"Their parameters name the run `{ws.run}`. What one of them writes takes the place of what the run had; `make reproduce RUN={ws.run}` then "
        "makes again what has been changed by hand.", "",
        *(f"- [{name}]({name}.ipynb){' · edited, kept' if name in kept else ''}" for name in EVERY), "",
    ]  # fmt: skip
    return "\n".join(lines)


def state(ws: Workspace, name: str) -> str:
    manifest = ws.manifest(name)
    return (
        "stopped"
        if manifest is None
        else manifest["status"] + (f": {manifest['reason']}" if manifest["reason"] else "")
    )


if __name__ == "__main__":
    sys.exit(main())
