"""Underlay addresses as the kernel's sockaddr_in and sockaddr_in6, in one comparable form."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    SOCKADDR_IN_SIZE = 16
    SOCKADDR_IN6_SIZE = 28
    SOCKADDR_ROOM = 32

cdef struct Endpoint:
    uint64_t words[4]   # the sockaddr; flow label and padding are zero, so that equal means equal
    uint32_t size       # 16 or 28; 0 = none

cdef int endpoint_from(object value, int family, Endpoint *endpoint) except -1
cdef bytes endpoint_bytes(const Endpoint *endpoint)
cdef int socket_family(int fd) except -1


cdef inline void endpoint_normalise(Endpoint *endpoint) noexcept nogil:
    """Clear what does not belong to the address: sin6_flowinfo, or sin_zero."""
    if endpoint.size == SOCKADDR_IN6_SIZE:
        (<uint32_t *>endpoint.words)[1] = 0
        (<uint32_t *>endpoint.words)[7] = 0
    else:
        endpoint.words[1] = 0
        endpoint.words[2] = 0
        endpoint.words[3] = 0


cdef inline bint endpoint_equal(const Endpoint *a, const Endpoint *b) noexcept nogil:
    return (
        a.size == b.size and a.words[0] == b.words[0] and a.words[1] == b.words[1]
        and a.words[2] == b.words[2] and a.words[3] == b.words[3]
    )


cdef inline uint64_t endpoint_key(const Endpoint *endpoint) noexcept nogil:
    """64 bits for a table whose records hold the whole address (the finder compares it)."""
    cdef uint64_t key = endpoint.size
    cdef size_t i
    for i in range(4):
        key = (key ^ endpoint.words[i]) * <uint64_t>0x9E3779B97F4A7C15
        key ^= key >> 32
    return key
