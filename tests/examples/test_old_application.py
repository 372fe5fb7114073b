"""An application as one wrote it from txZMQ's documentation, for txZMQ 0.8 to 1.0.

It knows nothing of what is new here. txZMQ 1.0.0 prints the same lines.
"""

from __future__ import annotations

from pathlib import Path

from tests.programs import succeeds

APPLICATION = """
import sys

import zmq
from twisted.internet import defer, reactor

from txzmq import (
    ZmqEndpoint, ZmqEndpointType, ZmqFactory, ZmqPubConnection, ZmqPullConnection,
    ZmqPushConnection, ZmqREPConnection, ZmqREQConnection, ZmqRequestTimeoutError)
from txzmq.connection import ZmqConnection
from txzmq.pubsub import ZmqSubConnection
from txzmq.router_dealer import ZmqDealerConnection, ZmqRouterConnection

folder = sys.argv[1]


class Prices(ZmqSubConnection):
    highWaterMark = 100
    tcpKeepalive = 1
    reconnectInterval = 50
    reconnectIntervalMax = 500

    def __init__(self, factory, endpoint, seen):
        ZmqSubConnection.__init__(self, factory, endpoint)
        self.seen = seen
        self.subscribe(b"price.")

    def gotMessage(self, message, tag):
        self.seen.append((tag, message))


class Bank(ZmqREPConnection):
    def gotMessage(self, messageId, *messageParts):
        if messageParts[0] != b"keep":
            reactor.callLater(0, self.reply, messageId, b"ok", *messageParts)


class Broker(ZmqRouterConnection):
    def gotMessage(self, sender, *message):
        self.sendMultipart(sender, [b"seen"] + list(message))


class Trader(ZmqDealerConnection):
    def gotMessage(self, *args):
        self.factory.traded.append(args)


class Pair(ZmqConnection):
    socketType = zmq.PAIR

    def messageReceived(self, message):
        self.factory.paired.append(message)


def sleep(seconds):
    d = defer.Deferred()
    reactor.callLater(seconds, d.callback, None)
    return d


@defer.inlineCallbacks
def main():
    zf = ZmqFactory()
    zf.ioThreads = 2
    zf.lingerPeriod = 100
    zf.registerForShutdown()
    zf.traded, zf.paired, seen, pulled = [], [], [], []

    def bind(name):
        return ZmqEndpoint("bind", "ipc://%s/%s" % (folder, name))

    def connect(name):
        return ZmqEndpoint(ZmqEndpointType.connect, "ipc://%s/%s" % (folder, name))

    pub = ZmqPubConnection(zf, bind("pub"))
    sub = Prices(zf, connect("pub"), seen)
    push = ZmqPushConnection(zf, bind("push"))
    try:
        push.push([b"nobody", b"there"])
    except zmq.error.Again:
        print("Skipping, no pull consumers...")
    pull = ZmqPullConnection(zf, connect("push"))
    pull.onPull = pulled.append

    Bank(zf, bind("bank"))
    bank = ZmqREQConnection(zf, connect("bank"), identity=b"ada")
    bank.defaultRequestTimeout = 50
    print("answer", (yield bank.sendMsg(b"a", b"b")))
    try:
        yield bank.sendMsg(b"keep", timeout=0.01)
    except ZmqRequestTimeoutError as error:
        print("no answer", type(error).__name__)
    answers = yield defer.gatherResults([bank.sendMsg(b"%d" % n) for n in range(300)])
    print("answers in order", answers == [[b"ok", b"%d" % n] for n in range(300)])
    numbers = iter(range(9))
    bank._getNextId = lambda: b"number %d" % next(numbers)
    print("answer", (yield bank.sendMsg(b"c")))

    Broker(zf, bind("broker"))
    trader = Trader(zf, connect("broker"))
    trader.sendMsg(b"one")
    trader.sendMultipart([b"two", b"three"])

    first = Pair(zf, ZmqEndpoint("bind", "inproc://pair"))
    second = Pair(zf)
    second.addEndpoints([ZmqEndpoint("connect", "inproc://pair")])
    second.send([b"x", b"y"])
    second.send(b"z")

    while not (seen and pulled and len(zf.traded) == len(zf.paired) == 2):
        pub.publish(b"1.0", b"price.x")
        pub.publish(b"no", b"news")
        try:
            push.push(b"job")
        except zmq.error.Again:
            pass
        yield sleep(0.01)
    print("seen", set(seen))
    print("pulled", set(pulled[0]))
    print("traded", zf.traded)
    print("paired", zf.paired)
    print("connections", len(zf.connections), pub.fileno() == pub.fd, pub.logPrefix())
    sub.unsubscribe(b"price.")
    sub.shutdown()
    print("connections", len(zf.connections), sub in zf.connections)
    zf.shutdown()
    print("shut down")


reactor.callWhenRunning(lambda: main().addBoth(lambda result: (print(result), reactor.stop())))
reactor.run()
"""

PRINTED = """\
Skipping, no pull consumers...
answer [b'ok', b'a', b'b']
no answer ZmqRequestTimeoutError
answers in order True
answer [b'ok', b'c']
seen {(b'price.x', b'1.0')}
pulled {b'job'}
traded [(b'seen', b'one'), (b'seen', b'two', b'three')]
paired [[b'x', b'y'], [b'z']]
connections 10 True ZMQ
connections 9 False
shut down
None"""


def test_it_runs_unchanged(tmp_path: Path) -> None:
    application = tmp_path / "application.py"
    application.write_text(APPLICATION)
    assert succeeds([application, tmp_path]) == PRINTED
