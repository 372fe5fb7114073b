"""Packages that import each of their names when it is first asked for (PEP 562).

So a program that imports a generated client, and makes no channel, does not wait until the socket
layer is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["lazy_exports"]


def lazy_exports(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package.

    :param names: by module, the names that the package exports from it, separated by spaces. The
        package's own modules among them are its attributes, too, as if it had imported them.
    """
    module_of = {name: module for module, several in names.items() for name in several.split()}
    own = {module[len(package) + 1 :] for module in names if module.startswith(f"{package}.")}

    def get_attribute(name: str) -> object:
        if name in module_of:
            value: object = getattr(import_module(module_of[name]), name)
            setattr(sys.modules[package], name, value)  # found without this function from now on
            return value
        if name in own:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of, *own})

    return get_attribute, list_names
