"""What a method requires of its callers: from the option in a proto to a server with a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import MethodDescriptorProto, ServiceDescriptorProto
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.codegen.support import python
from tests.support import examples
from txzmq.rpc import Method
from txzmq.rpc.authorization import permissions
from txzmq_codegen.options import REQUIRES_FIELD, required_words, requires
from txzmq_codegen.wire import delimited


def test_a_generated_service_is_served_by_its_words(golden: Path) -> None:
    said = python(_SERVE, golden, str(REQUIRES_FIELD))
    assert said.splitlines() == ["written", "denied"]


# A process of its own: whoever imports the options has protobuf check them, which other tests of
# this process must not.
_SERVE = """
import sys
from golden.options_requires import options_requires_txzmq as generated
from txzmq.rpc import Channel, Server, Unauthenticated
from txzmq.rpc.authorization import permissions
from txzmq.rpc.v1 import options_pb2
from txzmq.testing import MemoryNetwork

number = int(sys.argv[1])
assert options_pb2.REQUIRES_FIELD_NUMBER == options_pb2.SERVICE_REQUIRES_FIELD_NUMBER == number

def words(base):
    return {method.name: method.requires for method in base.__txzmq_service__.methods}

assert words(generated.OwnBase) == {
    "open": "", "write": "orders.write", "watch": "orders.read", "upload": "orders:write",
    "chat": "!#$%&'()+,-.09:;<=>?@AZ[]^_`az{|}~",
}
assert words(generated.OfServiceBase) == {
    "read": "stock", "watch": "stock", "upload": "stock", "chat": "stock", "write": "stock.write",
}

class Own(generated.UnimplementedOwnBase):
    def write(self, request, context):
        return request

network = MemoryNetwork()
for service in (Own(), generated.UnimplementedOfServiceBase()):
    for authorize in (None, permissions({"*": {"*"}})):
        try:
            Server(network, [service], authorize=authorize)
        except ValueError:
            continue
        raise AssertionError("a server without the words")

table = dict.fromkeys(filter(None, words(generated.OwnBase).values()), {"staff"})
table["orders.write"] = {"anybody"}
server = Server(network, [Own()], authorize=permissions(table))
server.listen("inproc://own")
channel = Channel(network, "inproc://own")
client = generated.OwnClient(channel)
request = generated.OwnMethods.write.request_type()
assert network.result(client.write(request)) == request
print("written")
try:
    network.result(client.upload([request]))
except Unauthenticated:
    print("denied")
channel.close()
server.stop(0)
network.advance(1)
"""


def described(
    word: bytes | None, of_service: bytes | None
) -> tuple[ServiceDescriptorProto, MethodDescriptorProto]:
    service = ServiceDescriptorProto(name="S")
    method = service.method.add(name="Do")
    for element, value in ((method, word), (service, of_service)):
        if value is not None:
            element.options.MergeFromString(delimited(REQUIRES_FIELD, value))
    return service, method


@given(
    st.none() | st.text().map(str.encode) | st.from_regex(rb"[!-~]{1,8}", fullmatch=True),
    st.none() | st.just(b"of.service"),
)
@settings(max_examples=examples(300))
@example(b"orders.write\n", None)
@example(b"", b"of.service")
@example(b"\xff", None)
@example(b"\xd9\xa1", None)  # a digit of another script
def test_what_the_generator_lets_through_is_what_the_runtime_takes(
    word: bytes | None, of_service: bytes | None
) -> None:
    service, method = described(word, of_service)
    found, complaint = requires(method)
    if complaint is None:
        effective = required_words(service)["Do"]
        assert effective == (found or (of_service or b"").decode())
        made = Method("/a.B/C", "c", StringValue, StringValue, requires=effective)
        if effective:
            permissions({effective: {"staff"}}).for_methods([made])
    else:
        assert word is not None
        assert complaint[0].startswith("(txzmq.rpc.v1.requires) on rpc Do is ")
        if word:  # an empty one is none to the runtime
            with pytest.raises(ValueError, match="is no word"):
                Method("/a.B/C", "c", StringValue, StringValue, requires=found)


def test_the_last_of_several_words_counts_as_for_any_parser() -> None:
    service, method = described(b"first", None)
    method.options.MergeFromString(delimited(REQUIRES_FIELD, b"last"))
    assert requires(method) == ("last", None)
    assert required_words(service) == {"Do": "last"}
