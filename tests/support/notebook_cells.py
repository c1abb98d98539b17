"""A notebook's cells in this process: for what needs no kernel of its own."""

import json

from dsa_lib.run.places import PROJECT


def execute(notebook: str, **parameters) -> dict:
    """Run the code cells of notebooks/<notebook>.ipynb with other parameters, to their end or until they exit with status 0; returns their namespace."""
    namespace = {"__name__": "__main__"}
    for cell in json.loads((PROJECT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        try:
            exec(compile("".join(cell["source"]), notebook, "exec"), namespace)
        except SystemExit as end:
            assert not end.code
            break
        if "parameters" in cell["metadata"].get("tags", []):
            namespace |= parameters
    return namespace
