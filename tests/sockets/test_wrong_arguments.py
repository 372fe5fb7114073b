"""Every public method of the sockets with wrong values: it raises at the call, and says where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zmq

from tests.sockets.support import Turns, bind
from txzmq import (
    ZmqConnection,
    ZmqDealerConnection,
    ZmqEndpoint,
    ZmqFactory,
    ZmqMonitor,
    ZmqPubConnection,
    ZmqPushConnection,
    ZmqREPConnection,
    ZmqREQConnection,
    ZmqRouterConnection,
    ZmqSubConnection,
    ZmqXPubConnection,
    ZmqXSubConnection,
)

HERE = bind("inproc://here")

# Any in all of these: the values are wrong on purpose.
Case = tuple[str, Callable[[Any, Any], Any], list[Any], type[Exception], str]


def dealer(factory: Any) -> Any:
    return ZmqDealerConnection(factory, HERE)


def with_options(**options: Any) -> Any:
    return type("Optional", (ZmqDealerConnection,), options)


NO_TEXT = [None, 5, 1.5, object()]
CASES: list[Case] = [
    ("reactor", lambda _, it: ZmqFactory(it), ["x", 5], TypeError, "reactor must be a reactor"),
    (
        "callback",
        lambda factory, it: factory.callWhenClosed(it),
        [None, "x"],
        TypeError,
        "callback must be a function",
    ),
    (
        "factory",
        lambda _, it: ZmqPubConnection(it),
        [None, "x", HERE],
        TypeError,
        "factory must be a ZmqFactory",
    ),
    (
        "endpoint",
        lambda factory, it: ZmqPubConnection(factory, it),
        ["inproc://x", ("bind", "inproc://x"), [HERE], 5],
        TypeError,
        "an endpoint must be a ZmqEndpoint",
    ),
    (
        "address",
        lambda factory, it: ZmqPubConnection(factory, bind(it)),
        [None, 5],
        TypeError,
        "the address of an endpoint must be str",
    ),
    (
        "zero byte",
        lambda factory, it: ZmqPubConnection(factory, bind(it)),
        ["inproc://a\0b"],
        ValueError,
        "the address of an endpoint cannot have a zero byte",
    ),
    (
        "malformed",
        lambda factory, it: ZmqPubConnection(factory, bind(it)),
        ["127.0.0.1:5555", "tcp://127.0.0.1", "http://x:1", ""],
        zmq.ZMQError,
        "is no address that libzmq takes here: use tcp://host:port",
    ),
    (
        "type",
        lambda factory, it: ZmqPubConnection(factory, ZmqEndpoint(it, "inproc://x")),
        ["x", None, "inproc://x"],
        ValueError,
        "the type of ZmqEndpoint",
    ),
    (
        "identity",
        lambda factory, it: ZmqDealerConnection(factory, HERE, it),
        [5, object()],
        TypeError,
        "identity must be bytes or str",
    ),
    (
        "identity's length",
        lambda factory, it: ZmqDealerConnection(factory, HERE, it),
        [b"", b"x" * 256],
        zmq.ZMQError,
        "identity cannot be",
    ),
    (
        "no socketType",
        lambda factory, it: it(factory),
        [ZmqConnection],
        TypeError,
        "ZmqConnection has no socketType",
    ),
    (
        "endpoints",
        lambda factory, it: dealer(factory).addEndpoints(it),
        [None, "inproc://x", HERE, 5],
        TypeError,
        "endpoints must be a sequence of ZmqEndpoint",
    ),
    (
        "message",
        lambda factory, it: dealer(factory).send(it),
        [None, 5],
        TypeError,
        "a message must be bytes or str, or a sequence of them",
    ),
    (
        "pushed",
        lambda factory, it: ZmqPushConnection(factory, HERE).push(it),
        [None, 5],
        TypeError,
        "a message must be bytes or str, or a sequence of them",
    ),
    (
        "a part",
        lambda factory, it: dealer(factory).sendMultipart([it]),
        NO_TEXT,
        TypeError,
        "a message part must be bytes or str",
    ),
    (
        "no parts",
        lambda factory, it: dealer(factory).sendMultipart(it),
        [[], ()],
        ValueError,
        "a message has at least one part",
    ),
    (
        "recipientId",
        lambda factory, it: ZmqRouterConnection(factory, HERE).sendMsg(it, b"x"),
        NO_TEXT,
        TypeError,
        "recipientId must be bytes or str",
    ),
    (
        "parts",
        lambda factory, it: ZmqRouterConnection(factory, HERE).sendMultipart(b"id", it),
        [None, 5, "x", b"x"],
        TypeError,
        "parts must be a sequence of message parts",
    ),
    (
        "published",
        lambda factory, it: ZmqPubConnection(factory, HERE).publish(it),
        NO_TEXT,
        TypeError,
        "message must be bytes or str",
    ),
    (
        "published tag",
        lambda factory, it: ZmqPubConnection(factory, HERE).publish(b"x", it),
        NO_TEXT,
        TypeError,
        "tag must be bytes or str",
    ),
    *(
        (
            f"{cls.__name__}.{method}",
            lambda factory, it, cls=cls, method=method: getattr(cls(factory, HERE), method)(it),
            NO_TEXT,
            TypeError,
            "tag must be bytes or str",
        )
        for cls in (ZmqSubConnection, ZmqXSubConnection)
        for method in ("subscribe", "unsubscribe")
    ),
    (
        "timeout",
        lambda factory, it: ZmqREQConnection(factory, HERE).sendMsg(b"x", timeout=it),
        ["1", [], object()],
        TypeError,
        "timeout must be seconds or None",
    ),
    (
        "timeout below 0",
        lambda factory, it: ZmqREQConnection(factory, HERE).sendMsg(b"x", timeout=it),
        [-1, float("nan"), float("-inf")],
        ValueError,
        "a timeout cannot be negative or no number",
    ),
    (
        "messageId",
        lambda factory, it: ZmqREPConnection(factory, HERE).reply(it, b"x"),
        [None, 5, "x"],
        TypeError,
        "messageId must be what gotMessage got",
    ),
    (
        "watched",
        lambda _, it: ZmqMonitor(it, print),
        [None, "x"],
        TypeError,
        "watched must be a ZmqConnection",
    ),
    (
        "handler",
        lambda factory, it: ZmqMonitor(dealer(factory), it),
        [None, "x"],
        TypeError,
        "handler must be a function",
    ),
    *(
        (
            f"{name} of a class",
            lambda factory, it, name=name: with_options(**{name: it})(factory, HERE),
            values,
            Exception,
            f"{name} cannot be",
        )
        for name, values in {
            "highWaterMark": [-1, "x", 1.5],
            "multicastRate": [0, "x"],
            "reconnectInterval": [-2, "x"],
            "tcpKeepalive": [7, "x"],
        }.items()
    ),
    (
        "socketOptions' names",
        lambda factory, it: with_options(socketOptions={it: 1})(factory, HERE),
        ["IMEDIATE", "immediate"],
        ValueError,
        "is no option of libzmq; did you mean IMMEDIATE|which is no option of libzmq",
    ),
    (
        "socketOptions' values",
        lambda factory, it: with_options(socketOptions={"IMMEDIATE": it})(factory, HERE),
        ["x", 7],
        Exception,
        "socketOptions.'IMMEDIATE'. cannot be",
    ),
]


@pytest.mark.parametrize(
    ("call", "value", "error", "words"),
    [
        pytest.param(call, value, error, words, id=f"{name}-{value!r:.20}")
        for name, call, values, error, words in CASES
        for value in values
    ],
)
def test_a_wrong_value_is_told_at_the_call(
    turns: Turns,
    call: Callable[[Any, Any], Any],
    value: Any,
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words) as caught:
        call(turns.factory, value)
    assert isinstance(caught.value, (TypeError, ValueError, zmq.ZMQError))


def test_an_address_may_be_bytes(turns: Turns) -> None:
    """As txZMQ took it."""
    ZmqXPubConnection(turns.factory, bind(b"inproc://bytes"))  # type: ignore[arg-type]  # as above
    ZmqSubConnection(turns.factory, bind("inproc://other")).shutdown()
    with pytest.raises(zmq.ZMQError):
        ZmqXPubConnection(turns.factory, bind("inproc://bytes"))
