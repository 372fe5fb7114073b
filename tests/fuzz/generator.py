"""Broken requests, sets and texts for the generator; the golden protos are the seeds."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from tests.fuzz.harness import ROOT, Broken, Target

#: Where the protos are.
_CASES: Final = ROOT / "tests" / "codegen"
#: What is put in place of names and texts.
TEXTS: Final = (
    *("", "M", "self", "None", "class", "_", "__x", "__init__", "a.b", ".acme.M", "x.proto", "1"),
    *("-o", "@x", "--plugin=protoc-gen-x=x", "../x", "/x", "a\\b", "a//b", "./a", "a b", "ä", '"'),
    *("x\n--x_out=.", '"""', "'''", "\\", "\n", "\x00", "\r", "\u2028", "\ud7ff", "{0}", "%s"),
    *(
        "google/protobuf/descriptor.proto",
        "google.protobuf",
        "txzmq/rpc/v1/options.proto",
        "é" * 99,
    ),
)
#: What is put between the tokens of a text.
TOKENS: Final = (
    *'{ } ; = , . ( ) [ ] < > 0 1 2 -1 1e9 0x7fffffff 536870912 "" \'\' "\\"" /* */ //'.split(),
    *"message enum service rpc returns stream option import public weak package syntax".split(),
    *"edition oneof map reserved extensions extend group repeated optional required".split(),
    *"string int32 bytes to max true inf nan self None class import_ M a.b .M".split(),
    *("deprecated", "json_name"),
    *('"proto2"', '"proto3"', '"2023"', '"2024"', '"x.proto"', "\n", "\ufeff", "\x00", "é"),
)
_TOKEN: Final = re.compile(r"\s+|\w+|\"(?:\\.|[^\"\\\n])*\"|.", re.DOTALL)


@cache
def seed_descriptors() -> FileDescriptorSet:
    """The golden protos, compiled."""
    folder = _CASES / "golden"
    protos = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.proto"))]
    protos = [proto for proto in protos if not proto.startswith("edition_2024")]
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "set")
        include = ROOT / "protos"
        options = ("--include_imports", "--include_source_info", f"-I{folder}", f"-I{include}")
        command = [sys.executable, "-m", "grpc_tools.protoc", *options, f"-o{out}"]
        arguments = [str(folder / proto) for proto in protos]
        subprocess.run([*command, *arguments], check=True, capture_output=True)
        return FileDescriptorSet.FromString(out.read_bytes())


def _with_imports(number: int) -> FileDescriptorSet:
    """One of the seeds, with what it imports."""
    files = {file.name: file for file in seed_descriptors().file}
    wanted: dict[str, None] = {}
    todo = [list(files)[number % len(files)]]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted[name] = None
            todo.extend(files[name].dependency)
    return FileDescriptorSet(file=[files[name] for name in reversed(wanted)])


def _request(number: int) -> bytes:
    files = _with_imports(number).file
    request = CodeGeneratorRequest(file_to_generate=[files[-1].name], proto_file=files)
    return request.SerializeToString()


def _set(number: int) -> bytes:
    return _with_imports(number).SerializeToString()


def _text(number: int) -> bytes:
    return _texts()[number % len(_texts())]


@cache
def _texts() -> list[bytes]:
    """The protos of the cases, those with errors too."""
    found = sorted(
        path for name in ("golden", "errors") for path in _CASES.glob(f"{name}/*/**/*.proto")
    )
    return [path.read_bytes() for path in found if path.is_file()]


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)


# Any: the stubs give descriptors of fields two types, depending on who made them.
def _change(message: Any, field: Any, chance: random.Random) -> None:
    """Change one field of *message* in some way."""
    value = getattr(message, field.name)
    if chance.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None:
        if not field.is_repeated:
            value.SetInParent()
        elif not value or chance.random() < 0.3:
            value.add()
        else:
            value.append(chance.choice(list(value)))
    else:
        new = _value(field, chance)
        if not field.is_repeated:
            setattr(message, field.name, new)
        elif value and chance.random() < 0.7:
            value[chance.randrange(len(value))] = new
        else:
            value.append(new)


def _value(field: Any, chance: random.Random) -> object:
    if field.enum_type is not None:
        return chance.choice(field.enum_type.values).number
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes(chance.choice(TEXTS), "utf-8")
    return chance.choice((0, 1, 2, 15, 19000, 2**29, 2**31 - 1))


def _mutate_message(message: Message, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        some = chance.choice(list(_messages(message)))
        known = [field for field in some.DESCRIPTOR.fields if field.message_type is None]
        used = [field for field, _ in some.ListFields()]
        _change(some, chance.choice(used or known or some.DESCRIPTOR.fields), chance)
    return message.SerializePartialToString()


def mutate_request(data: bytes, chance: random.Random) -> bytes:
    try:
        message = CodeGeneratorRequest.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        return _request(chance.randrange(10_000))
    return _mutate_message(message, chance)


def mutate_set(data: bytes, chance: random.Random) -> bytes:
    try:
        message = FileDescriptorSet.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        return _set(chance.randrange(10_000))
    return _mutate_message(message, chance)


def mutate_text(data: bytes, chance: random.Random) -> bytes:
    tokens = _TOKEN.findall(data.decode("utf-8", "surrogateescape")) or [""]
    for _ in range(chance.randint(1, 4)):
        place, other = (chance.randrange(len(tokens)) for _ in range(2))
        kind = chance.randrange(5)
        if kind == 0:
            tokens[place] = chance.choice(TOKENS)
        elif kind == 1:
            tokens.insert(place, f" {chance.choice(TOKENS)} ")
        elif kind == 2:
            tokens[place], tokens[other] = tokens[other], tokens[place]
        elif kind == 3:
            tokens[place:place] = tokens[place : place + 20]
        elif len(tokens) > 1:
            del tokens[place : place + chance.randint(1, 5)]
            tokens = tokens or [""]
    return "".join(tokens).encode("utf-8", "surrogateescape")


def check_request(data: bytes) -> None:
    """Any request is answered: by an error, or by modules that are Python, below the output."""
    from txzmq_codegen.plugin import plugin

    try:
        request = CodeGeneratorRequest.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        return
    response = plugin(request)
    if response.error and response.file:
        raise Broken("an error, and files")
    for file in response.file:
        if file.name.startswith("/") or {"..", ""}.intersection(file.name.split("/")):
            raise Broken(f"a file outside of the output: {file.name!r}")
        _compile(file.content, file.name)


def _compile(text: str, name: str) -> None:
    try:
        compile(text, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Broken(f"{name} is no Python: {error}") from error


def check_set(data: bytes) -> None:
    _check_command(data, "set.binpb")


def check_text(data: bytes) -> None:
    _check_command(data, "x.proto")


def _check_command(data: bytes, name: str) -> None:
    """The command ends well, or says in what way the input is wrong; and writes Python."""
    from tests.codegen.support import run

    with tempfile.TemporaryDirectory(prefix="txzmq-fuzz-") as temporary:
        folder = Path(temporary)
        (folder / "in").mkdir()
        (folder / "in" / name).write_bytes(data)
        ran = run(f"in/{name}", folder=folder)
        if ran.status not in (0, 1, 2):
            raise Broken(f"exit status {ran.status}\n{ran.err}")
        if ran.status and "error: " not in ran.err:
            raise Broken(f"exit status {ran.status}, and no error")
        if sorted(path.name for path in folder.iterdir()) != (
            ["in"] if ran.status else ["generated", "in"]
        ):
            raise Broken("files outside of the output, or none")
        for path in folder.rglob("generated/**/*.py*"):
            _compile(path.read_bytes().decode("utf-8"), path.name)


_FOLLOWS: Final = ("txzmq_codegen.cli", "txzmq_codegen.plugin")

TARGETS: Final = {
    "request": Target(_request, mutate_request, check_request, 200, _FOLLOWS, any_bytes=False),
    "set": Target(_set, mutate_set, check_set, 20, _FOLLOWS, any_bytes=False),
    "text": Target(_text, mutate_text, check_text, 20, _FOLLOWS, any_bytes=False),
}
