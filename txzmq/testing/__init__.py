"""Helpers for tests of services, and of code that calls services."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from txzmq.testing._fakes import (
        FakeCaller,
        RecordedCall,
        StreamStreamAnswer,
        StreamUnaryAnswer,
        UnaryStreamAnswer,
        UnaryUnaryAnswer,
        calls,
    )
    from txzmq.testing._faults import Carried, Faults, MessageFault, MessageKind, Script
    from txzmq.testing._given_back import all_given_back, assert_all_given_back
    from txzmq.testing._handler_input import call_context, request_stream
    from txzmq.testing._network import MemoryNetwork
    from txzmq.testing._serving import ServeBySockets, ServeInMemory
else:
    # Generated modules import this one for their annotations.
    from txzmq._lazy_exports import lazy_exports

    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "txzmq.testing._fakes": (
                "FakeCaller RecordedCall StreamStreamAnswer StreamUnaryAnswer UnaryStreamAnswer "
                "UnaryUnaryAnswer calls"
            ),
            "txzmq.testing._faults": "Carried Faults MessageFault MessageKind Script",
            "txzmq.testing._given_back": "all_given_back assert_all_given_back",
            "txzmq.testing._handler_input": "call_context request_stream",
            "txzmq.testing._network": "MemoryNetwork",
            "txzmq.testing._serving": "ServeBySockets ServeInMemory",
        },
    )

__all__ = [
    "Carried",
    "FakeCaller",
    "Faults",
    "MemoryNetwork",
    "MessageFault",
    "MessageKind",
    "RecordedCall",
    "Script",
    "ServeBySockets",
    "ServeInMemory",
    "StreamStreamAnswer",
    "StreamUnaryAnswer",
    "UnaryStreamAnswer",
    "UnaryUnaryAnswer",
    "all_given_back",
    "assert_all_given_back",
    "call_context",
    "calls",
    "request_stream",
]
