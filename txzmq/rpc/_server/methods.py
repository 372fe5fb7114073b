"""The methods that a server has, by their paths."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from types import AsyncGeneratorType
from typing import Any, cast

from google.protobuf.message import Message

from txzmq import _check
from txzmq.rpc._core.handler_style import HandlerStyle
from txzmq.rpc._core.interceptors import chain_server
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc._server.shared import SharedRequest, is_shared, share
from txzmq.rpc._server.status import WrongResult, is_source, record_of
from txzmq.rpc.context import Context
from txzmq.rpc.interceptors import ServerInterceptor
from txzmq.rpc.method import Kind, Method, Service, ServiceHandler
from txzmq.rpc.records import CallEnd

__all__ = ["ServedMethod", "served_methods", "services_of"]


class ServedMethod:
    """A method that the server has, with its handler behind the interceptors."""

    __slots__ = (
        "_intercepted",
        "handler",
        "handler_name",
        "known",
        "method",
        "path",
        "request_streaming",
        "request_type",
        "response_streaming",
        "response_type",
        "unary",
    )

    # Any: a server has methods of any messages; the generated base class typed the handler.
    def __init__(
        self,
        method: Method[Any, Any],
        handler: Callable[[Any, Context], Any],
        handler_name: str,
        interceptors: Sequence[ServerInterceptor] = (),
        *,
        known: bool = True,
    ) -> None:
        """
        :param handler_name: what the log calls it: ``Greeter.say_hello``.
        :param known: whether it may be counted by its name.
        """
        self.known = known
        if not known:
            handler = _Unknown(method.kind, handler)
        self.method = method
        self.handler_name = handler_name
        self.path = method.path
        self.request_type: type[Message | RawMessage] = method.request_type
        self.response_type: type[Message | RawMessage] = method.response_type
        self.unary = method.kind is Kind.UNARY_UNARY
        self.request_streaming = method.kind.request_streaming
        self.response_streaming = method.kind.response_streaming
        self._intercepted = bool(interceptors)
        if is_shared(method):
            handler = share(method, handler)
        if interceptors:
            right: type[Any] = SharedRequest if is_shared(method) else method.response_type
            if self.response_streaming and not is_shared(method):
                right = AsyncGeneratorType
            takes: type[Any] = AsyncIterable if self.request_streaming else method.request_type
            handler = chain_server(
                interceptors, handler, right, self._checked, takes, self._passed_on
            )
        # Again, for interceptors, who come first; a run that calls share has a context of its own.
        self.handler = handler if known else _Unknown(method.kind, handler)

    def _checked(self, result: Any) -> Any:
        """What the handler returned, to interceptors.

        :raises WrongResult: if it may not return that.
        """
        if not self._may_be(result):
            raise self._wrong(result, by_interceptor=False)
        return result

    def _passed_on(self, request: object) -> WrongResult:
        """The error for what an interceptor gave the handler in place of a request."""
        return WrongResult.passed_on(request, self.request_type, streams=self.request_streaming)

    def wrong(self, result: object) -> WrongResult | None:
        """The error for what came out of handler and interceptors; None if it may be an answer."""
        if self._may_be(result):
            return None
        return self._wrong(result, by_interceptor=self._intercepted)

    def _wrong(self, result: object, *, by_interceptor: bool) -> WrongResult:
        return WrongResult.returned(
            result,
            SharedRequest if is_shared(self.method) else self.response_type,
            streams=self.response_streaming and not is_shared(self.method),
            by_interceptor=by_interceptor,
        )

    def _may_be(self, result: object) -> bool:
        if is_shared(self.method):
            return isinstance(result, SharedRequest)
        if self.response_streaming:
            return is_source(result)
        return isinstance(result, self.response_type)


class _Unknown:
    """The handler of a method that is not to be counted by its name.

    Observers have a record that says so from the beginning of the call. Where there is none,
    interceptors and handlers get such a one if they ask for the end of their call.
    """

    __slots__ = ("_handler", "_kind")

    # Any: as above.
    def __init__(self, kind: Kind, handler: Callable[[Any, Context], Any]) -> None:
        self._kind = kind
        self._handler = handler

    def __call__(self, request: Any, context: Context) -> Any:
        if context.end is None:
            context.watch_end(CallEnd(record=record_of(context, self._kind, known=False)))
        return self._handler(request, context)


def served_methods(
    services: Sequence[ServiceHandler],
    interceptors: Sequence[ServerInterceptor],
    style: HandlerStyle,
) -> dict[str, ServedMethod]:
    """The methods of all services by their paths, each handler behind the interceptors.

    :param style: how the handlers run; the interceptors do already.
    :raises ValueError: if two services have one path, or two methods of one object are at odds.
    :raises TypeError: if one is no service, or has no handler of two arguments for a method.
    """
    _check_services(services)
    found: dict[str, ServedMethod] = {}
    for service in services:
        for method in _methods_of(service):
            if method.path in found:
                raise ValueError(f"services: two services implement {method.path}")
            found[method.path] = _served(service, method, interceptors, style)
    return found


def _served(
    # Any: a server has methods of any messages.
    service: ServiceHandler,
    method: Method[Any, Any],
    interceptors: Sequence[ServerInterceptor],
    style: HandlerStyle,
) -> ServedMethod:
    name = f"{type(service).__qualname__}.{method.name}"
    missing = object()
    handler = getattr(service, method.name, missing)
    if not callable(handler):
        what = "" if handler is missing else f" but {_check.shown(handler)}"
        near = _check.near(method.name, (name for name in dir(service) if name[0] != "_"))
        raise TypeError(f"services: {name} is no method{what}, and {method.path} needs one{near}")
    if not _check.takes(handler, 2):
        raise TypeError(
            f"services: {name} must take a request and a context, and takes "
            f"{_check.signature_of(handler)}"
        )
    return ServedMethod(method, style.wrap(handler), name, interceptors)


def _check_services(services: object) -> None:
    """Each must be an instance of a generated base class, and all of them a sequence."""
    if hasattr(services, "__txzmq_service__") or isinstance(services, type):
        hint = "; put the instance in a list"
        raise _check.wrong_type("services", services, "a sequence of services", hint)
    if isinstance(services, str | bytes) or not isinstance(services, Sequence):
        raise _check.wrong_type("services", services, "a sequence of services")
    # The cast is for pyright, which knows a sequence of what as little as the caller may.
    for index, service in enumerate(cast("Sequence[object]", services)):
        name = f"services[{index}]"
        if isinstance(service, type):
            hint = f"; pass an instance, {service.__name__}()"
            raise _check.wrong_type(name, service, "a service", hint)
        if not hasattr(service, "__txzmq_service__"):
            hint = ", which is no subclass of a generated <Service>Base"
            raise _check.wrong_type(name, service, "a service", hint)


def services_of(service: ServiceHandler) -> dict[str, Service]:
    """All services that an object implements, of each base class that has one, by their names."""
    found = [vars(cls).get("__txzmq_service__") for cls in type(service).__mro__]
    served: dict[str, Service] = {}
    for one in found:
        if one is not None:
            served.setdefault(one.name, one)  # a subclass may describe a service anew
    if not served:  # it is the object that has one
        served[service.__txzmq_service__.name] = service.__txzmq_service__
    return served


def _methods_of(service: ServiceHandler) -> Iterator[Method[Any, Any]]:
    """The methods of all services that an object implements."""
    by_name: dict[str, Method[Any, Any]] = {}
    for described in services_of(service).values():
        for method in described.methods:
            other = by_name.setdefault(method.name, method)
            if not _alike(other, method):
                raise ValueError(
                    f"services: {type(service).__qualname__}.{method.name} is to serve both "
                    f"{other.path} and {method.path}, which take or return different messages: "
                    "make an object for each service"
                )
            yield method


def _alike(one: Method[Any, Any], other: Method[Any, Any]) -> bool:
    """Whether one handler can serve both."""
    return (one.request_type, one.response_type, one.kind) == (
        other.request_type,
        other.response_type,
        other.kind,
    )
