"""What callers of the sockets got wrong, said at the call, with the name of the parameter."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import zmq

__all__ = [
    "callable_or_raise",
    "endpoint_address",
    "refused_address",
    "refused_option",
    "require_open",
    "socket_option",
    "wrong_type",
]

_ADDRESSES = "tcp://host:port, ipc:///path, inproc://name"


# Any in these: callers without a type checker give anything.
def wrong_type(name: str, expected: str, value: Any) -> TypeError:
    """An argument has another type."""
    return TypeError(f"{name} must be {expected}, not {type(value).__name__}")


def require_open(closed: bool) -> None:
    """Raise if a factory was shut down.

    :raises zmq.ZMQError: with ETERM.
    """
    if closed:
        raise zmq.ZMQError(zmq.ETERM, "the ZmqFactory was shut down; make a new one")


def callable_or_raise(name: str, value: Any) -> None:
    """Raise unless *value* can be called."""
    if not callable(value):
        raise wrong_type(name, "a function", value)


def endpoint_address(endpoint: Any) -> str:
    """The address of an endpoint.

    :raises TypeError: if it is no endpoint, or its address no text.
    :raises ValueError: if the address has a zero byte, at which libzmq would end it.
    """
    if not (hasattr(endpoint, "type") and hasattr(endpoint, "address")):
        raise wrong_type("an endpoint", "a ZmqEndpoint, which has a type and an address", endpoint)
    address = endpoint.address
    if isinstance(address, bytes):
        address = address.decode()
    if not isinstance(address, str):
        raise wrong_type("the address of an endpoint", "str", address)
    if "\0" in address:
        raise ValueError(f"the address of an endpoint cannot have a zero byte: {address!r}")
    return address


def refused_address(error: zmq.ZMQError, address: str) -> zmq.ZMQError:
    """What to raise where libzmq refuses an address: the same, in words that help."""
    if error.errno not in (zmq.EINVAL, zmq.EPROTONOSUPPORT):
        return error
    return zmq.ZMQError(
        error.errno, f"{address!r} is no address that libzmq takes here: use {_ADDRESSES}"
    )


def refused_option(error: Exception, name: str, value: object) -> Exception:
    """What to raise where an option of a socket is refused: the same type, with its name."""
    text = f"{name} cannot be {value!r}"
    return zmq.ZMQError(error.errno, text) if isinstance(error, zmq.ZMQError) else TypeError(text)


def socket_option(name: str) -> int:
    """An option of libzmq, by its name.

    :raises ValueError: if there is none; the message has the nearest one.
    """
    known: Iterable[str] = zmq.SocketOption.__members__
    if name in known:
        return zmq.SocketOption[name]
    near = difflib.get_close_matches(str(name), list(known), n=1)
    raise ValueError(
        f"socketOptions names {name!r}, which is no option of libzmq"
        + (f"; did you mean {near[0]}?" if near else "")
    )
