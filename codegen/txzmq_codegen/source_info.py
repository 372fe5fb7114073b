"""Where the elements of a proto stand in its file, and their comments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, SourceCodeInfo
from google.protobuf.message import DecodeError

from txzmq_codegen.problems import Position
from txzmq_codegen.wire import delimited, fields

__all__ = ["as_text", "locations", "pack", "position"]

#: A field that ``SourceCodeInfo`` does not have: protobuf keeps the bytes of unknown fields.
_PACKED: Final = 51727


def pack(file: FileDescriptorProto) -> None:
    """Let the source info of *file* take less memory: a fifth of what it takes once it is parsed.

    It is most of a descriptor, and needed of one file after the other. Only :func:`locations` can
    read it then.
    """
    data = file.source_code_info.SerializeToString()
    file.source_code_info.Clear()
    file.source_code_info.MergeFromString(delimited(_PACKED, data))


def locations(file: FileDescriptorProto) -> Sequence[SourceCodeInfo.Location]:
    """All places in the source info of *file*, whether or not it is packed."""
    info = file.source_code_info
    if info.location:
        return info.location
    for number, value in fields(info.SerializeToString()):
        if number == _PACKED and isinstance(value, bytes):
            try:
                return SourceCodeInfo.FromString(value).location
            except (DecodeError, UnicodeDecodeError):  # the latter on PyPy
                pass  # a stranger's, in a request to the plugin
    return ()


def position(file: FileDescriptorProto, path: tuple[int, ...]) -> Position:
    """Where the element at *path* begins, or the nearest one around it that is known; else
    the beginning of the file.

    It looks through all places of the file: it is for those that something is wrong with.
    """
    found: tuple[int, Position] = 0, Position(file.name, 1, 1)
    for location in locations(file):
        there = tuple(location.path)
        if found[0] < len(there) and there == path[: len(there)]:
            found = len(there), Position.at(file.name, location.span)
    return found[1]


def as_text(comment: str | bytes) -> str:
    """*comment* of a descriptor; what is not UTF-8 is read as Latin-1, as in files."""
    # Bytes are protobuf's way to give a string that is not UTF-8.
    return comment.decode("latin-1") if isinstance(comment, bytes) else comment
