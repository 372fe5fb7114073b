#!/usr/bin/env python3
"""Ask once a second, or answer.

In two terminals, in any order::

    examples/req_rep.py --method=bind --endpoint=tcp://127.0.0.1:5558 --mode=rep
    examples/req_rep.py --method=connect --endpoint=tcp://127.0.0.1:5558 --mode=req
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import zmq
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import LoopingCall, react

from txzmq import (
    ZmqConnection,
    ZmqEndpoint,
    ZmqFactory,
    ZmqREPConnection,
    ZmqREQConnection,
    ZmqRequestTimeoutError,
)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="ZeroMQ request and reply in Twisted")
    parser.add_argument("-m", "--method", choices=["bind", "connect"], default="connect")
    parser.add_argument("-e", "--endpoint", default="tcp://127.0.0.1:5558", help="0MQ endpoint")
    parser.add_argument("-M", "--mode", choices=["req", "rep"], required=True)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between requests")
    return parser.parse_args()


class Echo(ZmqREPConnection):
    """Answers every request with its own text, in capitals."""

    def gotMessage(self, messageId: bytes, *messageParts: bytes) -> None:
        text = messageParts[0].decode()
        print(f"replying to: {text}", flush=True)
        self.reply(messageId, text.upper())


def main(reactor: Any, options: argparse.Namespace) -> Deferred[Any]:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    endpoint = ZmqEndpoint(options.method, options.endpoint)

    if options.mode == "rep":
        announce(Echo(factory, endpoint))
        return Deferred()  # until Ctrl-C

    asker = ZmqREQConnection(factory, endpoint)
    announce(asker)
    numbers = itertools.count(1)

    async def ask() -> None:
        text = f"hello {next(numbers)}"
        print(f"requesting: {text}", flush=True)
        try:
            reply = await asker.sendMsg(text, timeout=5)
            print(f"reply received: {reply[0].decode()}", flush=True)
        except ZmqRequestTimeoutError:
            print(f"no reply within 5 s to: {text}", flush=True)
        except zmq.Again:
            print("skipping: nobody is connected to reply", flush=True)
        except ConnectionDone:
            print("not waiting for a reply any more", flush=True)  # Ctrl-C

    return LoopingCall(lambda: Deferred.fromCoroutine(ask())).start(options.interval)


def announce(connection: ZmqConnection) -> None:
    """Say where the connection is; a port that was given as * is known by now."""
    assert connection.socket is not None
    address = connection.socket.get_string(zmq.LAST_ENDPOINT)
    print(connection.endpoints[0].type, address, flush=True)


if __name__ == "__main__":
    react(main, [parse_options()])
