"""Certificates of clients as one hop tells the next: Envoy's ``x-forwarded-client-cert``.

https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers has the format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from txzmq.rpc.metadata import is_text

__all__ = ["ClientCertificate", "certificate_of", "format_certificate", "parse_certificate"]

#: One pair of an element: a key, and a value that may be quoted.
_PAIR: Final = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;=]*))', re.ASCII)
_ESCAPED: Final = re.compile(r'\\(["\\])')
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
#: What cannot stand in a value that is not quoted.
_QUOTED: Final = re.compile(r'[",;=\\\s]')
#: The names of attributes of a subject in RFC 2253, by those that :mod:`ssl` has.
_ATTRIBUTES: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """The certificate by which a client has authenticated to a gateway, or to a proxy before it.

    :ivar hash: the SHA-256 digest of the certificate, 64 hexadecimal digits.
    :ivar subject: as RFC 2253 writes it, such as ``CN=billing,O=Acme``; empty if it has none.
    :ivar uris: its alternative names that are URIs, such as ``spiffe://acme/billing``.
    :ivar dns_names: its alternative names that are names of hosts.
    """

    hash: str
    subject: str = ""
    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()


def certificate_of(der: bytes, decoded: Mapping[str, Any]) -> ClientCertificate:
    """A certificate as :mod:`ssl` tells it.

    :param der: from ``getpeercert(binary_form=True)``.
    :param decoded: from ``getpeercert()``.
    """
    names: list[tuple[str, str]] = [
        (str(pair[0]), str(pair[1])) for pair in decoded.get("subjectAltName", ())
    ]
    return ClientCertificate(
        hash=hashlib.sha256(der).hexdigest(),
        subject=_subject(decoded.get("subject", ())),
        uris=tuple(value for kind, value in names if kind == "URI"),
        dns_names=tuple(value for kind, value in names if kind == "DNS"),
    )


def _subject(names: Any) -> str:
    """A subject by RFC 2253: the last part first, and what is special with a backslash."""
    parts = cast("Iterable[Iterable[tuple[str, str]]]", names)
    texts = [
        "+".join(f"{_ATTRIBUTES.get(key, key)}={_escaped(value)}" for key, value in part)
        for part in parts
    ]
    return ",".join(reversed(texts))


def _escaped(value: str) -> str:
    text = "".join(
        f"\\{character}"
        if character in ',+"\\<>;'
        else character
        if is_text(character)
        else "".join(f"\\{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
        for character in value
    )
    if text.startswith(("#", " ")):
        text = f"\\{text}"
    return f"{text[:-1]}\\ " if text.endswith(" ") and text != "\\ " else text


def format_certificate(certificate: ClientCertificate) -> str:
    """A certificate as one element of the header; what no header can have is left out."""
    pairs = [
        ("Hash", certificate.hash),
        ("Subject", certificate.subject),
        *(("URI", uri) for uri in certificate.uris),
        *(("DNS", name) for name in certificate.dns_names),
    ]
    sent = [(key, value) for key, value in pairs if value and is_text(value)]
    return ";".join(f"{key}={_quoted(key, value)}" for key, value in sent)


def _quoted(key: str, value: str) -> str:
    if key != "Subject" and not _QUOTED.search(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse_certificate(value: str) -> ClientCertificate | None:
    """The certificate of a header with one element; None where it is anything else.

    Of several, one cannot say which is the client's.
    """
    found: dict[str, list[str]] = {}
    position = 0
    while True:
        pair = _PAIR.match(value, position)
        if pair is None:
            return None
        key, quoted, plain = pair.groups()
        text = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        found.setdefault(key.lower(), []).append(text)
        position = pair.end()
        if position == len(value):
            break
        if value[position] != ";":
            return None
        position += 1
    hashes, subjects = found.get("hash", []), found.get("subject", [""])
    if len(hashes) != 1 or len(subjects) != 1 or not _SHA256.fullmatch(hashes[0]):
        return None
    return ClientCertificate(
        hash=hashes[0].lower(),
        subject=subjects[0],
        uris=tuple(found.get("uri", ())),
        dns_names=tuple(found.get("dns", ())),
    )
