"""Typed RPC for Twisted over ZeroMQ."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # By this name the annotations of generated code know it; not in __all__, since it is Twisted's.
    from twisted.internet.defer import Deferred as Deferred

    from txzmq.rpc._net.runtime import runtime_path
    from txzmq.rpc._net.secure_bind import InsecureBindError
    from txzmq.rpc.balancing import (
        BalancingPolicy,
        ConsistentHash,
        Endpoint,
        LeastLoaded,
        Picker,
        PickFirst,
        RoundRobin,
    )
    from txzmq.rpc.blocking import Blocking
    from txzmq.rpc.channel import Channel
    from txzmq.rpc.client import Caller, ResponseMetadata, StreamInput
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
    from txzmq.rpc.interceptors import (
        ClientCall,
        ClientInterceptor,
        ClientProceed,
        ServerInterceptor,
        ServerProceed,
        UnaryResult,
    )
    from txzmq.rpc.limits import ReplyCacheLimits, ServerLimits
    from txzmq.rpc.liveness import Liveness
    from txzmq.rpc.metadata import Metadata, MetadataInput
    from txzmq.rpc.method import IdempotencyLevel, Kind, Method, Service, ServiceHandler
    from txzmq.rpc.raw import MethodHandler, RawMessage, raw_method
    from txzmq.rpc.records import CallRecord, Side, StartedCall
    from txzmq.rpc.resolvers import (
        DnsClient,
        DnsResolver,
        ResolvedAddress,
        Resolver,
        ResolverListener,
        StaticResolver,
        resolver_for,
    )
    from txzmq.rpc.server import Server
    from txzmq.rpc.service_config import ServiceConfig, ServiceConfigError
    from txzmq.rpc.socket_options import SocketOptions
    from txzmq.rpc.streams import RequestStream, ResponseStream, StreamResult, StreamWriter
    from txzmq.rpc.watching import (
        Authentication,
        ChannelStats,
        ClientLoss,
        ConnectivityState,
        Count,
        Denial,
        EndpointChange,
        EndpointStatus,
        Observer,
        Observers,
        Refusal,
        ServerStats,
        Watched,
    )
else:
    from txzmq._lazy_exports import lazy_exports

    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "twisted.internet.defer": "Deferred",
            "txzmq.rpc._net.runtime": "runtime_path",
            "txzmq.rpc._net.secure_bind": "InsecureBindError",
            "txzmq.rpc.metadata": "Metadata MetadataInput",
            "txzmq.rpc.balancing": (
                "BalancingPolicy ConsistentHash Endpoint LeastLoaded Picker PickFirst RoundRobin"
            ),
            "txzmq.rpc.blocking": "Blocking",
            "txzmq.rpc.channel": "Channel",
            "txzmq.rpc.client": "Caller ResponseMetadata StreamInput",
            "txzmq.rpc.context": "Context current_context detached",
            "txzmq.rpc.errors": (
                "Aborted AlreadyExists Cancelled Code DataLoss DeadlineExceeded "
                "FailedPrecondition Internal InvalidArgument NotFound OutOfRange "
                "PermissionDenied ResourceExhausted RpcError Unauthenticated Unavailable "
                "Unimplemented Unknown"
            ),
            "txzmq.rpc.interceptors": (
                "ClientCall ClientInterceptor ClientProceed ServerInterceptor ServerProceed "
                "UnaryResult"
            ),
            "txzmq.rpc.limits": "ReplyCacheLimits ServerLimits",
            "txzmq.rpc.liveness": "Liveness",
            "txzmq.rpc.method": "IdempotencyLevel Kind Method Service ServiceHandler",
            "txzmq.rpc.raw": "MethodHandler RawMessage raw_method",
            "txzmq.rpc.records": "CallRecord Side StartedCall",
            "txzmq.rpc.resolvers": (
                "DnsClient DnsResolver ResolvedAddress Resolver ResolverListener "
                "StaticResolver resolver_for"
            ),
            "txzmq.rpc.server": "Server",
            "txzmq.rpc.service_config": "ServiceConfig ServiceConfigError",
            "txzmq.rpc.socket_options": "SocketOptions",
            "txzmq.rpc.streams": "RequestStream ResponseStream StreamResult StreamWriter",
            "txzmq.rpc.watching": (
                "Authentication ChannelStats ClientLoss ConnectivityState Count Denial "
                "EndpointChange EndpointStatus Observer Observers Refusal ServerStats Watched"
            ),
        },
    )

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Authentication",
    "BalancingPolicy",
    "Blocking",
    "CallRecord",
    "Caller",
    "Cancelled",
    "Channel",
    "ChannelStats",
    "ClientCall",
    "ClientInterceptor",
    "ClientLoss",
    "ClientProceed",
    "Code",
    "ConnectivityState",
    "ConsistentHash",
    "Context",
    "Count",
    "DataLoss",
    "DeadlineExceeded",
    "Denial",
    "DnsClient",
    "DnsResolver",
    "Endpoint",
    "EndpointChange",
    "EndpointStatus",
    "FailedPrecondition",
    "IdempotencyLevel",
    "InsecureBindError",
    "Internal",
    "InvalidArgument",
    "Kind",
    "LeastLoaded",
    "Liveness",
    "Metadata",
    "MetadataInput",
    "Method",
    "MethodHandler",
    "NotFound",
    "Observer",
    "Observers",
    "OutOfRange",
    "PermissionDenied",
    "PickFirst",
    "Picker",
    "RawMessage",
    "Refusal",
    "ReplyCacheLimits",
    "RequestStream",
    "ResolvedAddress",
    "Resolver",
    "ResolverListener",
    "ResourceExhausted",
    "ResponseMetadata",
    "ResponseStream",
    "RoundRobin",
    "RpcError",
    "Server",
    "ServerInterceptor",
    "ServerLimits",
    "ServerProceed",
    "ServerStats",
    "Service",
    "ServiceConfig",
    "ServiceConfigError",
    "ServiceHandler",
    "Side",
    "SocketOptions",
    "StartedCall",
    "StaticResolver",
    "StreamInput",
    "StreamResult",
    "StreamWriter",
    "UnaryResult",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "Watched",
    "current_context",
    "detached",
    "raw_method",
    "resolver_for",
    "runtime_path",
]
