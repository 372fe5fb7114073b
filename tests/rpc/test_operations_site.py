"""What the site with ``/metrics`` and ``/readyz`` answers, whatever it is asked; in memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.support import Logged
from txzmq.rpc.metrics import Metrics

pytest.importorskip("prometheus_client", reason="the extra prometheus is not installed")

from txzmq.rpc.prometheus import operations_site


def answer(path: str, *headers: bytes, method: str = "GET", **options: Any) -> tuple[int, str, str]:
    """Code, headers and body of what a site of its own answers."""
    return ask(operations_site(Metrics(), **options), path, *headers, method=method)


# Any: Twisted types sites with zope interfaces.
def ask(site: Any, path: str, *headers: bytes, method: str = "GET") -> tuple[int, str, str]:
    channel = site.buildProtocol(None)
    channel.callLater = Clock().callLater
    transport: Any = StringTransport()  # type: ignore[no-untyped-call]  # Twisted's
    channel.makeConnection(transport)
    lines = (f"{method} {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", *headers)
    channel.dataReceived(b"\r\n".join(lines) + b"\r\n\r\n")
    head, _, body = transport.value().partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body.decode()


@pytest.mark.parametrize(
    "accept",
    [
        b"\xff\xfe",
        b"application/openmetrics-text;version=abc",
        b"application/openmetrics-text;version=1..0",
        b"application/openmetrics-text;version==;escaping",
        b"text/plain;version=1.0.0-rc1",
        b"," * 1_000,
    ],
)
def test_whatever_a_client_accepts_it_gets_the_metrics(accept: bytes, logged: Logged) -> None:
    code, head, body = answer("/metrics", b"Accept: " + accept)
    assert code == 200
    assert "content-type: text/plain" in head or "openmetrics-text" in head
    assert "txzmq_build_info" in body
    assert logged.failures() == []


def test_the_format_is_the_one_that_is_asked_for() -> None:
    _, head, body = answer("/metrics", b"Accept: application/openmetrics-text;version=1.0.0,*/*")
    assert "content-type: application/openmetrics-text; version=1.0.0" in head
    assert body.endswith("# EOF\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_who_wants_the_head_gets_it_and_nothing_is_logged_of_it(path: str, logged: Logged) -> None:
    code, head, body = answer(path, method="HEAD")
    assert (code, body) == (200, "")
    (length,) = re.findall(r"content-length: (\d+)", head)
    assert abs(int(length) - len(answer(path)[2])) < 100  # figures of the process change
    assert "content-type: text/plain" in head
    assert [event for event in logged if "returning a message body" in str(event)] == []


def raises() -> bool:
    raise ConnectionError("no database")


def test_a_check_that_raises_is_not_ready_and_is_logged_when_that_begins(logged: Logged) -> None:
    checks = [raises]
    site = operations_site(Metrics(), is_ready=lambda: checks[0]())
    for _ in range(3):
        assert ask(site, "/readyz")[::2] == (503, "the application is not ready\n")
    checks[0] = lambda: True
    assert ask(site, "/readyz")[::2] == (200, "ok\n")
    assert [str(error) for error in logged.failures()] == ["no database"]
    checks[0] = raises
    assert ask(site, "/readyz")[0] == 503
    assert len(logged.failures()) == 2


WAITING: Deferred[bool] = Deferred()


@pytest.mark.parametrize("result", [None, "no", WAITING, 1])
def test_a_check_that_says_neither_yes_nor_no_is_not_ready(result: Any, logged: Logged) -> None:
    assert answer("/readyz", is_ready=lambda: result)[0] == 503
    (error,) = logged.failures()
    assert "is_ready must return True or False" in str(error)


async def waits() -> bool:
    return True


def is_named(name: str) -> bool:
    return bool(name)


WRONG: list[Any] = [waits, [waits], "yes", [True], is_named, None]


@pytest.mark.parametrize("wrong", WRONG)
def test_checks_that_cannot_be_asked_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is_ready"):
        operations_site(Metrics(), is_ready=wrong)
