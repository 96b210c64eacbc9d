"""Reassembly of payloads that came in fragments, in bounded memory.

Does NOT deliver what it put together, and does not cut (outbound.pyx).

    02 | frame id (4) | index | count | part

All parts but the last have one size, and the last is not larger.  A part lies where it belongs as soon as
that size is known; a last part that comes first waits at the end of the buffer.

Who comes late loses: no timer runs, but a fragment first removes what is too old of its peer; the ninth
frame of a peer in the making replaces the oldest, and so does the one that finds all places taken.
Places and buffers belong to the pool.  Before it takes another buffer, it takes back those of frames that
are too old and of sessions that are gone.

A frame is not made twice of duplicates: each part is sealed once, and the replay window of its lane lets
that packet through once.
"""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

from shadowmesh._ext.bytes cimport load32
from shadowmesh._ext.convert cimport buffer_of, unsigned
from shadowmesh._ext.drops cimport DropReason, drop, drop_many, drops_of
from shadowmesh._ext.packets cimport KIND_FRAME, KIND_SEGMENT
from shadowmesh._ext.tables cimport table_find

cimport cython


cdef struct Fragment:
    uint32_t frame
    size_t index
    size_t count
    const uint8_t *part
    size_t size


# ---- places ----------------------------------------------------------------------------------


cdef bint _allocate(Pool *pool) noexcept nogil:
    cdef size_t i
    pool.places = <Assembly *>calloc(ASSEMBLIES, sizeof(Assembly))
    if pool.places == NULL:
        return False
    for i in range(<size_t>ASSEMBLIES):
        pool.free[i] = <uint16_t>(ASSEMBLIES - 1 - i)
    pool.free_count = ASSEMBLIES
    return True


cdef void pool_free(Pool *pool) noexcept nogil:
    cdef size_t i
    if pool.places != NULL:
        for i in range(<size_t>ASSEMBLIES):
            free(pool.places[i].buffer)
    free(pool.places)
    pool.places = NULL


cdef void _release(Pool *pool, Assembly *assembly) noexcept nogil:
    assembly.serial = 0
    pool.free[pool.free_count] = <uint16_t>(assembly - pool.places)
    pool.free_count += 1


cdef void _give_up(Pool *pool, Assembly *assembly) noexcept nogil:
    drop_many(pool.counters, DropReason.INCOMPLETE_FRAME, assembly.received)
    _release(pool, assembly)


cdef void _give_up_oldest(Pool *pool) noexcept nogil:
    """Of all peers; only when every place is taken."""
    cdef Assembly *oldest = pool.places
    cdef size_t i
    for i in range(<size_t>ASSEMBLIES):
        if pool.places[i].serial < oldest.serial:
            oldest = &pool.places[i]
    _give_up(pool, oldest)


cdef void _sweep(Pool *pool, uint64_t now) noexcept nogil:
    """Give up what is too old, or of a session that is gone, of all peers."""
    cdef Assembly *assembly
    cdef size_t i
    for i in range(<size_t>ASSEMBLIES):
        assembly = &pool.places[i]
        if assembly.serial != 0 and (
            now - assembly.begun > ASSEMBLY_AGE_NS
            or pool.sessions != NULL and table_find(pool.sessions, assembly.session) == NULL
        ):
            _give_up(pool, assembly)


# ---- assemblies ------------------------------------------------------------------------------


cdef Assembly *_find(Pool *pool, Assemblies *mine, uint64_t session, uint32_t frame,
                     uint64_t now) noexcept nogil:
    """The peer's assembly of this frame, or NULL; gives up what is too old."""
    cdef Assembly *found = NULL
    cdef Assembly *assembly
    cdef size_t i
    for i in range(<size_t>ASSEMBLIES_PER_PEER):
        assembly = mine.places[i]
        if mine.serials[i] == 0 or assembly.serial != mine.serials[i]:
            continue
        if now - assembly.begun > ASSEMBLY_AGE_NS:
            _give_up(pool, assembly)
        elif assembly.frame == frame and assembly.session == session:
            found = assembly
    return found


cdef size_t _entry(Pool *pool, Assemblies *mine) noexcept nogil:
    """An entry of the peer that nothing uses; the oldest makes room if need be."""
    cdef size_t i, oldest = 0
    for i in range(<size_t>ASSEMBLIES_PER_PEER):
        if mine.serials[i] == 0 or mine.places[i].serial != mine.serials[i]:
            return i
        if mine.serials[i] < mine.serials[oldest]:
            oldest = i
    _give_up(pool, mine.places[oldest])
    return oldest


cdef Assembly *_begin(Pool *pool, Assemblies *mine, uint64_t session, const Fragment *fragment,
                      uint64_t now) noexcept nogil:
    """NULL without memory."""
    cdef Assembly *assembly
    cdef size_t entry
    if pool.places == NULL and not _allocate(pool):
        return NULL
    entry = _entry(pool, mine)
    if pool.free_count == 0 or pool.places[pool.free[pool.free_count - 1]].buffer == NULL:
        _sweep(pool, now)
    if pool.free_count == 0:
        _give_up_oldest(pool)
    assembly = &pool.places[pool.free[pool.free_count - 1]]
    if assembly.buffer == NULL:
        assembly.buffer = <uint8_t *>malloc(ASSEMBLY_LEAD + ASSEMBLY_ROOM)
        if assembly.buffer == NULL:
            return NULL
    pool.free_count -= 1
    pool.serial += 1
    assembly.serial = pool.serial
    assembly.session = session
    assembly.frame = fragment.frame
    assembly.count = fragment.count
    assembly.received = 0
    assembly.part = 0
    assembly.last = 0
    assembly.begun = now
    memset(assembly.seen, 0, sizeof(assembly.seen))
    mine.serials[entry] = assembly.serial
    mine.places[entry] = assembly
    return assembly


# ---- fragments -------------------------------------------------------------------------------


cdef bint _parse(const uint8_t *payload, size_t size, Fragment *fragment) noexcept nogil:
    """True for a fragment that can be part of some payload: a frame or a segment, and not too large."""
    if size <= FRAGMENT_HEADER_SIZE:
        return False
    fragment.frame = load32(payload + 1)
    fragment.index = payload[5]
    fragment.count = payload[6]
    fragment.part = payload + FRAGMENT_HEADER_SIZE
    fragment.size = size - FRAGMENT_HEADER_SIZE
    if fragment.count < 2 or fragment.index >= fragment.count:
        return False
    if fragment.index == fragment.count - 1:
        return fragment.count - 1 + fragment.size <= ASSEMBLY_ROOM
    if fragment.index == 0 and fragment.part[0] != KIND_FRAME and fragment.part[0] != KIND_SEGMENT:
        return False
    return (fragment.count - 1) * fragment.size < ASSEMBLY_ROOM


cdef bint _agrees(const Assembly *assembly, const Fragment *fragment) noexcept nogil:
    """Does it have the same count, and a size that goes with those of the others?"""
    cdef size_t part = assembly.part
    cdef size_t last = assembly.last
    if fragment.index == fragment.count - 1:
        if last != 0 and last != fragment.size:
            return False
        last = fragment.size
    else:
        if part != 0 and part != fragment.size:
            return False
        part = fragment.size
    if fragment.count != assembly.count:
        return False
    return part == 0 or last <= part and (fragment.count - 1) * part + last <= ASSEMBLY_ROOM


cdef void _store(Assembly *assembly, const Fragment *fragment) noexcept nogil:
    cdef uint8_t *start = assembly.buffer + ASSEMBLY_LEAD
    if fragment.index < fragment.count - 1:
        assembly.part = fragment.size
        start += fragment.index * fragment.size
    else:
        assembly.last = fragment.size
        assembly.aside = assembly.part == 0
        start += ASSEMBLY_ROOM - fragment.size if assembly.aside else fragment.index * assembly.part
    memcpy(start, fragment.part, fragment.size)
    assembly.seen[fragment.index >> 6] |= <uint64_t>1 << (fragment.index & 63)
    assembly.received += 1


cdef uint8_t *_finish(Assembly *assembly, size_t *whole) noexcept nogil:
    cdef uint8_t *payload = assembly.buffer + ASSEMBLY_LEAD
    cdef size_t before = (assembly.count - 1) * assembly.part
    if assembly.aside:
        memmove(payload + before, payload + ASSEMBLY_ROOM - assembly.last, assembly.last)
    whole[0] = before + assembly.last
    return payload


cdef uint8_t *fragment_take(Pool *pool, Assemblies *mine, uint64_t session, const uint8_t *payload,
                            size_t size, uint64_t now, size_t *whole) noexcept nogil:
    """One fragment payload, its kind included; the payload of `whole` bytes that it completes, or NULL.

    That begins with KIND_FRAME or KIND_SEGMENT, may be changed, and is valid until the next call.
    """
    cdef Fragment fragment
    cdef Assembly *assembly
    if not _parse(payload, size, &fragment):
        drop(pool.counters, DropReason.MALFORMED_FRAGMENT)
        return NULL
    assembly = _find(pool, mine, session, fragment.frame, now)
    if assembly == NULL:
        assembly = _begin(pool, mine, session, &fragment, now)
    if assembly == NULL:
        drop(pool.counters, DropReason.NO_MEMORY)
    elif not _agrees(assembly, &fragment):
        drop(pool.counters, DropReason.MALFORMED_FRAGMENT)
    elif (assembly.seen[fragment.index >> 6] >> (fragment.index & 63)) & 1:
        drop(pool.counters, DropReason.REPEATED_FRAGMENT)
    else:
        _store(assembly, &fragment)
        if assembly.received == assembly.count:
            _release(pool, assembly)
            return _finish(assembly, whole)
    return NULL


# ---- Python ----------------------------------------------------------------------------------


cdef enum:
    FACE_PEERS = 64


@cython.final
cdef class Reassembler:
    cdef Pool pool
    cdef Counters counters
    cdef Assemblies peers[FACE_PEERS]

    def __cinit__(self):
        self.pool.counters = &self.counters

    def __dealloc__(self):
        pool_free(&self.pool)

    def take(self, peer, session, payload, now_ns):
        cdef const uint8_t[::1] view = buffer_of(payload, "payload")
        cdef uint64_t number = unsigned(peer, FACE_PEERS - 1, "peer")
        cdef uint64_t handle = unsigned(session, 0xFFFFFFFFFFFFFFFF, "session")
        cdef uint64_t now = unsigned(now_ns, 0xFFFFFFFFFFFFFFFF, "time")
        cdef size_t size = <size_t>view.shape[0]
        cdef size_t whole = 0
        cdef uint8_t *made = fragment_take(&self.pool, &self.peers[number], handle,
                                           &view[0] if size else NULL, size, now, &whole)
        return (<char *>made)[:whole] if made != NULL else None

    def forget(self, peer):
        memset(&self.peers[unsigned(peer, FACE_PEERS - 1, "peer")], 0, sizeof(Assemblies))

    def buffers(self):
        cdef size_t i, amount = 0
        if self.pool.places != NULL:
            for i in range(<size_t>ASSEMBLIES):
                amount += self.pool.places[i].buffer != NULL
        return amount

    def drops(self):
        return {reason: amount for reason, amount in drops_of(&self.counters, NULL).items() if amount}
