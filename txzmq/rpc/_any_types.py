"""What is in a ``google.protobuf.Any``, where no generated code knows its type.

protobuf writes an Any as JSON or text if the pool has its type. So types are looked for before, and
what cannot be found or read gets a stand-in that shows its bytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from txzmq.rpc._descriptors import Symbol, lookup, message_class

__all__ = ["AnyTypes", "TypeFinder", "can_have_any", "find_standard"]

_ANY: Final = "google.protobuf.Any"
#: In whose place an Any is shown that cannot be read.
_UNREADABLE: Final = "txzmq.unreadable.Any"
#: How the names of files begin that have stand-ins.
_FILES: Final = "txzmq/any/"
#: Nested messages in which an Any is looked for.
_DEPTH: Final = 100
#: Names that get a stand-in: a pool forgets nothing.
_STAND_INS: Final = 256
#: Modules whose messages everybody may use in an Any; the last one is of googleapis-common-protos.
_STANDARD: Final = (
    *(f"google.protobuf.{name}_pb2" for name in ("duration", "empty", "field_mask", "struct")),
    *(f"google.protobuf.{name}_pb2" for name in ("timestamp", "wrappers")),
    "google.rpc.error_details_pb2",
)


class TypeFinder(Protocol):
    """Finds descriptors by their names."""

    @property
    def pool(self) -> DescriptorPool:
        """What has been found so far, and what that needs."""
        ...

    async def find(self, symbol: str) -> Symbol | None:
        """The descriptor of a full name, which the pool has then; None if there is none."""
        ...


def find_standard(pool: DescriptorPool, symbol: str) -> Symbol | None:
    """A message that is the same everywhere, such as ``google.rpc.ErrorInfo``, put into *pool*.

    None if there is none, or this machine does not have it.
    """
    if not symbol.startswith(("google.protobuf.", "google.rpc.")):
        return None
    for module in _STANDARD:
        try:
            importlib.import_module(module)
        except ImportError:  # the extra status is not installed
            continue
    try:
        file = descriptor_pool.Default().FindFileContainingSymbol(symbol)
        _copy(file, pool)
    # TypeError: the pool has another version of a file.
    except (KeyError, TypeError):
        return None
    return lookup(pool, symbol)


def _copy(file: FileDescriptor, pool: DescriptorPool) -> None:
    try:
        pool.FindFileByName(file.name)
    except KeyError:
        for imported in file.dependencies:
            _copy(imported, pool)
        pool.AddSerializedFile(file.serialized_pb)


class AnyTypes:
    """Has a pool know the types of what messages have in an Any."""

    def __init__(self, types: TypeFinder) -> None:
        self._types = types
        # In the pool of all generated code, a stand-in would keep the type's own module out.
        has_stand_ins = types.pool is not descriptor_pool.Default()
        self._stand_ins_left = _STAND_INS if has_stand_ins else 0

    async def find(self, name: str) -> Symbol | None:
        """The descriptor of a type, which the pool has then; None if nobody knows it."""
        found = lookup(self._types.pool, name) or await self._types.find(name)
        return found or find_standard(self._types.pool, name)

    async def resolve(self, message: Message) -> None:
        """Look for the types of all that a message has in an Any, however deep.

        What cannot be found or read is replaced. Of a type that nobody knows, ``@value`` has the
        bytes.
        """
        await self._resolve(message, 0)

    async def _resolve(self, message: Message, depth: int) -> None:
        if depth > _DEPTH:
            return
        if message.DESCRIPTOR.full_name == _ANY:
            await self._resolve_any(message, depth)
            return
        for child in _children(message):
            await self._resolve(child, depth + 1)

    # Any: of whichever pool.
    async def _resolve_any(self, packed: Any, depth: int) -> None:
        name: str = packed.type_url.rpartition("/")[2]
        if not name:
            return
        found = await self.find(name)
        if not isinstance(found, Descriptor):
            found = self._make_stand_in(name)
        if found is None:
            self._mark_unreadable(packed)
        elif found.file.name.startswith(_FILES):
            made: Any = message_class(found)(value=packed.value)
            _put(packed, packed.type_url, made)
        else:
            await self._resolve_inner(packed, message_class(found), depth)

    async def _resolve_inner(self, packed: Any, inner_class: type[Message], depth: int) -> None:
        try:
            inner = inner_class.FromString(packed.value)
        except DecodeError:
            self._mark_unreadable(packed)
            return
        if can_have_any(inner.DESCRIPTOR):
            await self._resolve(inner, depth + 1)
            _put(packed, packed.type_url, inner)

    def _mark_unreadable(self, packed: Any) -> None:
        """Of what is not what it says, show both parts as they are."""
        package, _, name = _UNREADABLE.rpartition(".")
        kind = lookup(self._types.pool, _UNREADABLE) or self._define(
            package, name, ("type_url", "typeUrl"), ("value", "value")
        )
        made: Any = message_class(kind)(type_url=packed.type_url.encode(), value=packed.value)
        _put(packed, f"txzmq/{_UNREADABLE}", made)

    def _make_stand_in(self, name: str) -> Any:
        """A message of this name with one field, which JSON calls ``@value``.

        None for what is no name, or behind too many of them.
        """
        if not self._stand_ins_left:
            return None
        self._stand_ins_left -= 1
        package, _, short = name.rpartition(".")
        try:
            return self._define(package, short, ("value", "@value"))
        except (TypeError, KeyError, ValueError):
            return None

    def _define(self, package: str, name: str, *fields: tuple[str, str]) -> Any:
        """A message with fields of bytes, each with its name in JSON."""
        full_name = ".".join(filter(None, [package, name]))
        file = FileDescriptorProto(
            name=f"{_FILES}{full_name}.proto", package=package, syntax="proto3"
        )
        message = file.message_type.add(name=name)
        for number, (field, json_name) in enumerate(fields, 1):
            message.field.add(
                name=field,
                number=number,
                json_name=json_name,
                type=FieldDescriptorProto.TYPE_BYTES,
                label=FieldDescriptorProto.LABEL_OPTIONAL,
            )
        self._types.pool.AddSerializedFile(file.SerializeToString())
        return self._types.pool.FindMessageTypeByName(full_name)


# Any: an Any of whichever pool.
def _put(packed: Any, type_url: str, message: Message) -> None:
    """Have an Any hold something else."""
    packed.CopyFrom(type(packed)(type_url=type_url, value=message.SerializeToString()))


def _children(message: Message) -> Iterator[Message]:
    """The messages in its fields."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            if field.message_type.fields_by_name["value"].message_type is not None:
                yield from value.values()
        elif isinstance(value, Message):
            yield value
        else:
            yield from value


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


# Any: protobuf's stubs have two classes of descriptors.
def can_have_any(descriptor: Any) -> bool:
    """Whether an Any may be in a message: most have none, and are not looked through."""
    known = {descriptor.full_name}
    waiting: list[Any] = [descriptor]
    while waiting:
        each = waiting.pop()
        if each.full_name == _ANY or each.is_extendable:
            return True
        for field in each.fields:
            kind = field.message_type
            if kind is not None and kind.full_name not in known:
                known.add(kind.full_name)
                waiting.append(kind)
    return False
