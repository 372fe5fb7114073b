"""What is measured, and what both stacks share."""

from __future__ import annotations

from typing import Final, TypedDict

from google.protobuf.wrappers_pb2 import BytesValue

__all__ = [
    "BURST",
    "CHATS",
    "ITEM",
    "LOADS",
    "PAUSE",
    "SECURED",
    "SERVICE",
    "SUBSCRIBERS",
    "Figures",
    "Order",
    "item",
    "order",
    "ticks",
    "trips",
]

SERVICE: Final = "txzmq.benchmarks.v1.Streams"
#: What a server is told that is to ask for credentials.
SECURED: Final = "secured"
#: Bytes of an item's payload.
ITEM: Final = 100
#: Streams both ways at once.
CHATS: Final = 100
#: Of the fan-out: clients, and events that come together, a hundred times a second.
SUBSCRIBERS: Final = 50
BURST: Final = 100
#: Milliseconds between them.
PAUSE: Final = 10
#: What is counted, by load.
LOADS: Final = {
    "server": "items/s from the server",
    "client": "items/s to the server",
    "chat": "round trips/s on one stream both ways",
    "chats": "round trips/s on 100 streams both ways at once",
    "fan-out": "deliveries/s of one event to 50 subscribers",
}


class Order(TypedDict):
    """What a client is to do."""

    load: str
    seconds: float
    #: Of the fan-out.
    subscribers: int
    #: Of the fan-out: events that come together, and milliseconds between them.
    burst: int
    pause: int
    #: Of many streams that are opened at once: SNDHWM of the client's sockets; 0 for the default.
    high_water_mark: int


class Figures(TypedDict):
    """What came out."""

    count: int
    seconds: float
    #: Of processor time, of the client.
    cpu: float
    #: The median of a round trip in microseconds; 0 where there is none.
    p50: float


def ticks(burst: int, pause: int) -> BytesValue:
    """Asks for events of the fan-out: so many together, with so many milliseconds between them."""
    return BytesValue(value=b"%d %d" % (burst, pause))


def order(
    load: str,
    *,
    seconds: float = 0,
    subscribers: int = 0,
    burst: int = 0,
    pause: int = 0,
    high_water_mark: int = 0,
) -> Order:
    """What a client is to do; what the load does not need may be left out."""
    return Order(
        load=load,
        seconds=seconds,
        subscribers=subscribers,
        burst=burst,
        pause=pause,
        high_water_mark=high_water_mark,
    )


def item() -> BytesValue:
    """An item, made anew as an application would."""
    return BytesValue(value=bytes(ITEM))


#: Seconds of each round trip since the last report.
trips: list[float] = []
