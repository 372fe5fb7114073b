"""A resolver of one's own: the healthy instances of a service that Consul knows.

    channel = Channel(factory, ConsulResolver("greeter"))

It asks Consul's HTTP interface by blocking queries: Consul answers when something has changed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.web.client import Agent, ResponseDone
from twisted.web.http_headers import Headers

from txzmq.rpc import ResolvedAddress, ResolverListener, Unavailable

#: Seconds for which Consul may hold back its answer.
WAIT = 300
#: Seconds until a failed question is repeated, drawn at random: not all clients come at once.
RETRY = (1.0, 3.0)


class ConsulResolver:
    """Watches a service (a :class:`txzmq.rpc.Resolver`)."""

    def __init__(
        self, service: str, *, consul: str = "http://127.0.0.1:8500", token: str | None = None
    ) -> None:
        self._url = f"{consul}/v1/health/service/{quote(service, safe='')}"
        self._headers = Headers({} if token is None else {"X-Consul-Token": [token]})
        self._service = service
        self._watching: Deferred[None] | None = None
        self._is_closed = False

    # Any: Twisted types reactors with zope interfaces.
    def start(self, clock: Any, listener: ResolverListener) -> None:
        """Begin to watch."""
        if self._watching is not None:
            raise RuntimeError("a resolver serves one channel")
        self._watching = Deferred.fromCoroutine(self._watch(clock, listener))
        self._watching.addErrback(_ignore_cancellation)

    def resolve_now(self) -> None:
        """Consul tells of changes at once; there is nothing to hurry."""

    def close(self) -> None:
        """Stop watching."""
        self._is_closed = True
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, reactor: Any, listener: ResolverListener) -> None:
        build_agent: Any = Agent  # untyped
        agent = build_agent(reactor, connectTimeout=5)
        index = 0
        told: Sequence[ResolvedAddress] | None = None
        while True:
            try:
                index, addresses = await self._ask(agent, index)
            except CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                if self._is_closed:  # which need not come as a CancelledError
                    return
                index = 0
                if told is None:
                    reason = f"Consul does not tell of {self._service}: {error}"
                    listener.not_resolved(Unavailable(reason))
                await deferLater(reactor, random.uniform(*RETRY))
                continue
            if addresses != told:
                told = addresses
                listener.resolved(addresses)

    async def _ask(self, agent: Any, index: int) -> tuple[int, list[ResolvedAddress]]:
        url = f"{self._url}?passing=true&index={index}&wait={WAIT}s"
        response = await agent.request(b"GET", url.encode(), self._headers)
        body = _Body()
        response.deliverBody(body)
        instances = await body.whole
        if response.code != 200:
            raise OSError(f"HTTP status {response.code}")
        # An index that goes back means that Consul has begun anew, and so must we.
        (text,) = response.headers.getRawHeaders("X-Consul-Index", ["0"])
        new_index = int(text)
        addresses = sorted({_address_of(instance) for instance in json.loads(instances)})
        return (new_index if new_index >= index else 0), addresses


class _Body(Protocol):
    """Collects a response's body."""

    transport: Any = None  # untyped in Twisted

    def __init__(self) -> None:
        self._received = b""
        self.whole: Deferred[bytes] = Deferred(self._cancel)

    def _cancel(self, _: Deferred[bytes]) -> None:
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Any = connectionDone) -> None:
        if self.whole.called:
            return
        if isinstance(reason.value, ResponseDone):
            self.whole.callback(self._received)
        else:
            self.whole.errback(reason)


def _ignore_cancellation(failure: Any) -> None:
    failure.trap(CancelledError)


def _address_of(instance: dict[str, Any]) -> ResolvedAddress:
    service = instance["Service"]
    host = service["Address"] or instance["Node"]["Address"]
    bracketed = f"[{host}]" if ":" in host else host
    weight = service.get("Weights", {}).get("Passing", 1)
    return ResolvedAddress(f"tcp://{bracketed}:{service['Port']}", weight=weight)
