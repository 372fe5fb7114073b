"""ZeroMQ sockets in the Twisted reactor, with the API of txZMQ."""

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
