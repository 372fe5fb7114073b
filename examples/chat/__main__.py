"""A chat with a page for browsers: ``python -m examples.chat [PORT]``, or ``make example-chat``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred

from examples.chat.service import Chat
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server
from txzmq.rpc.http_gateway import Cors, HttpGateway
from txzmq.rpc.method_sources import ServedMethods

#: What the page may do: run its own script, and call the gateway. Nothing that a guest has written.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' "
_FILES = {
    b"": ("page.html", "text/html; charset=utf-8"),
    b"chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    b"chat.css": ("chat.css", "text/css; charset=utf-8"),
}


async def main(reactor: Any, port: str = "8080") -> None:
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    chat = Chat()
    server = Server(factory, [chat])
    channel = Channel(factory, server.listen("inproc://chat"))

    root: Any = Resource()  # type: ignore[no-untyped-call]  # Twisted's
    site: Any = Site(root)  # type: ignore[no-untyped-call]  # Twisted's
    listening = reactor.listenTCP(int(port), site, interface="127.0.0.1")
    origin = f"http://127.0.0.1:{listening.getHost().port}"
    # A page of another origin may not call.
    gateway = HttpGateway(channel, ServedMethods([chat]), cors=Cors([origin]))
    # At the next port, so that pages find it again after a restart; 0 stands for any.
    behind = int(port) + 1 if int(port) else 0
    # The streams of the pages have no end of their own: do not wait for one at Ctrl-C.
    listener = await gateway.listen(f"127.0.0.1:{behind}", grace=0.5, reactor=reactor)

    class File(Resource):
        isLeaf = True  # noqa: N815 - Twisted's name

        def __init__(self, content: bytes, kind: str) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
            self._content = content
            self._kind = kind

        def render_GET(self, request: Any) -> bytes:
            request.setHeader("content-type", self._kind)
            request.setHeader("content-security-policy", _POLICY + listener.url)
            return self._content

    for path, (name, kind) in _FILES.items():
        content = Path(__file__).with_name(name).read_bytes()
        root.putChild(path, File(content, kind))
    # The page asks where the gateway is.
    root.putChild(b"gateway", File(listener.url.encode(), "text/plain"))
    print(f"open {origin} in two windows", flush=True)
    await Deferred()  # until Ctrl-C


if __name__ == "__main__":
    # Twisted has no types for it.
    asyncioreactor.install()  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]
    from twisted.internet.task import react

    react(main, sys.argv[1:])
