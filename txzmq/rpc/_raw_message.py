"""Messages that stay bytes; public through :mod:`txzmq.rpc.raw`."""

from __future__ import annotations

from typing import Any, Final, Self, final

from txzmq import _check

__all__ = ["RawMessage", "hint_to_wrap"]


_BYTES: Final = (bytes, bytearray, memoryview)


@final
class RawMessage(bytes):
    """A serialised message that nobody parses: what goes in comes out, byte by byte.

    It stands where methods have a class of protobuf messages, and is ``bytes`` besides. Requests,
    responses and items of streams may be raw; nothing in them is looked at, so that fields that
    nobody here knows pass unchanged, and so does what is no message at all. ::

        request = RawMessage(HelloRequest(name="x").SerializeToString())
        reply = HelloReply.FromString(await channel.unary_unary(method, request))

    Its text is its size only, since what is in it may be long, or secret.
    """

    __slots__ = ()

    def __new__(cls, data: bytes | bytearray | memoryview = b"") -> Self:
        """:raises TypeError: unless it is made of bytes."""
        given: Any = data  # what untyped callers pass, such as a number: bytes takes that, too
        if not isinstance(given, _BYTES):
            hint = ""
            if hasattr(data, "SerializeToString"):
                hint = "; pass its SerializeToString()"
            raise _check.wrong_type("data", data, "bytes", hint)
        return super().__new__(cls, data)

    def __repr__(self) -> str:
        return f"<RawMessage of {len(self)} bytes>"

    __str__ = __repr__

    @classmethod
    def FromString(cls, data: bytes | bytearray | memoryview) -> Self:
        """What messages parse with; here it takes any bytes.

        :raises TypeError: unless it is made of bytes.
        """
        return cls(data)

    def SerializeToString(self, *, deterministic: bool = False) -> bytes:
        """The bytes; whether *deterministic* makes no difference. Never fails."""
        return bytes(self)


# Any: whatever was given.
def hint_to_wrap(given: Any, expected: type[object]) -> str:
    """What to do with bytes that were given where a raw message is due; empty if that is not so."""
    return (
        "; wrap it, RawMessage(...)" if expected is RawMessage and isinstance(given, _BYTES) else ""
    )
