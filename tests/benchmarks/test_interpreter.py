from __future__ import annotations

import platform

import pytest

from benchmarks.interpreter import how_built, interpreter
from benchmarks.report import machine

OWN = "/opt/python/bin/python3.11"


@pytest.mark.parametrize(
    ("arguments", "program", "said"),
    [
        ("'--enable-optimizations' '--with-lto'", OWN, "built with PGO and LTO"),
        ("'--enable-optimizations'", OWN, "built with PGO, without LTO"),
        ("'--with-lto=full'", OWN, "built with LTO, without PGO"),
        ("'--enable-optimizations' '--with-lto=no'", OWN, "built with PGO, without LTO"),
        ("'--prefix=/opt/python' '--enable-shared'", OWN, "built without PGO and LTO"),
        ("'--prefix=/usr'", "/usr/bin/python3.11", "built by its distributor"),
        ("'--enable-optimizations'", "/usr/bin/python3.11", "built with PGO, without LTO"),
        ("", OWN, "built by its distributor"),
    ],
)
def test_what_configure_was_given_tells_how_the_interpreter_was_built(
    arguments: str, program: str, said: str
) -> None:
    assert how_built(arguments, program, debian=False).startswith(said)


def test_debians_package_is_built_with_both_whatever_configure_says() -> None:
    said = "Debian's package, which is built with PGO and LTO"
    assert how_built("'--prefix=/usr'", "/usr/bin/python3.11", debian=True) == said
    assert how_built("'--prefix=/opt'", OWN, debian=True) == "built without PGO and LTO"


def test_every_table_says_which_python_made_it() -> None:
    assert machine([])["python"] == interpreter()
    assert interpreter().startswith(f"{platform.python_implementation()} ")
    assert platform.python_version() in interpreter()
