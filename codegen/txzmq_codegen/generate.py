"""The pure heart: a request of the compiler in, the response out.

The command line and the protoc plugin differ only in who makes the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition

from txzmq_codegen.layout import Layout
from txzmq_codegen.load import load
from txzmq_codegen.problems import Problems
from txzmq_codegen.render import render

__all__ = ["generate", "response_with"]

# protoc asks these of every plugin, and refuses files that are beyond them.
_FEATURES: Final = (
    CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
)


def response_with(error: str = "") -> CodeGeneratorResponse:
    """A response without files, which says what this generator can do."""
    response = CodeGeneratorResponse(
        supported_features=_FEATURES,
        minimum_edition=Edition.EDITION_PROTO2,
        maximum_edition=Edition.EDITION_2024,
    )
    if error:
        response.error = error
    return response


def generate(request: CodeGeneratorRequest, layout: Layout) -> CodeGeneratorResponse:
    """The ``_txzmq.py`` modules of the files to generate that have services.

    :raises Problems: if something in the protos cannot become Python.
    """
    to_generate: Sequence[str] = request.file_to_generate
    response = response_with()
    for file in load(request.proto_file, to_generate, layout):
        response.file.add(name="/".join(file.module.parts) + ".py", content=render(file, layout))
    return response


def respond(request: CodeGeneratorRequest, layout: Layout) -> CodeGeneratorResponse:
    """As :func:`generate`; problems become the response's error, as protoc's contract has it."""
    try:
        return generate(request, layout)
    except Problems as problems:
        return response_with(str(problems))
