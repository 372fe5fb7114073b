"""What users give a channel or server beside addresses: checked in one place for both."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import cast

from txzmq import _check
from txzmq._arguments import require_open
from txzmq.auth import Credentials
from txzmq.factory import ZmqFactory
from txzmq.rpc._core.transport import Network
from txzmq.rpc._net.zmq_network import ZmqNetwork
from txzmq.rpc.socket_options import SocketOptions
from txzmq.rpc.watching import Observer, Observers

__all__ = ["check_observer", "network_for"]

#: What a network has; a user's own may have nothing else in common.
_OF_A_NETWORK = ("clock", "guard", "random", "connect", "listen", "publish", "subscribe")


def network_for(
    factory: object, socket_options: object, credentials: object, kind: type[Credentials]
) -> Network:
    """The network of a channel or server.

    :param factory: what the user gave: a factory, or a network.
    :param kind: which credentials it takes.
    :raises TypeError: if it is neither, or the options or the credentials are none.
    :raises zmq.ZMQError: if the factory was shut down.
    """
    if socket_options is not None:
        _check.instance("socket_options", socket_options, SocketOptions, "a SocketOptions or None")
    if credentials is not None:
        _check.instance("credentials", credentials, kind, f"{kind.__name__} or None")
    if isinstance(factory, ZmqFactory):
        require_open(factory.closed)
        return ZmqNetwork(
            factory,
            cast("SocketOptions | None", socket_options),
            cast("Credentials | None", credentials),
        )
    if isinstance(factory, type) or not all(hasattr(factory, name) for name in _OF_A_NETWORK):
        hint = "; it comes first" if _is_second(factory) else ""
        _check.instance("factory", factory, ZmqFactory, "a ZmqFactory or a network", hint)
    if credentials is not None:
        raise ValueError("credentials are for the sockets of a ZmqFactory, not for another network")
    return cast("Network", factory)


def _is_second(given: object) -> bool:
    """Whether it is what comes behind the factory: an endpoint, or a service; one or several."""
    each = cast("Sequence[object]", given) if isinstance(given, list | tuple) else [given]
    return all(
        isinstance(one, str) or hasattr(one, "__txzmq_service__") or hasattr(one, "resolve_now")
        for one in each
    )


def check_observer(observer: object) -> None:
    """Check who is told of what happens.

    :raises TypeError: if it is no :class:`Observer`, or has a method that cannot be called so.
    """
    if observer is not None:
        _check.instance("observer", observer, Observer, "an Observer or None")
        if isinstance(observer, Observers):
            for each in observer.observers:
                check_observer(each)
        for name, method in vars(Observer).items():
            if inspect.isfunction(method):
                _, *parameters = inspect.signature(method).parameters
                own = getattr(observer, name)
                _check.function(f"observer.{name}", own, parameters, awaited=False)
