"""Internet checksums (RFC 1071) of inner headers: finished, moved to another length, written anew."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from shadowmesh._ext.bytes cimport load16, store16

cdef void ipv4_header_checksum(uint8_t *header, size_t size) noexcept nogil
cdef void checksum_finish(uint8_t *frame, size_t size, size_t start, size_t offset) noexcept nogil


cdef inline uint16_t checksum_fold(uint64_t total) noexcept nogil:
    """The one's complement sum of 16 bits, not inverted."""
    total = <uint64_t><uint32_t>total + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>((total & 0xFFFF) + (total >> 16))


cdef inline void checksum_relength(uint8_t *field, size_t before, size_t after) noexcept nogil:
    """Change the length in a pseudo-header sum (not inverted) from `before` to `after` (< 65536 each)."""
    store16(field, checksum_fold(<uint64_t>load16(field) + (<uint16_t>~<uint16_t>before) + after))
