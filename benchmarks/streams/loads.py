"""What is measured, and what both stacks share."""

from __future__ import annotations

from typing import Final, TypedDict

from google.protobuf.wrappers_pb2 import BytesValue

__all__ = [
    "BURST",
    "CHATS",
    "FEW",
    "ITEM",
    "LOADS",
    "MANY",
    "SERVICE",
    "SUBSCRIBERS",
    "Figures",
    "Order",
    "item",
    "trips",
]

SERVICE: Final = "txzmq.benchmarks.v1.Streams"
#: Bytes of an item's payload.
ITEM: Final = 100
#: Streams both ways at once.
CHATS: Final = 100
#: Of the fan-out: clients, and events that come together, a hundred times a second.
SUBSCRIBERS: Final = 50
BURST: Final = 100
#: Of the cost by the number of clients: so many, and fewer events, that all can keep up.
MANY: Final = (1, 10, 50, 200)
FEW: Final = 10
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
    #: Of the fan-out: events that come together.
    burst: int


class Figures(TypedDict):
    """What came out."""

    count: int
    seconds: float
    #: Of processor time, of the client.
    cpu: float
    #: The median of a round trip in microseconds; 0 where there is none.
    p50: float


def item() -> BytesValue:
    """An item, made anew as an application would."""
    return BytesValue(value=bytes(ITEM))


#: Seconds of each round trip since the last report.
trips: list[float] = []
