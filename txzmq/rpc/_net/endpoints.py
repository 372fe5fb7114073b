"""What a channel is given as its servers: an address, several, a name, or a resolver."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from txzmq import _check
from txzmq.rpc._net.parsing import Use, parse_address
from txzmq.rpc._net.reading import printable
from txzmq.rpc._net.targets import is_dns, parse_dns_target

__all__ = ["checked_target", "static_addresses"]

_RIGHT: Final = Use.ENDPOINT.value
#: The methods of a resolver, and what they are called with.
_OF_A_RESOLVER: Final = {"start": ("clock", "listener"), "resolve_now": (), "close": ()}


def checked_target(given: Any, parameter: str) -> Any:
    """What was given, once it is known to be right. (Any: it is checked here.)

    :param given: a target of a channel.
    :param parameter: what the user has passed it as, for the errors.
    :return: it; of several addresses, all that ranges of ports stand for.
    :raises TypeError: if it is no target at all.
    :raises ValueError: if it is malformed.
    """
    if isinstance(given, str) and is_dns(given):
        parse_dns_target(given, parameter)
        return given
    if all(callable(getattr(given, name, None)) for name in _OF_A_RESOLVER):
        if isinstance(given, type):
            raise _check.wrong_type(
                parameter, given, "a resolver", f"; pass an instance, {given.__name__}(...)"
            )
        for name, parameters in _OF_A_RESOLVER.items():
            method = getattr(given, name)
            _check.function(f"{parameter}.{name}", method, parameters, awaited=False)
        return given
    return static_addresses(given, parameter)


def static_addresses(given: object, parameter: str) -> tuple[str, ...]:
    """One address or several, each once, with ranges of ports taken apart.

    :raises TypeError: if they are none, or one of them is no str.
    :raises ValueError: if there is none, or one is malformed, or a name to look up.
    """
    if isinstance(given, bytes | bytearray) or not isinstance(given, str | Iterable):
        raise _no_target(given, parameter)
    addresses = [given] if isinstance(given, str) else list(cast("Iterable[object]", given))
    if not addresses:
        raise ValueError(f"{parameter} is empty: a channel needs an endpoint. Use {_RIGHT}")
    found: dict[str, None] = {}
    for address in addresses:
        if isinstance(address, str) and is_dns(address):
            raise ValueError(
                f"{parameter}={printable(address)}: it is a DNS name, and cannot be one of several "
                f"addresses: a channel has either one DNS name or addresses. Use {_RIGHT}"
            )
        # A network that is not ZeroMQ's has its own schemes, and needs no ports.
        found.update(
            dict.fromkeys(parse_address(address, Use.ENDPOINT, parameter, foreign=True).each)
        )
    return tuple(found)


def _no_target(given: object, parameter: str) -> TypeError:
    hint = "; decode the bytes" if isinstance(given, bytes | bytearray) else ""
    return TypeError(
        f"{parameter} must be an address, several of them, or a resolver, not "
        f"{type(given).__name__} ({printable(given)}){hint}. Use {_RIGHT}"
    )
