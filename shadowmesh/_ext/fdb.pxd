"""Stations and where they are: one bounded table, one writer, readers without locks."""

from libc.stdint cimport uint64_t


cdef enum:
    FDB_WAYS = 8              # stations of one bucket: their keys fill a cache line
    FDB_BUCKETS = 1024        # 8192 stations: 256 KB, as they are used
    FDB_SHARE = 2048          # of them at most behind one member
    FDB_PLACES = 4096         # members are numbered below that
    FDB_NONE = 0xFFFFFFFF

cdef enum FdbResult:
    FDB_KNOWN                 # heard where it was heard before
    FDB_NEW
    FDB_MOVED
    FDB_CLAIMED               # it was heard elsewhere a moment ago: nothing was changed
    FDB_FULL                  # there is no place for it: nothing was learned

cdef struct Station:
    uint64_t version          # odd while the entry changes
    uint64_t place            # number of the member << 48 | its MAC; 0: behind this node
    uint64_t heard            # nanoseconds, to a tenth of a second

cdef struct Seen:             # a copy of an entry
    uint64_t place
    uint64_t heard

cdef struct Fdb:
    uint64_t *keys            # VLAN << 48 | MAC, 0: free
    Station *stations
    uint64_t factors[2]
    size_t buckets            # a power of two
    unsigned int shift
    size_t share
    size_t swept              # the bucket that was looked through last
    uint64_t used             # for display
    uint64_t refused          # what found no place; for display
    uint64_t held[FDB_PLACES]  # entries of each place

cdef bint fdb_init(Fdb *fdb, size_t buckets, size_t share) noexcept nogil
cdef void fdb_free(Fdb *fdb) noexcept nogil
cdef bint fdb_find(Fdb *fdb, uint64_t key, uint64_t now, Seen *seen) noexcept nogil
cdef bint fdb_fresh(Fdb *fdb, uint64_t key, uint64_t now) noexcept nogil
cdef FdbResult fdb_learn(Fdb *fdb, uint64_t key, uint64_t place, uint64_t now) noexcept nogil


cdef inline uint64_t fdb_key(uint64_t vlan, uint64_t mac) noexcept nogil:
    return vlan << 48 | mac
