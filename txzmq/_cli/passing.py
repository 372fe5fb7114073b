"""What verbs have in common that pass calls on to servers: ``proxy`` and ``gateway``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

import click
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from txzmq._cli.problems import FAILED, Problem
from txzmq._cli.quantities import seconds
from txzmq._cli.runtime import Runtime
from txzmq._cli.session import TypeSources
from txzmq.auth import CurveClientCredentials
from txzmq.rpc.channel import Channel
from txzmq.rpc.limits import MESSAGE_SIZE
from txzmq.rpc.method_sources import (
    DescribedMethods,
    FirstOf,
    MethodSource,
    ReflectedMethods,
    standard_methods,
)
from txzmq.rpc.metrics import Metrics
from txzmq.rpc.watching import ConnectivityState

__all__ = [
    "Stoppable",
    "channel_to",
    "host_and_port",
    "key_options",
    "limit_options",
    "metrics_place",
    "say_if_alone",
    "serve_metrics",
    "sources_of",
    "until_stopped",
]

# Any: what a verb takes.
_Command = TypeVar("_Command", bound=Callable[..., Any])

_log = Logger()
_HOST_AND_PORT: Final = re.compile(r"(?P<host>[^:\[\]]*|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
_LOCAL: Final = "127.0.0.1"


def key_options(who: str) -> Callable[[_Command], _Command]:
    """The options by which *who* is a client of the servers behind."""
    return _options(
        click.option(
            "--server-key",
            multiple=True,
            envvar="TXZMQ_SERVER_KEY",
            metavar="KEY",
            help="The public CURVE key of the servers of --to, or a file that has it. May be given "
            "several times.",
        ),
        click.option(
            "--key",
            envvar="TXZMQ_KEY",
            metavar="FILE",
            help=f"The file with the {who}'s secret CURVE key as a client of these servers.",
        ),
    )


def limit_options(who: str) -> Callable[[_Command], _Command]:
    """How large messages may be, how *who* ends, and where it shows what it does."""
    return _options(
        click.option(
            "--max-msg-sz",
            type=click.IntRange(1, 2**31 - 1),
            default=MESSAGE_SIZE,
            show_default=True,
            metavar="BYTES",
            help="The size that a message may have.",
        ),
        click.option(
            "--grace",
            default=10.0,
            show_default=True,
            callback=seconds,
            metavar="SECONDS",
            help=f"For running calls to end, when the {who} ends.",
        ),
        click.option(
            "--metrics",
            metavar="HOST:PORT",
            help="Where /metrics, /healthz and /readyz are served by HTTP; :9090 is "
            "127.0.0.1:9090.",
        ),
    )


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for option in reversed(options):  # click shows the one that is added last first
            command = option(command)
        return command

    return add


def host_and_port(option: str, given: str) -> tuple[str, int]:
    """Where to listen; without a host, on loopback.

    :raises Problem: if it is no place.
    """
    found = _HOST_AND_PORT.fullmatch(given)
    if found is None or int(found["port"]) > 65_535:
        raise Problem(f"{option} {given} is not HOST:PORT", "such as :9090 or 10.0.0.1:9090")
    return found["host"] or _LOCAL, int(found["port"])


class Stoppable(Protocol):
    """What takes calls until it is stopped."""

    def stop(self, grace: float) -> Deferred[None]:
        """Take no more, and wait for those that go on."""
        ...


async def until_stopped(served: Stoppable, grace: float) -> None:
    """Wait for a signal, then drain; at a second one, end."""
    with suppress(CancelledError):
        await Deferred[None]()
    try:
        await served.stop(grace)
    except CancelledError:
        await served.stop(0)


def channel_to(
    runtime: Runtime,
    to: Sequence[str],
    *,
    message_size: int,
    credentials: CurveClientCredentials | None,
    metrics: Metrics,
) -> Channel:
    """A channel to the servers of ``--to``.

    :raises Problem: if an address is none.
    """
    try:
        return Channel(
            runtime.network,
            to[0] if len(to) == 1 else list(to),
            timeout=None,
            wait_for_ready=True,
            message_size=message_size,
            credentials=credentials,
            observer=metrics,
        )
    except ValueError as error:
        raise Problem(re.sub(r"^endpoint=", "--to ", str(error))) from None


def sources_of(sources: TypeSources) -> Callable[[Runtime, Channel], MethodSource]:
    """What tells which methods the servers have: files, or themselves.

    :raises Problem: if a file cannot be read.
    """
    if sources.are_files:
        described = FirstOf(DescribedMethods(sources.from_files().pool), standard_methods())
        return lambda runtime, channel: described
    metadata = sources.metadata()
    return lambda runtime, channel: ReflectedMethods(
        channel, metadata=metadata, now=runtime.clock.seconds
    )


def say_if_alone(channel: Channel) -> None:
    """Say once that nobody is behind, if that is so; its own log says why."""

    def changed(state: ConnectivityState) -> None:
        if state is ConnectivityState.TRANSIENT_FAILURE:
            _log.warn("no server can be reached yet; calls wait for one, until their deadlines")
        elif state in (ConnectivityState.IDLE, ConnectivityState.CONNECTING):
            channel.wait_for_state_change(state).addCallback(changed)

    changed(channel.state)


def metrics_place(given: str) -> tuple[str, int]:
    """Where to serve metrics.

    :raises Problem: if it is no place, or they cannot be served.
    """
    place = host_and_port("--metrics", given)
    if importlib.util.find_spec("prometheus_client") is None:
        raise Problem("--metrics needs prometheus_client", "pip install 'txzmq[prometheus]'")
    return place


# Any: a port of Twisted's.
def serve_metrics(
    runtime: Runtime, metrics: Metrics, place: tuple[str, int], is_ready: Callable[[], bool]
) -> Any:
    """Serve the pages for Prometheus and for probes.

    :raises Problem: if nothing can listen there.
    """
    from txzmq.rpc.prometheus import listen

    host, port = place
    try:
        listening = listen(
            metrics,
            interface=host.strip("[]"),
            port=port,
            reactor=runtime.clock,
            is_ready=is_ready,
        )
    except CannotListenError as error:
        raise Problem(f"--metrics: {error}", status=FAILED) from None
    bound = listening.getHost()
    _log.info("metrics are at http://{host}:{port}/metrics", host=bound.host, port=bound.port)
    return listening
