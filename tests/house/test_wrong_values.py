"""Each parameter of what users call, given wrong values: it raises there, and names the parameter.

What is tried follows from the annotation of the parameter; what is not tried stands in a table with
its reason, and so does each public name that has no parameters to try.
"""

from __future__ import annotations

import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

import txzmq.rpc
import txzmq.testing
from tests.house.subjects import NOTHING_TO_TRY, RIGHT, SPARED, SUBJECTS, channel, go_on
from tests.rpc.service import ECHO, text
from tests.rpc.streaming import CHAT, COLLECT, COUNT
from txzmq.rpc import Method
from txzmq.testing import FakeCaller

#: Other modules of which users call things.
MORE: Final = ["txzmq.rpc.service_config", "txzmq.rpc.method", "txzmq.rpc.application"]

#: What is tried for each type that an annotation has; and for any other, ANYTHING.
WRONG: Final[dict[Any, list[Any]]] = {
    int: ["1", 1.5, True, math.nan, math.inf, -1, object()],
    float: ["1", True, math.nan, -1, 10**400, object(), b""],
    bool: ["yes", 2, object()],
    str: [1, b"x", object()],
    StringValue: [object()],
}
ANYTHING: Final = [object(), 3.5, int]


def wrong_values(name: str, annotation: Any) -> Iterator[Any]:
    """What no annotation of the parameter allows."""
    allowed = set(_types(annotation))
    if object in allowed or Any in allowed:
        return
    tried: list[Any] = []
    for kind in allowed:
        tried += WRONG.get(kind, ANYTHING)
    plain = tuple(kind for kind in allowed if kind in WRONG)
    for value in [*tried, *([] if type(None) in allowed else [None])]:
        if value in RIGHT.get(name, ()) or (callable(value) and Callable in allowed):
            continue
        if type(value) in plain and value not in (-1, True):
            continue  # of a union with several plain types
        yield value


def _types(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _types(part)
    elif annotation is None or annotation is type(None):
        yield type(None)
    elif origin is Callable:
        yield Callable
    elif origin is typing.Literal:
        yield "a word"
    else:
        yield origin or annotation


class Try(NamedTuple):
    """One parameter with one wrong value."""

    subject: str
    parameter: str
    value: Any


def tries() -> Iterator[Try]:
    for label, subject in SUBJECTS.items():
        parameters, hints = subject.signature()
        for name in parameters:
            if f"{label}.{name}" in SPARED:
                continue
            for value in wrong_values(f"{label}.{name}", hints[name]):
                yield Try(label, name, value)


TRIES: Final = list(tries())


@pytest.mark.parametrize(
    "one", TRIES, ids=lambda one: f"{one.subject}-{one.parameter}-{type(one.value).__name__}"
)
def test_a_wrong_value_is_told_with_the_name_of_its_parameter(one: Try) -> None:
    subject = SUBJECTS[one.subject]
    arguments = [
        one.value if name == one.parameter else argument
        for name, argument in zip(subject.names, subject.arguments, strict=True)
    ]
    options = dict(subject.options)
    if one.parameter not in subject.names:
        options[one.parameter] = one.value
    with pytest.raises((TypeError, ValueError)) as caught:
        subject.build()(*arguments, **options)
    assert one.parameter in str(caught.value)


#: For each kind, a method; something else; and what is said of that.
REQUESTS: Final[dict[str, tuple[Method[Any, Any], list[Any], str]]] = {
    "unary_unary": (ECHO, [Int32Value(), None, [text("x")]], "takes StringValue, not"),
    "unary_stream": (COUNT, [Int32Value(), None, [text("x")]], "takes StringValue, not"),
    "stream_unary": (COLLECT, [text("x"), None, 5], "takes an iterable of requests, not"),
    "stream_stream": (CHAT, [text("x"), None, 5], "takes an iterable of requests, not"),
}


@pytest.mark.parametrize(
    "caller",
    [channel, lambda: channel(interceptors=[go_on]), lambda: FakeCaller({})],
    ids=["plain", "intercepted", "fake"],
)
@pytest.mark.parametrize("kind", REQUESTS)
def test_a_wrong_request_is_told_where_the_call_is_made(
    kind: str, caller: Callable[[], Any]
) -> None:
    method, requests, words = REQUESTS[kind]
    for request in requests:
        with pytest.raises(TypeError) as caught:
            getattr(caller(), kind)(method, request)
        assert str(caught.value).startswith(f"{method.path} {words}")


def public_callables() -> set[str]:
    names: set[str] = set()
    for module in (txzmq.rpc, txzmq.testing, *map(importlib.import_module, MORE)):
        exported: Iterable[str] = module.__all__
        for name in exported:
            thing = getattr(module, name)
            if isinstance(thing, type) or inspect.isfunction(thing):
                names.add(name)
    return names


def test_every_public_callable_is_tried_or_has_a_reason() -> None:
    tried = {label.partition(".")[0].removesuffix("()") for label in SUBJECTS}
    assert public_callables() - tried - set(NOTHING_TO_TRY) == set()


def test_no_reason_is_left_over() -> None:
    public = public_callables()
    assert set(NOTHING_TO_TRY) <= public
    for spared in SPARED:
        label, _, name = spared.rpartition(".")
        assert name in SUBJECTS[label].signature()[0], spared
    for right in RIGHT:
        assert right.rpartition(".")[0] in SUBJECTS


def test_every_parameter_is_tried_or_has_a_reason() -> None:
    tried = {f"{one.subject}.{one.parameter}" for one in TRIES}
    for label, subject in SUBJECTS.items():
        for name in subject.signature()[0]:
            assert f"{label}.{name}" in tried | set(SPARED)
