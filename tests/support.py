"""What tests of more than one folder share: fresh reactors, captured logs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.posixbase import PosixReactorBase
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

T = TypeVar("T")

_ROOT = Path(__file__).parents[1]
#: The modules of the command line.
_CLI = [
    ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (_ROOT / "txzmq/_cli").rglob("*.py")
]
#: What some modules need that may not be there: of protovalidate there is no wheel for PyPy.
_EXTRAS = {
    **dict.fromkeys(_CLI, "click"),
    **dict.fromkeys(
        [
            "txzmq.rpc.grpc",
            "txzmq.rpc.grpc_gateway",
            "txzmq.rpc._grpc.calls",
            "txzmq.rpc._grpc.heads",
            "txzmq.rpc._grpc.requests",
            "txzmq.rpc._grpc.response_stream",
            "txzmq.rpc._grpc.senders",
            "txzmq.rpc._grpc.statuses",
            "txzmq.rpc._grpc.transport",
        ],
        "grpc.aio",
    ),
    **dict.fromkeys(
        [
            "txzmq.rpc.http_gateway",
            "txzmq.rpc._http.calls",
            "txzmq.rpc._http.compression",
            "txzmq.rpc._http.errors",
            "txzmq.rpc._http.headers",
            "txzmq.rpc._http.requests",
            "txzmq.rpc._http.server",
        ],
        "connectrpc",
    ),
    "txzmq.rpc.otel": "opentelemetry.trace",
    **dict.fromkeys(
        [
            *("txzmq._serve.figures", "txzmq._serve.metrics"),
            *("txzmq.rpc._exposition", "txzmq.rpc.prometheus"),
        ],
        "prometheus_client",
    ),
    "txzmq.rpc.validation": "protovalidate",
    **dict.fromkeys(
        ["txzmq.rpc.tokens", "txzmq.rpc._tokens.jwks", "txzmq.rpc._tokens.keys"], "jwt"
    ),
}


def is_installed(module: str) -> bool:
    """Whether a module could be imported; it is not, but the packages that it is in are."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that it is in
        return False


#: Modules that cannot be imported here.
WITHOUT_EXTRA = {module for module, needed in _EXTRAS.items() if not is_installed(needed)}

#: What a test may wait for at most; a failing test ends by it, a passing one never comes near.
#: A process takes PyPy several times as long, until its compiler has seen the code often enough.
PATIENCE = 30.0 if sys.implementation.name == "cpython" else 150.0


def examples(number: int) -> int:
    """How many examples a property is tried with; many more where ``make test-long`` asks."""
    return number * int(os.environ.get("TXZMQ_TEST_EXAMPLES", "1"))


def _asyncio_reactor() -> PosixReactorBase:
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

    return AsyncioSelectorReactor(asyncio.new_event_loop())


def _uvloop_reactor() -> PosixReactorBase:
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

    uvloop: Any = importlib.import_module("uvloop")  # there are no types where it is not installed
    return AsyncioSelectorReactor(uvloop.new_event_loop())


def _reactor_class(module: str, name: str) -> Callable[[], PosixReactorBase]:
    # Imported when used: not every platform has every reactor.
    def build() -> PosixReactorBase:
        cls = getattr(importlib.import_module(f"twisted.internet.{module}"), name)
        return cast(PosixReactorBase, cls())

    return build


REACTORS: dict[str, Callable[[], PosixReactorBase]] = {
    "select": _reactor_class("selectreactor", "SelectReactor"),
    "poll": _reactor_class("pollreactor", "PollReactor"),
    "epoll": _reactor_class("epollreactor", "EPollReactor"),
    "asyncio": _asyncio_reactor,
}
if is_installed("uvloop"):  # there is none for PyPy and for Windows
    REACTORS["uvloop"] = _uvloop_reactor


class Loop:
    """A reactor of its own for one test."""

    def __init__(self, build: Callable[[], PosixReactorBase]) -> None:
        self.reactor: Any = build()  # Any: reactors are typed with zope interfaces
        self._builtin_readers: set[Any] = set(self.reactor.getReaders())

    def run(
        self, main: Callable[[], Coroutine[Deferred[Any], Any, T]], *, patience: float = PATIENCE
    ) -> T:
        """Run *main* in the reactor and return what it returns; once per Loop.

        :raises TimeoutError: if it takes longer than *patience*, in seconds.
        :raises AssertionError: if it leaves readers or delayed calls behind.
        """
        results: list[T | Failure] = []

        def start() -> None:
            deferred = ensureDeferred(main())
            deferred.addTimeout(patience, self.reactor)
            deferred.addBoth(results.append)
            deferred.addBoth(lambda _: self.reactor.callLater(0, self.reactor.stop))

        self.reactor.callWhenRunning(start)
        self.reactor.run(installSignalHandlers=False)
        left = [
            call
            for call in self.reactor.getDelayedCalls()
            # Twisted's asyncio reactor leaves a call of its own.
            if call.active() and not call.func.__module__.startswith("twisted.internet.")
        ]
        readers = set(self.reactor.getReaders()) - self._builtin_readers
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()
            raise AssertionError("unreachable")
        assert not left, f"left in the reactor: {left}"
        assert not readers, f"left in the reactor: {readers}"
        return result

    @contextmanager
    def in_thread(self) -> Generator[threading.Thread]:
        """Run the reactor in a thread of its own meanwhile; once per Loop, instead of run()."""
        running = threading.Event()
        self.reactor.callWhenRunning(running.set)
        thread = threading.Thread(
            target=self.reactor.run, kwargs={"installSignalHandlers": False}, name="reactor"
        )
        thread.start()
        try:
            assert running.wait(PATIENCE)
            yield thread
        finally:
            if self.reactor.running:
                self.reactor.callFromThread(self._stop)
            thread.join(PATIENCE)
        assert not thread.is_alive()

    def _stop(self) -> None:
        with suppress(ReactorNotRunning):  # the test has stopped it a moment ago
            self.reactor.stop()

    def sleep(self, seconds: float) -> Deferred[None]:
        """Fires after *seconds*; for what has no event to wait for."""
        deferred: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self.reactor.callLater(seconds, deferred.callback, None)
        return deferred

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds; the test's own time limit bounds it."""
        while not condition():
            await self.sleep(0.001)

    def close(self) -> None:
        """Give back the reactor's descriptors, which Twisted keeps for the process's life."""
        self.reactor.removeAll()
        for reader in self._builtin_readers:
            reader.connectionLost(None)
        for name in ("_poller", "_asyncioEventloop"):
            closable: Any = getattr(self.reactor, name, None)
            if hasattr(closable, "close"):
                closable.close()


@contextmanager
def fresh_loop(name: str) -> Generator[Loop]:
    """A :class:`Loop` on the reactor *name*, a key of :data:`REACTORS`."""
    loop = Loop(REACTORS[name])
    try:
        yield loop
    finally:
        loop.close()


class Logged(list[LogEvent]):
    """The log events of a test, as they come."""

    def failures(self) -> list[BaseException]:
        """The exceptions that were logged."""
        return [event["log_failure"].value for event in self if "log_failure" in event]

    def warnings(self) -> list[LogEvent]:
        """The events at level warn."""
        return [event for event in self if event["log_level"] is LogLevel.warn]


def error_of(failure: Failure) -> BaseException:
    """The exception of a failure; Twisted leaves its type open."""
    return cast(BaseException, failure.value)  # pyright: ignore[reportUnknownMemberType]  # Twisted's


@contextmanager
def captured_log() -> Generator[Logged]:
    """Collect what Twisted logs."""
    logged = Logged()
    observer = cast(ILogObserver, logged.append)  # pyright takes no function for a zope interface
    globalLogPublisher.addObserver(observer)
    try:
        yield logged
    finally:
        globalLogPublisher.removeObserver(observer)


async def gather(awaitables: list[Awaitable[T]]) -> list[T]:
    """Await all of them, in order."""
    return [await awaitable for awaitable in awaitables]
