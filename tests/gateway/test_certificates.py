"""Certificates of clients in one header."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txzmq.rpc._gateway.certificates import (
    ClientCertificate,
    certificate_of,
    format_certificate,
    parse_certificate,
)
from txzmq.rpc.metadata import is_text

HASH = "0123456789abcdef" * 4
#: What a header may have.
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)


@given(printable | st.just(""), st.lists(printable, max_size=3), st.lists(printable, max_size=3))
def test_what_is_written_is_read(subject: str, uris: list[str], names: list[str]) -> None:
    given = ClientCertificate(hash=HASH, subject=subject, uris=tuple(uris), dns_names=tuple(names))
    text = format_certificate(given)
    assert is_text(text)
    assert parse_certificate(text) == given


@given(st.text(), st.text())
def test_no_name_changes_another(subject: str, uri: str) -> None:
    """Whatever a certificate has as its names: what no header can have is left out."""
    given = ClientCertificate(hash=HASH, subject=subject, uris=(uri,))
    text = format_certificate(given)
    assert is_text(text)
    assert parse_certificate(text) == ClientCertificate(
        hash=HASH,
        subject=subject if is_text(subject) else "",
        uris=(uri,) if uri and is_text(uri) else (),
    )


@given(st.text())
def test_any_text(text: str) -> None:
    found = parse_certificate(text)
    assert found is None or len(found.hash) == 64


def test_as_envoy_writes_it() -> None:
    """The example of its documentation, with a digest of the right length."""
    text = (
        f"By=http://frontend.lyft.com;Hash={HASH.upper()};"
        'Subject="/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client";'
        "URI=http://testclient.lyft.com;DNS=lyft.com;DNS=www.lyft.com"
    )
    assert parse_certificate(text) == ClientCertificate(
        hash=HASH,
        subject="/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client",
        uris=("http://testclient.lyft.com",),
        dns_names=("lyft.com", "www.lyft.com"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        f"Hash={HASH};",
        f"Hash={HASH},Hash={HASH}",  # of two clients
        f"Hash={HASH};Hash={HASH}",
        f'Hash={HASH};Subject="a";Subject="b"',
        "Subject=a",
        "Hash=",
        f"Hash={HASH[1:]}",
        f"Hash={HASH}0",
        f"Hash={HASH};URI",
        f'Hash={HASH};Subject="a',
        f'Hash={HASH};Subject="a"b',
        f'Hash={HASH};Subject="a\\"',
        f"Hash={HASH};Subject=a=b",
        f" Hash={HASH}",
    ],
)
def test_what_is_none(text: str) -> None:
    assert parse_certificate(text) is None


def test_as_ssl_tells_it() -> None:
    decoded: dict[str, Any] = {
        "subject": (
            (("countryName", "DE"),),
            (("organizationName", 'A "B", C'),),
            (("commonName", "Jürgen "), ("1.2.3", "#x")),
        ),
        "subjectAltName": (
            ("DNS", "a.example"),
            ("URI", "spiffe://acme/a"),
            ("IP Address", "127.0.0.1"),
        ),
    }
    assert certificate_of(b"der", decoded) == ClientCertificate(
        hash=sha256(b"der").hexdigest(),
        subject='CN=J\\C3\\BCrgen\\ +1.2.3=\\#x,O=A \\"B\\"\\, C,C=DE',
        uris=("spiffe://acme/a",),
        dns_names=("a.example",),
    )
