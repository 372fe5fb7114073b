"""Pages for whoever scrapes or probes a process; needs the extra ``txzmq[prometheus]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from twisted.web.resource import Resource
from twisted.web.server import Site

if TYPE_CHECKING:
    from twisted.web.http import Request

__all__ = ["OperationsSite", "Page", "State", "exposed"]


def exposed(request: Request, registry: CollectorRegistry) -> bytes:
    """The metrics, in the format that the client asks for, or as text; the type is set."""
    # By bytes: Twisted decodes nothing that is not UTF-8.
    accept: Any = request.getHeader(b"accept")
    try:
        encode, content_type = choose_encoder((accept or b"").decode("latin-1"))
    except (TypeError, ValueError):  # prometheus_client's, of versions that are none
        encode, content_type = choose_encoder("")
    request.setHeader("content-type", content_type)  # type: ignore[no-untyped-call]  # Twisted's
    return encode(registry)


class Page(Resource):
    """A page of which a client may want the head alone."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's

    def render_GET(self, request: Request) -> bytes:
        """The page; its type is set."""
        raise NotImplementedError

    def render_HEAD(self, request: Request) -> bytes:
        """Nothing, but how long the page is: Twisted logs each body that is too much."""
        size = len(self.render_GET(request))
        request.setHeader("content-length", str(size))  # type: ignore[no-untyped-call]  # Twisted's
        return b""


class State(Page):
    """Says yes or no: 200 or 503."""

    def __init__(self, why_not: Callable[[], str]) -> None:
        """:param why_not: what is wrong; empty if nothing is."""
        super().__init__()
        self._why_not = why_not

    def render_GET(self, request: Request) -> bytes:
        """``ok``, or why not."""
        request.setHeader("content-type", "text/plain; charset=utf-8")  # type: ignore[no-untyped-call]  # Twisted's
        reason = self._why_not()
        if reason:
            request.setResponseCode(503)
        return f"{reason or 'ok'}\n".encode()


class OperationsSite(Site):
    """Logs no requests: there is one every few seconds from whoever scrapes or probes."""

    #: Nor that its port is open: whoever opens it says so.
    noisy = False

    def log(self, request: Request) -> None:
        """Nothing."""
