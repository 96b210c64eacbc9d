"""Limits on what one client of a relay sends, and fair shares of a forwarder that can't keep up.

Does NOT send or drop: forward_thread.pyx asks before it touches a datagram that it would forward.

Two token buckets per client hold what the operator allows.  Beside them there is a share, for when all
together send more than the thread can forward: then the kernel's queue before the socket fills, and what
does not fit is lost in proportion to what each one sends, so that a flood takes nearly everything.  To
read and drop a datagram costs a fraction of forwarding it.  So once the queue is half full each client
gets the same rate, which falls by an eighth in every window until the queue is shorter, and rises by a 64th
while it is (core-stateless fair queueing, Stoica, Shenker, Zhang 1998, with the queue in place of a
known capacity).  It stays a little above the mean of what goes on (at the mean it would sink with what it
lets pass), so that whoever sends less loses nothing, also when the thread itself has to wait for a
processor and its queue is full each time it runs.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport load_relaxed, store_relaxed
from shadowmesh._ext.system cimport getsockopt, socklen_t

cimport cython


cdef enum:
    SCALE = 20              # bits behind the point of a step
    PACKET_COST = 512       # bytes that a packet counts for besides its size: small ones cost nearly as much
    MEMORY = 16             # windows over which the mean is taken
    WINDOW_NS = 1000000     # the queue of 4 MiB takes some 5 ms to fill at a million packets per second
    SILENCE_NS = 50000000   # longer than a thread has to wait for a processor
    SHARE_BURST_NS = 10000000
    BUCKET_BURST_NS = 100000000  # a tenth of a second in advance
    LEAST_BURST = 64        # packets, however low the rate
    LEAST_BURST_BYTES = 0x20000
    LONG_QUEUE = 0x400000   # bytes as the kernel counts them, 1 ms of trains of 64 KiB
    MEMINFO_RMEM = 0        # sock_diag(7): SK_MEMINFO_RMEM_ALLOC, SK_MEMINFO_RCVBUF
    MEMINFO_RCVBUF = 1
    MEMINFO_VARS = 9
    SOL_SOCKET = 1          # asm-generic/socket.h
    SO_MEMINFO = 55


cdef uint64_t ONE = <uint64_t>1 << (2 * SCALE)


cdef inline uint64_t _max(uint64_t one, uint64_t other) noexcept nogil:
    return one if one > other else other


cdef inline uint64_t _min(uint64_t one, uint64_t other) noexcept nogil:
    return one if one < other else other


cdef inline bint _full(uint64_t due, uint64_t now, uint64_t burst) noexcept nogil:
    return due > now + burst


cdef void _begin(Fair *fair, uint64_t now) noexcept nogil:
    """After a silence, which says nothing of the rate of what comes now.

    A window that began with it would take a flood for a trickle, and lock everybody out for as long.
    """
    fair.step = 0
    fair.window += 1
    fair.ends = now + WINDOW_NS
    fair.highest = fair.active = fair.passed = 0


cdef Verdict fair_judge(Fair *fair, const Limits *limits, Share *share, size_t size,
                        uint64_t now) noexcept nogil:
    """Whether a datagram of `size` bytes may go on.  What one bucket refuses costs the others nothing."""
    cdef uint64_t packet_step = load_relaxed(&limits.packet_step)
    cdef uint64_t byte_step = load_relaxed(&limits.byte_step)
    cdef uint64_t cost = size + PACKET_COST
    if now > fair.ends + SILENCE_NS:
        _begin(fair, now)
    if share.window != fair.window:
        share.window = fair.window
        share.offered = 0
        fair.active += 1
    share.offered += cost
    fair.highest = _max(fair.highest, share.offered)
    if packet_step and _full(share.packets, now, _max(BUCKET_BURST_NS, LEAST_BURST * packet_step)):
        return PACKET_RATE
    if byte_step and _full(share.bytes, now,
                           _max(BUCKET_BURST_NS, (LEAST_BURST_BYTES * byte_step) >> SCALE)):
        return BYTE_RATE
    if fair.step and _full(share.fair, now, SHARE_BURST_NS):
        return OVER_SHARE
    if packet_step:
        share.packets = _max(share.packets, now) + packet_step
    if byte_step:
        share.bytes = _max(share.bytes, now) + ((size * byte_step) >> SCALE)
    if fair.step:
        share.fair = _max(share.fair, now) + ((cost * fair.step) >> SCALE)
    fair.passed += cost
    return PASSES


cdef bint fair_due(const Fair *fair, uint64_t now) noexcept nogil:
    """Whether the window is over, and there is anything to decide."""
    return now >= fair.ends and (fair.active > 0 or fair.step != 0)


cdef void fair_turn(Fair *fair, bint short_of, uint64_t now) noexcept nogil:
    """A window is over.  One client by itself takes nothing from anybody."""
    cdef uint64_t elapsed = now + WINDOW_NS - fair.ends
    cdef uint64_t offered, least
    if fair.active:
        fair.mean += (fair.passed << SCALE) // (elapsed * fair.active) // MEMORY
        fair.mean -= fair.mean // MEMORY
    if fair.highest == 0 or fair.active < 2:
        fair.step = 0
    else:
        offered = (elapsed << SCALE) // fair.highest  # as a step: what the busiest client sends
        if short_of:
            fair.step = _max(fair.step + fair.step // 8, offered)
        elif fair.step:
            fair.step -= fair.step // 64
            if fair.step < offered // 2:
                fair.step = 0
        least = fair.mean + fair.mean // MEMORY
        if least and fair.step > ONE // least:
            fair.step = ONE // least
    fair.window += 1
    fair.ends = now + WINDOW_NS
    fair.highest = fair.active = fair.passed = 0


cdef bint fair_queue_fills(int fd) noexcept nogil:
    """Whether the kernel's queue before this socket is half full, or long enough to delay others.

    A buffer beyond that is room for bursts: what does not fit is lost whoever sent it.
    """
    cdef uint32_t memory[MEMINFO_VARS]
    cdef socklen_t size = sizeof(memory)
    if getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &size) != 0 or size <= MEMINFO_RCVBUF * 4:
        return False
    return memory[MEMINFO_RMEM] > _min(memory[MEMINFO_RCVBUF] // 2, LONG_QUEUE)


WINDOW = WINDOW_NS
_NAMES = {PASSES: "passes", PACKET_RATE: "packet_rate", BYTE_RATE: "byte_rate", OVER_SHARE: "over_share"}


@cython.final
cdef class Shares:
    cdef Fair fair
    cdef Limits limits
    cdef Share *shares
    cdef size_t clients

    def __cinit__(self, size_t clients, *, uint64_t packet_rate=0, uint64_t byte_rate=0):
        self.shares = <Share *>calloc(clients, sizeof(Share))
        if self.shares == NULL:
            raise MemoryError("no memory for the clients")
        self.clients = clients
        self.fair.window = 1
        limits_set(&self.limits, packet_rate, byte_rate)

    def __dealloc__(self):
        free(self.shares)

    def offer(self, size_t client, size_t size, uint64_t now):
        if client >= self.clients:
            raise IndexError(f"there is no client {client}")
        return _NAMES[fair_judge(&self.fair, &self.limits, &self.shares[client], size, now)]

    def look(self, bint short_of, uint64_t now):
        if fair_due(&self.fair, now):
            fair_turn(&self.fair, short_of, now)

    def share(self):
        return 1e9 * (1 << SCALE) / self.fair.step if self.fair.step else None


cdef void limits_set(Limits *limits, uint64_t packet_rate, uint64_t byte_rate) noexcept nogil:
    """Rates per second; 0 = no limit.  Two words that the thread reads one by one: each counts by itself."""
    store_relaxed(&limits.packet_step, 1000000000 // packet_rate if packet_rate else 0)
    store_relaxed(&limits.byte_step, (<uint64_t>1000000000 << SCALE) // byte_rate if byte_rate else 0)
