"""Which overlay addresses a peer may send from, and whose an address is."""

from libc.stdint cimport uint32_t, uint64_t

from shadowmesh._ext.tables cimport Grace, Retired, Table, table_find


cdef enum:
    PREFIX_LIMIT = 160         # of a peer: 8 and 32 of a certificate, 64 and 32 configured, link-local
    IPV4_MAPPED = 0xFFFF       # above an IPv4 address where both families share one table

cdef struct Prefix4:
    uint32_t address
    uint32_t mask

cdef struct Prefix6:
    uint64_t address[2]
    uint64_t mask[2]

cdef struct Neighbour:         # one address and who owns it; in the memory of the owner's Owned
    uint64_t address[2]        # IPv4 as ::ffff:a.b.c.d
    uint64_t mac
    uint64_t number            # of the peer; 0: our own
    bint router

cdef struct Owned:             # of one peer; never changed once published
    Retired retired
    uint64_t number
    bint others                # may also send from every address that no other peer owns
    bint dhcp                  # may serve DHCP
    bint router                # may send router advertisements and redirects
    size_t count4
    size_t count6
    size_t hosts
    Prefix4 *prefixes4
    Prefix6 *prefixes6
    Neighbour *neighbours      # the prefixes that are one address

cdef int owned_set(Table *neighbours, void **place, uint64_t number, uint64_t mac, object prefixes,
                   bint others, bint dhcp, bint router) except -1
cdef void owned_withdraw(Table *neighbours, const Owned *old) noexcept nogil
cdef void owned_dispose(void *record) noexcept nogil
cdef void neighbours_nobody(void *record) noexcept nogil


cdef inline uint64_t _key(uint64_t high, uint64_t low) noexcept nogil:
    """IPv4 addresses have keys of their own; two of IPv6 that share one can't both be owned."""
    return high * <uint64_t>0x9E3779B97F4A7C15 + low


cdef inline const Neighbour *neighbour_find(Table *neighbours, uint64_t high, uint64_t low) noexcept nogil:
    """Whose this address is; NULL: nobody's that we know."""
    cdef Neighbour *found = <Neighbour *>table_find(neighbours, _key(high, low))
    if found == NULL or found.address[0] != high or found.address[1] != low:
        return NULL
    return found


cdef inline bint _free_for(const Owned *owned, Table *neighbours, uint64_t high, uint64_t low) noexcept nogil:
    cdef const Neighbour *owner = neighbour_find(neighbours, high, low)
    return owner == NULL or owner.number == owned.number


cdef inline bint owns4(const Owned *owned, Table *neighbours, uint32_t address) noexcept nogil:
    """An address of its own; or one in a route of its, or any (`others`), that is no other peer's own."""
    cdef size_t i
    for i in range(owned.count4):
        if (address ^ owned.prefixes4[i].address) & owned.prefixes4[i].mask == 0:
            return (
                ~owned.prefixes4[i].mask == 0
                or _free_for(owned, neighbours, 0, <uint64_t>IPV4_MAPPED << 32 | address)
            )
    return owned.others and _free_for(owned, neighbours, 0, <uint64_t>IPV4_MAPPED << 32 | address)


cdef inline bint owns6(const Owned *owned, Table *neighbours, uint64_t high, uint64_t low) noexcept nogil:
    """The same.  IPv4-mapped addresses are nobody's: they never belong on a wire (RFC 4942 section 2.2)."""
    cdef size_t i
    cdef const Prefix6 *prefix
    if high == 0 and low >> 32 == IPV4_MAPPED:
        return False
    for i in range(owned.count6):
        prefix = owned.prefixes6 + i
        if (
            (high ^ prefix.address[0]) & prefix.mask[0] == 0
            and (low ^ prefix.address[1]) & prefix.mask[1] == 0
        ):
            return ~prefix.mask[1] == 0 or _free_for(owned, neighbours, high, low)
    return owned.others and _free_for(owned, neighbours, high, low)
