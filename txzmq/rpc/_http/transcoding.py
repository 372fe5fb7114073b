"""Messages as JSON, both ways, by descriptors; of methods that no generated code knows."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, EncodeError, Message
from twisted.internet.defer import Deferred

from txzmq._escape import escaped
from txzmq.rpc._any_types import AnyTypes, can_have_any
from txzmq.rpc._core.asyncio_loop import wait_for
from txzmq.rpc.errors import Internal, InvalidArgument, Unimplemented
from txzmq.rpc.method import Method
from txzmq.rpc.method_sources import MethodSource
from txzmq.rpc.raw import RawMessage

__all__ = ["Transcoder"]

#: The type of an Any in JSON, behind its last slash; and how many a request may name that protobuf
#: does not know yet.
_TYPE: Final = re.compile(rb'"@type"\s*:\s*"[^"\\]*/([A-Za-z0-9_.]+)"')
_MOST_TYPES: Final = 32
#: Characters of what protobuf says of JSON that is none.
_MOST: Final = 300


class _Types:
    """The types that a method's messages may have in an Any."""

    def __init__(self, method: Method[Any, Any], methods: MethodSource) -> None:
        self.pool: DescriptorPool = method.request_type.DESCRIPTOR.file.pool
        self._path = method.path
        # Not all sources know types besides those of methods.
        self._find: Any = getattr(methods, "find_type", None)

    async def find(self, symbol: str) -> Any:
        """See :class:`~txzmq.rpc._any_types.TypeFinder`."""
        return None if self._find is None else await self._find(self._path, symbol)


class Transcoder:
    """The messages of one method, between JSON and bytes."""

    def __init__(self, method: Method[Any, Any], methods: MethodSource) -> None:
        """
        :param methods: where the method is from.
        :raises Unimplemented: if nobody knows what is in its messages.
        """
        if not all(
            issubclass(each, Message) for each in (method.request_type, method.response_type)
        ):
            raise Unimplemented(
                f"the gateway does not know the messages of {method.path}, and passes it on in "
                "binary only: use application/proto"
            )
        self._request: type[Message] = method.request_type
        self._response: type[Message] = method.response_type
        types = _Types(method, methods)
        self._pool = types.pool
        self._any = AnyTypes(types)
        self._request_any, self._response_any = (
            can_have_any(each.DESCRIPTOR) for each in (self._request, self._response)
        )

    async def to_raw(self, data: bytes) -> RawMessage:
        """A request, of its JSON; fields that there are not are left out, as Connect has it.

        A coroutine of asyncio's.

        :raises InvalidArgument: for what is no JSON of the message.
        """
        if self._request_any:
            await wait_for(Deferred.fromCoroutine(self._find_types(data)))
        message = self._request()
        try:
            json_format.Parse(data, message, ignore_unknown_fields=True, descriptor_pool=self._pool)
            return RawMessage(message.SerializeToString())
        # ParseError and what escapes from protobuf: UnicodeError, TypeError of the pool of an Any,
        # RecursionError of a thousand brackets, EncodeError of what lacks a required field.
        except (ValueError, TypeError, RecursionError, EncodeError, json_format.Error) as error:
            name = message.DESCRIPTOR.full_name
            said = _said(error)
            raise InvalidArgument(f"the gateway cannot read the {name} as JSON: {said}") from None

    async def _find_types(self, data: bytes) -> None:
        """Have the pool know the types that a request names; a coroutine of Twisted's."""
        for found in islice(_TYPE.finditer(data), _MOST_TYPES):
            await self._any.find(found[1].decode("ascii"))

    async def to_json(self, data: bytes) -> bytes:
        """The JSON of a response; a coroutine of asyncio's.

        :raises Internal: if it has none.
        """
        name = self._response.DESCRIPTOR.full_name
        try:
            message = self._response.FromString(data)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            raise Internal(f"the gateway cannot read a response: it is no {name}") from None
        if self._response_any:
            await wait_for(Deferred.fromCoroutine(self._any.resolve(message)))
        try:
            text = json_format.MessageToJson(
                message, indent=None, ensure_ascii=False, descriptor_pool=self._pool
            )
            return text.encode()
        # Such as a Timestamp of the year 10,000.
        except (ValueError, TypeError, RecursionError, json_format.Error) as error:
            said = _said(error)
            raise Internal(f"the gateway cannot write the {name} as JSON: {said}") from None


def _said(error: Exception) -> str:
    """The words of an error of protobuf's, which may have those of a client."""
    return escaped(str(error).strip().partition("\n")[0])[:_MOST]
