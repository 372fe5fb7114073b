"""grpc.aio: ``python -m benchmarks.streams.grpc_aio serve [secured]``, or ``drive ADDRESS``."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any, Final

from google.protobuf.wrappers_pb2 import BytesValue, UInt64Value

from benchmarks.peers.grpc_aio import listen, open_channel
from benchmarks.streams.loads import CHATS, SECURED, SERVICE, Figures, Order, item, ticks, trips

# Any: grpcio has no types, and half of what a checker infers is unknown.
grpc: Any = import_module("grpc")
aio: Any = import_module("grpc.aio")


async def _watch(request: BytesValue, context: object) -> AsyncIterator[BytesValue]:
    while True:
        yield item()


async def _upload(requests: AsyncIterator[BytesValue], context: object) -> UInt64Value:
    count = 0
    async for _ in requests:
        count += 1
    return UInt64Value(value=count)


async def _chat_handler(
    requests: AsyncIterator[BytesValue], context: object
) -> AsyncIterator[BytesValue]:
    async for request in requests:
        yield request


async def _rest(request: BytesValue, context: object) -> AsyncIterator[BytesValue]:
    yield item()
    await asyncio.Event().wait()


async def _ticks(request: BytesValue, context: object) -> AsyncIterator[BytesValue]:
    """One event for each of the subscribers, serialised for each."""
    burst, pause = map(int, request.value.split())
    while True:
        for _ in range(burst):
            yield item()
        await asyncio.sleep(pause / 1000)


async def serve() -> None:
    """Serve until killed."""
    coding = {
        "request_deserializer": BytesValue.FromString,
        "response_serializer": BytesValue.SerializeToString,
    }
    handlers = {
        "Watch": grpc.unary_stream_rpc_method_handler(_watch, **coding),
        "Upload": grpc.stream_unary_rpc_method_handler(
            _upload,
            request_deserializer=BytesValue.FromString,
            response_serializer=UInt64Value.SerializeToString,
        ),
        "Chat": grpc.stream_stream_rpc_method_handler(_chat_handler, **coding),
        "Rest": grpc.unary_stream_rpc_method_handler(_rest, **coding),
        "Ticks": grpc.unary_stream_rpc_method_handler(_ticks, **coding),
    }
    # Room for the calls that come at once; it cancels what is past its defaults.
    limits = ("grpc.server.max_pending_requests", "grpc.server.max_pending_requests_hard_limit")
    server = aio.server(options=[(limit, 16_384) for limit in limits])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = listen(server, secured=SECURED in sys.argv)
    await server.start()
    print(address, flush=True)
    await server.wait_for_termination()


async def drive(address: str) -> None:
    """Follow the orders that come, line by line."""
    async with open_channel(address) as channel:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order: Order = json.loads(line)
            if order["load"] == "audience":
                await _audience(order)
                continue
            if order["load"] == "openings":
                await _openings(address, order)
                continue
            started, cpu = time.perf_counter(), time.process_time()
            end = started + order["seconds"]
            if order["load"] == "fan-out":
                count = await _fan_out(end, order)
            else:
                count = await _LOADS[order["load"]](channel, end)
            figures = Figures(
                count=count,
                seconds=time.perf_counter() - started,
                cpu=time.process_time() - cpu,
                p50=statistics.median(trips) * 1e6 if trips else 0.0,
            )
            trips.clear()
            print(json.dumps(figures), flush=True)
        for other in _others:
            await other.close()


_CODING: Final = {
    "request_serializer": BytesValue.SerializeToString,
    "response_deserializer": BytesValue.FromString,
}


async def _server(channel: Any, end: float) -> int:
    count, now = 0, time.perf_counter
    call = channel.unary_stream(f"/{SERVICE}/Watch", **_CODING)(item())
    async for _ in call:
        count += 1
        if not count % 100 and now() >= end:
            break
    call.cancel()
    return count


async def _client(channel: Any, end: float) -> int:
    now = time.perf_counter

    async def items() -> AsyncIterator[BytesValue]:
        count = 0
        while True:
            yield item()
            count += 1
            if not count % 100 and now() >= end:
                return

    upload = channel.stream_unary(
        f"/{SERVICE}/Upload",
        request_serializer=BytesValue.SerializeToString,
        response_deserializer=UInt64Value.FromString,
    )
    response: UInt64Value = await upload(items())
    return response.value


async def _chat(channel: Any, end: float) -> int:
    count, now = 0, time.perf_counter
    call = channel.stream_stream(f"/{SERVICE}/Chat", **_CODING)()
    while (begun := now()) < end:
        await call.write(item())
        await call.read()
        count += 1
        trips.append(now() - begun)
    await call.done_writing()
    return count


async def _chats(channel: Any, end: float) -> int:
    return sum(await asyncio.gather(*[_chat(channel, end) for _ in range(CHATS)]))


class _Audience:
    """Subscribers, each with a connection of its own, as if each were a process of its own."""

    def __init__(self, order: Order) -> None:
        self.count = 0
        #: Set when each has received something.
        self.complete = asyncio.Event()
        self._silent = order["subscribers"]
        request = ticks(order["burst"], order["pause"])
        while len(_others) < self._silent:
            options = [("grpc.use_local_subchannel_pool", 1)]
            _others.append(open_channel(sys.argv[2], options))
        self._calls = [
            other.unary_stream(f"/{SERVICE}/Ticks", **_CODING)(request)
            for other in _others[: self._silent]
        ]
        self._reading = [asyncio.create_task(self._read(call)) for call in self._calls]

    async def _read(self, call: Any) -> None:
        silent = True
        try:
            async for _ in call:
                self.count += 1
                if silent:
                    silent = False
                    self._silent -= 1
                    if not self._silent:
                        self.complete.set()
        except asyncio.CancelledError:
            pass

    async def leave(self) -> None:
        """End all streams."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._reading)


async def _fan_out(end: float, order: Order) -> int:
    audience = _Audience(order)
    await asyncio.sleep(max(0.0, end - time.perf_counter()))
    await audience.leave()
    return audience.count


async def _audience(order: Order) -> None:
    """Say when all receive; count from the next line that comes to the one behind it."""
    audience = _Audience(order)
    await audience.complete.wait()
    print("complete", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    before = audience.count
    await asyncio.to_thread(sys.stdin.readline)
    print(audience.count - before, flush=True)
    await audience.leave()


async def _openings(address: str, order: Order) -> None:
    """Say when all have begun; end them at the next line."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with open_channel(address, options) as channel:
        rest = channel.unary_stream(f"/{SERVICE}/Rest", **_CODING)
        await rest(item()).read()  # connects
        started, cpu = time.perf_counter(), time.process_time()
        calls = [rest(item()) for _ in range(order["subscribers"])]
        await asyncio.gather(*[call.read() for call in calls])
        figures = Figures(
            count=order["subscribers"],
            seconds=time.perf_counter() - started,
            cpu=time.process_time() - cpu,
            p50=0.0,
        )
        print(json.dumps(figures), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for call in calls:
            call.cancel()
    print("ended", flush=True)


_others: list[Any] = []


_LOADS: Final = {
    "server": _server,
    "client": _client,
    "chat": _chat,
    "chats": _chats,
}

if __name__ == "__main__":
    asyncio.run(serve() if sys.argv[1] == "serve" else drive(sys.argv[2]))
