"""Ordinary certificates, of TLS over TCP and of HTTP/3: read from their files, and anew when these change.

Role: files to what a TLS library takes.  It checks that key and certificate belong together and are of a kind
that can be used; it checks no name and no date: whoever connects does, or does not care.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from shadowmesh.crypto.port import Credentials
from shadowmesh.errors import ConfigError

LOOK_EVERY = 15.0
"""Seconds between two looks whether a file has changed."""
MAX_CHAIN = 12288
"""Bytes of all certificates in DER: TLS in QUIC has 16 KiB for the whole answer. Usual are 2 to 5 KB."""

log = logging.getLogger("shadowmesh.relay")
T = TypeVar("T")


class Certificate(Generic[T]):
    """A certificate with its key, read anew when a file changes. Raises ConfigError.

    :param load: makes something of both files; may raise ConfigError.
    """

    def __init__(self, certificate: Path, key: Path, load: Callable[[Path, Path], T]) -> None:
        self._files = certificate, key
        self._load = load
        self._read_at = self._changed_at()
        self._look_at = 0.0
        self.value = load(certificate, key)

    def latest(self, now: float) -> T:
        """What `load` made of the newest files that are good; looks at them every `LOOK_EVERY`."""
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self.renew()
        return self.value

    def renew(self) -> None:
        """Take a new one if there is one; one that is no good changes nothing."""
        try:
            changed_at = self._changed_at()
            if changed_at != self._read_at:
                self._read_at = changed_at
                self.value = self._load(*self._files)
                log.info("the certificate %s was read again", self._files[0])
        except ConfigError as error:
            log.error("the certificate that was read before is still used: %s", error.told)

    def _changed_at(self) -> tuple[int, ...]:
        try:
            return tuple(file.stat().st_mtime_ns for file in self._files)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}", "config.unreadable") from None


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For TLS 1.3 over TCP.

    A context of its own: one into which a key did not load holds the new certificate with no key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        problem = getattr(error, "reason", None) or error.strerror or error
        text = f"{certificate}, {key}: can't be used for TLS: {problem}"
        raise ConfigError(text, "config.tls") from None
    return context


def credentials(certificate: Path, key: Path) -> Credentials:
    """For HTTP/3: the first certificate in the file is ours, the others are its chain."""
    try:
        leaf, *chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        private = load_pem_private_key(key.read_bytes(), password=None)
        ours = leaf.public_key() == private.public_key()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}", "config.unreadable") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        text = f"{certificate}, {key}: can't be used for HTTP/3: {error}"
        raise ConfigError(text, "config.tls") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) or (
        isinstance(private, ec.EllipticCurvePrivateKey)
        and not isinstance(private.curve, ec.SECP256R1 | ec.SECP384R1)
    ):
        text = f"{key}: HTTP/3 takes keys for ECDSA (P-256, P-384) and RSA only"
        raise ConfigError(text, "config.tls")
    if not ours:
        text = f"{certificate}, {key}: can't be used for HTTP/3: they don't belong together"
        raise ConfigError(text, "config.tls")
    if sum(len(one.public_bytes(Encoding.DER)) for one in (leaf, *chain)) > MAX_CHAIN:
        raise ConfigError(
            f"{certificate}: is larger than {MAX_CHAIN} bytes with its chain; leave the root out",
            "config.tls",
        )
    return Credentials(leaf, tuple(chain), private)
