"""The protos of the standard services are gRPC's, and meet grpcio's packages in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import permutations

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tests.programs import ROOT
from txzmq.rpc._services.grpc.health.v1 import health_pb2
from txzmq.rpc._services.grpc.reflection.v1 import reflection_pb2
from txzmq.rpc._services.grpc.reflection.v1alpha import reflection_pb2 as alpha_pb2

IMPLEMENTATIONS = [
    pytest.param(
        "upb",
        marks=pytest.mark.skipif(
            sys.implementation.name == "pypy", reason="protobuf has no upb for PyPy"
        ),
    ),
    "python",
]


def definitions(file: FileDescriptor, package: str) -> FileDescriptorProto:
    """What a file defines, as if it had no name, and the package were *package*."""
    proto = FileDescriptorProto.FromString(file.serialized_pb)
    proto.ClearField("name")
    text = text_format.MessageToString(proto).replace(file.package, package)
    return text_format.Parse(text, FileDescriptorProto())


def test_health_is_what_grpcio_has() -> None:
    theirs = pytest.importorskip("grpc_health.v1.health_pb2", reason="no grpcio-health-checking")
    package = "grpc.health.v1"
    ours = definitions(health_pb2.DESCRIPTOR, package)
    assert ours == definitions(theirs.DESCRIPTOR, package)


def test_reflection_is_what_grpcio_has() -> None:
    theirs = pytest.importorskip(
        "grpc_reflection.v1alpha.reflection_pb2", reason="no grpcio-reflection"
    )
    package = "grpc.reflection.v1alpha"
    expected = definitions(theirs.DESCRIPTOR, package)
    alpha = definitions(alpha_pb2.DESCRIPTOR, package)
    assert alpha == expected
    newer = definitions(reflection_pb2.DESCRIPTOR, package)
    for proto in (expected, newer):  # names for Go and Java
        proto.ClearField("options")
    assert newer == expected


OURS = (
    "txzmq.rpc._services.grpc.health.v1.health_pb2",
    "txzmq.rpc._services.grpc.reflection.v1.reflection_pb2",
    "txzmq.rpc._services.grpc.reflection.v1alpha.reflection_pb2",
)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "modules",
    [
        [name for part in order for name in part]
        for order in permutations(
            (OURS, ("grpc_health.v1.health_pb2",), ("grpc_reflection.v1alpha.reflection_pb2",))
        )
    ],
)
def test_grpcio_may_be_imported_before_and_after(modules: list[str], implementation: str) -> None:
    pytest.importorskip("grpc_health.v1.health_pb2", reason="no grpcio-health-checking")
    pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2", reason="no grpcio-reflection")
    done = run(
        f"""
import importlib, pickle
from google.protobuf import descriptor_pool
found = {{name: importlib.import_module(name) for name in {modules!r}}}
ours = found[{OURS[0]!r}]
theirs = found["grpc_health.v1.health_pb2"]
message = ours.HealthListResponse(statuses={{"a": {{"status": 2}}}})
assert theirs.HealthListResponse.FromString(message.SerializeToString()).statuses["a"].status == 2
assert pickle.loads(pickle.dumps(message)) == message
pool = descriptor_pool.Default()
name = pool.FindFileContainingSymbol("grpc.health.v1.Health").name
assert name == "grpc_health/v1/health.proto", name
for name, module in found.items():
    assert (module.DESCRIPTOR.pool is pool) is (not name.startswith("txzmq")), name
""",
        implementation,
    )
    assert done == ""


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_of_them_is_in_the_default_pool(implementation: str) -> None:
    done = run(
        f"""
import sys
sys.modules["grpc"] = None  # not needed
import {", ".join(OURS)}
from google.protobuf import descriptor_pool
for name in ("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"):
    try:
        descriptor_pool.Default().FindFileContainingSymbol(name)
    except KeyError:
        print("not there")
""",
        implementation,
    )
    assert done.split("\n") == ["not there", "not there", ""]


def run(script: str, implementation: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
