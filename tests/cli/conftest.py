"""Worlds of the command line, which are closed in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import is_installed

if is_installed("click") and is_installed("rich"):
    from tests.cli.shop import World, without_environment
    from txzmq.testing import Faults

    @pytest.fixture(autouse=True)
    def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
        without_environment(monkeypatch)

    @pytest.fixture
    def new_world(
        capsys: pytest.CaptureFixture[str],
    ) -> Iterator[Callable[..., World]]:
        made: list[World] = []

        def make(*services: Any, faults: Faults | None = None) -> World:
            made.append(World(capsys, services or None, faults))
            return made[-1]

        yield make
        for world in made:
            world.close()

    @pytest.fixture
    def world(new_world: Callable[..., World]) -> World:
        return new_world()
