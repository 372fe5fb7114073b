"""How Sphinx builds the documentation: ``make docs``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version as version_of
from typing import Any

import txzmq
import txzmq.rpc
import txzmq.testing

project = "txzmq"
author = "txzmq maintainers"
copyright = "txzmq maintainers"
release = version_of("txzmq")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "performance"]  # the latter is what performance.md includes
html_theme = "furo"

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

# A reference that leads nowhere is an error, but the build reads no inventory of another project:
# it must not fail because somebody else's server is down.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(abc|asyncio|collections|contextlib|enum|ipaddress|os|random|ssl|typing|types)\..*",
    ),
    (
        r"py:.*",
        r"(connectrpc|google|grpc|opentelemetry|prometheus_client|protovalidate|twisted|zmq|zope)\..*",
    ),
    (r"py:.*", r"(\w+\.)*_\w+(\.\w+)*"),  # what is private has no page
    (r"py:.*", r"(txzmq\.(\w+\.)*)?(E|S|T|Req|Res)"),  # type variables
    (r"py:.*", r"txzmq\.rpc\.transport\.\w+"),  # the seam to IO, which tests replace
    (r"py:.*", r"txzmq\.rpc\.v1\.\w+_txzmq\.\w+"),  # what is generated: its proto is shown
    # Only channel and server make what takes these.
    (r"py:.*", r"txzmq\.rpc\.(client\.CallSpec|interceptors\.InterceptedPort|records\.CallEnd)"),
    (
        r"py:.*",
        r"(Deferred|Message|Metadata|Reactor|Request|Failure|CannotListenError|optional|callable|object|ValueError|TypeError)",
    ),
]

FACADES = [txzmq, txzmq.rpc, txzmq.testing]


def other_names(target: str, owner: type | None) -> Iterator[str]:
    """Under which names the reference may have what a docstring or a signature calls *target*.

    :param owner: the class whose docstring it is.
    """
    yield target  # of another kind: a type alias is data to Sphinx, and a class to a signature
    yield f"txzmq.connection.{target}"  # the aliases that no facade exports
    yield f"txzmq.auth.{target}"  # likewise
    name = target.rpartition(".")[2]
    for facade in FACADES:
        # Users import from the facades, so the reference has everything there.
        if name in facade.__all__:
            yield f"{facade.__name__}.{name}"
        yield f"{facade.__name__}.{target}"
        for base in owner.__mro__ if owner else ():
            yield f"{facade.__name__}.{base.__name__}.{name}"
            if f":ivar {name}:" in (base.__doc__ or ""):
                yield f"{facade.__name__}.{base.__name__}"


def resolve_by_another_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find what Sphinx does not: the inherited, and what is named by where it is defined."""
    if node.get("refdomain") != "py":
        return None
    domain, where = env.domains["py"], node["refdoc"]
    owner = getattr(sys.modules.get(node.get("py:module")), node.get("py:class") or "", None)
    for name in other_names(node["reftarget"], owner):
        found = domain.resolve_xref(env, where, app.builder, "obj", name, node, content)
        if found is not None:
            return found
    return None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve_by_another_name)
