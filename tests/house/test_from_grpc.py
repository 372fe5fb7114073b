"""The page for those who come from gRPC has every name that they may have used."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any, cast

import pytest

pytest.importorskip("grpc.aio", reason="grpcio is not installed here")
import grpc
import grpc.aio

from tests.programs import ROOT

# Of its tables, what stands at the left.
LEFT = re.findall(r"(?m)^\| (.+?) \|", (ROOT / "docs/guide/from-grpc.md").read_text())


@pytest.mark.parametrize("module", [grpc, grpc.aio], ids=lambda module: module.__name__)
def test_every_public_name_is_on_the_page(module: ModuleType) -> None:
    names = cast("Any", module).__all__
    there = set(re.findall(r"\w+", " ".join(LEFT)))
    assert [name for name in names if name not in there] == []
