"""``txzmq gateway``: takes calls of Connect's, gRPC's and HTTP's clients, and passes them on."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import click
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from txzmq._cli.passing import (
    Stoppable,
    channel_to,
    host_and_port,
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
from txzmq._cli.session import TypeSources, client_credentials, type_options
from txzmq.rpc import InsecureBindError
from txzmq.rpc.channel import Channel
from txzmq.rpc.method_sources import MethodSource
from txzmq.rpc.metrics import Metrics

__all__ = ["command"]

_log = Logger()

_EPILOG: Final = """
SIGTERM and Ctrl-C drain it; a second one ends it.
"""
#: What each way in needs; the extra has both.
_NEEDS: Final = {"--http": "connectrpc", "--grpc": "grpc"}
_EXTRA: Final = "pip install 'txzmq[gateway]'"


@click.command("gateway", epilog=_EPILOG)
@click.option(
    "--to",
    multiple=True,
    required=True,
    metavar="ENDPOINT",
    help="Servers to pass calls on to: tcp://10.0.0.7:5000-5003, dns:///host:5000. May be given "
    "several times.",
)
@click.option(
    "--http",
    multiple=True,
    metavar="HOST:PORT",
    help="Where to take calls of Connect, gRPC-Web and curl; :8080 is 127.0.0.1:8080. May be given "
    "several times.",
)
@click.option(
    "--grpc",
    multiple=True,
    metavar="HOST:PORT",
    help="Where to take calls of gRPC; may be given several times.",
)
@click.option("--tls-cert", metavar="FILE", help="The gateway's certificate, for TLS.")
@click.option("--tls-key", metavar="FILE", help="The secret key of the certificate.")
@click.option(
    "--tls-client-ca",
    metavar="FILE",
    help="Certificates of authorities; clients need a certificate of one of these.",
)
@click.option(
    "--cors-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Web pages that may call, such as https://app.example.com; * for all. May be given "
    "several times.",
)
@click.option(
    "--trusted-proxy",
    multiple=True,
    metavar="NETWORK",
    help="Proxies in front of the gateway whose word about who calls is believed, such as "
    "10.0.7.0/24. May be given several times.",
)
@key_options("gateway")
@click.option("--insecure", is_flag=True, help="Listen without TLS where strangers can connect.")
@type_options
@limit_options("gateway")
@click.pass_obj
# Any: the runtime, and the options, of which there are many.
def command(runtime: Callable[[], Any], /, sources: TypeSources, **given: Any) -> int:
    """Take calls of other protocols, and pass them on to servers.

    With --http it takes Connect, gRPC-Web and JSON by HTTP/1.1, as curl and web pages send it; with
    --grpc it takes gRPC. It learns which methods there are by the servers' reflection, or by
    --protoset or --proto.
    """
    options = _Options(**given)
    if not options.http and not options.grpc:
        raise Problem("there is nothing to listen at", "pass --http :8080, --grpc :50051, or both")
    for option, wanted in (("--http", options.http), ("--grpc", options.grpc)):
        package = _NEEDS[option]
        if wanted and importlib.util.find_spec(package) is None:
            raise Problem(f"{option} needs {package}", _EXTRA)
    if options.cors_origin and not options.http:
        raise Problem("--cors-origin is for --http", "browsers speak no gRPC")
    places = [("--http", each) for each in options.http]
    places += [("--grpc", each) for each in options.grpc]
    targets = [(option, _target(option, each)) for option, each in places]
    tls = _Tls.of(options)
    place = None if options.metrics is None else metrics_place(options.metrics)
    to_servers = client_credentials(options.key, options.server_key)
    methods_of = sources_of(sources)
    _install_reactor()
    made: Runtime = runtime()
    metrics = Metrics(name="txzmq gateway")

    async def run() -> int:
        channel = channel_to(
            made,
            options.to,
            message_size=options.max_msg_sz,
            credentials=to_servers,
            metrics=metrics,
        )
        try:
            gateways = _Gateways(made, options, channel, methods_of(made, channel), tls)
            try:
                for option, target in targets:
                    await gateways.listen(option, target)
                port = None
                if place is not None:
                    port = serve_metrics(made, metrics, place, lambda: gateways.is_ready)
            except (CancelledError, asyncio.CancelledError):
                await gateways.stop(0)  # a signal has come before it was there
                return 0
            except BaseException:
                await gateways.stop(0)
                raise
            try:
                say_if_alone(channel)
                await until_stopped(gateways, options.grace)
            finally:
                if port is not None:
                    await port.stopListening()
        finally:
            channel.close()
        return 0

    return made.serve(run, lambda: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    to: tuple[str, ...]
    http: tuple[str, ...]
    grpc: tuple[str, ...]
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    cors_origin: tuple[str, ...]
    trusted_proxy: tuple[str, ...]
    server_key: tuple[str, ...]
    key: str | None
    insecure: bool
    max_msg_sz: int
    grace: float
    metrics: str | None


def _target(option: str, given: str) -> str:
    host, port = host_and_port(option, given)
    return f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class _Tls:
    """The files of TLS, as both ways in want them."""

    http: ssl.SSLContext
    # Any: grpc.ServerCredentials; grpcio may not be installed.
    grpc: Any

    @classmethod
    def of(cls, options: _Options) -> _Tls | None:
        """:raises Problem: if one is missing, or cannot be read."""
        certificate, key, ca = options.tls_cert, options.tls_key, options.tls_client_ca
        if certificate is None or key is None:
            wrong = [
                name
                for name, value in (
                    ("--tls-cert", certificate),
                    ("--tls-key", key),
                    ("--tls-client-ca", ca),
                )
                if value is not None
            ]
            if wrong:
                raise Problem(
                    f"{wrong[0]} needs others", "TLS takes --tls-cert FILE and --tls-key FILE"
                )
            return None
        from txzmq.rpc._gateway.tls import server_tls

        try:
            context = server_tls(certificate, key, client_ca=ca)
            grpc = _grpc_credentials(certificate, key, ca) if options.grpc else None
        except OSError as error:
            raise Problem(f"{error.filename}: {error.strerror}") from None
        except ValueError as error:
            raise Problem(str(error)) from None
        return cls(context, grpc)


# Any: as above.
def _grpc_credentials(certificate: str, key: str, ca: str | None) -> Any:
    import grpc

    pair = (Path(key).read_bytes(), Path(certificate).read_bytes())
    roots = None if ca is None else Path(ca).read_bytes()
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=ca is not None)


def _install_reactor() -> None:
    """Have Twisted run on asyncio's loop, where nobody has chosen a reactor yet."""
    if "twisted.internet.reactor" not in sys.modules:
        from twisted.internet import asyncioreactor

        # Windows' own loop is a proactor's, which Twisted does not take.
        asyncioreactor.install(asyncio.SelectorEventLoop())  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]  # Twisted's


class _Ready(Protocol):
    @property
    def is_ready(self) -> bool: ...


class _Gateways:
    """What takes calls: by HTTP, by gRPC, or both."""

    def __init__(
        self,
        runtime: Runtime,
        options: _Options,
        channel: Channel,
        methods: MethodSource,
        tls: _Tls | None,
    ) -> None:
        """:raises Problem: if an option is wrong."""
        self._runtime = runtime
        self._options = options
        self._channel = channel
        self._methods = methods
        self._tls = tls
        self._made: dict[str, Any] = {}
        self._readiness: list[_Ready] = []
        self._listeners: list[Stoppable] = []

    @property
    def is_ready(self) -> bool:
        """Whether all can pass calls on."""
        return all(each.is_ready for each in self._readiness)

    async def listen(self, option: str, target: str) -> None:
        """Take calls at one more place.

        :raises Problem: if that is impossible.
        """
        try:
            gateway = self._made.get(option)
            if gateway is None:
                gateway = self._made[option] = getattr(self, f"_{option.strip('-')}")()
                self._readiness.append(gateway.readiness)
            tls = None if self._tls is None else getattr(self._tls, option.strip("-"))
            listener = await gateway.listen(
                target, tls, insecure=self._options.insecure, reactor=self._runtime.clock
            )
        except InsecureBindError:
            raise Problem(
                f"strangers can reach {target}, and nothing encrypts what they send",
                "pass --tls-cert FILE and --tls-key FILE, or --insecure",
            ) from None
        except CannotListenError as error:
            raise Problem(str(error), status=FAILED) from None
        except ValueError as error:
            raise Problem(_by_option(str(error), option)) from None
        self._listeners.append(listener)
        if option == "--http":
            _log.info("Connect, gRPC-Web and JSON are taken at {url}", url=listener.url)
        else:
            _log.info("gRPC is taken at {target}", target=listener.target)

    # Any: they have no common class.
    def _http(self) -> Any:
        from txzmq.rpc.http_gateway import Cors, HttpGateway

        origins = self._options.cors_origin
        return HttpGateway(
            self._channel,
            self._methods,
            message_size=self._options.max_msg_sz,
            cors=Cors(origins) if origins else None,
            trusted_proxies=self._options.trusted_proxy,
        )

    def _grpc(self) -> Any:
        from txzmq.rpc.grpc_gateway import GrpcGateway

        return GrpcGateway(
            self._channel,
            self._methods,
            message_size=self._options.max_msg_sz,
            trusted_proxies=self._options.trusted_proxy,
        )

    def stop(self, grace: float) -> Deferred[None]:
        """Stop all of them; whoever waits may be cancelled, and they go on stopping."""
        stopped: Deferred[None] = Deferred()
        stopping = [listener.stop(grace) for listener in self._listeners]

        def done(result: object) -> None:
            if stopped.called:
                return
            if isinstance(result, Failure):
                stopped.errback(result)
            else:
                stopped.callback(None)

        gatherResults(stopping, consumeErrors=True).addBoth(done)
        return stopped


def _by_option(said: str, option: str) -> str:
    """What is wrong, by the names of options."""
    for parameter, name in (
        ("target: ", f"{option} "),
        ("origins: ", "--cors-origin "),
        ("trusted_proxies: ", "--trusted-proxy "),
    ):
        if said.startswith(parameter):
            return f"{name}{said.removeprefix(parameter)}"
    return said
