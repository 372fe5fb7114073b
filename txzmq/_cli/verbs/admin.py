"""``txzmq peers`` and the other lists of the Admin service: what a server has at this moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from txzmq._cli.admin_service import all_pages, explained
from txzmq._cli.output import Output
from txzmq._cli.runtime import Runtime
from txzmq._cli.session import Session, Target, target_options
from txzmq._cli.units import bytes_of, seconds_of
from txzmq.rpc.admin import (
    MAX_PAGE,
    AdminClient,
    Endpoint,
    GetLimitsRequest,
    Limit,
    ListEndpointsRequest,
    ListMethodsRequest,
    ListPeersRequest,
    ListStreamsRequest,
    MethodFigures,
    Peer,
    StreamFigures,
)
from txzmq.rpc.metadata import Metadata

__all__ = ["COMMANDS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _List:
    """One of the lists: how it is asked for, and how it is shown."""

    #: The method of the client. Any: each list has messages of its own.
    ask: Callable[[AdminClient], Callable[..., Any]]
    request: Callable[..., Message]
    #: Of the table; ``>`` stands before those of numbers.
    columns: Sequence[str]
    row: Callable[[Any], Sequence[str]]
    is_paged: bool = True


def _peer(peer: Peer) -> Sequence[str]:
    return (
        str(peer.id),
        peer.identity or "-",
        peer.address or "-",
        _age(peer),
        peer.user_agent or "-",
        str(peer.calls_started),
        str(peer.calls_running),
        str(peer.calls_queued),
        str(peer.streams + peer.shared_streams),
        str(peer.unacknowledged_items),
        bytes_of(peer.backlog_bytes),
    )


def _method(method: MethodFigures) -> Sequence[str]:
    failed = sum(number for code, number in method.ended.items() if code != "OK")
    return (
        method.path,
        str(method.started),
        str(method.in_flight),
        str(method.queued),
        str(failed),
        *map(seconds_of, (method.seconds_p50, method.seconds_p90, method.seconds_p99)),
    )


def _stream(stream: StreamFigures) -> Sequence[str]:
    state = StreamFigures.State
    known = stream.state in state.values()
    waits = "client" if stream.blocked else "handler" if stream.running else "-"
    return (
        str(stream.id),
        stream.method,
        state.Name(stream.state) if known else str(stream.state),
        f"{stream.callers} callers" if stream.shared else str(stream.peer_id or "-"),
        stream.identity or "-",
        _age(stream),
        str(stream.items),
        "-" if stream.shared else f"{stream.unacknowledged_items}/{stream.window_items}",
        waits,
    )


def _limit(limit: Limit) -> Sequence[str]:
    value = _amount(limit.value, limit.unit) if limit.HasField("value") else "none"
    used = _amount(limit.used, limit.unit) if limit.HasField("used") else "-"
    both = limit.HasField("used") and limit.HasField("value") and limit.value > 0
    share = f"{100 * limit.used / limit.value:.0f} %" if both else "-"
    return limit.name, limit.method or "-", value, used, share, limit.fullest or "-"


def _endpoint(endpoint: Endpoint) -> Sequence[str]:
    return (
        endpoint.channel,
        endpoint.address,
        endpoint.state,
        str(endpoint.calls),
        endpoint.reason or "-",
    )


def _age(message: Peer | StreamFigures) -> str:
    return seconds_of(max(1.0, time.time() - message.since.ToNanoseconds() / 1e9))


def _amount(number: float, unit: str) -> str:
    if unit == "bytes":
        return bytes_of(number)
    if unit == "seconds":
        return seconds_of(number)
    return f"{number:.15g}"


_LISTS: Final = {
    "peers": _List(
        ask=lambda admin: admin.list_peers,
        request=ListPeersRequest,
        columns=(
            *(">ID", "IDENTITY", "ADDRESS", "AGE", "AGENT", ">CALLS", ">RUNNING", ">QUEUED"),
            *(">STREAMS", ">UNREAD", ">BACKLOG"),
        ),
        row=_peer,
    ),
    "methods": _List(
        ask=lambda admin: admin.list_methods,
        request=ListMethodsRequest,
        columns=(*("METHOD", ">CALLS", ">RUNNING", ">QUEUED", ">FAILED", ">P50", ">P90", ">P99"),),
        row=_method,
    ),
    "streams": _List(
        ask=lambda admin: admin.list_streams,
        request=ListStreamsRequest,
        columns=(
            *(">ID", "METHOD", "STATE", "PEER", "IDENTITY", "AGE", ">ITEMS", ">UNREAD"),
            "WAITS FOR",
        ),
        row=_stream,
    ),
    "limits": _List(
        ask=lambda admin: admin.get_limits,
        request=GetLimitsRequest,
        columns=("LIMIT", "METHOD", ">VALUE", ">USED", ">SHARE", "FULLEST"),
        row=_limit,
        is_paged=False,
    ),
    "endpoints": _List(
        ask=lambda admin: admin.list_endpoints,
        request=ListEndpointsRequest,
        columns=("CHANNEL", "ADDRESS", "STATE", ">CALLS", "REASON"),
        row=_endpoint,
    ),
}
_HELP: Final = {
    "peers": "List the connections of a server's clients, the oldest first.",
    "methods": "List the methods of a server, and figures of their calls.",
    "streams": "List the streams of responses of a server, the oldest first.",
    "limits": "List the limits of a server, and how much of each is used.",
    "endpoints": "List the servers that a server is itself a client of.",
}


async def _all(name: str, session: Session, metadata: Metadata) -> list[Message]:
    """All pages of a list."""
    wanted = _LISTS[name]
    ask = wanted.ask(AdminClient(session.channel))

    def page(token: str) -> Deferred[Any]:
        paging = {"page_size": MAX_PAGE, "page_token": token} if wanted.is_paged else {}
        found: Deferred[Any] = ask(
            wanted.request(**paging), timeout=session.left(), metadata=metadata
        )
        return found

    pages = await all_pages(page)
    return [message for each in pages for message in getattr(each, name)]


def _show(name: str, found: Sequence[Message], as_json: bool) -> None:
    output = Output()
    if not as_json:
        wanted = _LISTS[name]
        output.table(wanted.columns, map(wanted.row, found))
        return
    for message in found:
        fields = MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        output.json(json.dumps(fields))


def _command(name: str) -> click.Command:
    @click.command(name, help=_HELP[name])
    @click.argument("endpoint")
    @click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, an object a line, with all fields."
    )
    @target_options
    @click.pass_obj
    def command(runtime: Callable[[], Any], endpoint: str, as_json: bool, target: Target) -> None:
        metadata = target.metadata()
        made: Runtime = runtime()

        async def run() -> list[Message]:
            with Session(made, endpoint, target) as session:
                await session.connect()
                return await _all(name, session, metadata)

        with explained():
            found = made.run(run)
        _show(name, found, as_json)

    return command


#: The verbs, by their names.
COMMANDS: Final = {name: _command(name) for name in _LISTS}
