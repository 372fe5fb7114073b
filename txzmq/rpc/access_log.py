"""A line in the log for each call that has ended, on servers and on channels.

An :class:`AccessLog` is an :class:`~txzmq.rpc.Observer`::

    server = Server(factory, [Orders()], observer=AccessLog())

Each line is an event of ``twisted.logger`` with the fields of :data:`FIELDS`, which observers of
the log can filter and store, also as JSON (``twisted.logger.jsonFileLogObserver``). With ``json=``
each is a line of JSON in a file instead, with these names besides ``time`` and ``level``.
"""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, cast

from twisted.logger import Logger, LogLevel

from txzmq import _check
from txzmq._escape import escaped
from txzmq.rpc.errors import Code
from txzmq.rpc.metadata import key_takes_bytes
from txzmq.rpc.records import CallRecord
from txzmq.rpc.watching import Observer, Watched

__all__ = ["FIELDS", "SERVER_FAULTS", "AccessLog", "LineWriter"]

_log = Logger()

#: What each line has, by name.
FIELDS: Final[tuple[str, ...]] = (
    "side",
    "call_id",
    "method",
    "kind",
    "code",
    "message",
    "seconds",
    "peer",
    "identity",
    "requests",
    "responses",
    "request_bytes",
    "response_bytes",
    "attempts",
    "metadata",
    "sample",
)
#: Codes that say that something is wrong with a server, or between: their lines are warnings.
SERVER_FAULTS: Final = frozenset(
    {
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)
#: Seconds for which lines are counted together.
_MINUTE: Final = 60.0
#: Characters that are shown of a message or a value of metadata.
_MOST_TEXT: Final = 500
#: Metadata of which the log would give away what nobody else is to know.
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_PATH: Final = re.compile(r"/[^/*]+/([^/*]+|\*)")
# Any: constantly's, which has no types.
_INFO: Final[Any] = LogLevel.info
_WARN: Final[Any] = LogLevel.warn
_LINE: Final = "{side} {method} {code} {seconds:.6f} s{who}{why}{which}"
_LEFT_OUT: Final = "{left_out} calls were left out of the access log, over {per_minute} a minute"


class LineWriter(Protocol):
    """A text file, as far as an access log needs one."""

    def write(self, line: str, /) -> object:
        """Write a line, whose end is in it."""
        ...


class _Budget:
    """The lines of one level in a minute."""

    __slots__ = ("_began", "_left_out", "_limit", "_taken")

    def __init__(self, limit: int | None) -> None:
        """:param limit: lines in a minute; None for any number."""
        self._limit = limit
        # When the minute began, by the clock of the calls; none has begun.
        self._began = 0.0
        self._taken = 0
        self._left_out = 0

    def take(self, now: float) -> bool:
        """Whether there is a line left; if not, it is counted.

        :param now: by the clock of the calls, of which there may be several: it may go back.
        """
        if self._limit is None:
            return True
        if not self._taken or not self._began <= now < self._began + _MINUTE:
            self._began = now
            self._taken = 0
        if self._taken < self._limit:
            self._taken += 1
            return True
        self._left_out += 1
        return False

    def tell_left_out(self, tell: Callable[[int], None]) -> None:
        """Tell how many were left out since the last time, if any; again where that fails."""
        left_out, self._left_out = self._left_out, 0
        if left_out:
            try:
                tell(left_out)
            except BaseException:
                self._left_out += left_out
                raise


class AccessLog(Observer):
    """Logs each call that has ended, once, with how it did; one serves any number of sources.

    Lines are of level info, and of level warn for what is a server's fault
    (:data:`SERVER_FAULTS`), calls of methods that it does not have aside. Text of peers is escaped,
    and long text is cut. Metadata is not logged, but for what is named.
    """

    def __init__(
        self,
        *,
        per_minute: int | None = 6_000,
        sample: float = 1.0,
        exclude: Collection[str] = (),
        metadata: Sequence[str] = (),
        json: LineWriter | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        :param per_minute: lines of each of the two levels in a minute; None for any number. What is
            above is left out, and the next line that is written of the level, or the end of the
            channel or server, brings a line before it that says how many were.
        :param sample: which part of the calls that end with OK is logged, from 0 to 1. It is chosen
            by the call's id, so that the logs of clients and servers have the same calls; those
            that an interceptor of a client answers have none, and are counted off. A client chooses
            its ids: a sample is for figures, and no audit.
        :param exclude: methods of which calls that end with OK are not logged, such as
            ``/grpc.health.v1.Health/Check``, or ``/grpc.health.v1.Health/*`` for all of a service.
        :param metadata: keys of requests whose values are logged.
        :param json: a file opened for text, to which each line is written as JSON instead. It is
            flushed as it was opened: ``open(path, "a", buffering=1)`` for each line.
        :param now: the time of day, in seconds since 1970, for ``json``.
        :raises ValueError: for a value out of range, for what is no path or key, and for keys of
            metadata that bear secrets.
        :raises TypeError: for a value of a wrong type.
        """
        if per_minute is not None:
            _check.integer("per_minute", per_minute, 1)
        _check.number("sample", sample)
        if sample > 1:
            raise ValueError(f"sample must be from 0 to 1, and not {sample!r}")
        self._exclude = _texts("exclude", exclude)
        for path in self._exclude:
            if _PATH.fullmatch(path) is None:
                raise ValueError(
                    f"exclude: {path!r} is no path of a method: /package.Service/Method or "
                    "/package.Service/*"
                )
        self._metadata = tuple(key.lower() for key in _texts("metadata", metadata))
        for key in self._metadata:
            if key in _SECRET:
                raise ValueError(f"metadata: the log would show the secrets in {key!r}")
            key_takes_bytes(key)
        if json is not None:
            if not hasattr(json, "write"):
                raise _check.wrong_type("json", json, "a file that is open for text")
            _check.function("json.write", json.write, ("line",), awaited=False)
        _check.function("now", now, (), awaited=False)
        self._sample = sample
        # Lines that are due of those OK calls that have no id, in parts of one.
        self._owed = 0.0
        self._per_minute = per_minute
        self._json = json
        self._now = now
        self._calls = _Budget(per_minute)
        self._faults = _Budget(per_minute)

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        """Log a call, unless it is one of those that are not."""
        if record.code is Code.OK and not self._wants(record):
            return
        # Who calls what there is not can do so at any rate.
        is_fault = record.code in SERVER_FAULTS and record.known
        level, budget = _INFO, self._calls
        if is_fault:
            level, budget = _WARN, self._faults
        if not budget.take(record.began + record.seconds):
            return
        self._tell_left_out(level, budget)
        self._write(level, _LINE, self._fields(record))

    def stopped(self, source: Watched) -> None:
        """Say how many were left out, as no further line may come."""
        try:
            self._tell_left_out(_INFO, self._calls)
        finally:
            self._tell_left_out(_WARN, self._faults)

    def _wants(self, record: CallRecord) -> bool:
        """Whether a call is logged that has ended with OK."""
        if self._exclude:
            service = record.method.rpartition("/")[0]
            if record.method in self._exclude or f"{service}/*" in self._exclude:
                return False
        if self._sample >= 1:
            return True
        if record.request_id:
            return zlib.crc32(record.request_id) < self._sample * 2**32
        # An interceptor has answered it, and no server knows of it.
        self._owed += self._sample
        if self._owed < 1:
            return False
        self._owed -= 1
        return True

    def _tell_left_out(self, level: Any, budget: _Budget) -> None:
        def tell(left_out: int) -> None:
            fields = {"left_out": left_out, "per_minute": self._per_minute}
            self._write(level, _LEFT_OUT, fields)

        budget.tell_left_out(tell)

    def _fields(self, record: CallRecord) -> dict[str, Any]:
        """The fields of a line."""
        fields: dict[str, Any] = {
            "side": record.side.value,
            "call_id": record.request_id.hex(),
            "method": escaped(record.method),
            "kind": record.kind.name.lower(),
            "code": record.code.name,
            "message": _shown(record.message),
            "seconds": round(record.seconds, 6),
            "peer": _shown(record.peer),
            "identity": "" if record.identity is None else _shown(record.identity.name),
            "requests": record.requests,
            "responses": record.responses,
            "request_bytes": record.request_bytes,
            "response_bytes": record.response_bytes,
            "attempts": record.attempts,
        }
        if self._metadata:
            fields["metadata"] = self._named(record)
        if record.code is Code.OK and self._sample < 1:
            fields["sample"] = self._sample
        return fields

    def _named(self, record: CallRecord) -> dict[str, str]:
        """The metadata that is to be logged; several values of a key have commas between them."""
        found: dict[str, str] = {}
        for key, value in record.metadata:
            if key in self._metadata:
                text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
                found[key] = f"{found[key]},{text}" if key in found else text
        return {key: _shown(text) for key, text in found.items()}

    def _write(self, level: Any, line: str, fields: dict[str, Any]) -> None:
        if self._json is not None:
            when = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")
            event = {"time": when.replace("+00:00", "Z"), "level": level.name, **fields}
            self._json.write(json.dumps(event, separators=(",", ":")) + "\n")
            return
        if line is _LINE:
            who = fields["identity"] or fields["peer"]
            preposition = "of" if fields["side"] == "server" else "at"
            fields["who"] = f" {preposition} {who}" if who else ""
            fields["why"] = f": {fields['message']}" if fields["message"] else ""
            fields["which"] = f" ({fields['call_id']})" if fields["call_id"] else ""
        _log.emit(level, line, **fields)


def _shown(text: str) -> str:
    """Text of a peer, escaped, and cut where it is long."""
    if len(text) > _MOST_TEXT:
        return f"{escaped(text[:_MOST_TEXT])}..."
    return escaped(text)


def _texts(name: str, values: object) -> frozenset[str]:
    """Texts that a user gives."""
    if isinstance(values, str | bytes) or not isinstance(values, Collection):
        raise _check.wrong_type(name, values, "a collection of str")
    # The cast is for pyright, which knows a collection of what as little as the caller may.
    for value in cast("Collection[object]", values):
        _check.text(name, value)
    return frozenset(cast("Collection[str]", values))
