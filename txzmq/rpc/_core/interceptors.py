"""Chains interceptors in front of a call or a handler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, NamedTuple, TypeAlias

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from txzmq._task_deferred import TaskDeferred
from txzmq.rpc._core.coroutines import ending_error
from txzmq.rpc.context import Context
from txzmq.rpc.interceptors import (
    ClientInterceptor,
    ClientProceed,
    ServerInterceptor,
    UnaryResult,
)

__all__ = ["chain_client", "chain_server", "start"]

_Handler: TypeAlias = Callable[[Any, Context], Any]


def start(function: Callable[[Any, Any], Any], second: Any, first: Any) -> Deferred[Any]:
    """Call ``function(first, second)``: it may return a value, a Deferred or a coroutine, or raise.

    Raises nothing but ``KeyboardInterrupt``.
    """
    # Called once per interceptor and call. So it takes exactly the arguments of an interceptor; the
    # one that differs from call to call is the last, for functools.partial, which adds no frame;
    # and a Deferred, which most interceptors return, is looked for first. Deferred is an abstract
    # class, so that isinstance() is quick for itself only, and not for the one of calls.
    try:
        result = function(first, second)
        if type(result) is TaskDeferred or isinstance(result, Deferred):
            return result  # pyright: ignore[reportUnknownVariableType]  # a cast costs a call
        if isinstance(result, CoroutineType):
            # pyright does not know what it awaits.
            return Deferred.fromCoroutine(result)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it raises is the result of the call
        ending = ending_error(error, "a handler or interceptor")
        return fail(Failure() if ending is error else ending)  # type: ignore[no-untyped-call]  # Twisted's
    return succeed(result)


def chain_client(
    interceptors: Sequence[ClientInterceptor], proceed: ClientProceed
) -> ClientProceed:
    """Put interceptors in front of *proceed*, the first one outermost.

    With at least one interceptor, the function that is returned raises nothing but
    ``KeyboardInterrupt``.
    """
    for interceptor in reversed(interceptors):
        proceed = partial(start, interceptor, proceed)
    return proceed


def chain_server(
    interceptors: Sequence[ServerInterceptor],
    handler: _Handler,
    right: type[Any],
    check: Callable[[Any], Any],
    takes: type[Any],
    passed_on: Callable[[Any], Exception],
) -> _Handler:
    """Put interceptors in front of a handler, the first one outermost.

    The innermost one is given what the handler returned only if it may: what is wrong is the
    handler's fault then, and not an interceptor's.

    :param right: what the handler may return in any case.
    :param check: returns anything else that it may return, and raises otherwise.
    :param takes: what the handler takes.
    :param passed_on: the error for anything else that the innermost interceptor passes on.
    """
    checks = _Checks(handler, right, check, takes, passed_on)
    proceed: Callable[[Context, Any], Deferred[Any]] = partial(_start_checked, checks)
    for interceptor in reversed(interceptors):
        handler = _intercepted(interceptor, proceed)
        proceed = partial(start, handler)
    return handler


def _intercepted(
    interceptor: ServerInterceptor, proceed: Callable[[Context, Any], Deferred[Any]]
) -> _Handler:
    def intercepted(request: Any, context: Context) -> UnaryResult[Any]:
        return interceptor(request, context, partial(proceed, context))

    return intercepted


class _Checks(NamedTuple):
    """A handler, and what it may be given and return, as for :func:`chain_server`."""

    handler: _Handler
    right: type[Any]
    check: Callable[[Any], Any]
    takes: type[Any]
    passed_on: Callable[[Any], Exception]


def _start_checked(checks: _Checks, context: Context, request: Any) -> Deferred[Any]:
    """As :func:`start`, for a handler whose request and result are checked."""
    handler, right, check, takes, passed_on = checks
    if not isinstance(request, takes):
        return fail(passed_on(request))
    try:
        result = handler(request, context)
        if isinstance(result, right):
            return succeed(result)
        if isinstance(result, CoroutineType):
            # pyright does not know what it awaits.
            result = Deferred.fromCoroutine(result)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        elif not isinstance(result, Deferred):
            return succeed(check(result))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it raises is the result of the call
        ending = ending_error(error, "a handler")
        return fail(Failure() if ending is error else ending)  # type: ignore[no-untyped-call]  # Twisted's
    if not (result.called and isinstance(result.result, right)):
        result.addCallback(check)  # pyright: ignore[reportUnknownMemberType]  # a user's
    return result  # pyright: ignore[reportUnknownVariableType]  # a cast costs a call
