"""What a handler is called with, for tests of a handler alone; public through txzmq.testing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf.message import Message
from twisted.internet import task

from txzmq import _check
from txzmq._identity import Identity
from txzmq._reactor import Clock
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc.client import StreamInput, check_timeout, gives_messages
from txzmq.rpc.context import Context
from txzmq.rpc.metadata import MetadataInput, normalise
from txzmq.rpc.method import Method
from txzmq.rpc.streams import RequestStream
from txzmq.testing._fakes import FakeRequestStream

__all__ = ["call_context", "request_stream"]

Q = TypeVar("Q", bound=Message | RawMessage)


def call_context(
    method: Method[Any, Any] | str = "/test.Test/Test",
    *,
    metadata: MetadataInput | None = None,
    timeout: float | None = None,
    identity: Identity | None = None,
    peer: str = "memory",
    first_item: int = 1,
    clock: Clock | None = None,
) -> Context:
    """A context with which a test calls a handler by itself, without a server. ::

        reply = Greeter().say_hello(HelloRequest(name="x"), call_context(metadata={"lang": "fr"}))

    What the handler sends back by it is in its ``initial_metadata`` and ``trailing_metadata``. The
    test ends the call by ``context.cancel("the client is gone")``: that fires
    ``context.cancelled``, and cancels the calls that the handler has made. To cancel the handler
    itself is the server's work: here, cancel what it returned.

    The handler's own calls inherit nothing, since no server says in which call they are made.

    :param method: which method it is, such as ``GreeterMethods.say_hello``, or its path.
    :param metadata: of the request.
    :param timeout: seconds that the call has from now, by *clock*; None for no deadline.
    :param identity: who calls, and whose the connection is; None for nobody that is known.
    :param peer: where the client connected from.
    :param first_item: the number of the first item of a stream of responses, from 1.
    :param clock: tells the time, such as ``MemoryNetwork.clock``; None for one that stands still.
    :raises TypeError: for a value of a wrong type, and ValueError for one that is not allowed.
    """
    path = method.path if isinstance(method, Method) else method
    _check.text("method", path, "a Method or its path")
    if timeout is not None:
        check_timeout(timeout)
    if identity is not None:
        _check.instance("identity", identity, Identity, "an Identity or None")
    _check.text("peer", peer)
    _check.integer("first_item", first_item, 1)
    if clock is None:
        clock = task.Clock()
    _check.clock("clock", clock)
    now = clock.seconds()
    return Context(
        path,
        () if metadata is None else normalise(metadata),
        peer,
        clock=clock,
        deadline=None if timeout is None else now + timeout,
        first_item=first_item,
        arrived=now,
        identity=identity,
    )


def request_stream(requests: StreamInput[Q] | Iterable[Q], /) -> RequestStream[Q]:
    """The requests of a stream, with which a test calls a handler by itself. ::

        summary = await Uploads().upload(request_stream([Chunk(data=b"x")]), call_context())

    :param requests: what gives them, as for a client: a list, or an (async) generator. What it
        raises, the handler gets.
    :raises TypeError: if it is no iterable.
    """
    if not gives_messages(requests):
        raise _check.wrong_type("requests", requests, "an iterable or async iterable of messages")
    return FakeRequestStream(requests, [])
