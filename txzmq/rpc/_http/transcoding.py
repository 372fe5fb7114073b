"""Messages as JSON, both ways, by descriptors; of methods that no generated code knows."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError, EncodeError, Message

from txzmq._escape import escaped
from txzmq.rpc.errors import Internal, InvalidArgument, Unimplemented
from txzmq.rpc.method import Method
from txzmq.rpc.raw import RawMessage

__all__ = ["Transcoder"]

#: Characters of what protobuf says of JSON that is none.
_MOST: Final = 300


class Transcoder:
    """The messages of one method, between JSON and bytes."""

    def __init__(self, method: Method[Any, Any]) -> None:
        """:raises Unimplemented: if nobody knows what is in its messages."""
        if not all(
            issubclass(each, Message) for each in (method.request_type, method.response_type)
        ):
            raise Unimplemented(
                f"the gateway does not know the messages of {method.path}, and passes it on in "
                "binary only: use application/proto"
            )
        self._request: type[Message] = method.request_type
        self._response: type[Message] = method.response_type
        self._pool: Any = method.request_type.DESCRIPTOR.file.pool

    def to_raw(self, data: bytes) -> RawMessage:
        """A request, of its JSON; fields that there are not are left out, as Connect has it.

        :raises InvalidArgument: for what is no JSON of the message.
        """
        message = self._request()
        try:
            json_format.Parse(data, message, ignore_unknown_fields=True, descriptor_pool=self._pool)
            return RawMessage(message.SerializeToString())
        # ParseError and what escapes from protobuf: UnicodeError, TypeError of the pool of an Any,
        # RecursionError of a thousand brackets, EncodeError of what lacks a required field.
        except (ValueError, TypeError, RecursionError, EncodeError, json_format.Error) as error:
            said = escaped(str(error).strip().partition("\n")[0])[:_MOST]
            name = message.DESCRIPTOR.full_name
            raise InvalidArgument(f"the gateway cannot read the {name} as JSON: {said}") from None

    def to_json(self, data: bytes) -> bytes:
        """The JSON of a response.

        :raises Internal: if it has none.
        """
        name = self._response.DESCRIPTOR.full_name
        try:
            message = self._response.FromString(data)
        except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
            raise Internal(f"the gateway cannot read a response: it is no {name}") from None
        try:
            text = json_format.MessageToJson(
                message, indent=None, ensure_ascii=False, descriptor_pool=self._pool
            )
            return text.encode()
        # Such as a Timestamp of the year 10,000.
        except (ValueError, TypeError, RecursionError, json_format.Error) as error:
            said = escaped(str(error).strip().partition("\n")[0])[:_MOST]
            raise Internal(f"the gateway cannot write the {name} as JSON: {said}") from None
