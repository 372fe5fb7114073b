"""Typed RPC for Twisted over ZeroMQ."""

from txzmq.rpc.client import Caller, MetadataInput, StreamInput
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
from txzmq.rpc.method import IdempotencyLevel, Kind, Method, Service
from txzmq.rpc.server import Context, StreamResult, UnaryResult
from txzmq.rpc.streams import RequestStream, ResponseStream

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Caller",
    "Cancelled",
    "Code",
    "Context",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "IdempotencyLevel",
    "Internal",
    "InvalidArgument",
    "Kind",
    "MetadataInput",
    "Method",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "RequestStream",
    "ResourceExhausted",
    "ResponseStream",
    "RpcError",
    "Service",
    "StreamInput",
    "StreamResult",
    "UnaryResult",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
]
