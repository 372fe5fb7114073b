"""For tests of services and of code that calls them."""

from txzmq._testing_fakes import (
    FakeCaller,
    RecordedCall,
    StreamStreamAnswer,
    StreamUnaryAnswer,
    UnaryStreamAnswer,
    UnaryUnaryAnswer,
    calls,
)

__all__ = [
    "FakeCaller",
    "RecordedCall",
    "StreamStreamAnswer",
    "StreamUnaryAnswer",
    "UnaryStreamAnswer",
    "UnaryUnaryAnswer",
    "calls",
]
