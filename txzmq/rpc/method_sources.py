"""Which method is at a path: what relays and gateways have to know of calls that they pass on.

A request says the path of its method, and not whether requests or responses stream. Somebody else
has to: the servers themselves, by reflection, descriptors in files, or services that this process
has::

    methods = ReflectedMethods(channel)
    methods = DescribedMethods.from_file("orders.protoset")
    methods = ServedMethods([OrdersBase])

Each of these is a :class:`MethodSource`; :class:`txzmq.rpc.relay.Relay` and
:class:`txzmq.rpc.grpc_gateway.GrpcGateway` take one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from txzmq import _check
from txzmq.rpc._descriptors import (
    DescriptorError,
    NoReflection,
    Reflector,
    lookup,
    pool_of,
    to_method,
)
from txzmq.rpc.client import Caller
from txzmq.rpc.context import detached
from txzmq.rpc.errors import Code, Internal, RpcError, Unavailable, Unimplemented
from txzmq.rpc.health import Health
from txzmq.rpc.metadata import MetadataInput, normalise
from txzmq.rpc.method import Method, Service, ServiceHandler
from txzmq.rpc.reflection import Reflection

__all__ = [
    "LOCAL_SERVICES",
    "DescribedMethods",
    "FirstOf",
    "Found",
    "MethodSource",
    "ReflectedMethods",
    "ServedMethods",
    "standard_methods",
]

#: How paths begin that servers answer to callers on their own machine, as a relay or a gateway may
#: be: their callers are not, and are refused.
LOCAL_SERVICES: Final = "/txzmq.rpc.v1."

# Any: methods of any messages.
_Method: TypeAlias = Method[Any, Any]
#: What a source answers: the method, or None where there is none; at once, or by a Deferred.
Found: TypeAlias = _Method | Deferred[_Method | None] | None

#: Seconds that a question to a server may take: a fallback has ten.
_TIMEOUT: Final = 8.0
#: Seconds between two questions about the same that has not been found.
_INTERVAL: Final = 5.0
#: Seconds after which what was found is asked for again.
_MAX_AGE: Final = 60.0
#: Types for which servers are asked besides those of a service's methods.
_MOST_TYPES: Final = 256
#: Of an error of a question: the servers may answer it later.
_MAYBE_LATER: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})


class MethodSource(Protocol):
    """Knows which methods there are."""

    def find(self, path: str, /) -> Found:
        """The method at a path, ``/package.Service/Method``; None if there is none.

        :raises RpcError: if that cannot be found out; the call gets it as its answer. The Deferred
            may fail likewise.
        """
        ...


class ServedMethods:
    """The methods of services that this process knows by generated code."""

    def __init__(self, services: Iterable[Service | ServiceHandler | type[ServiceHandler]]) -> None:
        """
        :param services: such as ``[OrdersBase]``, or instances of its subclasses.
        :raises TypeError: if one is no service.
        """
        self._methods: dict[str, _Method] = {}
        for each in services:
            for service in _services_of(each):
                self._methods.update((method.path, method) for method in service.methods)

    def find(self, path: str, /) -> _Method | None:
        """See :class:`MethodSource`."""
        return self._methods.get(path)


class DescribedMethods:
    """The methods of a descriptor pool."""

    def __init__(self, pool: DescriptorPool) -> None:
        """
        :param pool: ``google.protobuf.descriptor_pool.Default()`` has the protos of all modules
            that the process has imported.
        """
        self._pool = pool
        # What has been found; no more than the pool has.
        self._methods: dict[str, _Method] = {}

    @classmethod
    def from_files(cls, files: Iterable[FileDescriptorProto]) -> DescribedMethods:
        """Of files, with all that they import.

        :raises ValueError: if one is missing that is imported, or they contradict each other.
        """
        return cls(pool_of(files))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> DescribedMethods:
        """Of a descriptor set, as ``protoc --include_imports --descriptor_set_out`` writes it.

        :raises OSError: if it cannot be read.
        :raises ValueError: if it is none, or lacks a file that is imported.
        """
        try:
            files = FileDescriptorSet.FromString(Path(path).read_bytes())
        except DecodeError:
            files = FileDescriptorSet()
        if not files.file:
            raise ValueError(f"{os.fspath(path)} is no descriptor set")
        return cls.from_files(files.file)

    def find(self, path: str, /) -> _Method | None:
        """See :class:`MethodSource`."""
        method = self._methods.get(path)
        if method is None:
            service, name = _parts(path)
            found = lookup(self._pool, service) if service else None
            described = getattr(found, "methods_by_name", {}).get(name)
            if described is not None:
                method = self._methods[path] = to_method(described, self._pool)
        return method


class FirstOf:
    """Several sources: a method is what the first one says that has it."""

    def __init__(self, *sources: MethodSource) -> None:
        self._sources = sources

    def find(self, path: str, /) -> Found:
        """See :class:`MethodSource`."""
        for place, source in enumerate(self._sources):
            found = source.find(path)
            if isinstance(found, Deferred):
                rest = FirstOf(*self._sources[place + 1 :])
                return Deferred.fromCoroutine(_first(found, rest, path))
            if found is not None:
                return found
        return None

    async def find_type(self, path: str, name: str, /) -> Any:
        """What the first source says that knows a type; see :class:`ReflectedMethods`."""
        for source in self._sources:
            find = getattr(source, "find_type", None)
            found = None if find is None else await find(path, name)
            if found is not None:
                return found
        return None


async def _first(found: Deferred[_Method | None], rest: FirstOf, path: str) -> _Method | None:
    method = await found
    if method is not None:
        return method
    later = rest.find(path)
    return await later if isinstance(later, Deferred) else later


def standard_methods() -> ServedMethods:
    """The methods of gRPC's health and reflection services, which few descriptor sets have."""
    return ServedMethods([Health, Reflection])


def _services_of(given: object) -> Iterable[Service]:
    """The services that a class serves, or an object; each base class may have one."""
    if isinstance(given, Service):
        return [given]
    cls = given if isinstance(given, type) else type(given)
    found = [vars(base).get("__txzmq_service__") for base in cls.__mro__]
    services = [each for each in found if isinstance(each, Service)]
    if not services:
        raise _check.wrong_type("services", given, "services, or classes that serve them")
    return reversed(services)  # a subclass may describe a service anew


class _Known:
    """What is known of a service.

    :ivar methods: by path.
    :ivar at: when a server was asked, in seconds.
    """

    __slots__ = ("_asked", "_asking", "_missing", "_reflector", "at", "methods")

    def __init__(self, methods: dict[str, _Method], at: float, reflector: Reflector) -> None:
        self.methods = methods
        self.at = at
        self._reflector = reflector
        # A reflector answers one question after the other.
        self._asking = DeferredLock()
        # Types that the servers do not tell, and how often they were asked.
        self._missing: set[str] = set()
        self._asked = 0

    async def find_type(self, name: str) -> Any:
        """A message, put into the pool of the service's; None if there is none."""
        await self._asking.acquire()
        try:
            found = lookup(self._reflector.pool, name)
            if found is not None or name in self._missing or self._asked >= _MOST_TYPES:
                return found
            self._asked += 1
            try:
                found = await self._reflector.find(name)
            except (RpcError, DescriptorError):
                found = None
            if found is None:
                self._missing.add(name)
            return found
        finally:
            self._asking.release()


class ReflectedMethods:
    """The methods that servers tell of by reflection, as they are now.

    A service is asked for when one of its methods is called for the first time; calls wait
    meanwhile. So a service that servers get later is found. One that is known is asked for again
    when a call is made after *max_age*, and at once (but not more often than each *interval*) for
    a method that it did not have.

    Whoever may call can name any number of paths. They lead to one question in each *interval*,
    which services there are; only those are asked for, and nothing is kept of others.

    All servers of the channel are taken to have the same services. Which of them is asked, the
    channel's balancing policy decides.
    """

    def __init__(
        self,
        channel: Caller,
        *,
        metadata: MetadataInput | None = None,
        timeout: float = _TIMEOUT,
        interval: float = _INTERVAL,
        max_age: float = _MAX_AGE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        :param channel: to the servers, which need :class:`txzmq.rpc.reflection.Reflection`.
        :param metadata: of each question.
        :param timeout: seconds that an answer may take, the wait for a server included. A server
            gives its fallback ten seconds for all.
        :param interval: seconds between two questions about what was not found.
        :param max_age: seconds after which a service is asked for again.
        :param now: the time in seconds; another one is for tests.
        :raises ValueError: for a value out of range, and so TypeError.
        """
        _check.number("timeout", timeout, above=True)
        _check.number("interval", interval)
        _check.number("max_age", max_age)
        _check.function("now", now, (), awaited=False)
        self._channel = channel
        self._metadata = normalise(metadata)
        self._timeout = timeout
        self._interval = interval
        self._max_age = max_age
        self._now = now
        # The services that there are, and when a server said so.
        self._names: frozenset[str] = frozenset()
        self._listed_at = -math.inf
        self._services: dict[str, _Known] = {}
        # Who waits for the answer to a question: by service, and by "" for which there are.
        self._waiting: dict[str, list[Deferred[None]]] = {}
        # Why servers do not tell, and when one said so: of a service, and of "" for all of them.
        self._refusals: dict[str, tuple[RpcError, float]] = {}

    def find(self, path: str, /) -> Found:
        """See :class:`MethodSource`.

        :raises Unimplemented: if the servers have no reflection.
        :raises Unavailable: if none has answered in time. What else a server answers, such as
            PERMISSION_DENIED, becomes INTERNAL: it is no fault of who calls.
        """
        service, _ = _parts(path)
        known = self._services.get(service)
        if known is not None:
            method = known.methods.get(path)
            if method is not None:
                if self._now() - known.at >= self._max_age and service not in self._waiting:
                    # Calls go on by what is known, also if this fails.
                    self._ask(service, self._describe(service)).addErrback(lambda _: None)
                return method
            if self._is_fresh(known.at):
                return None
        elif not service or (service not in self._names and self._is_fresh(self._listed_at)):
            return None
        return Deferred.fromCoroutine(self._learn(service, path))

    async def find_type(self, path: str, name: str, /) -> Any:
        """The descriptor of a message that is in a ``google.protobuf.Any`` of a method's messages.

        It is in the pool of these then. None if no server tells it. Who calls can name any number
        of types: servers are asked for 256 of each service in *max_age*.
        """
        known = self._services.get(_parts(path)[0])
        return None if known is None else await known.find_type(name)

    def _is_fresh(self, at: float) -> bool:
        return self._now() - at < self._interval

    async def _learn(self, service: str, path: str) -> _Method | None:
        if service not in self._names:
            if not self._is_fresh(self._listed_at):
                self._check_refusal("")
                await self._ask("", self._list())
            if service not in self._names:
                return None
        self._check_refusal(service)
        known = self._services.get(service)
        if known is None or not self._is_fresh(known.at):
            await self._ask(service, self._describe(service))
        known = self._services.get(service)
        return None if known is None else known.methods.get(path)

    def _check_refusal(self, what: str) -> None:
        """Ask no more about what servers have just refused to tell.

        :raises RpcError: if they have.
        """
        error, at = self._refusals.get(what, (None, -math.inf))
        if error is not None and self._is_fresh(at):
            raise _again(error)

    def _ask(self, what: str, question: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        """Ask, or wait for the answer to the same question; whoever waits may be cancelled."""
        waiter: Deferred[None] = Deferred()
        waiting = self._waiting.get(what)
        if waiting is not None:
            question.close()
            waiting.append(waiter)
            return waiter
        self._waiting[what] = [waiter]

        def answered(result: object) -> None:
            for each in self._waiting.pop(what):
                if each.called:
                    continue  # cancelled
                if isinstance(result, Failure):
                    each.errback(self._error_of(what, result))
                else:
                    each.callback(None)

        # It belongs to none of the calls that wait for it.
        with detached():
            Deferred.fromCoroutine(question).addBoth(answered)
        return waiter

    def _error_of(self, what: str, failure: Failure) -> BaseException:
        error = cast("BaseException", failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's
        if not isinstance(error, RpcError | DescriptorError):
            return error
        told = _told(error)
        if not isinstance(told, Unavailable):
            # It came at once, and would again.
            self._refusals[what] = told, self._now()
        return told

    def _reflector(self) -> Reflector:
        return Reflector(self._channel, self._metadata, self._timeout, wait_for_ready=True)

    async def _list(self) -> None:
        names = await self._reflector().services()
        self._names = frozenset(names)
        self._listed_at = self._now()
        # Of services that servers have no more, and of the list itself, nothing is kept.
        self._refusals = {
            name: each for name, each in self._refusals.items() if name in self._names
        }

    async def _describe(self, service: str) -> None:
        # Each time anew: a pool keeps the first version of a file.
        reflector = self._reflector()
        found = await reflector.find(service)
        methods: dict[str, _Method] = {}
        for described in getattr(found, "methods", ()):
            method = to_method(described, reflector.pool)
            methods[method.path] = method
        known = self._services.get(service)
        if not methods and known is not None:
            methods = known.methods  # calls of it are refused by the servers that lack it
        self._services[service] = _Known(methods, self._now(), reflector)
        self._refusals.pop(service, None)


def _parts(path: str) -> tuple[str, str]:
    """Service and method; both empty for what is no path."""
    service, slash, name = path.removeprefix("/").rpartition("/")
    return (service, name) if slash and path.startswith("/") else ("", "")


def _told(error: RpcError | DescriptorError) -> RpcError:
    """What callers are told of why nothing was learnt: an error of their own call."""
    if isinstance(error, NoReflection):
        return Unimplemented(
            "the servers behind do not tell which methods they have: they have no reflection "
            "service"
        )
    text = error.message if isinstance(error, RpcError) else str(error)
    said = f"the servers behind do not tell which methods they have: {text}"
    if isinstance(error, RpcError) and error.code in _MAYBE_LATER:
        return Unavailable(f"{said}; the call was not executed")
    return Internal(said)


def _again(error: RpcError) -> RpcError:
    return RpcError(error.code, error.message)
