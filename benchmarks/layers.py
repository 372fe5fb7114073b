"""Where the time of a call goes, layer by layer: ``python -m benchmarks.layers``.

Each layer's work for one call, both sides, done alone and again and again in one process: what it
costs while everything is in the processor's caches. A call's own cost, and that of dispatch, is
what is left of the whole in memory, without sockets; what sockets, the reactor and the kernel take
is the rest of what ``make bench`` measures.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import ClassVar, Final

import zmq
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import Deferred

from benchmarks.interpreter import interpreter
from txzmq._backend import recv, send
from txzmq._ids import new_epoch
from txzmq.connection import NOBLOCK
from txzmq.rpc import Channel, Context, Method, Server, Service
from txzmq.rpc._wire.batches import EARLY_BATCH, pack, unpack
from txzmq.rpc._wire.headers import RequestHead, decode_request, encode_request
from txzmq.testing import MemoryNetwork

__all__ = ["Layer", "main", "measure"]

_ECHO: Final = Method("/benchmarks.Layers/Echo", "echo", StringValue, StringValue)
_TEXT: Final = "x" * 97
_TIMEOUT: Final = 60.0


class _Echo:
    __txzmq_service__: ClassVar[Service] = Service("benchmarks.Layers", (_ECHO,))

    def echo(self, request: StringValue, context: Context) -> StringValue:
        return StringValue(value=request.value)


class Layer:
    """One layer: its name, what it does for a call, and how much that takes.

    :ivar microseconds: per call, the least of several runs.
    """

    def __init__(self, name: str, what: str, calls: int, work: Callable[[], object]) -> None:
        """:param calls: for how many calls *work* does what there is to do."""
        self.name = name
        self.what = what
        self._calls = calls
        self._work = work
        self.microseconds = float("inf")

    def measure(self, seconds: float) -> None:
        """Do the work for so long, and keep the time if it is the least so far."""
        work, count = self._work, 0
        started = time.process_time()
        while (elapsed := time.process_time() - started) < seconds:
            work()
            count += self._calls
        self.microseconds = min(self.microseconds, elapsed / count * 1e6)


def _protobuf() -> Layer:
    parse = StringValue.FromString

    def work() -> None:
        request = parse(StringValue(value=_TEXT).SerializeToString())
        parse(StringValue(value=request.value).SerializeToString())

    return Layer("protobuf", "two messages built, serialised and parsed", 1, work)


def _deferred() -> Layer:
    def work() -> None:
        deferred: Deferred[int] = Deferred()
        deferred.addCallback(lambda value: value)
        deferred.callback(1)

    return Layer("Deferred", "one made, given a callback, and fired", 1, work)


def _wire() -> Layer:
    epoch = new_epoch()
    head = RequestHead(_ECHO.path, 60_000_000, ())
    body = StringValue(value=_TEXT).SerializeToString()
    counters, empty = range(EARLY_BATCH), [b""] * EARLY_BATCH

    def work() -> None:
        header = encode_request(head)
        requests = pack(epoch, counters, [header] * EARLY_BATCH, [body] * EARLY_BATCH)
        headers, messages = unpack(requests[2])
        decode_request(headers[0])
        replies = pack(epoch, [number for number, _, _ in messages], empty, [body] * EARLY_BATCH)
        _, messages = unpack(replies[2])
        for _ in messages:
            pass

    return Layer(
        "wire",
        f"requests and replies packed and unpacked, {EARLY_BATCH} at a time",
        EARLY_BATCH,
        work,
    )


def _pyzmq(context: zmq.Context[zmq.Socket[bytes]]) -> Layer:
    here, there = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    here.bind("inproc://layers")
    there.connect("inproc://layers")
    body = StringValue(value=_TEXT).SerializeToString()
    message = pack(new_epoch(), range(EARLY_BATCH), [b""] * EARLY_BATCH, [body] * EARLY_BATCH)

    def work() -> None:
        for sender, receiver in ((here, there), (there, here)):
            for part in message[:-1]:
                send(sender, part, NOBLOCK | int(zmq.SNDMORE))
            send(sender, message[-1], NOBLOCK)
            for _ in message:
                recv(receiver, NOBLOCK, copy=False)

    return Layer(
        "pyzmq", f"a message of {EARLY_BATCH} sent and received, each way", EARLY_BATCH, work
    )


def _whole() -> Layer:
    network = MemoryNetwork()
    server = Server(network, [_Echo()])
    channel = Channel(network, server.listen("inproc://layers"))
    request = StringValue(value=_TEXT)

    def work() -> None:
        calls = [channel.unary_unary(_ECHO, request, timeout=_TIMEOUT) for _ in range(100)]
        for call in calls:
            call.addCallback(lambda _: None)
        network.run()

    return Layer("all but sockets", "client and server in memory, 100 calls at a time", 100, work)


def measure(seconds: float, rounds: int) -> list[Layer]:
    """Measure all layers, in turn; the last one is the whole in memory."""
    with zmq.Context() as context:
        layers = [_protobuf(), _deferred(), _wire(), _pyzmq(context), _whole()]
        for _ in range(rounds):
            for layer in layers:
                gc.collect()
                layer.measure(seconds)
        context.destroy(linger=0)
    return layers


def main() -> None:
    """Print the table."""
    *layers, whole = measure(0.3, 5)
    print(f"{interpreter()}, us of CPU per call\n")
    for layer in layers:
        print(f"{layer.microseconds:8.2f}  {layer.name:16} {layer.what}")
    inside = sum(layer.microseconds for layer in layers if layer.name != "pyzmq")
    rest = whole.microseconds - inside
    print(f"{rest:8.2f}  {'call, dispatch':16} what is left of the next line")
    print(f"{whole.microseconds:8.2f}  {whole.name:16} {whole.what}")


if __name__ == "__main__":
    main()
