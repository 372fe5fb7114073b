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
    from txzmq.testing._network import MemoryNetwork
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
            "txzmq.testing._network": "MemoryNetwork",
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
    "StreamStreamAnswer",
    "StreamUnaryAnswer",
    "UnaryStreamAnswer",
    "UnaryUnaryAnswer",
    "calls",
]
