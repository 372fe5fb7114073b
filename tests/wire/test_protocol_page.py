"""docs/protocol.md shows what is in tests/vectors and in protos/, byte for byte."""

from __future__ import annotations

import re

import pytest

from tests.programs import ROOT
from tests.wire.vectors import everything

PAGE = (ROOT / "docs" / "protocol.md").read_text()
VECTORS = {(f"{file}.json", name): frames for file, name, frames in everything()}

#: Where an example is from, and its frames.
EXAMPLE = re.compile(r"^\*(\S+), (\S+):\*[^`]*?\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def frames_of(block: str) -> list[str]:
    """The hex of each frame; what stands behind a # is for people."""
    lines = [line.partition("#")[0].rstrip() for line in block.splitlines()]
    frames: list[str] = []
    for line in lines:
        if line.startswith("frame"):
            assert line.startswith(f"frame {len(frames) + 1}")
            frames.append("")
        else:
            assert line.startswith(" " * 9)
        frames[-1] += line[9:].replace(" ", "")
    return frames


EXAMPLES = {(file, name): block for file, name, block in EXAMPLE.findall(PAGE)}


@pytest.mark.parametrize("example", EXAMPLES, ids=" ".join)
def test_an_example_is_what_its_vector_says(example: tuple[str, str]) -> None:
    assert frames_of(EXAMPLES[example]) == VECTORS[example]


def test_every_block_of_hex_is_an_example() -> None:
    assert len(EXAMPLES) == PAGE.count("```text\n") >= 7


def messages_of(proto: str) -> dict[str, str]:
    """The messages that a text defines, without comments and spaces."""
    bare = re.sub(r"//.*", "", proto)
    return {
        name: "".join(body.split())
        for name, body in re.findall(r"message (\w+) {(.*?)}", bare, re.DOTALL)
    }


def test_the_messages_are_those_of_the_protos() -> None:
    quoted = messages_of("".join(re.findall(r"```proto\n(.*?)```", PAGE, re.DOTALL)))
    protos = ROOT / "protos" / "txzmq" / "rpc" / "v1"
    defined = messages_of((protos / "header.proto").read_text())
    defined |= messages_of((protos / "control.proto").read_text())
    defined |= messages_of((protos / "batch.proto").read_text())
    defined |= messages_of((protos / "streams.proto").read_text())
    assert quoted == defined
