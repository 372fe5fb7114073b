"""Mutators: of bytes, of text, of serialised messages without their schema, and of scripts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

__all__ = [
    "Step",
    "mutate_bytes",
    "mutate_fields",
    "mutate_steps",
    "mutate_text",
    "read_steps",
    "write_steps",
]

#: What numbers are replaced with.
NUMBERS: Final = (
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    1000,
    4096,
    2**31 - 1,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
#: What bytes are replaced with.
WORDS: Final = (
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b"a",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    bytes(16),
    b"x" * 300,
)
#: The steps that are read of a script, and the frames of one.
MAX_STEPS: Final = 40
MAX_FRAMES: Final = 12


# -- bytes -------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, chance: random.Random, words: Sequence[bytes] = WORDS) -> bytes:
    """Change, insert, remove, repeat or replace some bytes."""
    begin = chance.randint(0, len(data))
    end = min(len(data), begin + chance.randint(1, 8))
    kind = chance.randrange(6)
    if kind == 0 and data:
        new = bytes([data[begin - 1] ^ 1 << chance.randrange(8)])
        return data[: begin - 1] + new + data[begin:] if begin else new + data[1:]
    if kind == 1:
        return data[:begin] + data[end:]
    if kind == 2:
        return data[:end] + data[begin:end] * chance.choice((1, 1, 2, 20)) + data[end:]
    if kind == 3:
        return data[:begin] + chance.randbytes(end - begin or 1) + data[end:]
    if kind == 4:
        return data[:begin]
    return data[:begin] + chance.choice(words) + data[chance.choice((begin, end)) :]


def mutate_text(data: bytes, chance: random.Random, words: Sequence[str]) -> bytes:
    """As bytes, or by words that mean something."""
    return mutate_bytes(data, chance, [word.encode("utf-8", "surrogatepass") for word in words])


# -- serialised messages -----------------------------------------------------------------------


class _Field(NamedTuple):
    number: int
    #: Of a field of bytes, its bytes; a number of the other kinds.
    value: bytes | int
    kind: int

    def write(self) -> bytes:
        tag = _varint(self.number << 3 | self.kind)
        if isinstance(self.value, bytes):
            return tag + _varint(len(self.value)) + self.value
        if self.kind == 0:
            return tag + _varint(self.value)
        size = 8 if self.kind == 1 else 4
        return tag + (self.value % (1 << 8 * size)).to_bytes(size, "little")


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _read_fields(data: bytes) -> list[_Field] | None:
    """The fields of a serialised message; None if it is none."""
    fields: list[_Field] = []
    at = 0
    try:
        while at < len(data):
            tag, at = _read_varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, at = _read_varint(data, at)
                fields.append(_Field(number, value % 2**64, 0))
            elif kind == 2:
                size, at = _read_varint(data, at)
                if at + size > len(data):
                    return None
                fields.append(_Field(number, data[at : at + size], 2))
                at += size
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                fields.append(_Field(number, int.from_bytes(data[at : at + size], "little"), kind))
                at += size
            else:
                return None
    except IndexError:
        return None
    return fields


def mutate_fields(
    data: bytes, chance: random.Random, words: Sequence[bytes] = WORDS, depth: int = 4
) -> bytes:
    """Change the fields of a serialised message, or of one in it; what is none, as bytes."""
    fields = _read_fields(data)
    if fields is None or chance.random() < 0.1:
        return mutate_bytes(data, chance, words)
    kind = chance.randrange(7)
    if not fields or kind == 0:
        number = chance.randint(1, 9)
        value: bytes | int = chance.choice((chance.choice(words), chance.choice(NUMBERS)))
        new = _Field(number, value, 2 if isinstance(value, bytes) else 0)
        fields.insert(chance.randint(0, len(fields)), new)
    else:
        place = chance.randrange(len(fields))
        field = fields[place]
        if kind == 1:
            del fields[place]
        elif kind == 2:
            fields[place:place] = [field] * chance.choice((1, 1, 3, 50, 300))
        elif kind == 3:
            other = chance.randrange(len(fields))
            fields[place], fields[other] = fields[other], field
        elif kind == 4:
            fields[place] = field._replace(number=max(1, field.number + chance.choice((-1, 1))))
        elif isinstance(field.value, int):
            close = field.value + chance.choice((-1, 1))
            value = chance.choice((*NUMBERS, max(0, close)))
            fields[place] = field._replace(value=value)
        elif depth and chance.random() < 0.6:
            inner = mutate_fields(field.value, chance, words, depth - 1)
            fields[place] = field._replace(value=inner)
        else:
            fields[place] = field._replace(value=chance.choice(words))
    return b"".join(field.write() for field in fields)


# -- scripts -----------------------------------------------------------------------------------


class Step(NamedTuple):
    """Something that happens: what, and with which frames."""

    what: int
    frames: list[bytes]


def write_steps(steps: Sequence[Step]) -> bytes:
    """A script as bytes."""
    written = bytearray()
    for what, frames in steps:
        written += bytes((what, len(frames)))
        for frame in frames:
            written += len(frame).to_bytes(3, "big") + frame
    return bytes(written)


def read_steps(data: bytes) -> list[Step]:
    """The script that any bytes are: what is missing at the end is left out."""
    steps: list[Step] = []
    at = 0
    while at + 1 < len(data) and len(steps) < MAX_STEPS:
        step = Step(data[at], [])
        count, at = min(data[at + 1], MAX_FRAMES), at + 2
        while len(step.frames) < count and at + 3 <= len(data):
            size = int.from_bytes(data[at : at + 3], "big")
            step.frames.append(data[at + 3 : at + 3 + size])
            at += 3 + size
        steps.append(step)
    return steps


def mutate_steps(
    data: bytes,
    chance: random.Random,
    mutate_frame: Callable[[bytes, random.Random], bytes],
    whats: int,
    others: Sequence[bytes],
) -> bytes:
    """Change a script: its steps, their frames, or what is in one.

    :param whats: how many kinds of steps there are.
    :param others: scripts from which steps are taken.
    """
    steps = read_steps(data)
    kind = chance.randrange(8)
    if not steps or kind == 0:
        other = read_steps(chance.choice(others))
        place = chance.randint(0, len(steps))
        steps[place:place] = other[chance.randrange(len(other)) :][: chance.randint(1, 4)]
        return write_steps(steps)
    place = chance.randrange(len(steps))
    step = steps[place]
    if kind == 1:
        del steps[place]
    elif kind == 2:
        steps.insert(chance.randint(0, len(steps)), step)
    elif kind == 3:
        steps[place] = step._replace(what=chance.randrange(whats))
    elif kind == 4 or not step.frames:
        frames = list(step.frames)
        frames.insert(chance.randint(0, len(frames)), chance.choice(WORDS))
        steps[place] = step._replace(frames=frames[:MAX_FRAMES])
    elif kind == 5 and len(step.frames) > 1:
        frames = list(step.frames)
        del frames[chance.randrange(len(frames))]
        steps[place] = step._replace(frames=frames)
    else:
        frames = list(step.frames)
        which = chance.randrange(len(frames))
        frames[which] = mutate_frame(frames[which], chance)
        steps[place] = step._replace(frames=frames)
    return write_steps(steps)
