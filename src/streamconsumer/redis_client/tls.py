"""TLS contexts from PEM text.

The PEM text may come from another tenant. Only certificates and unencrypted private keys are passed to OpenSSL, because
the decryption of a private key can take hours. Certificates are passed as files in memory, because OpenSSL releases the
interpreter lock only while it reads files.
"""

import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

MAX_CA_BYTES = 512 * 1024
"""Maximum size of the CA certificates. The CA bundle of a Linux distribution has about 230 kB."""

MAX_CERTIFICATE_BYTES = 64 * 1024
MAX_KEY_BYTES = 7 * 1024
"""Maximum size of a private key. An RSA key of 8192 bits is within this limit, and a signature with such a key takes
less than 100 ms."""

_CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
"""Python's default ciphers without DHE. With DHE, the server selects the size of the numbers in the client's
calculation."""

_CERTIFICATES, _KEYS = "CERTIFICATE", "(?:RSA |EC )?PRIVATE KEY"


MAX_HANDSHAKE_BYTES = 16 * 1024
"""Maximum number of bytes that a server can send before the end of the handshake. OpenSSL verifies the signatures of
all certificates in one call. Without the limit, a long certificate chain with unusual RSA keys could block the event
loop for 0.5 s."""


class InvalidPem(Exception):
    """PEM text cannot be used."""

    def __init__(self, name: str, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.name = name
        """Name of the PEM text that cannot be used: `ca` or `cert`."""


@dataclass(frozen=True)
class TlsMaterial:
    """PEM texts and verification settings of a connection."""

    ca: str | None = None
    """CA certificates. None for the CA certificates of the system."""
    cert: str | None = None
    key: str | None = field(default=None, repr=False)
    verifies_certificate: bool = True
    verifies_host_name: bool = True

    def context(self) -> ssl.SSLContext:
        """Return a TLS context. Connections without PEM texts and with the same verification settings share a context.
        Raises InvalidPem. Takes up to 0.2 s.

        The strict X.509 check of Python 3.13 is off, because it rejects the CA certificates of many clusters.
        """
        if self.ca is None and self.cert is None:
            return _system_context(self.verifies_certificate, self.verifies_host_name)
        context = _new_context(self.verifies_certificate, self.verifies_host_name)
        if self.ca is None:
            context.load_default_certs()
        else:
            _load_ca(context, _pem_blocks(self.ca, _CERTIFICATES, "ca", MAX_CA_BYTES))
        if self.cert is not None:
            cert = _pem_blocks(self.cert, _CERTIFICATES, "cert", MAX_CERTIFICATE_BYTES)
            _load_cert(context, cert, _pem_blocks(self.key or "", _KEYS, "cert", MAX_KEY_BYTES))
        return context


class _LimitedSslObject(ssl.SSLObject):
    """TLS connection whose handshake fails if the server sends more than MAX_HANDSHAKE_BYTES."""

    incoming: ssl.MemoryBIO
    _bytes_read = 0

    def do_handshake(self) -> None:
        pending = self.incoming.pending
        if self._bytes_read + pending > MAX_HANDSHAKE_BYTES:
            raise ssl.SSLError(f"the server sent more than {MAX_HANDSHAKE_BYTES} bytes in the TLS handshake")
        try:
            super().do_handshake()
        finally:
            self._bytes_read += pending - self.incoming.pending


class _LimitedContext(ssl.SSLContext):
    sslobject_class = _LimitedSslObject

    def wrap_bio(self, incoming: ssl.MemoryBIO, *arguments: Any, **options: Any) -> ssl.SSLObject:
        wrapped = super().wrap_bio(incoming, *arguments, **options)
        assert isinstance(wrapped, _LimitedSslObject)
        wrapped.incoming = incoming
        return wrapped


@cache
def _system_context(verifies_certificate: bool, verifies_host_name: bool) -> ssl.SSLContext:
    context = _new_context(verifies_certificate, verifies_host_name)
    context.load_default_certs()
    return context


def _new_context(verifies_certificate: bool, verifies_host_name: bool) -> ssl.SSLContext:
    context = _LimitedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.check_hostname = verifies_certificate and verifies_host_name
    context.verify_mode = ssl.CERT_REQUIRED if verifies_certificate else ssl.CERT_NONE
    return context


def _load_ca(context: ssl.SSLContext, pem: str) -> None:
    with _pem_file(pem) as path:
        try:
            context.load_verify_locations(cafile=path)
        except OSError as error:
            raise InvalidPem("ca", "certificates", _reason(error)) from None


def _load_cert(context: ssl.SSLContext, certificates: str, key: str) -> None:
    with _pem_file(certificates) as certificate_path, _pem_file(key) as key_path:
        try:
            context.load_cert_chain(certificate_path, key_path, password="")
        except OSError as error:
            raise InvalidPem("cert", "a certificate that matches its private key", _reason(error)) from None


def _pem_blocks(text: str, label: str, name: str, max_bytes: int) -> str:
    """Return the PEM blocks that have a given label. Blocks with headers are dropped, because such blocks are
    encrypted."""
    block = rf"-----BEGIN ({label})-----[A-Za-z0-9+/=\s]*-----END \1-----"
    blocks = "\n".join(match[0] for match in re.finditer(block, text)) + "\n"
    if len(blocks) > max_bytes:
        raise InvalidPem(name, f"at most {max_bytes} bytes of PEM text", f"{len(blocks)} bytes")
    return blocks


@contextmanager
def _pem_file(pem: str) -> Iterator[str]:
    """Yield the path of a file with the text. On Linux, the file is in memory and is never written to a disk."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("pem"), "w") as file:
            file.write(pem)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(pem)
            file.flush()
            yield file.name


def _reason(error: OSError) -> str:
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
