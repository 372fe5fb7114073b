"""Where the elements of a proto stand in its file."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from txzmq_codegen.problems import Position

__all__ = ["as_text", "position"]


def position(file: FileDescriptorProto, path: tuple[int, ...]) -> Position:
    """Where the element at *path* begins, or the nearest one around it that is known; else
    the beginning of the file.

    It looks through all places of the file: it is for those that something is wrong with.
    """
    found: tuple[int, Position] = 0, Position(file.name, 1, 1)
    for location in file.source_code_info.location:
        there = tuple(location.path)
        if found[0] < len(there) and there == path[: len(there)]:
            found = len(there), Position.at(file.name, location.span)
    return found[1]


def as_text(comment: str | bytes) -> str:
    """*comment* of a descriptor; what is not UTF-8 is read as Latin-1, as in files."""
    # Bytes are protobuf's way to give a string that is not UTF-8.
    return comment.decode("latin-1") if isinstance(comment, bytes) else comment
