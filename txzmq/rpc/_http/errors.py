"""Errors between txzmq and Connect."""

from __future__ import annotations

from typing import Final

from connectrpc.code import Code as ConnectCode
from connectrpc.errors import ConnectError, ErrorDetail
from protobuf.wkt import Any as ConnectAny

from txzmq.rpc.errors import Code, RpcError

__all__ = ["Answer", "answer_of"]

_CODES: Final[dict[Code, ConnectCode]] = {
    code: ConnectCode["CANCELED" if code is Code.CANCELLED else code.name]
    for code in Code
    if code is not Code.OK
}


class Answer(ConnectError):
    """What a client is told, in words of a server's or the gateway's own.

    A ConnectError that is none is of connectrpc's making, such as for a message that is cut off.
    """


def answer_of(error: RpcError) -> Answer:
    """An error as Connect has it, with its details; its metadata are not part of it."""
    details = [
        ErrorDetail(ConnectAny(type_url=detail.type_url, value=detail.value))
        for detail in error.details
    ]
    return Answer(_CODES[error.code], error.message, details)
