"""Messages as JSON, of services that the gateway does not know: what an Any has, most of all."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed here")
pytest.importorskip("click", reason="the extra cli is not installed")  # the shop is of its tests
pytest.importorskip("rich", reason="the extra cli is not installed")
from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue

from tests.cli.shop import PLACE, PROTOSET, RECEIPT, Shop
from tests.http_gateway.support import JSON, Rig, through
from tests.rpc.service import ECHO
from tests.support import Loop
from txzmq.rpc import Context, Method, Service, raw_method
from txzmq.rpc.method_sources import (
    DescribedMethods,
    FirstOf,
    MethodSource,
    ReflectedMethods,
    ServedMethods,
    standard_methods,
)
from txzmq.rpc.reflection import Reflection


def _more_types() -> DescriptorPool:
    """A pool with a message that no file of the shop imports."""
    pool = DescriptorPool()
    file = FileDescriptorProto(name="acme/gift.proto", package="acme.gift.v1", syntax="proto3")
    field = file.message_type.add(name="Card").field.add(name="words", number=1)
    field.type, field.label = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.LABEL_OPTIONAL
    pool.AddSerializedFile(file.SerializeToString())
    return pool


MORE = _more_types()
CARD: Any = GetMessageClass(MORE.FindMessageTypeByName("acme.gift.v1.Card"))
GIVE = Method("/test.Any/Give", "give", AnyMessage, AnyMessage)


def _service() -> DescriptorPool:
    """A pool with a service that takes an Any and gives it back, and no more."""
    pool = DescriptorPool()
    pool.AddSerializedFile(AnyMessage.DESCRIPTOR.file.serialized_pb)
    file = FileDescriptorProto(name="test/any.proto", package="test", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    method = file.service.add(name="Any").method.add(name="Give")
    method.input_type = method.output_type = ".google.protobuf.Any"
    pool.AddSerializedFile(file.SerializeToString())
    return pool


SERVICE = _service()
SERVICE_ANY: Any = GetMessageClass(SERVICE.FindMessageTypeByName("google.protobuf.Any"))


class Gives:
    """Gives back what it has got; for a text, what nobody can read."""

    __txzmq_service__: ClassVar[Service] = Service("test.Any", (GIVE,))

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def give(self, request: Any, context: Context) -> Any:
        self.seen.append(request)
        if request.type_url.endswith("StringValue"):
            return AnyMessage(type_url="x.org/acme.later.v1.Thing", value=b"\xff")
        return request


class GivesByItsOwnPool(Gives):
    __txzmq_service__ = Service("test.Any", (Method(GIVE.path, "give", SERVICE_ANY, SERVICE_ANY),))


PREFIX = "type.googleapis.com/"


class Counted:
    """Reflection of the server, which counts what it is asked."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        if name == "stream_stream":
            self.asked += 1
        return getattr(self._channel, name)


def described(_: object) -> MethodSource:
    return DescribedMethods.from_file(PROTOSET)


def served(_: object) -> MethodSource:
    return ServedMethods([Gives])


def shop(loop: Loop, case: Any, methods: Any = None) -> None:
    """Run a case with a shop behind the gateway."""
    served = Shop()

    async def body(rig: Rig) -> None:
        http = rig.http()

        async def place(content: str = "{}") -> Any:
            return await http.post(PLACE.path, content=content, headers=JSON)

        await case(served, place)

    through(
        loop,
        body,
        services=[served, Reflection(pools=[MORE])],
        methods=methods or ReflectedMethods,
    )


def test_types_that_the_server_tells(grpc_loop: Loop) -> None:
    counted: list[Any] = []

    def methods(channel: Any) -> MethodSource:
        counted.append(Counted(channel))
        return FirstOf(standard_methods(), ReflectedMethods(counted[0]))

    async def case(served: Shop, place: Any) -> None:
        served.extra = CARD(words="for you")
        card = {"@type": f"{PREFIX}acme.gift.v1.Card", "words": "for you"}
        for _ in range(3):
            response = await place('{"item": "tea"}')
            assert response.json() == {"text": "tea", "extra": card}
        # Which services, the service, and the type: each once.
        assert counted[0].asked == 3

    shop(grpc_loop, case, methods)


def test_types_that_everybody_knows(grpc_loop: Loop) -> None:
    async def case(served: Shop, place: Any) -> None:
        inner = RECEIPT()
        inner.extra.Pack(StringValue(value="x"))
        served.extra = inner
        assert (await place()).json()["extra"] == {
            "@type": f"{PREFIX}acme.shop.v1.Receipt",
            "extra": {"@type": f"{PREFIX}google.protobuf.StringValue", "value": "x"},
        }

    shop(grpc_loop, case)


def test_types_that_nobody_knows(grpc_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txzmq.rpc._any_types._STAND_INS", 3)
    monkeypatch.setattr("txzmq.rpc.method_sources._MOST_TYPES", 4)

    async def case(served: Shop, place: Any) -> None:
        for number in range(5):
            inner = RECEIPT()
            inner.extra.type_url, inner.extra.value = f"x.org/acme.unknown.T{number}", b"\xff"
            served.extra = inner
            shown = (await place()).json()["extra"]["extra"]
            if number < 3:
                assert shown == {"@type": f"x.org/acme.unknown.T{number}", "@value": "/w=="}
            else:  # a pool forgets nothing, so there are not more of them
                assert shown["@type"] == "txzmq/txzmq.unreadable.Any"
                assert shown["value"] == "/w=="

    shop(grpc_loop, case)


def test_bytes_that_are_not_what_they_say(grpc_loop: Loop) -> None:
    async def case(served: Shop, place: Any) -> None:
        inner = RECEIPT()
        inner.extra.type_url, inner.extra.value = "x.org/acme.shop.v1.Order", b"\xff"
        served.extra = inner
        response = await place()
        assert response.json()["extra"]["extra"]["@type"] == "txzmq/txzmq.unreadable.Any"
        served.extra = AnyMessage()
        assert (await place()).status_code == 200

    shop(grpc_loop, case)


def test_what_json_cannot_have(grpc_loop: Loop) -> None:
    async def case(served: Shop, place: Any) -> None:
        served.extra = Timestamp(seconds=10**15)
        response = await place()
        assert response.status_code == 500
        words = "the gateway cannot write the acme.shop.v1.Receipt as JSON: "
        assert response.json()["message"].startswith(words)

    shop(grpc_loop, case)


def test_details_of_errors_are_bytes(grpc_loop: Loop) -> None:
    async def case(served: Shop, place: Any) -> None:
        response = await place('{"item": "nothing"}')
        assert response.status_code == 404
        detail = {"type": "acme.shop.v1.Order", "value": "CgZkZXRhaWw"}
        assert response.json()["details"] == [detail]

    shop(grpc_loop, case)


def test_fields_that_there_are_not_are_left_out(grpc_loop: Loop) -> None:
    async def case(served: Shop, place: Any) -> None:
        response = await place('{"item": "tea", "colour": "green"}')
        assert response.json() == {"text": "tea"}

    shop(grpc_loop, case, described)


def test_raw_methods_have_no_json(grpc_loop: Loop) -> None:
    class Raw:
        def find(self, path: str, /) -> Any:
            return raw_method(path, ECHO.kind)

    def raw(_: object) -> MethodSource:
        return Raw()

    async def body(rig: Rig) -> None:
        response = await rig.http().post(ECHO.path, content="{}", headers=JSON)
        assert response.json()["code"] == "unimplemented"
        assert "the gateway does not know the messages of /test.Echo/Echo" in response.text
        assert response.status_code == 404

    through(grpc_loop, body, methods=raw)


def test_the_pool_of_generated_code_gets_no_stand_ins(grpc_loop: Loop) -> None:
    """Or the module that has the type could not be imported any more."""

    async def body(rig: Rig) -> None:
        content = b'{"@type": "x.org/google.protobuf.StringValue", "value": "give"}'
        response = await rig.http().post(GIVE.path, content=content, headers=JSON)
        assert response.json()["@type"] == "txzmq/txzmq.unreadable.Any"
        with pytest.raises(KeyError):
            descriptor_pool.Default().FindMessageTypeByName("acme.later.v1.Thing")

    given = Gives()
    through(grpc_loop, body, services=[given], methods=served)


def test_types_of_requests(grpc_loop: Loop) -> None:
    """They are looked for as well: the service's own files have no card."""
    given = GivesByItsOwnPool()

    async def body(rig: Rig) -> None:
        http = rig.http()
        for kind, status in (("acme.gift.v1.Card", 200), ("acme.gift.v1.None", 400)):
            content = {"@type": f"{PREFIX}{kind}", "words": "for you"}
            response = await http.post(GIVE.path, json=content)
            assert response.status_code == status
            if status == 200:
                assert response.json() == content
        assert "the gateway cannot read the google.protobuf.Any as JSON" in response.text
        assert len(given.seen) == 1
        assert CARD.FromString(given.seen[0].value) == CARD(words="for you")

    reflection = Reflection(pools=[SERVICE, MORE])
    through(grpc_loop, body, services=[given, reflection], methods=ReflectedMethods)
