"""The contents of one ``_txzmq.py``, as values without behaviour."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["File", "Message", "Method", "Module", "Service", "StreamOptions"]


class Module(NamedTuple):
    """A Python module of messages, and where it stands."""

    #: The proto file that it comes from, as protoc names it.
    proto: str
    #: The parts of its dotted name, below the output folder if it is ours.
    parts: tuple[str, ...]
    #: Whether this run writes it; otherwise it is imported by its absolute name.
    ours: bool


class Message(NamedTuple):
    """A message type, as a method refers to it."""

    #: ``package.Outer.Inner``.
    full_name: str
    #: ``("Outer", "Inner")``: the way to it from its module.
    path: tuple[str, ...]
    module: Module
    #: Whether the message, or its file, is marked deprecated.
    deprecated: bool


class StreamOptions(NamedTuple):
    """``option (txzmq.rpc.v1.stream)``, checked."""

    shared: bool
    replay: int
    resumable: bool


class Method(NamedTuple):
    """One rpc."""

    proto_name: str
    #: The name of the Python method.
    name: str
    request: Message
    response: Message
    client_streaming: bool
    server_streaming: bool
    #: The comment above it in the proto, without the slashes.
    comment: str
    deprecated: bool
    #: The name of the ``google.protobuf.MethodOptions.IdempotencyLevel``.
    idempotency_level: str
    stream: StreamOptions | None
    #: The word that permissions name it by, of its own or its service's; empty for none.
    requires: str


class Service(NamedTuple):
    """One service, and the names of the classes that it becomes."""

    full_name: str
    methods_class: str
    client_class: str
    base_class: str
    unimplemented_class: str
    fake_class: str
    methods: tuple[Method, ...]
    comment: str
    deprecated: bool


class File(NamedTuple):
    """One proto file that has services."""

    proto: str
    #: The generated module of its services.
    module: Module
    services: tuple[Service, ...]
