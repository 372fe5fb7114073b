"""What users call, with arguments with which that is well; test_wrong_values.py changes them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import succeed

from tests.rpc.service import ADDRESS, ECHO, Echo, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT, StreamWorld
from txzmq.auth import CurveClientCredentials, CurveKeyPair, CurveServerCredentials, Identity
from txzmq.rpc import (
    Blocking,
    Channel,
    Code,
    ConnectivityState,
    ConsistentHash,
    Context,
    DnsResolver,
    LeastLoaded,
    Liveness,
    Method,
    MethodHandler,
    NotFound,
    Observer,
    Observers,
    PickFirst,
    RawMessage,
    ReplyCacheLimits,
    ResolvedAddress,
    RoundRobin,
    RpcError,
    Server,
    ServerLimits,
    Service,
    ServiceConfig,
    SocketOptions,
    StaticResolver,
    StreamWriter,
    raw_method,
    resolver_for,
    runtime_path,
)
from txzmq.rpc.application import ChannelService, ServerService
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.authorization import permissions
from txzmq.rpc.method import StreamOptions
from txzmq.rpc.service_config import HedgingPolicy, MethodConfig, RetryPolicy, RetryThrottling
from txzmq.testing import (
    FakeCaller,
    Faults,
    MemoryNetwork,
    Script,
    ServeBySockets,
    ServeInMemory,
    all_given_back,
    assert_all_given_back,
    call_context,
    calls,
    request_stream,
)


class Subject(NamedTuple):
    """Something that is called, and the arguments with which that is well."""

    #: Called anew for each try.
    build: Callable[[], Callable[..., Any]]
    #: By position.
    arguments: tuple[Any, ...] = ()
    #: By name.
    options: Mapping[str, Any] = {}
    #: Those by position have these names.
    names: tuple[str, ...] = ()
    #: Whose signature it has; None for its own.
    like: Callable[..., Any] | None = None

    def signature(self) -> tuple[Mapping[str, inspect.Parameter], dict[str, Any]]:
        """Its parameters, and their annotations."""
        called = self.build()
        function: Any = self.like or called
        hinted: Any = getattr(function, "__init__") if isinstance(function, type) else function  # noqa: B009  # mypy refuses the attribute
        if not inspect.isroutine(hinted):
            hinted = type(hinted).__call__
        parameters = dict(inspect.signature(hinted).parameters)
        for bound in ("self", "cls"):
            parameters.pop(bound, None)
        return parameters, typing.get_type_hints(hinted)


KEYS: Final = CurveKeyPair.generate()


def network() -> MemoryNetwork:
    return MemoryNetwork()


def channel(**options: Any) -> Channel:
    return Channel(network(), ADDRESS, **options)


def server() -> Server:
    return Server(network(), [Echo()])


def stream() -> Any:
    return StreamWorld().open(1)


def context() -> Context:
    return Context("/test.Echo/Echo", clock=network().clock)


def go_on(call: Any, proceed: Any) -> Any:
    return proceed(call)


#: Each call gets its timeout from this, and more.
CONFIG: Final[dict[str, Any]] = {
    "methodConfig": [{"name": [{}], "timeout": "5s", "waitForReady": True}]
}


class Producer:
    """An IPushProducer."""

    def resumeProducing(self) -> None: ...

    def pauseProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


def client_call() -> Any:
    seen: list[Any] = []

    def see(call: Any, proceed: Any) -> Any:
        seen.append(call)
        return proceed(call)

    Channel(network(), ADDRESS, interceptors=[see]).unary_unary(ECHO, text("x")).addErrback(str)
    return seen[0]


def fake() -> Any:
    """What stands for a generated fake client."""
    return SimpleNamespace(_channel=FakeCaller({}))


def always(value: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    return lambda: value


RETRY: Final = {
    "max_attempts": 2,
    "initial_backoff": 1.0,
    "max_backoff": 1.0,
    "backoff_multiplier": 1.0,
    "retryable_status_codes": frozenset({Code.UNAVAILABLE}),
}

#: What makes calls: a timeout that is already over is one, and requests are tried by themselves.
CALLS: Final[dict[str, Subject]] = {
    "Channel.unary_unary": Subject(
        lambda: channel().unary_unary, (ECHO, text("x")), names=("method", "request")
    ),
    "Channel.unary_stream": Subject(
        lambda: channel().unary_stream, (COUNT, text("x")), names=("method", "request")
    ),
    "Channel.stream_unary": Subject(
        lambda: channel().stream_unary, (COLLECT, [text("x")]), names=("method", "requests")
    ),
    "Channel.stream_stream": Subject(
        lambda: channel().stream_stream, (CHAT, [text("x")]), names=("method", "requests")
    ),
    "Channel.unary_unary, intercepted": Subject(
        lambda: channel(interceptors=[go_on]).unary_unary,
        (ECHO, text("x")),
        names=("method", "request"),
    ),
    "FakeCaller.unary_unary": Subject(
        lambda: FakeCaller({}).unary_unary, (ECHO, text("x")), names=("method", "request")
    ),
    "Channel.stream_stream, configured": Subject(
        lambda: channel(service_config=CONFIG).stream_stream,
        (CHAT, [text("x")]),
        names=("method", "requests"),
    ),
}

SUBJECTS: Final[dict[str, Subject]] = {
    "BearerCredentials": Subject(
        always(BearerCredentials), options={"get_token": lambda: "a.token"}
    ),
    "Blocking": Subject(always(Blocking), (channel(),), names=("owner",)),
    "Blocking()": Subject(lambda: Blocking(channel()), (len,), names=("function",)),
    "ChannelService": Subject(always(ChannelService), options={"target": ADDRESS}),
    "Channel": Subject(always(Channel), options={"factory": network(), "endpoint": ADDRESS}),
    **CALLS,
    "Channel.wait_for_state_change": Subject(
        lambda: channel().wait_for_state_change, options={"last": ConnectivityState.READY}
    ),
    "ClientCall.replace": Subject(lambda: client_call().replace),
    "CurveClientCredentials": Subject(
        always(CurveClientCredentials), options={"keys": KEYS, "server_keys": [KEYS.public_key]}
    ),
    "CurveServerCredentials": Subject(
        always(CurveServerCredentials), options={"keys": KEYS, "clients": {}}
    ),
    "ConsistentHash": Subject(always(ConsistentHash), options={"key": "tenant"}),
    "Context.send_initial_metadata": Subject(
        lambda: context().send_initial_metadata, options={"metadata": ()}
    ),
    "Context.set_trailing_metadata": Subject(
        lambda: context().set_trailing_metadata, options={"metadata": ()}
    ),
    "DnsResolver": Subject(always(DnsResolver), options={"target": "dns:///host:1"}),
    "FakeCaller": Subject(always(FakeCaller), ({},), names=("answers",)),
    "Faults": Subject(always(Faults)),
    "HedgingPolicy": Subject(always(HedgingPolicy), options={"max_attempts": 2}),
    "Identity": Subject(always(Identity), options={"name": "alice"}),
    "LeastLoaded": Subject(always(LeastLoaded)),
    "Liveness": Subject(always(Liveness)),
    "MemoryNetwork": Subject(always(MemoryNetwork)),
    "MemoryNetwork.advance": Subject(lambda: network().advance, options={"seconds": 1}),
    "MemoryNetwork.cut": Subject(lambda: network().cut, options={"address": ADDRESS}),
    "MemoryNetwork.unsubscribe_as_stranger": Subject(
        lambda: network().unsubscribe_as_stranger, options={"address": ADDRESS, "tag": b"x"}
    ),
    "MemoryNetwork.result": Subject(lambda: network().result, options={"awaitable": succeed(None)}),
    "Method": Subject(
        always(Method),
        options={
            "path": "/a.B/C",
            "name": "c",
            "request_type": StringValue,
            "response_type": StringValue,
        },
    ),
    "MethodConfig": Subject(always(MethodConfig)),
    "MethodHandler": Subject(
        always(MethodHandler),
        options={"method": raw_method("/a.B/C"), "handler": Echo().echo},
    ),
    "NotFound": Subject(always(NotFound), options={"message": "x"}),
    "Observers": Subject(always(Observers), (Observer(),), names=("observers",)),
    "PickFirst": Subject(always(PickFirst)),
    "RawMessage": Subject(always(RawMessage), like=RawMessage.__new__),
    "RawMessage.FromString": Subject(always(RawMessage.FromString), options={"data": b""}),
    "ReplyCacheLimits": Subject(always(ReplyCacheLimits)),
    "ResolvedAddress": Subject(
        always(ResolvedAddress), options={"address": ADDRESS}, like=ResolvedAddress.__new__
    ),
    "ResolvedAddress._replace": Subject(
        lambda: ResolvedAddress(ADDRESS)._replace, like=ResolvedAddress.__new__
    ),
    "ResponseStream.each": Subject(lambda: stream().each, options={"callback": print}),
    "ResponseStream.max_silence": Subject(lambda: stream().max_silence, options={"seconds": 1}),
    "ResponseStream.skip_gaps": Subject(lambda: stream().skip_gaps),
    "RetryPolicy": Subject(always(RetryPolicy), options=RETRY),
    "RetryThrottling": Subject(always(RetryThrottling)),
    "RoundRobin": Subject(always(RoundRobin)),
    "RpcError.detail": Subject(
        lambda: NotFound("x").detail, (StringValue,), names=("message_type",)
    ),
    "RpcError.details_of": Subject(
        lambda: NotFound("x").details_of, (StringValue,), names=("message_type",)
    ),
    "RpcError": Subject(always(RpcError), options={"code": Code.UNKNOWN}),
    "Script": Subject(always(Script)),
    "Script.fault_at": Subject(lambda: Script().fault_at, options={"number": 1, "fault": "lost"}),
    "Server": Subject(always(Server), options={"factory": network(), "services": [Echo()]}),
    "Server.connect": Subject(lambda: server().connect, options={"address": ADDRESS}),
    "Server.listen": Subject(lambda: server().listen, options={"address": ADDRESS}),
    "Server.stop": Subject(lambda: server().stop),
    "ServerLimits": Subject(always(ServerLimits)),
    "ServerService": Subject(
        always(ServerService), options={"services": [Echo()], "addresses": ADDRESS}
    ),
    "Service": Subject(always(Service), options={"name": "a.B", "methods": ()}),
    "ServiceConfig": Subject(always(ServiceConfig)),
    "ServiceConfig.parse": Subject(always(ServiceConfig.parse), options={"source": "{}"}),
    "SocketOptions": Subject(always(SocketOptions)),
    "StaticResolver": Subject(always(StaticResolver), options={"addresses": ADDRESS}),
    "StreamOptions": Subject(always(StreamOptions)),
    "StreamWriter": Subject(always(StreamWriter)),
    "StreamWriter.registerProducer": Subject(
        lambda: StreamWriter[Any]().registerProducer,
        options={"producer": Producer(), "streaming": True},
    ),
    "StreamWriter.fail": Subject(lambda: StreamWriter[Any]().fail, options={"error": Exception()}),
    "ServeBySockets": Subject(always(ServeBySockets), options={"factory": None}),
    "ServeInMemory": Subject(always(ServeInMemory)),
    "ServeInMemory()": Subject(ServeInMemory, (Echo(),), names=("services",)),
    "ServeInMemory.add": Subject(lambda: ServeInMemory().add, options={"end": None}),
    "ServeInMemory.connect": Subject(lambda: ServeInMemory().connect, options={"address": ADDRESS}),
    "all_given_back": Subject(
        always(all_given_back), (channel(),), names=("ends",), options={"clock": network().clock}
    ),
    "assert_all_given_back": Subject(always(assert_all_given_back), (channel(),), names=("ends",)),
    "call_context": Subject(always(call_context)),
    "request_stream": Subject(always(request_stream), ([],), names=("requests",)),
    "calls": Subject(always(calls), (fake(), ECHO), names=("client", "method")),
    "permissions": Subject(always(permissions), options={"table": {}}),
    "raw_method": Subject(always(raw_method), options={"path": "/a.B/C"}),
    "resolver_for": Subject(always(resolver_for), options={"target": ADDRESS}),
    "runtime_path": Subject(always(runtime_path), options={"name": "greeter"}),
}

_ADDRESS = "an address: what is said of those has tests of its own"
_BY_NAME = "what server and channel are made with: they look at it, and a wrong name is tried"
#: Parameters that are not tried, and why.
SPARED: Final[dict[str, str]] = {
    "Blocking().args": "they are the function's own",
    "Blocking().kwargs": "they are the function's own",
    "Channel.endpoint": _ADDRESS,
    **dict.fromkeys(
        [f"{label}.{subject.names[1]}" for label, subject in CALLS.items()],
        "the message names the method, and the type that it takes: it is tried below",
    ),
    "ChannelService.options": _BY_NAME,
    "ChannelService.target": _ADDRESS,
    "ClientCall.replace.request": "whatever the method takes: said where the call is made",
    "DnsResolver.target": _ADDRESS,
    "NotFound.code": "the message in first place, or RpcError's own code",
    "StreamWriter.registerProducer.producer": "Any, as in Twisted; test_mistakes.py tries it",
    "StreamWriter.registerProducer.streaming": "any truth, as in Twisted's own consumers",
    "calls.client": "object: a fake client is known by what is in it",
    "Server.connect.address": _ADDRESS,
    "Server.listen.address": _ADDRESS,
    "Server.listen.multicast": _ADDRESS,
    "Server.listen.publisher": _ADDRESS,
    "ServerService.addresses": _ADDRESS,
    "ServerService.options": _BY_NAME,
    "StaticResolver.addresses": _ADDRESS,
    "resolver_for.target": _ADDRESS,
}

_PROTOCOL = "a protocol: users implement it"
_ALIAS = "a type"
_TOLD = "made by txzmq, for users to read"
_CODE = "as NotFound: the same class with another code"
_ENUM = "an enumeration"
#: Public names that nothing is tried with, and why.
NOTHING_TO_TRY: Final[dict[str, str]] = {
    **dict.fromkeys(
        "Aborted AlreadyExists Cancelled DataLoss DeadlineExceeded FailedPrecondition Internal "
        "InvalidArgument OutOfRange PermissionDenied ResourceExhausted Unauthenticated Unavailable "
        "Unimplemented Unknown".split(),
        _CODE,
    ),
    **dict.fromkeys(
        "ChannelOptions ServerOptions".split(),
        "a dictionary of keyword arguments, for type checkers",
    ),
    "OrderedMultiService": "it has no parameters",
    **dict.fromkeys(
        "BalancingPolicy Caller DnsClient Endpoint Resolver ResolverListener ServiceHandler "
        "Watched".split(),
        _PROTOCOL,
    ),
    **dict.fromkeys(
        "Code ConnectivityState Count IdempotencyLevel Kind MessageKind Sharing Side".split(), _ENUM
    ),
    **dict.fromkeys(
        "Authentication CallRecord Carried ChannelStats ClientCall ClientLoss Context Denial "
        "EndpointChange EndpointStatus RecordedCall Refusal ServerStats ServiceConfigError "
        "StartedCall".split(),
        _TOLD,
    ),
    "InsecureBindError": "an exception that txzmq raises",
    "Observer": "has no constructor: users subclass it",
    "RequestStream": "abstract: txzmq makes them",
    "ResponseMetadata": "takes nothing",
    "ResponseStream": "abstract: its methods are tried",
    "current_context": "takes nothing",
    "detached": "takes nothing",
    **dict.fromkeys("importing require_caller require_level".split(), "called by generated code"),
}

#: Where values are right that the table takes for wrong.
RIGHT: Final[dict[str, list[Any]]] = {
    **{f"{label}.timeout": [-1] for label in CALLS},
    "Channel.stream_stream, configured.timeout": [-1, 10**400],  # the config's is less
    "ClientCall.replace.timeout": [-1],
    "ClientCall.replace.metadata": [None],
    "Context.send_initial_metadata.metadata": [None],
    "Context.set_trailing_metadata.metadata": [None],
    "Faults.seed": [-1, True],
    "call_context.timeout": [-1],  # its time is up already
    "RpcError.code": [True, -1],
}
