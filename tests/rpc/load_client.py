"""A client process that calls all the time, until SIGTERM; then it says how the calls ended.

Arguments: the servers' endpoints.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from twisted.internet import epollreactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.rpc.service import ECHO, text
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Channel, RpcError

#: How many calls are in flight at a time.
_CALLERS = 50


class Load:
    """Callers that call again as soon as they have an answer."""

    def __init__(self, reactor: Any, channel: Channel) -> None:
        self.ends: Counter[str] = Counter()
        self._reactor = reactor
        self._channel = channel
        self._stopped = False
        self._callers = [Deferred.fromCoroutine(self._call(i)) for i in range(_CALLERS)]

    async def _call(self, caller: int) -> None:
        number = 0
        while not self._stopped:
            number += 1
            value = f"{caller}.{number}"
            try:
                answer = await self._channel.unary_unary(ECHO, text(value), timeout=30)
            except RpcError as error:
                self.ends[str(error)] += 1
                print(f"failed: {error}", flush=True)
            else:
                self.ends["answered" if answer.value == value else "wrong answer"] += 1
            await deferLater(self._reactor, 0.002)

    def stop(self) -> Deferred[list[None]]:
        """Fires when all callers have their last answer."""
        self._stopped = True
        return gatherResults(self._callers)


def main() -> None:
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    reactor: Any = default_reactor()
    factory = ZmqFactory()
    factory.registerForShutdown()
    load = Load(reactor, Channel(factory, sys.argv[1:]))
    reactor.addSystemEventTrigger("before", "shutdown", load.stop)
    print("calling", flush=True)
    reactor.run()
    print(f"ends: {dict(load.ends)}", flush=True)


if __name__ == "__main__":
    main()
