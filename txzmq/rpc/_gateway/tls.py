"""TLS of a gateway, of files."""

from __future__ import annotations

import os
import ssl

__all__ = ["server_tls"]


def server_tls(
    certificate: str | os.PathLike[str],
    key: str | os.PathLike[str],
    *,
    client_ca: str | os.PathLike[str] | None = None,
) -> ssl.SSLContext:
    """What :meth:`txzmq.rpc.http_gateway.HttpGateway.listen` takes, of files in PEM format.

    :param certificate: with those of the authorities between it and one that clients know.
    :param key: the secret key of the certificate.
    :param client_ca: certificates of authorities; clients need a certificate of one of these. None
        if clients need none.
    :raises OSError: if a file cannot be read.
    :raises ValueError: if a file has not what it should, or the key is that of another certificate.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key, client_ca):
        if path is not None:
            with open(path, "rb"):  # ssl says not which of them it cannot read
                pass
    try:
        # No password is asked for at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ValueError(
            f"{os.fspath(certificate)} and {os.fspath(key)} are no certificate and its key, in PEM "
            f"format and without a password: {error.reason or error}"
        ) from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise ValueError(
                f"{os.fspath(client_ca)} has no certificates in PEM format: {error.reason or error}"
            ) from None
    return context
