"""Where messages travel: the seam between the RPC layer and the sockets.

The protocols say what a network offers and what it is told; :class:`ZmqNetwork` is the real one,
looked up when asked for, so that a network in memory (``txzmq.testing``) loads no ZeroMQ.
"""

from typing import TYPE_CHECKING

from txzmq.rpc._core.transport import (
    ClientHandler,
    ClientTransport,
    Handler,
    Network,
    PublisherHandler,
    PublisherTransport,
    SendResult,
    ServerHandler,
    ServerTransport,
    SubscriberHandler,
    SubscriberTransport,
    Transport,
    WorkerHandler,
)

if TYPE_CHECKING:
    from txzmq.rpc._net.zmq_network import ZmqNetwork
else:
    from txzmq._lazy_exports import lazy_exports

    __getattr__, __dir__ = lazy_exports(__name__, {"txzmq.rpc._net.zmq_network": "ZmqNetwork"})

__all__ = [
    "ClientHandler",
    "ClientTransport",
    "Handler",
    "Network",
    "PublisherHandler",
    "PublisherTransport",
    "SendResult",
    "ServerHandler",
    "ServerTransport",
    "SubscriberHandler",
    "SubscriberTransport",
    "Transport",
    "WorkerHandler",
    "ZmqNetwork",
]
