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
from txzmq._testing_network import Faults, MemoryNetwork

__all__ = [
    "FakeCaller",
    "Faults",
    "MemoryNetwork",
    "RecordedCall",
    "StreamStreamAnswer",
    "StreamUnaryAnswer",
    "UnaryStreamAnswer",
    "UnaryUnaryAnswer",
    "calls",
]
