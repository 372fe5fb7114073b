"""Status codes, and the exceptions that carry them.

The tree, every leaf one code of ``google.rpc.Code``::

    Exception
    └── RpcError
        ├── Cancelled             1   the server cancelled the call (the caller's own cancel is
        │                             twisted.internet.defer.CancelledError)
        ├── Unknown               2   the handler raised something that is not an RpcError
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
        ├── Unavailable          14   no connection, or lost it; the message says whether the call
        │                             may have been executed
        ├── DataLoss             15
        └── Unauthenticated      16

A handler raises them to choose the status of its answer; a client's Deferred fails with them, so
``failure.trap(DeadlineExceeded)`` and ``except Unavailable:`` say what they mean. When to use
which is gRPC's decision: https://grpc.io/docs/guides/status-codes/.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

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


def to_code(number: int, /) -> Code:
    """The :class:`Code` of *number*; UNKNOWN for a number that gRPC does not define."""
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


class RpcError(Exception):
    """A call that ended with another status than OK.

    ``RpcError(code, message)`` makes an instance of that code's subclass, so that
    ``except NotFound`` catches what was raised either way. Instances are picklable.

    :ivar code: why the call failed.
    :ivar message: for the developer who reads the log; not meant for the end user's eyes.
    :ivar details: any number of ``google.protobuf.Any``, as in ``google.rpc.Status``.
    :ivar metadata: the trailing metadata of the call.
    """

    code: Code
    message: str
    details: tuple[AnyMessage, ...]
    metadata: TrailingMetadata

    if not TYPE_CHECKING:  # a constructor that returns a subclass has no type of its own

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
        details: Iterable[AnyMessage] = (),
        metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """
        :param code: any code but OK.
        :param message: what went wrong.
        :param details: messages that tell a program more, each packed into a
            ``google.protobuf.Any``.
        :param metadata: trailing metadata to send with the error.
        :raises ValueError: if *code* is OK.
        """
        code = to_code(code)
        if code is Code.OK:
            raise ValueError("an RpcError cannot have the code OK")
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.metadata = tuple(metadata)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __reduce__(
        self,
    ) -> tuple[
        Callable[..., RpcError], tuple[Code, str, tuple[tuple[str, bytes], ...], TrailingMetadata]
    ]:
        details = tuple((packed.type_url, packed.value) for packed in self.details)
        return _unpickle, (self.code, self.message, details, self.metadata)


def _unpickle(
    code: Code, message: str, details: tuple[tuple[str, bytes], ...], metadata: TrailingMetadata
) -> RpcError:
    from google.protobuf.any_pb2 import Any as AnyMessage

    packed = [AnyMessage(type_url=type_url, value=value) for type_url, value in details]
    return RpcError(code, message, details=packed, metadata=metadata)


class _ErrorOfOneCode(RpcError):
    """What the subclasses share: their class says the code, so they are made from a message."""

    #: The code of every instance.
    CODE: ClassVar[Code]

    def __init__(
        self,
        code: Code | str = "",
        message: str = "",
        *,
        details: Iterable[AnyMessage] = (),
        metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """
        :param code: the message: ``NotFound("no such user")``. (``RpcError(Code.NOT_FOUND, "no
            such user")`` arrives here with the code first.)
        """
        if isinstance(code, str):
            message = code or message
        elif to_code(code) is not self.CODE:
            raise ValueError(f"{type(self).__name__} cannot have the code {code!r}")
        super().__init__(self.CODE, message, details=details, metadata=metadata)


class Cancelled(_ErrorOfOneCode):
    """The server, or somebody between, cancelled the call."""

    CODE = Code.CANCELLED


class Unknown(_ErrorOfOneCode):
    """The handler raised something that is not an RpcError."""

    CODE = Code.UNKNOWN


class InvalidArgument(_ErrorOfOneCode):
    """The request is wrong, whatever the state of the system."""

    CODE = Code.INVALID_ARGUMENT


class DeadlineExceeded(_ErrorOfOneCode):
    """The call's time was up before its answer came; it may have been executed."""

    CODE = Code.DEADLINE_EXCEEDED


class NotFound(_ErrorOfOneCode):
    """What was asked for does not exist."""

    CODE = Code.NOT_FOUND


class AlreadyExists(_ErrorOfOneCode):
    """What was to be made exists."""

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
    """A conflict, such as a failed compare-and-set; try again from higher up."""

    CODE = Code.ABORTED


class OutOfRange(_ErrorOfOneCode):
    """Past the valid range, such as reading beyond the end."""

    CODE = Code.OUT_OF_RANGE


class Unimplemented(_ErrorOfOneCode):
    """The server has no such method."""

    CODE = Code.UNIMPLEMENTED


class Internal(_ErrorOfOneCode):
    """An invariant is broken: what arrived cannot be understood."""

    CODE = Code.INTERNAL


class Unavailable(_ErrorOfOneCode):
    """No connection, or it was lost; the message says whether the call may have run."""

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
