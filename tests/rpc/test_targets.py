"""What the words that name a server mean, and what is said of those that mean nothing."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txzmq.rpc import DnsResolver, ResolvedAddress, StaticResolver, resolver_for
from txzmq.rpc._net.targets import DnsTarget, is_dns, parse_dns_target


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        ("dns:host:5000", ("dns", None, "host", 5000)),
        ("dns:///host:5000", ("dns", None, "host", 5000)),
        ("DNS:///Host.Example.org.:1", ("dns", None, "Host.Example.org.", 1)),
        ("dns://192.0.2.53/host:65535", ("dns", ("192.0.2.53", 53), "host", 65535)),
        ("dns://192.0.2.53:5353/host:80", ("dns", ("192.0.2.53", 5353), "host", 80)),
        ("dns://[2001:db8::53]/host:80", ("dns", ("2001:db8::53", 53), "host", 80)),
        ("dns://[::1]:5353/host:80", ("dns", ("::1", 5353), "host", 80)),
        ("dns:127.0.0.1:80", ("dns", None, "127.0.0.1", 80)),
        ("dns:[::1]:80", ("dns", None, "::1", 80)),
        ("dns:///[::1]:80", ("dns", None, "::1", 80)),
        ("dns:///host:5000-5003", ("dns", None, "host", range(5000, 5004))),
        ("dns+srv:_a._tcp.example.org", ("dns+srv", None, "_a._tcp.example.org", 0)),
        ("dns+srv:///a.service.consul.", ("dns+srv", None, "a.service.consul.", 0)),
        ("dns+srv://[::1]:8600/_a._tcp.x", ("dns+srv", ("::1", 8600), "_a._tcp.x", 0)),
    ],
)
def test_targets_as_grpc_spells_them(target: str, parsed: tuple[Any, ...]) -> None:
    port: Any = parsed[3]
    ports = port if isinstance(port, range) else range(port, port + 1 if port else 0)
    assert is_dns(target)
    assert parse_dns_target(target) == (*parsed[:3], ports)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("dns:", "the name is missing|port is missing"),
        ("dns:host", "the port is missing"),
        ("dns:///", "the port is missing"),
        ("dns:///:80", "the name is missing"),
        ("dns://host:80", "must follow the DNS server"),
        ("dns://localhost/host:80", "'localhost' is no IP address"),
        ("dns://192.0.2.53:x/host:80", "'x' is no port"),
        ("dns:host:", "'' is no port"),
        ("dns:host:0", "'0' is no port"),
        ("dns:host:65536", "'65536' is no port"),
        ("dns:host:+80", "is no port"),
        ("dns:host:5003-5000", "reversed: use 5000-5003"),
        ("dns:host:1-65535", "has 65535 ports, and may have 256"),
        ("dns:host:5000-", "'' is no port"),
        ("dns:host:80\0", r"it contains '\\x00'"),
        ("dns:1.2.3:80", "no IP address, and no host name"),
        ("dns:host:" + "9" * 5000, "is no port"),
        ("dns:::1:80", "needs brackets"),
        ("dns:[127.0.0.1]:80", "no IPv6 address in brackets"),
        ("dns:[::1:80", "no IPv6 address in brackets"),
        ("dns:[::1]80", "no IPv6 address in brackets"),
        ("dns:[::1]", "the port is missing"),
        ("dns:a..b:80", "is no host name"),
        ("dns:a b:80", "is no host name"),
        ("dns:a/b:80", "is no host name"),
        ("dns:" + "a" * 64 + ":80", "is no host name"),
        ("dns:" + "a." * 127 + "a:80", "is no host name"),
        ("dns:bücher.example:80", "not in ASCII"),
        ("dns+srv:", "the name is missing"),
        ("dns+srv:_a._tcp.x:80", "name the ports themselves"),
        ("dns+srv://_a._tcp.x", "must follow the DNS server"),
        ("tcp://a:80", "no target for DNS"),
    ],
)
def test_what_is_wrong_is_named_and_what_is_right_said(target: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        parse_dns_target(target)
    assert f"target={target[:200]!r}"[:-1] in str(raised.value)
    assert "dns" in str(raised.value).replace(repr(target), "")


labels = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)
names = names.filter(lambda name: not name.replace(".", "").isdigit())  # those would be addresses
ips = st.ip_addresses().map(str)
ports = st.integers(1, 65_535)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@given(st.none() | st.tuples(ips, ports), names | ips, ports)
def test_what_is_spelt_right_is_read_back(
    server: tuple[str, int] | None, host: str, port: int
) -> None:
    authority = "" if server is None else f"{bracketed(server[0])}:{server[1]}"
    target = f"dns://{authority}/{bracketed(host)}:{port}"
    assert parse_dns_target(target) == DnsTarget("dns", server, host, range(port, port + 1))


@given(st.sampled_from(["dns:", "dns://", "dns:///", "dns+srv:", "dns+srv:///", ""]), st.text())
def test_any_text_is_read_or_refused_in_words(scheme: str, text: str) -> None:
    target = scheme + text
    try:
        parsed = parse_dns_target(target)
    except ValueError as error:
        refusal = str(error)
        assert f"target={target!r}: " in refusal
    else:
        assert parsed.host
        assert (not parsed.ports) == (parsed.scheme == "dns+srv")
        if parsed.server is not None:
            ipaddress.ip_address(parsed.server[0])


class Noted:
    def __init__(self) -> None:
        self.told: list[list[ResolvedAddress]] = []

    def resolved(self, addresses: list[ResolvedAddress]) -> None:
        self.told.append(list(addresses))


def test_a_target_chooses_its_resolver() -> None:
    assert isinstance(resolver_for("tcp://127.0.0.1:1"), StaticResolver)
    assert isinstance(resolver_for(["tcp://127.0.0.1:1", "ipc:///x"]), StaticResolver)
    assert isinstance(resolver_for("dns:host:1"), DnsResolver)
    own = StaticResolver("inproc://x")
    assert resolver_for(own) is own


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ([], "needs an endpoint"),
        ("localhost:5000", "'localhost:5000': it has no scheme; tcp://localhost:5000 perhaps"),
        (["tcp://a:1", "dns:b:1"], "'dns:b:1': it is a DNS name"),
    ],
)
def test_static_addresses_that_are_none(addresses: str | list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        resolver_for(addresses)
