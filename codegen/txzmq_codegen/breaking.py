"""Compares two states of the protos, and reports the changes that break callers.

The rules, their names and their categories are buf's (https://buf.build/docs/breaking/rules/),
as far as they concern messages and rpcs, so that buf's documentation holds for them. Two rules are
txzmq's own: TXZMQ_RPC_SAME_PYTHON_NAME, for an rpc whose Python name changes because a new rpc of
its service would have the same one; and TXZMQ_RPC_SAME_REQUIRES, for an rpc that requires another
word, its own or its service's, so that servers' tables of permissions let other callers in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FeatureSet,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodOptions,
    ServiceDescriptorProto,
)

from txzmq_codegen.layout import is_below
from txzmq_codegen.names import method_names
from txzmq_codegen.options import required_words
from txzmq_codegen.problems import Problem
from txzmq_codegen.source_info import position
from txzmq_codegen.text import literal

__all__ = ["breaking_changes"]

Category = Literal["FILE", "WIRE"]
_Path = tuple[int, ...]
_Label = FieldDescriptorProto.Label
_Type = FieldDescriptorProto.Type

#: Types by encoding; those of one encoding read each other's bytes.
_WIRE_TYPES: Final[Mapping[int, str]] = {
    **dict.fromkeys(
        (
            _Type.TYPE_INT32,
            _Type.TYPE_INT64,
            _Type.TYPE_UINT32,
            _Type.TYPE_UINT64,
            _Type.TYPE_BOOL,
        ),
        "varint",
    ),
    **dict.fromkeys((_Type.TYPE_SINT32, _Type.TYPE_SINT64), "zigzag"),
    **dict.fromkeys((_Type.TYPE_FIXED32, _Type.TYPE_SFIXED32), "fixed32"),
    **dict.fromkeys((_Type.TYPE_FIXED64, _Type.TYPE_SFIXED64), "fixed64"),
}


class _Element(NamedTuple):
    """An element of a proto that has a full name, and its place."""

    file: FileDescriptorProto
    path: _Path
    full_name: str
    # Any: one of the descriptor protos; each table below holds one kind.
    proto: Any


class _State(NamedTuple):
    """All elements of one state, by their full names."""

    files: Mapping[str, FileDescriptorProto]
    messages: Mapping[str, _Element]
    enums: Mapping[str, _Element]
    services: Mapping[str, _Element]
    extensions: Mapping[str, _Element]


def _state(files: Iterable[FileDescriptorProto]) -> _State:
    state = _State({}, {}, {}, {}, {})
    tables: tuple[dict[str, Any], ...] = tuple(map(dict, state))
    by_name, messages, enums, services, extensions = tables
    for file in files:
        by_name[file.name] = file
        for kind, element in _elements(file):
            {"message": messages, "enum": enums, "service": services, "extension": extensions}[
                kind
            ][element.full_name] = element
    return _State(by_name, messages, enums, services, extensions)


def _elements(file: FileDescriptorProto) -> Iterator[tuple[str, _Element]]:
    prefix = f"{file.package}." if file.package else ""
    number = FileDescriptorProto
    for index, service in enumerate(file.service):
        path = (number.SERVICE_FIELD_NUMBER, index)
        yield "service", _Element(file, path, prefix + service.name, service)
    yield from _nested(
        file,
        (),
        prefix,
        file,
        (number.MESSAGE_TYPE_FIELD_NUMBER, number.ENUM_TYPE_FIELD_NUMBER),
    )


def _nested(
    file: FileDescriptorProto,
    path: _Path,
    prefix: str,
    parent: FileDescriptorProto | DescriptorProto,
    numbers: tuple[int, int],
) -> Iterator[tuple[str, _Element]]:
    messages = (
        parent.message_type if isinstance(parent, FileDescriptorProto) else parent.nested_type
    )
    of_messages, of_enums = numbers
    for index, message in enumerate(messages):
        here = (*path, of_messages, index)
        name = prefix + message.name
        yield "message", _Element(file, here, name, message)
        inner = (
            DescriptorProto.NESTED_TYPE_FIELD_NUMBER,
            DescriptorProto.ENUM_TYPE_FIELD_NUMBER,
        )
        yield from _nested(file, here, f"{name}.", message, inner)
    for index, enum in enumerate(parent.enum_type):
        yield "enum", _Element(file, (*path, of_enums, index), prefix + enum.name, enum)
    for extension in parent.extension:
        yield "extension", _Element(file, path, prefix + extension.name, extension)


def breaking_changes(
    before: FileDescriptorSet,
    after: FileDescriptorSet,
    protos: Collection[str],
    category: Category,
) -> list[Problem]:
    """The breaking changes from *before* to *after*, in the order of the files.

    :param protos: the files of *after* that are compared; the others come from other packages.
    """
    imported = {file.name for file in after.file}.difference(protos)
    ours = [
        file
        for file in before.file
        if file.name not in imported and not is_below(file.name, ("google/protobuf",))
    ]
    comparison = _Comparison(_state(ours), _state(after.file), category)
    comparison.run()
    return sorted(comparison.problems)


class _Comparison:
    """Collects problems; one method per kind of element."""

    def __init__(self, before: _State, after: _State, category: Category) -> None:
        self._before = before
        self._after = after
        self._strict = category == "FILE"
        self.problems: list[Problem] = []

    def run(self) -> None:
        if self._strict:
            self._files()
        self._each("message", self._before.messages, self._after.messages, self._message)
        self._each("enum", self._before.enums, self._after.enums, self._enum)
        self._each("service", self._before.services, self._after.services, self._service)
        self._each("extension", self._before.extensions, self._after.extensions, None)

    def _report(
        self, rule: str, file: FileDescriptorProto, path: _Path, message: str, advice: str
    ) -> None:
        self.problems.append(Problem(position(file, path), message, advice, rule=rule))

    def _files(self) -> None:
        for name, old in self._before.files.items():
            new = self._after.files.get(name)
            if new is None:
                advice = "keep the file, and mark what is in it as deprecated"
                self._report("FILE_NO_DELETE", old, (), f"file {name} was deleted", advice)
                continue
            if new.package != old.package:
                what = f"the package changed from {old.package!r} to {new.package!r}"
                path = (FileDescriptorProto.PACKAGE_FIELD_NUMBER,)
                self._report("FILE_SAME_PACKAGE", new, path, what, "put it into a new file")
            if _syntax(new) != _syntax(old):
                what = f"the syntax changed from {_syntax(old)} to {_syntax(new)}"
                path = (FileDescriptorProto.SYNTAX_FIELD_NUMBER,)
                self._report("FILE_SAME_SYNTAX", new, path, what, "keep the syntax")

    def _each(
        self,
        kind: str,
        before: Mapping[str, _Element],
        after: Mapping[str, _Element],
        compare: Callable[[_Element, _Element], None] | None,
    ) -> None:
        """Compare the elements that are in both states; report those that were deleted."""
        for name, old in before.items():
            new = after.get(name)
            if self._strict:
                self._deleted(kind, old, new)
            if new is not None and compare is not None:
                compare(old, new)

    def _deleted(self, kind: str, old: _Element, new: _Element | None) -> None:
        """Report *old* if its file still exists, without it."""
        file = self._after.files.get(old.file.name)
        if file is None or file.package != old.file.package or _is_synthetic(old.proto):
            return  # the rules for files have said so, or nobody can refer to it
        if new is None or new.file.name != file.name:
            where = f"moved to {new.file.name}" if new is not None else "was deleted"
            what = f"{kind} {old.full_name} {where}"
            advice = "keep it, and mark it as deprecated"
            self._report(f"{kind.upper()}_NO_DELETE", file, (), what, advice)

    def _message(self, old: _Element, new: _Element) -> None:
        before: DescriptorProto = old.proto
        after: DescriptorProto = new.proto
        fields = {field.number: index for index, field in enumerate(after.field)}
        for field in before.field:
            index = fields.get(field.number)
            if index is None:
                self._field_deleted(new, field)
            else:
                path = (*new.path, DescriptorProto.FIELD_FIELD_NUMBER, index)
                there = _Element(new.file, path, new.full_name, after.field[index])
                self._field(_Element(old.file, (), old.full_name, field), there, before, after)
        if self._strict:
            self._oneofs(before, new)
            self._extension_ranges(before, new)
        self._required(before, new)
        self._reserved("RESERVED_MESSAGE_NO_DELETE", "message", before, new)

    def _field_deleted(self, new: _Element, field: FieldDescriptorProto) -> None:
        what = f"field {field.number} ({field.name}) of {new.full_name} was deleted"
        if self._strict:
            advice = "keep it, and mark it as deprecated"
            self._report("FIELD_NO_DELETE", new.file, new.path, what, advice)
        elif not _is_reserved(new.proto, field.number):
            rule = "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED"
            self._report(rule, new.file, new.path, what, f"add: reserved {field.number};")

    def _field(
        self, old: _Element, new: _Element, before: DescriptorProto, after: DescriptorProto
    ) -> None:
        name = f"field {old.proto.number} ({old.proto.name}) of {new.full_name}"

        def same(rule: str, what: str, was: str, is_now: str) -> None:
            if was != is_now:
                message = f"{name} changed its {what} from {was!r} to {is_now!r}"
                self._report(rule, new.file, new.path, message, "add a field with a new number")

        was: FieldDescriptorProto = old.proto
        now: FieldDescriptorProto = new.proto
        if self._strict:
            same("FIELD_SAME_NAME", "name", was.name, now.name)
            if was.name == now.name:
                same("FIELD_SAME_JSON_NAME", "JSON name", was.json_name, now.json_name)
            same("FIELD_SAME_TYPE", "type", _type(was), _type(now))
            old_label, new_label = _cardinality(old, before), _cardinality(new, after)
            same("FIELD_SAME_CARDINALITY", "cardinality", old_label, new_label)
        else:
            if not _wire_compatible(was, now):
                same("FIELD_WIRE_COMPATIBLE_TYPE", "type", _type(was), _type(now))
            repeated = (was.label == _Label.LABEL_REPEATED, now.label == _Label.LABEL_REPEATED)
            if repeated[0] != repeated[1]:
                labels = [_cardinality(old, before), _cardinality(new, after)]
                same("FIELD_WIRE_COMPATIBLE_CARDINALITY", "cardinality", *labels)
        same("FIELD_SAME_ONEOF", "oneof", _oneof(was, before), _oneof(now, after))
        same("FIELD_SAME_DEFAULT", "default value", was.default_value, now.default_value)

    def _oneofs(self, before: DescriptorProto, new: _Element) -> None:
        left = {oneof.name for oneof in new.proto.oneof_decl}
        for name in _oneofs(before):
            if name not in left:
                what = f"oneof {name} of {new.full_name} was deleted"
                self._report("ONEOF_NO_DELETE", new.file, new.path, what, "keep it")

    def _extension_ranges(self, before: DescriptorProto, new: _Element) -> None:
        left = [(it.start, it.end) for it in new.proto.extension_range]
        for it in before.extension_range:
            if not _covered((it.start, it.end), left):
                what = f"extensions {it.start} to {it.end - 1} of {new.full_name} were deleted"
                rule = "EXTENSION_MESSAGE_NO_DELETE"
                self._report(rule, new.file, new.path, what, "keep the range")

    def _required(self, before: DescriptorProto, new: _Element) -> None:
        was, now = _required_fields(before), _required_fields(new.proto)
        for number in sorted(was ^ now):
            verb = "became required" if number in now else "is no longer required"
            what = f"field {number} of {new.full_name} {verb}"
            rule = "MESSAGE_SAME_REQUIRED_FIELDS"
            advice = "keep it as it was: parsers reject messages without a required field"
            self._report(rule, new.file, new.path, what, advice)

    def _reserved(
        self, rule: str, kind: str, before: DescriptorProto | EnumDescriptorProto, new: _Element
    ) -> None:
        left = _reserved_ranges(new.proto)
        for start, end in _reserved_ranges(before):
            if not _covered((start, end), left):
                what = f"reserved {start} to {end - 1} of {kind} {new.full_name} was deleted"
                self._report(rule, new.file, new.path, what, "keep it reserved")
        for name in sorted(set(before.reserved_name) - set(new.proto.reserved_name)):
            what = f'reserved "{name}" of {kind} {new.full_name} was deleted'
            self._report(rule, new.file, new.path, what, "keep it reserved")

    def _enum(self, old: _Element, new: _Element) -> None:
        before: EnumDescriptorProto = old.proto
        after: EnumDescriptorProto = new.proto
        names = _value_names(after)
        for number, was in _value_names(before).items():
            if number in names:
                if self._strict and not was <= names[number]:
                    what = (
                        f"value {number} of {new.full_name} changed its name from "
                        f"{', '.join(sorted(was))} to {', '.join(sorted(names[number]))}"
                    )
                    advice = "keep the old name, as an alias if need be"
                    self._report("ENUM_VALUE_SAME_NAME", new.file, new.path, what, advice)
                continue
            what = f"value {number} ({min(was)}) of {new.full_name} was deleted"
            if self._strict:
                advice = "keep it, and mark it as deprecated"
                self._report("ENUM_VALUE_NO_DELETE", new.file, new.path, what, advice)
            elif not _is_reserved(after, number):
                rule = "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED"
                self._report(rule, new.file, new.path, what, f"add: reserved {number};")
        if _is_closed(old) != _is_closed(new):
            states = ("closed", "open") if _is_closed(old) else ("open", "closed")
            what = f"enum {new.full_name} was {states[0]} and is {states[1]}"
            self._report("ENUM_SAME_TYPE", new.file, new.path, what, "keep its type")
        self._reserved("RESERVED_ENUM_NO_DELETE", "enum", before, new)

    def _service(self, old: _Element, new: _Element) -> None:
        before: ServiceDescriptorProto = old.proto
        after: ServiceDescriptorProto = new.proto
        rpcs = {method.name: index for index, method in enumerate(after.method)}
        python_before = method_names([method.name for method in before.method])
        python_after = method_names(list(rpcs))
        words_before, words_after = required_words(before), required_words(after)
        for method in before.method:
            name = f"rpc {new.full_name}.{method.name}"
            if method.name not in rpcs:
                if self._strict:
                    advice = "keep it, and mark it as deprecated"
                    what = f"{name} was deleted"
                    self._report("RPC_NO_DELETE", new.file, new.path, what, advice)
                continue
            index = rpcs[method.name]
            path = (*new.path, ServiceDescriptorProto.METHOD_FIELD_NUMBER, index)
            pairs = _rpc_properties(method), _rpc_properties(after.method[index])
            for (rule, what, was), (_, _, now) in zip(*pairs, strict=True):
                if was != now:
                    message = f"{name} changed its {what} from {was} to {now}"
                    self._report(rule, new.file, path, message, "add an rpc with a new name")
            was, now = words_before[method.name], words_after[method.name]
            if was != now:
                message = (
                    f"{name} changed the word that it requires from {_word(was)} to {_word(now)}"
                )
                advice = (
                    "keep the word: who may call is changed in the servers' tables of permissions"
                )
                self._report("TXZMQ_RPC_SAME_REQUIRES", new.file, path, message, advice)
            was, now = python_before[method.name], python_after[method.name]
            if self._strict and was != now:
                message = f"{name} changed its Python name from {was} to {now}"
                rule = "TXZMQ_RPC_SAME_PYTHON_NAME"
                self._report(rule, new.file, path, message, "rename the rpc that is new")


def _syntax(file: FileDescriptorProto) -> str:
    if file.syntax == "editions":
        return f"edition {file.edition}"
    return file.syntax or "proto2"


def _is_synthetic(proto: object) -> bool:
    return isinstance(proto, DescriptorProto) and proto.options.map_entry


def _type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return field.type_name.removeprefix(".")
    return _Type.Name(field.type).removeprefix("TYPE_").lower()


def _wire_compatible(was: FieldDescriptorProto, now: FieldDescriptorProto) -> bool:
    if was.type == _Type.TYPE_STRING and now.type == _Type.TYPE_BYTES:
        return True
    old = _WIRE_TYPES.get(was.type)
    return old is not None and old == _WIRE_TYPES.get(now.type)


def _cardinality(field: _Element, message: DescriptorProto) -> str:
    proto: FieldDescriptorProto = field.proto
    if proto.label == _Label.LABEL_REPEATED:
        maps = (it.name for it in message.nested_type if it.options.map_entry)
        entries = {f".{field.full_name}.{name}" for name in maps}
        return "map" if proto.type_name in entries else "repeated"
    return _PRESENCE[_presence(field.file, proto)]


_PRESENCE: Final[Mapping[int, str]] = {
    FeatureSet.LEGACY_REQUIRED: "required",
    FeatureSet.EXPLICIT: "optional with explicit presence",
    FeatureSet.IMPLICIT: "optional with implicit presence",
}


def _presence(file: FileDescriptorProto, field: FieldDescriptorProto) -> int:
    if field.label == _Label.LABEL_REQUIRED:
        return FeatureSet.LEGACY_REQUIRED
    if field.HasField("oneof_index") or field.type in (_Type.TYPE_MESSAGE, _Type.TYPE_GROUP):
        return FeatureSet.EXPLICIT
    if file.syntax == "proto3":
        return FeatureSet.IMPLICIT
    for options in (field.options, file.options):
        if options.features.field_presence:
            return options.features.field_presence
    return FeatureSet.EXPLICIT


def _required_fields(message: DescriptorProto) -> set[int]:
    return {field.number for field in message.field if field.label == _Label.LABEL_REQUIRED}


def _oneof(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return message.oneof_decl[field.oneof_index].name


def _oneofs(message: DescriptorProto) -> Sequence[str]:
    return sorted({_oneof(field, message) for field in message.field} - {""})


def _is_closed(enum: _Element) -> bool:
    if enum.file.syntax == "editions":
        for options in (enum.proto.options, enum.file.options):
            if options.features.enum_type:
                return bool(options.features.enum_type == FeatureSet.CLOSED)
        return False
    return enum.file.syntax != "proto3"


def _value_names(enum: EnumDescriptorProto) -> dict[int, set[str]]:
    names: dict[int, set[str]] = {}
    for value in enum.value:
        names.setdefault(value.number, set()).add(value.name)
    return names


def _reserved_ranges(proto: DescriptorProto | EnumDescriptorProto) -> list[tuple[int, int]]:
    """The ranges, each without its end; an enum's are stored with it."""
    past = 0 if isinstance(proto, DescriptorProto) else 1
    return [(it.start, it.end + past) for it in proto.reserved_range]


def _is_reserved(proto: DescriptorProto | EnumDescriptorProto, number: int) -> bool:
    return any(start <= number < end for start, end in _reserved_ranges(proto))


def _covered(wanted: tuple[int, int], ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether *ranges* together hold every number of *wanted*."""
    start, end = wanted
    for low, high in sorted(ranges):
        if low <= start < high:
            start = high
    return start >= end


def _word(word: str) -> str:
    return literal(word) if word else "none"


def _rpc_properties(method: Any) -> list[tuple[str, str, str]]:
    def side(streams: bool) -> str:
        return "a stream" if streams else "one message"

    level = MethodOptions.IdempotencyLevel.Name(method.options.idempotency_level)
    return [
        ("RPC_SAME_CLIENT_STREAMING", "request side", side(method.client_streaming)),
        ("RPC_SAME_SERVER_STREAMING", "response side", side(method.server_streaming)),
        ("RPC_SAME_REQUEST_TYPE", "request type", method.input_type.removeprefix(".")),
        ("RPC_SAME_RESPONSE_TYPE", "response type", method.output_type.removeprefix(".")),
        ("RPC_SAME_IDEMPOTENCY_LEVEL", "idempotency level", level),
    ]
