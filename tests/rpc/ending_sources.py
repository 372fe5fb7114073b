"""Sources of requests that end as a test says, and handlers for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from google.protobuf.wrappers_pb2 import StringValue

from tests.rpc.ends import SOON
from tests.rpc.service import text
from tests.rpc.streaming import (
    StreamWorld,
    count,
    join,
)
from txzmq.rpc import (
    Context,
    StreamWriter,
)


class Items:
    """An iterator, asynchronous or not, that gives an item and then ends as told."""

    def __init__(self, end: Callable[[], BaseException]) -> None:
        self.end = end
        self.given = 0
        self.closed = 0

    def __next__(self) -> StringValue:
        self.given += 1
        if self.given > 1:
            raise self.end()
        return text("0")

    def close(self) -> None:
        self.closed += 1


class SyncItems(Items):
    def __iter__(self) -> SyncItems:
        return self


class AsyncItems(Items):
    def __aiter__(self) -> AsyncItems:
        return self

    async def __anext__(self) -> StringValue:
        return self.__next__()


def sync_generator(end: Callable[[], BaseException]) -> Any:
    yield text("0")
    raise end()


async def async_generator(end: Callable[[], BaseException]) -> AsyncIterator[StringValue]:
    yield text("0")
    raise end()


def a_writer(end: Callable[[], BaseException]) -> Any:
    """Its producer raises when it is asked for more."""

    class Producer:
        def __init__(self) -> None:
            self.asked = 0

        def resumeProducing(self) -> None:
            self.asked += 1
            if self.asked > 1:
                raise end()
            writer.write(text("0"))

        def stopProducing(self) -> None:
            pass

    writer: StreamWriter[StringValue] = StreamWriter()
    writer.registerProducer(Producer(), streaming=False)
    return writer


def waiting(end: Callable[[], BaseException]) -> Any:
    """Raises after it has waited, so that the call is on its way."""

    async def items() -> AsyncIterator[StringValue]:
        yield text("0")
        await WORLDS[-1].sleep(SOON / 4)
        raise end()

    return items()


#: Of the test that runs; for sources that wait.
WORLDS: Final[list[StreamWorld]] = []
SOURCES: Final = [SyncItems, AsyncItems, sync_generator, async_generator, a_writer, waiting]


async def patient(requests: Any, context: Context) -> StringValue:
    """Reads to the end; answers only then."""
    return await join(requests, context)


def both(requests: Any, context: Context) -> Any:
    """As :func:`patient` for one response, and an echo for a stream."""
    if context.method.endswith("Chat"):
        return echo_and_wait(requests)
    return (
        count(requests, context) if context.method.endswith("Count") else patient(requests, context)
    )


async def echo_and_wait(requests: Any) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield request
