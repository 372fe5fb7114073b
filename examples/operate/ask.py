"""What a server has at this moment: ``python -m examples.operate.ask ENDPOINT WHAT``.

WHAT is ``peers``, ``methods``, ``streams``, ``limits`` or ``endpoints``. It asks the server's
``txzmq.rpc.v1.Admin`` service and prints a JSON object for each, one a line, in the order of the
server. Ctrl-C ends it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txzmq import ZmqFactory
from txzmq.rpc import Channel, RpcError
from txzmq.rpc.admin import (
    AdminClient,
    GetLimitsRequest,
    ListEndpointsRequest,
    ListMethodsRequest,
    ListPeersRequest,
    ListStreamsRequest,
)

#: Seconds that the server has for each answer.
TIMEOUT: Final = 5.0
#: How a page is had of what may be asked for, by the token of the page before. Any: of any list.
PAGES: Final[dict[str, Callable[[AdminClient, str], Deferred[Any]]]] = {
    "peers": lambda admin, page: admin.list_peers(
        ListPeersRequest(page_token=page), timeout=TIMEOUT
    ),
    "methods": lambda admin, page: admin.list_methods(
        ListMethodsRequest(page_token=page), timeout=TIMEOUT
    ),
    "streams": lambda admin, page: admin.list_streams(
        ListStreamsRequest(page_token=page), timeout=TIMEOUT
    ),
    "limits": lambda admin, page: admin.get_limits(GetLimitsRequest(), timeout=TIMEOUT),
    "endpoints": lambda admin, page: admin.list_endpoints(
        ListEndpointsRequest(page_token=page), timeout=TIMEOUT
    ),
}


async def ask(reactor: Any, endpoint: str, what: str) -> None:
    """Print all of it, page by page."""
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    try:
        channel = Channel(factory, endpoint)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    admin, token = AdminClient(channel), ""
    try:
        while True:
            page = await PAGES[what](admin, token)
            show(getattr(page, what))
            token = getattr(page, "next_page_token", "")
            if not token:
                break
    except RpcError as error:
        raise SystemExit(f"{endpoint}: {error}") from error
    finally:
        channel.close()


def show(found: Iterable[Message]) -> None:
    """One line each, with what is 0 or empty, too."""
    for one in found:
        fields = MessageToDict(
            one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        print(json.dumps(fields, ensure_ascii=True))


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """Do what the command line says."""
    if len(arguments) != 2 or arguments[1] not in PAGES:
        raise SystemExit(f"use: python -m examples.operate.ask ENDPOINT {{{','.join(PAGES)}}}")
    return Deferred.fromCoroutine(ask(reactor, *arguments))


if __name__ == "__main__":
    react(main, sys.argv[1:])
