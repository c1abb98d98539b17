"""From stored values to log attenuation or display values, as one table a file; used by `dsa_lib.dicom.series` alone (PS3.3 C.7.6.3, C.8.7.1.1.2, C.11)."""

import math
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from dsa_lib.dicom.tags import Unreadable, find, numbers, sequence_item


@dataclass(frozen=True)
class ValueTable:
    """`table`: float32, one entry a stored bit pattern; `log_per_value`: log attenuation of one stored step (LOG only, else 0); `mapping`: what was
    done to a stored value v, in words, for the record."""

    table: np.ndarray
    log_per_value: float
    mapping: str


def value_table(header: Dataset, relationship: str) -> ValueTable:
    """How the stored values of a file become the plane's unit.

    LIN: ln of the value after the Modality LUT or rescale. LOG: stored value times the log attenuation that one step stands for; the Modality LUT leads
    back to linear there and is not applied, only that step is read from it. DISP: display value in [0, 1] through the first VOI LUT or window; the
    Modality LUT is not applied (PS3.3 C.8.7.1.1.2). The sign of the relationship (0028,1041), or MONOCHROME1, inverts the stored values first.
    Raises Unreadable for layouts that no current XA image has.
    """
    allocated, stored = int(header.BitsAllocated), int(header.get("BitsStored") or header.BitsAllocated)
    if not 1 <= stored <= allocated:
        raise Unreadable("more bits stored than allocated, or none", "export the run again")
    if int(header.get("HighBit", stored - 1)) != stored - 1:
        raise Unreadable(
            "an obsolete bit layout, its values not in the lowest bits", "convert the run to a current form"
        )
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable("an unknown photometric interpretation", "export the run as grey-scale XA")
    values, low, high = np.arange(2**stored, dtype=np.int64), 0, 2**stored - 1
    if int(header.get("PixelRepresentation") or 0) == 1:
        low, high = -(2 ** (stored - 1)), 2 ** (stored - 1) - 1
        values = np.where(values > high, values - 2**stored, values)
    sign = find(header, "PixelIntensityRelationshipSign") if relationship != "DISP" else None
    inverted = int(sign) == -1 if sign is not None else photometric == "MONOCHROME1"
    flipped = low + high - values if inverted else values
    v = f"({low + high} - v)" if inverted else "v"
    step = 0.0
    if relationship == "LOG":
        step, assumed = _log_step(header, stored)
        table, mapping = flipped * step, f"{v} * {step:.6g}{'; step assumed' if assumed else ''}"
    elif relationship == "LIN":
        linear, mapping = _linear(header, flipped, v)
        table, mapping = np.log(np.maximum(linear, 1.0)), f"ln({mapping})"
    else:
        # The window is defined on stored values (PS3.3 C.11.2.1.2): inversion, a matter of presentation, comes after it.
        shown, mapping = _display(header, values, low, high, stored)
        table, mapping = (1 - shown, f"1 - {mapping}") if inverted else (shown, mapping)
    # Bits beside the stored ones (old overlays) carry no value: the table repeats over them.
    return ValueTable(np.tile(table.astype(np.float32), 2 ** (allocated - stored)), step, mapping)


def _linear(header: Dataset, values: np.ndarray, v: str) -> tuple[np.ndarray, str]:
    """Values linear in exposure: through the Modality LUT, or rescaled, where the header has either."""
    if header.get("ModalityLUTSequence"):
        first, entries, _ = _lookup_table(header, header.ModalityLUTSequence[0])
        return entries[np.clip(values - first, 0, len(entries) - 1)], f"Modality LUT of {v}"
    slope, intercept = (numbers(find(header, f"Rescale{name}")) for name in ("Slope", "Intercept"))
    slope, intercept = (slope or [1.0])[0], (intercept or [0.0])[0]
    plain = slope == 1 and intercept == 0
    return values * slope + intercept, v if plain else f"{slope:.6g} * {v} + {intercept:.6g}"


def _display(header: Dataset, values: np.ndarray, low: int, high: int, stored: int) -> tuple[np.ndarray, str]:
    """Display values in [0, 1] through the first VOI LUT, else the first window (LINEAR, LINEAR_EXACT or SIGMOID), else the full range."""
    source = sequence_item(header, "FrameVOILUTSequence") or header
    if source.get("VOILUTSequence"):
        first, entries, bits = _lookup_table(header, source.VOILUTSequence[0])
        return np.clip(entries[np.clip(values - first, 0, len(entries) - 1)] / (2**bits - 1), 0, 1), "VOI LUT of v"
    centre, width = numbers(source.get("WindowCenter")), numbers(source.get("WindowWidth"))
    if not (centre and width and width[0] >= 1):
        return (values - low) / (high - low), f"(v - {low}) / {high - low}"
    only = Dataset()  # so that pydicom sees nothing but what applies
    only.WindowCenter, only.WindowWidth = source.WindowCenter, source.WindowWidth
    only.VOILUTFunction = function = str(source.get("VOILUTFunction") or "LINEAR")
    only.BitsStored, only.PixelRepresentation, only.PhotometricInterpretation = stored, int(low < 0), "MONOCHROME2"
    shown = (np.asarray(apply_windowing(values, only), np.float64) - low) / (high - low)
    return np.clip(shown, 0, 1), f"{function.lower()} window of v, centre {centre[0]:.6g}, width {width[0]:.6g}"


def _lookup_table(header: Dataset, item: Dataset) -> tuple[int, np.ndarray, int]:
    """(first value mapped, entries as float64, bits of an entry) of a LUT item; entries are words, or bytes where the data are only that long (C.11.1.1)."""
    count, first, bits = (int(number) for number in numbers(item.LUTDescriptor))
    data, count = item.LUTData, count or 65536
    if isinstance(data, bytes):
        order = ">" if header.original_encoding[1] is False else "<"
        entries = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * count else "u1")[:count]
    else:
        entries = np.asarray(data)
    if len(entries) != count or not 1 <= bits <= 16:
        raise Unreadable("a look-up table of the header is incomplete", "export the run again")
    return first, entries.astype(np.float64), bits


def _log_step(header: Dataset, stored: int) -> tuple[float, bool]:
    """(log attenuation of one stored step of a LOG image, whether it is assumed).

    It is the slope of ln(LUT) of the table that leads back to linear. Without one the full range is assumed to be ln(2^bits).

    XA has it as Modality LUT, Enhanced XA as Pixel Intensity Relationship LUT with the function TO_LINEAR.
    """
    items = list(header.get("ModalityLUTSequence") or [])
    if (item := sequence_item(header, "PixelIntensityRelationshipLUTSequence")) is not None:
        if str(item.get("LUTFunction") or "").upper() in ("", "TO_LINEAR"):
            items.append(item)
    if items:
        first, linear, _ = _lookup_table(header, items[0])
        used = np.flatnonzero(linear > linear.max() / 256)  # the darkest entries are rounded, often to 0
        if len(used) > max(1, len(linear) // 8):
            return float(abs(np.polyfit(used + first, np.log(linear[used]), 1)[0])), False
    return math.log(2**stored) / (2**stored - 1), True
