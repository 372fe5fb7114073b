"""What an application that was written for txZMQ 0.7 to 1.0 relies on, name by name.

The names are those of txZMQ's documentation. What they do is tested beside each subject; here is
what only an old application would do.
"""

from __future__ import annotations

import inspect
from array import array
from typing import Any

import pytest
import zmq
from twisted.python import log as twisted_log

import txzmq
from tests.sockets.support import Dealer, Pull, Turns, bind, connect
from tests.support import Logged
from txzmq import (
    ZmqBase,
    ZmqConnection,
    ZmqDealerConnection,
    ZmqEndpoint,
    ZmqEndpointType,
    ZmqFactory,
    ZmqPushConnection,
    ZmqREQConnection,
    ZmqRouterConnection,
)

log: Any = twisted_log  # Any: Twisted leaves it untyped

_CONSTRUCTOR = "factory, endpoint=None, identity=None, credentials=None"

#: Class, base, and the documented methods with the parameters that callers may name or leave out.
CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "ZmqFactory": ("object", {"__init__": "", "shutdown": "", "registerForShutdown": ""}),
    "ZmqConnection": (
        "object",
        {
            "__init__": _CONSTRUCTOR,
            "addEndpoints": "endpoints",
            "shutdown": "",
            "fileno": "",
            "connectionLost": "reason",
            "doRead": "",
            "logPrefix": "",
            "send": "message",
            "messageReceived": "message",
        },
    ),
    "ZmqPubConnection": (
        "ZmqConnection",
        {"__init__": _CONSTRUCTOR, "publish": "message, tag=b''"},
    ),
    "ZmqSubConnection": (
        "ZmqConnection",
        {
            "__init__": _CONSTRUCTOR,
            "subscribe": "tag",
            "unsubscribe": "tag",
            "messageReceived": "message",
            "gotMessage": "message, tag",
        },
    ),
    "ZmqPushConnection": ("ZmqConnection", {"__init__": _CONSTRUCTOR, "push": "message"}),
    "ZmqPullConnection": (
        "ZmqConnection",
        {"__init__": _CONSTRUCTOR, "messageReceived": "message", "onPull": "message"},
    ),
    "ZmqREQConnection": (
        "ZmqConnection",
        {
            "__init__": _CONSTRUCTOR,
            "_getNextId": "",
            "sendMsg": "*messageParts, timeout=None",
            "messageReceived": "message",
        },
    ),
    "ZmqREPConnection": (
        "ZmqConnection",
        {
            "__init__": _CONSTRUCTOR,
            "reply": "messageId, *messageParts",
            "messageReceived": "message",
            "gotMessage": "messageId, *messageParts",
        },
    ),
    "ZmqBase": (
        "ZmqConnection",
        {"messageReceived": "message", "gotMessage": "*args, **kwargs"},
    ),
    "ZmqRouterConnection": (
        "ZmqBase",
        {
            "__init__": _CONSTRUCTOR,
            "sendMsg": "recipientId, message",
            "sendMultipart": "recipientId, parts",
        },
    ),
    "ZmqDealerConnection": (
        "ZmqBase",
        {"__init__": _CONSTRUCTOR, "sendMsg": "message", "sendMultipart": "parts"},
    ),
}

#: Class attributes, which applications override, with txZMQ's values.
DEFAULTS: dict[type, dict[str, object]] = {
    ZmqFactory: {"ioThreads": 1, "lingerPeriod": 100},
    ZmqConnection: {
        "socketType": None,
        "allowLoopbackMulticast": False,
        "multicastRate": 100,
        "highWaterMark": 0,
        "tcpKeepalive": 0,
        "tcpKeepaliveCount": 0,
        "tcpKeepaliveIdle": 0,
        "tcpKeepaliveInterval": 0,
        "reconnectInterval": 100,
        "reconnectIntervalMax": 0,
    },
    ZmqREQConnection: {"defaultRequestTimeout": None},
    ZmqEndpointType: {"bind": "bind", "connect": "connect"},
}


def old_parameters(cls: type, method: str) -> str:
    """Parameters as txZMQ's documentation writes them, without those that are new."""
    _, *parameters = inspect.signature(getattr(cls, method)).parameters.values()
    return ", ".join(
        f"{parameter.replace(annotation=parameter.empty, kind=_plain(parameter))}"
        for parameter in parameters
        if (cls.__name__, method, parameter.name) != ("ZmqFactory", "__init__", "reactor")
    )


def _plain(parameter: inspect.Parameter) -> Any:
    return parameter.POSITIONAL_ONLY if parameter.kind is parameter.KEYWORD_ONLY else parameter.kind


@pytest.mark.parametrize("name", list(CLASSES))
def test_classes_have_the_documented_methods(name: str) -> None:
    base, methods = CLASSES[name]
    cls = getattr(txzmq, name)
    assert base in [each.__name__ for each in cls.__mro__]
    assert {method: old_parameters(cls, method) for method in methods} == methods


@pytest.mark.parametrize("cls", list(DEFAULTS), ids=lambda cls: cls.__name__)
def test_options_have_the_documented_defaults(cls: type) -> None:
    assert {name: getattr(cls, name) for name in DEFAULTS[cls]} == DEFAULTS[cls]


def test_instances_have_the_documented_attributes(turns: Turns) -> None:
    class Named(Pull):
        socketType = zmq.PULL

        def __repr__(self) -> str:
            return ZmqConnection.__repr__(self)

    assert turns.factory.connections == set()
    assert isinstance(turns.factory.context, zmq.Context)
    pull = Named(turns.factory, bind("inproc://pull"))
    assert turns.factory.connections == {pull}
    assert pull.factory is turns.factory
    assert pull.endpoints == [("bind", "inproc://pull")]
    assert isinstance(pull.socket, zmq.Socket)
    assert pull.fd == pull.fileno() == pull.socket.get(zmq.FD)
    assert not pull.queue
    assert pull.logPrefix() == "ZMQ"
    endpoint = "ZmqEndpoint(type='bind', address='inproc://pull')"
    assert repr(pull) == f"Named(ZmqFactory(), [{endpoint}])"
    assert ZmqEndpoint(type="bind", address="x") == ZmqEndpoint("bind", "x")


# -- what goes out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "arrives"),
    [
        (b"one", [b"one"]),
        ("text", [b"text"]),
        ([b"a", b"", b"b"], [b"a", b"", b"b"]),
        ((b"a", b"b"), [b"a", b"b"]),
        (memoryview(b"view"), [b"view"]),
        # Copied: PyPy must not share its memory with libzmq.
        (zmq.Frame(b"frame", copy=True), [b"frame"]),
        ([b"a", zmq.Frame(b"frame", copy=True), bytearray(b"c")], [b"a", b"frame", b"c"]),
        ([b"a", array("H", [0, 1, 0xFFFF]), memoryview(b"xyz")[::2]], None),
    ],
    ids=[
        *("bytes", "text", "parts", "a tuple of parts", "a view", "a frame"),
        *("parts of several types", "parts of other sizes"),
    ],
)
def test_whatever_pyzmq_takes_may_be_sent(turns: Turns, message: Any, arrives: Any) -> None:
    pull = Pull(turns.factory, bind("inproc://pull"))
    ZmqPushConnection(turns.factory, connect("inproc://pull")).push(message)
    turns.settle()
    assert pull.messages == [arrives or [b"a", array("H", [0, 1, 0xFFFF]).tobytes(), b"xz"]]


@pytest.mark.parametrize("message", [None, 5, [5], [b"a", None], [["nested"]]], ids=repr)
def test_what_is_no_data_is_refused(turns: Turns, message: Any) -> None:
    Pull(turns.factory, bind("inproc://pull"))
    push = ZmqPushConnection(turns.factory, connect("inproc://pull"))
    with pytest.raises(TypeError):
        push.push(message)


def test_an_endpoint_is_bound_or_connected_and_nothing_else(turns: Turns) -> None:
    pull = Pull(turns.factory)
    with pytest.raises(ValueError, match="must be 'bind' or 'connect'"):
        pull.addEndpoints([ZmqEndpoint("listen", "inproc://pull")])
    with pytest.raises(ValueError, match="must be 'bind' or 'connect'"):
        Pull(turns.factory, ZmqEndpoint("listen", "inproc://pull"))
    assert turns.factory.connections == {pull}


def test_options_of_the_class_reach_the_socket(turns: Turns) -> None:
    class Configured(Pull):
        highWaterMark = 7
        tcpKeepalive = 1
        tcpKeepaliveIdle = 30
        tcpKeepaliveCount = 4
        reconnectInterval = 0
        reconnectIntervalMax = 2_000

    socket: Any = Configured(turns.factory).socket
    assert (socket.get(zmq.SNDHWM), socket.get(zmq.RCVHWM)) == (7, 7)
    assert (socket.get(zmq.TCP_KEEPALIVE), socket.get(zmq.TCP_KEEPALIVE_IDLE)) == (1, 30)
    assert (socket.get(zmq.TCP_KEEPALIVE_CNT), socket.get(zmq.TCP_KEEPALIVE_INTVL)) == (4, -1)
    assert (socket.get(zmq.RECONNECT_IVL), socket.get(zmq.RECONNECT_IVL_MAX)) == (100, 2_000)


def test_a_class_that_takes_no_messages_says_so_in_the_log(turns: Turns, logged: Logged) -> None:
    class Forgetful(ZmqConnection):
        socketType = zmq.PULL

    class Bare(ZmqBase):
        socketType = zmq.PULL

    for name, cls in (("forgetful", Forgetful), ("bare", Bare)):
        connection = cls(turns.factory, bind(f"inproc://{name}"))
        turns.raw(zmq.PUSH, f"inproc://{name}").send(b"x")
        turns.settle()
        assert [type(error) for error in logged.failures()] == [NotImplementedError]
        assert connection.socket is not None
        logged.clear()


def test_the_base_of_raw_connections_sends_one_part_or_many(turns: Turns) -> None:
    class Push(ZmqBase):
        socketType = zmq.PUSH

    pull = Pull(turns.factory, bind("inproc://pull"))
    push = Push(turns.factory, connect("inproc://pull"))
    push.sendMsg(b"one")
    push.sendMsg(message=b"by name")
    push.sendMultipart([b"a", b"b"])
    turns.settle()
    assert pull.messages == [[b"one"], [b"by name"], [b"a", b"b"]]


# -- what subclasses override ------------------------------------------------------------------


def test_a_router_may_send_many_parts_as_many_messages(turns: Turns) -> None:
    """In txZMQ, sendMsg does not go through sendMultipart, so it may go the other way round."""

    class Router(ZmqRouterConnection):
        def sendMultipart(self, recipientId: Any, parts: Any) -> None:
            for part in parts:
                self.sendMsg(recipientId, part)

        def gotMessage(self, *args: bytes) -> None:
            self.sendMultipart(args[0], [b"1", b"2"])

    Router(turns.factory, bind("inproc://router"))
    dealer = Dealer(turns.factory, connect("inproc://router"))
    dealer.sendMsg(b"hello")
    turns.settle()
    assert dealer.messages == [(b"1",), (b"2",)]


def test_a_dealer_sends_one_part_as_a_message_of_many(turns: Turns) -> None:
    """And this one does go through it."""

    class Signing(ZmqDealerConnection):
        def sendMultipart(self, parts: Any) -> None:
            self.send([*parts, b"signature"])

    pull = Dealer(turns.factory, bind("inproc://dealer"))
    Signing(turns.factory, connect("inproc://dealer")).sendMsg(b"x")
    turns.settle()
    assert pull.messages == [(b"x", b"signature")]


def test_the_type_of_a_socket_may_be_given_to_the_instance(turns: Turns) -> None:
    class Bare(ZmqConnection):
        def __init__(self, socketType: int, *args: Any) -> None:
            setattr(self, "socketType", socketType)
            super().__init__(*args)
            self.messages: list[list[bytes]] = []

        def messageReceived(self, message: list[bytes]) -> None:
            self.messages.append(message)

    one = Bare(zmq.PAIR, turns.factory, bind("inproc://pair"))
    other = Bare(zmq.PAIR, turns.factory, connect("inproc://pair"))
    one.send(b"1")
    other.send([b"2", b"3"])
    turns.settle()
    assert (one.messages, other.messages) == ([[b"2", b"3"]], [[b"1"]])


@pytest.mark.parametrize("signalled", [True, False], ids=["by-the-reactor", "after-a-send"])
def test_log_lines_of_callbacks_begin_with_the_prefix(turns: Turns, signalled: bool) -> None:
    class Chatty(Dealer):
        def logPrefix(self) -> str:
            return "chatty"

        def gotMessage(self, *args: bytes) -> None:
            log.msg("got it")

    events: list[Any] = []
    log.addObserver(events.append)
    try:
        dealer = Chatty(turns.factory, bind("inproc://dealer"))
        turns.settle()
        turns.raw(zmq.DEALER, "inproc://dealer").send(b"x")
        if signalled:
            log.callWithLogger(dealer, dealer.doRead)  # as reactors do
        else:
            dealer.sendMsg(b"x")
            turns.settle()
    finally:
        log.removeObserver(events.append)
    assert [event["system"] for event in events if event["message"] == ("got it",)] == ["chatty"]
