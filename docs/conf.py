"""How Sphinx builds the documentation: ``make docs``."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

import txzmq
import txzmq.rpc
import txzmq.testing

_log = logging.getLogger(__name__)

project = "txzmq"
author = "txzmq maintainers"
copyright = "txzmq maintainers"
release = version_of("txzmq")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "performance"]  # the latter stands in performance.md
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["keyboard.js"]

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
    (r"py:.*", r"txzmq\.rpc\.transport\.[\w.]+"),  # the seam to IO, which tests replace
    (r"py:.*", r"txzmq\.rpc\.v1\.\w+_txzmq\.\w+"),  # what is generated: its proto is shown
    # Only channel and server make what takes these.
    (r"py:.*", r"txzmq\.rpc\.(client\.CallSpec|interceptors\.InterceptedPort|records\.CallEnd)"),
    (
        r"py:.*",
        r"(CannotListenError|Deferred|Message|Metadata|Reactor|Request|Failure|optional|callable|object|ValueError|TypeError)",
    ),
]

FACADES = [txzmq, txzmq.rpc, txzmq.testing]

#: Public modules whose names are of use to txzmq itself: the seam to IO, and what engines share.
#: What users need of them is in ``txzmq.rpc``, too.
_SHARED = re.compile(
    r"txzmq\.rpc\.(client|context|errors|interceptors|limits|metadata|records|resolvers|server"
    r"|socket_options|streams|transport)\."
)
#: Messages of standard services, whose protos are shown, and what old code imports of txZMQ.
_SHOWN_ELSEWHERE = re.compile(
    r"txzmq\.rpc\.(admin|health|reflection)\.\w+"
    r"|txzmq\.testing\.pytest\.\w+"  # fixtures, which its own text names
    r"|txzmq\.(connection\.(NOBLOCK|toBytes)|req_rep\.ZmqXRE[PQ]Connection)"
)

#: The pages, by the page that they stand below; the pages themselves have no directives, and read
#: well where Sphinx does not build them. Each group is its heading, and its pages.
NAVIGATION: dict[str, list[tuple[str, list[str]]]] = {
    "index": [
        ("", ["tutorial/index", "choosing", "faq", "guide/index", "reference/index"]),
        ("", ["generator*", "protocol*", "promises", "performance*", "inside"]),
        ("", ["decisions/index", "changelog"]),
    ],
    "tutorial/index": [("", ["[1-9]-*"])],
    "guide/index": [
        (
            "Calls",
            [
                "quickstart",
                "errors",
                "deadlines",
                "cancellation",
                "metadata",
                "interceptors",
                "validation",
                "streams",
            ],
        ),
        ("Finding servers", ["endpoints", "balancing", "retries", "failures"]),
        (
            "Serving",
            [
                *("deployment", "serve", "application", "kubernetes", "shutdown", "limits"),
                *("proxies", "raw"),
            ],
        ),
        ("Trust", ["security", "tokens"]),
        ("Tests", ["testing"]),
        (
            "Watching",
            [
                "operate",
                "command-line",
                "watching",
                "logs",
                "metrics",
                "tracing",
                "admin",
                "health",
                "reflection",
            ],
        ),
        (
            "Other worlds",
            [
                "styles",
                "asyncio",
                "threads",
                "gateway",
                "gateway-http",
                "from-grpc",
                "from-grpclib",
                "from-amp",
                "sockets",
                "platforms",
                "porting",
            ],
        ),
        ("Help", ["troubleshooting"]),
    ],
    "reference/index": [
        (
            "",
            ["sockets", "rpc", "balancing", "servers", "auth", "watching", "styles", "gateways"],
        ),
        ("", ["messages", "testing"]),
    ],
    "decisions/index": [("", ["0*"])],
}

#: By word, the page of the guide that the search finds first: an entry of the index counts for more
#: than a parameter of that name does.
SEARCHES: dict[str, str] = json.loads(
    (Path(__file__).parent / "searches.json").read_text(encoding="utf-8")
)

#: What a name in code may be, to be looked up in the reference.
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


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


def add_navigation(app: Any, page: str, source: list[str]) -> None:
    """Have a page know those below it and its words, and the page of changes have the changes."""
    for caption, pages in NAVIGATION.get(page, []):
        options = [":hidden:", ":glob:", *([f":caption: {caption}"] if caption else [])]
        source[0] += "\n".join(["", "", "```{toctree}", *options, "", *pages, "```", ""])
    words = [word for word, found in SEARCHES.items() if page == f"guide/{found}"]
    if words:
        entries = "".join(f"```{{index}} ! {word}\n```\n\n" for word in words)
        source[0] = entries + source[0]
    if page == "changelog":
        source[0] = "```{include} ../CHANGELOG.md\n:relative-docs: docs\n```\n"


def link_names(app: Any, doctree: Any, page: str) -> None:
    """Make links of the names in code that the reference has, at their first place in a section."""
    domain = app.env.domains["py"]
    by_end: dict[str, set[str]] = {}
    for full in domain.objects:
        for end in (full, ".".join(full.split(".")[-2:]), full.rpartition(".")[2]):
            by_end.setdefault(end, set()).add(full)
    for section in doctree.findall(nodes.section):
        seen: set[str] = set()
        for child in section.children:
            if isinstance(child, nodes.section | nodes.title):
                continue
            for literal in list(child.findall(nodes.literal)):
                name = literal.astext().removesuffix("()")
                if name in seen or not _NAME.fullmatch(name) or _has_link(literal):
                    continue
                full = _meant(name, by_end)
                if full is None:
                    continue
                seen.add(name)
                entry = domain.objects[full]
                shown = literal.deepcopy()
                literal.replace_self(
                    make_refnode(app.builder, page, entry.docname, entry.node_id, shown, full)
                )


def _has_link(node: Any) -> bool:
    while node is not None:
        if isinstance(node, nodes.reference | nodes.title | nodes.term):
            return True
        node = node.parent
    return False


def _meant(name: str, by_end: dict[str, set[str]]) -> str | None:
    """What the reference has of a name; first what users import from the facades."""
    if "." not in name and ((name.islower() and "_" not in name) or name.isupper()):
        return None  # a word, or a status code, as often as not
    for facade in reversed(FACADES):
        full = f"{facade.__name__}.{name}"
        if full in by_end.get(full, ()):
            return full
    found = by_end.get(name, set())
    return next(iter(found)) if len(found) == 1 else None


def check_names(app: Any, env: Any) -> None:
    """Warn of public names that the reference has not."""
    known = set(env.domains["py"].objects)
    # Aliases of types stand in the reference where they are defined.
    ends = {full.rpartition(".")[2] for full in known}
    for info in pkgutil.walk_packages(txzmq.__path__, "txzmq."):
        words = info.name.split(".")
        if any(word.startswith("_") for word in words) or words[-1].endswith(("_pb2", "_txzmq")):
            continue
        if info.name in ("txzmq.codegen", "txzmq.rpc.v1"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            full = f"{info.name}.{name}"
            is_there = name in ends if module in FACADES else full in known or _is_of_facade(name)
            if not (is_there or _SHARED.match(full) or _SHOWN_ELSEWHERE.fullmatch(full)):
                _log.warning("the reference has no %s", full)


def _is_of_facade(name: str) -> bool:
    return any(name in facade.__all__ for facade in FACADES)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
    app.connect("doctree-resolved", link_names)
    app.connect("env-check-consistency", check_names)
    app.connect("missing-reference", resolve_by_another_name)
