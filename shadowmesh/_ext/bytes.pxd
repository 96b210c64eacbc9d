"""Big-endian integers of the wire.

Does not check lengths: whoever reads untrusted bytes compares them, unsigned, with what there is first
(`header.pxd` for a datagram's id).
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
