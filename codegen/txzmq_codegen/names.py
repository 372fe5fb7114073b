"""Names: what the identifiers of a proto become in Python.

Proto identifiers are ASCII letters, digits and underscores, so every rule here can be exact. The
name on the wire never changes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["ServiceClasses", "is_plain", "method_names", "module_part", "service_classes", "snake"]

#: Spelt out, because ``keyword.kwlist`` is that of the Python that runs the generator, and the
#: output must be the same everywhere. A test compares the two.
KEYWORDS: Final = frozenset(
    "False None True and as assert async await break class continue def del elif else except "
    "finally for from global if import in is lambda nonlocal not or pass raise return try while "
    "with yield".split()
)
#: Names that Python allows for methods and the generator does not: the first argument of the
#: generated constructors, and the one method without underscores that every class has.
SOFT_CLASHES: Final = frozenset({"self", "mro"})

_WORD_BORDER: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_IN_IDENTIFIERS: Final = re.compile(r"[^0-9A-Za-z_]")


def snake(name: str) -> str:
    """``GetHTTPResponse`` -> ``get_http_response``; what is in snake_case already stays."""
    return _WORD_BORDER.sub("_", name).lower()


def is_plain(name: str) -> bool:
    """Whether *name* can be written after a dot anywhere, inside a class too.

    Keywords cannot, and Python mangles names that begin with two underscores and do not end so.
    """
    return name not in KEYWORDS and not (name.startswith("__") and not name.endswith("__"))


def _soften(name: str) -> str:
    """Make *name* a public identifier that is no keyword and no :data:`SOFT_CLASHES`."""
    name = name.lstrip("_")
    if not name or name[0].isdigit():
        name = f"rpc_{name}"
    return f"{name}_" if name in KEYWORDS or name in SOFT_CLASHES else name


def method_names(rpcs: Sequence[str]) -> dict[str, str]:
    """The Python name of each rpc of one service.

    snake_case; a keyword or a clash with our own names gets a trailing underscore, leading
    underscores go. Rpcs that would share a name keep their proto spelling.

    The result may still hold one name twice (``_Foo`` beside ``Foo``): the caller reports that.
    """
    wanted = {rpc: _soften(snake(rpc)) for rpc in rpcs}
    uses = Counter(wanted.values())
    return {rpc: name if uses[name] == 1 else _soften(rpc) for rpc, name in wanted.items()}


class ServiceClasses(NamedTuple):
    """The names of the classes that one service becomes."""

    methods: str
    client: str
    base: str
    unimplemented: str
    fake: str


def service_classes(services: Iterable[str]) -> Mapping[str, ServiceClasses]:
    """The class names for all services of one file.

    ``<Service>Methods``, ``Client`` and ``Base`` never change. ``Unimplemented<Service>Base``
    and ``<Service>FakeClient`` get trailing underscores where another service of the file has
    the name: services ``Foo`` and ``FooFake`` both would have a ``FooFakeClient``.
    """
    services = list(services)
    taken = {f"{name}{suffix}" for name in services for suffix in ("Methods", "Client", "Base")}

    def free(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    return {
        name: ServiceClasses(
            f"{name}Methods",
            f"{name}Client",
            f"{name}Base",
            free(f"Unimplemented{name}Base"),
            free(f"{name}FakeClient"),
        )
        for name in services
    }


def module_part(name: str) -> str:
    """A folder or file name as a part of a dotted module name.

    A character that an identifier cannot have becomes an underscore, a leading digit gets an ``n``
    before it, and a keyword an underscore behind it.
    """
    name = _NOT_IN_IDENTIFIERS.sub("_", name)
    if not name or name[0].isdigit():
        name = f"n{name}"
    return f"{name}_" if name in KEYWORDS else name
