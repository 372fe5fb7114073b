"""Calls for programs without Twisted: scripts, notebooks, Django, Flask.

::

    from txzmq.rpc.threads import blocking_channel

    with blocking_channel("tcp://127.0.0.1:5000") as channel:
        client = GreeterClient(channel)
        reply = channel(client.say_hello, HelloRequest(name="Ada"), timeout=1.5)
        for tick in channel(client.watch, WatchRequest()):
            print(tick.price)

Twisted's reactor runs in a thread of its own, which the first channel of a process starts.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Sequence
from types import CoroutineType, TracebackType
from typing import Any, Final, Self, TypeVar, cast

from google.protobuf.message import Message
from twisted.internet.defer import Deferred, succeed

from txzmq import _check
from txzmq._guard import Guard, refuse_to_block
from txzmq._reactor import new_reactor
from txzmq.factory import ZmqFactory
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc.blocking import Blocking
from txzmq.rpc.channel import Channel
from txzmq.rpc.client import StreamInput
from txzmq.rpc.metadata import MetadataInput
from txzmq.rpc.method import Method
from txzmq.rpc.streams import ResponseStream

__all__ = ["BlockingChannel", "blocking_channel"]

Req = TypeVar("Req", bound=Message | RawMessage)
Res = TypeVar("Res", bound=Message | RawMessage)
#: Seconds that the reactor has to start, and to end with the process.
_PATIENCE: Final = 10.0


def blocking_channel(
    target: str | Sequence[str] | Callable[[ZmqFactory], Channel],
    *,
    patience: float | None = None,
    read_ahead: int = 32,
) -> BlockingChannel:
    """A channel for threads, to close by ``with`` or :meth:`BlockingChannel.close`.

    :param target: where to call, as a :class:`~txzmq.rpc.Channel` has it; or a function of a
        factory that makes the channel, for its options: ``lambda factory: Channel(factory,
        "tcp://host:5000", timeout=5)``.
    :param patience: as of :class:`~txzmq.rpc.Blocking`, and *read_ahead*, too.
    :raises ValueError: for an address that is none, and so TypeError, as ``Channel`` does; and for
        a function that returns no channel, or one of another factory.
    """
    return BlockingChannel(target, patience=patience, read_ahead=read_ahead)


class _ReactorThread:
    """A reactor in a thread of its own, and the factory of all its channels.

    Not the process's reactor, which the application may run later, and which a forked child could
    not use.
    """

    def __init__(self) -> None:
        # Any: reactors are typed with zope interfaces.
        self.reactor: Any = new_reactor()
        self._running = threading.Event()
        self.factory = ZmqFactory(self.reactor)
        self.reactor.callWhenRunning(self._started)
        self._thread = threading.Thread(
            target=self.reactor.run,
            kwargs={"installSignalHandlers": False},
            name="txzmq reactor",
            daemon=True,
        )
        self._thread.start()
        try:
            if not self._running.wait(_PATIENCE):
                raise RuntimeError(f"the reactor's thread has not started within {_PATIENCE:g} s")
        except BaseException:  # Ctrl-C: nobody will know of the thread
            self.reactor.callFromThread(self._stop)
            raise

    def _started(self) -> None:
        self.factory.guard.own()
        self._running.set()

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it with the process."""
        self.reactor.callFromThread(self._stop)
        self._thread.join(_PATIENCE)

    def _stop(self) -> None:
        self.factory.shutdown()
        self.reactor.stop()


class _Process:
    """What this process has: the thread, once it is needed; a forked child begins anew."""

    def __init__(self, parent: _Process | None = None) -> None:
        # Its reactor must not become garbage here, since descriptors would be closed with it.
        self._parent = parent
        self._lock = threading.Lock()
        #: Held while a channel of the parent's is opened anew.
        self.opening = threading.Lock()
        self._thread: _ReactorThread | None = None

    def thread(self) -> _ReactorThread:
        """The thread with the reactor."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive:
                self._thread = _ReactorThread()
            return self._thread

    def end(self) -> None:
        """The process ends."""
        if self._thread is not None and self._thread.is_alive:
            self._thread.stop()


class _Processes:
    """This process, and what it was before it was forked."""

    def __init__(self) -> None:
        self.this = _Process()

    def forked(self) -> None:
        """This is a child."""
        self.this = _Process(self.this)

    def end(self) -> None:
        """This process ends."""
        self.this.end()


_processes = _Processes()
atexit.register(_processes.end)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_processes.forked)


class BlockingChannel(Blocking):
    """A :class:`~txzmq.rpc.Blocking` with a channel of its own, which clients take for one.

    ``GreeterClient(channel)`` makes a client, ``channel(client.say_hello, request)`` a call. Any
    number of threads may share it. A forked child opens a channel of its own with its first call,
    so a server that forks its workers, such as gunicorn, may make one before.
    """

    def __init__(
        self,
        target: str | Sequence[str] | Callable[[ZmqFactory], Channel],
        *,
        patience: float | None = None,
        read_ahead: int = 32,
    ) -> None:
        """As :func:`blocking_channel`."""
        self._make = target if callable(target) else _maker(target)
        self._is_closed = False
        process = _processes.this
        thread = process.thread()
        super().__init__(thread.factory, patience=patience, read_ahead=read_ahead)
        self._process = process
        self._channel_here = self._open(thread)

    def _open(self, thread: _ReactorThread) -> Channel:
        def made() -> Deferred[Channel]:
            return succeed(_checked(self._make(thread.factory), thread.factory))

        return Blocking(thread.factory)(made)

    def _ready(self) -> Guard:
        """The channel is open in this process, and this thread may wait.

        :raises RuntimeError: if it was closed.
        :raises WrongThreadError: in the thread in which the application runs Twisted's reactor.
        """
        refuse_to_block()
        if self._is_closed:
            raise RuntimeError("the channel was closed")
        process = _processes.this
        if self._process is not process:  # it is a forked child, whose first call this may be
            with process.opening:
                if self._process is not process:
                    thread = process.thread()
                    self._channel_here = self._open(thread)
                    self._guard = thread.factory.guard
                    self._process = process
        return self._guard

    def close(self) -> None:
        """End all calls with ``CancelledError``, and all connections; may be called again.

        In a forked child it closes what the child has opened.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._process is not _processes.this:
            return
        if self._guard.is_owner():
            self._channel_here.close()
        else:
            self._guard.reactor().callFromThread(self._channel_here.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_channel_here"):
            self.close()

    # -- what clients call, in the reactor's thread -------------------------------------------

    def unary_unary(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """As of a :class:`~txzmq.rpc.Channel`; for clients."""
        return self._channel_here.unary_unary(
            method, request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
        )

    def unary_stream(
        self,
        method: Method[Req, Res],
        request: Req,
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """As of a :class:`~txzmq.rpc.Channel`; for clients."""
        return self._channel_here.unary_stream(
            method, request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
        )

    def stream_unary(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> Deferred[Res]:
        """As of a :class:`~txzmq.rpc.Channel`; for clients."""
        return self._channel_here.stream_unary(
            method, requests, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
        )

    def stream_stream(
        self,
        method: Method[Req, Res],
        requests: StreamInput[Req],
        /,
        *,
        timeout: float | None = None,
        metadata: MetadataInput | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseStream[Res]:
        """As of a :class:`~txzmq.rpc.Channel`; for clients."""
        return self._channel_here.stream_stream(
            method, requests, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
        )


def _checked(made: object, factory: ZmqFactory) -> Channel:
    """What the user's function has made, if it is a channel of this factory."""
    if not isinstance(made, Channel):
        error = _check.wrong_type("what target returns", made, "a Channel")
        if isinstance(made, CoroutineType):
            made.close()  # or Python would warn besides that nobody awaited it
        raise error
    if made.guard is not factory.guard:
        raise ValueError("target must make the channel with the factory that it is given")
    return made


def _maker(target: object) -> Callable[[ZmqFactory], Channel]:
    # Channel says what is wrong with a target.
    return lambda factory: Channel(factory, cast("str", target))
