"""The base of generated fake clients; public through :mod:`txzmq.testing`."""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Mapping,
)
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar, cast, final

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail, succeed
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._task_deferred import TaskDeferred, error_for_driver, for_tasks, task_loop
from txzmq._tasks import start_task
from txzmq.rpc._core.coroutines import ending_error
from txzmq.rpc._core.milestone import Milestone
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc.client import (
    StreamInput,
    check_method,
    check_request,
    check_timeout,
    gives_messages,
)
from txzmq.rpc.errors import RpcError, TrailingMetadata, Unimplemented
from txzmq.rpc.interceptors import UnaryResult
from txzmq.rpc.limits import STREAM_WINDOW
from txzmq.rpc.metadata import Metadata, MetadataInput, normalise
from txzmq.rpc.method import Method
from txzmq.rpc.streams import RequestStream, ResponseStream, StreamResult

__all__ = [
    "FakeCaller",
    "RecordedCall",
    "StreamStreamAnswer",
    "StreamUnaryAnswer",
    "UnaryStreamAnswer",
    "UnaryUnaryAnswer",
    "calls",
]

T = TypeVar("T")
Q = TypeVar("Q", bound=Message | RawMessage)
R = TypeVar("R", bound=Message | RawMessage)

#: How a fake answers a unary call: the response, an exception, or a function of the request that
#: returns what a handler may return.
UnaryUnaryAnswer: TypeAlias = Callable[[Q], UnaryResult[R]] | R | Exception
#: How a fake answers with a stream: the responses, an exception (the stream raises it), or a
#: function of the request that returns what a handler may return.
UnaryStreamAnswer: TypeAlias = Callable[[Q], StreamResult[R]] | StreamResult[R] | Exception
#: As :data:`UnaryUnaryAnswer`; a function gets the stream of requests.
StreamUnaryAnswer: TypeAlias = Callable[[RequestStream[Q]], UnaryResult[R]] | R | Exception
#: As :data:`UnaryStreamAnswer`; a function gets the stream of requests.
StreamStreamAnswer: TypeAlias = (
    Callable[[RequestStream[Q]], StreamResult[R]] | StreamResult[R] | Exception
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall(Generic[Q]):
    """One call that was made on a fake client."""

    method: Method[Q, Any]
    #: The request; of a stream, the requests that the answer has read so far. They are copies, with
    #: the values that they had then.
    requests: list[Q] = field(default_factory=list[Q])
    timeout: float | None = None
    metadata: TrailingMetadata = ()
    wait_for_ready: bool | None = None

    @property
    def request(self) -> Q:
        """The only request of a call, or the first one of a stream.

        :raises IndexError: if the answer has read none of the stream.
        """
        return self.requests[0]


def calls(client: object, method: Method[Q, Any], /) -> list[RecordedCall[Q]]:
    """The calls of *method* on a fake client so far, in the order in which they were made.

    ``calls(fake, GreeterMethods.say_hello)[0].request`` is a ``HelloRequest``, for type checkers,
    too. The list is a copy.

    :raises TypeError: if *client* is no generated fake client.
    """
    check_method(method)
    caller: object = getattr(client, "_channel", None)
    if not isinstance(caller, FakeCaller):
        raise _check.wrong_type("client", client, "a generated fake client")
    return [
        # The call has the same method, so its requests have the method's type.
        cast("RecordedCall[Q]", call)
        for call in caller.recorded
        if call.method is method
    ]


@final
class FakeCaller:
    """Answers calls by given values and functions, at once and without a server.

    It is a :class:`~txzmq.rpc.Caller`; each generated fake client makes one.
    """

    def __init__(self, answers: Mapping[str, object], /) -> None:
        """
        :param answers: the answer of each method, by its Python name; a method whose answer is None
            fails with UNIMPLEMENTED. The generated constructor has checked the types.
        """
        _check.instance("answers", answers, Mapping, "a mapping")
        self._answers = answers
        #: Every call so far, in order.
        self.recorded: list[RecordedCall[Any]] = []

    def unary_unary(
        self,
        method: Method[Q, R],
        request: Q,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[R]:
        """Answer with one response."""
        call = self._record(method, request, timeout, metadata, wait_for_ready)
        call.requests.append(_copy(request))
        return _one(method, self._answer(method), _copy(request))

    def unary_stream(
        self,
        method: Method[Q, R],
        request: Q,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[R]:
        """Answer with a stream."""
        call = self._record(method, request, timeout, metadata, wait_for_ready)
        call.requests.append(_copy(request))
        return _FakeResponseStream(method, self._answer(method), _copy(request))

    def stream_unary(
        self,
        method: Method[Q, R],
        requests: StreamInput[Q],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[R]:
        """Answer with one response; an answer that is no function reads no request."""
        call = self._record(method, requests, timeout, metadata, wait_for_ready)
        return _one(method, self._answer(method), FakeRequestStream(requests, call.requests))

    def stream_stream(
        self,
        method: Method[Q, R],
        requests: StreamInput[Q],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[R]:
        """Answer with a stream; an answer that is no function reads no request."""
        call = self._record(method, requests, timeout, metadata, wait_for_ready)
        stream = FakeRequestStream(requests, call.requests)
        return _FakeResponseStream(method, self._answer(method), stream)

    def _record(
        self,
        method: Method[Q, Any],
        given: object,
        timeout: float | None,
        metadata: MetadataInput | None,
        wait_for_ready: bool | None,
    ) -> RecordedCall[Q]:
        check_method(method)
        check_request(method, given)
        if timeout is not None:
            check_timeout(timeout)
        if wait_for_ready is not None:
            _check.boolean("wait_for_ready", wait_for_ready)
        call = RecordedCall(
            method=method,
            timeout=timeout,
            metadata=normalise(metadata),
            wait_for_ready=wait_for_ready,
        )
        self.recorded.append(call)
        return call

    # Any: type checkers check answers where the generated constructor is called.
    def _answer(self, method: Method[Any, Any]) -> Any:
        answer: Any = self._answers.get(method.name)
        if answer is None:
            return Unimplemented(f"{method.path} has no answer in this fake client")
        if isinstance(answer, type):
            hint = f"; pass an instance, {answer.__name__}(...)"
            raise _wrong_answer(method, answer, ", an exception or a function", hint)
        if not (callable(answer) or isinstance(answer, (Exception, Deferred))):
            _check_answer(method, answer, ", an exception or a function")
        return answer  # pyright: ignore[reportUnknownVariableType]  # a user's


def _copy(message: T) -> T:
    """A message with the same value; anything else as it is."""
    if not isinstance(message, Message):
        return message
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _wrong_answer(
    method: Method[Any, Any], given: object, others: str = "", hint: str = ""
) -> TypeError:
    due = method.response_type.__name__
    if method.kind.response_streaming:
        due = f"an iterable of {due}"
    came = f"{_check.shown(given)}{hint}"
    return TypeError(f"the answer of {method.name} must be {due}{others}, not {came}")


def _check_answer(method: Method[Any, Any], given: object, others: str = "") -> None:
    """Check a response, or what is to give responses, as a server does.

    :raises TypeError: if the method returns something else.
    """
    if method.kind.response_streaming:
        if not gives_messages(given):
            raise _wrong_answer(method, given, others)
    elif not isinstance(given, method.response_type):
        raise _wrong_answer(method, given, others)


def _checked_response(given: object, method: Method[Any, Any]) -> object:
    _check_answer(method, given)
    return given


# Any: the types of answers are checked elsewhere, see FakeCaller._answer.
def _one(method: Method[Any, Any], answer: Any, request: object) -> Deferred[Any]:
    """The response of an answer; the Deferred fails with what the answer raises."""
    response = for_tasks(_result(answer, request))
    return response.addCallback(_checked_response, method).addErrback(_of_call, method)


def _of_call(failure: Failure, method: Method[Any, Any]) -> Failure:
    """Set the method of an error, as a real channel does."""
    error = cast("object", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
    if isinstance(error, RpcError):
        error.of_call(method.path)
    return failure


def _result(answer: Any, request: object) -> Deferred[Any]:
    result: Any
    try:
        result = answer(request) if callable(answer) else answer
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is the call's result
        return fail(ending_error(error, "an answer"))
    if isinstance(result, Exception):
        return fail(result)
    if isinstance(result, Deferred):
        return cast("Deferred[Any]", result)  # type: ignore[redundant-cast]  # not to pyright
    if isinstance(result, Coroutine):
        answering: Coroutine[Any, Any, Any] = result  # pyright: ignore[reportUnknownVariableType]  # a user's
        return ensureDeferred(answering) if task_loop() is None else start_task(answering)
    return succeed(_copy(result))


async def _many(method: Method[Any, Any], answer: Any, request: object) -> AsyncIterator[Any]:
    """The items of an answer with a stream."""
    items: Any = answer(request) if callable(answer) else answer
    if isinstance(items, Exception):
        raise items
    if isinstance(items, Coroutine):
        items = await cast("Coroutine[Deferred[Any], Any, Any]", items)
    elif isinstance(items, Deferred):
        items = await cast("Deferred[Any]", items)  # type: ignore[redundant-cast]  # not to pyright
    _check_answer(method, items)
    async for item in _items(items):
        if isinstance(item, Deferred):
            item = await cast("Deferred[Any]", item)  # type: ignore[redundant-cast]  # not to pyright
        if not isinstance(item, method.response_type):
            due, came = method.response_type.__name__, _check.shown(item)
            raise TypeError(f"an item of the answer of {method.name} must be {due}, not {came}")
        yield _copy(item)


async def _items(items: StreamInput[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class FakeRequestStream(RequestStream[Q]):
    """The requests of a stream; each is recorded when the answer reads it."""

    __slots__ = ("_items", "_recorded")

    def __init__(self, requests: StreamInput[Q], recorded: list[Q]) -> None:
        self._items = _items(requests)
        self._recorded = recorded

    async def __anext__(self) -> Q:
        request = _copy(await self._items.__anext__())
        self._recorded.append(_copy(request))
        return request


class _FakeResponseStream(ResponseStream[R]):
    """The responses of an answer, until the stream is cancelled.

    The answer is asked for an item when one is read; from when somebody waits for the end, it is
    read ahead, as a channel does.
    """

    __slots__ = ("_ahead", "_end", "_ended", "_items", "_news", "_opened", "_reading")

    # Any: the types of answers are checked elsewhere, see FakeCaller._answer.
    def __init__(self, method: Method[Any, R], answer: Any, request: object) -> None:
        self._items: AsyncIterator[R] = _many(method, answer, request)
        # What was read ahead, and who waits for it.
        self._ahead: deque[R] = deque()
        self._news: Deferred[None] | None = None
        # Whether the answer is being asked for an item; how it has ended.
        self._reading = False
        self._end: BaseException | None = None
        self._ended: Milestone[None] = Milestone()
        self._opened: Milestone[None] = Milestone()
        if isinstance(answer, Exception):
            self._opened.miss(answer)
            self._ended.miss(answer)
        else:
            self._opened.reach(None)

    async def __anext__(self) -> R:
        while not self._ahead:
            if self._end is not None:
                raise await error_for_driver(self._end)
            if not self._reading:
                return await self._read()
            self._news = TaskDeferred()
            await self._news
        return self._ahead.popleft()

    async def _read(self) -> R:
        """Ask the answer for an item."""
        self._reading = True
        try:
            return await self._items.__anext__()
        except GeneratorExit:
            raise  # the reader is garbage
        except BaseException as error:
            self._finish(error)
            raise
        finally:
            self._reading = False

    async def _read_ahead(self) -> None:
        while self._end is None and len(self._ahead) < STREAM_WINDOW:
            try:
                item = await self._read()
            except BaseException:  # noqa: BLE001 - it is how the stream ends, and its reader gets it
                return
            if self._end is None:
                self._ahead.append(item)
                self._wake()

    def _finish(self, end: BaseException) -> None:
        if self._end is not None:
            return
        self._end = end
        if isinstance(end, StopAsyncIteration):
            self._ended.reach(None)
        else:
            self._ended.miss(end)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.callback(None)

    def cancel(self) -> None:
        """End the stream; to read on raises :class:`~twisted.internet.defer.CancelledError`."""
        self._ahead.clear()
        self._finish(CancelledError("the stream was cancelled"))

    def opened(self) -> Deferred[None]:
        """Fires at once, unless the answer is an exception."""
        return self._opened.wait()

    def received_initial_metadata(self) -> Deferred[Metadata]:
        """Fires at once with no metadata, unless the answer is an exception."""
        return self._opened.wait().addCallback(lambda _: ())

    def ended(self) -> Deferred[None]:
        """Fires when the answer has given its last item, or fails with its error."""
        if self._end is None and not self._reading:
            Deferred.fromCoroutine(self._read_ahead())
        return self._ended.wait()
