"""pyzmq alone: a DEALER and a ROUTER in plain blocking loops, one message per call.

This is the least that typed calls over ZeroMQ can do in Python: no reactor, no callbacks, no
deadline of a call's own (the socket's receive timeout ends a run that hangs). It sends and receives
as pyzmq's documentation does, with ``send_multipart`` and ``recv_multipart``; a loop that sends and
receives frame by frame, with flags computed beforehand, makes about twice as many calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import zmq

from benchmarks.stacks import Peer
from benchmarks.workload import TIMEOUT, Messages, Order, Orders, Window

if TYPE_CHECKING:
    from benchmarks.workload import EchoRequest


class _BarePyzmq:
    """Implements :class:`Peer`."""

    def serve(self, messages: Messages, announce: Callable[[str], None]) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.hwm = 0
            port = router.bind_to_random_port("tcp://127.0.0.1")
            announce(f"tcp://127.0.0.1:{port}")
            parse = messages.request.FromString
            while True:
                peer, request_id, request = router.recv_multipart()
                reply = messages.answer(parse(request)).SerializeToString()
                router.send_multipart((peer, request_id, reply))

    def drive(self, messages: Messages, address: str, orders: Orders) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.rcvtimeo = dealer.sndtimeo = round(TIMEOUT * 1000)
            dealer.linger = dealer.hwm = 0
            dealer.connect(address)
            while (order := orders.receive()) is not None:
                window = Window(messages, order)
                _go_round(dealer, window, order, messages)
                orders.report(window.sample())


def _go_round(dealer: zmq.Socket[bytes], window: Window, order: Order, messages: Messages) -> None:
    """Keep the ordered number of calls in flight until the window is over."""
    waiting: dict[bytes, tuple[float, EchoRequest]] = {}
    parse = messages.reply.FromString

    def issue() -> None:
        started, request = window.issue()
        request_id = request.sequence.to_bytes(8, "big")
        waiting[request_id] = started, request
        dealer.send_multipart((request_id, request.SerializeToString()))

    for _ in range(order.in_flight):
        issue()
    while waiting:
        request_id, reply = dealer.recv_multipart()
        started, request = waiting.pop(request_id)
        if window.complete(started, request, parse(reply)):
            issue()


PEER: Final[Peer] = _BarePyzmq()
