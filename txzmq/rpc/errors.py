"""Status codes, and the exceptions that carry them.

The tree, every leaf one code of ``google.rpc.Code``::

    Exception
    └── RpcError
        ├── Cancelled             1   the server cancelled the call (the caller's own cancel is
        │                             twisted.internet.defer.CancelledError)
        ├── Unknown               2   the handler failed unexpectedly; the server logged how
        ├── InvalidArgument       3
        ├── DeadlineExceeded      4
        ├── NotFound              5
        ├── AlreadyExists         6
        ├── PermissionDenied      7
        ├── ResourceExhausted     8   a limit was reached; the message names it
        ├── FailedPrecondition    9
        ├── Aborted              10
        ├── OutOfRange           11
        ├── Unimplemented        12
        ├── Internal             13
        ├── Unavailable          14   no connection, or it was lost; the message says whether the
        │                             call may have been executed
        ├── DataLoss             15
        └── Unauthenticated      16

A handler raises them to choose the status of its answer; a client's Deferred fails with them, so
``failure.trap(DeadlineExceeded)`` and ``except Unavailable:`` say what they mean. When to use
which is gRPC's decision: https://grpc.io/docs/guides/status-codes/.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias, TypeVar, cast

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from txzmq import _check
from txzmq._escape import escaped

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "Code",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "RpcError",
    "TrailingMetadata",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "to_code",
]

#: Metadata as it arrives: pairs of key and value, keys in lower case, bytes where the key ends
#: in ``-bin``.
TrailingMetadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


T = TypeVar("T", bound=Message)


class Code(enum.IntEnum):
    """The outcome of a call, with the numbers of ``google.rpc.Code``."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


#: By number; there is no gap.
_CODES: Final = tuple(Code)


def to_code(number: int, /) -> Code:
    """The :class:`Code` of *number*; UNKNOWN for a number that gRPC does not define."""
    # A look into a tuple: to ask the enum takes ten times as long, and each call that is observed
    # or fails asks.
    try:
        return _CODES[number] if number >= 0 else Code.UNKNOWN
    except (IndexError, TypeError):  # the latter for what a user has put into an error
        return Code.UNKNOWN


class RpcError(Exception):
    """A call ended with a status other than OK.

    ``RpcError(code, message)`` makes an instance of that code's subclass, so that
    ``except NotFound`` catches what was raised either way. Instances, also of subclasses of your
    own, can be pickled and copied with all their attributes. As with any exception, an instance
    is equal only to itself.

    :ivar code: why the call failed.
    :ivar message: for the developer who reads the log, not for the end user. As text
        (``str(error)``) it has every character escaped that does not print, such as a newline: who
        sent it could forge lines of a log, or move the cursor of a terminal.
    :ivar details: messages for programs, each a ``google.protobuf.Any``, as in
        ``google.rpc.Status``; :meth:`detail` and :meth:`details_of` read them by type.
    :ivar metadata: the trailing metadata of the call.
    :ivar method: the path of the method whose call failed with this error,
        ``/package.Service/Method``; empty if the error is not the outcome of a call. A handler that
        lets the outcome of one of its own calls escape answers UNKNOWN: what another server said is
        not meant for the handler's caller. To pass it on, raise a new error from it.
    :ivar answered: whether a server has answered with it. Otherwise the channel has made it, and
        its message may name addresses of servers, or somebody's own code has raised it. Of a
        GrpcChannel, all that gRPC says counts as a server's answer: it does not tell.
    :ivar sent: where the channel has made it: whether the request may have reached a server, and
        have been executed. None where a server has answered with it, and where it is not the
        outcome of a call.
    """

    # Defaults, for a subclass that does not call the constructor.
    code: Code = Code.UNKNOWN
    message: str = ""
    details: tuple[AnyMessage, ...] = ()
    metadata: TrailingMetadata = ()
    method: str = ""
    answered: bool = False
    sent: bool | None = None

    if not TYPE_CHECKING:  # checkers cannot type a constructor that returns a subclass

        def __new__(cls, *args: object, **kwargs: object) -> RpcError:
            """Choose the subclass that belongs to the code."""
            code = args[0] if args else kwargs.get("code")
            if cls is RpcError and isinstance(code, int):
                cls = _CLASSES.get(to_code(code), RpcError)
            return super().__new__(cls)

    def __init__(
        self,
        code: Code,
        message: str = "",
        *,
        details: Iterable[Message] = (),
        metadata: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """
        :param code: any code but OK.
        :param message: what went wrong.
        :param details: messages for programs. A message that is not a ``google.protobuf.Any`` is
            packed into one.
        :param metadata: trailing metadata to send with the error.
        :raises ValueError: if *code* is OK.
        :raises TypeError: if *code* is not a number, *message* not a str, a detail not a message,
            or *metadata* are no pairs.
        :raises google.protobuf.message.EncodeError: if a detail lacks a required field.
        """
        # Callers without a type checker: RpcError("the message") would lose the message.
        if not isinstance(code, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"RpcError takes a code first, not {_check.shown(code)}")
        code = to_code(code)
        if code is Code.OK:
            raise ValueError("an RpcError cannot have the code OK")
        super().__init__(code, message)
        if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _check.wrong_type("message", message, "str")
        self.code = code
        self.message = message
        # Most have neither. Nothing is compared: protobuf's containers raise in Python's version.
        self.details = () if details.__class__ is tuple and not details else _packed(details)
        pairs = cast(
            "Iterable[tuple[str, str | bytes]]",  # to pyright an unknown Mapping otherwise
            metadata.items() if isinstance(metadata, Mapping) else metadata,
        )
        self.metadata = () if pairs.__class__ is tuple and not pairs else _pairs(pairs)

    def detail(self, message_type: type[T], /) -> T | None:
        """The first detail of a type that can be parsed; None if there is none. ::

            if (info := error.detail(ErrorInfo)) is not None:
                print(info.reason)

        :raises TypeError: if *message_type* is no class of messages; never for what the peer sent.
        """
        return next(iter(self.details_of(message_type)), None)

    def details_of(self, message_type: type[T], /) -> tuple[T, ...]:
        """All details of a type, in order, without those that cannot be parsed.

        :attr:`details` has all of them.

        :raises TypeError: if *message_type* is no class of messages; never for what the peer sent.
        """
        _check.message_class("message_type", message_type)
        parsed = (_parse(packed, message_type) for packed in self.details)
        return tuple(message for message in parsed if message is not None)

    def of_call(self, path: str, /, *, sent: bool | None = None) -> Self:
        """Note that this error is the outcome of a call; txzmq calls this where the call ends.

        Not for handlers and interceptors: an error with a :attr:`method` is not sent as a status.

        :param path: the path of the call's method, ``/package.Service/Method``.
        :param sent: of an error that the channel has made: whether the request may have reached a
            server. What is known already stays.
        :return: the error itself.
        """
        self.method = path
        if self.sent is None and not self.answered:
            self.sent = sent
        return self

    def of_server(self) -> Self:
        """Note that a server has answered with this error; txzmq calls this.

        :return: the error itself.
        """
        self.answered = True
        return self

    def __str__(self) -> str:
        if not self.message:
            return self.code.name
        return f"{self.code.name}: {escaped(str(self.message))}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __reduce__(self) -> tuple[Callable[..., RpcError], tuple[object, ...], dict[str, Any]]:
        # Not by the constructor: a user's subclass may take other arguments.
        return _bare, (type(self), self.args), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        details = [(packed.type_url, packed.value) for packed in self.details]
        return {**self.__dict__, "details": details}

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        attributes = state or {}
        self.__dict__.update(attributes)
        details: list[tuple[str, bytes]] = attributes.get("details", [])
        self.details = tuple(AnyMessage(type_url=url, value=value) for url, value in details)


def _packed(details: object) -> tuple[AnyMessage, ...]:
    if not isinstance(details, Iterable):
        raise _check.wrong_type("details", details, "a sequence of messages")
    return tuple(map(_pack, cast("Iterable[Message]", details)))


def _pairs(metadata: object) -> TrailingMetadata:
    """Any pairs: those that cannot be sent are refused where they are to be."""
    what = "a mapping, or pairs of key and value"
    if not isinstance(metadata, Iterable):
        raise _check.wrong_type("metadata", metadata, what)
    pairs = tuple(cast("Iterable[tuple[str, str | bytes]]", metadata))
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison]  # untyped callers
            raise _check.wrong_type("metadata", pair, what)
    return pairs


def _pack(detail: Message) -> AnyMessage:
    if isinstance(detail, AnyMessage):
        return detail
    # A caller without a type checker may pass anything.
    if not isinstance(detail, Message):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"details: each must be a message, not {_check.shown(detail)}")
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _parse(packed: AnyMessage, message_type: type[T]) -> T | None:
    # By name, whatever stands before the slash, as Any.Is() does.
    if packed.type_url.rpartition("/")[1:] != ("/", message_type.DESCRIPTOR.full_name):
        return None
    try:
        return message_type.FromString(packed.value)
    except Exception:  # noqa: BLE001 - a peer chose the bytes, and implementations differ
        return None


def _bare(cls: type[RpcError], args: tuple[object, ...]) -> RpcError:
    """An error without attributes, which unpickling sets after this."""
    error = cls.__new__(cls)
    error.args = args
    return error


class _ErrorOfOneCode(RpcError):
    """The base of the subclasses with one code each, whose constructor takes the message first."""

    #: The code of every instance.
    CODE: ClassVar[Code]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = cls.CODE

    def __init__(
        self,
        code: Code | str = "",
        message: str = "",
        *,
        details: Iterable[Message] = (),
        metadata: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """
        :param code: the message: ``NotFound("no such user")``. (``RpcError(Code.NOT_FOUND, "no
            such user")`` arrives here with the code first.)
        """
        if isinstance(code, str):
            message = code or message
        elif not isinstance(code, int):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            raise _check.wrong_type(f"the message of {type(self).__name__}", code, "str")
        elif to_code(code) is not self.CODE:
            raise ValueError(f"{type(self).__name__} cannot have the code {code!r}")
        super().__init__(self.CODE, message, details=details, metadata=metadata)


class Cancelled(_ErrorOfOneCode):
    """The server, or something between it and the client, cancelled the call."""

    CODE = Code.CANCELLED


class Unknown(_ErrorOfOneCode):
    """The handler failed unexpectedly; the server logged how, under the id in the message."""

    CODE = Code.UNKNOWN


class InvalidArgument(_ErrorOfOneCode):
    """The request is wrong, whatever the state of the system."""

    CODE = Code.INVALID_ARGUMENT


class DeadlineExceeded(_ErrorOfOneCode):
    """The call's time was up before its answer came; it may have been executed."""

    CODE = Code.DEADLINE_EXCEEDED


class NotFound(_ErrorOfOneCode):
    """The thing that the request names does not exist."""

    CODE = Code.NOT_FOUND


class AlreadyExists(_ErrorOfOneCode):
    """The thing that the request is to create exists already."""

    CODE = Code.ALREADY_EXISTS


class PermissionDenied(_ErrorOfOneCode):
    """The caller is known and may not do this."""

    CODE = Code.PERMISSION_DENIED


class ResourceExhausted(_ErrorOfOneCode):
    """A limit was reached; the message names it."""

    CODE = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(_ErrorOfOneCode):
    """The system is not in the state that the call needs."""

    CODE = Code.FAILED_PRECONDITION


class Aborted(_ErrorOfOneCode):
    """There was a conflict, such as a failed compare-and-set; repeat the whole transaction."""

    CODE = Code.ABORTED


class OutOfRange(_ErrorOfOneCode):
    """The request goes past the valid range, such as reading beyond the end."""

    CODE = Code.OUT_OF_RANGE


class Unimplemented(_ErrorOfOneCode):
    """The server has no such method."""

    CODE = Code.UNIMPLEMENTED


class Internal(_ErrorOfOneCode):
    """An invariant is broken, such as: a message that arrived cannot be parsed."""

    CODE = Code.INTERNAL


class Unavailable(_ErrorOfOneCode):
    """No connection, or it was lost; the message says whether the call may have been executed."""

    CODE = Code.UNAVAILABLE


class DataLoss(_ErrorOfOneCode):
    """Data is lost or corrupt beyond recovery."""

    CODE = Code.DATA_LOSS


class Unauthenticated(_ErrorOfOneCode):
    """The caller has no valid credentials."""

    CODE = Code.UNAUTHENTICATED


# Direct subclasses only: a user's own subclass of one of them is never chosen.
_CLASSES: Final[dict[Code, type[RpcError]]] = {
    cls.CODE: cls for cls in _ErrorOfOneCode.__subclasses__()
}
