"""Health and reflection through a gateway, by buf, which knows of no type beforehand."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.foreign.clients import CLIENTS
from tests.foreign.commands import BUF
from tests.foreign.served import Served
from tests.programs import PATIENCE


def buf(*arguments: str) -> str:
    """What ``buf curl`` prints."""
    if BUF is None:
        pytest.skip(CLIENTS["buf"].missing)
    command = [str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_services_are_listed(served: Served) -> None:
    assert buf("--list-services", f"http://{served.gateways.grpc}").split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "grpc.testing.TestService",
    ]
    assert "grpc.testing.TestService/FullDuplexCall" in buf(
        "--list-methods", f"http://{served.gateways.grpc}"
    )


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_types_by_reflection_of_either_version(served: Served, version: str) -> None:
    url = f"http://{served.gateways.grpc}/grpc.health.v1.Health/Check"
    assert json.loads(buf("--reflect-protocol", f"grpc-{version}", url)) == {"status": "SERVING"}
