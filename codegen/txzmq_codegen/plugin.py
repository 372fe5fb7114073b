"""``protoc-gen-txzmq``: the generator as a plugin of protoc, ``grpc_tools.protoc`` and buf.

It writes the ``_txzmq.py`` modules beside the ``_pb2.py`` modules of protoc, which it can neither
move nor change; ``python -m txzmq.codegen`` does the whole job.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse

from txzmq_codegen.generate import respond, response_with
from txzmq_codegen.layout import EXTERNAL, Imports, Layout, is_below
from txzmq_codegen.problems import UsageError

__all__ = ["main", "plugin"]

_IMPORTS: Final[dict[str, Imports]] = {"relative": "relative", "absolute": "absolute"}


class _Options(NamedTuple):
    """What the caller may set: ``--txzmq_opt=imports=relative``."""

    imports: Imports = "absolute"
    #: Folders of protos whose modules stand elsewhere.
    external: tuple[str, ...] = EXTERNAL


def _parse(parameter: str) -> _Options:
    options = _Options()
    for item in filter(None, parameter.split(",")):
        key, _, value = item.partition("=")
        if key == "imports":
            if value not in _IMPORTS:
                raise UsageError(f"imports={value}: must be relative or absolute")
            options = options._replace(imports=_IMPORTS[value])
        elif key == "external":
            options = options._replace(external=(*options.external, value.strip("/")))
        else:
            raise UsageError(_unknown(key, _Options._fields))
    return options


def _unknown(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown option {key!r}" + (f"; did you mean {near[0]}?" if near else "")


def plugin(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Answer protoc: the ``_txzmq.py`` modules, or the error in the input."""
    try:
        options = _parse(request.parameter)
    except UsageError as error:
        return response_with(f"protoc-gen-txzmq: {error}")
    ours = {
        proto.name for proto in request.proto_file if not is_below(proto.name, options.external)
    }
    ours.update(request.file_to_generate)
    return respond(request, Layout(ours, options.imports, keeps_protoc_names=True))


def main() -> None:
    """Read the request from standard input, write the response to standard output."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(plugin(request).SerializeToString())


if __name__ == "__main__":
    main()
