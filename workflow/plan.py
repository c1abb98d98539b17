"""What each notebook of the workflow depends on, worked out from the sources: the library modules it imports, the profile sections it reads,
its parameters, the archive. The Snakefile reads the result; it decides what runs again.
"""

import ast
import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from dsa_lib.curation.archive_files import listing
from dsa_lib.run.artifacts import EVERY, PARTS, REPRODUCED, UPSTREAM
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hidden_paths import referred
from dsa_lib.run.profiles import Profile
from dsa_lib.run.session import declared_parameters
from dsa_lib.run.workspace import PROJECT, Workspace

# The package `run` carries no result: a better message or progress line must not train a model again. The values of a profile count on their own.
PLUMBING = "run"
DECIDES_ALL_THE_SAME = {"run.shards"}  # how a set is put together from its parts
# A share of a notebook's work is for calls by hand (an array job): a rule of the workflow does the whole.
BY_HAND = {"shard", "num_shards"}
_KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": Mapping, "list": list}


def plan(
    run: str,
    profile: Profile,
    overrides: Mapping[str, object],
    archive: Path | None,
    given: Mapping[str, object],
    parts: Collection[str] = (),
    last: str = "",
) -> dict:
    """The workflow of one run: for each notebook its upstream notebooks, files, parameters and what else decides its results.

    `parts` (of PARTS) adds the audits or the extensions to the study; the report then waits for them too. `last` ends the workflow with that notebook.

    `given` maps further parameter names (`classifier`, `ratings`, or `07_fid.name` for one notebook alone) to values. Raises StudyError for a name no
    notebook declares or a value of the wrong type. A text that names an existing file or folder is taken as a path and watched for changes.
    """
    chosen = {*REPRODUCED, *(name for part in parts for name in PARTS[part])} - (
        {"00_phantom_archive"} if archive else set()
    )
    notebooks = [name for name in EVERY if name in chosen and (not last or name <= last)]
    declared = {name: declared_parameters(name) for name in notebooks}
    _check_names(given, declared)
    entries = {}
    for name in notebooks:
        own = {
            key.rpartition(".")[2]: _value(key, declared[name][key.rpartition(".")[2]], value)
            for key, value in given.items()
            if key.rpartition(".")[0] in ("", name) and key.rpartition(".")[2] in declared[name]
        }
        parameters = {"run": run, "profile": profile.name, **own}
        if overrides:
            parameters["overrides"] = dict(overrides)
        if archive is not None and "archive" in declared[name]:
            parameters["archive"] = str(archive)
        modules = modules_of(name)
        decides = {
            "notebook": code_digest(name),
            "profile": {"name": profile.name, "seed": profile.seed, "precision": profile.precision}
            | {section: _plain(getattr(profile, section)) for section in sections_of(name, modules)},
            "parameters": {key: fingerprint(key, value) for key, value in own.items()},
        }
        if name == ("00_phantom_archive" if archive is None else "01_curation"):
            decides["archive"] = fingerprint("archive", str(archive)) if archive else "phantom"
        if name == "01_curation" and (cleared := Workspace(run).root / "private" / "reviewed.csv").exists():
            decides["reviewed"] = hashlib.sha256(cleared.read_bytes()).hexdigest()[:16]
        entries[name] = {
            "upstream": [above for above in UPSTREAM[name] if above in notebooks],
            "files": [str(path) for path in (*modules.values(), *data_of(modules))],
            "parameters": parameters,
            "decides": json.dumps(decides, sort_keys=True),
        }
    return {"run": run, "notebooks": entries}


def modules_of(notebook: str) -> dict[str, Path]:
    """Library modules that `notebook` imports, directly or through others, without the plumbing: name below `dsa_lib` -> file."""
    found: dict[str, Path] = {}
    waiting = _imports(_code(notebook))
    while waiting:
        name = waiting.pop()
        path = _module_path(name)
        if path is None or name in found or not name or _is_plumbing(name):
            continue
        found[name] = path
        waiting |= _imports(path.read_text(), package=name if path.name == "__init__.py" else name.rpartition(".")[0])
    return dict(sorted(found.items()))


def _is_plumbing(module: str) -> bool:
    return module.partition(".")[0] == PLUMBING and module not in DECIDES_ALL_THE_SAME


def data_of(modules: Mapping[str, Path]) -> list[Path]:
    """Files that the modules read: of data_manifests/ (written `"data_manifests" / "<name>"`), and the cards of weights that ship (`"models" / "<name>"`)."""
    found = set()
    for module in modules.values():
        for folder, name in re.findall(r'"(data_manifests|models)"\s*/\s*"([^"]+)"', module.read_text()):
            path = PROJECT / folder / name
            if folder == "models":
                found |= set(path.glob("card.json"))  # it holds the hash of every other file
            else:
                found |= set(path.glob("*.csv")) if path.is_dir() else {path}
    return sorted(found)


def sections_of(notebook: str, modules: Mapping[str, Path]) -> list[str]:
    """Sections of the profile that the notebook or a module of its reads (written `profile.<section>`)."""
    sections = {item.name for item in dataclasses.fields(Profile) if item.default_factory is not dataclasses.MISSING}
    text = "\n".join([_code(notebook), *(path.read_text() for path in modules.values())])
    return sorted(sections & set(re.findall(r"\bprofile\.(\w+)", text)))


def code_digest(notebook: str) -> str:
    """sha256 of the notebook's code cells: an edit of prose, or outputs kept by JupyterLab, runs nothing again."""
    return hashlib.sha256(_code(notebook).encode()).hexdigest()[:16]


def fingerprint(key: str, value: object) -> object:
    """What stands for a parameter's value: for a path the names, sizes and times of what lies there, for a run its classifier, else itself."""
    if key.rpartition(".")[2] == "classifier" and value and not Path(str(value)).is_absolute():
        manifest = Workspace(str(value)).manifest_path("02_classifier")
        return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16] if manifest.exists() else value
    if not isinstance(value, str) or not value or not (path := Path(value)).exists():
        return "a path at which nothing lies" if referred(key, value) != value else value
    # As curation lists an archive: any names, links to folders followed once.
    files = [path] if path.is_file() else sorted(path / inside for inside, _ in listing(path))
    digest = hashlib.sha256()
    for item in files:
        with contextlib.suppress(OSError):  # a link that leads nowhere
            facts = item.stat()
            digest.update(os.fsencode(item.relative_to(path)) + f" {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return f"{len(files)} files {digest.hexdigest()[:16]}"


def _check_names(given: Mapping[str, object], declared: Mapping[str, Mapping[str, str]]) -> None:
    for key in given:
        notebook, _, name = key.rpartition(".")
        if notebook and notebook not in declared:
            raise StudyError(f"parameter {key!r}: there is no notebook {notebook!r}; choose {', '.join(declared)}")
        if name in BY_HAND:
            raise StudyError(
                f"parameter {key!r} is for calls by hand: start notebooks/05_sampling.ipynb with shard and num_shards through papermill, "
                "once for each shard, then make without them"
            )
        known = sorted({each for one in ([notebook] if notebook else declared) for each in declared[one]})
        if name not in known or name in ("run", "profile", "archive", "overrides"):
            usable = [each for each in known if each not in ("run", "profile", "archive", "overrides")]
            raise StudyError(
                f"no notebook has a parameter {key!r}: choose {', '.join(usable) or 'none, there is none'}"
            )


def _value(key: str, kind: str, value: object) -> object:
    wanted = _KINDS[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
        raise StudyError(f"parameter {key} is {value!r}: give a value of type {kind}")
    if (
        isinstance(value, str)
        and value
        and Path(value).expanduser().exists()
        and key.rpartition(".")[2] != "classifier"
    ):
        return str(Path(value).expanduser().resolve())
    return value


def _code(notebook: str) -> str:
    cells = json.loads((PROJECT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _imports(code: str, package: str = "") -> set[str]:
    """Names below `dsa_lib` that the code may import: `phase`, `figures.style`, `phantom`."""
    names = set()
    for node in ast.walk(ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", code))):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1] if package else []
                base = ".".join(["dsa_lib", *parents, *([node.module] if node.module else [])])
            full = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in full:
            parts = name.split(".")
            if parts[0] == "dsa_lib":
                # A package's __init__ runs too when one of its modules is imported.
                names |= {".".join(parts[1:end]) for end in range(2, len(parts) + 1)}
    return names


def _module_path(name: str) -> Path | None:
    path = PROJECT / "dsa_lib" / Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _plain(section: object) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(section)))
