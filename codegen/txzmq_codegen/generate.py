"""From a request of the compiler to the response, without IO.

The command line makes the request itself; the plugin gets it from protoc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition, FileDescriptorProto

from txzmq_codegen.layout import Layout
from txzmq_codegen.load import load
from txzmq_codegen.problems import Problems
from txzmq_codegen.render import render
from txzmq_codegen.trust import faults_of_request

__all__ = ["generate", "respond", "response_with", "services"]

# protoc asks every plugin for these, and refuses files that need more.
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


def services(
    protos: Sequence[FileDescriptorProto], to_generate: Sequence[str], layout: Layout
) -> dict[str, str]:
    """The texts of the ``_txzmq.py`` modules of the files that have services, by their names.

    :param protos: the files to generate, and all that they import.
    :raises Problems: if something in the protos cannot become Python.
    """
    return {
        "/".join(file.module.parts) + ".py": render(file, layout)
        for file in load(protos, to_generate, layout)
    }


def generate(request: CodeGeneratorRequest, layout: Layout) -> CodeGeneratorResponse:
    """As :func:`services`, as a response to protoc."""
    response = response_with()
    for name, text in services(request.proto_file, request.file_to_generate, layout).items():
        response.file.add(name=name, content=text)
    return response


def respond(request: CodeGeneratorRequest, layout: Layout) -> CodeGeneratorResponse:
    """As :func:`generate`; problems become the response's error, as protoc requires.

    The request may come from anybody: what protoc would not have sent is an error, too.
    """
    faults = faults_of_request(request.proto_file, request.file_to_generate)
    if faults:
        return response_with(str(Problems(faults)))
    try:
        return generate(request, layout)
    except Problems as problems:
        return response_with(str(problems))
