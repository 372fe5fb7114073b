"""txzmq: ``python -m benchmarks.secure.txzmq_ serve [secured]``, or ``drive``.

The first line that a server reads is empty, or what one before it has announced, so that it has the
same port and keys. The first line of ``drive`` is what a server has announced.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any, ClassVar, Final

from google.protobuf.wrappers_pb2 import BytesValue
from twisted.internet import epollreactor

from benchmarks.secure.orders import AT_ONCE, METHOD, SERVICE, TIMEOUT, Connected, Order, connected
from benchmarks.streams.loads import SECURED, item

epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's

from twisted.internet.defer import Deferred, DeferredList  # noqa: E402 - after the reactor
from twisted.internet.task import react  # noqa: E402
from twisted.internet.threads import deferToThread  # noqa: E402

from benchmarks.peers.txzmq_ import make_factory  # noqa: E402
from benchmarks.trust import curve_client, curve_server, new_curve  # noqa: E402
from txzmq import ZmqFactory  # noqa: E402
from txzmq.rpc import Channel, Context, Kind, Method, Server, Service  # noqa: E402

ECHO: Final = Method(METHOD, "echo", BytesValue, BytesValue, kind=Kind.UNARY_UNARY)
#: Channels of one factory: a context of libzmq has 1,023 sockets, a channel has two.
_OF_ONE_FACTORY: Final = 250


class Connecting:
    """What the clients call."""

    __txzmq_service__: ClassVar[Service] = Service(SERVICE, (ECHO,))

    def echo(self, request: BytesValue, context: Context) -> BytesValue:
        return request


def serve(reactor: Any) -> Deferred[None]:
    """Serve until killed."""
    address, _, keys = sys.stdin.readline().strip().partition(" ")
    if keys:
        keys = f" {keys}"
    elif SECURED in sys.argv:
        keys = new_curve()
    credentials = curve_server(keys) if keys else None
    server = Server(make_factory(reactor), [Connecting()], credentials=credentials)
    print(server.listen(address or "tcp://127.0.0.1:*") + keys, flush=True)
    return Deferred()


async def drive(reactor: Any) -> None:
    """Follow the orders that come, line by line."""
    line = (await deferToThread(sys.stdin.readline)).strip()
    clients = _Clients(reactor, line)
    while line := await deferToThread(sys.stdin.readline):
        order: Order = json.loads(line)
        print(json.dumps(await clients.follow(order)), flush=True)


class _Clients:
    def __init__(self, reactor: Any, line: str) -> None:
        self._reactor = reactor
        self._address, self._credentials = curve_client(line)
        self._factories: list[ZmqFactory] = []
        self._channels: list[Channel] = []
        #: Seconds that each has taken.
        self._times: list[float] = []

    async def follow(self, order: Order) -> Connected:
        cpu, began = time.process_time(), time.perf_counter()
        self._times = []
        if order["what"] == "rate":
            end = began + order["seconds"]
            factory = self._factory(0)
            await _all(self._come_and_go(factory, end) for _ in range(AT_ONCE))
        else:
            if order["what"] == "hold":
                for number in range(order["clients"]):
                    factory = self._factory(1 + number // _OF_ONE_FACTORY)
                    self._channels.append(self._open(factory))
            await _all(self._call(channel, began) for channel in self._channels)
        seconds = time.perf_counter() - began
        return connected(self._times, seconds, time.process_time() - cpu)

    def _factory(self, number: int) -> ZmqFactory:
        while len(self._factories) <= number:
            self._factories.append(make_factory(self._reactor))
        return self._factories[number]

    def _open(self, factory: ZmqFactory) -> Channel:
        return Channel(
            factory,
            self._address,
            credentials=self._credentials,
            wait_for_ready=True,
            timeout=TIMEOUT,
            service_config=RETRIES,
        )

    async def _come_and_go(self, factory: ZmqFactory, end: float) -> None:
        while (began := time.perf_counter()) < end:
            channel = self._open(factory)
            await self._call(channel, began)
            channel.close()

    async def _call(self, channel: Channel, began: float) -> None:
        await channel.unary_unary(ECHO, item())
        self._times.append(time.perf_counter() - began)


# Any: what a coroutine yields and is sent is nobody's business here.
async def _all(coroutines: Any) -> None:
    await DeferredList(
        [Deferred.fromCoroutine(each) for each in coroutines],
        fireOnOneErrback=True,
        consumeErrors=True,
    )


#: A call that was on its way to the server that died is made again.
RETRIES: Final[dict[str, Any]] = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    react(serve if sys.argv[1] == "serve" else drive)
