"""A connection to a server, as the options say; and the options, which all verbs share."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import click
from twisted.internet.defer import CancelledError, Deferred

from txzmq import _certificates
from txzmq._cli.headers import parse_headers
from txzmq._cli.problems import Problem
from txzmq._cli.runtime import Runtime
from txzmq._cli.types import FileTypes, ReflectedTypes, Types, compile_protos, read_sets
from txzmq.auth import CurveClientCredentials, CurveKeyPair, CurveServerCredentials
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.balancing import BalancingPolicy
from txzmq.rpc.channel import Channel
from txzmq.rpc.errors import DeadlineExceeded, Unavailable
from txzmq.rpc.limits import MESSAGE_SIZE
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.watching import ConnectivityState

__all__ = [
    "Session",
    "Target",
    "TypeSources",
    "client_credentials",
    "server_credentials",
    "target_options",
    "type_options",
]

#: Seconds that an answer may take which the tool asks for on its own.
_PATIENCE: Final = 30.0
#: What stands between two addresses, and not in the path of one.
_COMMA: Final = re.compile(r", *(?=[a-z][a-z+]*:)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the options say of the server, and of who calls it."""

    server_key: tuple[str, ...]
    key: str | None
    token: str | None
    insecure: bool
    header: tuple[str, ...]
    max_time: float | None
    connect_timeout: float
    wait_for_ready: bool
    max_msg_sz: int

    def metadata(self, more: tuple[str, ...] = ()) -> Metadata:
        """Of each call.

        :param more: further headers.
        """
        return parse_headers([*self.header, *more])

    def credentials(self) -> CurveClientCredentials | None:
        """The client's keys, and the server's.

        :raises Problem: if one is missing, or cannot be read.
        """
        return client_credentials(self.key, self.server_key)

    def call_credentials(self) -> BearerCredentials | None:
        """The token of each call, if there is one."""
        token = self.token
        if token is None:
            return None
        if token.startswith("@"):
            token = _read(lambda path: Path(path).read_text("utf-8"), token[1:]).strip()
        return BearerCredentials(lambda: token, insecure=self.insecure)


def client_credentials(
    key: str | None, server_keys: Sequence[str]
) -> CurveClientCredentials | None:
    """The keys of ``--key`` and ``--server-key``; None if there are none.

    :raises Problem: if one is missing, or cannot be read.
    """
    if not server_keys and key is None:
        return None
    if key is None:
        raise Problem(
            "--server-key needs the client's own key",
            "pass --key FILE; txzmq keys new makes one",
        )
    if not server_keys:
        raise Problem("--key needs the server's public key", "pass it by --server-key")
    keys = _read(CurveKeyPair.load, key)
    return CurveClientCredentials(keys, server_keys=map(_server_key, server_keys))


def server_credentials(keys: str, clients: str, *, allow_group: bool) -> CurveServerCredentials:
    """A server's key, and who may connect.

    :param keys: the file with the secret key.
    :param clients: the folder with the clients' public keys.
    :raises Problem: if one cannot be read.
    """
    own = _read(lambda path: CurveKeyPair.load(path, allow_group=allow_group), keys)
    made: CurveServerCredentials = _read(lambda path: CurveServerCredentials(own, path), clients)
    return made


def _read(read: Callable[[str], Any], path: str) -> Any:
    try:
        return read(path)
    except OSError as error:
        # One of our own, that everybody can read the file for instance, has no strerror.
        raise Problem(f"{path}: {error.strerror}" if error.strerror else str(error)) from None
    except ValueError as error:
        raise Problem(str(error)) from None


def _server_key(given: str) -> str:
    """A key, or that of a file."""
    try:
        return _certificates.check_key("--server-key", given)
    except ValueError:
        if not Path(given).is_file():
            raise Problem(
                f"--server-key: {given} is neither a public key nor a file with one",
                "a public key has 40 characters; txzmq keys public FILE prints it",
            ) from None
    public: str = _read(_certificates.read, given).public_key
    return public


def _positive(context: click.Context, parameter: click.Parameter, value: float | None) -> Any:
    if value is not None and not (0 < value < math.inf):
        raise click.BadParameter("it must be a number of seconds above 0")
    return value


_OPTIONS: Final = (
    click.option(
        "--server-key",
        multiple=True,
        envvar="TXZMQ_SERVER_KEY",
        metavar="KEY",
        help="The server's public CURVE key, or a file that has it. May be given several times.",
    ),
    click.option(
        "--key",
        envvar="TXZMQ_KEY",
        metavar="FILE",
        help="The file with the client's own secret CURVE key, NAME.key_secret.",
    ),
    click.option(
        "--token",
        envvar="TXZMQ_TOKEN",
        metavar="TOKEN",
        help="A bearer token for each call; @FILE reads it from a file.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        envvar="TXZMQ_INSECURE",
        help="Send the token also where nothing encrypts it.",
    ),
    click.option(
        "-H",
        "--header",
        multiple=True,
        metavar="'NAME: VALUE'",
        help="Metadata of each call; the value of a name that ends in -bin is base64.",
    ),
    click.option(
        "--max-time",
        type=float,
        callback=_positive,
        metavar="SECONDS",
        help="How long all of it may take; then the status is DEADLINE_EXCEEDED.",
    ),
    click.option(
        "--connect-timeout",
        type=float,
        callback=_positive,
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long connecting may take.",
    ),
    click.option(
        "--wait-for-ready",
        is_flag=True,
        help="Go on connecting for that long, where otherwise a server that is not there is an "
        "error at once.",
    ),
    click.option(
        "--max-msg-sz",
        type=click.IntRange(1, 2**31 - 1),
        default=MESSAGE_SIZE,
        show_default=True,
        metavar="BYTES",
        help="The size that a message may have.",
    ),
)

_TYPE_OPTIONS: Final = (
    click.option(
        "--protoset",
        multiple=True,
        metavar="FILE",
        help="A descriptor set to take the types from, instead of reflection.",
    ),
    click.option(
        "--proto",
        multiple=True,
        metavar="FILE",
        help="A .proto file to take the types from, instead of reflection.",
    ),
    click.option(
        "--import-path",
        multiple=True,
        metavar="FOLDER",
        help="Where --proto and its imports are looked for (default: here).",
    ),
    click.option(
        "--reflect-header",
        multiple=True,
        metavar="'NAME: VALUE'",
        help="Metadata of questions to the reflection service alone.",
    ),
)


# Any: click's commands take what their options say.
def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of :class:`Target`; it gets one as *target*."""
    return _with_options(command, _OPTIONS, "target", Target)


def type_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of :class:`TypeSources`; it gets one as *sources*."""
    return _with_options(command, _TYPE_OPTIONS, "sources", TypeSources)


def _with_options(
    command: Callable[..., Any], options: tuple[Any, ...], name: str, made: Any
) -> Callable[..., Any]:
    @functools.wraps(command)
    def call(*args: Any, **given: Any) -> Any:
        values = {field.name: given.pop(field.name) for field in fields(made)}
        return command(*args, **{name: made(**values)}, **given)

    for option in reversed(options):
        call = option(call)
    return call


class Session:
    """A channel to the server, whose time runs from the beginning."""

    def __init__(
        self,
        runtime: Runtime,
        endpoint: str,
        target: Target,
        *,
        policy: BalancingPolicy | None = None,
        liveness: Liveness | None = None,
    ) -> None:
        """
        :param endpoint: a channel's target, or several addresses with commas between.
        :param policy: as :class:`~txzmq.rpc.Channel` has it, and so *liveness*.
        :raises Problem: if an option is wrong.
        """
        self._clock = runtime.clock
        self._target = target
        self._endpoint = endpoint
        self._end = None if target.max_time is None else self._clock.seconds() + target.max_time
        try:
            self.channel = Channel(
                runtime.network,
                _addresses(endpoint),
                policy=policy,
                liveness=liveness,
                timeout=None,
                message_size=target.max_msg_sz,
                credentials=target.credentials(),
                call_credentials=target.call_credentials(),
            )
        except ValueError as error:
            raise _wrong_endpoint(error, endpoint) from None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def left(self, most: float | None = _PATIENCE) -> float | None:
        """Seconds that are left for a call.

        :param most: that it may have in any case; None for what ``--max-time`` says alone.
        """
        if self._end is None:
            return most
        left = self._end - self._clock.seconds()
        return left if most is None else min(left, most)

    async def connect(self) -> None:
        """Wait until calls can be made, or are known to fail.

        :raises Unavailable: if it takes too long; DeadlineExceeded if that is the time of all.
        """
        seconds = self.left(self._target.connect_timeout)
        assert seconds is not None
        changed: Deferred[Any] | None = None

        def too_late() -> None:
            if changed is not None:
                changed.cancel()

        timer = self._clock.callLater(max(0.0, seconds), too_late)
        try:
            while not self._is_decided():
                changed = self.channel.wait_for_state_change(self.channel.state)
                await changed
        except CancelledError:
            if timer.active():
                raise  # the command is cancelled
            raise self._not_connected(f" within {seconds:g} s") from None
        finally:
            if timer.active():
                timer.cancel()

    async def connect_well(self) -> None:
        """As :meth:`connect`, but it is an error if calls are known to fail.

        :raises Unavailable: if no server can be reached.
        """
        await self.connect()
        if self.channel.state is not ConnectivityState.READY:
            raise self._not_connected("")

    def _is_decided(self) -> bool:
        state = self.channel.state
        fails = state is ConnectivityState.TRANSIENT_FAILURE and not self._target.wait_for_ready
        return fails or state is ConnectivityState.READY

    def _not_connected(self, within: str) -> Exception:
        reasons = {each.reason for each in self.channel.endpoints if each.reason}
        why = f": {'; '.join(sorted(reasons))}" if reasons else ""
        said = f"no connection to {self._endpoint}{within}{why}"
        if self._end is not None and self._clock.seconds() >= self._end:
            return DeadlineExceeded(said)
        return Unavailable(said)


def _addresses(endpoint: str) -> str | list[str]:
    """One target, or several: a comma counts where another address begins."""
    found = _COMMA.split(endpoint)
    return found[0] if len(found) == 1 else found


def _wrong_endpoint(error: ValueError, endpoint: str) -> Problem:
    said = str(error)
    if said.startswith("call_credentials"):
        return Problem(
            f"the token would go to {endpoint} where nothing encrypts it",
            "pass --key and --server-key, or --insecure to send it all the same",
        )
    return Problem(said.replace("endpoint=", "", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeSources:
    """Where the options say that types come from."""

    protoset: tuple[str, ...]
    proto: tuple[str, ...]
    import_path: tuple[str, ...]
    reflect_header: tuple[str, ...]

    @property
    def are_files(self) -> bool:
        """Whether no server is asked."""
        return bool(self.protoset or self.proto)

    def metadata(self) -> Metadata:
        """Of questions to the reflection service."""
        return parse_headers(self.reflect_header)

    def from_files(self) -> Types:
        """The types of the files.

        :raises Problem: if one is wrong.
        """
        files = {file.name: file for file in read_sets(self.protoset)}
        if self.proto:
            compiled = compile_protos(self.proto, self.import_path)
            files.update((file.name, file) for file in compiled)
        return FileTypes([*files.values()])

    def of_server(self, session: Session, target: Target) -> Types:
        """The types that the server tells."""
        metadata = target.metadata(self.reflect_header)
        return ReflectedTypes(session.channel, metadata, session.left())
