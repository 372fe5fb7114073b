"""The messages between a supervisor and its workers."""

from __future__ import annotations

import json
import struct
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis.strategies import (
    binary,
    booleans,
    builds,
    floats,
    integers,
    lists,
    one_of,
    sampled_from,
    text,
)

from txzmq._serve import control
from txzmq._serve.control import Drain, Message, MessageReader, Ping, ProtocolError, encode

OF_TYPES: dict[str, Any] = {
    "str": text(),
    "int": integers(-(2**53), 2**53),
    "bool": booleans(),
    "float": floats(allow_nan=False),
    "list[str]": lists(text(), max_size=3),
    "list[Any]": lists(one_of(text(), floats(allow_nan=False), lists(integers())), max_size=3),
}
KINDS: list[type[Message]] = [
    kind
    for name in control.__all__
    if isinstance(kind := getattr(control, name), type)
    and issubclass(kind, Message)
    and kind is not Message
]
#: Any message of each kind.
MESSAGES = one_of(
    [
        builds(kind, **{field.name: OF_TYPES[str(field.type)] for field in fields(kind)})
        for kind in KINDS
    ]
)


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@given(lists(MESSAGES, max_size=5), lists(integers(1, 50), max_size=30))
def test_messages_arrive_whole_however_they_are_cut(
    messages: list[Message], sizes: list[int]
) -> None:
    data = b"".join(map(encode, messages))
    reader = MessageReader()
    read: list[Message] = []
    for size in sizes:
        read += reader.feed(data[:size])
        data = data[size:]
    read += reader.feed(data)
    assert read == messages
    assert reader.waiting == 0


@given(binary(max_size=200))
def test_other_bytes_are_refused_or_waited_for(data: bytes) -> None:
    try:
        list(MessageReader().feed(data))
    except ProtocolError:
        pass


@given(one_of(binary(max_size=80), sampled_from([b"[1]", b"null", b"[" * 100_000])))
@example(b"\xc2\x80")  # JSON beyond ASCII, of which PyPy cannot say what is wrong
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(MessageReader().feed(framed(body)))


@pytest.mark.parametrize(
    "body",
    [
        {"": "Nothing"},
        {"": ["Drain"], "grace": 1.0},
        {"grace": 1.0},
        {"": "Drain"},
        {"": "Drain", "grace": "1"},
        {"": "Drain", "grace": True},
        {"": "Drain", "grace": 1.0, "more": 1},
        {"": "Ready", "files": [1]},
        {"": "KeysReloaded", "error": "", "clients": 1.5},
    ],
)
def test_other_messages_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        list(MessageReader().feed(framed(json.dumps(body).encode())))


def test_a_length_that_no_message_has_is_refused_before_it_has_come() -> None:
    with pytest.raises(ProtocolError, match="4294967295 bytes"):
        list(MessageReader().feed(b"\xff\xff\xff\xff"))


def test_an_integer_is_a_number_of_seconds() -> None:
    (message,) = MessageReader().feed(framed(b'{"": "Drain", "grace": 10}'))
    assert message == Drain(grace=10)


def test_what_follows_a_message_waits() -> None:
    reader = MessageReader()
    assert list(reader.feed(encode(Ping()) + b"\0\0")) == [Ping()]
    assert reader.waiting == 2
