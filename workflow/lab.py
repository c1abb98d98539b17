"""JupyterLab on one run: a start page, and working copies of the notebooks whose parameters name the run.

make lab calls this. The copies lie in the run's folder (`runs/<run>/lab/`), so that opening and running them changes no tracked file. An edited copy is
kept; the others follow the tracked notebooks. Without RUN the newest run is opened; where there is no run at all, the copies have the notebooks' own
defaults, of profile `smoke`.
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
SETTINGS = PROJECT / "workflow"
SMOKE = "smoke"  # the run of the notebooks' own defaults
COMMON = ("run", "profile", "archive", "overrides")  # parameters that a notebook takes over from the others of its run
OPTIONS = [
    # No request to another host: no news, no updates, no catalogue of extensions.
    "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly",
    # jupytext would write a text twin beside every copy that is saved, because pyproject.toml pairs all notebooks of the project.
    "--ServerApp.jpserver_extensions=jupyterlab_jupytext=False",
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Open JupyterLab on a run.")
    parser.add_argument("--run", default="", help="name of the run; without it the newest one")
    parser.add_argument("options", nargs="*", help="passed on to jupyter lab")
    request = parser.parse_args()
    try:
        ws = Workspace(request.run or newest() or SMOKE)
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
    # A workspace of its own: JupyterLab would else open again the tabs of the last run, or of another project.
    address = f"/lab/workspaces/{ws.run}/tree/{page.relative_to(root).as_posix()}"
    command = ["jupyter", "lab", f"--ServerApp.root_dir={root}", f"--LabApp.default_url={address}", *OPTIONS]
    if os.geteuid() == 0:  # in a container; Jupyter would refuse
        command.append("--allow-root")
    environment = os.environ | {
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not one of the same name in the home folder
        # Its folder labconfig shows Markdown as a page. A default address with a query would do so too, but Jupyter prints it with a second one.
        "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, [str(SETTINGS), os.environ.get("JUPYTER_CONFIG_PATH")])),
    }
    os.execve(Path(sys.executable).with_name("jupyter"), [*command, *request.options], environment)


def newest() -> str | None:
    """The run on which a notebook has finished last; None where there is none."""
    found = {path.stat().st_mtime: path.parent.parent.name for path in runs_folder().glob("*/manifests/*.json")}
    return found[max(found)] if found else None


def prepare(ws: Workspace) -> Path:
    """Make or refresh the working copies of the run, and its start page, whose path is returned."""
    folder = ws.path(f"lab/{START}").parent
    record = folder / ".made.json"
    made = json.loads(record.read_text()) if record.exists() else {}
    given, kept = parameters(ws), []
    for name, values in given.items():
        path = folder / f"{name}.ipynb"
        copy = working_copy(name, values, folder)
        if path.exists():
            present = digest_of(path)
            if present != made.get(name):
                kept.append(name)
                continue
            if present == digest(copy):  # with the outputs that it has
                continue
        nbformat.write(copy, path)
        made[name] = digest(copy)
    write_json(record, made)
    profile = next(iter(given.values())).get("profile", SMOKE)
    (folder / START).write_text(start_page(ws, profile, list(given), kept))
    begun = "" if any(ws.root.glob("manifests/*.json")) else ", nothing has run yet"
    print(f"run {ws.run}, profile {profile}{begun} · working copies in {os.path.relpath(folder)}")
    if kept:
        print(f"edited, therefore kept: {', '.join(kept)} (delete a copy to get a new one)")
    return folder / START


def parameters(ws: Workspace) -> dict[str, dict]:
    """For each notebook that belongs to the run the parameters that the run gave it, paths as references.

    One that has not run gets what all have in common. A run of an archive of one's own has no notebook 00, which would write a phantom archive into it.
    """
    folder = ws.root / "private" / "parameters"
    known = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    common = recorded(ws) | {key: value for values in known.values() for key, value in values.items() if key in COMMON}
    found = {}
    for name in EVERY:
        if name == "00_phantom_archive" and common.get("archive"):
            continue
        values = known.get(name, common) | {"run": ws.run}  # the run's folder may have been renamed
        if name not in known and "archive" in common:
            write_json(ws.private(f"parameters/{name}.json"), values)  # where its reference leads
        found[name] = {key: referred(key, value) for key, value in values.items()}
    return found


def recorded(ws: Workspace) -> dict[str, object]:
    """Profile and overrides as the record of the run has them: all there is where the notebooks were run by hand, or private/ was not shared."""
    found = {}
    for name in EVERY:
        if (path := ws.root / "provenance" / f"{name}.json").exists():
            given = json.loads(path.read_text())["parameters"]
            found |= {key: given[key] for key in ("profile", "overrides") if key in given}
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


def digest(notebook: Mapping) -> str:
    """Of what the cells say; outputs and the order of running do not count."""
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def digest_of(path: Path) -> str | None:
    """The digest of a notebook's file; None where the file is not a notebook, which therefore counts as edited."""
    try:
        return digest(json.loads(path.read_text()))
    except (ValueError, LookupError, TypeError):
        return None


def start_page(ws: Workspace, profile: str, copies: list[str], kept: list[str]) -> str:
    """The page that opens first: the report, the executed notebooks, then the working copies."""
    executed = [name for name in EVERY if (ws.root / "notebooks" / f"{name}.ipynb").exists()]
    lines = [f"# Run `{ws.run}`, profile `{profile}`", ""]
    if (ws.root / "report.html").exists():
        lines += ["[**Report**](../report.html): tables, figures and provenance of the whole run on one page.", ""]
    if executed:
        lines += ["## Executed notebooks", "", "The record of the run. To change something, edit a working copy.", ""]
        lines += [f"- [{name}](../notebooks/{name}.ipynb) · {state(ws, name)}" for name in executed] + [""]
    else:
        lines += ["Nothing has run yet. Start with the first working copy.", ""]
    lines += [
        "## Working copies", "",
        f"Their parameters name run `{ws.run}`, and they write their results into it. To recompute what depends on such a result, repeat the command "
        "that made the run. Edited copies are kept.", "",
        *(f"- [{name}]({name}.ipynb){' · edited' if name in kept else ''}" for name in copies), "",
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
