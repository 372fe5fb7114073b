"""Real protos of others, as far as packages that carry them are installed (group protos-corpus)."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.codegen.support import run

__all__ = ["DISTRIBUTIONS", "generate_corpus", "installed"]

#: Few carry their .proto files, so the descriptors of their modules are generated from.
DISTRIBUTIONS: Final = (
    "googleapis-common-protos",
    "grpc-google-iam-v1",
    "grpcio-channelz",
    "grpcio-health-checking",
    "grpcio-reflection",
    "opentelemetry-proto",
)


def installed() -> list[str]:
    names = {it.metadata["Name"].lower() for it in importlib.metadata.distributions()}
    return [name for name in DISTRIBUTIONS if name in names]


def generate_corpus(folder: Path) -> list[str]:
    """Generate a package per installed distribution into *folder*; returns their names."""
    packages: list[str] = []
    for name in installed():
        package = "corpus_" + name.replace("-", "_")
        source = folder.parent / f"{package}.binpb"
        arguments = [sys.executable, "-c", _WRITE_DESCRIPTORS, name, str(source)]
        subprocess.run(arguments, check=True, capture_output=True)
        ran = run(source, "-o", folder / package)
        assert ran.status == 0, ran.err
        packages.append(package)
    return packages


# In a process of its own: descriptors of one name can be registered once in a process.
_WRITE_DESCRIPTORS: Final = """
import importlib, importlib.metadata, sys
from google.protobuf import descriptor_pb2

files = {}

def add(descriptor):
    if descriptor.name not in files:
        for dependency in descriptor.dependencies:
            add(dependency)
        files[descriptor.name] = proto = descriptor_pb2.FileDescriptorProto()
        descriptor.CopyToProto(proto)

for file in importlib.metadata.files(sys.argv[1]):
    if file.name.endswith("_pb2.py") and not file.name.endswith(("_grpc_pb2.py", "_proto_pb2.py")):
        name = ".".join(file.with_suffix("").parts)
        add(importlib.import_module(name).DESCRIPTOR)
with open(sys.argv[2], "wb") as output:
    output.write(descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString())
"""
