"""C-level interface of the frame packet's cryptography: the only place that knows which AEAD library it is.

A `KeyContext` belongs to one direction of one epoch and to ONE thread.  It seals with OpenSSL's
libcrypto, or with a library that `use_library` took before the key was made.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from shadowmesh._ext.aead_library cimport Library
from shadowmesh._ext.libcrypto cimport EVP_CIPHER_CTX


cpdef enum PacketLayout:
    MATERIAL_SIZE = 76      # key 32, iv 12, header key 32
    HEADER_SIZE = 13        # first byte 1, receiver id 8, number 4
    TAG_SIZE = 16
    OVERHEAD = 29           # header and tag
    SHORTEST_PACKET = 30    # a payload is never empty
    LARGEST_PAYLOAD = 65478  # 65507 bytes of UDP over IPv4, less the overhead
    FIRST_BYTE = 0x43       # QUIC short header with a 4-byte packet number
    MASKED_BITS = 0x1f      # RFC 9001 section 5.4.1
    MASK_SIZE = 16          # one AES block; the first 5 bytes are used
    MASK_BATCH = 64         # blocks in one call: 64 cost as much as 5 single ones

cpdef enum NumberLimit:
    NUMBER_LIMIT = 0x80000000  # units.NUMBER_LIMIT: a lane seals below this

cdef enum Opened:
    OPENED
    OPEN_AUTHENTICATION
    OPEN_RESERVED

cdef struct KeyContext:
    EVP_CIPHER_CTX *cipher  # ChaCha20-Poly1305 with key and iv; NULL if `fast` is there
    void *fast              # the same in the library that was taken, without the iv
    Library *library        # whose `fast` is
    uint8_t iv[12]          # for `fast`
    EVP_CIPHER_CTX *header  # AES-256-ECB

cdef KeyContext *key_new(const uint8_t *material, bint sealing) noexcept nogil
cdef void key_free(KeyContext *keys) noexcept nogil
cdef bint seal_packet(KeyContext *keys, uint8_t *packet, uint32_t lane, uint32_t number,
                      const uint8_t *payload, size_t size) noexcept nogil
cdef Opened open_packet(KeyContext *keys, uint8_t *packet, size_t size, uint32_t lane) noexcept nogil
cdef bint header_masks(KeyContext *keys, uint8_t **packets, size_t count, uint8_t *masks) noexcept nogil


cdef inline void apply_mask(uint8_t *packet, const uint8_t *mask) noexcept nogil:
    """Protect or unprotect the first byte and the number: the same exclusive-or both ways."""
    packet[0] ^= mask[0] & MASKED_BITS
    packet[9] ^= mask[1]
    packet[10] ^= mask[2]
    packet[11] ^= mask[3]
    packet[12] ^= mask[4]
