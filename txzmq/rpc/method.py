"""The interface between generated code and the runtime.

A generated ``*_txzmq.py`` module describes each of its methods with one :class:`Method`, each of
its services with one :class:`Service`, and asks :func:`require_level` whether this runtime
understands it. It imports its messages by :func:`importing`, and its clients check their channel by
:func:`require_caller`. Nothing else crosses from the generator to the runtime.
"""

from __future__ import annotations

import enum
import re
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from txzmq import _check
from txzmq.rpc._raw_message import RawMessage

__all__ = [
    "GENERATED_LEVEL",
    "OLDEST_GENERATED_LEVEL",
    "IdempotencyLevel",
    "Kind",
    "Method",
    "Service",
    "ServiceHandler",
    "Sharing",
    "StreamOptions",
    "importing",
    "require_caller",
    "require_level",
]

Req = TypeVar("Req", bound=Message | RawMessage)
Res = TypeVar("Res", bound=Message | RawMessage)

_PATH: Final = re.compile(r"/[^/]+/[^/]+")

#: The level of the interface between generated code and runtime that this runtime has. It grows
#: by one when generated code needs something that an older runtime lacks.
GENERATED_LEVEL: Final = 3
#: The oldest level that this runtime still serves.
OLDEST_GENERATED_LEVEL: Final = 1


def require_level(level: int, module: str, /) -> None:
    """Check that the runtime understands code generated at *level*.

    Generated modules call this when they are imported.

    :param level: the interface level that the generator wrote into the module.
    :param module: the module's name, for the message.
    :raises ImportError: if *level* is newer or older than this runtime serves; the message says
        which of the two to bring up to date.
    """
    if level > GENERATED_LEVEL:
        raise ImportError(
            f"{module} was generated for a newer txzmq (interface level {level}, this one has "
            f"{GENERATED_LEVEL}): upgrade the installed txzmq, or generate the module again"
        )
    if level < OLDEST_GENERATED_LEVEL:
        raise ImportError(
            f"{module} was generated for an older txzmq (interface level {level}, this one needs "
            f"{OLDEST_GENERATED_LEVEL} or more): run python -m txzmq.codegen again"
        )


class _Importing:
    """See :func:`importing`."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __enter__(self) -> None:
        pass

    # Not a generator: checkers believe that those may go on after an exception.
    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        conflict = _CONFLICT.search(str(error)) if isinstance(error, TypeError) else None
        if conflict is not None:
            mine, theirs = _failed(traceback), _registered(conflict)
            raise ImportError(
                f"{self._module} cannot be imported: {mine} and {theirs}, which this process has "
                f"imported, were generated from different versions of one proto ({error}), and "
                "protobuf knows one version of each. Generate both from the same protos, and best "
                "into one package that both use"
            ) from error


#: What protobuf says of a file or name that is registered differently; its C and its Python form.
_CONFLICT: Final = re.compile(
    r"duplicate(?:\sfile)?\s(?:name|symbol)\s'?(?P<of_c>[^\s']+)"
    r'|register[^"]+"[^"]+":[^"]+"(?P<of_python>[^"]+)"'
)


def _failed(traceback: TracebackType | None) -> str:
    """The innermost module of messages that was being imported."""
    found = "its messages"
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__"))
        if name.endswith("_pb2"):
            found = name
        traceback = traceback.tb_next
    return found


def _registered(conflict: re.Match[str]) -> str:
    """The module that registered first what the conflict is about."""
    file = conflict["of_python"] or conflict["of_c"]
    if "symbol" in conflict[0]:
        file = descriptor_pool.Default().FindFileContainingSymbol(file).name
    for name, module in list(sys.modules.items()):
        # Anything may be in that table, and a look at a lazy module's attributes could load it.
        names = getattr(module, "__dict__", {})
        descriptor = names.get("DESCRIPTOR")
        if isinstance(descriptor, FileDescriptor) and descriptor.name == file:
            path = names.get("__file__")
            return f"{name} ({path})" if path else name
    return "another module"


def importing(module: str, /) -> _Importing:
    """Say what to do where messages cannot be imported; generated modules import theirs within.

    :param module: the module's name, for the message.
    """
    return _Importing(module)


#: What a channel has, and a class of a user's that takes its place has at least one of.
_CALLS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def require_caller(channel: object, client: object, /) -> None:
    """Check what a generated client is made with.

    :param channel: what was given.
    :param client: the client, for the message.
    :raises TypeError: if it is no channel, and nothing that takes the place of one.
    """
    if isinstance(channel, type) or not any(hasattr(channel, name) for name in _CALLS):
        name = type(client).__name__
        hint = f": {name}(Channel(factory, {channel!r}))" if isinstance(channel, str) else ""
        raise _check.wrong_type(f"the channel of {name}", channel, "a Channel", hint)


class Kind(enum.Enum):
    """Which side of a method streams, named as gRPC names them (request, then response)."""

    UNARY_UNARY = (False, False)
    UNARY_STREAM = (False, True)
    STREAM_UNARY = (True, False)
    STREAM_STREAM = (True, True)

    @property
    def request_streaming(self) -> bool:
        """Whether the client sends any number of requests in one call."""
        return self.value[0]

    @property
    def response_streaming(self) -> bool:
        """Whether the server sends any number of responses in one call."""
        return self.value[1]


class IdempotencyLevel(enum.IntEnum):
    """``google.protobuf.MethodOptions.IdempotencyLevel``: may a call be sent twice?"""

    IDEMPOTENCY_UNKNOWN = 0
    NO_SIDE_EFFECTS = 1
    IDEMPOTENT = 2


class Sharing(enum.IntEnum):
    """``txzmq.rpc.v1.StreamOptions.Sharing``: who gets the items of one run of a handler?"""

    SHARING_UNSPECIFIED = 0
    PRIVATE = 1
    SHARED = 2


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """``option (txzmq.rpc.v1.stream)`` of a method that returns a stream."""

    sharing: Sharing = Sharing.PRIVATE
    #: Shared streams: how many of the last items are kept for late joiners and for gaps.
    replay: int = 0
    #: Whether another server may continue the stream of a lost one.
    resumable: bool = False

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.instance("sharing", self.sharing, Sharing, "a Sharing")
        _check.integer("replay", self.replay)
        _check.boolean("resumable", self.resumable)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Method(Generic[Req, Res]):
    """One method of a service: its name on the wire, its messages, its kind.

    Compared by identity: each generated module makes one per rpc.
    """

    #: ``/package.Service/Method``, as in the header of a request.
    path: str
    #: The name of the generated Python method.
    name: str
    request_type: type[Req]
    response_type: type[Res]
    kind: Kind = Kind.UNARY_UNARY
    idempotency_level: IdempotencyLevel = IdempotencyLevel.IDEMPOTENCY_UNKNOWN
    #: The method, its service or its file is marked ``deprecated`` in the proto.
    deprecated: bool = False
    #: None where the proto says nothing, which means ``StreamOptions()``.
    stream: StreamOptions | None = None
    #: ``option (txzmq.rpc.v1.requires)`` of the method, or ``service_requires`` of its service: the
    #: word by which tables of permissions name it; empty where the proto says nothing. See
    #: :mod:`txzmq.rpc.authorization`.
    requires: str = ""

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.text("path", self.path, "/package.Service/Method")
        if not _PATH.fullmatch(self.path):
            raise ValueError(f"path must be /package.Service/Method, not {self.path!r}")
        _check.text("name", self.name, "the name of a Python method")
        for name in ("request_type", "response_type"):
            _check.message_class(name, getattr(self, name))
        _check.instance("kind", self.kind, Kind, "a Kind")
        what = "an IdempotencyLevel"
        _check.instance("idempotency_level", self.idempotency_level, IdempotencyLevel, what)
        _check.boolean("deprecated", self.deprecated)
        if self.stream is not None:
            _check.instance("stream", self.stream, StreamOptions, "a StreamOptions or None")
        _check.text("requires", self.requires, empty=True)
        if self.requires:
            _check.word("requires", self.requires)

    def __repr__(self) -> str:
        return f"<Method {self.path} {self.kind.name}>"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """A service: its full proto name and its methods, in the order of the proto."""

    #: ``package.Service``.
    name: str
    # Any: the methods of one service differ in their message types.
    methods: tuple[Method[Any, Any], ...]

    def __post_init__(self) -> None:
        """:raises TypeError: for a value of a wrong type."""
        _check.text("name", self.name, "package.Service")
        _check.instance("methods", self.methods, tuple, "a tuple of Method")
        for method in self.methods:
            _check.instance("methods", method, Method, "a tuple of Method")

    def __repr__(self) -> str:
        return f"<Service {self.name} with {len(self.methods)} methods>"


class ServiceHandler(Protocol):
    """An instance of a generated ``<Service>Base``."""

    #: The service that it implements.
    __txzmq_service__: ClassVar[Service]
