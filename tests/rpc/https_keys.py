"""Fetches keys from a provider by https: once as a stranger's, and once as one that is trusted."""

from __future__ import annotations

import datetime
import ssl
import tempfile
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from twisted.internet import ssl as twisted_ssl
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import globalLogPublisher
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS

from tests.rpc.issuer import jwk, jwks, key
from txzmq.rpc import Unavailable
from txzmq.rpc.tokens import JwksKeys

#: Any: Twisted's own types are in pieces.
TLS: Any = twisted_ssl
AGENT: Any = Agent
POLICY: Any = BrowserLikePolicyForHTTPS


class Keys(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        Keys.asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(jwks(jwk(key("P-256"), "one")))

    def log_message(self, format: str, *args: Any) -> None: ...


class Provider(HTTPServer):
    """Not Twisted's: the server of an old one does not work with a new pyOpenSSL."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client has not trusted it."""


def serve(certificate: bytes) -> Provider:
    provider = Provider(("127.0.0.1", 0), Keys)
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate)
        file.flush()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file.name)
    provider.socket = context.wrap_socket(provider.socket, server_side=True)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    return provider


def self_signed() -> bytes:
    """A certificate for localhost that no authority has signed."""
    private = key("P-256", 1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    pem += private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem


async def main(reactor: Any) -> None:
    certificate = self_signed()
    provider = serve(certificate)
    url = f"https://localhost:{provider.server_port}/keys"
    told: list[str] = []
    log: Any = globalLogPublisher

    def see(event: Any) -> None:
        told.append(str(event.get("error")))

    log.addObserver(see)
    try:
        await JwksKeys(url, reactor, timeout=30.0).fetch()
    except Unavailable:
        reason = "certificate verify failed"
        found = [line for line in told if reason in line]
        print("a stranger:", reason if found and not Keys.asked else told)
    root = TLS.trustRootFromCertificates([TLS.Certificate.loadPEM(certificate)])
    trusting = JwksKeys(url, reactor, agent=AGENT(reactor, POLICY(root)), timeout=30.0)
    await trusting.fetch()
    print("the provider:", Keys.asked, "asked")
    provider.shutdown()
    provider.server_close()


def start(reactor: Any) -> Deferred[None]:
    return Deferred.fromCoroutine(main(reactor))


if __name__ == "__main__":
    # What Twisted does for its certificates, pyOpenSSL wants to be done otherwise.
    warnings.filterwarnings("ignore", "Passing pyOpenSSL", DeprecationWarning)
    react(start, ())
