"""One rater at one page: what is shown next, and what an answer does. Knows no widget, so that it can be tested alone.

A page names images by their key and asks by small messages; the reply says everything that the page shows. Nothing in a reply tells an image's condition,
name or origin, or anything of another rater.
"""

import io
import json
import sqlite3
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from dsa_lib.rating.store import NO_FRAME, SEGMENTS, Closed, Place, Rater, Store
from dsa_lib.run.errors import StudyError

WRONG_TOKEN = "This token is not known. Please copy it again from your invitation, or ask the organiser of the study."


class Sitting:
    """`frames_of`: frames uint8 [n, H, W] of an image of the store, needed by mode annotate alone."""

    def __init__(self, store: Store, frames_of: Callable[[int], np.ndarray] | None = None):
        self.store, self.frames_of = store, frames_of
        self.facts = store.facts()
        self.rater: Rater | None = None

    def handle(self, message: Mapping) -> tuple[dict, list[bytes]]:
        """Reply to one message of a page: (what to show, images as PNG bytes).

        `do` is hello (with `token`), go (`to`: here, next, previous, continue), answer (`field`, `value`, and `then`: where to go afterwards), close or ping;
        `key` names the image that the page shows, `has` the one whose pixels it holds. An answer is on disk before the reply leaves.
        """
        try:
            return self._handle(message)
        except Closed as closed:
            return self._reply(self._first_open(), message, note=str(closed))
        except StudyError as fault:
            return {"show": "fault", "note": str(fault)}, []
        except sqlite3.Error as fault:
            return {
                "show": "fault",
                "note": f"Not saved: the study's file answers “{fault}”. Please tell the organiser of the study.",
            }, []

    def _handle(self, message: Mapping) -> tuple[dict, list[bytes]]:
        do = message.get("do")
        if do == "hello":
            self.rater = self.store.rater_of(str(message.get("token", "")))
            if self.rater is None:
                return {"show": "login", "note": WRONG_TOKEN if message.get("token") else ""}, []
            return self._reply(self._first_open(), message)
        if self.rater is None:
            return {"show": "login", "note": ""}, []
        if do == "ping":
            return {"show": "alive"}, []
        if do == "close":
            self.store.close_screening(self.rater)
            return self._reply(self._first_open(), message)
        places = self._places()
        at = next((n for n, place in enumerate(places) if place.key == message.get("key")), None)
        if at is None:  # a page that still shows an earlier stage, or none of this rater's images
            note = "The study has moved on; nothing was changed." if do == "answer" else ""
            return self._reply(self._first_open(), message, note=note)
        if do == "answer":
            self._put(places[at], str(message.get("field")), str(message.get("value", "")))
        return self._go(places, at, str(message.get("then" if do == "answer" else "to", "here")), message)

    # --- where this rater stands ------------------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> str:
        """screening, waiting, rating, annotation, or thanks for somebody who only screens."""
        if self.facts["mode"] == "annotate":
            return "annotation"
        if not self.store.screening_closed:
            return "screening" if self.rater.screens else "waiting"
        return "rating" if self.rater.rates else "thanks"

    def _places(self) -> list[Place]:
        stage = self.stage
        return [] if stage in ("waiting", "thanks") else self.store.places(self.rater, stage)

    def complete(self, answers: Mapping[str, str]) -> bool:
        """Whether an image has all answers that its stage asks for."""
        if self.stage == "screening":
            return "kept" in answers
        if self.stage == "annotation":
            return "frame" in answers
        graded = "external_circulation" in answers or all(segment in answers for segment in SEGMENTS)
        return graded and ("origin" in answers or self.facts["turing"] != "true")

    def _first_open(self) -> Place | None:
        """The first image without all its answers; None where there is none."""
        answers = self.store.answers(self.rater)
        return next((place for place in self._places() if not self.complete(answers.get(place.image, {}))), None)

    def _go(self, places: list[Place], at: int, to: str, message: Mapping) -> tuple[dict, list[bytes]]:
        answers = self.store.answers(self.rater)
        unfinished = not self.complete(answers.get(places[at].image, {}))
        if to in ("next", "continue") and unfinished:
            missing = {
                "screening": "Keep or reject this image first.",
                "annotation": "Mark a frame first, or that there is none.",
            }
            return self._reply(
                places[at], message, note=missing.get(self.stage, self._missing(answers.get(places[at].image, {})))
            )
        if to == "previous":
            return self._reply(places[max(at - 1, 0)], message)
        if to == "next" and at + 1 < len(places):
            return self._reply(places[at + 1], message)
        if to in ("next", "continue"):
            # Onwards from here, then from the start: another page of the same rater may have left gaps.
            later = [*places[at + 1 :], *places[:at]]
            return self._reply(next((p for p in later if not self.complete(answers.get(p.image, {}))), None), message)
        return self._reply(places[at], message)

    def _missing(self, answers: Mapping[str, str]) -> str:
        if "external_circulation" not in answers:
            left = [segment for segment in SEGMENTS if segment not in answers]
            if left:
                return f"Still to be graded here: {', '.join(left)}."
        return "Still to be answered here: from the archive, or generated?"

    def _put(self, place: Place, field: str, value: str) -> None:
        stage, allowed = self.stage, {"screening": ("kept",), "annotation": ("frame",)}
        if field not in allowed.get(stage, (*SEGMENTS, "external_circulation", "origin")):
            raise Closed("The study has moved on; nothing was changed.")
        if field == "frame" and value not in ("", NO_FRAME):
            numbers = json.loads(self.store.series_frames(place.image)[2])
            if not value.isdigit() or int(value) >= len(numbers):
                raise StudyError(f"the series has no frame {value}: mark one of its {len(numbers)} frames")
            value = str(numbers[int(value)])
        self.store.put(self.rater, place.image, field, value)

    # --- what a page is told ----------------------------------------------------------------------------------------------------------------

    def _reply(self, place: Place | None, message: Mapping, note: str = "") -> tuple[dict, list[bytes]]:
        """What to show; pixels only where the page does not hold them yet. `place` None: all is answered."""
        answers, places = self.store.answers(self.rater), self._places()
        reply = {
            "show": "image" if place else "end",
            "stage": self.stage,
            "rater": self.rater.name,
            "of": len(places),
            "done": sum(self.complete(answers.get(p.image, {})) for p in places),
            "turing": self.facts["turing"] == "true" and self.stage == "rating",
            "origin": self.facts["origin"],
            "window": json.loads(self.facts.get("window", "[256, 128]")),
            "note": note,
        }
        if place is None:
            reply["last"] = places[-1].key if places else ""
            if self.stage == "screening":  # what the screening rater decided; nobody else is told
                reply["kept"] = sum(answers.get(p.image, {}).get("kept") == "true" for p in places)
            return reply, []
        own = dict(answers.get(place.image, {}))
        numbers = json.loads(self.store.series_frames(place.image)[2] or "[]")
        if own.get("frame", NO_FRAME) != NO_FRAME:
            own["frame"] = str(numbers.index(int(own["frame"])))
        fields = {"screening": ("kept",), "annotation": ("frame",)}.get(
            self.stage, (*SEGMENTS, "external_circulation", "origin")
        )
        reply |= {
            "key": place.key,
            "position": places.index(place) + 1,
            "answers": {field: own[field] for field in fields if field in own},
            "complete": self.complete(own),
        }
        return reply, [] if message.get("has") == place.key else self._pixels(place.image)

    def _pixels(self, image: int) -> list[bytes]:
        if self.stage != "annotation":
            return [self.store.png(image)]
        return [as_png(frame) for frame in self.frames_of(image)]


def as_png(frame: np.ndarray) -> bytes:
    """PNG of a uint8 frame [H, W]: pixels and nothing else (no text, no time, no name)."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()
