"""What is an address, for whom, and what is said of one that is none."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.given import untyped
from tests.rpc.service import Echo
from tests.support import Loop, examples
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Server, StaticResolver, resolver_for
from txzmq.rpc._net.endpoints import checked_target, static_addresses
from txzmq.rpc._net.parsing import Use, parse_address, parse_group
from txzmq.rpc.transport import ZmqNetwork
from txzmq.testing import MemoryNetwork

# -- what is right -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "uses"),
    [
        ("tcp://127.0.0.1:5000", "ECLA"),
        ("tcp://[::1]:5000", "ECLA"),
        ("tcp://[fe80::1%eth0]:5000", "ECLA"),
        ("tcp://0.0.0.0:5000", "ECLA"),  # by Linux, a client reaches its own machine
        ("tcp://[::]:65535", "ECLA"),
        ("tcp://greeter:1", "ECLA"),
        ("tcp://greeter.example.org.:5000", "ECLA"),
        ("tcp://a_b-c.d:00080", "ECLA"),
        ("tcp://eth0.100:5000", "ECLA"),
        ("tcp://*:5000", "LA"),
        ("tcp://127.0.0.1:*", "L"),
        ("tcp://*:0", "L"),
        ("tcp://greeter:5000-5003", "E"),
        ("tcp://[::1]:5000-5000", "E"),
        ("tcp://10.0.0.1:0;10.0.0.7:5000", "EC"),
        ("tcp://eth0:*;[::1]:5000", "EC"),
        ("tcp://*:80;10.0.0.7:5000-5001", "E"),
        ("ipc:///run/greeter", "ECLA"),
        ("ipc://greeter", "ECLA"),
        ("ipc:///run/with a space/ü", "ECLA"),
        ("ipc://@greeter", "ECLA"),
        ("ipc://*", "L"),
        ("ipc:///" + "x" * 106, "ECLA"),
        ("inproc://greeter", "ECLA"),
        ("inproc://a:b/c d", "ECLA"),
    ],
)
def test_what_is_right_for_whom(address: str, uses: str) -> None:
    for use in Use:
        if use.name[0] in uses:
            parsed = parse_address(address, use, "endpoint")
            assert address.startswith(f"{parsed.scheme}://{parsed.rest}")
        else:
            with pytest.raises(ValueError, match=r"^endpoint='"):
                parse_address(address, use, "endpoint")


@pytest.mark.parametrize(
    "group", ["epgm://eth0;239.192.1.1:5555", "pgm://239.192.1.1:1", "epgm://lo;[ff02::1]:5555"]
)
def test_a_multicast_group(group: str) -> None:
    parse_group(group, "multicast")


# -- what is wrong -----------------------------------------------------------------------------

#: Wrong for everybody: the address, and what is said of it.
WRONG: list[tuple[Any, str]] = [
    (b"tcp://127.0.0.1:5000", "not bytes"),
    (5000, "not int"),
    ("", "it is empty"),
    ("tcp://127.0.0.1:50\x0000", r"it contains '\\x00'"),
    ("tcp://127.0.0.1:5000\n", r"it contains '\\n'"),
    ("ipc:///run/\x1b[31m", r"it contains '\\x1b'"),
    ("ipc:///run/\udcff", r"it contains '\\udcff'"),
    (" tcp://127.0.0.1:5000", "begins or ends with a space"),
    ("tcp://127.0.0.1:5000 ", "begins or ends with a space"),
    ("127.0.0.1:5000", "no scheme; tcp://127.0.0.1:5000 perhaps"),
    ("greeter", "no scheme, such as tcp://"),
    ("/run/greeter", "no scheme; ipc:///run/greeter perhaps"),
    ("tcp:/127.0.0.1:5000", "two slashes .*tcp://127.0.0.1:5000 perhaps"),
    ("tcp:127.0.0.1:5000", "two slashes .*tcp://127.0.0.1:5000 perhaps"),
    ("ipc:/run/greeter", "two slashes .*ipc:///run/greeter perhaps"),
    ("ipc:greeter", "two slashes .*ipc://greeter perhaps"),
    ("inproc:greeter", "two slashes .*inproc://greeter perhaps"),
    ("ipc://~/greeter", r"'~' is no folder here; use os\.path\.expanduser\('~/greeter'\)"),
    ("ipc://~me/greeter", r"'~me' is no folder here; use os\.path\.expanduser\('~me/greeter'\)"),
    ("http://127.0.0.1:5000", "speaks ZeroMQ there, not HTTP"),
    ("TCP://127.0.0.1:5000", "'TCP' is none of .*tcp perhaps"),
    ("tpc://127.0.0.1:5000", "'tpc' is none of .*tcp perhaps"),
    ("://127.0.0.1:5000", "'' is none of"),
    ("udp://127.0.0.1:5000", "'udp' is none of"),
    ("epgm://239.192.1.1:5555", "multicast=..."),
    ("tcp://", "nothing follows tcp://"),
    ("tcp://127.0.0.1", "the port is missing"),
    ("tcp://[::1]", "the port is missing"),
    ("tcp://127.0.0.1:", "'' is no port"),
    ("tcp://:5000", "the host is missing"),
    ("tcp://127.0.0.1:99999", "over 65535"),
    ("tcp://127.0.0.1:65536", "over 65535"),
    ("tcp://127.0.0.1:111103", "over 65535"),
    ("tcp://127.0.0.1:" + "9" * 5000, "over 65535"),
    ("tcp://127.0.0.1:45567abc", "'45567abc' is no port"),
    ("tcp://127.0.0.1:45567.5", "'45567.5' is no port"),
    ("tcp://127.0.0.1:-1", "'' is no port|'-1' is no port"),
    ("tcp://127.0.0.1:+80", r"'\+80' is no port"),
    ("tcp://127.0.0.1:5000/path", "'5000/path' is no port"),
    ("tcp://127.0.0.1: 5000", "' 5000' is no port"),
    ("tcp://127.0.0.1:\u0665", "'\u0665' is no port"),
    ("tcp://some host:5000", "'some host' is no host name"),
    ("tcp://user@host:5000", "'user@host' is no host name"),
    ("tcp://a..b:5000", "'a..b' is no host name"),
    ("tcp://" + "a" * 64 + ":5000", "is no host name"),
    ("tcp://bücher:5000", "not in ASCII"),
    ("tcp://300.1.1.1:5000", "'300.1.1.1' is no IP address"),
    ("tcp://127.1:5000", "'127.1' is no IP address"),
    ("tcp://127.0.0.01:5000", "'127.0.0.01' is no IP address"),
    ("tcp://::1:5000", r"needs brackets, as in \[::1\]:5000"),
    ("tcp://[::1:5000", "no IPv6 address in brackets"),
    ("tcp://[::1]5000", "no IPv6 address in brackets"),
    ("tcp://[127.0.0.1]:5000", "no IPv6 address in brackets"),
    ("tcp://[]:5000", "no IPv6 address in brackets"),
    ("tcp://[*]:5000", "no IPv6 address in brackets"),
    ("tcp://[[::1]]:5000", "no IPv6 address in brackets"),
    ("ipc://", "nothing follows ipc://"),
    ("ipc://@", "a name must follow the @"),
    ("ipc:///run/", "ends with a slash"),
    ("ipc:///" + "x" * 107, "too long: it has 108 bytes, .* the system's limit is 107"),
    ("ipc:///" + "ü" * 54, "too long: it has 109 bytes"),
    ("inproc://", "nothing follows inproc://"),
]
#: Wrong to connect to.
NOWHERE = [
    ("tcp://*:5555", "'\\*' as host is for listening"),
    ("tcp://127.0.0.1:*", "'\\*' as port is for listening"),
    ("tcp://127.0.0.1:0", "'0' is no port, a number from 1"),
    ("tcp://10.0.0.1;10.0.0.7:5000", "the port is missing"),
    ("tcp://;10.0.0.7:5000", "the name is missing"),
    ("tcp://10.0.0.1:0;", "the host is missing"),
    ("tcp://10.0.0.1:x;10.0.0.7:5000", "'x' is no port"),
    ("ipc://*", "connect to what listen"),
]
#: Wrong as the endpoint of a channel, beyond that.
RANGES = [
    ("tcp://127.0.0.1:5003-5000", "the range of ports 5003-5000 is reversed: use 5000-5003"),
    ("tcp://127.0.0.1:1-65535", "has 65535 ports, and may have 256"),
    ("tcp://127.0.0.1:65530-65540", "'65540' is no port: it is over 65535"),
    ("tcp://127.0.0.1:0-3", "'0' is no port"),
    ("tcp://127.0.0.1:5000-", "'' is no port"),
    ("tcp://127.0.0.1:5000-http", "'http' is no port"),
    ("tcp://127.0.0.1:5000-5001-5002", "'5001-5002' is no port"),
]
#: Wrong to listen at.
DEAF = [
    ("tcp://10.0.0.1:0;10.0.0.7:5000", "before a semicolon, is for clients"),
    ("tcp://127.0.0.1:5000-5003", "a range of ports is for clients; .*call listen\\(\\) for each"),
    ("dns:///greeter:5000", "'dns' is none of"),
    ("dns:greeter:5000", "a name that is looked up is for the endpoint of a channel"),
]


def check(parse: Callable[[], object], given: object, parameter: str, why: str) -> None:
    """It is refused, in words that name the parameter, the address, and what would be right."""
    error = ValueError if isinstance(given, str) else TypeError
    with pytest.raises(error, match=why) as raised:
        parse()
    message = str(raised.value)
    assert message.startswith(parameter)
    assert repr(given)[:200] in message
    assert ". Use tcp://" in message
    assert message.isprintable()


@pytest.mark.parametrize("use", Use)
@pytest.mark.parametrize(("given", "why"), [*WRONG, (None, "not NoneType")])
def test_what_is_wrong_for_everybody(use: Use, given: Any, why: str) -> None:
    check(lambda: parse_address(given, use, "endpoint"), given, "endpoint", why)


@pytest.mark.parametrize(
    ("use", "given", "why"),
    [
        *((Use.ENDPOINT, *wrong) for wrong in (*NOWHERE, *RANGES)),
        *((Use.CONNECT, *wrong) for wrong in NOWHERE),
        *((Use.LISTEN, *wrong) for wrong in DEAF),
        (Use.CONNECT, "tcp://127.0.0.1:5000-5003", "is for the endpoint of a channel"),
        (Use.ADVERTISE, "tcp://127.0.0.1:5000-5003", "is for the endpoint of a channel"),
        (Use.ADVERTISE, "tcp://127.0.0.1:*", "'\\*' as port is for listening"),
    ],
)
def test_what_is_wrong_for_some(use: Use, given: str, why: str) -> None:
    check(lambda: parse_address(given, use, "endpoint"), given, "endpoint", why)


def test_a_path_must_have_room_for_what_is_put_behind_it() -> None:
    given = "ipc:///" + "x" * 99
    with pytest.raises(ValueError, match=r"100 bytes, and '.streams' behind it .* limit is 107"):
        parse_address(given, Use.LISTEN, "address", room=8)
    parse_address(given[:-1], Use.LISTEN, "address", room=8)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("tcp://239.192.1.1:5555", "no multicast group"),
        ("epgm://10.0.0.7:5555", "'10.0.0.7' is no multicast address"),
        ("epgm://greeter:5555", "'greeter' is no multicast address"),
        ("epgm://239.192.1.1", "the port is missing"),
        ("epgm://eth0;239.192.1.1:*", "'\\*' is no port"),
        ("epgm://;239.192.1.1:5555", "the interface before the semicolon is missing"),
        ("", "empty"),
        (b"epgm://239.192.1.1:5555", "not bytes"),
        (7, "not int"),
    ],
)
def test_what_is_no_group(given: Any, why: str) -> None:
    error = ValueError if isinstance(given, str) else TypeError
    with pytest.raises(error, match=f"^multicast.*{why}.* Use epgm://INTERFACE;GROUP:PORT"):
        parse_group(given, "multicast")


LONG = "9" * 5_000


@pytest.mark.parametrize(
    "address",
    [
        f"http{LONG}//x",
        f"{LONG}:1",
        f"tcp:{LONG}",
        f"/{LONG}",
        f"tcp://{LONG}",
        f"tcp://{LONG}:1",
        f"tcp://x{LONG}:1",
        f"tcp://\xe9{LONG}:1",
        f"tcp://[{LONG}]:1",
        f"tcp://h:{LONG}",
        f"tcp://h:{LONG}-1",
        f"tcp://h:2{LONG}-1{LONG}",
        f"tcp://h:{'0' * 5_000}2-1",
        f"tcp://{LONG}:0;h:1",
        f"ipc://~{LONG}",
        f"ipc:///{LONG}",
        f"dns:///{LONG}:1",
        f"dns://{LONG}/h:1",
        f"dns+srv:{LONG}",
    ],
    ids=lambda address: address.replace(LONG, "9s")[:30],
)
def test_what_is_said_of_a_long_one_is_short(address: str) -> None:
    with pytest.raises(ValueError, match=r"characters\).* Use ") as caught:
        checked_target(address, "endpoint")
    assert len(str(caught.value)) < 1_500


# -- any text ------------------------------------------------------------------------------------

_hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map("[{}]".format),
    st.from_regex(r"[a-z][a-z0-9_-]{0,20}(\.[a-z][a-z0-9]{0,9}){0,3}", fullmatch=True),
)
_ports = st.integers(1, 65_535)
_pieces = st.sampled_from(
    "tcp ipc inproc dns :// : [ ] ::1 * ; - 127.0.0.1 @ 5000 65536 0 / \0 host \xe9".split(" ")
)
_texts = st.lists(_pieces, max_size=9).map("".join) | st.text(max_size=30)


@settings(max_examples=examples(300), deadline=None)
@given(_hosts, _ports, st.sampled_from(Use))
def test_what_is_written_right_is_read_back(host: str, port: int, use: Use) -> None:
    parsed = parse_address(f"tcp://{host}:{port}", use, "endpoint")
    assert parsed == ("tcp", host, range(port, port + 1))
    assert parsed.each == [f"tcp://{host}:{port}"]


@settings(max_examples=examples(300), deadline=None)
@given(_hosts, _ports, st.integers(0, 300))
def test_a_range_is_so_many_addresses(host: str, first: int, more: int) -> None:
    last = first + more
    address = f"tcp://{host}:{first}-{last}"
    if more >= 256 or last > 65_535:
        with pytest.raises(ValueError, match=r"may have 256|over 65535"):
            static_addresses(address, "endpoint")
    else:
        each = [f"tcp://{host}:{port}" for port in range(first, last + 1)]
        assert list(static_addresses(address, "endpoint")) == each


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(["", "tcp://", "tcp://127.0.0.1:", "ipc://", "inproc://"]), _texts)
def test_any_text_is_read_or_refused_in_words(scheme: str, text: str) -> None:
    for use in Use:
        refusal, parsed = "", None
        try:
            parsed = parse_address(scheme + text, use, "endpoint")
        except ValueError as error:
            refusal = str(error)
        if parsed is None:
            assert refusal.startswith(f"endpoint={scheme + text!r}: ")
            assert ". Use tcp://" in refusal
            continue
        assert (scheme + text).isprintable()
        assert parsed.rest
        for address in parsed.each if use.connects else ():
            assert parse_address(address, Use.CONNECT, "endpoint").each == [address]
            assert parsed.scheme != "tcp" or 0 < int(address.rpartition(":")[2]) < 65_536


@given(st.ip_addresses(v=6).map(str), _ports)
def test_an_ipv6_address_without_brackets_is_no_guess(ip: str, port: int) -> None:
    assert ipaddress.ip_address(ip)
    with pytest.raises(ValueError, match=r"needs brackets"):
        parse_address(f"tcp://{ip}:{port}", Use.ENDPOINT, "endpoint")


# -- wherever users pass one ---------------------------------------------------------------------


@pytest.fixture
def factory(one_loop: Loop) -> Iterator[ZmqFactory]:
    factory = ZmqFactory(one_loop.reactor)
    yield factory
    factory.shutdown()


@pytest.mark.parametrize(("given", "why"), [*WRONG, *NOWHERE, *RANGES, (None, "not NoneType")])
def test_a_channel_says_it_at_once(factory: ZmqFactory, given: Any, why: str) -> None:
    for endpoint in (given, ["tcp://127.0.0.1:1", given]):
        check(lambda endpoint=endpoint: Channel(factory, endpoint), given, "endpoint", why)  # type: ignore[misc]  # mypy cannot infer a default
    assert not factory.connections


@pytest.mark.parametrize(("given", "why"), [*WRONG, *DEAF, (None, "not NoneType")])
def test_a_server_says_it_at_once(factory: ZmqFactory, given: Any, why: str) -> None:
    server = Server(factory, [Echo()])
    here = "tcp://127.0.0.1:*"
    for insecure in (True, False):
        check(lambda i=insecure: server.listen(given, insecure=i), given, "address", why)  # type: ignore[misc]  # as above
    if given is not None and "multicast" not in why:
        check(lambda: server.listen(here, publisher=given), given, "publisher", why)
    assert not factory.connections


@pytest.mark.parametrize(("given", "why"), [*WRONG, *NOWHERE, (None, "not NoneType")])
def test_a_worker_says_it_at_once(factory: ZmqFactory, given: Any, why: str) -> None:
    server = Server(factory, [Echo()])
    for insecure in (True, False):
        check(lambda i=insecure: server.connect(given, insecure=i), given, "address", why)  # type: ignore[misc]  # as above
    assert not factory.connections


@pytest.mark.parametrize(("given", "why"), WRONG)
def test_what_clients_are_told_is_checked(factory: ZmqFactory, given: Any, why: str) -> None:
    server = Server(factory, [Echo()])
    check(lambda: server.listen("tcp://127.0.0.1:*", advertise=given), given, "advertise", why)
    assert not factory.connections


def test_the_network_itself_takes_no_other(factory: ZmqFactory) -> None:
    network: Any = ZmqNetwork(factory)
    for address, why in [*WRONG, *NOWHERE]:
        check(lambda to=address: network.connect(to, None, {}), address, "address", why)  # type: ignore[misc]  # as above
    for address, why in NOWHERE:
        check(lambda to=address: network.subscribe(to, None, {}), address, "address", why)  # type: ignore[misc]  # as above
    assert not factory.connections


@pytest.mark.parametrize("target", [None, 7, 5.5, b"tcp://a:1", object(), print])
def test_what_is_no_target_at_all(target: Any) -> None:
    for make, parameter in ((resolver_for, "target"), (StaticResolver, "addresses")):
        with pytest.raises(TypeError, match=f"{parameter} must be an address, several of them, or"):
            make(target)
    with pytest.raises(TypeError, match="endpoint must be an address, several of them, or"):
        Channel(MemoryNetwork(), target)


def test_a_class_of_resolvers_is_none() -> None:
    told = r"^target must be a resolver, not the class .*pass an instance, StaticResolver"
    with pytest.raises(TypeError, match=told):
        resolver_for(untyped(StaticResolver))
    with pytest.raises(TypeError, match=r"^addresses must be an address, several of them, or"):
        StaticResolver(untyped(StaticResolver))


def test_a_network_of_another_kind_has_its_own_schemes_and_no_ports() -> None:
    assert static_addresses(["mem://x", "tcp://a"], "endpoint") == ("mem://x", "tcp://a")
    for wrong in ("tcp://a:99999", "tcp://*:1", "http://x:1", "ipc://"):
        with pytest.raises(ValueError, match=r"^endpoint="):
            Channel(MemoryNetwork(), wrong)
