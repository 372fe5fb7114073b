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
from google.protobuf.message import DecodeError

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


_HELP: Final = """\
protoc-gen-txzmq writes typed clients and server base classes of the services in .proto files.

It is a plugin: a compiler of protos starts it, writes a request to its standard input, and reads
the answer from its standard output.

  python -m grpc_tools.protoc -I protos --python_out=gen --txzmq_out=gen protos/acme/orders.proto
  protoc -I protos --python_out=gen --txzmq_out=gen protos/acme/orders.proto
  buf generate                 with "local: protoc-gen-txzmq" in buf.gen.yaml

Options of the plugin, as in --txzmq_opt=imports=relative,external=vendor:

  imports=absolute|relative    how modules import each other; absolute unless given
  external=FOLDER              protos below it have their modules elsewhere; may be repeated

Options of the command:

  --help, -h                   say this

python -m txzmq.codegen does the whole job without a plugin: it writes messages, stubs and services.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the request from standard input, write the response to standard output.

    :param arguments: of the command line; protoc gives none.
    :return: the exit status.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given:
        return _talk(given)
    if sys.stdin.isatty():
        sys.stderr.write(f"protoc-gen-txzmq: no request on standard input\n\n{_HELP}")
        return 2
    try:
        request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
        sys.stderr.write(f"protoc-gen-txzmq: standard input is no request of protoc\n\n{_HELP}")
        return 2
    sys.stdout.buffer.write(plugin(request).SerializeToString())
    return 0


def _talk(given: Sequence[str]) -> int:
    """Answer a person."""
    if any(argument in ("-h", "--help") for argument in given):
        sys.stdout.write(_HELP)
        return 0
    sys.stderr.write(
        f"protoc-gen-txzmq: unknown argument {given[0]!r}; its options are given to protoc, "
        "as --txzmq_opt=imports=relative. See protoc-gen-txzmq --help\n"
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
