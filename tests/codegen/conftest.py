"""Tests of the generator: they need protoc, and are skipped as a whole where there is none."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("grpc_tools") is not None:
        return
    skip = pytest.mark.skip(reason="grpcio-tools, which brings protoc, is not installed")
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def edition_2024() -> bool:
    """Whether the installed protoc knows edition 2024."""
    from tests.codegen.support import knows_edition_2024

    return knows_edition_2024()


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this machine generates from the golden cases: a folder that holds package ``golden``."""
    from tests.codegen.support import generate_goldens

    folder = tmp_path_factory.mktemp("golden")
    generate_goldens(folder)
    return folder
