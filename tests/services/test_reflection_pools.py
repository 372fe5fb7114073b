"""Reflection where messages are in several descriptor pools."""

from __future__ import annotations

from typing import Any, ClassVar

from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
)
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.services.reflected import (
    Request,
    World,
    diamond,
    extension,
    file,
    orders,
    pool_of,
)
from txzmq.rpc import (
    Context,
    Method,
    Service,
)
from txzmq.rpc.reflection import (
    ExtensionRequest,
    Reflection,
)

# -- several pools --------------------------------------------------------------------------------


def test_files_of_one_name_are_told_apart_by_the_order_of_the_services() -> None:
    one, other = pool_of(*diamond()), pool_of(file("base.proto", package="other"))
    world = World(orders(one), reflection=Reflection(pools=[other]))
    assert world.files(Request(file_by_filename="base.proto")) == ["base.proto"]
    assert world.files(Request(file_containing_symbol="other.Mbase")) == ["base.proto"]
    by_name, by_symbol = world.ask(
        Request(file_by_filename="base.proto"), Request(file_containing_symbol="other.Mbase")
    )
    told = [
        FileDescriptorProto.FromString(response.file_descriptor_response.file_descriptor_proto[0])
        for response in (by_name, by_symbol)
    ]
    assert [proto.package for proto in told] == ["acme", "other"]
    world.close()


def test_extensions_of_one_message_in_two_pools_are_all_told() -> None:
    more = file("others.proto", "base.proto", package="others")
    extension(more, "acme.Mbase", 150)
    other = pool_of(file("base.proto"), more)
    world = World(orders(pool_of(*diamond())), reflection=Reflection(pools=[other]))
    (response,) = world.ask(Request(all_extension_numbers_of_type="acme.Mbase"))
    assert [*response.all_extension_numbers_response.extension_number] == [100, 101, 150]
    asked = ExtensionRequest(containing_type="acme.Mbase", extension_number=150)
    assert world.files(Request(file_containing_extension=asked))[0] == "others.proto"
    world.close()


def test_messages_without_a_descriptor_are_passed_over() -> None:
    class Raw:
        """What a gateway passes on."""

        def SerializeToString(self) -> bytes:
            return b""

    raw: Any = Raw
    method: Method[Any, Any] = Method("/a.Raw/Call", "call", raw, raw)

    class Gateway:
        __txzmq_service__: ClassVar[Service] = Service("a.Raw", (method,))

        def call(self, request: Any, context: Context) -> Any:
            return request

    world = World(Gateway(), orders(pool_of(*diamond())))
    (response,) = world.ask(Request(list_services=""))
    assert response.list_services_response.service[0].name == "a.Raw"
    assert world.files(Request(file_containing_symbol="acme.Orders"))[0] == "top.proto"
    world.close()


def test_what_several_pools_define_is_told_as_the_server_serves_it() -> None:
    """Whatever the order of the pools."""
    served = pool_of(*diamond())
    base = file("base.proto")
    base.message_type.add(name="Another")
    named_otherwise = file("top2.proto", "base.proto")
    named_otherwise.message_type[0].name = "Mtop"
    other = pool_of(base, named_otherwise)

    message: type[Message] = GetMessageClass(other.FindMessageTypeByName("acme.Another"))
    method = Method("/acme.Others/Do", "do", message, message)

    class Others:
        __txzmq_service__: ClassVar[Service] = Service("acme.Others", (method,))

        def do(self, request: Message, context: Context) -> Message:
            return request

    for services in ([Others(), orders(served)], [orders(served), Others()]):
        world = World(*services)
        assert world.files(Request(file_containing_symbol="acme.Mtop"))[0] == "top.proto"
        assert world.files(Request(file_by_filename="top2.proto"))[0] == "top2.proto"
        assert world.files(Request(file_containing_symbol="acme.Another")) == ["base.proto"]
        world.close()
