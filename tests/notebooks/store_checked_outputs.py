"""Store the outputs of cells tagged `nbval-check-output`, taken from the executed notebooks of a run, in the committed notebooks.

    make smoke && .venv/bin/python tests/notebooks/store_checked_outputs.py smoke

Only after looking at them: from then on they are what every run must show.
"""

import sys

import nbformat

from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.workspace import PROJECT, Workspace

TAG = "nbval-check-output"


def main() -> None:
    ws = Workspace(sys.argv[1] if len(sys.argv) > 1 else "smoke")
    for name in EVERY:
        executed_path, path = ws.root / "notebooks" / f"{name}.ipynb", PROJECT / "notebooks" / f"{name}.ipynb"
        if not executed_path.exists():
            continue
        executed = {
            cell.source: cell
            for cell in nbformat.read(executed_path, as_version=4).cells
            if TAG in cell.metadata.get("tags", [])
        }
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if TAG not in cell.metadata.get("tags", []):
                continue
            if cell.source not in executed:
                raise SystemExit(f"error: {name} has changed since run {ws.run!r}: run it again first")
            cell.outputs, cell.execution_count = executed[cell.source].outputs, 1
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = 1
                print(
                    name,
                    "\n".join(output.get("data", {}).get("text/plain", output.get("text", "")).splitlines()),
                    sep="\n",
                )
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
