"""The page as a widget: it carries small messages between a browser and a `Sitting`, and holds nothing that could tell a rater too much.

Its synchronised state is the script and the style alone. Images travel as PNG bytes in answers to one browser page (`view`), never as state, names or
addresses. In JupyterLab every open view of the widget has a sitting of its own.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import anywidget

from dsa_lib.rating.sitting import Sitting
from dsa_lib.rating.study import location, open_sitting
from dsa_lib.run.errors import StudyError

VARIABLE = "DSA_READER_STUDY"  # with it the server tells its notebook which study it serves
_FOLDER = Path(__file__).parent


class RatingPage(anywidget.AnyWidget):
    """Screening, rating or marking of frames; `sit` opens a sitting for each browser page."""

    _esm = _FOLDER / "page.js"
    _css = _FOLDER / "page.css"

    def __init__(self, sit: Callable[[], Sitting]):
        super().__init__()
        self._sit, self._sittings = sit, {}
        self.on_msg(self._answer)

    def _answer(self, _widget: object, message: dict, _buffers: list) -> None:
        view, request = str(message.get("view")), message.get("request")
        if message.get("do") == "leave":
            if view in self._sittings:
                self._sittings.pop(view).store.close()
            return
        try:
            if view not in self._sittings:
                self._sittings[view] = self._sit()
            reply, buffers = self._sittings[view].handle(message)
        except StudyError as fault:
            reply, buffers = {"show": "fault", "note": str(fault)}, []
        self.send({**reply, "view": view, "request": request}, buffers=buffers)


def rating_page(run: str = "", study: str = "ratings") -> RatingPage | None:
    """The page of the study that `make readers` serves, or of `study` of `run`; where there is none, says in a sentence how to begin one."""
    served = os.environ.get(VARIABLE)
    try:
        path = Path(served) if served else location(run, study)
        with contextlib.closing(open_sitting(path).store):
            pass  # a fault is told at once, not when the first rater comes
    except StudyError as fault:
        print(f"No study to show: {fault}.")
        return None
    return RatingPage(lambda: open_sitting(path))
