"""Numbers for people: in three digits or so, with their unit."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["bytes_of", "seconds_of"]

_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
#: Seconds of a unit, the largest first.
_LONG: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_SHORT: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def bytes_of(number: float) -> str:
    """``1.5 MiB``."""
    power = 0
    while round(number, 1) >= 1024 and power < len(_SIZES) - 1:
        number /= 1024
        power += 1
    return f"{_short(number)} {_SIZES[power]}"


def seconds_of(seconds: float) -> str:
    """``1 h 5 m``, ``12 s``, ``3.2 ms``; a dash for none."""
    if seconds <= 0 or not math.isfinite(seconds):
        return "-"
    if seconds >= 60:
        return _long(seconds)
    for size, unit in _SHORT:
        if seconds >= size:
            return f"{_short(seconds / size)} {unit}"
    return "<1 us"


def _long(seconds: float) -> str:
    whole = round(seconds)
    for place, (size, unit) in enumerate(_LONG):
        if whole >= size:
            rest = whole % size
            smaller, smaller_unit = _LONG[place + 1]
            parts = [f"{whole // size} {unit}"]
            if rest // smaller:
                parts.append(f"{rest // smaller} {smaller_unit}")
            return " ".join(parts)
    raise AssertionError("it is a minute or more")


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}".removesuffix(".0")
