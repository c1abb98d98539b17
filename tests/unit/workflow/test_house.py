"""The plan of the house: which package may import which, how many rooms one has, and that no arrow goes in a circle."""

import ast
from collections import Counter, defaultdict
from graphlib import TopologicalSorter

import pytest

from dsa_lib.run.workspace import PROJECT

LIBRARY = PROJECT / "dsa_lib"
ROOMS = 12  # modules a package, its docstring (`__init__.py`) not counted
BELOW_EXTENSIONS = "ldm fidelity vessels curation dicom nn core run"
MAY_IMPORT = {
    "run": "",
    "core": "run",
    "dicom": "run",
    "nn": "core run",
    "curation": "dicom nn core run",
    "vessels": "nn core run",
    "ldm": "vessels nn core run",
    "fidelity": "nn core run",
    "readers": "core run",
    "rating": "curation readers core run",
    "audits": "readers " + BELOW_EXTENSIONS,
    "maps": BELOW_EXTENSIONS,
    "lesions": BELOW_EXTENSIONS,
    "paper": "curation readers dicom nn core run",
    "phantom": "dicom vessels nn core run",
    "figures": "fidelity vessels nn core run",
    "report": "paper maps vessels core run",
    "pipeline": "ldm",  # dsa_lib/pipeline.py: saved pipelines import it
}


def module_name(path):
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in LIBRARY.rglob("*.py")}


def imported(path):
    """(module below `dsa_lib`, whether the import stands inside a function) for each import of the project's own modules."""
    tree = ast.parse(path.read_text())
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef | ast.Lambda) for node in ast.walk(function)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "dsa_lib" or not name.startswith("dsa_lib."):
                continue
            name = name.removeprefix("dsa_lib.")
            found = name if name in MODULES else name.rpartition(".")[0]
            if found in MODULES and found:
                yield found, id(node) in inside


ARROWS = {name: dict(imported(path)) for name, path in MODULES.items() if name}


def unlawful(arrows):
    return sorted(
        f"{source} -> {target}"
        for source, targets in arrows.items()
        for target in targets
        if (first := source.partition(".")[0]) != (last := target.partition(".")[0])
        and last not in MAY_IMPORT[first].split()
    )


def test_every_package_has_its_line_in_the_plan():
    assert {name.partition(".")[0] for name in ARROWS} - {"_torchvision_ops"} == set(MAY_IMPORT)


def test_arrows_go_as_the_plan_says():
    assert unlawful({name: targets for name, targets in ARROWS.items() if name != "_torchvision_ops"}) == []


@pytest.mark.parametrize("source, target", [("run.workspace", "core.images"), ("fidelity.distances", "ldm.sampling")])
def test_an_added_arrow_is_seen(source, target):
    assert unlawful({source: {target: False}}) == [f"{source} -> {target}"]


def test_there_is_no_circle():
    TopologicalSorter({name: set(targets) - {name} for name, targets in ARROWS.items()}).prepare()


def test_no_import_inside_a_function_hides_an_arrow():
    hidden = [f"{name} -> {target}" for name, targets in ARROWS.items() for target, inside in targets.items() if inside]
    assert hidden == []


def test_a_package_has_at_most_twelve_rooms():
    counts = Counter(name.rpartition(".")[0] for name, path in MODULES.items() if path.name != "__init__.py")
    assert {package: count for package, count in counts.items() if count > ROOMS} == {}


def test_packages_begin_with_a_docstring_and_hold_nothing_else():
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name:
            (only,) = ast.parse(path.read_text()).body
            assert isinstance(only, ast.Expr) and isinstance(only.value.value, str), path


def test_no_two_modules_of_one_stem():
    """But in figures/, whose modules are named after what they draw, and main programs."""
    stems = defaultdict(list)
    for name, path in MODULES.items():
        if path.name not in ("__init__.py", "__main__.py") and not name.startswith("figures.") and name != "pipeline":
            stems[name.rpartition(".")[2]].append(name)
    assert {stem: names for stem, names in stems.items() if len(names) > 1} == {}


def test_every_module_is_imported_by_something():
    """By the library, a notebook, the workflow, a benchmark; main programs stand alone."""
    used = {target for targets in ARROWS.values() for target in targets}
    for folder in ("notebooks/py", "workflow", "benchmarks"):
        used |= {target for path in (PROJECT / folder).rglob("*.py") for target, _ in imported(path)}
    programs = {name for name, path in MODULES.items() if '__name__ == "__main__"' in path.read_text()}
    rooms = {name for name, path in MODULES.items() if path.name != "__init__.py"}
    assert rooms - used - programs - {"_torchvision_ops", "pipeline"} == set()
