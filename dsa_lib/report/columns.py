"""Tables of a run for reading: headings in words with units, an estimate and its interval in one cell, numbers as text."""

import re

import pandas as pd

from dsa_lib.core.published import as_text

# Headings that no rule gives.
LABELS = {
    "a": "first",
    "b": "second",
    "auc": "AUC",
    "boot": "interval over images",
    "df": "degrees of freedom",
    "f": "F interval",
    "f_value": "F",
    "h": "H",
    "icc": "ICC",
    "icc_half": "half width of ICC",
    "k_raters": "raters",
    "kid": "kernel distance",
    "line_r2": "R² of the line",
    "mixed": "interval of the mixed model",
    "mixed_icc": "ICC, mixed model",
    "n": "n",
    "n_a": "n, first",
    "n_b": "n, second",
    "n_images": "images",
    "mixed_n_images": "images, mixed model",
    "mixed_n_ratings": "ratings, mixed model",
    "p": "p",
    "p_equal": "p, all equal",
    "p_holm": "p, Holm",
    "p_value": "p, F test",
    "sd": "SD",
    "u": "U",
}
UNITS = {"deg": "°", "s": "s", "db": "dB", "px": "pixels", "mm": "mm", "grey": "grey levels"}
# Numbers that name something and count nothing: no thousands separators, no decimals.
IDENTIFIERS = ("seed", "replicate", "image", "frame_id", "image_id", "patient", "series", "file", "number")


def label(name: str) -> str:
    """A column's heading in words: "error_deg" becomes "error (°)"."""
    if name in LABELS:
        return LABELS[name]
    *words, last = str(name).split("_")
    if words and last in UNITS:
        return f"{' '.join(words)} ({UNITS[last]})"
    words = [LABELS.get(word, word) if word in ("auc", "icc", "kid", "sd") else word for word in (*words, last)]
    return " ".join(words)


def is_number(frame: pd.DataFrame, heading: str) -> bool:
    """Whether the column of `frame` that `readable` gives the `heading` holds numbers, and so stands to the right."""
    return any(label(name) == heading and _numeric(frame[name]) for name in frame) or heading in map(
        label, _lone_intervals(frame)
    )


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` as text: "x", "x_low" and "x_high" become one column "x [low, high]", and each heading is put into words.

    "low" and "high" alone belong to the column before them; bounds without an estimate keep a column of their own.
    """
    bounds = _bounds(frame)
    within = {name for pair in bounds.values() for name in pair}
    shown = {}
    for name in frame:
        if name in within:
            continue
        cells = _cells(frame[name], name)
        if name in bounds:
            low, high = (_cells(frame[end], end, _whole(frame[name])) for end in bounds[name])
            cells = [
                f"{cell} [{one}, {two}]" if cell and one and two else cell
                for cell, one, two in zip(cells, low, high, strict=True)
            ]
        shown[label(name)] = cells
    for name in _lone_intervals(frame):
        low, high = (_cells(frame[f"{name}_{end}"], name) for end in ("low", "high"))
        shown[label(name)] = [f"[{one}, {two}]" if one and two else "" for one, two in zip(low, high, strict=True)]
    return pd.DataFrame(shown, index=range(len(frame)))


def shared(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """`frame` without empty columns and columns of text that say the same in all of three rows or more, and what those say, as one line."""
    frame = frame.dropna(axis="columns", how="all")
    same = [name for name in frame if len(frame) > 2 and not _numeric(frame[name]) and frame[name].nunique(dropna=False) == 1]  # fmt: skip
    told = [f"{label(name)}: {_cells(frame[name], name)[0]}" for name in same]
    return frame.drop(columns=same), f"All rows: {'; '.join(told)}." if told else ""


def _bounds(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Estimate → its (lower, upper) column; a bound without estimate stands for itself."""
    names = list(frame)
    pairs = {}
    for place, low in enumerate(names):
        high = low.removesuffix("low") + "high"
        if not (low == "low" or low.endswith("_low")) or high not in names:
            continue
        estimate = low.removesuffix("_low") if low != "low" else names[place - 1] if place else ""
        pairs[estimate] = (low, high)
    return pairs


def _lone_intervals(frame: pd.DataFrame) -> list[str]:
    return [name for name in _bounds(frame) if name not in frame.columns and name]


def _numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _whole(values: pd.Series) -> bool:
    """Whether a column counts something: whole numbers, not only 0 and 1."""
    return _numeric(values) and values.notna().any() and (values.dropna() % 1 == 0).all() and values.max() >= 2


def _cells(values: pd.Series, name: str, whole: bool | None = None) -> list[str]:
    """A column as text: counts whole, other numbers as `_number` has them, what is missing empty. `whole` decides for bounds, which follow their estimate."""
    if pd.api.types.is_bool_dtype(values):
        return list(values.map({True: "yes", False: "no"}))
    if not _numeric(values):
        return ["" if pd.isna(value) else _text(value) for value in values]
    if name in IDENTIFIERS and (values.dropna() % 1 == 0).all():
        return ["" if pd.isna(value) else f"{value:.0f}" for value in values]
    whole = _whole(values) if whole is None else whole
    return [as_text(value, 0) if whole else _number(value) for value in values]


def _text(value: object) -> str:
    """Text of a cell; a name of the code ("psnr_db") in words, as in the headings."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return label(value) if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", str(value)) else str(value)


def _number(value: float) -> str:
    """Three decimals, two from 10 on; very small ones with an exponent."""
    if pd.isna(value):
        return ""
    if value % 1 == 0 and abs(value) >= 100:  # a count among other numbers stays one: 859 patients, not 859.000
        return as_text(value, 0)
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}".replace("-", "−")
    return as_text(value, 2 if abs(value) >= 10 else 3)
