"""What the supervisors of these tests serve; ``BROKEN`` in the environment breaks it."""

from __future__ import annotations

import os
import signal
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.task import deferLater

from tests.rpc.service import Echo, text
from txzmq._reactor import default_reactor
from txzmq.rpc import Context, UnaryResult

if os.path.exists(os.environ.get("BROKEN", "/nowhere/at/all")):
    raise RuntimeError("this version is broken")


class Shop(Echo):
    """Says which process has served the call; ``other`` takes its time, or takes the process."""

    def echo(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        return text(f"{os.getpid()} {request.value}")

    def other(self, request: StringValue, context: Context) -> UnaryResult[StringValue]:
        if request.value == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        reactor: Any = default_reactor()
        return deferLater(reactor, float(request.value), text, str(os.getpid()))
