"""Cancels Deferreds of users."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

__all__ = ["cancel"]

_log = Logger()


def cancel(deferred: Deferred[Any], whose: str) -> None:
    """Cancel a Deferred; an exception of its canceller is logged, not raised.

    After such an exception the Deferred has not fired; it may fire later, or never.

    :param whose: for the log, as in "the handler of /service/Method".
    """
    try:
        deferred.cancel()
    except BaseException:  # noqa: BLE001 - whatever a canceller raises, other calls must go on
        _log.failure("{whose} could not be cancelled", whose=whose)
