"""A process of one stack: ``python -m benchmarks.child server|client MODULE MESSAGES FOLDER``.

It is told what to do on stdin and answers on stdout, one line of JSON each, never two before an
answer. It ends when stdin does, so it cannot outlive the process that measures.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Final, cast

from benchmarks.figures import Sample
from benchmarks.stacks import Peer
from benchmarks.workload import Messages, Order

__all__ = ["Line", "OrdersByLine", "tell_cpu"]

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2
#: More than any line that is sent; what is smaller than PIPE_BUF arrives in one piece.
_LINE: Final = 4096


class Line:
    """The way to the process that measures."""

    def __init__(self) -> None:
        # What a library prints must not stand between the answers.
        self._out = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)

    def read(self) -> bytes:
        """The next line, empty at the end. (sys.stdin has a lock that a thread would hold.)"""
        return os.read(_STDIN, _LINE)

    def write(self, answer: Mapping[str, object]) -> None:
        os.write(self._out, json.dumps(answer).encode() + b"\n")


class OrdersByLine:
    """A client's orders; implements :class:`benchmarks.workload.Orders`."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def receive(self) -> Order | None:
        line = self._line.read()
        return Order(**json.loads(line)) if line else None

    def report(self, sample: Sample) -> None:
        self._line.write(asdict(sample))


def tell_cpu(line: Line) -> None:
    """Answer each line with the process's CPU time, whatever its main thread is doing."""
    while line.read():
        line.write({"cpu": time.process_time()})
    os._exit(0)  # the main thread is in a loop that only a signal would end


def main(role: str, module: str, messages_module: str, folder: str) -> None:
    """Be the server or the client of a stack.

    :param role: which of the two.
    :param module: the module with the stack's ``PEER``.
    :param messages_module: the module with the message classes.
    :param folder: where generated modules are.
    """
    line = Line()
    sys.path.insert(0, folder)
    peer = cast("Peer", import_module(module).PEER)
    messages = Messages.load(messages_module)
    if role == "server":
        threading.Thread(target=tell_cpu, args=(line,), daemon=True).start()
        peer.serve(messages, lambda address: line.write({"address": address}))
    else:
        address = json.loads(line.read())["address"]
        line.write({"ready": True})
        peer.drive(messages, address, OrdersByLine(line))


if __name__ == "__main__":
    main(*sys.argv[1:])
