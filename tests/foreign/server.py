"""A server process that the gateways pass calls on to; it prints where it listens."""

from __future__ import annotations

import sys

from tests.foreign.service import Told
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Server, ServerLimits
from txzmq.rpc.health import Health
from txzmq.rpc.reflection import Reflection

#: The gateway is the only peer, and has as many calls as all of its clients.
_CALLS = 16_384


def main() -> None:
    factory = ZmqFactory()
    factory.registerForShutdown()
    reactor = default_reactor()
    server = Server(
        factory,
        [Told(reactor), Health(), Reflection()],
        limits=ServerLimits(
            running=_CALLS, running_per_peer=_CALLS, queued=_CALLS, queued_per_peer=_CALLS
        ),
    )
    print(f"listening at {server.listen(sys.argv[1])}", flush=True)
    reactor.run()  # type: ignore[attr-defined]  # not in the slice of it that txzmq uses


if __name__ == "__main__":
    main()
