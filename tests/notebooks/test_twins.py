"""The committed notebooks: in step with their text twins, free of outputs, with one parameters cell and short cells."""

import ast
import json
import re
from pathlib import Path

import jupytext
import pytest

from dsa_lib.report.readme import FIGURES
from dsa_lib.run.artifacts import EVERY
from dsa_lib.run.session import declared_parameters
from dsa_lib.run.workspace import PROJECT

FOLDER = PROJECT / "notebooks"
TWINS = FOLDER / "py"  # beside the notebooks JupyterLab would list each of them twice
CHECKED = "nbval-check-output"
MENDED = {"diffusers", "transformers", "torchvision", "lpips", "torch_fidelity"}


PAGES = ("rating_page",)  # served to readers, no step of the workflow


def cells(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_every_notebook_of_the_workflow_is_there_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted((*EVERY, *PAGES))
    assert sorted(path.stem for path in TWINS.glob("*.py")) == sorted((*EVERY, *PAGES))


@pytest.mark.parametrize("name", (*EVERY, *PAGES))
def test_notebook_and_twin_say_the_same(name):
    def content(path):
        notebook = jupytext.read(path)
        return [(cell.cell_type, cell.source.strip(), cell.metadata.get("tags", [])) for cell in notebook.cells]

    assert content(FOLDER / f"{name}.ipynb") == content(TWINS / f"{name}.py"), (
        f"run: jupytext --sync notebooks/py/{name}.py"
    )


@pytest.mark.parametrize("name", (*EVERY, *PAGES))
def test_only_checked_cells_carry_outputs_and_they_do(name):
    for cell in cells(name):
        if cell["cell_type"] != "code":
            continue
        if CHECKED in tags(cell):
            assert cell["outputs"], "a check without stored output passes whatever comes: store it"
            assert all(output["output_type"] != "error" for output in cell["outputs"])
            assert cell["execution_count"], "nbval takes a cell without execution count for one that never ran"
        else:
            assert not cell["outputs"] and cell["execution_count"] is None


@pytest.mark.parametrize("name", EVERY)
def test_one_parameters_cell_with_typed_scalars_and_reasons(name):
    (cell,) = [cell for cell in cells(name) if "parameters" in tags(cell)]
    source = "".join(cell["source"])
    tree = ast.parse(source)
    assert all(isinstance(node, ast.AnnAssign) for node in tree.body)
    declared = declared_parameters(name)
    assert {"run": "str", "profile": "str", "overrides": "dict"}.items() <= declared.items()
    assert ("archive" in declared) == (name != "00_phantom_archive")
    values = {node.target.id: ast.literal_eval(node.value) for node in tree.body}
    assert values["run"] == values["profile"] == "smoke"
    assert source.count("#") >= len(declared), "every parameter has its reason beside it"


@pytest.mark.parametrize("name", EVERY)
def test_opening_and_closing(name):
    found = cells(name)
    opening = "".join(found[0]["source"])
    assert found[0]["cell_type"] == "markdown" and opening.startswith(f"# {name[:2]}")
    for word in ("Purpose", "ime"):
        assert word in opening
    code = ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]
    assert any(f'begin("{name}", globals())' in source for source in code[:3])
    assert code[-1].rstrip().endswith("study.finish()")


@pytest.mark.parametrize("name", EVERY)
def test_what_is_only_read_tells_something(name):
    """A table of the committed notebook, and a link to what the phantom run made: a picture, or a page of docs/."""
    assert any(CHECKED in tags(cell) for cell in cells(name))
    text = "".join("".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\((\.\./[^)#]+)", text)
    assert any(link.startswith(("../docs/", "../figures/")) for link in links)
    known = {f"../figures/{figure}.png" for figure in FIGURES}
    assert [link for link in links if link not in known and not (FOLDER / link).exists()] == []


def test_the_pictures_of_the_phantom_run_are_all_there():
    """`python -m dsa_lib.report.readme` copies them from a finished run."""
    assert {path.stem for path in (PROJECT / "figures").glob("*.png")} == set(FIGURES)


@pytest.mark.parametrize("name", EVERY)
def test_a_notebook_has_the_length_of_one_question(name):
    assert len((TWINS / f"{name}.py").read_text().splitlines()) <= 250


@pytest.mark.parametrize("name", EVERY)
def test_cells_fit_on_a_screen(name):
    for cell in cells(name):
        if cell["cell_type"] == "code":
            assert len("".join(cell["source"]).splitlines()) <= 40, "".join(cell["source"])[:80]


@pytest.mark.parametrize("name", EVERY)
def test_what_dsa_lib_mends_is_not_imported_before_it(name):
    """torchvision's import fails beside a CPU build of torch until dsa_lib has been imported, and takes these with it."""
    code = "\n".join("".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code")
    seen = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            seen += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            seen.append((node.lineno, node.module.split(".")[0]))
    first = min(line for line, module in seen if module == "dsa_lib")
    assert not [module for line, module in seen if module in MENDED and line < first]


def test_nothing_names_a_place_on_one_machine():
    for path in [*FOLDER.glob("*.ipynb"), *TWINS.glob("*.py")]:
        text = path.read_text()
        assert not any(place in text for place in (str(PROJECT), str(Path.home()), "/tmp/")), path.name
