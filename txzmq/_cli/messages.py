"""Messages as JSON or text, both ways, with types that are known at run time only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from txzmq._cli.json_stream import JsonSplitter, Splitter, TextSplitter, Value
from txzmq._cli.problems import FAILED, Problem, did_you_mean
from txzmq._cli.types import Types, find_standard, lookup, message_class
from txzmq._escape import escaped

__all__ = ["Format", "Writer", "parse", "splitter_for"]

Format: TypeAlias = Literal["json", "text"]

_ANY: Final = "google.protobuf.Any"
#: In whose place an Any is shown that cannot be read.
_UNREADABLE: Final = "txzmq.cli.unreadable.Any"
#: What protobuf says of a field that there is not, and of those that there are.
_NO_FIELD: Final = re.compile(r'has no field named "(?P<name>[^"]*)"')
_FIELDS: Final = re.compile(r"Available Fields[^:]*: \"?\[(?P<names>[^\]]*)\]")
#: Nested messages in which an Any is looked for.
_DEPTH: Final = 100


def splitter_for(given: Format) -> Splitter:
    """What splits a format's input into messages."""
    return JsonSplitter() if given == "json" else TextSplitter()


def parse(
    value: Value, into: type[Message], pool: DescriptorPool, given: Format, *, allow_unknown: bool
) -> Message:
    """A message of a request's text.

    :param allow_unknown: ignore fields that the message does not have.
    :raises Problem: if it is malformed, or lacks a required field.
    """
    message: Any = into()  # protobuf's stubs lack FindInitializationErrors
    try:
        if given == "json":
            json_format.Parse(
                value.text, message, ignore_unknown_fields=allow_unknown, descriptor_pool=pool
            )
        else:
            text_format.Parse(
                value.text, message, allow_unknown_field=allow_unknown, descriptor_pool=pool
            )
    # TypeError: the pool of an Any; RecursionError: JSON of a thousand brackets.
    except (json_format.ParseError, text_format.ParseError, TypeError, RecursionError) as error:
        raise _malformed(value, message, str(error), given) from None
    missing = message.FindInitializationErrors()
    if missing:
        raise Problem(f"the request in line {value.line} lacks {', '.join(missing)}")
    parsed: Message = message
    return parsed


def _malformed(value: Value, message: Message, said: str, given: Format) -> Problem:
    kind = message.DESCRIPTOR.full_name
    said = said.strip() or "it is nested too deeply"
    hint = f"txzmq describe ENDPOINT {kind} shows its fields"
    if found := _NO_FIELD.search(said):
        names = _FIELDS.search(said)
        known = re.findall(r"\w+", names["names"]) if names else []
        hint = did_you_mean(found["name"], known, among="its fields are") or hint
    what = "JSON" if given == "json" else "text"
    first = escaped(said.splitlines()[0].rstrip(".:"))
    return Problem(f"the request in line {value.line} is no {kind} in {what}: {first}", hint)


class Writer:
    """Writes messages; of what an Any has it finds the types, where they can be found."""

    def __init__(
        self, types: Types, wanted: Format = "json", *, emit_defaults: bool = False
    ) -> None:
        self._types = types
        self._format = wanted
        self._emit_defaults = emit_defaults
        # Names of types that nobody knows, with what takes their place.
        self._stand_ins: dict[str, type[Message]] = {}
        self._defined = 0

    async def text(self, message: Message, *, indent: bool) -> str:
        """The message; in JSON, characters that could move a cursor are escaped.

        Of an Any whose type nobody knows, ``@value`` has the bytes as base64.

        :param indent: over several lines, not on one.
        """
        if _can_have_any(message.DESCRIPTOR):
            await self._resolve(message, 0)
        pool = self._types.pool
        if self._format == "text":
            return text_format.MessageToString(
                message, as_one_line=not indent, as_utf8=True, descriptor_pool=pool
            ).rstrip("\n")
        try:
            said = json_format.MessageToJson(
                message,
                indent=2 if indent else None,
                always_print_fields_with_no_presence=self._emit_defaults,
                ensure_ascii=False,
                descriptor_pool=pool,
            )
        # Such as a Timestamp of the year 10,000, which JSON cannot have.
        except (json_format.Error, ValueError, TypeError, RecursionError) as error:
            raise Problem(
                f"a message cannot be written as JSON: {escaped(str(error))}",
                "--format text shows it",
                status=FAILED,
            ) from None
        return _UNPRINTABLE.sub(_escape, said)

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
        if name not in self._stand_ins:
            found = lookup(self._types.pool, name) or await self._types.find(name)
            found = found or find_standard(self._types.pool, name)
            if isinstance(found, Descriptor):
                await self._resolve_inner(packed, message_class(found), depth)
                return
        stand_in = self._stand_in(name)
        if stand_in is None:
            self._mark_unreadable(packed)
        else:
            made: Any = stand_in(value=packed.value)
            _put(packed, packed.type_url, made)

    async def _resolve_inner(self, packed: Any, inner_class: type[Message], depth: int) -> None:
        try:
            inner = inner_class.FromString(packed.value)
        except DecodeError:
            self._mark_unreadable(packed)
            return
        if _can_have_any(inner.DESCRIPTOR):
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

    def _stand_in(self, name: str) -> type[Message] | None:
        """A message of this name with one field, which JSON calls ``@value``; None for no name."""
        if name not in self._stand_ins:
            package, _, short = name.rpartition(".")
            try:
                kind = self._define(package, short, ("value", "@value"))
            except (TypeError, KeyError, ValueError):
                return None
            self._stand_ins[name] = message_class(kind)
        return self._stand_ins[name]

    def _define(self, package: str, name: str, *fields: tuple[str, str]) -> Any:
        """A message with fields of bytes, each with its name in JSON."""
        self._defined += 1
        file = FileDescriptorProto(
            name=f"txzmq/cli/{self._defined}.proto", package=package, syntax="proto3"
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
        return self._types.pool.FindMessageTypeByName(".".join(filter(None, [package, name])))


# Any: an Any of whichever pool.
def _put(packed: Any, type_url: str, message: Message) -> None:
    """Have an Any hold something else."""
    packed.CopyFrom(type(packed)(type_url=type_url, value=message.SerializeToString()))


#: Characters outside of ASCII that do not print; within JSON they stand in strings only.
_UNPRINTABLE: Final = re.compile(r"[^\x00-\x7e]")


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


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
def _can_have_any(descriptor: Any) -> bool:
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
