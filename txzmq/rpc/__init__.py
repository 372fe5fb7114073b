"""Typed RPC for Twisted over ZeroMQ."""

from txzmq.rpc._open_door import InsecureBindError
from txzmq.rpc._wire.metadata import Metadata, MetadataInput
from txzmq.rpc.blocking import Blocking
from txzmq.rpc.channel import Channel, ConnectivityState
from txzmq.rpc.client import Caller, StreamInput
from txzmq.rpc.context import Context, current_context, detached
from txzmq.rpc.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    Code,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    RpcError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from txzmq.rpc.limits import ServerLimits
from txzmq.rpc.method import IdempotencyLevel, Kind, Method, Service
from txzmq.rpc.server import Server, ServiceHandler, StreamResult, UnaryResult
from txzmq.rpc.streams import RequestStream, ResponseStream

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Blocking",
    "Caller",
    "Cancelled",
    "Channel",
    "Code",
    "ConnectivityState",
    "Context",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "IdempotencyLevel",
    "InsecureBindError",
    "Internal",
    "InvalidArgument",
    "Kind",
    "Metadata",
    "MetadataInput",
    "Method",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "RequestStream",
    "ResourceExhausted",
    "ResponseStream",
    "RpcError",
    "Server",
    "ServerLimits",
    "Service",
    "ServiceHandler",
    "StreamInput",
    "StreamResult",
    "UnaryResult",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "current_context",
    "detached",
]
