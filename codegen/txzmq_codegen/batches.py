"""Parts of a run that other programs are given one after the other, to need less memory at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

__all__ = ["batches", "have_conflicts", "with_imports"]


def batches(sizes: Mapping[str, int], size: int) -> Iterator[Sequence[str]]:
    """The files in their order, which has those near each other that import each other.

    :param sizes: the bytes of each.
    :param size: the most bytes of a batch that has more than one.
    """
    batch: list[str] = []
    total = 0
    for proto, bytes_ in sizes.items():
        if batch and total + bytes_ > size:
            yield batch
            batch, total = [], 0
        batch.append(proto)
        total += bytes_
    if batch:
        yield batch


def with_imports(protos: Iterable[str], files: Mapping[str, FileDescriptorProto]) -> Sequence[str]:
    """*protos* and all that they import, imports first."""
    found: dict[str, None] = {}
    todo = [(proto, False) for proto in protos]
    while todo:
        proto, ready = todo.pop()
        if ready:
            found[proto] = None
        elif proto not in found:
            todo.append((proto, True))
            # A set may lack what is imported for options only.
            todo.extend((name, False) for name in files[proto].dependency if name in files)
    return list(found)


def have_conflicts(files: Iterable[FileDescriptorProto]) -> bool:
    """Whether two files may define one name, or one extension, as no run on one of them notices."""
    names: dict[str, str] = {}
    extensions: set[tuple[str, int]] = set()
    for file in files:
        parts = file.package.split(".") if file.package else []
        for end in range(1, len(parts) + 1):
            # A package may be that of many files, and nothing else.
            if names.setdefault(".".join(parts[:end]), "package") != "package":
                return True
        prefix = f"{file.package}." if file.package else ""
        for name in _top_names(file):
            if names.setdefault(f"{prefix}{name}", file.name) != file.name:
                return True
        for key in _extensions(file.extension, file.message_type):
            if key in extensions:
                return True
            extensions.add(key)
    return False


def _top_names(file: FileDescriptorProto) -> Iterator[str]:
    yield from (message.name for message in file.message_type)
    yield from (service.name for service in file.service)
    yield from (extension.name for extension in file.extension)
    for enum in file.enum_type:
        yield enum.name
        yield from (value.name for value in enum.value)


def _extensions(
    extensions: Iterable[FieldDescriptorProto], messages: Iterable[DescriptorProto]
) -> Iterator[tuple[str, int]]:
    yield from ((extension.extendee, extension.number) for extension in extensions)
    for message in messages:
        yield from _extensions(message.extension, message.nested_type)
