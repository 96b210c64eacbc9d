"""Why a datagram, packet or frame was discarded, and the other counters of one thread."""

from libc.stdint cimport uint64_t

from shadowmesh._ext.atomic cimport add_relaxed


cpdef enum DropReason:
    NOT_QUIC                # first bits are neither 01 nor 11
    SHORT                   # too few bytes for what it claims to be
    TRUNCATED               # datagram larger than 16 KiB
    UNKNOWN_ID              # short header whose id nobody here allotted
    UNEXPECTED_LONG_HEADER  # direct long header from a source that isn't allowed
    NESTED_CHANNEL          # channel packet inside a channel packet
    AUTHENTICATION          # the tag is wrong
    RESERVED                # authentic, but the first byte isn't 0x43
    DUPLICATE               # authentic, number seen before
    TOO_OLD                 # authentic, number behind the replay window
    UNKNOWN_KIND            # payload kind that this release doesn't know
    FRAME_SIZE              # frame below 14 bytes
    SPOOFED_SOURCE          # source MAC isn't that of the peer who sealed it
    NOT_FOR_US              # destination MAC is neither ours nor a group
    TAP_FULL                # the TAP took no more
    TAP_FAILED              # any other error of the TAP
    CONTROL_RATE            # token bucket of a control connection is empty
    MESSAGE_RATE            # token bucket of a session's lane messages is empty
    LONG_RING_FULL          # asyncio didn't keep up with long headers
    CONTROL_RING_FULL       # asyncio didn't keep up with control and lane messages
    NO_MEMORY               # no memory for a replay window or fragments
    FOREIGN_SOURCE          # outbound frame whose source MAC isn't ours
    UNKNOWN_DESTINATION     # outbound frame to a MAC of no peer
    NO_ROUTE                # peer (or every peer of a flood) without lane or endpoint
    TOO_BIG                 # EMSGSIZE, or a frame larger than a buffer
    SEND_BUFFER_FULL        # EAGAIN, ENOBUFS
    SEND_FAILED             # every other errno of a send
    LANE_EXHAUSTED          # packet number reached 2^31
    UNEXPECTED_KIND         # relay: anything but BIND in a client's lane; client: fragment in lane 0
    STALE_BIND              # relay: BIND from a new source, not newer than the newest seen
    MALFORMED_SEGMENT       # authentic segment whose header contradicts its frame
    UNSPLITTABLE            # outbound super-frame of a shape that can't be cut
    MALFORMED_FRAGMENT      # authentic fragment that contradicts itself or the others of its frame
    REPEATED_FRAGMENT       # a part of a frame that is there already
    INCOMPLETE_FRAME        # fragment of a frame whose others did not come in time
    EXPIRED_KEYS            # the lane's keys may seal no more
    FIREWALL_IN             # a frame from a peer that the firewall's rules deny
    FIREWALL_OUT            # a frame to a peer that they deny
    FIREWALL_MALFORMED      # a frame whose headers contradict each other or end early
    SPOOFED_ADDRESS         # IP, ARP or neighbour discovery from an address that isn't the peer's
    DHCP_GUARD              # reply of a DHCP server, of a peer without that right
    RA_GUARD                # router advertisement or redirect of one; fragmented neighbour discovery
    MALFORMED_PACKET        # inbound frame whose addresses can't be told
    BROADCAST_BUDGET        # frame to a group, from us or a peer, beyond what is let through of these
    UNHEARD_PEER            # not opened: the peer has just gone far beyond that
    LOOPED                  # a frame of ours or of a member that came back through a bridge
    CLAIMED_STATION         # a station that another member was heard with a moment ago
    BRIDGE_BLOCKED          # our bridge port carries nothing now, or no floods for a moment
    LINK_LOCAL_GROUP        # to a group address that no bridge forwards
    VLAN_NOT_CARRIED        # of a VLAN that is not in interface.vlans
    OWN_DATAGRAM            # one that we had sent, and that was led into our own interface
    CLIENT_PACKETS          # relay: a client sends more packets than it may
    CLIENT_BYTES            # relay: a client sends more bytes than it may
    CLIENT_SHARE            # relay: more than its share while the relay can't forward everything
    OTHER_THREAD_BUSY       # relay: came to another thread than its client's, which did not keep up

cpdef enum Statistic:
    UDP_RX_DATAGRAMS
    UDP_RX_BYTES
    UDP_TX_DATAGRAMS
    UDP_TX_BYTES
    TAP_RX_FRAMES
    TAP_TX_FRAMES
    EVENTS                  # datagrams and messages handed to asyncio
    EMPTY_PACKETS           # authentic padding and empty packets
    SPLIT_FRAMES            # super-frames from the TAP that became segments
    COALESCED_FRAMES        # super-frames to the TAP that were segments
    UDP_GSO_SENDS           # messages that held more than one datagram
    UDP_GRO_RECEIVES        # the same, received
    UDP_GSO_REFUSED         # of these sends, those that had to be repeated one by one
    COALESCE_REFUSED        # super-frames that the TAP refused
    FRAGMENTED_FRAMES       # frames that left in fragments, per peer that they went to
    REASSEMBLED_FRAMES      # frames that came in fragments, and whole
    ANSWERED_REQUESTS       # ARP requests and neighbour solicitations of our host, answered here

cdef enum:
    DROP_REASONS = 55
    STATISTICS = 17

cdef struct Counters:       # written by one thread, read by any
    uint64_t drops[DROP_REASONS]
    uint64_t statistics[STATISTICS]


cdef inline void drop(Counters *counters, DropReason reason) noexcept nogil:
    add_relaxed(&counters.drops[<size_t>reason], 1)


cdef inline void drop_many(Counters *counters, DropReason reason, size_t amount) noexcept nogil:
    add_relaxed(&counters.drops[<size_t>reason], amount)


cdef inline void count(Counters *counters, Statistic what, uint64_t amount) noexcept nogil:
    add_relaxed(&counters.statistics[<size_t>what], amount)


cdef dict drops_of(Counters *first, Counters *second)
cdef dict statistics_of(Counters *first, Counters *second)
