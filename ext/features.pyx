"""Probes: what may be used of TAP and UDP offload.

Does NOT make the device (io/tap.py asks for its offloads) and does not notice refusals at run time: the
threads do (udp.pyx, coalesce.pyx).
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset

from shadowmesh._ext.system cimport (
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    getsockopt,
    ioctl,
    setsockopt,
    socklen_t,
)


cdef enum:
    TUNGETIFF = 0x800454D2
    IFF_VNET_HDR = 0x4000
    IFREQ_SIZE = 40
    IFREQ_FLAGS = 16

NAMES = ("vnet_hdr", "join_tcp", "join_udp", "udp_gso", "udp_gro")


cdef bint _has_vnet_hdr(int tap_fd) noexcept:
    cdef uint8_t ifreq[IFREQ_SIZE]
    cdef uint16_t flags
    memset(ifreq, 0, IFREQ_SIZE)
    if ioctl(tap_fd, <unsigned long>TUNGETIFF, ifreq) != 0:
        return False  # no TAP: a test's socket, one frame per message
    memcpy(&flags, ifreq + IFREQ_FLAGS, 2)
    return flags & IFF_VNET_HDR != 0


cdef bint _has_gso(int udp_fd) noexcept:
    """Linux 4.18 and later; an older kernel ignores the control message and sends one large datagram."""
    cdef int value = 0
    cdef socklen_t size = sizeof(value)
    return getsockopt(udp_fd, SOL_UDP, UDP_SEGMENT, &value, &size) == 0


cdef bint _set_gro(int udp_fd, bint wanted) noexcept:
    cdef int value = wanted
    return setsockopt(udp_fd, SOL_UDP, UDP_GRO, &value, sizeof(value)) == 0 and wanted


cdef int features_choose(object names, int udp_fd, int tap_fd, Features *features) except -1:
    """None: all that is there.  Else only what `names` has of NAMES; the caller vouches for vnet_hdr."""
    wanted = frozenset(NAMES if names is None else names)
    if not wanted.issubset(NAMES):
        raise ValueError(f"features are {', '.join(NAMES)}, not {', '.join(sorted(wanted - set(NAMES)))}")
    features.vnet_hdr = "vnet_hdr" in wanted and (names is not None or _has_vnet_hdr(tap_fd))
    features.join_tcp = features.vnet_hdr and "join_tcp" in wanted
    features.join_udp = features.vnet_hdr and "join_udp" in wanted
    features.udp_gso = "udp_gso" in wanted and _has_gso(udp_fd)
    features.udp_gro = _set_gro(udp_fd, "udp_gro" in wanted)
    return 0


cdef dict features_dict(const Features *features):
    return {
        "vnet_hdr": bool(features.vnet_hdr),
        "join_tcp": bool(features.join_tcp),
        "join_udp": bool(features.join_udp),
        "udp_gso": bool(features.udp_gso),
        "udp_gro": bool(features.udp_gro),
    }
