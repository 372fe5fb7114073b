"""Packages whose names are imported when somebody asks for them (PEP 562).

A program that imports a generated client, and makes no channel, is not to wait for sockets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["lazy_exports"]


def lazy_exports(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    :param names: what it exports, with spaces between, by the modules that define it. Those
        modules of its own are its attributes, too, as if it had imported them.
    """
    module_of = {name: module for module, several in names.items() for name in several.split()}
    own = {module[len(package) + 1 :] for module in names if module.startswith(f"{package}.")}

    def get_attribute(name: str) -> object:
        if name in module_of:
            value: object = getattr(import_module(module_of[name]), name)
            setattr(sys.modules[package], name, value)  # the next one does not come here
            return value
        if name in own:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of, *own})

    return get_attribute, list_names
