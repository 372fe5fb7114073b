"""A web application for threads and processes, which calls a service::

    python -m txzmq.codegen protos/
    python -m examples.demo.server &
    gunicorn --preload --workers 4 --threads 8 examples.wsgi:application

Plain WSGI, in place of Flask or Django. The channel is made where the module is imported, which is
before gunicorn forks its workers with ``--preload``, and after it without; each worker opens one of
its own with its first call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from urllib.parse import parse_qs

from generated.demo.greeter.v1.greeter_pb2 import HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterClient
from txzmq.rpc import InvalidArgument, RpcError
from txzmq.rpc.threads import blocking_channel

channel = blocking_channel(os.environ.get("GREETER", "tcp://127.0.0.1:5000"))
client = GreeterClient(channel)


def application(
    environ: dict[str, object], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """``/?name=Ada`` says hello to Ada."""
    name = parse_qs(str(environ["QUERY_STRING"])).get("name", [""])[0]
    try:
        reply = channel(client.say_hello, HelloRequest(name=name), timeout=5)
    except InvalidArgument as error:
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [error.message.encode(), b"\n"]
    except RpcError as error:
        start_response("502 Bad Gateway", [("Content-Type", "text/plain")])
        return [error.code.name.encode(), b"\n"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [reply.message.encode(), f" (by process {os.getpid()})\n".encode()]
