"""Descriptors as protos, for ``txzmq describe``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from google.protobuf import text_encoding, text_format
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
    OneofDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from txzmq._cli.types import Symbol, options_of

__all__ = ["kind_of", "render"]

_INDENT: Final = "  "
_LABELS: Final = {
    FieldDescriptorProto.LABEL_REPEATED: "repeated ",
    FieldDescriptorProto.LABEL_REQUIRED: "required ",
}
#: The largest numbers of a range, which protos call ``max``: of messages (exclusive) and of enums.
_MAX_FIELD: Final = 536_870_912
_MAX_ENUM: Final = 2_147_483_647


def kind_of(symbol: Symbol) -> str:
    """What a symbol is, with its article."""
    if isinstance(symbol, FieldDescriptor):
        return "an extension" if symbol.is_extension else "a field"
    kinds: list[tuple[Any, str]] = [
        (ServiceDescriptor, "a service"),
        (MethodDescriptor, "a method"),
        (Descriptor, "a message"),
        (EnumDescriptor, "an enum"),
        (OneofDescriptor, "a oneof"),
    ]
    return next(said for kind, said in kinds if isinstance(symbol, kind))


def render(symbol: Symbol, pool: DescriptorPool) -> str:
    """A symbol as it stands in a proto, without comments."""
    context = _Context(pool, _is_proto2(symbol))
    if isinstance(symbol, ServiceDescriptor):
        lines = _service(symbol, context)
    elif isinstance(symbol, MethodDescriptor):
        lines = _method(symbol, context)
    elif isinstance(symbol, EnumDescriptor):
        lines = _enum(_enum_proto(symbol), context)
    elif isinstance(symbol, Descriptor):
        lines = _message(_message_proto(symbol), context, symbol.full_name)
    elif isinstance(symbol, FieldDescriptor):
        lines = _lone_field(symbol, context)
    else:
        lines = _oneof(symbol, context)
    return "\n".join(lines)


# On PyPy only files know their protos; what is in one is found there.


# Any: protobuf's stubs do not say that what is of a file has it.
def _file_proto(symbol: Any) -> FileDescriptorProto:
    file = FileDescriptorProto()
    symbol.file.CopyToProto(file)
    return file


def _message_proto(message: Descriptor) -> DescriptorProto:
    holder = message.containing_type
    messages = (
        _file_proto(message).message_type if holder is None else _message_proto(holder).nested_type
    )
    return next(each for each in messages if each.name == message.name)


def _enum_proto(enum: EnumDescriptor) -> EnumDescriptorProto:
    holder = enum.containing_type
    enums = _file_proto(enum).enum_type if holder is None else _message_proto(holder).enum_type
    return next(each for each in enums if each.name == enum.name)


class _Context(NamedTuple):
    pool: DescriptorPool
    #: Fields of proto2 say that they are optional.
    is_proto2: bool


def _is_proto2(symbol: Symbol) -> bool:
    """Whether its file is of proto2; methods and oneofs, which need not know, count as others."""
    if getattr(symbol, "file", None) is None:
        return False
    return _file_proto(symbol).syntax in ("", "proto2")


def _options(options: Message, context: _Context) -> list[str]:
    """Each as ``name = value``."""
    said: list[str] = []
    for field, value in options_of(options, context.pool).ListFields():
        if field.name in ("map_entry", "uninterpreted_option"):
            continue
        name = f"({field.full_name})" if field.is_extension else field.name
        values: Any = [value] if isinstance(value, str | bytes | Message) else value
        many = hasattr(values, "__iter__")
        said += [f"{name} = {_value(field, one)}" for one in (values if many else [values])]
    return said


def _value(field: FieldDescriptor, value: Any) -> str:
    if isinstance(value, Message):
        inner = text_format.MessageToString(value, as_one_line=True, as_utf8=True)
        return f"{{ {inner} }}"
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return str(value) if known is None else known.name
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        return f'"{_quoted(data, is_text=isinstance(value, str))}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quoted(data: bytes, *, is_text: bool) -> str:
    return text_encoding.CEscape(data, is_text)


def _block(head: str, lines: Iterable[str]) -> list[str]:
    inner = [f"{_INDENT}{line}" if line else "" for line in lines]
    return [f"{head} {{", *inner, "}"] if inner else [f"{head} {{", "}"]


def _option_lines(options: Message, context: _Context) -> list[str]:
    return [f"option {said};" for said in _options(options, context)]


def _brackets(said: list[str]) -> str:
    return f" [{', '.join(said)}]" if said else ""


# -- services ---------------------------------------------------------------------------------


def _service(service: ServiceDescriptor, context: _Context) -> list[str]:
    lines = _option_lines(service.GetOptions(), context)
    for method in service.methods:
        lines += _method(method, context)
    return _block(f"service {service.name}", lines)


def _method(method: MethodDescriptor, context: _Context) -> list[str]:
    takes = f"{'stream ' * method.client_streaming}.{method.input_type.full_name}"
    gives = f"{'stream ' * method.server_streaming}.{method.output_type.full_name}"
    head = f"rpc {method.name} ( {takes} ) returns ( {gives} )"
    options = _option_lines(method.GetOptions(), context)
    return _block(head, options) if options else [f"{head};"]


# -- messages ---------------------------------------------------------------------------------


def _message(message: DescriptorProto, context: _Context, full_name: str) -> list[str]:
    maps = {
        f".{full_name}.{nested.name}": nested
        for nested in message.nested_type
        if nested.options.map_entry
    }
    lines = _option_lines(message.options, context)
    done: set[int] = set()
    for field in message.field:
        if not field.HasField("oneof_index") or field.proto3_optional:
            lines.append(_field(field, maps, context))
        elif field.oneof_index not in done:
            done.add(field.oneof_index)
            oneof = message.oneof_decl[field.oneof_index]
            members = [
                _field(each, maps, context)
                for each in message.field
                if each.HasField("oneof_index") and each.oneof_index == field.oneof_index
            ]
            inner = [*_option_lines(oneof.options, context), *members]
            lines += _block(f"oneof {oneof.name}", inner)
    lines += _ranges("extensions", message.extension_range, _MAX_FIELD)
    lines += _ranges("reserved", message.reserved_range, _MAX_FIELD)
    lines += _reserved_names(message.reserved_name)
    for nested in message.nested_type:
        if not nested.options.map_entry:
            lines += _message(nested, context, f"{full_name}.{nested.name}")
    for enum in message.enum_type:
        lines += _enum(enum, context)
    for extension in message.extension:
        lines += _block(f"extend {extension.extendee}", [_field(extension, {}, context)])
    return _block(f"message {message.name}", lines)


def _ranges(word: str, ranges: Iterable[Any], most: int) -> list[str]:
    """Ranges whose ends do not belong to them."""
    said = [
        str(one.start)
        if one.end == one.start + 1
        else f"{one.start} to {'max' if one.end >= most else one.end - 1}"
        for one in ranges
    ]
    return [f"{word} {', '.join(said)};"] if said else []


def _reserved_names(names: Iterable[str]) -> list[str]:
    said = ", ".join(f'"{name}"' for name in names)
    return [f"reserved {said};"] if said else []


def _field(field: FieldDescriptorProto, maps: dict[str, DescriptorProto], context: _Context) -> str:
    entry = maps.get(field.type_name)
    if entry is not None:
        key, value = entry.field
        kind = f"map<{_type(key)}, {_type(value)}>"
    else:
        is_optional = field.label == FieldDescriptorProto.LABEL_OPTIONAL
        in_oneof = field.HasField("oneof_index")
        says_so = field.proto3_optional or (context.is_proto2 and is_optional and not in_oneof)
        label = "optional " if says_so else _LABELS.get(field.label, "")
        kind = f"{label}{_type(field)}"
    said = [f"default = {_default(field)}"] if field.HasField("default_value") else []
    said += _options(field.options, context)
    return f"{kind} {field.name} = {field.number}{_brackets(said)};"


def _default(field: FieldDescriptorProto) -> str:
    if field.type == FieldDescriptorProto.TYPE_STRING:
        return f'"{_quoted(field.default_value.encode(), is_text=True)}"'
    if field.type == FieldDescriptorProto.TYPE_BYTES:  # which is escaped already
        return f'"{field.default_value}"'
    return field.default_value


def _type(field: FieldDescriptorProto) -> str:
    if field.type == FieldDescriptorProto.TYPE_GROUP:
        return f"group {field.type_name}"
    return field.type_name or FieldDescriptorProto.Type.Name(field.type)[5:].lower()


def _lone_field(field: FieldDescriptor, context: _Context) -> list[str]:
    # Any: their scope is not in protobuf's stubs.
    described: Any = field
    containing: Any = field.containing_type
    if not field.is_extension:
        fields = _message_proto(containing).field
    elif described.extension_scope is not None:
        fields = _message_proto(described.extension_scope).extension
    else:
        fields = _file_proto(field).extension
    proto = next(each for each in fields if each.name == field.name)
    maps: dict[str, DescriptorProto] = {}
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        maps[f".{field.message_type.full_name}"] = _message_proto(field.message_type)
    line = _field(proto, maps, context)
    return _block(f"extend .{containing.full_name}", [line]) if field.is_extension else [line]


def _oneof(oneof: OneofDescriptor, context: _Context) -> list[str]:
    return _block(
        f"oneof {oneof.name}",
        [line for field in oneof.fields for line in _lone_field(field, context)],
    )


# -- enums ------------------------------------------------------------------------------------


def _enum(enum: EnumDescriptorProto, context: _Context) -> list[str]:
    lines = _option_lines(enum.options, context)
    lines += [
        f"{value.name} = {value.number}{_brackets(_options(value.options, context))};"
        for value in enum.value
    ]
    lines += _enum_ranges(enum)
    lines += _reserved_names(enum.reserved_name)
    return _block(f"enum {enum.name}", lines)


def _enum_ranges(enum: EnumDescriptorProto) -> Iterator[str]:
    said = [
        str(one.start)
        if one.end == one.start
        else f"{one.start} to {'max' if one.end == _MAX_ENUM else one.end}"
        for one in enum.reserved_range
    ]
    if said:
        yield f"reserved {', '.join(said)};"
