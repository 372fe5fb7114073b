"""A server process of a soak.

It prints its endpoint, its state at SIGUSR1, what is left of it when SIGTERM has stopped it, and
whatever is logged as an error.
"""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path
from typing import Any

from twisted.internet import epollreactor
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from tests.field.network import QuickNetwork
from tests.field.soak.interceptors import AroundHandlers
from tests.field.soak.service import Soaked
from tests.field.soak.state import resident, resources
from txzmq import ZmqFactory
from txzmq._reactor import default_reactor
from txzmq.rpc import Server, ServerLimits
from txzmq.testing._leftovers import leftovers

#: Seconds that calls have when the server is told to end.
_GRACE = 1.0
#: What a server keeps without a client, and what bounds it: the time between two pings; numbers of
#: descriptors; kinds of messages; number, bytes and age of replies for calls that come again.
_BOUNDED = (
    *("._pings", "._endedFds", ".discarded"),
    *(".replies._kept", ".replies._shares", ".replies._shares[].keys", ".replies._heaviest"),
)


def print_errors(event: LogEvent) -> None:
    """Print what is logged as an error; to be added as an observer."""
    if event["log_level"] >= LogLevel.error or "log_failure" in event:
        failure: Any = event.get("log_failure")
        print(f"logged: {failure.getTraceback() if failure else event!r}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.field.soak.server", description=__doc__)
    parser.add_argument("address", help="where it listens, or where a proxy gives it calls")
    parser.add_argument("executions", type=Path, help="where it writes what it executes")
    parser.add_argument("--connect", action="store_true", help="dial out to a proxy")
    parser.add_argument("--intercept", action="store_true", help="with an interceptor")
    arguments = parser.parse_args()
    epollreactor.install()  # type: ignore[no-untyped-call]  # Twisted's
    globalLogPublisher.addObserver(print_errors)  # type: ignore[arg-type]  # an interface of zope
    reactor: Any = default_reactor()
    factory = ZmqFactory()
    factory.registerForShutdown()
    limits = ServerLimits(stream_grace=3, stream_silence=6)
    interceptor = AroundHandlers()
    server = Server(
        QuickNetwork(factory),
        [Soaked(reactor, arguments.executions)],
        limits=limits,
        interceptors=[interceptor] if arguments.intercept else (),
    )

    def tell() -> None:
        internals: Any = server
        state = {
            "numbers": {
                "running calls": server.running,
                "queued calls": server.queued,
                "calls in interceptors": interceptor.inside,
                "streams": len(internals._dispatcher.streams),
                **resources(reactor),
            },
            "left": [
                each for each in leftovers(server) if not each.partition(":")[0].endswith(_BOUNDED)
            ],
            "memory": resident(),
        }
        print(f"state {json.dumps(state)}", flush=True)

    def asked(number: int, frame: object) -> None:
        reactor.callFromThread(tell)

    signal.signal(signal.SIGUSR1, asked)
    reactor.addSystemEventTrigger("before", "shutdown", server.stop, _GRACE)
    if arguments.connect:
        server.connect(arguments.address)
        endpoint = arguments.address
    else:
        endpoint = server.listen(arguments.address)
    reactor.callWhenRunning(print, f"serves at {endpoint}", flush=True)
    reactor.run()
    left = [*leftovers(server), *map(str, reactor.getDelayedCalls())]
    print(f"left {json.dumps(left)}", flush=True)


if __name__ == "__main__":
    main()
