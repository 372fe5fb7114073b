"""The example of a resolver of one's own, against what Consul answers."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from examples import consul as consul_example
from examples.consul import ConsulResolver
from tests.support import Loop
from txzmq.rpc import ResolvedAddress, Resolver, Unavailable


class FakeConsul(Resource):
    """Holds requests back until its instances change."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)  # type: ignore[no-untyped-call]  # Twisted's
        self.index = 0
        self.instances: list[dict[str, Any]] = []
        self.held: list[Any] = []
        self.failing = True

    def render_GET(self, request: Any) -> bytes | int:
        assert request.path == b"/v1/health/service/greeter"
        assert request.args[b"passing"] == [b"true"]
        assert request.getHeader("X-Consul-Token") == "secret"
        if self.failing:
            request.setResponseCode(500)
            return b"no leader"
        if int(request.args[b"index"][0]) < self.index:
            return self.answer(request)
        self.held.append(request)
        # What is held when the client goes is not to be finished.
        request.notifyFinish().addErrback(self.gone, request)
        return NOT_DONE_YET

    def gone(self, failure: object, request: Any) -> None:
        self.held.remove(request)

    def answer(self, request: Any) -> bytes:
        request.setHeader("X-Consul-Index", str(self.index))
        return json.dumps(self.instances).encode()

    def change(self, *instances: tuple[str, str, int]) -> None:
        """Node's address, service's address, port."""
        self.index += 1
        self.failing = False
        self.instances = [
            {"Node": {"Address": node}, "Service": {"Address": own, "Port": port, "Weights": {}}}
            for node, own, port in instances
        ]
        held, self.held = self.held, []
        for request in held:
            request.write(self.answer(request))
            request.finish()


class Noted:
    def __init__(self) -> None:
        self.told: list[list[ResolvedAddress]] = []
        self.errors: list[str] = []

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        self.told.append(list(addresses))

    def not_resolved(self, error: Unavailable) -> None:
        self.errors.append(error.message)


def test_instances_come_and_go(one_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_example, "RETRY", (0.01, 0.02))

    async def main() -> None:
        consul, noted = FakeConsul(), Noted()
        build_site: Any = Site  # untyped
        site = build_site(consul)
        site.noisy = False
        port = one_loop.reactor.listenTCP(0, site, interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}"
        resolver: Resolver = ConsulResolver("greeter", consul=url, token="secret")
        resolver.start(one_loop.reactor, noted)
        await one_loop.until(lambda: noted.errors)
        assert noted.errors == ["Consul does not tell of greeter: HTTP status 500"]
        consul.change(("192.0.2.1", "", 5000), ("192.0.2.2", "2001:db8::2", 5001))
        await one_loop.until(lambda: noted.told)
        await one_loop.until(lambda: consul.held)
        consul.change(("192.0.2.1", "", 5000))
        await one_loop.until(lambda: len(noted.told) == 2)
        await one_loop.until(lambda: consul.held)
        resolver.close()
        await one_loop.until(lambda: not consul.held)
        await port.stopListening()
        await one_loop.sleep(0.01)
        first = ResolvedAddress("tcp://192.0.2.1:5000")
        assert noted.told == [[first, ResolvedAddress("tcp://[2001:db8::2]:5001")], [first]]

    one_loop.run(main)


def test_what_is_closed_while_it_connects_leaves_nothing(one_loop: Loop) -> None:
    """In any state: the end of a connection attempt is another error than that of a wait."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the question, says nothing
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            for turns in range(4):
                resolver = ConsulResolver("greeter", consul=url)
                noted = Noted()
                resolver.start(one_loop.reactor, noted)
                for _ in range(turns):
                    await one_loop.sleep(0)
                resolver.close()
                await one_loop.sleep(0.01)
                assert noted.errors == []
                assert len(one_loop.reactor.getDelayedCalls()) == 1  # the time limit of the test

    one_loop.run(main)
