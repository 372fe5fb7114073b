"""From descriptors to the model; finds everything that is wrong in the protos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
    SourceCodeInfo,
)

from txzmq_codegen import names, options
from txzmq_codegen.layout import Layout, collisions, is_importable
from txzmq_codegen.model import File, Message, Method, Service
from txzmq_codegen.problems import Position, Problem, Problems
from txzmq_codegen.source_info import as_text, locations

__all__ = ["load"]

# Field numbers, of which the paths of SourceCodeInfo consist.
_SERVICE: Final = FileDescriptorProto.SERVICE_FIELD_NUMBER
_METHOD: Final = ServiceDescriptorProto.METHOD_FIELD_NUMBER
_INPUT: Final = MethodDescriptorProto.INPUT_TYPE_FIELD_NUMBER
_OUTPUT: Final = MethodDescriptorProto.OUTPUT_TYPE_FIELD_NUMBER
_OPTIONS: Final = MethodDescriptorProto.OPTIONS_FIELD_NUMBER
_SERVICE_OPTIONS: Final = ServiceDescriptorProto.OPTIONS_FIELD_NUMBER

_Path = tuple[int, ...]


def load(
    protos: Sequence[FileDescriptorProto], to_generate: Iterable[str], layout: Layout
) -> list[File]:
    """The model of each file of *to_generate* that has services, in that order.

    :param protos: those files and all that they import.
    :raises Problems: with all problems of all files.
    """
    by_name = {proto.name: proto for proto in protos}
    messages = _Messages(protos, layout)
    problems = collisions(layout)
    files: list[File] = []
    for name in to_generate:
        loader = _Loader(by_name[name], layout, messages)
        files.extend(loader.file())
        problems.extend(sorted(loader.problems))
    if problems:
        raise Problems(problems)
    return files


class _Messages:
    """Finds the messages that methods refer to."""

    def __init__(self, protos: Sequence[FileDescriptorProto], layout: Layout) -> None:
        self._layout = layout
        self._files: dict[str, str] = {}
        self._deprecated: set[str] = set()
        self._found: dict[str, Message] = {}
        self._packages = {proto.name: proto.package for proto in protos}
        for proto in protos:
            prefix = f"{proto.package}." if proto.package else ""
            for message in proto.message_type:
                self._add(f"{prefix}{message.name}", message, proto)

    def _add(self, full_name: str, message: DescriptorProto, file: FileDescriptorProto) -> None:
        self._files[full_name] = file.name
        if message.options.deprecated or file.options.deprecated:
            self._deprecated.add(full_name)
        for nested in message.nested_type:
            self._add(f"{full_name}.{nested.name}", nested, file)

    def __getitem__(self, type_name: str) -> Message:
        message = self._found.get(type_name)
        if message is None:
            message = self._found[type_name] = self._find(type_name)
        return message

    def _find(self, type_name: str) -> Message:
        full_name = type_name.removeprefix(".")
        file = self._files[full_name]
        package = self._packages[file]
        path = full_name[len(package) + 1 :] if package else full_name
        deprecated = full_name in self._deprecated
        return Message(full_name, tuple(path.split(".")), self._layout.module(file), deprecated)


class _Source:
    """Comments and positions of the services of one file."""

    def __init__(self, proto: FileDescriptorProto) -> None:
        self._file = proto.name
        self._places = {
            tuple(path): location
            for location in locations(proto)
            if (path := location.path) and path[0] == _SERVICE
        }

    def position(self, *path: int) -> Position:
        """Where the element at *path* begins, or the nearest one around it that is known."""
        for end in range(len(path), 0, -1):
            location = self._places.get(path[:end])
            if location is not None:
                return Position.at(self._file, location.span)
        return Position(self._file)

    def comment(self, *path: int) -> str:
        """The comment that belongs to the element at *path*."""
        location = self._places.get(path)
        return "" if location is None else _comment(location)


def _comment(location: SourceCodeInfo.Location) -> str:
    text = as_text(location.leading_comments or location.trailing_comments)
    lines = text.replace("\r\n", "\n").split("\n")
    lines[0] = lines[0].removeprefix("*")  # of /** ... */: protoc takes one star for the opening
    if all(line.startswith(" ") for line in lines if line.strip()):
        lines = [line[1:] for line in lines]
    return "\n".join(line.rstrip() for line in lines).strip("\n")


class _Loader:
    """Loads one file; collects its problems."""

    def __init__(self, proto: FileDescriptorProto, layout: Layout, messages: _Messages) -> None:
        self._proto = proto
        self._layout = layout
        self._messages = messages
        self._source = _Source(proto) if proto.service else None
        self.problems: list[Problem] = []

    def file(self) -> Iterator[File]:
        """The file, if it has services."""
        proto = self._proto
        if not proto.service:
            return
        classes = names.service_classes(service.name for service in proto.service)
        services = tuple(
            self._service(index, service, classes[service.name])
            for index, service in enumerate(proto.service)
        )
        yield File(proto.name, self._layout.module(proto.name, "_txzmq"), services)

    def _position(self, *path: int) -> Position:
        assert self._source is not None
        return self._source.position(*path)

    def _comment(self, *path: int) -> str:
        assert self._source is not None
        return self._source.comment(*path)

    def _service(
        self, index: int, service: ServiceDescriptorProto, classes: names.ServiceClasses
    ) -> Service:
        package = self._proto.package
        full_name = f"{package}.{service.name}" if package else service.name
        deprecated = service.options.deprecated or self._proto.options.deprecated
        python_names = names.method_names([method.name for method in service.method])
        self._check_names(index, service, python_names)
        self._check_requires((_SERVICE, index, _SERVICE_OPTIONS), service)
        words = options.required_words(service)
        return Service(
            full_name=full_name,
            methods_class=classes.methods,
            client_class=classes.client,
            base_class=classes.base,
            unimplemented_class=classes.unimplemented,
            fake_class=classes.fake,
            methods=tuple(
                self._method(
                    (_SERVICE, index, _METHOD, number),
                    method,
                    python_names[method.name],
                    words[method.name],
                )
                for number, method in enumerate(service.method)
            ),
            comment=self._comment(_SERVICE, index),
            deprecated=deprecated,
        )

    def _check_names(
        self, index: int, service: ServiceDescriptorProto, python_names: Mapping[str, str]
    ) -> None:
        """Report rpcs that would share a Python name."""
        sharing: defaultdict[str, list[int]] = defaultdict(list)
        for number, method in enumerate(service.method):
            sharing[python_names[method.name]].append(number)
        for name, (first, *others) in sharing.items():
            for other in others:
                place = self._position(_SERVICE, index, _METHOD, first)
                self.problems.append(
                    Problem(
                        self._position(_SERVICE, index, _METHOD, other),
                        f"rpc {service.method[other].name} and rpc {service.method[first].name} "
                        f"(line {place.line}) would both become the Python method {name}",
                        "rename one of them",
                    )
                )

    def _check_requires(
        self, path: _Path, element: MethodDescriptorProto | ServiceDescriptorProto
    ) -> None:
        """Report a word that is none; *path* is that of the element's options."""
        _, complaint = options.requires(element)
        if complaint is not None:
            position = self._position(*path, options.REQUIRES_FIELD)
            self.problems.append(Problem(position, *complaint))

    def _method(
        self, path: _Path, method: MethodDescriptorProto, name: str, requires: str
    ) -> Method:
        level = method.options.idempotency_level
        self._check_requires((*path, _OPTIONS), method)
        return Method(
            proto_name=method.name,
            name=name,
            request=self._message((*path, _INPUT), method.input_type),
            response=self._message((*path, _OUTPUT), method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
            comment=self._comment(*path),
            deprecated=method.options.deprecated,
            idempotency_level=MethodOptions.IdempotencyLevel.Name(level),
            stream=self._stream_options(path, method),
            requires=requires,
        )

    def _message(self, path: _Path, type_name: str) -> Message:
        message = self._messages[type_name]
        parts = message.module.parts
        if not is_importable(parts):
            self.problems.append(
                Problem(
                    self._position(*path),
                    f"{message.full_name} is in the module {'.'.join(parts)} of "
                    f"{message.module.proto}, which no import statement can name",
                    "rename that file or its folders; python -m txzmq.codegen does so itself for "
                    "files that it generates",
                )
            )
        return message

    def _stream_options(
        self, path: _Path, method: MethodDescriptorProto
    ) -> options.StreamOptions | None:
        stream, complaint = options.stream_options(method)
        if complaint is not None:
            position = self._position(*path, _OPTIONS, options.STREAM_FIELD)
            self.problems.append(Problem(position, *complaint))
        return stream
