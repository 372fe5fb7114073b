"""Errors as ``google.rpc.Status``, and back; needs the extra ``txzmq[status]``.

Use it to put an error into something other than a reply: a message of your own with a field of
that type, a log, a gateway. The extra installs googleapis-common-protos, which has the standard
details as well (``google.rpc.error_details_pb2``). Nothing else in txzmq needs or imports it.
"""

from __future__ import annotations

from txzmq import _check
from txzmq.rpc.errors import Code, RpcError, to_code

try:
    from google.rpc.status_pb2 import Status
except ImportError as error:
    raise ImportError(
        "txzmq.rpc.status needs googleapis-common-protos: pip install 'txzmq[status]'"
    ) from error

__all__ = ["from_status", "to_status"]


def to_status(error: RpcError, /) -> Status:
    """Code, message and details of an error; its metadata has no place in a status.

    :raises TypeError: if *error* is no RpcError.
    """
    _check.instance("error", error, RpcError, "an RpcError")
    # Half of a surrogate pair, from a file name for instance, cannot be sent.
    text = error.message.encode(errors="replace").decode()
    return Status(code=int(error.code), message=text, details=error.details)


def from_status(status: Status, /) -> RpcError | None:
    """The error that a status describes, of its code's subclass; None for the code OK.

    A code that gRPC does not define is UNKNOWN.

    :raises TypeError: if *status* is no ``google.rpc.Status``.
    """
    _check.instance("status", status, Status, "a google.rpc.Status")
    code = to_code(status.code)
    if code is Code.OK:
        return None
    return RpcError(code, status.message, details=status.details)
