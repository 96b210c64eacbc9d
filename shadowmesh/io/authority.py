"""The folder of an authority: its encrypted key, its ledger, and what it has signed.

    authority.pem     0600   both keys, encrypted (crypto/authority_key.py)
    authority.next.pem       only while a rotation is under way, or was interrupted: the new ones
    ledger.json       0600   everybody who was signed for
    network.pem              the public part
    revocations.pem          the newest list
    certificates/NAME.pem    the latest certificate of each name

The ledger is on disk before a certificate or a list is: a serial, an address and a number are never used
twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import check_private, node_id_text, write_once
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import IdentityError
from shadowmesh.io.documents import load_network, network_text, replace_file
from shadowmesh.membership.authority import Authority, Ledger, Rotation, adopt
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.delegation import Delegation
from shadowmesh.membership.network import Network, NetworkRelay, Subnet
from shadowmesh.membership.revocation import RevocationList
from shadowmesh.membership.signed import Kind, to_text

KEY_FILE = "authority.pem"
NEXT_KEY_FILE = "authority.next.pem"
LEDGER_FILE = "ledger.json"
NETWORK_FILE = "network.pem"
LIST_FILE = "revocations.pem"
CERTIFICATES = "certificates"


class AuthorityFolder:
    """One authority on disk. Everything raises IdentityError with what to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(
        self,
        name: str,
        subnets: Sequence[Subnet],
        relays: Sequence[NetworkRelay],
        passphrase: bytes,
        now: float,
    ) -> Network:
        """A new authority; one that is there is never replaced. Raises ValueError for a wrong request."""
        self.require_room()
        key = AuthorityKey.generate()
        network = Network.make(name, subnets, relays, key, int(now))
        encrypted = key.encode(name, passphrase)
        with self._said():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / CERTIFICATES).mkdir(mode=0o700, exist_ok=True)
            self._write_ledger(Ledger(network=node_id_text(network.id)))
            self._write_network(network)
            write_once(self.folder / KEY_FILE, encrypted)  # last: without it there is no authority
        return network

    def require_room(self) -> None:
        """Raises IdentityError if there is an authority already."""
        if self._is_there():
            text = f"there is an authority in {self.folder}; give --state-dir another folder"
            raise IdentityError(text, "authority.exists")

    def network(self) -> Network:
        """The public part."""
        self._require()
        return load_network(self.folder / NETWORK_FILE)[0]

    def ledger(self) -> Ledger:
        """Everybody who was signed for."""
        self._require()
        with self._said():
            data = (self.folder / LEDGER_FILE).read_bytes()
        try:
            return msgspec.json.decode(data, type=Ledger)
        except UNDECODABLE as error:
            raise IdentityError(
                f"{self.folder / LEDGER_FILE} is damaged ({error}); restore it from a backup",
                "authority.damaged",
            ) from None

    @contextlib.contextmanager
    def opened(self, passphrase: bytes) -> Iterator[Authority]:
        """The authority at work; nobody else has it meanwhile. `keep` what it makes."""
        self._require()
        with self._said():
            check_private(self.folder, 0o022, "changed by others", "700")
            check_private(self.folder / KEY_FILE, 0o077, "read by others", "600")
        with self._locked():
            with self._said():
                data = (self.folder / KEY_FILE).read_bytes()
            key = self._finish_rotation(AuthorityKey.decode(data, passphrase), passphrase)
            try:
                authority = Authority(key, self.network(), self.ledger())
            except ValueError as error:
                raise IdentityError(
                    f"{self.folder}: {error}; restore it from a backup", "authority.damaged"
                ) from None
            yield authority

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._said():
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def adopt(self, uses: Mapping[int, str]) -> None:
        """Enter the nodes that invitations were given to; needs no key."""
        with self._locked():
            ledger = self.ledger()
            if adopt(ledger, uses):
                with self._said():
                    self._write_ledger(ledger)

    def keep_ledger(self, authority: Authority) -> None:
        """Write the ledger, before what it remembers leaves the machine."""
        with self._said():
            self._write_ledger(authority.ledger)

    def keep_rotation(self, authority: Authority, rotation: Rotation, passphrase: bytes) -> Path:
        """Write the new key, then what it has signed; the old key is gone then. Returns the list's file.

        The new network is the step from one key to the other: whoever is interrupted after it is helped by
        `opened`, which finds the new key beside the old one.
        """
        with self._said():
            encrypted = rotation.key.encode(rotation.network.name, passphrase)
            replace_file(self.folder / NEXT_KEY_FILE, encrypted, mode=0o600)
            self._write_ledger(authority.ledger)
            self._write_network(rotation.network)
            replace_file(self.folder / LIST_FILE, self._list_text(rotation.revocations.document).encode())
            os.replace(self.folder / NEXT_KEY_FILE, self.folder / KEY_FILE)
        return self.folder / LIST_FILE

    def _finish_rotation(self, key: AuthorityKey, passphrase: bytes) -> AuthorityKey:
        """The key of the network's public part: the new one, where a rotation was interrupted."""
        path = self.folder / NEXT_KEY_FILE
        if key.public == self.network().authority or not path.exists():
            return key
        check_private(path, 0o077, "read by others", "600")
        found = AuthorityKey.decode(path.read_bytes(), passphrase)
        if found.public == self.network().authority:
            os.replace(path, self.folder / KEY_FILE)
        return found

    def keep_certificate(self, authority: Authority, certificate: Certificate, where: Path | None) -> Path:
        """Write ledger and certificate; returns the certificate's file."""
        path = where or self.folder / CERTIFICATES / f"{certificate.body.name}.pem"
        heading = f"certificate of {certificate.body.name} in {self.network().name}"
        with self._said():
            self._write_ledger(authority.ledger)
            replace_file(path, to_text(certificate.document, Kind.CERTIFICATE, heading).encode())
        return path

    def keep_delegation(self, authority: Authority, delegation: Delegation, where: Path) -> Path:
        """Write ledger and delegation; returns the delegation's file."""
        heading = f"delegation of {node_id_text(delegation.delegate.node_id)} in {self.network().name}"
        with self._said():
            self._write_ledger(authority.ledger)
            replace_file(where, to_text(delegation.document, Kind.DELEGATION, heading).encode())
        return where

    def keep_list(self, authority: Authority, made: RevocationList) -> Path:
        """Write ledger and revocation list; returns the list's file."""
        path = self.folder / LIST_FILE
        with self._said():
            self._write_ledger(authority.ledger)
            replace_file(path, self._list_text(made.document).encode())
        return path

    def export(self) -> str:
        """What members and relays need: the public part, and the newest revocation list."""
        network, path = self.network(), self.folder / LIST_FILE
        text = self._network_text(network)
        with self._said():
            return text + path.read_text() if path.exists() else text

    def _write_network(self, network: Network) -> None:
        replace_file(self.folder / NETWORK_FILE, self._network_text(network).encode())

    def _write_ledger(self, ledger: Ledger) -> None:
        data = msgspec.json.format(msgspec.json.encode(ledger), indent=1)
        replace_file(self.folder / LEDGER_FILE, data, mode=0o600)

    @staticmethod
    def _network_text(network: Network) -> str:
        return network_text(network)

    @staticmethod
    def _list_text(document: bytes) -> str:
        return to_text(document, Kind.REVOCATIONS)

    def _is_there(self) -> bool:
        with self._said():
            return (self.folder / KEY_FILE).exists()

    def _require(self) -> None:
        if not self._is_there():
            text = (
                f"there is no authority in {self.folder}; make one with `network create`, or give --state-dir"
            )
            raise IdentityError(text, "authority.missing")

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "; run it with sudo" if isinstance(error, PermissionError) and os.geteuid() else ""
            text = f"{error.filename or self.folder}: {error.strerror}{remedy}"
            raise IdentityError(text, "authority.folder") from error
