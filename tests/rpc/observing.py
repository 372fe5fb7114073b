"""An observer that notes calls, and what is wrong with how it is told of them."""

from __future__ import annotations

from typing import Any

from txzmq.rpc import CallRecord, Code, Observer, Side, StartedCall, Watched


class Calls(Observer):
    """Notes the calls that begin and end."""

    def __init__(self) -> None:
        self.begun: list[StartedCall] = []
        #: Those that have begun and not ended.
        self.open: dict[StartedCall, Watched] = {}
        self.records: list[CallRecord] = []
        self.problems: list[str] = []

    def call_started(self, source: Watched, call: StartedCall) -> None:
        if call in self.open or call in self.records:
            self.problems.append(f"{call} begins twice")
        self.begun.append(call)
        self.open[call] = source

    def call_ended(self, source: Watched, record: CallRecord) -> None:
        if self.open.pop(record, None) is not source:
            self.problems.append(f"{record} ends, and was not open")
        if record.seconds < 0 or (record.code is Code.OK) is not (record.message == ""):
            self.problems.append(f"{record}: {record.message}")
        if len(record.request_id) != (16 if record.sent else 0):
            self.problems.append(f"{record}: {record.request_id!r}")
        self.records.append(record)

    def stopped(self, source: Watched) -> None:
        """All of its calls have ended before."""
        self.problems += [f"{call} is open" for call, of in self.open.items() if of is source]

    def take(self, side: Side) -> CallRecord:
        """The one call that has ended there."""
        assert not self.problems
        (record,) = [record for record in self.records if record.side is side]
        self.records.remove(record)
        return record

    def both(self) -> tuple[CallRecord, CallRecord]:
        """The one call on each side: the client's, and the server's."""
        client, server = self.take(Side.CLIENT), self.take(Side.SERVER)
        assert (self.records, self.open) == ([], {})
        assert client.request_id == server.request_id
        return client, server


def outline(record: CallRecord) -> tuple[Any, ...]:
    """Requests and responses, and bytes of them."""
    return record.requests, record.request_bytes, record.responses, record.response_bytes
