"""The seam between the RPC layer and the network.

The protocols say what a network does and what it tells. :class:`ZmqNetwork` is the network of
ZeroMQ sockets. It is imported when it is first asked for, so that a network in memory
(``txzmq.testing``) loads no ZeroMQ.
"""

from typing import TYPE_CHECKING

from txzmq.rpc._core.transport import (
    ClientHandler,
    ClientTransport,
    Handler,
    Network,
    PeerConnection,
    PublisherHandler,
    PublisherTransport,
    SendResult,
    ServerHandler,
    ServerTransport,
    SubscriberConnection,
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
    "PeerConnection",
    "PublisherHandler",
    "PublisherTransport",
    "SendResult",
    "ServerHandler",
    "ServerTransport",
    "SubscriberConnection",
    "SubscriberHandler",
    "SubscriberTransport",
    "Transport",
    "WorkerHandler",
    "ZmqNetwork",
]
