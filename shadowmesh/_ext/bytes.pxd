"""Reading and writing bytes of the wire: checked reader, big-endian integers.

Does not know any format.  Every read of untrusted bytes goes through `take`, whose one comparison is
unsigned: without it a length from the network becomes a read beyond the receive buffer.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "bytes.h" nogil:
    uint16_t load16 "sm_load16"(const uint8_t *p)
    uint32_t load32 "sm_load32"(const uint8_t *p)
    uint64_t load48 "sm_load48"(const uint8_t *p)
    uint64_t load64 "sm_load64"(const uint8_t *p)
    void store16 "sm_store16"(uint8_t *p, uint16_t v)
    void store32 "sm_store32"(uint8_t *p, uint32_t v)
    void store48 "sm_store48"(uint8_t *p, uint64_t v)
    void store64 "sm_store64"(uint8_t *p, uint64_t v)


cdef struct Reader:
    uint8_t *p
    size_t left


cdef inline uint8_t *take(Reader *reader, size_t size) noexcept nogil:
    """The next `size` bytes, or NULL (and nothing consumed) if there are fewer."""
    cdef uint8_t *start = reader.p
    if size > reader.left:
        return NULL
    reader.p += size
    reader.left -= size
    return start
