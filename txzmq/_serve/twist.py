"""``twist txzmq`` and ``twistd txzmq``: services by their names, in Twisted's own programs.

The plugin is ``twisted/plugins/txzmq_plugin.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Unpack, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from txzmq._reactor import ThreadedReactor, default_reactor
from txzmq._serve.services import LoadError, find_services, load_options, said_by_options
from txzmq.auth import CurveKeyPair, CurveServerCredentials
from txzmq.rpc._net.secure_bind import InsecureBindError, check_endpoint
from txzmq.rpc.application import ServerOptions, ServerService
from txzmq.rpc.method import ServiceHandler

__all__ = ["Options", "makeService"]

_log = Logger()


class Options(UsageOptions):
    """The options of ``twist txzmq``; those that make no server are a ``UsageError``.

    :ivar service: what they ask for.
    """

    synopsis = "--listen ADDRESS [options] package.module:Service..."
    longdesc = (
        "Serves services: each is a subclass of a generated <Service>Base, an instance of one, or "
        "a function that returns one or several. txzmq.rpc.health:Health and "
        "txzmq.rpc.reflection:Reflection are such, too. Modules are looked for in the current "
        "folder first."
    )
    # Twisted's lists of names, short names, defaults and descriptions.
    optFlags = [["insecure", None, "Listen even where strangers can reach it, without keys."]]  # noqa: RUF012
    optParameters = [  # noqa: RUF012 - as above
        ["key", "k", None, "The file with the server's secret CURVE key, NAME.key_secret."],
        [
            "clients",
            "c",
            None,
            "The folder with the clients' public keys; SIGHUP reads it again.",
        ],
        ["publisher", None, None, "Where to publish streams (default: any free port)."],
        ["advertise", None, None, "The address that clients are told for it, where it is another."],
        ["grace", "g", "10", "Seconds that running calls have to end after SIGTERM."],
        ["options", "o", None, "package.module:name of further arguments of Server, in a mapping."],
    ]

    service: ServerService

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._addresses: list[str] = []
        self._names: tuple[str, ...] = ()

    def opt_listen(self, address: str) -> None:
        """An address to listen at, such as tcp://127.0.0.1:5000. May be given several times."""
        self._addresses.append(address)

    opt_l = opt_listen

    def parseArgs(self, *names: str) -> None:
        """Take the names of services."""
        self._names = names

    def postOptions(self) -> None:
        """Make the service; modules are imported here, so before ``twistd`` forks."""
        if not self._names:
            raise UsageError("no service was named; name one as package.module:Service")
        if not self._addresses:
            raise UsageError("no address was given; pass --listen tcp://127.0.0.1:5000, say")
        try:
            self.service = self._service()
        except (LoadError, OSError, TypeError, ValueError) as error:
            raise UsageError(str(error)) from error

    def _service(self) -> ServerService:
        # Any: values of options; the server looks at those of the user's module.
        given: dict[str, Any] = {}
        name = self._text("options")
        if name is not None:
            given.update(load_options(name))
        credentials = self._credentials()
        if credentials is not None:
            if "credentials" in given:
                raise UsageError(f"{name} has credentials, so pass neither --key nor --clients")
            given["credentials"] = credentials
        for option in ("publisher", "advertise"):
            if self._text(option) is not None:
                given[option] = self._text(option)
        given["insecure"] = bool(self._value("insecure"))
        service = _ReloadingService(
            find_services(self._names),
            self._addresses,
            grace=self._seconds("grace"),
            **cast("ServerOptions", given),
        )
        if not given["insecure"] and given.get("credentials") is None:
            self._check_addresses()
        return service

    def _check_addresses(self) -> None:
        """Find out now what the server would not listen at, not in a process of its own."""
        for address in self._addresses:
            try:
                check_endpoint(address)
            except InsecureBindError as error:
                raise UsageError(said_by_options(error, "--key and --clients")) from None
            except CannotListenError:
                pass  # it may be there when the service starts, which says so otherwise

    def _credentials(self) -> CurveServerCredentials | None:
        key, clients = self._text("key"), self._text("clients")
        if key is None and clients is None:
            return None
        if key is None or clients is None:
            raise UsageError("--key and --clients belong together: pass both")
        # twistd goes to another folder, and SIGHUP reads this one later.
        return CurveServerCredentials(CurveKeyPair.load(key), os.path.abspath(clients))

    # Any: Twisted's options are a dictionary without types.
    def _value(self, option: str) -> Any:
        values: dict[str, Any] = cast("dict[str, Any]", self)
        return values[option]

    def _text(self, option: str) -> str | None:
        return cast("str | None", self._value(option))

    def _seconds(self, option: str) -> float:
        text = self._value(option)
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"--{option} must be a number of seconds, not {text}") from None


class _ReloadingService(ServerService):
    """Reads the folder of clients' keys again at SIGHUP, while it runs."""

    def __init__(
        self,
        services: Callable[[], list[ServiceHandler]],
        addresses: list[str],
        *,
        grace: float,
        **options: Unpack[ServerOptions],
    ) -> None:
        super().__init__(services, addresses, grace=grace, **options)
        self._credentials = options.get("credentials")
        self._restore: Callable[[], object] = lambda: None

    def startService(self) -> None:
        """Start, and take the signal."""
        super().startService()
        if self._credentials is not None:
            before = signal.signal(signal.SIGHUP, self._hung_up)
            self._restore = lambda: signal.signal(signal.SIGHUP, before)

    def stopService(self) -> Deferred[None]:
        """Give the signal back, and stop."""
        restore, self._restore = self._restore, lambda: None
        restore()
        return super().stopService()

    def _hung_up(self, *_: object) -> None:
        cast("ThreadedReactor", default_reactor()).callFromThread(self._reload)

    def _reload(self) -> None:
        assert self._credentials is not None, "the signal is taken only with them"
        try:
            self._credentials.clients.reload()
        except (OSError, ValueError) as error:
            _log.error(
                "the clients' keys stay as they were, since they cannot be read: {error}",
                error=error,
            )
        else:
            _log.info(
                "the clients' keys were read again: there are {count}",
                count=len(self._credentials.clients),
            )


def makeService(options: Options) -> ServerService:
    """The service that the options ask for."""
    return options.service
