"""The wire of the older version is still there: its examples, its messages, its services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.programs import ROOT
from tests.wire.vectors import FOLDER

pytest.importorskip("grpc_tools", reason="the extra codegen is not installed")
from txzmq_codegen.breaking import breaking_changes
from txzmq_codegen.protoc import compile_protos
from txzmq_codegen.sources import find


def examples(folder: Path) -> dict[tuple[str, str], Any]:
    """Each example by file and name, without its description, which may become clearer."""
    return {
        (path.name, example["name"]): {**example, "description": ""}
        for path in folder.glob("*.json")
        for example in json.loads(path.read_text("utf-8"))["messages"]
    }


def test_every_older_example_stands_unchanged(baseline: Path) -> None:
    older, now = examples(baseline / "vectors"), examples(FOLDER)
    assert len(older) > 40
    assert {name: now.get(name) for name in older} == older


def test_no_message_or_service_of_the_protocol_has_changed_but_grown(baseline: Path) -> None:
    before, after = (
        compile_protos(find([folder / "txzmq/rpc/v1"], [folder]), messages=False).descriptors
        for folder in (baseline / "txzmq_codegen" / "include", ROOT / "protos")
    )
    names = {file.name for file in before.file if file.name.startswith("txzmq/")}
    assert {"txzmq/rpc/v1/header.proto", "txzmq/rpc/v1/streams.proto"} <= names
    assert breaking_changes(before, after, names, "WIRE") == []
