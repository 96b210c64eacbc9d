"""Sums over bytes: the header checksum of IPv4, and a checksum that somebody left partial.

Does NOT know protocols: the caller says where a sum begins and where it goes.
"""

from libc.string cimport memcpy


cdef uint64_t _sum(const uint8_t *data, size_t size) noexcept nogil:
    """Sum in the machine's byte order: swapping the folded result is all that differs (RFC 1071, 2.B)."""
    cdef uint64_t total = 0
    cdef uint32_t word
    cdef size_t i = 0
    while i + 4 <= size:
        memcpy(&word, data + i, 4)
        total += word
        i += 4
    if i < size:
        word = 0
        memcpy(&word, data + i, size - i)
        total += word
    return total


cdef void _store(uint8_t *field, uint16_t native) noexcept nogil:
    memcpy(field, &native, 2)


cdef void ipv4_header_checksum(uint8_t *header, size_t size) noexcept nogil:
    """Write the checksum of an IPv4 header of `size` bytes (20 or more)."""
    _store(header + 10, 0)
    _store(header + 10, <uint16_t>~checksum_fold(_sum(header, size)))


cdef void checksum_finish(uint8_t *frame, size_t size, size_t start, size_t offset) noexcept nogil:
    """Finish a partial checksum: its field holds the pseudo-header sum, `start` + `offset` + 2 <= `size`.

    0 is written as ffff: equal in one's complement, and over UDP 0 would mean "none" (RFC 768).
    """
    cdef uint16_t value = <uint16_t>~checksum_fold(_sum(frame + start, size - start))
    _store(frame + start + offset, value if value != 0 else <uint16_t>0xFFFF)
