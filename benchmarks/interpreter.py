"""Which Python measures, and how it was built: without PGO and LTO one is 10 to 15 % slower."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from typing import Final

__all__ = ["how_built", "interpreter"]

#: Where distributions have their own interpreter.
_DISTRIBUTION: Final = "/usr/bin/"


def interpreter() -> str:
    """Name, version and build of the running interpreter, for the head of a table."""
    name, version = platform.python_implementation(), platform.python_version()
    if name != "CPython":
        return f"{name} {version}"
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    # That of a virtual environment is a link to the one it was made with.
    return f"{name} {version} ({how_built(arguments, os.path.realpath(sys.executable))})"


def how_built(arguments: str, program: str) -> str:
    """Whether CPython was built with PGO and LTO, as far as it can be told.

    :param arguments: what ``configure`` was given, as sysconfig keeps it; empty on Windows.
    :param program: the interpreter's file, all links followed.
    """
    found = {
        "PGO": "--enable-optimizations" in arguments,
        "LTO": "--with-lto" in arguments and "--with-lto=no" not in arguments,
    }
    there = [name for name, is_there in found.items() if is_there]
    if there:
        lacking = [name for name in found if name not in there]
        return f"built with {' and '.join(there)}" + "".join(f", without {it}" for it in lacking)
    # Debian's rules run `make profile-opt` with flags of their own, of which configure knows
    # nothing.
    if program.startswith(_DISTRIBUTION) or not arguments:
        return "built by its distributor, whose configure does not say whether with PGO and LTO"
    return "built without PGO and LTO"
