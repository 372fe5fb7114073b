"""Which Python measures, and how it was built: without PGO and LTO one is 10 to 15 % slower."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from pathlib import Path
from typing import Final

__all__ = ["how_built", "interpreter"]

#: Where distributions have their own interpreter.
_DISTRIBUTION: Final = "/usr/bin/"
_DEBIAN: Final = Path("/etc/debian_version")


def interpreter() -> str:
    """Name, version and build of the running interpreter, for the head of a table."""
    name, version = platform.python_implementation(), platform.python_version()
    if name != "CPython":
        return f"{name} {version}"
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    # That of a virtual environment is a link to the one it was made with.
    program = os.path.realpath(sys.executable)
    return f"{name} {version} ({how_built(arguments, program, debian=_DEBIAN.exists())})"


def how_built(arguments: str, program: str, *, debian: bool) -> str:
    """Whether CPython was built with PGO and LTO, as far as it can be told.

    :param arguments: what ``configure`` was given, as sysconfig keeps it; empty on Windows.
    :param program: the interpreter's file, all links followed.
    :param debian: whether this is Debian, or made from it.
    """
    found = {
        "PGO": "--enable-optimizations" in arguments,
        "LTO": "--with-lto" in arguments and "--with-lto=no" not in arguments,
    }
    there = [name for name, is_there in found.items() if is_there]
    if there:
        lacking = [name for name in found if name not in there]
        return f"built with {' and '.join(there)}" + "".join(f", without {it}" for it in lacking)
    if program.startswith(_DISTRIBUTION) and debian:
        # Its rules run `make profile-opt` with flags of their own, which configure never sees.
        return "Debian's package, which is built with PGO and LTO"
    if program.startswith(_DISTRIBUTION) or not arguments:
        return "built by its distributor, whose configure does not say whether with PGO and LTO"
    return "built without PGO and LTO"
