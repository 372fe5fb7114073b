#!/usr/bin/env python3
"""Publish the time once a second, or print what is published.

In two terminals, in any order::

    examples/pub_sub.py --method=bind --endpoint=tcp://127.0.0.1:5556 --mode=publisher
    examples/pub_sub.py --method=connect --endpoint=tcp://127.0.0.1:5556 --mode=subscriber
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import zmq
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react

from txzmq import ZmqConnection, ZmqEndpoint, ZmqFactory, ZmqPubConnection, ZmqSubConnection


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="ZeroMQ publish and subscribe in Twisted")
    parser.add_argument("-m", "--method", choices=["bind", "connect"], default="connect")
    parser.add_argument("-e", "--endpoint", default="tcp://127.0.0.1:5556", help="0MQ endpoint")
    parser.add_argument("-M", "--mode", choices=["publisher", "subscriber"], required=True)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between messages")
    return parser.parse_args()


class Printer(ZmqSubConnection):
    """Prints every message."""

    def gotMessage(self, message: bytes, tag: bytes) -> None:
        print(f"message received: {tag.decode()}: {message.decode()}", flush=True)


def main(reactor: Any, options: argparse.Namespace) -> Deferred[Any]:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    endpoint = ZmqEndpoint(options.method, options.endpoint)

    if options.mode == "subscriber":
        subscriber = Printer(factory, endpoint)
        subscriber.subscribe("")  # every tag begins with nothing
        announce(subscriber)
        return Deferred()  # until Ctrl-C

    publisher = ZmqPubConnection(factory, endpoint)
    announce(publisher)

    def publish() -> None:
        now = time.ctime()
        print(f"publishing: {now}", flush=True)
        # Subscribers choose by the tag. Who is not connected yet misses the message.
        publisher.publish(now, tag="time")

    return LoopingCall(publish).start(options.interval)


def announce(connection: ZmqConnection) -> None:
    """Say where the connection is; a port that was given as * is known by now."""
    assert connection.socket is not None
    address = connection.socket.get_string(zmq.LAST_ENDPOINT)
    print(connection.endpoints[0].type, address, flush=True)


if __name__ == "__main__":
    react(main, [parse_options()])
