# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""ChaCha20-Poly1305 and header protection of the frame packet (RFC 8439; RFC 9001 section 5.4)."""

from enum import IntEnum

from typing_extensions import Buffer

class PacketLayout(IntEnum):
    """Sizes (bytes) and constants of a frame packet."""

    MATERIAL_SIZE = 76
    HEADER_SIZE = 13
    TAG_SIZE = 16
    OVERHEAD = 29
    SHORTEST_PACKET = 30
    LARGEST_PAYLOAD = 65478
    FIRST_BYTE = 0x43
    MASKED_BITS = 0x1F
    MASK_SIZE = 16
    MASK_BATCH = 64

class NumberLimit(IntEnum):
    """Packet numbers of one lane stop here."""

    NUMBER_LIMIT = 0x80000000

class PacketKeys:
    """Seals and opens whole frame packets of one direction and epoch.

    For asyncio's lane, tests and vectors; the threads have their own contexts.  It does NOT remember
    which numbers it sealed and has no replay window: both are the caller's.  Not safe to share
    between threads that release the GIL in between calls of one packet; each call is atomic.
    """

    def __init__(self, material: Buffer) -> None:
        """`material`: 76 bytes, key(32) iv(12) header key(32).  ValueError for any other size."""

    def seal(self, lane: int, receiver_id: Buffer, number: int, payload: Buffer) -> bytes:
        """One frame packet, 29 bytes longer than `payload` (1..65478 bytes, first byte its kind).

        `lane` < 2^32, `number` < 2^31, `receiver_id` 8 bytes; ValueError otherwise.
        """

    def open(self, lane: int, packet: Buffer) -> tuple[int, bytes]:
        """(number, payload) of a frame packet that came from the network.

        Raises BadPacket("short") below 30 bytes (or above 65507), BadPacket("authentication"), and
        BadPacket("reserved") if an authentic packet has a first byte other than 0x43.
        """

    def wipe(self) -> None:
        """Forget the keys; every later call raises ValueError.  May be called again."""

def plain_seal(key: Buffer, nonce: Buffer, aad: Buffer, plaintext: Buffer) -> bytes:
    """RFC 8439 section 2.8 by libcrypto's plain road: ciphertext and tag.  key 32, nonce 12 bytes.

    Not the road of packets: it is what the faster road is checked against when the module is imported.
    """

def check_roads() -> bool:
    """Whether packets are sealed and opened as plain RFC 8439 does, with the library in use now."""

def use_library(path: str) -> None:
    """Seal and open with the BoringSSL-class libcrypto at `path` from now on, for new keys.

    Call it before the first key is made.  ValueError: it can't be loaded, has no EVP_AEAD interface,
    or seals otherwise than RFC 8439; then everything stays as it was.
    """

def implementation() -> str:
    """Which library seals and opens packets now, for people."""
