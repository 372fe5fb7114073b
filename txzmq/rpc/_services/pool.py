"""The descriptor pool of the standard services' messages.

protobuf's default pool refuses a second file that defines the same names, and grpcio's packages
bring files of their own with these: ``grpc_health/v1/health.proto`` is ours with another name. In
a pool of their own ours do not meet them. The modules of ``grpc`` beside this one are generated so
that they use this module in place of protobuf's; ``make generate`` writes them.
"""

from __future__ import annotations

from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal import enum_type_wrapper
from google.protobuf.message import Message
from google.protobuf.reflection import GeneratedProtocolMessageType

__all__ = ["POOL", "build_messages"]

POOL: Final = DescriptorPool()


def build_messages(file: FileDescriptor, module: str, names: dict[str, Any]) -> None:
    """Make the message classes of a file, and what else its module has, in *names*.

    As protobuf's own builder does, which besides registers the classes in the default pool.

    :param module: the name of the module, which the classes carry, so that messages are pickled.
    """
    for name, enum in file.enum_types_by_name.items():
        names[f"_{name.upper()}"] = enum
        names[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        names.update({value.name: value.number for value in enum.values})
    for name, extension in file.extensions_by_name.items():
        names[f"{name.upper()}_FIELD_NUMBER"] = extension.number
        names[name] = extension
    for name, service in file.services_by_name.items():
        names[f"_{name.upper()}"] = service
    for name, message in file.message_types_by_name.items():
        names[name] = _message(message, module, "")


def _message(message: Descriptor, module: str, prefix: str) -> type[Message]:
    name = f"{prefix}{message.name}"
    attributes: dict[str, Any] = {
        nested: _message(descriptor, module, f"{name}.")
        for nested, descriptor in message.nested_types_by_name.items()
    }
    attributes |= {"DESCRIPTOR": message, "__module__": module, "__qualname__": name}
    made = GeneratedProtocolMessageType(message.name, (Message,), attributes)
    return cast("type[Message]", made)  # the stub knows it as a metaclass alone
