"""Errors by themselves: details, copies, failures, and ``google.rpc.Status``."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import UninterpretedOption
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import EncodeError
from google.protobuf.struct_pb2 import ListValue
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from tests.programs import succeeds
from txzmq.rpc import Code, DeadlineExceeded, NotFound, ResourceExhausted, RpcError, Unknown
from txzmq.rpc.status import from_status, to_status

INFO = ErrorInfo(reason="QUOTA", domain="example.org", metadata={"limit": "5"})
RETRY = RetryInfo(retry_delay=Duration(seconds=1))
FOREIGN = AnyMessage(type_url="type.example.org/acme.Unknown", value=b"\xff\x01")


def raw(details: Iterable[AnyMessage]) -> list[tuple[str, bytes]]:
    """What is in *details*; protobuf on PyPy can compare those only whose types there are."""
    return [(detail.type_url, detail.value) for detail in details]


class QuotaExceeded(ResourceExhausted):
    """As a user writes it: with attributes, and a constructor of its own."""

    def __init__(self, quota: int, *, who: str) -> None:
        super().__init__(f"{who} may have {quota}", details=[INFO], metadata={"quota": str(quota)})
        self.quota = quota
        self.who = who


class Bare(NotFound):
    """One that forgets the constructor of its base."""

    def __init__(self) -> None:
        self.something = 1


# -- details -----------------------------------------------------------------------------------


def test_details_are_packed_and_read_by_type() -> None:
    packed = AnyMessage()
    packed.Pack(RETRY)
    error = RpcError(Code.RESOURCE_EXHAUSTED, "slow down", details=[INFO, packed, FOREIGN, INFO])
    assert error.detail(ErrorInfo) == INFO
    assert error.detail(RetryInfo) == RETRY
    assert error.detail(BadRequest) is None
    assert error.details_of(ErrorInfo) == (INFO, INFO)
    assert error.details_of(BadRequest) == ()
    assert [detail.TypeName() for detail in error.details] == [
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
        "acme.Unknown",
        "google.rpc.ErrorInfo",
    ]
    assert raw(error.details[1:3]) == raw([packed, FOREIGN])


def test_a_detail_is_packed_when_the_error_is_made() -> None:
    info = ErrorInfo(reason="BEFORE")
    error = NotFound("no", details=(one for one in [info]))
    info.reason = "AFTER"
    detail = error.detail(ErrorInfo)
    assert detail is not None
    assert detail.reason == "BEFORE"


@pytest.mark.parametrize(
    "type_url",
    [
        "",
        "/",
        "google.rpc.ErrorInfo",
        "x/google.rpc.ErrorInfo/",
        "x/google.rpc.errorinfo",
        "\udcff",
    ],
)
def test_a_detail_without_the_types_name_is_not_of_the_type(type_url: str) -> None:
    try:
        strange = AnyMessage(type_url=type_url, value=INFO.SerializeToString())
    except (UnicodeEncodeError, ValueError):
        return  # such a text cannot even be received
    assert NotFound("no", details=[strange]).detail(ErrorInfo) is None


def test_what_stands_before_the_name_is_of_no_account() -> None:
    other = AnyMessage(type_url="a.b/c/google.rpc.ErrorInfo", value=INFO.SerializeToString())
    assert NotFound("no", details=[other]).detail(ErrorInfo) == INFO


@given(st.binary(max_size=40), st.sampled_from([ErrorInfo, BadRequest, StringValue]))
def test_no_bytes_of_a_peer_raise_out_of_reading(value: bytes, kind: type[Any]) -> None:
    name = kind.DESCRIPTOR.full_name
    hostile = AnyMessage(type_url=f"type.googleapis.com/{name}", value=value)
    error = NotFound("no", details=[hostile, kind()])
    assert error.details_of(kind)[-1] == kind()
    assert error.details[0] == hostile


def test_a_detail_that_nests_too_deeply_is_left_out() -> None:
    value = b""
    for _ in range(5_000):  # a ListValue in a Value in a ListValue ...
        inner = b"\x32" + _varint(len(value)) + value
        value = b"\x0a" + _varint(len(inner)) + inner
    hostile = AnyMessage(type_url="type.googleapis.com/google.protobuf.ListValue", value=value)
    assert NotFound("no", details=[hostile]).detail(ListValue) is None


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def test_what_cannot_be_a_detail() -> None:
    with pytest.raises(TypeError, match="must be a message, not 'text'"):
        NotFound("no", details=["text"])  # type: ignore[list-item]  # the point of the test
    with pytest.raises(EncodeError):
        NotFound("no", details=[UninterpretedOption(name=[UninterpretedOption.NamePart()])])


def test_a_code_comes_first() -> None:
    with pytest.raises(TypeError, match="a code first, not 'the message'"):
        RpcError("the message")  # type: ignore[arg-type]  # the point of the test
    assert isinstance(RpcError(99), Unknown)  # type: ignore[arg-type]  # as it may arrive


def test_metadata_may_be_a_mapping() -> None:
    metadata: dict[str, str | bytes] = {"a": "1", "b-bin": b"2"}
    error = NotFound("no", metadata=metadata)
    assert error.metadata == (("a", "1"), ("b-bin", b"2"))


# -- copies ------------------------------------------------------------------------------------


def pickled(error: RpcError) -> RpcError:
    copied = pickle.loads(pickle.dumps(error))
    assert isinstance(copied, RpcError)
    return copied


COPIES: list[Callable[[RpcError], RpcError]] = [pickled, copy.copy, copy.deepcopy]


@pytest.mark.parametrize("make_copy", COPIES)
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_copy_has_everything(make_copy: Callable[[RpcError], RpcError], protocol: int) -> None:
    error = QuotaExceeded(5, who="alice")
    error.add_note("a note")
    assert error.of_call("/a.B/C") is error
    if make_copy is pickled:
        copied = pickle.loads(pickle.dumps(error, protocol))
    else:
        copied = make_copy(error)
    assert type(copied) is QuotaExceeded
    assert (copied.quota, copied.who, copied.code) == (5, "alice", Code.RESOURCE_EXHAUSTED)
    assert (str(copied), repr(copied), copied.args) == (str(error), repr(error), error.args)
    assert (raw(copied.details), copied.metadata) == (raw(error.details), error.metadata)
    assert copied.detail(ErrorInfo) == INFO
    assert copied.__notes__ == ["a note"]
    assert copied.method == "/a.B/C"
    assert copied != error, "an exception is equal to itself only"
    assert len({copied, error}) == 2


@pytest.mark.parametrize("make_copy", COPIES)
@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_class_can_be_copied(make_copy: Callable[[RpcError], RpcError], code: Code) -> None:
    error = RpcError(code, "why", details=[FOREIGN])
    copied = make_copy(error)
    assert type(copied) is type(error)
    assert (copied.code, copied.message, raw(copied.details)) == (code, "why", raw([FOREIGN]))


def test_an_error_without_its_base_classs_constructor_can_be_read_and_copied() -> None:
    for error in (Bare(), pickled(Bare())):
        assert (error.code, error.message, error.details) == (Code.NOT_FOUND, "", ())
        assert str(error) == "NOT_FOUND"
        assert vars(error)["something"] == 1


def failure_of(error: Exception) -> Any:  # Any: Twisted's Failure is not typed
    return Failure(error)  # type: ignore[no-untyped-call]  # the same


# -- failures ----------------------------------------------------------------------------------


def test_failures_are_told_apart_by_class() -> None:
    failure = failure_of(RpcError(Code.RESOURCE_EXHAUSTED, "x"))
    assert failure.check(DeadlineExceeded, ResourceExhausted) is ResourceExhausted
    assert failure.check(RpcError) is RpcError
    assert failure.check(NotFound) is None
    assert failure.trap(ResourceExhausted) is ResourceExhausted
    own = failure_of(QuotaExceeded(5, who="bob"))
    assert own.check(ResourceExhausted) is ResourceExhausted
    with pytest.raises(QuotaExceeded):
        own.trap(NotFound)


def test_an_errback_that_traps_passes_the_others_on() -> None:
    results: list[Any] = []

    def on_late(failure: Any) -> str:
        failure.trap(DeadlineExceeded)
        return "late"

    for error in (DeadlineExceeded("x"), NotFound("y")):
        deferred: Deferred[object] = fail(error)
        deferred.addErrback(on_late)
        deferred.addBoth(results.append)
    late, other = results
    assert late == "late"
    assert other.check(NotFound)


def test_a_cause_is_kept_and_a_cleaned_failure_holds_no_frames() -> None:
    failure: Any = None
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise NotFound("no such user") from inner
    except NotFound:
        failure = Failure()  # type: ignore[no-untyped-call]  # Twisted's
    error = failure.value
    assert isinstance(error, NotFound)
    assert isinstance(error.__cause__, KeyError)
    text = "".join(traceback.format_exception(error))
    assert "KeyError: 'inner'" in text
    assert "txzmq.rpc.errors.NotFound: NOT_FOUND: no such user" in text
    failure.cleanFailure()
    assert error.__traceback__ is None
    assert pickled(failure.value).message == "no such user"


# -- google.rpc.Status -------------------------------------------------------------------------


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_an_error_becomes_a_status_and_an_error_again(code: Code) -> None:
    error = RpcError(code, "why", details=[INFO, FOREIGN], metadata={"k": "v"})
    status = to_status(error)
    assert (status.code, status.message) == (int(code), "why")
    again = from_status(Status.FromString(status.SerializeToString()))
    assert again is not None
    assert type(again) is type(error)
    assert (again.code, again.message, raw(again.details)) == (code, "why", raw(error.details))
    assert again.detail(ErrorInfo) == INFO
    assert again.metadata == ()


def test_a_status_of_ok_is_no_error() -> None:
    assert from_status(Status()) is None
    assert from_status(Status(code=0, message="fine")) is None


@pytest.mark.parametrize("number", [-1, 17, 99, 2**31 - 1])
def test_a_status_that_grpc_does_not_define_is_unknown(number: int) -> None:
    error = from_status(Status(code=number, message="?"))
    assert isinstance(error, Unknown)
    assert error.message == "?"


def test_a_message_that_is_no_text_can_be_converted() -> None:
    assert to_status(NotFound("caf\udce9")).message == "caf?"


_WITHOUT = """
import sys
sys.modules["google.rpc"] = None  # as if it were not installed
import txzmq.rpc
error = txzmq.rpc.RpcError(txzmq.rpc.Code.NOT_FOUND, "no")
try:
    import txzmq.rpc.status
except ImportError as error:
    print(error)
"""


def test_the_rpc_layer_does_without_the_extra() -> None:
    names = "[name for name in sys.modules if name.startswith('google.rpc')]"
    assert succeeds(["-c", f"import sys, txzmq.rpc; print({names})"]) == "[]"
    assert "pip install 'txzmq[status]'" in succeeds(["-c", _WITHOUT])


def test_values_of_another_type_are_told_apart() -> None:
    error = NotFound("no", details=[Int64Value(value=1), StringValue(value="1")])
    assert error.detail(Int64Value) == Int64Value(value=1)
    assert error.detail(StringValue) == StringValue(value="1")
