"""The log of the supervisor and its workers: lines on standard error that say whose they are."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any, Final, cast

from twisted.logger import (
    FilteringLogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatTime,
    globalLogBeginner,
    jsonFileLogObserver,
)

__all__ = ["FORMATS", "LEVELS", "begin_logging"]

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warn", "error", "critical")
_STDERR: Final = 2
#: Where Twisted says that a reactor has ended.
_REACTOR: Final = "twisted.internet.base"


def begin_logging(
    who: str,
    *,
    format: str,
    level: str,
    fields: dict[str, object] | None = None,
    quiet: Iterable[str] = (),
) -> None:
    """Write all that Twisted logs to standard error from now on.

    :param who: whose the lines are.
    :param format: one of :data:`FORMATS`.
    :param level: the lowest of :data:`LEVELS` that is written.
    :param fields: what lines of JSON have besides.
    :param quiet: namespaces of which only warnings are written.
    """
    # Any: constantly's, which has no types.
    levels: Any = LogLevel
    lowest = levels.lookupByName(level)
    write = _json_line if format == "json" else _text_line
    own = {"who": who, "process": os.getpid(), **(fields or {})}

    def observe(event: LogEvent) -> None:
        line = write(event, own)
        try:
            # One call for each line: lines of several processes do not get into each other.
            os.write(_STDERR, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # nobody reads it any more, and there is nowhere else to say so

    predicate = LogLevelFilterPredicate(defaultLogLevel=lowest)
    for namespace in (_REACTOR, *quiet):
        predicate.setLogLevelForNamespace(namespace, max(lowest, LogLevel.warn))
    # The casts are for pyright, which takes no function for a zope interface.
    filtered = FilteringLogObserver(cast("Any", observe), [cast("Any", predicate)])
    globalLogBeginner.beginLoggingTo([cast("Any", filtered)], redirectStandardIO=False)


def _text_line(event: LogEvent, own: dict[str, object]) -> str:
    level: Any = event.get("log_level", LogLevel.info)
    name = "" if level is LogLevel.info else f" {level.name}:"
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    text = text.replace("\n", "\n\t")
    return f"{formatTime(event.get('log_time'))} [{own['who']} {own['process']}]{name} {text}\n"


def _json_line(event: LogEvent, own: dict[str, object]) -> str:
    buffer = io.StringIO()
    # Any: see above.
    observer: Any = jsonFileLogObserver(buffer, "")
    observer({**own, **event})
    return buffer.getvalue()
