"""Sealing lanes and the keys that they are made from.

Does NOT send, and does not choose lanes.  One lane is sealed with by one thread, with numbers from 0;
a (keys, lane) pair that sealed twice from 0 would repeat nonces, so `SendKeys` refuses it for ever.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from shadowmesh._ext.aead cimport (
    MATERIAL_SIZE,
    NUMBER_LIMIT,
    OVERHEAD,
    key_free,
    key_new,
    seal_packet,
)
from shadowmesh._ext.atomic cimport load_relaxed, store_relaxed
from shadowmesh._ext.bytes cimport store64
from shadowmesh._ext.convert cimport id_of, sized, unsigned
from shadowmesh._ext.drops cimport DropReason, drop
from shadowmesh._ext.libcrypto cimport OPENSSL_cleanse

cimport cython


cdef double LAST_SECOND = 4e9   # 126 years: far above any clock, far below 64 bits of nanoseconds
cdef uint64_t NEVER = 0xFFFFFFFFFFFFFFFF


cdef void lane_dispose(void *record) noexcept nogil:
    key_free((<SendLane *>record).keys)
    free(record)


cdef bint lane_seal(SendLane *lane, Outgoing *outgoing, size_t headroom, const uint8_t *payload,
                    size_t size, Counters *counters) noexcept nogil:
    """Seal `payload` behind `headroom` bytes of outgoing.data; sets its size, packet and keys.

    The number is used up whatever happens to the packet.  False if the lane is exhausted (counted).
    """
    cdef uint64_t number = load_relaxed(&lane.number)
    cdef uint8_t *packet = outgoing.data + headroom
    if number >= NUMBER_LIMIT:
        drop(counters, DropReason.LANE_EXHAUSTED)
        return False
    store_relaxed(&lane.number, number + 1)
    store64(packet + 1, lane.receiver_id)
    if not seal_packet(lane.keys, packet, lane.lane, <uint32_t>number, payload, size):
        drop(counters, DropReason.SEND_FAILED)
        return False
    outgoing.size = headroom + size + OVERHEAD
    outgoing.packet = packet
    outgoing.keys = lane.keys
    return True


cdef uint64_t _expiry(object seconds) except 0:
    """CLOCK_MONOTONIC in seconds, or None, as nanoseconds."""
    if seconds is None:
        return NEVER
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"expires_at must be a number, not {type(seconds).__name__}")
    if not 0 < seconds <= LAST_SECOND:
        raise ValueError(f"expires_at must be seconds above 0 and up to {LAST_SECOND:g}, not {seconds}")
    return max(1, int(seconds * 1e9))


@cython.final
cdef class SendKeys:
    def __cinit__(self, material, *, expires_at=None):
        cdef const uint8_t[::1] view = sized(material, MATERIAL_SIZE, "key material")
        self.expires = _expiry(expires_at)
        memcpy(self.material, &view[0], MATERIAL_SIZE)

    def __dealloc__(self):
        OPENSSL_cleanse(self.material, MATERIAL_SIZE)

    def wipe(self):
        OPENSSL_cleanse(self.material, MATERIAL_SIZE)
        self.wiped = True

    cdef SendLane *claim(self, object lane, object receiver_id, object first_number) except NULL:
        """A new SendLane with contexts of its own; marks the lane as used.  ValueError as in lanes.pyi."""
        cdef uint64_t bit = unsigned(lane, LANE_LIMIT - 1, "lane")
        cdef uint64_t receiver = id_of(receiver_id)
        cdef uint64_t first = unsigned(first_number, NUMBER_LIMIT, "first number")
        cdef SendLane *made
        if self.wiped:
            raise ValueError("these keys are wiped")
        if (self.used >> bit) & 1:
            raise ValueError(f"lane {bit} of these keys was installed before; its nonces would repeat")
        made = <SendLane *>calloc(1, sizeof(SendLane))
        if made != NULL:
            made.keys = key_new(self.material, True)
        if made == NULL or made.keys == NULL:
            free(made)
            raise MemoryError("no memory for a lane")
        made.lane = <uint32_t>bit
        made.receiver_id = receiver
        made.number = first
        made.expires = self.expires
        self.used |= (<uint64_t>1) << bit
        return made
