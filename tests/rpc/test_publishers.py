"""Which publishers a client connects to: its server's own, and what ``publishers=`` allows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import formatEvent

from tests.support import Logged, examples
from txzmq.rpc._net.addresses import ip_of, split_tcp
from txzmq.rpc._net.publishers import publisher_for, publisher_rule

NOTHING = publisher_rule(())


def in_our_network(publisher: str, endpoint: str) -> bool:
    return publisher.startswith("tcp://10.")


@pytest.mark.parametrize(
    ("publisher", "server", "address"),
    [
        ("tcp://10.0.0.7:5001", "tcp://10.0.0.7:5000", "tcp://10.0.0.7:5001"),
        ("tcp://0.0.0.0:5001", "tcp://10.0.0.7:5000", "tcp://10.0.0.7:5001"),
        ("tcp://*:5001", "tcp://10.0.0.7:5000", "tcp://10.0.0.7:5001"),
        ("tcp://[::]:5001", "tcp://[2001:db8::1]:5000", "tcp://[2001:db8::1]:5001"),
        ("tcp://[2001:db8:0::1]:1", "tcp://[2001:db8::1]:5000", "tcp://[2001:db8:0::1]:1"),
        ("tcp://10.0.0.7:1", "tcp://10.0.0.1:0;10.0.0.7:5000", "tcp://10.0.0.7:1"),
        ("ipc:///run/x/sock.streams", "ipc:///run/x/sock", "ipc:///run/x/sock.streams"),
        # The folder has another name for the server; the client stays in its own.
        ("ipc:///data/sock.streams", "ipc:///mnt/sock", "ipc:///mnt/sock.streams"),
        ("ipc://@greeter.streams", "ipc://@greeter", "ipc://@greeter.streams"),
        ("inproc://a.streams", "inproc://a", "inproc://a.streams"),
        ("ipc:///data/sock.417.streams", "ipc:///mnt/sock", "ipc:///mnt/sock.417.streams"),
        ("inproc://a.1.streams", "inproc://a", "inproc://a.1.streams"),
        ("epgm://239.192.1.1:5555", "ipc:///x", "epgm://239.192.1.1:5555"),
        ("epgm://evil.example;239.192.1.1:5555", "ipc:///x", "epgm://239.192.1.1:5555"),
        ("tcp://there:2", "tcp://there:1", "tcp://there:2"),  # of a network of one's own
    ],
)
def test_a_publisher_of_the_server_itself_is_accepted(
    publisher: str, server: str, address: str
) -> None:
    assert publisher_for(publisher, server, NOTHING) == address


@pytest.mark.parametrize(
    ("publisher", "server", "why"),
    [
        ("tcp://10.0.0.8:5001", "tcp://10.0.0.7:5000", "not at the server's own host"),
        ("tcp://127.0.0.1:22", "tcp://10.0.0.7:5000", "not at the server's own host"),
        ("tcp://slow.example.org:5001", "tcp://10.0.0.7:5000", "host is a name"),
        ("tcp://10.0.0.7", "tcp://10.0.0.7:5000", "the port is missing"),
        ("tcp://10.0.0.7:http", "tcp://10.0.0.7:5000", "'http' is no port"),
        ("tcp://10.0.0.7:1-2", "tcp://10.0.0.7:5000", "a range of ports"),
        ("tcp://evil:0;10.0.0.7:1", "tcp://10.0.0.7:5000", "before a semicolon, is for clients"),
        ("ipc:///run/docker.sock", "tcp://10.0.0.7:5000", "not at the server's own host"),
        ("ipc:///run/docker.sock", "ipc:///run/x/sock", "not at the server's own host"),
        ("inproc://zeromq.zap.01", "tcp://10.0.0.7:5000", "not at the server's own host"),
        ("inproc://b.streams", "inproc://a", "not at the server's own host"),
        ("inproc://a.x.streams", "inproc://a", "not at the server's own host"),
        ("inproc://a1.streams", "inproc://a", "not at the server's own host"),
        ("ipc:///run/s.12345678901.streams", "ipc:///run/s", "not at the server's own host"),
        ("ipc:///run/s.1/x.streams", "ipc:///run/s", "not at the server's own host"),
        ("tcp://127.0.0.1:1", "ipc:///run/x/sock", "not at the server's own host"),
        ("epgm://slow.example.org:5555", "tcp://10.0.0.7:5000", "no multicast group"),
        ("epgm://10.0.0.7:5555", "tcp://10.0.0.7:5000", "no multicast group"),
        ("", "tcp://10.0.0.7:5000", "it is empty"),
    ],
)
def test_any_other_is_refused(publisher: str, server: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        publisher_for(publisher, server, NOTHING)
    for needed in (publisher, server, "publishers="):
        assert needed in str(raised.value)


@pytest.mark.parametrize(
    "publisher",
    [
        f"inproc://{'x' * 60_000}",
        f"ipc:///{'x' * 60_000}",
        f"tcp://10.0.0.8:{'1' * 60_000}",
        f"epgm://{'x' * 60_000}",
        "\0" * 60_000,
    ],
    ids=lambda publisher: publisher[:8],
)
def test_what_is_said_of_a_long_one_is_short(publisher: str, logged: Logged) -> None:
    with pytest.raises(ValueError, match="does not connect there") as caught:
        publisher_for(publisher, "tcp://10.0.0.7:5000", lambda publisher, server: 1 / 0 > 0)
    assert len(str(caught.value)) < 1_500
    assert all(len(formatEvent(event)) < 1_500 for event in logged)
    assert all(isinstance(error, ZeroDivisionError) for error in logged.failures())


@pytest.mark.parametrize(
    ("publishers", "allowed", "refused"),
    [
        ("tcp://10.0.0.8", "tcp://10.0.0.8:5001", "tcp://10.0.0.9:5001"),
        (["tcp://10.0.0.8:5001"], "tcp://10.0.0.8:5001", "tcp://10.0.0.8:5002"),
        (["ipc:///a", "tcp://[2001:db8::1]"], "tcp://[2001:db8:0::1]:1", "ipc:///b"),
        ({"tcp://[::1]:7"}, "tcp://[::1]:7", "tcp://[::1]:8"),
        ("tcp://10.0.0.8:5001-5003", "tcp://10.0.0.8:5003", "tcp://10.0.0.8:5004"),
        (["inproc://elsewhere"], "inproc://elsewhere", "inproc://else"),
        (in_our_network, "tcp://10.1.1.1:1", "ipc:///x"),
    ],
)
def test_the_user_allows_more(publishers: Any, allowed: str, refused: str) -> None:
    rule = publisher_rule(publishers)
    assert publisher_for(allowed, "tcp://192.0.2.1:1", rule) == allowed
    with pytest.raises(ValueError, match="publishers="):
        publisher_for(refused, "tcp://192.0.2.1:1", rule)


def test_a_function_is_asked_with_both_addresses_and_only_about_others() -> None:
    asked: list[tuple[str, str]] = []

    def rule(publisher: str, endpoint: str) -> bool:
        asked.append((publisher, endpoint))
        return True

    publisher_for("tcp://0.0.0.0:2", "tcp://192.0.2.1:1", rule)
    publisher_for("tcp://192.0.2.1:2", "tcp://192.0.2.1:1", rule)
    assert publisher_for("ipc:///x", "tcp://192.0.2.1:1", rule) == "ipc:///x"
    assert asked == [("ipc:///x", "tcp://192.0.2.1:1")]
    with pytest.raises(ValueError, match="a name"):
        publisher_for("tcp://slow.example.org:2", "tcp://192.0.2.1:1", rule)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_function_that_fails_allows_nothing(error: type[BaseException], logged: Logged) -> None:
    def rule(publisher: str, endpoint: str) -> bool:
        raise error

    with pytest.raises(ValueError, match="publishers="):
        publisher_for("tcp://10.0.0.8:1", "tcp://192.0.2.1:1", rule)
    assert [type(failure) for failure in logged.failures()] == [error]


@pytest.mark.parametrize("answer", [None, "no", 1, [True], "a coroutine"])
def test_a_function_that_says_neither_yes_nor_no_allows_nothing(
    answer: object, logged: Logged
) -> None:
    async def coroutine() -> bool:
        return True

    def rule(publisher: str, server: str) -> Any:
        return coroutine() if answer == "a coroutine" else answer

    with pytest.raises(ValueError, match="publishers="):
        publisher_for("tcp://10.0.0.8:6", "tcp://10.0.0.7:5", publisher_rule(rule))
    (line,) = [formatEvent(event) for event in logged]
    assert "of publishers= must return True or False, not " in line


@pytest.mark.parametrize(
    ("publishers", "error", "why"),
    [
        ("10.0.0.7", ValueError, "'10.0.0.7': it has no scheme"),
        ("tcp://host", ValueError, "'host' is no IP address"),
        ("tcp://host:1", ValueError, "'host' is no IP address"),
        ("tcp://1.2.3.4:*", ValueError, r"'\*' is no port"),
        ("tcp://1.2.3.4:65536", ValueError, "over 65535"),
        ("ipc://", ValueError, "nothing follows"),
        ("", ValueError, "empty"),
        (b"tcp://10.0.0.7", TypeError, "not bytes"),
        ([b"tcp://10.0.0.7"], TypeError, "must be a str, not bytes"),
        (None, TypeError, "not NoneType"),
        (7, TypeError, "not int"),
        ([7], TypeError, "must be a str, not int"),
    ],
)
def test_publishers_that_are_none(publishers: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=f"^publishers.*{why}.*Use tcp://10.0.0.7 "):
        publisher_rule(publishers)


_HOSTS = st.sampled_from(
    ["10.0.0.7", "10.0.0.8", "[::1]", "[::]", "0.0.0.0", "*", "name", "", ";", "a;10.0.0.7"]
)
_PORTS = st.sampled_from(["1", "5000", "*", "", "x", "65536"])
_TCP = st.builds("tcp://{}:{}".format, _HOSTS, _PORTS)
_ANY = _TCP | st.text(max_size=20) | st.builds("ipc://{}".format, st.text(max_size=9))


@settings(max_examples=examples(300), deadline=None)
@given(publisher=_ANY, server=st.sampled_from(["tcp://10.0.0.7:1", "tcp://[::1]:1", "ipc:///a/b"]))
def test_whatever_a_server_says_the_client_stays_with_it(publisher: str, server: str) -> None:
    try:
        address = publisher_for(publisher, server, NOTHING)
    except ValueError:
        return
    there, here = split_tcp(address), split_tcp(server)
    if here is None:
        assert address == server + ".streams"
    else:
        assert there is not None
        assert ip_of(there[0]) == ip_of(here[0]) is not None
