"""The client's end of a connection: which calls wait, which reply belongs to which."""

from __future__ import annotations

from collections import Counter
from typing import Generic, NamedTuple, TypeVar

from txzmq._ids import request_ids
from txzmq.rpc._wire.headers import BadHeader, ResponseHead, decode_response
from txzmq.rpc.errors import Code

__all__ = ["ClientWire", "Reply"]

C = TypeVar("C")


class Reply(NamedTuple, Generic[C]):
    """A reply, and the call that it ends.

    :ivar body: the serialised response; it means nothing where the status is not OK.
    """

    call: C
    head: ResponseHead
    body: bytes


class ClientWire(Generic[C]):
    """The calls of one connection, by request id.

    :ivar dropped: how many incoming messages were dropped or not understood, by reason.
    """

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._next_id = request_ids()
        self._waiting: dict[bytes, C] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def request(self, call: C, header: bytes, body: bytes) -> list[bytes]:
        """Begin a call: the message to send. The first part is its id, which never comes again."""
        request_id = self._next_id()
        self._waiting[request_id] = call
        return [request_id, b"", header, body]

    def forget(self, request_id: bytes) -> C | None:
        """End a call without a reply; None if it has ended."""
        return self._waiting.pop(request_id, None)

    def forget_all(self) -> list[C]:
        """End all calls without a reply, oldest first."""
        calls = list(self._waiting.values())
        self._waiting.clear()
        return calls

    def receive(self, message: list[bytes]) -> Reply[C] | None:
        """Take a message from the server.

        :return: the call that it ends; None for one that was dropped and counted: it belongs to
            no call that waits (late, a duplicate, never made), or is too malformed to say.
        """
        call = self._waiting.pop(message[0], None) if message else None
        well_formed = len(message) == 4 and not message[1]
        if call is None:
            self.dropped["unexpected reply" if well_formed else "malformed"] += 1
            return None
        try:
            if not well_formed:
                raise BadHeader(f"a reply has 4 parts, not {len(message)}, and the second is empty")
            head = decode_response(message[2])
        except BadHeader as error:
            # The call has had its reply, and nothing better will come.
            self.dropped["malformed"] += 1
            return Reply(call, ResponseHead(Code.INTERNAL, str(error)), b"")
        return Reply(call, head, message[3])
