"""Servers that register themselves in etcd, and a resolver that watches them there.

    services = OrderedMultiService()
    server = ServerService([Greeter()], "tcp://10.0.0.7:5000", credentials=credentials)
    for each in (server, EtcdRegistration(server, "greeter")):
        each.setServiceParent(services)

    channel = ChannelService(lambda: EtcdResolver("greeter"), credentials=credentials)

A server's key is ``services/greeter/`` and its address; it hangs on a lease, which the server keeps
alive. When the server is gone, the lease runs out, and etcd removes the key. Both ask etcd's JSON
gateway, which etcd has from 3.4 on, by HTTP or HTTPS.
"""

from __future__ import annotations

import json
import random
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.client import Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import (  # pyright: ignore[reportMissingTypeStubs]  # zope has none
    classImplements,  # pyright: ignore[reportUnknownVariableType]  # likewise
)

from txzmq.rpc import ResolvedAddress, ResolverListener, Unavailable
from txzmq.rpc.application import ServerService

_log = Logger()

HERE: Final = "http://127.0.0.1:2379"
PREFIX: Final = "services/"
#: Seconds that etcd may take for an answer.
PATIENCE = 5.0
#: Seconds until what has failed is tried again, drawn at random: not all come at once.
RETRY = (1.0, 3.0)
#: Seconds after which a watch is made anew: nothing else notices a connection that is dead.
WATCH = 300.0


class EtcdResolver:
    """Watches the servers of a service (a :class:`txzmq.rpc.Resolver`)."""

    def __init__(
        self, service: str, *, etcd: str | Sequence[str] = HERE, prefix: str = PREFIX
    ) -> None:
        """:param etcd: the address of etcd, or of each of its members."""
        self._service = service
        self._urls = etcd
        self._range = _range(f"{prefix}{service}/")
        #: The servers by their keys, since etcd's *revision*, of the *cluster*; 0: not listed.
        self._servers: dict[str, ResolvedAddress] = {}
        self._revision = 0
        self._cluster = ""
        self._told: list[ResolvedAddress] | None = None
        self._listener: ResolverListener | None = None
        self._watching: Deferred[None] | None = None

    # Any: Twisted types reactors with zope interfaces.
    def start(self, clock: Any, listener: ResolverListener) -> None:
        """Begin to watch."""
        if self._watching is not None:
            raise RuntimeError("a resolver serves one channel")
        self._listener = listener
        self._watching = Deferred.fromCoroutine(self._watch(clock))
        self._watching.addErrback(_ignore_cancellation)

    def resolve_now(self) -> None:
        """Etcd tells of changes at once; there is nothing to hurry."""

    def close(self) -> None:
        """Stop watching."""
        self._listener = None
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, reactor: Any) -> None:
        etcd = Etcd(reactor, self._urls)
        while True:
            try:
                if not self._revision:
                    self._list(await etcd.ask("/v3/kv/range", self._range))
                await self._follow(etcd)
            except CancelledError:
                raise
            except _ListAnew:
                self._revision = 0
            except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                if self._listener is None:  # close() need not come as a CancelledError
                    return
                if self._told is None:
                    reason = f"etcd does not tell of {self._service}: {error}"
                    self._listener.not_resolved(Unavailable(reason))
                etcd.next_member()
                await deferLater(reactor, random.uniform(*RETRY))

    def _list(self, answer: Mapping[str, Any]) -> None:
        self._servers = {}
        for pair in answer.get("kvs", ()):
            self._put(pair)
        self._revision = int(answer["header"]["revision"])
        self._cluster = answer["header"]["cluster_id"]
        self._tell()

    async def _follow(self, etcd: Etcd) -> None:
        """Take changes, from the one after the last that is known, until the watch ends."""
        question = {**self._range, "start_revision": self._revision + 1, "progress_notify": True}
        await etcd.follow("/v3/watch", {"create_request": question}, self._changed)

    def _changed(self, result: Mapping[str, Any]) -> None:
        header = result["header"]
        if result.get("canceled"):
            if "compact_revision" in result:  # changes are missing, for good
                raise _ListAnew
            raise OSError(result.get("cancel_reason", "etcd has cancelled the watch"))
        revision = int(header.get("revision", 0))
        if result.get("created"):
            # It may have come back without its data, or be another one.
            if header["cluster_id"] != self._cluster or revision < self._revision:
                raise _ListAnew
            return
        for event in result.get("events", ()):
            if event.get("type") == "DELETE":
                self._servers.pop(event["kv"]["key"], None)
            else:
                self._put(event["kv"])
            revision = int(event["kv"]["mod_revision"])
        self._revision = revision
        self._tell()

    def _put(self, pair: Mapping[str, Any]) -> None:
        """Take a server; what is no server's value must not keep others out."""
        key, value = pair["key"], b64decode(pair.get("value", ""))
        self._servers.pop(key, None)
        try:
            told = json.loads(value)
            self._servers[key] = ResolvedAddress(told["address"], weight=told.get("weight", 1))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _log.warn(
                "etcd: the value of {key} is none of a server: {error}",
                key=b64decode(key).decode("utf-8", "replace"),
                error=error,
            )

    def _tell(self) -> None:
        addresses = sorted(set(self._servers.values()))
        if addresses != self._told and self._listener is not None:
            self._told = addresses
            self._listener.resolved(addresses)


class _ListAnew(Exception):
    """The changes since the last one that is known cannot be had."""


class EtcdRegistration(Service):
    """Keeps a server's address in etcd while it runs (an ``IService``).

    It starts after the server's service and stops before it, as under an
    :class:`txzmq.rpc.application.OrderedMultiService`: then clients know that the server goes
    before it drains.
    """

    def __init__(
        self,
        server: ServerService,
        service: str,
        *,
        address: str | None = None,
        weight: int = 1,
        etcd: str | Sequence[str] = HERE,
        prefix: str = PREFIX,
        ttl: int = 10,
        # Any: Twisted types reactors with zope interfaces.
        reactor: Any = None,
    ) -> None:
        """
        :param address: where clients find the server; None for where it listens first.
        :param weight: how many calls it gets, beside other servers.
        :param ttl: seconds after which a server is taken out that does not say any more that it
            lives.
        :param reactor: None for the process's.
        """
        self._server = server
        self._given_address = address
        self._prefix = f"{prefix}{service}/"
        self._weight = weight
        self._urls = etcd
        self._ttl = ttl
        self._reactor = reactor
        self._etcd: Etcd | None = None
        self._lease = 0
        self._keeping: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin to register; while etcd cannot be reached, it goes on trying."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        reactor: Any = self._reactor
        if reactor is None:
            from twisted.internet import reactor
        self._etcd = Etcd(reactor, self._urls)
        address = self._given_address or self._server.endpoints[0]
        self._keeping = Deferred.fromCoroutine(self._keep(reactor, self._etcd, address))
        self._keeping.addErrback(_ignore_cancellation)

    # Twisted's own returns None or a Deferred, of which pyright infers the first.
    def stopService(self) -> Deferred[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the address out.

        :return: fires when etcd has done so; or when it cannot be reached: the lease will run out.
        """
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        etcd, self._etcd = self._etcd, None
        if etcd is None:
            return succeed(None)
        if self._keeping is not None:
            self._keeping.cancel()
        return Deferred.fromCoroutine(self._take_out(etcd))

    async def _keep(self, reactor: Any, etcd: Etcd, address: str) -> None:
        is_failing = False
        while self.running:
            try:
                await self._renew(etcd, address)
                wait = self._ttl / 3
                is_failing = False
            except CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
                if not self.running:  # stopService() need not come as a CancelledError
                    return
                if not is_failing:
                    _log.warn("etcd does not take {address}: {error}", address=address, error=error)
                is_failing = True
                etcd.next_member()
                wait = min(random.uniform(*RETRY), self._ttl / 3)
            await deferLater(reactor, wait)

    async def _renew(self, etcd: Etcd, address: str) -> None:
        """Keep the lease alive; or get one, where there is none any more."""
        if self._lease:
            kept = await etcd.ask("/v3/lease/keepalive", {"ID": self._lease})
            if int(kept["result"].get("TTL", 0)) > 0:
                return
            self._lease = 0
        granted = await etcd.ask("/v3/lease/grant", {"TTL": self._ttl})
        value = json.dumps({"address": address, "weight": self._weight})
        lease = int(granted["ID"])
        put = {"key": _text(self._prefix + address), "value": _text(value), "lease": lease}
        await etcd.ask("/v3/kv/put", put)
        self._lease = lease
        _log.info("registered {address} in etcd", address=address)

    async def _take_out(self, etcd: Etcd) -> None:
        lease, self._lease = self._lease, 0
        if lease:
            try:
                await etcd.ask("/v3/lease/revoke", {"ID": lease})
            except Exception as error:  # noqa: BLE001 - the lease runs out by itself
                _log.warn("etcd does not revoke the lease, which runs out: {error}", error=error)


class Etcd:
    """The JSON gateway of etcd."""

    def __init__(self, reactor: Any, urls: str | Sequence[str]) -> None:
        build_agent: Any = Agent  # untyped
        self._agent: Any = build_agent(reactor, connectTimeout=PATIENCE)
        self._reactor = reactor
        self._urls = [urls] if isinstance(urls, str) else list(urls)

    def next_member(self) -> None:
        """Ask another member from now on, if there are several."""
        self._urls.append(self._urls.pop(0))

    # Any: JSON.
    async def ask(self, path: str, question: Mapping[str, Any]) -> Any:
        """Ask, and wait for the answer.

        :raises OSError: if etcd refuses, or does not answer in time. And whatever Twisted's Agent
            raises where it cannot be reached.
        """
        lines: list[bytes] = []
        code = await self._send(path, question, lines.append, PATIENCE)
        answer: Any = json.loads(b"".join(lines)) if lines else {}
        if code != 200:
            raise OSError(answer.get("message", f"HTTP status {code}"))
        return answer

    async def follow(
        self, path: str, question: Mapping[str, Any], told: Callable[[Any], None]
    ) -> None:
        """Ask, and pass on each result as it comes, until etcd ends, or it is time to ask anew.

        :param told: what it raises ends this, and is raised.
        :raises OSError: as above.
        """

        def take(line: bytes) -> None:
            answer = json.loads(line)
            if "result" not in answer:
                raise OSError(answer.get("error", {}).get("message", "etcd has ended the stream"))
            told(answer["result"])

        try:
            code = await self._send(path, question, take, WATCH)
        except defer.TimeoutError:
            return
        raise OSError(f"etcd has ended the stream, with HTTP status {code}")

    async def _send(
        self,
        path: str,
        question: Mapping[str, Any],
        take: Callable[[bytes], None],
        seconds: float,
    ) -> int:
        headers = Headers({"Content-Type": ["application/json"]})
        body = _Bytes(json.dumps(question).encode())
        asked: Deferred[Any] = self._agent.request(
            b"POST", f"{self._urls[0]}{path}".encode(), headers, body
        )
        response = await asked.addTimeout(PATIENCE, self._reactor)
        lines = _Lines(take)
        response.deliverBody(lines)
        await lines.ended.addTimeout(seconds, self._reactor)
        code: int = response.code
        return code


class _Bytes:
    """A request's body."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    # Any: Twisted's interface.
    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def stopProducing(self) -> None: ...


classImplements(_Bytes, IBodyProducer)


class _Lines(Protocol):
    """Passes on each line of a response's body."""

    transport: Any = None  # untyped in Twisted

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""
        self.ended: Deferred[None] = Deferred(self._cancel)

    def _cancel(self, _: Deferred[None]) -> None:
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._pass_on(line)

    def _pass_on(self, line: bytes) -> None:
        if self.ended.called:
            return
        try:
            self._take(line)
        except Exception as error:  # noqa: BLE001 - it is the end, and who waits for that gets it
            self.ended.errback(error)
            self.transport.loseConnection()

    def connectionLost(self, reason: Any = connectionDone) -> None:
        if self._rest:
            self._pass_on(self._rest)
        if self.ended.called:
            return
        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            self.ended.callback(None)
        else:
            self.ended.errback(reason)


def _range(prefix: str) -> dict[str, str]:
    """All keys that begin with a prefix, as etcd is asked for them."""
    first = prefix.encode()
    return {
        "key": b64encode(first).decode(),
        "range_end": b64encode(first[:-1] + bytes([first[-1] + 1])).decode(),
    }


def _text(text: str) -> str:
    return b64encode(text.encode()).decode()


def _ignore_cancellation(failure: Any) -> None:
    failure.trap(CancelledError)
