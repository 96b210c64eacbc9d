"""Whose MAC address? Asked by our own host, answered from what is known of the peers."""

from libc.stdint cimport uint8_t, uint64_t

from shadowmesh._ext.tables cimport Table


cdef enum:
    REPLY_ROOM = 86            # Ethernet, IPv6, neighbour advertisement, one option

cdef size_t resolve(Table *neighbours, uint64_t mac, const uint8_t *frame, size_t size,
                    uint8_t *reply) noexcept nogil
