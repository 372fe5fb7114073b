"""Chromium with a page that calls the gateway by connect-web, from another origin."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from tests.foreign.calls import Call, Outcome, Protocol
from tests.foreign.clients import BUILT
from tests.programs import PATIENCE, Program, started

_PAGE: Final = b'<!doctype html><script type="module" src="/connect-web.js"></script>'
#: Seconds for which a question of the page's waits: below those of a browser.
_POLL: Final = 20.0
_OPTIONS: Final = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


class Page:
    """A server of the page; what the page is to do, and what it has told.

    :ivar origin: the page's.
    """

    def __init__(self) -> None:
        self.asked: queue.Queue[Any] = queue.Queue()
        self.told: queue.Queue[Any] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Serve it no more."""
        self.asked.put(None)  # for a question that waits
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()


def _handler(page: Page) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path:
                case "/":
                    self._answer(200, "text/html", _PAGE)
                case "/connect-web.js":
                    self._answer(200, "text/javascript", (BUILT / "connect-web.js").read_bytes())
                case "/asked":
                    try:
                        asked = page.asked.get(timeout=_POLL)
                    except queue.Empty:
                        asked = None
                    self._answer(200, "application/json", json.dumps(asked).encode())
                case _:
                    self._answer(404, "text/plain", b"")

        def do_POST(self) -> None:
            page.told.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._answer(200, "text/plain", b"")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


class ByPage:
    """A call by the page."""

    def __init__(self, page: Page, program: Program, target: str, protocol: Protocol, call: Call):
        self._page = page
        self._program = program
        self._call = call
        asked = {"target": f"http://{target}", "protocol": protocol}
        page.asked.put({**call.asked(), **asked})

    def cancel(self) -> None:
        self._page.asked.put("cancel")

    def first(self) -> None:
        assert self._told() == {"first": True}

    def go_on(self) -> None:
        self._page.asked.put("go")

    def outcome(self) -> Outcome:
        return Outcome.told(self._call, json.dumps(self._told()))

    def _told(self) -> Any:
        try:
            return self._page.told.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"the page has told nothing: {self._program!r}") from None


class Browser:
    """Chromium, with the page."""

    def __init__(self, page: Page, program: Program) -> None:
        self._page = page
        self._program = program

    @contextmanager
    def start(self, target: str, protocol: Protocol, call: Call) -> Generator[ByPage]:
        """Start a call, as other clients do."""
        while not self._page.told.empty():  # of a test that has failed
            self._page.told.get()
        yield ByPage(self._page, self._program, target, protocol, call)


@contextmanager
def browsing(page: Page, folder: Path) -> Generator[Browser]:
    """Run Chromium with the page.

    :param folder: a new one, for what it keeps.
    """
    command = ["chromium", *_OPTIONS, f"--user-data-dir={folder}", "--enable-logging=stderr"]
    with started(*command, f"{page.origin}/") as program:
        yield Browser(page, program)
        program.terminate()
