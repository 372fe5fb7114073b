"""Types of arguments that several benchmarks take."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["count", "seconds"]


def seconds(most: int) -> Callable[[str], float]:
    """Above 0, and at most so many."""

    def read(text: str) -> float:
        number = float(text)
        if not 0 < number <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between 0 and {most}")
        return number

    read.__name__ = "number of seconds"  # which argparse names where it is none
    return read


def count(text: str) -> int:
    """At least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
