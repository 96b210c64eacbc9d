"""Slow twin of the frame packet: docs/protocol.md word for word, with the `cryptography` package.

Shares no code with ext/aead.pyx and uses neither its library binding nor its TLS record road.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

FIRST_BYTE = 0x43


class Refused(Exception):
    """A packet that may not be opened; the text is the reason."""


def _mask(material: bytes, packet: bytes) -> bytes:
    """Header protection: AES-256-ECB of the 16 bytes after the packet number."""
    encryptor = Cipher(algorithms.AES256(material[44:76]), modes.ECB()).encryptor()
    return encryptor.update(packet[13:29])[:5]


def _protect(material: bytes, packet: bytes) -> bytes:
    mask = _mask(material, packet)
    number = bytes(a ^ b for a, b in zip(packet[9:13], mask[1:], strict=True))
    return bytes([packet[0] ^ (mask[0] & 0x1F)]) + packet[1:9] + number + packet[13:]


def _nonce_and_aad(material: bytes, lane: int, number: int, first: int, size: int) -> tuple[bytes, bytes]:
    counter = lane.to_bytes(4, "big") + number.to_bytes(4, "big")
    nonce = bytes(a ^ b for a, b in zip(material[32:44], bytes(4) + counter, strict=True))
    return nonce, counter + bytes([first, 0, 0]) + size.to_bytes(2, "big")


def seal(
    material: bytes, lane: int, receiver_id: bytes, number: int, payload: bytes, first: int = FIRST_BYTE
) -> bytes:
    """A whole packet; `first` other than 0x43 makes one that receivers must refuse as reserved."""
    nonce, aad = _nonce_and_aad(material, lane, number, first, len(payload))
    sealed = ChaCha20Poly1305(material[:32]).encrypt(nonce, payload, aad)
    return _protect(material, bytes([first]) + receiver_id + number.to_bytes(4, "big") + sealed)


def open_packet(material: bytes, lane: int, packet: bytes) -> tuple[int, bytes]:
    """(number, payload), or Refused with the reason."""
    if len(packet) < 30:
        raise Refused("short")
    plain = _protect(material, packet)
    number = int.from_bytes(plain[9:13], "big")
    nonce, aad = _nonce_and_aad(material, lane, number, plain[0], len(packet) - 29)
    try:
        payload = ChaCha20Poly1305(material[:32]).decrypt(nonce, plain[13:], aad)
    except InvalidTag:
        raise Refused("authentication") from None
    if plain[0] != FIRST_BYTE:
        raise Refused("reserved")
    return number, payload
