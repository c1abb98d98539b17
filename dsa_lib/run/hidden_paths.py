"""Folders and files of the user stay out of executed notebooks, logs and report: their names can be names of patients.

The workflow injects a reference, `private:archive`, in place of a path; `session.begin` looks it up in the run's private folder. What an error says of a
file below such a path is cut out of the traceback before the kernel sends it. A path given to a notebook by hand is shown in its parameters cell and
nowhere else.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import Workspace

REFERENCE = "private:"


def referred(name: str, value: object) -> object:
    """What stands for the parameter `name` in an executed notebook: a reference where `value` is a path, else `value` itself."""
    return f"{REFERENCE}{name}" if _is_path(name, value) else value


def _is_path(name: str, value: object) -> bool:
    if not isinstance(value, str) or not value or name in ("run", "profile") or value.startswith(REFERENCE):
        return False
    return name == "archive" or os.sep in value or value.startswith("~")


def resolved(notebook: str, run: str, values: Mapping[str, object]) -> dict[str, object]:
    """`values` with every reference replaced by what private/parameters of the run says. Raises StudyError where it does not say it."""
    found = dict(values)
    wanted = [name for name, value in values.items() if isinstance(value, str) and value.startswith(REFERENCE)]
    if wanted:
        path = Workspace(run).root / "private" / "parameters" / f"{notebook}.json"
        try:
            given = json.loads(path.read_text())
            found |= {name: given[values[name].removeprefix(REFERENCE)] for name in wanted}
        except (OSError, ValueError, KeyError):
            raise StudyError(
                f"parameter {wanted[0]} refers to private/parameters of run {run!r}, which does not have it: "
                "start the run through make or workflow/launch.py, or give the path itself"
            ) from None
    return found


def hide(values: Mapping[str, object]) -> None:
    """From now on errors of this kernel show `<name>` in place of the path given as parameter `name`, and of whatever lies below it.

    Does nothing outside a Jupyter kernel.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None or not hasattr(shell, "_showtraceback"):
        return
    clean = cleaner(values)
    show = getattr(shell, "_shows_paths", shell._showtraceback)
    shell._shows_paths = show

    def _showtraceback(kind, error, lines):
        # In place: the kernel's reply repeats the error's own text.
        error.args = tuple(clean(item) if isinstance(item, str) else item for item in error.args)
        for attribute in ("filename", "filename2"):
            if isinstance(getattr(error, attribute, None), str | bytes | os.PathLike):
                setattr(error, attribute, clean(os.fsdecode(getattr(error, attribute))))
        show(kind, error, [clean(line) for line in lines])

    shell._showtraceback = _showtraceback


def cleaner(values: Mapping[str, object]) -> Callable[[str], str]:
    """A function that replaces the paths among `values`, and what follows them up to a quote or the end of the line, by `<name>`."""
    forms: dict[str, str] = {}
    for name, value in values.items():
        if _is_path(name, value):
            path = Path(value).expanduser()
            for form in (value, str(path), str(path.absolute()), str(path.resolve())):
                if os.sep in form.rstrip(os.sep):  # a bare word may stand for anything
                    forms.setdefault(form.rstrip(os.sep), name)
    if not forms:
        return lambda text: text
    # The longest first: a file inside the archive's folder may be a parameter of its own.
    paths = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    pattern = re.compile(rf"({paths})(?:/[^'\"\n\x1b]*)?")
    return lambda text: pattern.sub(lambda match: f"<{forms[match[1]]}>", text)
