"""Helpers for tests of services, and of code that calls services."""

from txzmq._testing_fakes import (
    FakeCaller,
    RecordedCall,
    StreamStreamAnswer,
    StreamUnaryAnswer,
    UnaryStreamAnswer,
    UnaryUnaryAnswer,
    calls,
)
from txzmq._testing_faults import Carried, Faults, MessageFault, MessageKind, Script
from txzmq._testing_network import MemoryNetwork

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
