"""Addresses of peers: from Python into the records that the threads read.

Does NOT judge frames (origin.pyx) nor decide whose an address is (shadowmesh/core/owners.py).  Functions of
the writer, who holds the GIL.

Each peer has one record of the prefixes that it may send from, replaced as a whole.  Those that are one
address are in one table of all peers besides: no two peers own the same.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from shadowmesh._ext.atomic cimport load_pointer, store_pointer
from shadowmesh._ext.bytes cimport load32, load64
from shadowmesh._ext.convert cimport buffer_of
from shadowmesh._ext.tables cimport grace_retire, table_install, table_remove, table_replace, table_reserve


cdef enum:
    PACKED4 = 5                # address, length
    PACKED6 = 17


cdef uint64_t _mask(size_t bits) noexcept nogil:
    """Of 64 bits, the first `bits`."""
    return 0 if bits == 0 else <uint64_t>0xFFFFFFFFFFFFFFFF << (64 - bits)


cdef int _add4(Owned *made, const uint8_t *packed) except -1:
    cdef Prefix4 *prefix = made.prefixes4 + made.count4
    if packed[4] > 32:
        raise ValueError("an IPv4 prefix has at most 32 bits")
    prefix.mask = <uint32_t>(_mask(packed[4]) >> 32)
    prefix.address = load32(packed)
    if prefix.address & ~prefix.mask:
        raise ValueError("a prefix has bits behind its length")
    made.count4 += 1
    if packed[4] == 32:
        made.neighbours[made.hosts].address[1] = <uint64_t>IPV4_MAPPED << 32 | prefix.address
        made.hosts += 1
    return 0


cdef int _add6(Owned *made, const uint8_t *packed) except -1:
    cdef Prefix6 *prefix = made.prefixes6 + made.count6
    cdef size_t i, bits = packed[16], high = 64 if packed[16] > 64 else packed[16]
    if bits > 128:
        raise ValueError("an IPv6 prefix has at most 128 bits")
    for i in range(2):
        prefix.mask[i] = _mask(high if i == 0 else bits - high)
        prefix.address[i] = load64(packed + 8 * i)
        if prefix.address[i] & ~prefix.mask[i]:
            raise ValueError("a prefix has bits behind its length")
    if prefix.address[0] == 0 and prefix.address[1] >> 32 == IPV4_MAPPED:
        raise ValueError("an IPv4-mapped prefix is to be given as IPv4")
    made.count6 += 1
    if bits == 128:
        made.neighbours[made.hosts].address[0] = prefix.address[0]
        made.neighbours[made.hosts].address[1] = prefix.address[1]
        made.hosts += 1
    return 0


cdef int _fill(Owned *made, list prefixes) except -1:
    cdef const uint8_t[::1] view
    for packed in prefixes:
        view = buffer_of(packed, "prefix")
        if view.shape[0] == PACKED4:
            _add4(made, &view[0])
        elif view.shape[0] == PACKED6:
            _add6(made, &view[0])
        else:
            raise ValueError(f"a prefix has {<int>PACKED4} or {<int>PACKED6} bytes, not {view.shape[0]}")
    return 0


cdef Owned *_owned_new(uint64_t number, uint64_t mac, object prefixes, bint others, bint dhcp,
                       bint router) except NULL:
    """Not published yet.  `prefixes`: an iterable of packed ones."""
    cdef list packed = list(prefixes)
    cdef size_t count = len(packed), i
    cdef Owned *made
    if count > PREFIX_LIMIT:
        raise ValueError(f"a peer has at most {<int>PREFIX_LIMIT} prefixes, not {count}")
    made = <Owned *>calloc(1, sizeof(Owned) + count * (sizeof(Prefix4) + sizeof(Prefix6) + sizeof(Neighbour)))
    if made == NULL:
        raise MemoryError("no memory for the addresses of a peer")
    made.neighbours = <Neighbour *>(made + 1)
    made.prefixes6 = <Prefix6 *>(made.neighbours + count)
    made.prefixes4 = <Prefix4 *>(made.prefixes6 + count)
    made.number = number
    made.others = others
    made.dhcp = dhcp
    made.router = router
    try:
        _fill(made, packed)
    except BaseException:
        free(made)
        raise
    for i in range(made.hosts):
        made.neighbours[i].mac = mac
        made.neighbours[i].number = number
        made.neighbours[i].router = router
    return made


cdef int _owned_check(Table *neighbours, const Owned *made) except -1:
    """Before `_publish`: ValueError if an address is another peer's, MemoryError if there is no room."""
    cdef const Neighbour *owner
    cdef size_t i
    for i in range(made.hosts):
        owner = <const Neighbour *>table_find(
            neighbours, _key(made.neighbours[i].address[0], made.neighbours[i].address[1])
        )
        if owner != NULL and owner.number != made.number:
            raise ValueError(f"an address of peer {made.number} is of peer {owner.number} already")
    if not table_reserve(neighbours, made.hosts):
        raise MemoryError("no memory for the addresses of a peer")
    return 0


cdef bint _owned_equal(const Owned *one, const Owned *other) noexcept nogil:
    """Of the same peer: is nothing new?"""
    return (
        one.others == other.others and one.dhcp == other.dhcp and one.router == other.router
        and one.count4 == other.count4 and one.count6 == other.count6
        and memcmp(one.prefixes4, other.prefixes4, one.count4 * sizeof(Prefix4)) == 0
        and memcmp(one.prefixes6, other.prefixes6, one.count6 * sizeof(Prefix6)) == 0
    )


cdef void owned_withdraw(Table *neighbours, const Owned *old) noexcept nogil:
    """Take out of the table what is there by this record still; NULL has nothing there.

    At the end of a peer the record stays in it: a thread with a packet of the peer in hand judges by that.
    """
    cdef const Neighbour *ours
    cdef uint64_t key
    cdef size_t i
    if old == NULL:
        return
    for i in range(old.hosts):
        ours = old.neighbours + i
        key = _key(ours.address[0], ours.address[1])
        if table_find(neighbours, key) == <void *>ours:
            table_remove(neighbours, key)


cdef void _publish(Table *neighbours, void **place, Owned *made) noexcept nogil:
    """Put `made` in place of what is there.  After `_owned_check`.

    An address that stays is never nobody's in between: somebody else could claim it then.
    """
    cdef Owned *old = <Owned *>load_pointer(place)
    cdef uint64_t key
    cdef size_t i
    for i in range(made.hosts):
        key = _key(made.neighbours[i].address[0], made.neighbours[i].address[1])
        if not table_replace(neighbours, key, made.neighbours + i):
            table_install(neighbours, key, made.neighbours + i)
    store_pointer(place, made)
    if old != NULL:
        owned_withdraw(neighbours, old)
        grace_retire(neighbours.grace, &old.retired, owned_dispose)


cdef int owned_set(Table *neighbours, void **place, uint64_t number, uint64_t mac, object prefixes,
                   bint others, bint dhcp, bint router) except -1:
    """All of it: ValueError changes nothing, and neither does what is there already."""
    cdef Owned *made = _owned_new(number, mac, prefixes, others, dhcp, router)
    cdef Owned *old = <Owned *>load_pointer(place)
    if old != NULL and _owned_equal(old, made):
        free(made)
        return 0
    try:
        _owned_check(neighbours, made)
    except BaseException:
        free(made)
        raise
    _publish(neighbours, place, made)
    return 0


cdef void owned_dispose(void *record) noexcept nogil:
    free(record)


cdef void neighbours_nobody(void *record) noexcept nogil:
    """For `table_free`: the records of the table lie in their owners' memory."""
