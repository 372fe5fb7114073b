"""``txzmq proxy``: passes calls on to servers, or to workers that connect."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
from click.core import ParameterSource
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from txzmq import ZmqFactory
from txzmq._cli.passing import (
    channel_to,
    key_options,
    limit_options,
    metrics_place,
    say_if_alone,
    serve_metrics,
    sources_of,
    until_stopped,
)
from txzmq._cli.problems import FAILED, Problem
from txzmq._cli.runtime import Runtime
from txzmq._cli.session import (
    TypeSources,
    client_credentials,
    server_credentials,
    type_options,
)
from txzmq.auth import CurveServerCredentials
from txzmq.rpc import InsecureBindError
from txzmq.rpc.admin import Admin
from txzmq.rpc.channel import Channel
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.method_sources import MethodSource
from txzmq.rpc.metrics import Metrics
from txzmq.rpc.proxy import Proxy
from txzmq.rpc.relay import Relay, RelayHealth
from txzmq.rpc.server import Server
from txzmq.rpc.watching import ConnectivityState

__all__ = ["command"]

_log = Logger()

_EPILOG: Final = """
SIGTERM and Ctrl-C drain it; a second one ends it. SIGHUP has it read the clients' keys again.
"""
#: What a relay takes from each client, and a plain proxy from none.
_OF_RELAYS: Final = {
    "publisher": "--publisher",
    "server_key": "--server-key",
    "key": "--key",
    "metrics": "--metrics",
    "admin": "--admin",
}


@click.command("proxy", epilog=_EPILOG)
@click.option(
    "--listen",
    multiple=True,
    required=True,
    metavar="ADDRESS",
    help="Where clients connect, such as tcp://127.0.0.1:5000. May be given several times.",
)
@click.option(
    "--to",
    multiple=True,
    metavar="ENDPOINT",
    help="Servers to pass calls on to: tcp://10.0.0.7:5000-5003, dns:///host:5000. May be given "
    "several times.",
)
@click.option(
    "--workers",
    metavar="ADDRESS",
    help="Where workers connect, servers that connect to a proxy, in place of --to.",
)
@click.option(
    "--publisher",
    multiple=True,
    metavar="ADDRESS",
    help="Where streams are published, one for each --listen. At any free port by default.",
)
@click.option(
    "--keys",
    envvar="TXZMQ_SERVER_SECRET",
    metavar="FILE",
    help="The file with the proxy's secret CURVE key, NAME.key_secret.",
)
@click.option("--allow-group", is_flag=True, help="Take a file of --keys that its group can read.")
@click.option(
    "--clients", metavar="FOLDER", help="The folder with the clients' public keys, NAME.key."
)
@click.option(
    "--worker-keys", metavar="FOLDER", help="The folder with the workers' public keys, NAME.key."
)
@key_options("proxy")
@click.option("--insecure", is_flag=True, help="Listen without keys where strangers can connect.")
@type_options
@limit_options("proxy")
@click.option("--admin", is_flag=True, help="Add the Admin service, which peers and endpoints ask.")
@click.pass_obj
# Any: the runtime, and the options, of which there are many.
def command(runtime: Callable[[], Any], /, sources: TypeSources, **given: Any) -> int:
    """Pass calls on to servers, or to workers.

    With --to it is a relay, which knows calls: of all kinds, balanced over the servers. It learns
    which methods there are by their reflection, or by --protoset or --proto. With --workers it is
    ZeroMQ's plain proxy, which passes messages on: unary calls only.
    """
    options = _Options(**given)
    if bool(options.to) == (options.workers is not None):
        raise Problem(
            "pass either --to or --workers",
            "--to ENDPOINT is for servers that listen, --workers ADDRESS for those that connect",
        )
    credentials = _credentials(options, "--clients", options.clients)
    if options.to:
        return _relay(runtime, options, sources, credentials)
    return _plain(runtime, options, sources, credentials)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    listen: Sequence[str]
    to: tuple[str, ...]
    workers: str | None
    publisher: tuple[str, ...]
    keys: str | None
    allow_group: bool
    clients: str | None
    worker_keys: str | None
    server_key: tuple[str, ...]
    key: str | None
    insecure: bool
    max_msg_sz: int
    grace: float
    admin: bool
    metrics: str | None


def _credentials(
    options: _Options, option: str, folder: str | None
) -> CurveServerCredentials | None:
    """The proxy's key and the keys of those who may connect.

    :param option: which says who may connect.
    """
    if folder is None:
        if options.keys is not None and options.clients is None:
            raise Problem(
                "--keys needs --clients", "--clients FOLDER says which clients may connect"
            )
        return None
    if options.keys is None:
        raise Problem(f"{option} needs --keys", "the proxy's own key is --keys FILE")
    return server_credentials(options.keys, folder, allow_group=options.allow_group)


def _reloading(*credentials: CurveServerCredentials | None) -> Callable[[], None]:
    """Reads the clients' keys again, and logs what has come of it."""

    def reload() -> None:
        for each in filter(None, credentials):
            try:
                each.clients.reload()
            except (OSError, ValueError) as error:
                _log.error(
                    "the keys stay as they were, since they cannot be read: {why}", why=error
                )
            else:
                _log.info("the keys were read again")

    return reload


def _refused(error: Exception, address: str, option: str, missing: str) -> Problem:
    """Why it cannot listen at an address."""
    if isinstance(error, InsecureBindError):
        return Problem(
            f"strangers can reach {address}, and nothing asks them for keys",
            f"pass --keys FILE and {missing} FOLDER, or --insecure",
        )
    if isinstance(error, CannotListenError):
        return Problem(str(error), status=FAILED)
    said = re.sub(r"^(address|publisher|clients|workers)=", f"{option} ", str(error))
    return Problem(said)


# -- a relay --------------------------------------------------------------------------------------


def _relay(
    runtime: Callable[[], Any],
    options: _Options,
    sources: TypeSources,
    credentials: CurveServerCredentials | None,
) -> int:
    if options.worker_keys is not None:
        raise Problem("--worker-keys is for --workers", "--server-key has the keys of servers")
    if options.publisher and len(options.publisher) != len(options.listen):
        raise Problem(
            f"there are {len(options.publisher)} of --publisher, and {len(options.listen)} of "
            "--listen",
            "pass one for each, or none for any free port",
        )
    place = None if options.metrics is None else metrics_place(options.metrics)
    to_servers = client_credentials(options.key, options.server_key)
    methods_of = sources_of(sources)
    made: Runtime = runtime()
    metrics = Metrics(name="txzmq proxy")

    async def run() -> int:
        channel = channel_to(
            made,
            options.to,
            message_size=options.max_msg_sz,
            credentials=to_servers,
            metrics=metrics,
        )
        try:
            methods = methods_of(made, channel)
            server = _listening(made, options, credentials, channel, methods, metrics)
            try:
                port = None
                if place is not None:
                    port = serve_metrics(
                        made, metrics, place, lambda: channel.state is ConnectivityState.READY
                    )
            except Problem:
                await server.stop(0)
                raise
            try:
                say_if_alone(channel)
                await until_stopped(server, options.grace)
            finally:
                if port is not None:
                    await port.stopListening()
        finally:
            channel.close()
        return 0

    return made.serve(run, _reloading(credentials))


def _listening(
    runtime: Runtime,
    options: _Options,
    credentials: CurveServerCredentials | None,
    channel: Channel,
    methods: MethodSource,
    metrics: Metrics,
) -> Server:
    services: list[Any] = [RelayHealth(channel)]
    if options.admin:
        services.append(Admin(channels={"servers": channel}, metrics=metrics))
    server = Server(
        runtime.network,
        services,
        limits=ServerLimits(message_size=options.max_msg_sz),
        credentials=credentials,
        fallback=Relay(channel, methods).find,
        observer=metrics,
    )
    publishers: Sequence[str | None] = options.publisher or [None] * len(options.listen)
    for address, publisher in zip(options.listen, publishers, strict=True):
        try:
            server.listen(address, publisher=publisher, insecure=options.insecure)
        except (ValueError, CannotListenError) as error:
            server.stop(0)
            raise _refused(error, address, "--listen", "--clients") from None
    return server


# -- ZeroMQ's plain proxy -------------------------------------------------------------------------


def _plain(
    runtime: Callable[[], Any],
    options: _Options,
    sources: TypeSources,
    credentials: CurveServerCredentials | None,
) -> int:
    of_shell = ParameterSource.ENVIRONMENT
    source_of = click.get_current_context().get_parameter_source
    wrong = [
        flag
        for name, flag in _OF_RELAYS.items()
        if getattr(options, name) and source_of(name) is not of_shell
    ]
    if sources.are_files:
        wrong.append("--protoset" if sources.protoset else "--proto")
    if wrong:
        raise Problem(
            f"{wrong[0]} is for --to: a plain proxy knows messages, and no calls",
            "leave it out, or pass calls on to servers that listen",
        )
    if len(options.listen) > 1:
        raise Problem("--workers takes one --listen", "a plain proxy has one place for clients")
    assert options.workers is not None, "one of the two is given"
    (address,), workers = options.listen, options.workers
    of_workers = _credentials(options, "--worker-keys", options.worker_keys)
    made: Runtime = runtime()
    factory = made.network
    if not isinstance(factory, ZmqFactory):
        raise TypeError("a plain proxy needs ZeroMQ's sockets")

    async def run() -> int:
        try:
            proxy = Proxy(
                factory,
                address,
                workers,
                credentials=credentials,
                worker_credentials=of_workers,
                insecure=options.insecure,
                message_size=options.max_msg_sz,
            )
        except (ValueError, CannotListenError) as error:
            is_workers = str(error).startswith("workers=") or workers in str(error)
            option, missing = "--listen", "--clients"
            if is_workers:
                option, missing = "--workers", "--worker-keys"
            place = workers if is_workers else address
            raise _refused(error, place, option, missing) from None
        await until_stopped(proxy, options.grace)
        return 0

    return made.serve(run, _reloading(credentials, of_workers))
