"""Calls from other threads than the reactor's, which wait for the response."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterable, Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._guard import Guard, Guarded, WrongThreadError
from txzmq._reactor import ThreadedReactor
from txzmq.rpc._threads.patience import Patience
from txzmq.rpc._threads.requests import ThreadedRequests
from txzmq.rpc._threads.stream import ThreadedStream
from txzmq.rpc.client import gives_messages
from txzmq.rpc.errors import Unavailable
from txzmq.rpc.streams import BlockingStream, ResponseStream

__all__ = ["Blocking", "BlockingStream"]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_RETURNED: Final = "a Deferred, a coroutine or a stream of responses"
#: Items of a stream that are read before a thread asks for them.
_AHEAD: Final = 32


class _ReadInThread(Protocol[T_co]):
    """A stream of responses, of which a thread gets *T_co*.

    By it one signature types all kinds of call. Of overloads checkers say only that none matches,
    and not which argument is wrong.
    """

    @property
    def _in_thread(self) -> T_co: ...


class Blocking:
    """Makes calls in the reactor's thread for other threads, which wait for the response::

        blocking = Blocking(channel)
        reply = blocking(client.say_hello, HelloRequest(name="x"), timeout=1.5)
        for tick in blocking(client.watch, WatchRequest()):
            print(tick.price)

    Any number of threads may share one. The call is made in a copy of the calling thread's
    ``contextvars`` context.
    """

    def __init__(
        self, owner: Guarded, *, patience: float | None = None, read_ahead: int = _AHEAD
    ) -> None:
        """
        :param owner: the channel (of either kind) or factory in whose reactor the calls are made.
        :param patience: how many seconds to wait for a reactor that is blocked. For a call with a
            ``timeout`` they begin when that is over, for one without when the reactor last did
            anything. None for a second and a tenth of the timeout, and for 30 s without a timeout.
        :param read_ahead: how many items of a stream are read before a thread asks for them.
        :raises TypeError: for a value of a wrong type, or ValueError if *patience* is not above 0,
            or *read_ahead* below 1.
        """
        hint = "; a client is made with its channel" if hasattr(owner, "_channel") else ""
        guard = getattr(owner, "guard", None)
        if isinstance(owner, type) or not isinstance(guard, Guard):
            raise _check.wrong_type("owner", owner, "a Channel or ZmqFactory", hint)
        if patience is not None:
            _check.number("patience", patience, above=True)
        _check.integer("read_ahead", read_ahead, 1)
        self._guard = guard
        self._patience = patience
        self._read_ahead = read_ahead

    def _ready(self) -> Guard:
        """What a call needs is there; who may use it."""
        return self._guard

    def __call__(
        self,
        function: Callable[P, Deferred[T] | Coroutine[Any, Any, T] | _ReadInThread[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call *function* in the reactor's thread, and wait for the result of its Deferred.

        The wait ends even if the reactor is blocked or stops. When it is interrupted (Ctrl-C), the
        call is cancelled.

        Where *function* is a method of a client, and takes a stream of requests, any iterable gives
        them: the calling thread asks it for requests while the call runs; if the responses stream,
        too, a thread of its own does. It waits while the server does not read. (A list or tuple is
        sent as it is.)

        :param function: a method of a client; or any other function that returns a Deferred, a
            coroutine or a stream of responses. If *kwargs* have a ``timeout``, it must be in
            seconds.
        :return: the response; or for a stream of responses a
            :class:`~txzmq.rpc.blocking.BlockingStream`, at once.
        :raises RpcError: the error of the call. Also DEADLINE_EXCEEDED if the reactor is blocked
            when the call's timeout is over, and UNAVAILABLE if the reactor does not run, stops
            meanwhile, or is blocked; then the message says whether the call may have been executed.
            Any other exception of *function* or its Deferred is raised, too.
        :raises TypeError: if *function* is none, as where a call is made already, or returns
            nothing to wait for.
        :raises WrongThreadError: in the reactor's own thread, which would wait for itself.
        :raises ForkedError: in a forked child.
        """
        given: object = function  # untyped callers
        if not callable(given):
            hint = "; pass the method and its arguments, and do not call it yourself"
            raise _check.wrong_type("function", function, "a method of a client", hint)
        guard = self._ready()
        if guard.forked:
            guard.check()
        reactor = guard.reactor()
        if not reactor.running:
            raise Unavailable("the reactor does not run; the call was not made")
        if guard.is_owner():
            raise WrongThreadError(
                "the reactor's own thread would wait for itself for ever: await the call, or add "
                "callbacks to it"
            )
        # Any: the thread's iterables are replaced, which the caller's signature knows nothing of.
        positional: tuple[Any, ...] = args
        named: dict[str, Any] = kwargs
        sources: list[ThreadedRequests] = []
        if _is_of_a_client(function):
            positional = tuple(_in_thread(each, reactor, sources) for each in positional)
            if "requests" in named:
                named["requests"] = _in_thread(named["requests"], reactor, sources)
        make: Callable[[], Any] = partial(
            cast("Callable[..., Any]", function), *positional, **named
        )
        patience = Patience(reactor, named.get("timeout"), self._patience)
        call = _BlockingCall(guard, make, sources, patience, self._read_ahead)
        result: T = call.run()
        return result


def _is_of_a_client(function: object) -> bool:
    """Whether it is a method of a generated client, or of a channel."""
    owner = getattr(function, "__self__", None)
    return hasattr(owner, "_channel") or hasattr(owner, "stream_unary")


def _in_thread(given: Any, reactor: ThreadedReactor, sources: list[ThreadedRequests]) -> Any:
    """What to give in place of an iterable of requests: what a thread asks for them."""
    if not gives_messages(given) or isinstance(given, AsyncIterable | list | tuple):
        return given  # pyright: ignore[reportUnknownVariableType]  # the caller's
    source = ThreadedRequests(given, reactor)
    sources.append(source)
    return source


class _BlockingCall:
    """One call: made in the reactor's thread, waited for in another."""

    def __init__(
        self,
        guard: Guard,
        # Any: the caller's signature typed the result.
        function: Callable[[], Any],
        sources: list[ThreadedRequests],
        patience: Patience,
        read_ahead: int,
    ) -> None:
        """
        :param sources: requests that are in an iterable of the thread's.
        :param read_ahead: items of a stream that are read before a thread asks for them.
        """
        self._guard = guard
        self._reactor = guard.reactor()
        self._function = function
        self._sources = sources
        self._patience = patience
        self._read_ahead = read_ahead
        self._context = contextvars.copy_context()
        # Held to start the call, or to abandon it: a call that was abandoned first is not made.
        self._lock = threading.Lock()
        self._started = self._abandoned = False
        # Set when the call was made, and when it has a result.
        self._made = threading.Event()
        self._done = threading.Event()
        self._deferred: Deferred[Any] | None = None
        self._result: Any = None
        self._stream: ThreadedStream[Any] | None = None
        self._error: BaseException | None = None

    # -- in the thread that waits ------------------------------------------------------------

    def run(self) -> Any:
        """Make the call and wait for it.

        :return: its result, or a stream that is open.
        """
        try:
            self._patience.ask(self._start)
            if self._sources:
                self._give_requests()
            self._wait(self._done)
        except BaseException:
            self._abandon()
            raise
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback refers to this frame, which refers to it
        return self._result

    def _give_requests(self) -> None:
        self._wait(self._made)
        if self._stream is not None:
            # This thread reads the responses meanwhile.
            for source in self._sources:
                work = partial(source.pump_in_own_thread, self._patience.wait)
                pump = partial(self._context.copy().run, work)
                threading.Thread(target=pump, name="requests", daemon=True).start()
        else:
            for source in self._sources:
                source.pump(self._patience.wait)

    def _wait(self, event: threading.Event) -> None:
        given_up = self._patience.wait(event.wait)
        if given_up is not None:
            started = self._abandon()
            raise given_up.error_with(
                "the call may have been executed" if started else "the call was not made"
            )

    def _abandon(self) -> bool:
        """Cancel the call, or prevent it from being made.

        :return: whether it was made.
        """
        with self._lock:
            self._abandoned = True
            started = self._started
        if started:
            self._reactor.callFromThread(self._cancel)
        return started

    # -- in the reactor's thread -------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._started = True
        try:
            result: Any = self._context.run(self._function)
            if isinstance(result, ResponseStream):
                # pyright does not know of what.
                stream: ResponseStream[Any] = result  # pyright: ignore[reportUnknownVariableType]
                self._stream = self._context.run(self._read, stream)
                self._succeed(self._stream)
                return
            if isinstance(result, CoroutineType):
                # pyright does not know what the coroutine awaits.
                result = self._context.run(Deferred.fromCoroutine, result)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            if not isinstance(result, Deferred):
                raise _check.wrong_type("what function returns", result, _RETURNED)
            self._deferred = result
            result.addCallbacks(self._succeed, self._fail)
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            self._end(error)
        self._made.set()

    def _read(self, stream: ResponseStream[Any]) -> ThreadedStream[Any]:
        return ThreadedStream.of(stream, self._guard, self._read_ahead, self._patience)

    def _cancel(self) -> None:
        if self._deferred is not None:
            self._deferred.cancel()
        elif self._stream is not None:
            self._stream.cancel()

    def _succeed(self, result: Any) -> None:
        self._result = result
        self._end(None)

    def _fail(self, failure: Failure) -> None:
        self._end(cast("BaseException", failure.value))  # pyright: ignore[reportUnknownMemberType]  # Twisted's

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._made.set()
        self._done.set()
        if self._stream is None:
            for source in self._sources:
                source.call_ended()
