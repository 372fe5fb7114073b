"""ZeroMQ sockets in the Twisted reactor, with the API of txZMQ."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from txzmq._guard import ForkedError, WrongThreadError
    from txzmq.connection import ZmqConnection, ZmqEndpoint, ZmqEndpointType
    from txzmq.factory import ZmqFactory
    from txzmq.monitor import SocketEvent, ZmqMonitor
    from txzmq.pubsub import (
        ZmqPubConnection,
        ZmqSubConnection,
        ZmqXPubConnection,
        ZmqXSubConnection,
    )
    from txzmq.pushpull import ZmqPullConnection, ZmqPushConnection
    from txzmq.req_rep import (
        RequestId,
        ZmqREPConnection,
        ZmqREQConnection,
        ZmqRequestTimeoutError,
    )
    from txzmq.router_dealer import ZmqBase, ZmqDealerConnection, ZmqRouterConnection
else:
    from txzmq._lazy_exports import lazy_exports

    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "txzmq._guard": "ForkedError WrongThreadError",
            "txzmq.connection": "ZmqConnection ZmqEndpoint ZmqEndpointType",
            "txzmq.factory": "ZmqFactory",
            "txzmq.monitor": "SocketEvent ZmqMonitor",
            "txzmq.pubsub": (
                "ZmqPubConnection ZmqSubConnection ZmqXPubConnection ZmqXSubConnection"
            ),
            "txzmq.pushpull": "ZmqPullConnection ZmqPushConnection",
            "txzmq.req_rep": "RequestId ZmqREPConnection ZmqREQConnection ZmqRequestTimeoutError",
            "txzmq.router_dealer": "ZmqBase ZmqDealerConnection ZmqRouterConnection",
        },
    )

#: The version of the distribution.
__version__ = "2.0.0rc1"

__all__ = [
    "ForkedError",
    "RequestId",
    "SocketEvent",
    "WrongThreadError",
    "ZmqBase",
    "ZmqConnection",
    "ZmqDealerConnection",
    "ZmqEndpoint",
    "ZmqEndpointType",
    "ZmqFactory",
    "ZmqMonitor",
    "ZmqPubConnection",
    "ZmqPullConnection",
    "ZmqPushConnection",
    "ZmqREPConnection",
    "ZmqREQConnection",
    "ZmqRequestTimeoutError",
    "ZmqRouterConnection",
    "ZmqSubConnection",
    "ZmqXPubConnection",
    "ZmqXSubConnection",
]
