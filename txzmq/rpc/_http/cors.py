"""Cross-origin resource sharing: which web pages may call (https://fetch.spec.whatwg.org)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, cast

from txzmq import _check
from txzmq.rpc._http.asgi import Send, respond
from txzmq.rpc._http.content import Headers, header

__all__ = ["Cors"]

_ANY: Final = "*"
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+")
#: Names of headers, with commas between.
_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]*")
#: What any page may read of a response, whoever exposes it.
_SAFE: Final = frozenset(
    {b"cache-control", b"content-language", b"content-length", b"content-type", b"expires"}
    | {b"last-modified", b"pragma"}
)
#: Seconds for which a browser remembers an answer; Chromium's most.
_MAX_AGE: Final = 7_200


class Cors:
    """Which web pages of other origins may call by a browser.

    They may send any metadata, and read all metadata of responses.
    """

    def __init__(
        self, origins: Iterable[str], *, credentials: bool = False, max_age: int = _MAX_AGE
    ) -> None:
        """
        :param origins: such as ``https://app.example.com``, or ``*`` for all pages of the web.
        :param credentials: whether calls may have the cookies and certificates that the browser
            has for the gateway.
        :param max_age: seconds for which browsers may remember the answer.
        :raises ValueError: for what is no origin, or credentials of all pages, and so TypeError.
        """
        what = "a collection of origins, such as ['https://app.example.com']"
        if isinstance(origins, str | bytes) or not isinstance(origins, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise _check.wrong_type("origins", origins, what)
        given = tuple(cast("Iterable[Any]", origins))
        for origin in given:
            _check.text("origins", origin, "an origin, such as 'https://app.example.com'")
            if origin != _ANY and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"origins: {origin!r} is no origin: write scheme and host, in lower case and "
                    "without a path, such as 'https://app.example.com'"
                )
        _check.boolean("credentials", credentials)
        _check.integer("max_age", max_age)
        if credentials and _ANY in given:
            raise ValueError("credentials: calls of all pages of the web cannot have them")
        self._origins = frozenset(given)
        self._credentials = credentials
        self._max_age = max_age

    def _is_allowed(self, origin: str) -> bool:
        return origin in self._origins or _ANY in self._origins

    async def preflight(self, method: str, headers: Headers, send: Send) -> bool:
        """Answer a browser that asks whether a page may call.

        :return: whether it was such a question.
        """
        origin = header(headers, b"origin")
        if (
            method != "OPTIONS"
            or not origin
            or not header(headers, b"access-control-request-method")
        ):
            return False
        if not self._is_allowed(origin):
            await respond(send, 403, "the gateway takes no calls of this origin")
            return True
        names = header(headers, b"access-control-request-headers")
        answer = [
            *self._allowed(origin),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-max-age", str(self._max_age).encode()),
        ]
        if names and _NAMES.fullmatch(names):
            answer.append((b"access-control-allow-headers", names.encode()))
        await respond(send, 204, "", answer)
        return True

    def sender(self, headers: Headers, send: Send) -> Send:
        """What sends a response that a page may read.

        A cache learns that the origin makes a difference also where there is none, or it would give
        that response to pages.
        """
        origin = header(headers, b"origin")
        is_allowed = bool(origin) and self._is_allowed(origin)
        allowed = self._allowed(origin) if is_allowed else [(b"vary", b"origin")]

        async def send_allowed(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = sorted({key.lower() for key, _ in given} - _SAFE)
                given += allowed
                if is_allowed and names:
                    given.append((b"access-control-expose-headers", b", ".join(names)))
                message = {**message, "headers": given}
            await send(message)

        return send_allowed

    def _allowed(self, origin: str) -> list[tuple[bytes, bytes]]:
        allowed = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"vary", b"origin"),
        ]
        if self._credentials:
            allowed.append((b"access-control-allow-credentials", b"true"))
        return allowed
