"""Who has sent a request, by the addresses that proxies have written down."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txzmq.rpc._gateway.addresses import (
    INPROC,
    UNIX,
    UNKNOWN,
    Networks,
    chain_of,
    parse_address,
    parse_entry,
)

PROXIES = Networks("trusted_proxies", ["10.0.0.0/8", "2001:db8::/32"])
PROXY = ip_address("10.0.0.1")
CLIENT = ip_address("198.51.100.7")

addresses = st.ip_addresses().map(lambda address: parse_address(str(address)))
trusted = st.one_of(st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="2001:db8::/32"))
strangers = addresses.filter(lambda address: address not in PROXIES)
#: What clients may write; a comma separates entries.
lies = st.lists(st.one_of(trusted.map(str), addresses.map(str), st.text(max_size=20)), max_size=5)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:65535", "2001:db8::7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("[::ffff:198.51.100.7]:1", "198.51.100.7"),
        ("unix:", UNIX),
        # All others are unknown: to guess is to be told lies.
        ("", UNKNOWN),
        ("unknown", UNKNOWN),
        ("_hidden", UNKNOWN),
        ("client.example", UNKNOWN),
        ("198.51.100.7 ", UNKNOWN),
        ("198.51.100.7\n", UNKNOWN),
        ("198.51.100.007", UNKNOWN),
        ("198.51.100", UNKNOWN),
        ("198.51.100.7:", UNKNOWN),
        ("198.51.100.7:65536", UNKNOWN),
        ("198.51.100.7:123456", UNKNOWN),
        ("198.51.100.7:1:2", UNKNOWN),
        ("2001:db8::7:65535:1:2:3:4:5:6", UNKNOWN),
        ("[198.51.100.7]", UNKNOWN),
        ("[2001:db8::7]:", UNKNOWN),
        ("[2001:db8::7", UNKNOWN),
        ("2001:db8::7]", UNKNOWN),
        ("fe80::1%eth0", UNKNOWN),
        ('"198.51.100.7"', UNKNOWN),
        ("for=198.51.100.7", UNKNOWN),
        ("１９８.51.100.7", UNKNOWN),  # noqa: RUF001 - digits, but none of ASCII
        ("unix:/run/x", UNKNOWN),
        ("inproc:", UNKNOWN),
    ],
)
def test_entries(text: str, address: str) -> None:
    expected = address if address in (UNIX, UNKNOWN) else ip_address(address)
    assert parse_entry(text) == expected


@given(st.ip_addresses(v=4), st.integers(0, 65_535))
def test_entries_of_ipv4(address: IPv4Address, port: int) -> None:
    assert parse_entry(str(address)) == parse_entry(f"{address}:{port}") == address


@given(st.ip_addresses(v=6), st.integers(0, 65_535))
def test_entries_of_ipv6(address: IPv6Address, port: int) -> None:
    expected = address.ipv4_mapped or address
    for text in (str(address), address.exploded, f"[{address}]", f"[{address}]:{port}"):
        assert parse_entry(text) == expected


@given(st.text())
def test_any_text(text: str) -> None:
    found = parse_entry(text)
    assert found in (UNIX, UNKNOWN) or parse_entry(str(found)) == found


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("", None),
        ("localhost", None),
    ],
)
def test_addresses_of_sockets(text: str, address: str | None) -> None:
    assert parse_address(text) == (UNKNOWN if address is None else ip_address(address))


@given(lies, strangers)
def test_a_client_that_is_no_proxy_says_nothing(told: list[str], client: Any) -> None:
    assert chain_of([", ".join(told)], client, PROXIES) == (client,)


@given(lies, strangers, st.lists(trusted, min_size=1, max_size=4), st.booleans())
def test_the_right_most_that_is_no_proxy_is_the_client(
    told: list[str], client: Any, proxies: list[Any], several: bool
) -> None:
    """Whatever it has told the first proxy, in one header or in several."""
    *before, peer = proxies
    entries = [*told, str(client), *map(str, before)]
    values = entries if several else [",".join(entries)]
    assert chain_of(values, peer, PROXIES) == (client, *before, peer)


@given(lies, st.sampled_from(["", "unknown", "_x", "1.2.3", "unix:"]), trusted)
def test_what_a_proxy_does_not_know_is_not_asked_for_further(
    told: list[str], unknown: str, peer: Any
) -> None:
    client, *proxies = chain_of([",".join([*told, unknown])], peer, PROXIES)
    assert client == (UNIX if unknown == UNIX else UNKNOWN)
    assert proxies == [peer]


def test_proxies_alone() -> None:
    assert chain_of([], PROXY, PROXIES) == (PROXY,)
    assert chain_of(["10.0.0.3, 10.0.0.2"], PROXY, PROXIES) == (
        ip_address("10.0.0.3"),
        ip_address("10.0.0.2"),
        PROXY,
    )


def test_unix_sockets_are_trusted_where_they_are_named() -> None:
    assert chain_of(["198.51.100.7"], UNIX, PROXIES) == (UNIX,)
    named = Networks("trusted_proxies", ["unix:", "10.0.0.1"])
    assert chain_of(["198.51.100.7, 10.0.0.1"], UNIX, named) == (CLIENT, PROXY, UNIX)
    assert chain_of(["198.51.100.7, unix:"], PROXY, named) == (CLIENT, UNIX, PROXY)
    assert UNKNOWN not in named


def test_ipv4_in_the_form_of_ipv6_is_ipv4() -> None:
    """As a socket for both tells it."""
    assert parse_address("::ffff:10.0.0.1") in PROXIES
    assert chain_of(["::ffff:198.51.100.7"], PROXY, PROXIES) == (CLIENT, PROXY)


@pytest.mark.parametrize(
    ("networks", "error", "words"),
    [
        ("10.0.0.0/8", TypeError, "trusted_proxies must be a collection of networks"),
        (None, TypeError, "trusted_proxies must be a collection of networks"),
        ([10], TypeError, "trusted_proxies must be networks as str"),
        (["10.0.0.1/8"], ValueError, "trusted_proxies: 10.0.0.1/8 has host bits set"),
        (["proxy.example"], ValueError, "trusted_proxies: 'proxy.example' does not appear to be"),
        (["::ffff:10.0.0.0/104"], ValueError, "is a network of IPv4: write it as such"),
        (["inproc:"], ValueError, "trusted_proxies: 'inproc:' does not appear to be"),
    ],
)
def test_wrong_networks(networks: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        Networks("trusted_proxies", networks)
    assert words in str(caught.value)


def test_words_in_place_of_networks() -> None:
    assert not Networks("addresses", [])
    both = Networks("addresses", ["inproc:", "unix:"], (UNIX, INPROC))
    assert both
    assert INPROC in both
    assert UNIX in both
    assert PROXY not in both
