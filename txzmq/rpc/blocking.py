"""Calls from other threads than the reactor's, which wait for the response."""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._guard import Guard, Guarded, WrongThreadError
from txzmq._reactor import ThreadedReactor
from txzmq.rpc.errors import DeadlineExceeded, RpcError, Unavailable

__all__ = ["Blocking"]

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds after which a waiting thread checks again whether the reactor runs.
_POLL: Final = 0.1
#: Seconds after which a waiting thread checks again whether the reactor is blocked.
_ASK: Final = 1.0


class Blocking:
    """Makes calls in the reactor's thread for other threads, which wait for the response::

        blocking = Blocking(channel)
        reply = blocking(client.say_hello, HelloRequest(name="x"), timeout=1.5)

    Any number of threads may share one. The call is made in a copy of the calling thread's
    ``contextvars`` context.
    """

    def __init__(self, owner: Guarded, *, patience: float | None = None) -> None:
        """
        :param owner: the channel (of either kind) or factory in whose reactor the calls are made.
        :param patience: how many seconds to wait for a reactor that is blocked. For a call with a
            ``timeout`` they begin when that is over, for one without when the reactor last did
            anything. None for a second and a tenth of the timeout, and for 30 s without a timeout.
        :raises TypeError: for a value of a wrong type, or ValueError if *patience* is not above 0.
        """
        hint = "; a client is made with its channel" if hasattr(owner, "_channel") else ""
        guard = getattr(owner, "guard", None)
        if isinstance(owner, type) or not isinstance(guard, Guard):
            raise _check.wrong_type("owner", owner, "a Channel or ZmqFactory", hint)
        if patience is not None:
            _check.number("patience", patience, above=True)
        self._guard = guard
        self._patience = patience

    def __call__(
        self,
        function: Callable[P, Deferred[T] | Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call *function* in the reactor's thread, and wait for the result of its Deferred.

        The wait ends even if the reactor is blocked or stops. When it is interrupted (Ctrl-C), the
        call is cancelled.

        :param function: a method of a client; or any other function that returns a Deferred or a
            coroutine. If *kwargs* have a ``timeout``, it must be in seconds.
        :return: the response.
        :raises RpcError: the error of the call. Also DEADLINE_EXCEEDED if the reactor is blocked
            when the call's timeout is over, and UNAVAILABLE if the reactor does not run, stops
            meanwhile, or is blocked; then the message says whether the call may have been executed.
            Any other exception of *function* or its Deferred is raised, too.
        :raises TypeError: if *function* is none, as where a call is made already.
        :raises WrongThreadError: in the reactor's own thread, which would wait for itself.
        :raises ForkedError: in a forked child.
        """
        given: object = function  # untyped callers
        if not callable(given):
            hint = "; pass the method and its arguments, and do not call it yourself"
            raise _check.wrong_type("function", function, "a method of a client", hint)
        if self._guard.forked:
            self._guard.check()
        reactor = self._guard.reactor()
        if not reactor.running:
            raise Unavailable("the reactor does not run; the call was not made")
        if self._guard.is_owner():
            raise WrongThreadError(
                "the reactor's own thread would wait for itself for ever: await the call, or add "
                "callbacks to it"
            )
        timeout = kwargs.get("timeout")
        bound = timeout if isinstance(timeout, (int, float)) and timeout < math.inf else None
        call: _BlockingCall[T] = _BlockingCall(reactor, partial(function, *args, **kwargs))
        return call.run(bound, self._patience)


class _BlockingCall(Generic[T]):
    """One call: made in the reactor's thread, waited for in another."""

    def __init__(
        self, reactor: ThreadedReactor, function: Callable[[], Deferred[T] | Coroutine[Any, Any, T]]
    ) -> None:
        self._reactor = reactor
        self._function = function
        self._context = contextvars.copy_context()
        # Held to start the call, or to abandon it: a call that was abandoned first is not made.
        self._lock = threading.Lock()
        self._started = self._abandoned = False
        self._done = threading.Event()
        self._deferred: Deferred[T] | None = None
        self._results: list[T] = []
        self._error: BaseException | None = None
        # Whether the reactor has run a function since it was last asked to.
        self._answered = False

    # -- in the thread that waits ------------------------------------------------------------

    def run(self, timeout: float | None, patience: float | None) -> T:
        """Make the call and wait for it."""
        try:
            self._reactor.callFromThread(self._start)
            if timeout is not None:
                self._wait_until_late(timeout, 1 + timeout / 10 if patience is None else patience)
            else:
                self._wait_while_alive(30.0 if patience is None else patience)
        except BaseException:
            self._abandon()
            raise
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback refers to this frame, which refers to it
        return self._results[0]

    def _wait_until_late(self, timeout: float, patience: float) -> None:
        end = time.monotonic() + timeout + patience
        while not self._done.wait(max(0.0, min(_POLL, end - time.monotonic()))):
            self._require_running()
            if time.monotonic() >= end:
                self._give_up(
                    DeadlineExceeded,
                    f"the call's timeout of {timeout} s was over {patience} s ago, and the reactor "
                    "is blocked",
                )

    def _wait_while_alive(self, patience: float) -> None:
        # The reactor answers first by making the call, which it was asked for just now.
        asked = time.monotonic()
        while not self._done.wait(min(_POLL, patience / 4)):
            self._require_running()
            now = time.monotonic()
            if not self._answered:
                if now - asked > patience:
                    self._give_up(Unavailable, f"the reactor has been blocked for {patience} s")
            elif now - asked > _ASK:
                asked, self._answered = now, False
                self._reactor.callFromThread(self._answer)

    def _require_running(self) -> None:
        if not self._reactor.running:
            self._give_up(Unavailable, "the reactor has stopped")

    def _give_up(self, error: type[RpcError], reason: str) -> None:
        if self._done.is_set():
            return  # the result has come just now
        started = self._abandon()
        executed = "the call may have been executed" if started else "the call was not made"
        raise cast("Callable[[str], RpcError]", error)(f"{reason}; {executed}")

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
        self._answer()
        try:
            result: Any = self._context.run(self._function)
            if isinstance(result, CoroutineType):
                # pyright does not know what the coroutine awaits.
                result = self._context.run(Deferred.fromCoroutine, result)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            self._deferred = result
            result.addCallbacks(self._succeed, self._fail)
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            self._error = error
            self._done.set()

    def _answer(self) -> None:
        self._answered = True

    def _cancel(self) -> None:
        if self._deferred is not None:
            self._deferred.cancel()

    def _succeed(self, result: T) -> None:
        self._results.append(result)
        self._done.set()

    def _fail(self, failure: Failure) -> None:
        self._error = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        self._done.set()
