"""Reads tests/vectors: the examples of docs/protocol.md, for tests in any language."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

#: An example. Any: it comes from JSON.
Vector: TypeAlias = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "vectors"


def read(name: str) -> list[Vector]:
    """The examples of one file."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    messages: list[Vector] = content["messages"]
    return messages


def cases(name: str) -> list[Any]:  # Any: pytest's ParameterSet is private
    """The examples of one file as a test's parameters."""
    return [pytest.param(vector, id=vector["name"]) for vector in read(name)]


def everything() -> Iterator[tuple[str, str, list[str]]]:
    """Each message of each file: the file's name, its own, its frames in hex."""
    for path in sorted(FOLDER.glob("*.json")):
        for vector in read(path.stem):
            if "frames" in vector:
                yield path.stem, vector["name"], vector["frames"]


def frames_of(vector: Vector) -> list[bytes]:
    """The message itself."""
    return [bytes.fromhex(frame) for frame in vector["frames"]]


def pairs_of(items: list[dict[str, str]]) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata."""
    return tuple(
        (item["key"], bytes.fromhex(item["hex"]) if "hex" in item else item["text"])
        for item in items
    )
