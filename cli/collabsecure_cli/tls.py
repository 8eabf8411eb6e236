"""The server's side of TLS: certificate files in, a context out, and one line for every file that is not right."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from collabsecure.errors import BadFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files; with `client_ca`, only who has a certificate of that authority gets to speak (mutual TLS)."""

    certificate: Path  # the server's, then the intermediate ones, if any
    key: Path  # not encrypted: nobody is there to type a passphrase
    client_ca: Path | None = None


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/1.1, no renegotiation.

    Raises:
        BadFile: a file cannot be read, holds something else, or the key is another certificate's.
    """
    _check_certificates(tls.certificate)
    _check_key(tls.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # costs the server more than the peer
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except ssl.SSLError as error:
        mismatch = "MISMATCH" in (error.reason or "")
        found = f"a key that is not the one of {tls.certificate}" if mismatch else f"a key that TLS refuses ({error})"
        raise BadFile(tls.key, found=found, expected="the certificate's own private key") from error
    if tls.client_ca is not None:
        _check_certificates(tls.client_ca)
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_certificates(path: Path) -> None:
    expected = "certificates in PEM, -----BEGIN CERTIFICATE-----"
    try:
        x509.load_pem_x509_certificates(_read(path, expected))
    except ValueError as error:
        raise BadFile(path, found="no certificate that can be read", expected=expected) from error


def _check_key(path: Path) -> None:
    expected = "a private key in PEM, not encrypted"
    try:
        load_pem_private_key(_read(path, expected), None)
    except TypeError as error:
        raise BadFile(path, found="a key that needs a passphrase", expected=expected) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadFile(path, found="no key that can be read", expected=expected) from error


def _read(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadFile(path, found=str(error.strerror), expected=expected) from error
