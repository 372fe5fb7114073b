"""Generated fake clients: they answer as told, and record what they were asked."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from tests.codegen.support import importable
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import COLLECT, COUNT
from tests.support import error_of
from txzmq.rpc import NotFound, ResponseStream, Unimplemented
from txzmq.testing import FakeCaller, calls

T = TypeVar("T")


# Any: the fixture generates these, so no type checker can know them; test_types.py checks types.
class Kinds(NamedTuple):
    """What the golden case "kinds", which has a method of each kind, becomes."""

    fake: Any
    client: Any
    methods: Any
    base: Any
    unimplemented: Any
    q: Any
    a: Any


@pytest.fixture(scope="module")
def kinds(golden: Path) -> Kinds:
    with importable(golden):
        services = importlib.import_module("golden.kinds.kinds_txzmq")
        messages = importlib.import_module("golden.kinds.kinds_pb2")
    return Kinds(
        services.KindsFakeClient,
        services.KindsClient,
        services.KindsMethods,
        services.KindsBase,
        services.UnimplementedKindsBase,
        messages.Q,
        messages.A,
    )


def now(awaitable: Awaitable[T]) -> T:
    """The result of something that must not have to wait."""

    async def wait() -> T:
        return await awaitable

    results: list[T | Failure] = []
    Deferred.fromCoroutine(wait()).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


async def items(stream: ResponseStream[T]) -> list[T]:
    return [item async for item in stream]


def test_a_fake_is_a_client(kinds: Kinds) -> None:
    assert isinstance(kinds.fake(), kinds.client)
    public = {name for name in dir(kinds.client) if not name.startswith("_")}
    assert public == {"unary", "watch", "upload", "chat"}


def test_a_value_is_the_answer(kinds: Kinds) -> None:
    answer = kinds.a()
    fake = kinds.fake(unary=answer, watch=[answer, answer], upload=answer, chat=iter([answer]))
    assert now(fake.unary(kinds.q())) == answer
    assert now(items(fake.watch(kinds.q()))) == [answer, answer]
    assert now(items(fake.watch(kinds.q()))) == [answer, answer]
    assert now(fake.upload([kinds.q()])) == answer
    assert now(items(fake.chat([]))) == [answer]


def test_an_exception_is_the_answer(kinds: Kinds) -> None:
    error = NotFound("gone")
    fake = kinds.fake(unary=error, watch=error, upload=error, chat=error)
    for result in (
        fake.unary(kinds.q()),
        items(fake.watch(kinds.q())),
        fake.upload([]),
        items(fake.chat([])),
    ):
        with pytest.raises(NotFound, match="gone"):
            now(result)


@pytest.mark.parametrize("wrong", ["x", 5, StringValue(), StringValue])
def test_a_wrong_answer_is_told_at_the_call(kinds: Kinds, wrong: Any) -> None:
    fake = kinds.fake(unary=wrong, watch=wrong, upload=wrong, chat=wrong)
    wanted: list[tuple[str, Any, str]] = [
        ("unary", kinds.q(), "A"),
        ("watch", kinds.q(), "an iterable of A"),
        ("upload", [], "A"),
        ("chat", [], "an iterable of A"),
    ]
    for name, given, due in wanted:
        with pytest.raises(TypeError) as caught:
            getattr(fake, name)(given)
        told = f"the answer of {name} must be {due}, an exception or a function, not "
        assert str(caught.value).startswith(told)
        assert ("; pass an instance, " in str(caught.value)) is isinstance(wrong, type)


def nothing(given: object) -> object:
    return None


def a_deferred(given: object) -> object:
    return succeed(StringValue())


async def a_coroutine(given: object) -> object:
    return StringValue()


@pytest.mark.parametrize("answer", [nothing, a_deferred, a_coroutine])
def test_a_function_that_answers_wrongly_is_told(kinds: Kinds, answer: object) -> None:
    fake = kinds.fake(unary=answer, upload=answer, watch=answer)
    for result, due in (
        (fake.unary(kinds.q()), "the answer of unary must be A, not "),
        (fake.upload([]), "the answer of upload must be A, not "),
        (items(fake.watch(kinds.q())), "the answer of watch must be an iterable of A, not "),
    ):
        with pytest.raises(TypeError, match=due):
            now(result)


def test_a_wrong_item_is_told(kinds: Kinds) -> None:
    fake = kinds.fake(chat=[kinds.a(), "x"])
    with pytest.raises(TypeError, match="an item of the answer of chat must be A, not 'x'"):
        now(items(fake.chat([])))


def test_a_function_gets_the_request(kinds: Kinds) -> None:
    seen: list[object] = []

    def answer(request: object) -> object:
        seen.append(request)
        return kinds.a()

    request = kinds.q()
    assert now(kinds.fake(unary=answer).unary(request)) == kinds.a()
    assert seen == [request]


def test_a_function_may_do_what_a_handler_may(kinds: Kinds) -> None:
    async def coroutine(request: object) -> object:
        return await succeed(kinds.a())

    def deferred(request: object) -> Deferred[object]:
        return succeed(kinds.a())

    def raises(request: object) -> object:
        raise NotFound("no")

    assert now(kinds.fake(unary=coroutine).unary(kinds.q())) == kinds.a()
    assert now(kinds.fake(unary=deferred).unary(kinds.q())) == kinds.a()
    with pytest.raises(NotFound, match="no"):
        now(kinds.fake(unary=raises).unary(kinds.q()))


def test_streams_are_read_as_they_are_needed(kinds: Kinds) -> None:
    sent: list[int] = []

    def requests() -> Iterator[object]:
        for number in range(3):
            sent.append(number)
            yield kinds.q()

    async def echo(requests: AsyncIterator[object]) -> AsyncIterator[object]:
        async for _ in requests:
            yield kinds.a()

    fake = kinds.fake(chat=echo)
    stream = fake.chat(requests())
    assert sent == []
    assert now(anext(stream)) == kinds.a()
    assert sent == [0]
    (call,) = calls(fake, kinds.methods.chat)
    assert call.requests == [kinds.q()]
    assert len(now(items(stream))) == 2
    assert len(call.requests) == 3


def test_a_stream_may_fail_after_some_items(kinds: Kinds) -> None:
    async def watch(request: object) -> AsyncIterator[object]:
        yield kinds.a()
        raise NotFound("gone")

    stream = kinds.fake(watch=watch).watch(kinds.q())
    assert now(anext(stream)) == kinds.a()
    with pytest.raises(NotFound, match="gone"):
        now(anext(stream))


def test_a_cancelled_stream_raises(kinds: Kinds) -> None:
    stream = kinds.fake(watch=[kinds.a()]).watch(kinds.q())
    stream.cancel()
    with pytest.raises(CancelledError):
        now(anext(stream))


def test_cancelling_after_the_end_does_nothing(kinds: Kinds) -> None:
    stream = kinds.fake(watch=[]).watch(kinds.q())
    assert now(items(stream)) == []
    stream.cancel()
    assert now(items(stream)) == []


def test_what_has_no_answer_is_unimplemented(kinds: Kinds) -> None:
    fake = kinds.fake()
    for result in (fake.unary(kinds.q()), items(fake.watch(kinds.q())), fake.upload([])):
        with pytest.raises(Unimplemented, match=r"/golden\.kinds\.Kinds/"):
            now(result)


def test_calls_are_recorded_with_what_was_said_about_them(kinds: Kinds) -> None:
    fake = kinds.fake(unary=kinds.a())
    request = kinds.q()
    now(fake.unary(request, timeout=1.5, metadata={"key": "value"}, wait_for_ready=True))
    now(fake.unary(kinds.q(), metadata=[("key", "1"), ("key", "2")]))
    first, second = calls(fake, kinds.methods.unary)
    assert first.request == request
    assert (first.timeout, first.metadata, first.wait_for_ready) == (1.5, (("key", "value"),), True)
    assert (second.timeout, second.metadata) == (None, (("key", "1"), ("key", "2")))
    assert calls(fake, kinds.methods.watch) == []


def test_only_fakes_have_calls(kinds: Kinds) -> None:
    with pytest.raises(TypeError, match="must be a generated fake client"):
        calls(object(), kinds.methods.unary)
    assert calls(kinds.client(FakeCaller({})), kinds.methods.unary) == []


def test_handlers_left_out_are_unimplemented_when_called(kinds: Kinds) -> None:
    service = kinds.unimplemented()
    for method in kinds.base.__txzmq_service__.methods:
        with pytest.raises(Unimplemented, match=method.path):
            getattr(service, method.name)(None, None)


def test_the_base_is_abstract(kinds: Kinds) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kinds.base()


def test_constants_describe_the_methods(kinds: Kinds) -> None:
    service = kinds.base.__txzmq_service__
    assert service.name == "golden.kinds.Kinds"
    assert [method.name for method in service.methods] == ["unary", "watch", "upload", "chat"]
    assert [method.kind.name for method in service.methods] == [
        "UNARY_UNARY",
        "UNARY_STREAM",
        "STREAM_UNARY",
        "STREAM_STREAM",
    ]
    assert kinds.methods.unary.request_type is kinds.q
    assert kinds.methods.unary.path == "/golden.kinds.Kinds/Unary"


def state(deferred: Deferred[Any]) -> Any:
    """What a Deferred has fired with; "waiting" if it has not."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    if not results:
        return "waiting"
    return error_of(results[0]) if isinstance(results[0], Failure) else results[0]


def caller(answer: object) -> FakeCaller:
    """A fake of a service whose messages have a value."""
    return FakeCaller({"echo": answer, "count": answer, "collect": answer})


def test_what_is_recorded_is_what_the_request_was() -> None:
    """A message object may be changed and sent again, by the caller and by the answer."""

    def clear(request: Any) -> Any:
        request.Clear()
        return text("answer")

    fake, request = caller(clear), text("first")
    now(fake.unary_unary(ECHO, request))
    request.value = "second"
    now(fake.unary_unary(ECHO, request))
    assert request.value == "second"
    assert [call.request.value for call in fake.recorded] == ["first", "second"]


def test_what_is_recorded_of_a_stream_is_what_its_requests_were() -> None:
    async def clear(requests: Any) -> Any:
        async for request in requests:
            request.Clear()
        return text("answer")

    def source() -> Iterator[StringValue]:
        request = text("")
        for value in "abc":
            request.value = value
            yield request

    fake = caller(clear)
    now(fake.stream_unary(COLLECT, source()))
    assert [each.value for each in fake.recorded[0].requests] == ["a", "b", "c"]


def test_every_call_gets_a_response_of_its_own() -> None:
    one, many = caller(text("given")), caller([text("given")])
    for _ in range(2):
        for response in (
            now(one.unary_unary(ECHO, text(""))),
            *now(items(many.unary_stream(COUNT, text("")))),
        ):
            assert response.value == "given"
            response.value = "changed"


def test_a_stream_tells_that_it_is_open_and_its_end(kinds: Kinds) -> None:
    stream = kinds.fake(watch=[kinds.a(), kinds.a()]).watch(kinds.q())
    assert state(stream.opened()) is None
    assert state(stream.received_initial_metadata()) == ()
    assert state(stream.ended()) is None, "also where nobody reads"
    assert len(now(items(stream))) == 2


def test_a_stream_that_fails_tells_so(kinds: Kinds) -> None:
    stream = kinds.fake(watch=NotFound("no")).watch(kinds.q())
    for each in (stream.opened(), stream.received_initial_metadata(), stream.ended()):
        assert isinstance(state(each), NotFound)


def test_the_end_of_a_stream_comes_after_what_it_waits_for(kinds: Kinds) -> None:
    item: Deferred[Any] = Deferred()
    stream = kinds.fake(watch=[item]).watch(kinds.q())
    ended, reading = stream.ended(), Deferred.fromCoroutine(items(stream))
    assert not ended.called
    item.callback(kinds.a())
    assert len(state(reading)) == 1
    assert state(ended) is None


def test_a_stream_that_is_cancelled_tells_so(kinds: Kinds) -> None:
    stream = kinds.fake(watch=[Deferred()]).watch(kinds.q())
    ended, reading = stream.ended(), Deferred.fromCoroutine(items(stream))
    stream.cancel()
    assert isinstance(state(ended), CancelledError)
    assert isinstance(state(reading), CancelledError)
