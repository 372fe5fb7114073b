"""Bare pyzmq: ``python -m benchmarks.streams.bare_pyzmq serve``, or ``drive ADDRESS``.

Items of one stream each way in plain blocking loops, by the sockets that txzmq has for them: to the
server by DEALER and ROUTER, back by XPUB and SUB. No window, no replay, no reactor. What is slower
than that by little cannot become much faster.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Final

import zmq
from google.protobuf.wrappers_pb2 import BytesValue

from benchmarks.streams.loads import Figures, Order, item, trips

_TOPIC: Final = b"0123456789abcdef\0"


def serve() -> None:
    """Serve until killed."""
    context = zmq.Context()
    router, publisher = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (router, publisher)]
    print(*ports, sep=",", flush=True)
    publisher.recv()  # the subscription
    while True:
        _, request = router.recv_multipart()
        publisher.send(_TOPIC + BytesValue.FromString(request).SerializeToString())


def drive(address: str) -> None:
    """Follow the orders that come, line by line."""
    context = zmq.Context()
    dealer, subscriber = context.socket(zmq.DEALER), context.socket(zmq.SUB)
    subscriber.subscribe(_TOPIC)
    for socket, port in zip((dealer, subscriber), address.split(","), strict=True):
        socket.connect(f"tcp://127.0.0.1:{port}")
    for line in sys.stdin:
        order: Order = json.loads(line)
        started, cpu = time.perf_counter(), time.process_time()
        count = 0
        while (begun := time.perf_counter()) < started + order["seconds"]:
            dealer.send(item().SerializeToString())
            BytesValue.FromString(subscriber.recv()[len(_TOPIC) :])
            trips.append(time.perf_counter() - begun)
            count += 1
        figures = Figures(
            count=count,
            seconds=time.perf_counter() - started,
            cpu=time.process_time() - cpu,
            p50=statistics.median(trips) * 1e6,
        )
        trips.clear()
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        drive(sys.argv[2])
