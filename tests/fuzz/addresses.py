"""Texts that should be addresses: of users, and of servers that say where their streams are."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tests.fuzz.mutators import mutate_text
from tests.fuzz.wire import expect, of_corpus
from txzmq.rpc._net.addresses import announced, beside, is_multicast, named_host, split_tcp
from txzmq.rpc._net.endpoints import checked_target, static_addresses
from txzmq.rpc._net.parsing import Use, parse_address, parse_group
from txzmq.rpc._net.publishers import publisher_for, publisher_rule
from txzmq.rpc._net.targets import is_dns, parse_dns_target

WORDS: Final = (
    *("tcp", "ipc", "inproc", "dns", "dns+srv", "epgm", "://", ":", "//", "/", ";", "*", "-", "@"),
    *("127.0.0.1", "[::1]", "[::]", "[", "]", "0.0.0.0", "239.1.1.1", "localhost", "fe80::1%eth0"),
    *("0", "1", "65535", "65536", "5000-5003", "9" * 5000, "²", "é", "\0", "\n", " ", "\u202e"),
    *("x" * 64, "a." * 130, "~", "\ud800", "%", "٣"),
)
#: The server's endpoint.
SERVERS: Final = ("tcp://10.0.0.1:5000", "tcp://[::1]:5000", "ipc:///run/s", "inproc://s")


def check_address(data: bytes) -> None:
    """It is read, and read again means the same; or it is refused in words of one line."""
    text = data.decode("utf-8", "surrogateescape")
    for use in Use:
        for foreign in (False, True):
            _check_use(text, use, foreign=foreign)
    _refused_in_words(lambda: parse_group(text, "multicast"))
    target = _refused_in_words(lambda: parse_dns_target(text))
    if target is not None:
        expect(is_dns(text), "a target that is none of DNS")
        expect(len(target.host) < 300 and target.host.isascii(), f"the host {target.host!r}")
    checked = _refused_in_words(lambda: checked_target(text, "target"))
    if checked is not None and not isinstance(checked, str):
        expect(static_addresses(checked, "target") == checked, "read again they are others")
    _check_publishers(text)


def _check_use(text: str, use: Use, *, foreign: bool) -> None:
    address = _refused_in_words(lambda: parse_address(text, use, "address", foreign=foreign))
    if address is None:
        return
    for each in address.each:
        if not each.endswith(":0"):
            again = parse_address(each, use, "address", foreign=foreign)
            expect(again.each == [each], f"{each!r} is read as {again.each}")
        beside(each)
        named_host(each)
        tcp = split_tcp(each)
        expect(tcp is None or foreign or tcp[1].isdecimal(), f"the port {tcp}")


def _check_publishers(text: str) -> None:
    """Where a server sends its clients: only to its own host, unless it is allowed."""
    rule = _refused_in_words(lambda: publisher_rule(text)) or _nobody
    elsewhere = "tcp://203.0.113.9:1"
    if _refused_in_words(lambda: publisher_for(elsewhere, SERVERS[0], rule)) is not None:
        expect("203.0.113.9" in text, "all are allowed")
    _refused_in_words(lambda: publisher_for(text, SERVERS[0], rule))
    for server in SERVERS:
        given = _refused_in_words(partial(publisher_for, text, server, _nobody))
        if given is None or is_multicast(announced(given)):
            continue
        own, there = split_tcp(server), split_tcp(given)
        if own is None or there is None:
            expect(given == f"{server}.streams", f"{server} sends its clients to {given!r}")
        else:
            expect(there[0] == own[0] or _ip(there[0]) == _ip(own[0]), f"{given!r}: not there")


def _ip(host: str) -> str:
    return str(ipaddress.ip_address(host.strip("[]")))


def _nobody(publisher: str, server: str) -> bool:
    return False


# Any: whatever it reads.
def _refused_in_words(read: Callable[[], Any]) -> Any:
    """What is read; None if it is refused."""
    try:
        return read()
    except ValueError as error:
        expect(str(error).isprintable(), f"a message that cannot be shown: {str(error)!r}")
        expect(len(str(error)) < 2_000, f"a message of {len(str(error))} characters")
        return None


def _mutate(data: bytes, chance: random.Random) -> bytes:
    return mutate_text(data, chance, WORDS)


TARGETS: Final = {"address": of_corpus("address", _mutate, check_address)}
