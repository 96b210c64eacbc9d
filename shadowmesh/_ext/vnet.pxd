"""struct virtio_net_hdr: what a TAP with IFF_VNET_HDR puts before each frame (linux/virtio_net.h)."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy


cdef enum:
    VNET_SIZE = 10            # the default of the kernel, TUNSETVNETHDRSZ
    VNET_NEEDS_CSUM = 1
    VNET_GSO_NONE = 0
    VNET_GSO_TCPV4 = 1
    VNET_GSO_TCPV6 = 4
    VNET_GSO_UDP_L4 = 5
    VNET_GSO_ECN = 0x80

cdef struct Vnet:             # integers in the machine's byte order, as the kernel has them
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len          # from the kernel only a hint; towards it all headers
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset


cdef inline void vnet_load(Vnet *vnet, const uint8_t *raw) noexcept nogil:
    memcpy(vnet, raw, VNET_SIZE)


cdef inline void vnet_store(uint8_t *raw, const Vnet *vnet) noexcept nogil:
    memcpy(raw, vnet, VNET_SIZE)
