"""What kernel, TAP and socket offer, and what of it is used."""


cdef struct Features:
    bint vnet_hdr       # the TAP has a virtio_net_hdr before every frame
    bint join_tcp       # contiguous TCP segments go to the TAP as one super-frame
    bint join_udp       # the same for UDP datagrams of equal size
    bint udp_gso        # several datagrams of equal size in one send
    bint udp_gro        # the same, received

cdef int features_choose(object names, int udp_fd, int tap_fd, Features *features) except -1
cdef dict features_dict(const Features *features)
