"""Overrides of single profile values: names checked, with the nearest known one suggested, and values taken by the type of their field."""

import dataclasses
import difflib
import typing

from dsa_lib.run.errors import StudyError


def leaf_names(profile) -> list[str]:
    names = []
    for item in dataclasses.fields(profile):
        value = getattr(profile, item.name)
        if dataclasses.is_dataclass(value):
            names += [f"{item.name}.{leaf.name}" for leaf in dataclasses.fields(value)]
        elif item.name != "name":
            names.append(item.name)
    return names


def suggest(word: str, known) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def typed(name: str, kind: type, value: object) -> object:
    origin = typing.get_origin(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(typed(name, typing.get_args(kind)[0], item) for item in value)
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and type(value) is kind:
        return value
    wanted = (
        "a list"
        if origin is tuple
        else {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}[kind.__name__]
    )
    raise StudyError(f"{name} is {value!r} ({type(value).__name__}): give {wanted}")
