"""What mypy-protobuf is given: the descriptors, without what it makes wrong stubs of.

It derives modules from the names of files, takes the options of others for its own, and has names
of its own in each stub, which those of messages may hide. So files get the names of our modules,
options that are not its own go, and names that it cannot cope with are replaced by *stand-ins*:
``restored`` puts the true names into the stub.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FieldOptions,
    FileDescriptorProto,
    SourceCodeInfo,
)

from txzmq_codegen.batches import with_imports
from txzmq_codegen.casts import CASTS, is_genuine
from txzmq_codegen.layout import Layout, protoc_module
from txzmq_codegen.names import KEYWORDS
from txzmq_codegen.source_info import as_text, locations
from txzmq_codegen.wire import selected

__all__ = ["LEFT_OUT_VALUES", "METHODS", "StubInput", "plain", "restored"]

#: The attributes of every message, which a field may hide.
METHODS: Final = frozenset(
    "ByteSize Clear ClearExtension ClearField CopyFrom DiscardUnknownFields Extensions "
    "FindInitializationErrors FromString HasExtension HasField IsInitialized ListFields MergeFrom "
    "MergeFromString ParseFromString SerializePartialToString SerializeToString SetInParent "
    "UnknownFields WhichOneof".split()
)

#: A stand-in holds the letters of the true name: it is the same in every run, and in capitals, as
#: the name is in the constant of a field's number.
_STAND_IN: Final = re.compile(r"TXZMQ_((?:[0-9A-F]{2})+)_")
#: The enums whose helper, which has an underscore in front, could be one of the stub's own names.
_ENUM_LIKE_ALIAS: Final = re.compile(r"[a-z]|TypeAlias$|Never$|HasField|ClearField|WhichOneof")
#: The options of fields with lower numbers are protobuf's own.
_FIRST_EXTENSION: Final = 1000
#: mypy-protobuf leaves out values that are keywords.
_LEFT_OUT: Final = "None"
#: Would hide the type of an enum's values, which exists in stubs only.
_VALUE_TYPE: Final = "ValueType"
#: The values of enums that no stub has.
LEFT_OUT_VALUES: Final = KEYWORDS | {_VALUE_TYPE}


def _stand_in(name: str) -> str:
    return f"TXZMQ_{name.encode().hex().upper()}_"


def _true_name(match: re.Match[str]) -> str:
    return bytes.fromhex(match[1]).decode()


def plain(name: str) -> str:
    """*name*, or its stand-in if it may be one of mypy-protobuf's own names."""
    return _stand_in(name) if name.startswith(_OWN_NAMES) or name == "self_" else name


#: How mypy-protobuf's own names begin, and stand-ins. Beside a field ``self`` it has a ``self_``.
_OWN_NAMES: Final = ("_", "Global___", "TXZMQ_")
#: How the names begin that need a closer look.
_SUSPECT: Final = frozenset("_GTs")


class StubInput:
    """The descriptors of one run, as mypy-protobuf is to see them."""

    def __init__(self, files: Iterable[FileDescriptorProto], layout: Layout) -> None:
        """Look through *files*: those to generate, and all that they import."""
        self._files = {file.name: file for file in files}
        self._names = {name: _file_name(name, layout) for name in self._files}
        self._has_casts = any(map(is_genuine, self._files.values()))
        #: Whether there are options that are not unknown to this process: mypy-protobuf's, and what
        #: others have registered if this is not a process of the generator's own.
        self._knows_options = self._has_casts or bool(
            descriptor_pool.Default().FindAllExtensions(FieldOptions.DESCRIPTOR)
        )
        #: The names of messages and enums that are replaced, by the full names.
        self._types: dict[str, str] = {}
        for file in self._files.values():
            prefix = f".{file.package}." if file.package else "."
            self._look_at_enums(file.enum_type, prefix)
            for message in file.message_type:
                self._look_at(message, prefix, _is_hidden(message))

    def _look_at(self, message: DescriptorProto, prefix: str, hidden: bool = False) -> None:
        full_name = prefix + message.name
        name = _stand_in(message.name) if hidden else plain(message.name)
        if message.name in KEYWORDS:
            name = f"_r_{message.name}"
        if name != message.name:
            self._types[full_name] = name
        if message.enum_type:
            self._look_at_enums(message.enum_type, f"{full_name}.")
        for nested in message.nested_type:
            self._look_at(nested, f"{full_name}.")

    def _look_at_enums(self, enums: Iterable[EnumDescriptorProto], prefix: str) -> None:
        for enum in enums:
            like_alias = _ENUM_LIKE_ALIAS.match(enum.name) and enum.name not in KEYWORDS
            name = _stand_in(enum.name) if like_alias else plain(enum.name)
            if name != enum.name:
                self._types[prefix + enum.name] = name

    def name(self, proto: str) -> str:
        """The name that mypy-protobuf knows *proto* by."""
        return self._names[proto]

    def imports(self, protos: Iterable[str]) -> Sequence[str]:
        """*protos* and all that they import, imports first."""
        return with_imports(protos, self._files)

    def encoded(self, proto: str, *, comments: bool) -> bytes:
        """The descriptor of one file.

        :param comments: whether its comments are needed: it is to have a stub.
        """
        original = self._files[proto]
        file = FileDescriptorProto()
        file.CopyFrom(original)
        file.name = self._names[proto]
        file.dependency[:] = [self._names[name] for name in original.dependency]
        del file.service[:]
        file.ClearField("source_code_info")
        if not self._has_casts:
            file.DiscardUnknownFields()
        prefix = f".{file.package}." if file.package else "."
        self._rewrite_enums(file.enum_type, prefix)
        self._rewrite_fields(file.extension)
        for message in file.message_type:
            self._rewrite(message, prefix)
        if comments:
            for location in locations(original):
                if (
                    location.leading_comments
                    or location.trailing_comments
                    or location.leading_detached_comments
                ):
                    _add_comments(file.source_code_info.location.add(path=location.path), location)
        return file.SerializeToString()

    def _rewrite(self, message: DescriptorProto, prefix: str) -> None:
        full_name = prefix + message.name
        message.name = self._types.get(full_name, message.name)
        self._rewrite_fields(message.field)
        if message.extension:
            self._rewrite_fields(message.extension)
        if message.enum_type:
            self._rewrite_enums(message.enum_type, f"{full_name}.")
        for nested in message.nested_type:
            self._rewrite(nested, f"{full_name}.")

    def _rewrite_fields(self, fields: Iterable[FieldDescriptorProto]) -> None:
        for field in fields:
            if field.name[0] in _SUSPECT:
                field.name = plain(field.name)
            if self._knows_options and field.HasField("options"):
                self._strip(field.options)
            if self._types and field.type_name:
                field.type_name = self._type(field.type_name)
            if field.extendee:
                field.extendee = self._type(field.extendee)

    def _strip(self, options: FieldOptions) -> None:
        """Remove all options but protobuf's own, and but mypy-protobuf's if they are its own."""
        data = options.SerializeToString()
        casts = CASTS if self._has_casts else ()
        options.ParseFromString(
            selected(data, lambda number: number < _FIRST_EXTENSION or number in casts)
        )

    def _rewrite_enums(self, enums: Iterable[EnumDescriptorProto], prefix: str) -> None:
        for enum in enums:
            enum.name = self._types.get(prefix + enum.name, enum.name)
            for value in enum.value:
                if value.name[0] in _SUSPECT:
                    value.name = plain(value.name)
                elif value.name == _VALUE_TYPE:
                    value.name = _LEFT_OUT

    def _type(self, full_name: str) -> str:
        """The name of a type with those around it replaced."""
        at, parts = 0, list[str]()
        while at >= 0:
            end = full_name.find(".", at + 1)
            known = full_name if end < 0 else full_name[:end]
            name = self._types.get(known)
            parts.append(known[at:] if name is None else f".{name}")
            at = end
        return "".join(parts)


def _add_comments(copy: SourceCodeInfo.Location, location: SourceCodeInfo.Location) -> None:
    """Give *copy* the comments of *location*, which need not be UTF-8."""
    if location.leading_comments:
        copy.leading_comments = as_text(location.leading_comments)
    if location.trailing_comments:
        copy.trailing_comments = as_text(location.trailing_comments)
    copy.leading_detached_comments.extend(map(as_text, location.leading_detached_comments))


def _file_name(proto: str, layout: Layout) -> str:
    """The name of a file from which mypy-protobuf derives the name of our module.

    It derives modules as protoc does, and folders may have names that Python cannot import.
    """
    parts = layout.module(proto).parts
    if ".".join(parts) == protoc_module(proto):
        return proto
    return "/".join(parts).removesuffix("_pb2") + ".proto"


def _is_hidden(message: DescriptorProto) -> bool:
    """Whether, inside of its class, the name of a message with enums means something else."""
    return _has_enums(message) and (message.name in METHODS or message.name in _members(message))


def _has_enums(message: DescriptorProto) -> bool:
    return bool(message.enum_type) or any(map(_has_enums, message.nested_type))


def _members(message: DescriptorProto) -> Iterator[str]:
    for part in (message.field, message.extension, message.enum_type):
        yield from (element.name for element in part)
    for enum in message.enum_type:
        yield from (value.name for value in enum.value)
    for nested in message.nested_type:
        yield nested.name
        yield from _members(nested)


def restored(stub: str) -> str:
    """A stub with the true names in place of the stand-ins.

    mypy-protobuf's own names that are among them get a trailing ``_0``.
    """
    if "TXZMQ_" not in stub:
        return stub
    true = {match[0]: _true_name(match) for match in _STAND_IN.finditer(stub)}
    taken = frozenset(name for name in true.values() if plain(name) != name)
    lines = stub.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(stub).readline))
    # From the end, so that the places before stay true.
    for index in range(len(tokens) - 1, -1, -1):
        token = tokens[index]
        around = (tokens[index - 1].string if index else "", tokens[index + 1 : index + 2])
        text = _restored(token, around[0], around[1][0].string if around[1] else "", true, taken)
        if text != token.string:
            (row, start), (_, end) = token.start, token.end
            lines[row - 1] = lines[row - 1][:start] + text + lines[row - 1][end:]
    return "".join(lines)


def _restored(
    token: tokenize.TokenInfo,
    before: str,
    after: str,
    true: Mapping[str, str],
    taken: frozenset[str],
) -> str:
    text = token.string
    if token.type == tokenize.STRING:
        # The name of a field or oneof, in a Literal; never a docstring.
        return _STAND_IN.sub(_true_name, text) if _IN_LITERAL.fullmatch(text) else text
    if token.type != tokenize.NAME:
        return text
    if text in true:
        # Inside of its class, the bare name of the class may mean one of its members.
        qualifies = after == "." and before not in (".", "@")
        return f"Global___{text}" if qualifies else true[text]
    number = text.removesuffix("_FIELD_NUMBER")
    if number != text and number in true:
        return f"{true[number].upper()}_FIELD_NUMBER"
    if text in taken and text not in _OF_RUNTIME and not _is_in_module(token):
        return f"{text}_0"
    return text


def _is_in_module(token: tokenize.TokenInfo) -> bool:
    """Whether it is in the name of a module that something is imported from."""
    end = token.line.find(" import ")
    return token.line.startswith("from ") and token.start[1] < end


_IN_LITERAL: Final = re.compile(rf'b?"{_STAND_IN.pattern}"')
#: Names of the runtime that the stub uses; mypy-protobuf has none like them.
_OF_RUNTIME: Final = frozenset({"_EnumTypeWrapper", "_ExtensionFieldDescriptor"})
