"""Channels by inproc, whose connections libzmq reports nothing of."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.rpc.lines import FAILED, READY
from tests.rpc.service import ECHO, Echo, Waiting, text
from tests.rpc.streaming import COUNT, Reader, Streaming
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq._inproc import InprocAddresses
from txzmq.rpc import Channel, Context, Server, Unavailable

ADDRESS = "inproc://test"


def test_a_channel_goes_on_with_the_next_server(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Echo()])
        channel = Channel(factory, server.listen(ADDRESS))
        assert (await channel.unary_unary(ECHO, text("1"))).value == "1"
        await server.stop(0)
        await one_loop.until(lambda: channel.state is FAILED)
        with pytest.raises(Unavailable, match="the call was not sent"):
            await channel.unary_unary(ECHO, text("x"))
        waiting = channel.unary_unary(ECHO, text("2"), wait_for_ready=True)
        again = Server(factory, [Echo()])
        again.listen(ADDRESS)
        assert (await waiting).value == "2"
        channel.close()
        await again.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_calls_end_with_their_server(one_loop: Loop) -> None:
    async def main() -> Unavailable:
        factory = ZmqFactory(one_loop.reactor)
        service = Waiting()
        server = Server(factory, [service])
        channel = Channel(factory, server.listen(ADDRESS))
        call = channel.unary_unary(ECHO, text("x"), timeout=None)
        await one_loop.until(lambda: service.seen)
        for connection in list(factory.connections):  # as if it had died
            if connection.endpoints and connection.endpoints[0].type == "bind":
                connection.shutdown()
        try:
            await call
        except Unavailable as error:
            return error
        finally:
            channel.close()
            await server.stop(0)
            factory.shutdown()
        raise AssertionError

    assert "may have been executed" in one_loop.run(main).message


def test_inproc_reaches_no_other_factory(one_loop: Loop) -> None:
    async def main() -> str:
        one, other = ZmqFactory(one_loop.reactor), ZmqFactory(one_loop.reactor)
        server = Server(one, [Echo()])
        channel = Channel(other, server.listen(ADDRESS))
        try:
            await channel.unary_unary(ECHO, text("x"))
        except Unavailable as error:
            return error.message
        finally:
            channel.close()
            await server.stop(0)
            one.shutdown()
            other.shutdown()
        raise AssertionError

    message = one_loop.run(main)
    assert "the call was not sent" in message
    assert "no connection of this ZmqFactory is bound" in message


def test_a_channel_may_come_before_its_server(one_loop: Loop) -> None:
    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        channel = Channel(factory, ADDRESS)
        await one_loop.until(lambda: channel.state is FAILED)
        call = channel.unary_unary(ECHO, text("x"), wait_for_ready=True)
        server = Server(factory, [Echo()])
        server.listen(ADDRESS)
        assert (await call).value == "x"
        assert channel.state is READY
        channel.close()
        await server.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_streams_end_with_their_server_and_begin_with_the_next(one_loop: Loop) -> None:
    async def for_ever(request: object, context: Context) -> object:
        yield text("first")
        never: Deferred[None] = Deferred()
        await never

    async def main() -> None:
        factory = ZmqFactory(one_loop.reactor)
        server = Server(factory, [Streaming(for_ever)])
        channel = Channel(factory, server.listen(ADDRESS))
        reader = Reader(channel.unary_stream(COUNT, text("x")))
        await one_loop.until(lambda: reader.items)
        await server.stop(0)
        await reader.done
        assert isinstance(reader.ended, Unavailable)
        again = Server(factory, [Streaming()])
        again.listen(ADDRESS)
        reader = Reader(channel.unary_stream(COUNT, text("3"), wait_for_ready=True))
        await reader.done
        assert (reader.ended, reader.items) == ("well", ["0", "1", "2"])
        channel.close()
        await again.stop(0)
        factory.shutdown()

    one_loop.run(main)


def test_who_wants_to_know_is_told_until_it_takes_that_back() -> None:
    addresses = InprocAddresses()
    told: list[bool] = []
    forget = addresses.watch(ADDRESS, told.append)
    one, other = object(), object()
    addresses.bind(ADDRESS, one)
    addresses.bind("inproc://other", one)
    addresses.unbind(other)
    assert addresses.isBound(ADDRESS)
    addresses.unbind(one)
    assert told == [True, False]
    forget()
    forget()
    addresses.bind(ADDRESS, other)
    assert told == [True, False]
