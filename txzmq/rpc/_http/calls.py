"""Passing calls on: what connectrpc calls for each, and which errors its clients see."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, cast

from connectrpc.code import Code as ConnectCode
from connectrpc.compression import Compression
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel as ConnectLevel
from connectrpc.method import MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from twisted.internet.defer import CancelledError

from txzmq.rpc._core.asyncio_loop import next_item, wait_for
from txzmq.rpc._gateway.forwarding import Sender
from txzmq.rpc._gateway.refusals import Refusals, time_is_up
from txzmq.rpc._http.asgi import Application, Message, Receive, Scope, Send
from txzmq.rpc._http.compression import bounded
from txzmq.rpc._http.content import ANY, STREAM_TYPES, UNARY_TYPES, Content
from txzmq.rpc._http.errors import Answer, answer_of
from txzmq.rpc._http.headers import add_metadata, metadata_of
from txzmq.rpc._http.requests import Requests
from txzmq.rpc._http.server import is_ending
from txzmq.rpc._http.transcoding import Transcoder
from txzmq.rpc._http.unary import UnaryApplication
from txzmq.rpc.client import Caller, ResponseMetadata
from txzmq.rpc.context import detached
from txzmq.rpc.errors import (
    Code,
    ResourceExhausted,
    RpcError,
)
from txzmq.rpc.method import IdempotencyLevel, Kind, Method
from txzmq.rpc.method_sources import MethodSource
from txzmq.rpc.raw import RawMessage, raw_method
from txzmq.rpc.streams import ResponseStream

__all__ = ["Calls", "PassedMethod", "seconds_before_call", "sender_of_call"]

_Raw: TypeAlias = Method[RawMessage, RawMessage]
# Any: requests and responses are bytes, which the codecs pass as they are.
_Context: TypeAlias = "RequestContext[Any, Any]"

#: Seconds for a call whose client says none, whatever the channel has for others.
_OWN: Final = math.inf

_STREAM_TYPES: Final = {
    Kind.UNARY_UNARY: StreamType.UNARY,
    Kind.UNARY_STREAM: StreamType.SERVER_STREAM,
    Kind.STREAM_UNARY: StreamType.CLIENT_STREAM,
    Kind.STREAM_STREAM: StreamType.BIDI_STREAM,
}
#: Who has sent the request that this task serves. connectrpc tells its endpoints no more than an
#: address.
sender_of_call: Final[ContextVar[Sender]] = ContextVar("sender_of_call")
#: How long ago the request that this task serves has come; connectrpc counts its time from when it
#: gets it itself, when its method was found.
seconds_before_call: Final[ContextVar[float]] = ContextVar("seconds_before_call", default=0.0)
#: The path of all calls that are refused.
_REFUSED: Final = "/refused/Call"


class Calls:
    """Passes calls on to a channel."""

    def __init__(
        self,
        channel: Caller,
        methods: MethodSource,
        size: int,
        compressions: Iterable[Compression] | None,
    ) -> None:
        """
        :param methods: of which the types of messages are, too.
        :param size: bytes that a message may have.
        :param compressions: which connectrpc is to know; None for gzip.
        """
        self._channel = channel
        self._methods = methods
        self._size = size
        self.compressions = bounded(compressions)
        self.refusals = Refusals()

    def application(self, found: Method[Any, Any], method: _Raw, *, json: bool) -> Application:
        """What serves the calls of a method whose messages have one format.

        :raises Unimplemented: if the format is JSON, and nobody knows what is in the messages.
        """
        call = _Passing(self, method, Transcoder(found, self._methods) if json else None)
        codec = "json" if json else "proto"
        application = _Application(
            method.path,
            _endpoint(method, call),
            codec=_Codec(codec),
            size=self._size,
            compressions=self.compressions,
            interceptor=_Ends(method.path, self.refusals),
        )
        inner = cast("Application", application)  # connectrpc has other words for ASGI's
        if method.kind is not Kind.UNARY_UNARY:
            return inner

        async def refuse(
            error: ConnectError | None,
            context: _Context,
            scope: Scope,
            receive: Receive,
            send: Send,
        ) -> None:
            told = error or answer_of(self.refusals.of(CancelledError(), method.path))
            refusing = self._refusing(method, _Refusing(told, context), codec)
            await refusing(_asked(scope, method.path, f"application/{codec}"), receive, send)

        return UnaryApplication(
            inner,
            _info(method),
            call.unary_unary,
            refuse,
            codec=codec,
            size=self._size,
            compressions=self.compressions,
        )

    def _refusing(self, method: _Raw, refusing: _Refusing, codec: str) -> Application:
        """What answers the calls of a method with an error, and reads nothing of them."""
        application = _Application(
            method.path,
            _endpoint(method, _Passing(self, method, None)),
            codec=_Codec(codec),
            size=self._size,
            compressions=(),
            interceptor=refusing,
        )
        return cast("Application", application)  # as above

    def check_size(self, what: str, size: int) -> None:
        """:raises ResourceExhausted: for a message that is too large."""
        if size > self._size:
            raise ResourceExhausted(
                f"the gateway does not pass on a {what} of {size} bytes: its message_size is "
                f"{self._size}"
            )

    # Any: a request, or several.
    def start(self, method: _Raw, given: Any, context: _Context) -> Any:
        """Start a call: a Deferred, or a stream.

        :raises RpcError: if it is over already, or its metadata is none.
        """
        left = _OWN if context.timeout_ms is None else context.timeout_ms / 1_000
        left -= seconds_before_call.get()
        if left <= 0:
            raise time_is_up(sent=False)
        metadata = metadata_of(context.request_headers.allitems(), sender_of_call.get())
        make = getattr(self._channel, method.kind.name.lower())
        with detached():
            return make(method, given, timeout=left, metadata=metadata)

    async def refuse(
        self, error: RpcError, content: Content | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a call with an error, whatever else is wrong with it, and read nothing of it.

        :param content: what its body is; None for what the gateway does not take.
        """
        content = content or ANY
        kind = Kind.STREAM_STREAM if content.envelopes else Kind.UNARY_UNARY
        method = raw_method(_REFUSED, kind)
        application = self._refusing(
            method, _Refusing(answer_of(error)), "json" if content.json else "proto"
        )
        asked = _asked(scope, _REFUSED, content.name)

        async def send_404(message: Message) -> None:
            # 501 is Connect's; this is for those who do not know Connect.
            if message["type"] == "http.response.start" and message["status"] == 501:
                message = {**message, "status": 404}
            await send(message)

        is_unknown = error.code is Code.UNIMPLEMENTED
        await application(asked, receive, send_404 if is_unknown else send)


class _Passing:
    """Passes the calls of one method on whose messages have one format."""

    def __init__(self, calls: Calls, method: _Raw, transcoder: Transcoder | None) -> None:
        self._calls = calls
        self._method = method
        self._transcoder = transcoder

    async def _to_raw(self, request: bytes) -> RawMessage:
        transcoder = self._transcoder
        raw = RawMessage(request) if transcoder is None else await transcoder.to_raw(request)
        self._calls.check_size("request", len(raw))
        return raw

    async def _from_raw(self, response: RawMessage) -> bytes:
        self._calls.check_size("response", len(response))
        return response if self._transcoder is None else await self._transcoder.to_json(response)

    # -- the endpoints of connectrpc's -------------------------------------------------------------

    async def unary_unary(self, request: bytes, context: _Context) -> bytes:
        """One request, one response."""
        return await self._one(request, None, context)

    def unary_stream(self, request: bytes, context: _Context) -> AsyncGenerator[bytes]:
        """One request, several responses."""
        return self._many(request, None, context)

    async def stream_unary(self, source: AsyncIterator[bytes], context: _Context) -> bytes:
        """Several requests, one response."""
        requests = Requests(source, self._to_raw)
        try:
            return await self._one(b"", requests, context)
        finally:
            await requests.settle()

    def stream_stream(
        self, source: AsyncIterator[bytes], context: _Context
    ) -> AsyncGenerator[bytes]:
        """Several of both."""
        return self._many(b"", Requests(source, self._to_raw), context)

    async def _one(self, request: bytes, requests: Requests | None, context: _Context) -> bytes:
        """The response of a call that has one."""
        received = ResponseMetadata()
        try:
            given = await self._to_raw(request) if requests is None else requests
            with received:
                call = self._calls.start(self._method, given, context)
            response = await self._from_raw(await wait_for(call))
        except Exception as error:
            add_metadata(context.response_headers, received.initial)
            raise self._answer(error, requests, context) from error
        if received.initial:
            add_metadata(context.response_headers, received.initial)
        if received.trailing:
            add_metadata(context.response_trailers, received.trailing)
        return response

    async def _many(
        self, request: bytes, requests: Requests | None, context: _Context
    ) -> AsyncGenerator[bytes]:
        """The responses of a call that has several."""
        opened: ResponseStream[RawMessage] | None = None
        try:
            given = await self._to_raw(request) if requests is None else requests
            stream: ResponseStream[RawMessage]
            opened = stream = self._calls.start(self._method, given, context)
            initial = await wait_for(stream.received_initial_metadata())
            add_metadata(context.response_headers, initial)
            while (item := await next_item(stream)) is not None:
                yield await self._from_raw(item)
            add_metadata(context.response_trailers, stream.trailing_metadata)
        except Exception as error:
            raise self._answer(error, requests, context) from error
        finally:
            if opened is not None:
                opened.cancel()
            if requests is not None:
                await requests.settle()

    def _answer(
        self, error: Exception, requests: Requests | None, context: _Context
    ) -> ConnectError:
        """What a client is told of what was raised, its metadata being put into the trailers."""
        if isinstance(error, ConnectError):
            return error  # of reading the client's requests
        own = () if requests is None else requests.errors
        told = self._calls.refusals.of(error, self._method.path, own)
        add_metadata(context.response_trailers, told.metadata)
        return answer_of(told)


class PassedMethod:
    """A method that the gateway passes on.

    :ivar found: what its source says of it.
    """

    def __init__(self, found: Method[Any, Any], calls: Calls) -> None:
        self.found = found
        self._calls = calls
        self._method = raw_method(
            found.path,
            found.kind,
            idempotency_level=found.idempotency_level,
            stream=found.stream,
        )
        # By whether messages are JSON.
        self._applications: dict[bool, Application] = {}

    @property
    def is_unary(self) -> bool:
        """Whether Connect has its messages without envelopes."""
        return self.found.kind is Kind.UNARY_UNARY

    @property
    def verbs(self) -> tuple[str, ...]:
        """The methods of HTTP by which it can be called."""
        level = self.found.idempotency_level
        may_get = self.is_unary and level is IdempotencyLevel.NO_SIDE_EFFECTS
        return ("GET", "POST") if may_get else ("POST",)

    @property
    def types(self) -> tuple[str, ...]:
        """The types of bodies that it takes."""
        return UNARY_TYPES if self.is_unary else STREAM_TYPES

    def takes(self, content: Content) -> bool:
        """Whether its messages come in such a body."""
        return not content.connect or content.envelopes is not self.is_unary

    def application(self, content: Content) -> Application:
        """What serves its calls.

        :raises Unimplemented: if the format is JSON, and nobody knows what is in the messages.
        """
        made = self._applications.get(content.json)
        if made is None:
            made = self._calls.application(self.found, self._method, json=content.json)
            self._applications[content.json] = made
        return made


# -- connectrpc's side ----------------------------------------------------------------------------


class _Codec:
    """Passes messages as bytes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        """The name of the format, as it is in content types."""
        return self._name

    def encode(self, message: bytes) -> bytes:
        """As they are."""
        return message

    def decode(self, data: bytes | bytearray, message_class: object) -> bytes:
        """As they are."""
        return bytes(data)


class _Ends:
    """Says of errors of connectrpc's own that they are the gateway's."""

    def __init__(self, path: str, refusals: Refusals) -> None:
        self._path = path
        self._refusals = refusals

    async def on_start(self, context: _Context) -> None:
        """See connectrpc's interceptors."""

    async def on_end(self, _: None, context: _Context, error: Exception | None) -> None:
        """See connectrpc's interceptors.

        :raises Answer: in place of another error.
        """
        if error is None:
            return
        if is_ending():
            raise answer_of(self._refusals.of(CancelledError(), self._path)) from error
        if isinstance(error, Answer):
            return
        if isinstance(error, ConnectError):
            if error.code is ConnectCode.DEADLINE_EXCEEDED:
                raise answer_of(time_is_up(sent=True)) from error  # or not; nobody knows here
            raise Answer(error.code, f"the gateway refuses the call: {error.message}") from error
        raise answer_of(self._refusals.of(error, self._path)) from error


class _Refusing:
    """Ends calls before anything is read of them."""

    def __init__(self, error: ConnectError, answer: _Context | None = None) -> None:
        """:param answer: with the metadata of the answer; None for none."""
        self._error = error
        self._answer = answer

    async def on_start(self, context: _Context) -> None:
        """:raises ConnectError: always."""
        if self._answer is not None:
            for key, value in self._answer.response_headers.allitems():
                context.response_headers.add(key, value)
            for key, value in self._answer.response_trailers.allitems():
                context.response_trailers.add(key, value)
        raise self._error

    async def on_end(self, _: None, context: _Context, error: Exception | None) -> None:
        """See connectrpc's interceptors."""


class _Application(ConnectASGIApplication[None]):
    """connectrpc's application, for one method."""

    def __init__(
        self,
        path: str,
        endpoint: Any,  # of one of four kinds
        *,
        codec: _Codec,
        size: int,
        compressions: Iterable[Compression] | None,
        interceptor: Any,  # of a protocol that has no name in public
    ) -> None:
        self._path = path
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # endpoints of messages of any type
            service=None,
            endpoints=lambda _: {path: endpoint},
            interceptors=[interceptor],
            read_max_bytes=size,
            compressions=compressions,
            codecs=[codec],
        )

    @property
    def path(self) -> str:
        """Where it is."""
        return self._path


def _asked(scope: Scope, path: str, content_type: str) -> Scope:
    """A request of which nothing is wrong, in place of another one."""
    return {
        **scope,
        "path": path,
        "root_path": "",
        "method": "POST",
        "headers": [(b"content-type", content_type.encode())],
    }


def _info(method: _Raw) -> MethodInfo[Any, Any]:
    service, _, name = method.path.removeprefix("/").rpartition("/")
    is_unary = method.kind is Kind.UNARY_UNARY
    may_get = is_unary and method.idempotency_level is IdempotencyLevel.NO_SIDE_EFFECTS
    return MethodInfo(
        name=name,
        service_name=service,
        input=bytes,
        output=bytes,
        # By it connectrpc takes a GET.
        idempotency_level=ConnectLevel.NO_SIDE_EFFECTS if may_get else ConnectLevel.UNKNOWN,
        stream_type=_STREAM_TYPES[method.kind],
    )


def _endpoint(method: _Raw, passing: _Passing) -> Any:
    info = _info(method)
    match method.kind:
        case Kind.UNARY_UNARY:
            return Endpoint.unary(info, passing.unary_unary)
        case Kind.UNARY_STREAM:
            return Endpoint.server_stream(info, passing.unary_stream)
        case Kind.STREAM_UNARY:
            return Endpoint.client_stream(info, passing.stream_unary)
        case Kind.STREAM_STREAM:
            return Endpoint.bidi_stream(info, passing.stream_stream)
