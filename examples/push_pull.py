#!/usr/bin/env python3
"""Push a piece of work once a second, or pull and print it.

In two terminals, in any order; further pullers share the work::

    examples/push_pull.py --method=bind --endpoint=tcp://127.0.0.1:5557 --mode=push
    examples/push_pull.py --method=connect --endpoint=tcp://127.0.0.1:5557 --mode=pull
"""

from __future__ import annotations

import argparse
import itertools
import socket
from typing import Any

import zmq
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react

from txzmq import ZmqConnection, ZmqEndpoint, ZmqFactory, ZmqPullConnection, ZmqPushConnection


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="ZeroMQ push and pull in Twisted")
    parser.add_argument("-m", "--method", choices=["bind", "connect"], default="connect")
    parser.add_argument("-e", "--endpoint", default="tcp://127.0.0.1:5557", help="0MQ endpoint")
    parser.add_argument("-M", "--mode", choices=["push", "pull"], required=True)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between messages")
    return parser.parse_args()


class Printer(ZmqPullConnection):
    """Prints every message."""

    def onPull(self, message: list[bytes]) -> None:
        print("consuming:", *(part.decode() for part in message), flush=True)


def main(reactor: Any, options: argparse.Namespace) -> Deferred[Any]:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    endpoint = ZmqEndpoint(options.method, options.endpoint)

    if options.mode == "pull":
        announce(Printer(factory, endpoint))
        return Deferred()  # until Ctrl-C

    pusher = ZmqPushConnection(factory, endpoint)
    announce(pusher)
    numbers = itertools.count(1)

    def produce() -> None:
        try:
            pusher.push([f"piece {next(numbers)}", f"from {socket.gethostname()}"])
            print("producing", flush=True)
        except zmq.Again:
            # push() never waits, and never queues for a puller that does not exist.
            print("skipping: no pull consumers", flush=True)

    return LoopingCall(produce).start(options.interval)


def announce(connection: ZmqConnection) -> None:
    """Say where the connection is; a port that was given as * is known by now."""
    assert connection.socket is not None
    address = connection.socket.get_string(zmq.LAST_ENDPOINT)
    print(connection.endpoints[0].type, address, flush=True)


if __name__ == "__main__":
    react(main, [parse_options()])
