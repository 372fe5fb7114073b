"""What gateways tell of their clients, and what services believe."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from txzmq.auth import Identity
from txzmq.rpc import Context
from txzmq.rpc._gateway.forwarding import Forwarding, tells_who_calls
from txzmq.rpc.forwarded import ClientCertificate, ForwardedClient, Gateways
from txzmq.rpc.metadata import Metadata

HASH = "0123456789abcdef" * 4
CERTIFICATE = ClientCertificate(hash=HASH, subject="CN=me", uris=("spiffe://acme/me",))
XFCC = f'Hash={HASH};Subject="CN=me";URI=spiffe://acme/me'
#: What a client may send to be taken for another.
LIES: Metadata = (
    ("x-forwarded-for", "127.0.0.1"),
    ("X_Forwarded_For".lower(), "127.0.0.1"),
    ("x-forwarded-for-bin", b"\x7f\x00\x00\x01"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "internal"),
    ("x-forwarded-client-cert", XFCC),
    ("forwarded", "for=127.0.0.1"),
    ("x-real-ip", "127.0.0.1"),
    ("true-client-ip", "127.0.0.1"),
    ("client-cert", ":abc=:"),
    ("x-ssl-client-s-dn", "CN=me"),
)
OTHERS: Metadata = (("a", "1"), ("b-bin", b"\xff"), ("a", "2"), ("x-request-id", "7"))


def told(metadata: Metadata) -> ForwardedClient | None:
    """What a service that believes the gateway is told."""
    return Gateways(["edge"]).client_of(context(metadata, Identity("edge")))


def context(metadata: Metadata, identity: Identity | None = None, peer: str = "") -> Context:
    """The call that a service gets."""
    return Context("/a/b", metadata, peer, clock=Clock(), identity=identity)


def test_nothing_of_a_clients_own_words_passes() -> None:
    sender = Forwarding().sender("198.51.100.7", secure=False)
    sent = sender.metadata((*LIES, *OTHERS))
    assert sent == (
        *OTHERS,
        ("x-forwarded-for", "198.51.100.7"),
        ("x-forwarded-proto", "http"),
    )
    assert told(sent) == ForwardedClient(address=ip_address("198.51.100.7"))


@given(st.lists(st.tuples(st.text(), st.text())), st.booleans())
def test_whatever_a_client_sends(pairs: list[tuple[str, str]], secure: bool) -> None:
    given = tuple((key.lower(), value) for key, value in pairs)
    sent = Forwarding(["10.0.0.0/8"]).sender("::1", secure=secure).metadata((*given, *LIES))
    assert told(sent) == ForwardedClient(address=ip_address("::1"), secure=secure)
    assert [pair for pair in sent if tells_who_calls(pair[0])] == list(sent[-2:])


def test_the_certificate_of_a_client() -> None:
    sender = Forwarding().sender("::1", secure=True, certificate=CERTIFICATE)
    sent = sender.metadata(LIES)
    assert sent[-1] == ("x-forwarded-client-cert", XFCC)
    assert told(sent) == ForwardedClient(
        address=ip_address("::1"), secure=True, certificate=CERTIFICATE
    )


def test_a_client_of_a_unix_socket() -> None:
    sent = Forwarding().sender(None, secure=False).metadata(LIES)
    assert sent[0] == ("x-forwarded-for", "unix:")
    assert told(sent) == ForwardedClient(address=None)


def test_the_word_of_a_trusted_proxy() -> None:
    sender = Forwarding(["10.0.0.0/8"]).sender("10.0.0.1", secure=False)
    sent = sender.metadata(
        (
            ("x-forwarded-for", "127.0.0.1, 198.51.100.7"),
            *OTHERS,
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "198.51.100.7"),
        )
    )
    assert sent == (
        *OTHERS,
        ("x-real-ip", "198.51.100.7"),
        ("x-forwarded-for", "198.51.100.7, 10.0.0.2, 10.0.0.1"),
        ("x-forwarded-proto", "https"),
    )
    assert told(sent) == ForwardedClient(
        address=ip_address("198.51.100.7"),
        proxies=(ip_address("10.0.0.2"), ip_address("10.0.0.1")),
        secure=True,
    )


@pytest.mark.parametrize("schemes", [[], ["ftp"], ["https", "http"], ["https, http"]])
def test_a_scheme_that_a_proxy_does_not_say(schemes: list[str]) -> None:
    sender = Forwarding(["10.0.0.1"]).sender("10.0.0.1", secure=False)
    sent = sender.metadata(tuple(("x-forwarded-proto", scheme) for scheme in schemes))
    assert sent[-1] == ("x-forwarded-proto", "http")


@pytest.mark.parametrize("believed", [False, True])
def test_certificates_are_believed_of_proxies_that_keep_clients_from_sending_them(
    believed: bool,
) -> None:
    forwarding = Forwarding(["10.0.0.1"], proxy_certificates=believed)
    of_proxy = ClientCertificate(hash="f" * 64)
    sender = forwarding.sender("10.0.0.1", secure=True, certificate=of_proxy)
    client = ("x-forwarded-for", "198.51.100.7")

    def certificate(*values: str) -> ClientCertificate | None:
        given = [("x-forwarded-client-cert", value) for value in values]
        found = told(sender.metadata((client, *given)))
        assert found is not None
        return found.certificate

    assert certificate(XFCC) == (CERTIFICATE if believed else None)
    # The proxy's own is none of the client's; and of several nobody knows whose they are.
    assert certificate() is None
    assert certificate(XFCC, XFCC) is None
    assert certificate(f"{XFCC},{XFCC}") is None
    assert certificate("Hash=1") is None


def test_a_proxy_that_calls_itself() -> None:
    sender = Forwarding(["10.0.0.1"]).sender("10.0.0.1", secure=True, certificate=CERTIFICATE)
    sent = sender.metadata((("x-forwarded-client-cert", "Hash=1"),))
    assert told(sent) == ForwardedClient(
        address=ip_address("10.0.0.1"), secure=True, certificate=CERTIFICATE
    )


# -- whom services believe -------------------------------------------------------------------------

SENT: Metadata = (("x-forwarded-for", "198.51.100.7"), ("x-forwarded-proto", "https"))
CLIENT = ForwardedClient(address=ip_address("198.51.100.7"), secure=True)


@pytest.mark.parametrize(
    ("gateways", "identity", "peer", "believed"),
    [
        (Gateways(["edge"]), Identity("edge"), "10.0.0.1", True),
        (Gateways(["edge"]), Identity("mallory"), "10.0.0.1", False),
        (Gateways(["edge"]), None, "10.0.0.1", False),
        # Who has a name is judged by it.
        (Gateways(["edge"], addresses=["10.0.0.1"]), Identity("mallory"), "10.0.0.1", False),
        (Gateways(addresses=["10.0.0.0/24"]), None, "10.0.0.1", True),
        (Gateways(addresses=["10.0.0.0/24"]), None, "::ffff:10.0.0.1", True),
        (Gateways(addresses=["10.0.0.0/24"]), None, "10.0.1.1", False),
        (Gateways(addresses=["::/0", "0.0.0.0/0"]), None, "", False),
        (Gateways(addresses=["::/0", "0.0.0.0/0"]), None, "inproc", False),
        (Gateways(addresses=["inproc:"]), None, "inproc", True),
        (Gateways(addresses=["inproc:"]), None, "memory", True),
        (Gateways(addresses=["inproc:"]), None, "", False),
        (Gateways(addresses=["unix:"]), None, "localhost:0:0:4711", True),
        (Gateways(addresses=["unix:"]), None, "127.0.0.1", False),
        (Gateways(addresses=["127.0.0.1"]), None, "localhost:0:0:4711", False),
        (Gateways(), Identity("edge"), "127.0.0.1", False),
        (Gateways(), None, "127.0.0.1", False),
    ],
)
def test_gateways_that_a_service_names(
    gateways: Gateways, identity: Identity | None, peer: str, believed: bool
) -> None:
    found = gateways.client_of(context(SENT, identity, peer))
    assert found == (CLIENT if believed else None)


def test_whose_the_connection_is_counts_and_not_who_calls() -> None:
    """A token names a client of the gateway; the gateway has the key."""
    call = context(SENT)
    call.identify(Identity("alice"), Identity("edge"))
    assert Gateways(["edge"]).client_of(call) == CLIENT
    assert Gateways(["alice"]).client_of(call) is None


def test_a_gateways_own_call() -> None:
    assert told(OTHERS) is None


@pytest.mark.parametrize("value", ["", "unknown", "x, 10.0.0.1", "127.0.0.1 198.51.100.7"])
def test_a_client_that_nobody_knows(value: str) -> None:
    found = told((("x-forwarded-for", value), ("x-forwarded-client-cert", "nonsense")))
    assert found is not None
    assert (found.address, found.certificate, found.secure) == (None, None, False)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"names": "edge"}, TypeError, "names must be a collection of names"),
        ({"names": [b"edge"]}, TypeError, "names must be str"),
        ({"names": [""]}, ValueError, "names must"),
        ({"addresses": ["edge"]}, ValueError, "addresses: 'edge' does not appear to be"),
        ({"addresses": "10.0.0.0/8"}, TypeError, "addresses must be a collection of networks"),
    ],
)
def test_wrong_values(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        Gateways(**arguments)
    assert words in str(caught.value)


def test_wrong_values_of_a_gateway() -> None:
    with pytest.raises(TypeError, match="proxy_certificates must be True or False"):
        Forwarding(proxy_certificates=1)  # type: ignore[arg-type]  # the point
