"""The forwarding database: behind which member a station (VLAN, MAC) was heard last.

Does NOT look into frames or decide what passes (bridge.pyx).

A station lives in one place.  It moves when another place says that it is there and the old one has been
silent about it for FDB_FRESH: a station that really moves is not heard where it left, and in a loop or when
somebody claims it, both places are heard within milliseconds.  So nobody takes away a station that is being
heard, and a table does not flap.

Who is put out when a bucket is full (`_place_for`): what is over (FDB_LIFE), then what was heard longest ago
in the same place.  Never a station of another place: a member that invents addresses costs itself, up to its
share.

An entry changes between two values of its version, as a sequence lock: the version only grows, so that
a reader never takes half an entry for a whole one.
"""

from libc.stdlib cimport calloc, free

from shadowmesh._ext.atomic cimport (
    fence_acquire,
    fence_release,
    load_acquire,
    load_relaxed,
    store_relaxed,
    store_release,
)
from shadowmesh._ext.bytes cimport load48
from shadowmesh._ext.convert cimport sized, unsigned
from shadowmesh._ext.system cimport getrandom

cimport cython


cdef uint64_t FDB_LIFE = 300000000000      # ns; IEEE 802.1Q-2018 table 8-6: the recommended ageing time
# ns.  In a loop the second place is heard within the time that a frame takes; a virtual machine that moved
# announces itself for more than a second.
cdef uint64_t FDB_FRESH = 1000000000
cdef uint64_t HEARD_STEP = 100000000       # ns; noted less often than this, a frame costs no cache line


cdef bint fdb_init(Fdb *fdb, size_t buckets, size_t share) noexcept nogil:
    """`buckets`: a power of two.  False: no memory or no random bytes.  Pages are used as stations come."""
    fdb.buckets = buckets
    fdb.share = share
    fdb.shift = 64
    while buckets > 1:
        buckets //= 2
        fdb.shift -= 1
    fdb.keys = <uint64_t *>calloc(fdb.buckets * FDB_WAYS, sizeof(uint64_t))
    fdb.stations = <Station *>calloc(fdb.buckets * FDB_WAYS, sizeof(Station))
    return (
        fdb.keys != NULL and fdb.stations != NULL
        and getrandom(fdb.factors, sizeof(fdb.factors), 0) == sizeof(fdb.factors)
    )


cdef void fdb_free(Fdb *fdb) noexcept nogil:
    free(fdb.keys)
    free(fdb.stations)
    fdb.keys = NULL
    fdb.stations = NULL


cdef inline size_t _bucket(const Fdb *fdb, uint64_t key) noexcept nogil:
    """In secret factors, and mixed: which stations share a bucket can't be guessed or chosen.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), figure 17.
    """
    cdef uint64_t sum = key * (fdb.factors[0] | 1) + fdb.factors[1]
    sum = (sum ^ sum >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    sum = (sum ^ sum >> 27) * <uint64_t>0x94D049BB133111EB
    sum ^= sum >> 31
    return <size_t>(sum >> fdb.shift) * FDB_WAYS if fdb.shift < 64 else 0


cdef inline uint64_t _age(uint64_t heard, uint64_t now) noexcept nogil:
    """The other thread's clock may be a batch ahead of ours."""
    return now - heard if now > heard else 0


cdef inline size_t _index(Fdb *fdb, uint64_t key) noexcept nogil:
    cdef size_t base = _bucket(fdb, key)
    cdef size_t way
    for way in range(<size_t>FDB_WAYS):
        if load_relaxed(fdb.keys + base + way) == key:
            return base + way
    return FDB_NONE


# ---- any thread ------------------------------------------------------------------------------


cdef bint fdb_find(Fdb *fdb, uint64_t key, uint64_t now, Seen *seen) noexcept nogil:
    """Where this station is.  An entry that changes meanwhile is taken for absent."""
    cdef size_t index = _index(fdb, key)
    cdef Station *station
    cdef uint64_t version, found
    if index == FDB_NONE:
        return False
    station = fdb.stations + index
    version = load_acquire(&station.version)
    found = load_relaxed(fdb.keys + index)
    seen.place = load_relaxed(&station.place)
    seen.heard = load_relaxed(&station.heard)
    fence_acquire()
    return (
        found == key and version & 1 == 0 and load_relaxed(&station.version) == version
        and _age(seen.heard, now) < FDB_LIFE
    )


cdef bint fdb_fresh(Fdb *fdb, uint64_t key, uint64_t now) noexcept nogil:
    """Was it heard there a moment ago?"""
    cdef Seen seen
    return fdb_find(fdb, key, now, &seen) and _age(seen.heard, now) < FDB_FRESH


# ---- the writer ------------------------------------------------------------------------------


cdef inline void _hold(Fdb *fdb, uint64_t place, int more) noexcept nogil:
    store_relaxed(&fdb.held[place >> 48], fdb.held[place >> 48] + more)
    store_relaxed(&fdb.used, fdb.used + more)


cdef void _write(Fdb *fdb, size_t index, uint64_t key, uint64_t place, uint64_t now) noexcept nogil:
    """Put another entry in, or (`key` 0) none."""
    cdef Station *station = fdb.stations + index
    cdef uint64_t version = station.version
    if fdb.keys[index] != 0:
        _hold(fdb, station.place, -1)
    store_relaxed(&station.version, version + 1)
    fence_release()
    store_relaxed(fdb.keys + index, key)
    store_relaxed(&station.place, place)
    store_relaxed(&station.heard, now)
    store_release(&station.version, version + 2)
    if key != 0:
        _hold(fdb, place, 1)


cdef FdbResult fdb_learn(Fdb *fdb, uint64_t key, uint64_t place, uint64_t now) noexcept nogil:
    """The station was heard in `place`."""
    cdef size_t index = _index(fdb, key)
    cdef uint64_t age
    cdef Station *station
    if index == FDB_NONE:
        return _add(fdb, key, place, now)
    station = fdb.stations + index
    age = _age(station.heard, now)
    if station.place == place:
        if age >= HEARD_STEP:
            store_relaxed(&station.heard, now)
        return FDB_KNOWN
    if age < FDB_FRESH:
        return FDB_CLAIMED
    _write(fdb, index, 0, 0, 0)
    return FDB_FULL if _add(fdb, key, place, now) == FDB_FULL else FDB_MOVED


cdef FdbResult _add(Fdb *fdb, uint64_t key, uint64_t place, uint64_t now) noexcept nogil:
    cdef size_t index
    _sweep(fdb, now)
    index = _place_for(fdb, key, place, now)
    if index == FDB_NONE:
        store_relaxed(&fdb.refused, fdb.refused + 1)
        return FDB_FULL
    _write(fdb, index, key, place, now)
    return FDB_NEW


cdef void _sweep(Fdb *fdb, uint64_t now) noexcept nogil:
    """Look through one bucket for what is over: a whole round costs no frame more than this."""
    cdef size_t index, base
    fdb.swept = (fdb.swept + 1) & (fdb.buckets - 1)
    base = fdb.swept * FDB_WAYS
    for index in range(base, base + FDB_WAYS):
        if fdb.keys[index] != 0 and _age(fdb.stations[index].heard, now) >= FDB_LIFE:
            _write(fdb, index, 0, 0, 0)


cdef size_t _place_for(Fdb *fdb, uint64_t key, uint64_t place, uint64_t now) noexcept nogil:
    """The entry to be used; a place that has its share takes only what is its own."""
    cdef size_t base = _bucket(fdb, key)
    cdef bint full = fdb.held[place >> 48] >= fdb.share
    cdef size_t index, oldest = FDB_NONE
    cdef Station *station
    for index in range(base, base + FDB_WAYS):
        station = fdb.stations + index
        if fdb.keys[index] == 0 or _age(station.heard, now) >= FDB_LIFE:
            if not full:
                return index
        elif station.place == place and (oldest == FDB_NONE
                                         or station.heard < fdb.stations[oldest].heard):
            oldest = index
    return oldest


# ---- boundary --------------------------------------------------------------------------------


@cython.final
cdef class StationTable:
    cdef Fdb *fdb

    def __cinit__(self, *, buckets=FDB_BUCKETS, share=FDB_SHARE):
        cdef uint64_t size = unsigned(buckets, 1 << 20, "buckets")
        cdef uint64_t most = unsigned(share, 1 << 24, "share")
        if size == 0 or size & (size - 1):
            raise ValueError("buckets must be a power of two")
        self.fdb = <Fdb *>calloc(1, sizeof(Fdb))
        if self.fdb == NULL or not fdb_init(self.fdb, size, most):
            raise MemoryError("no memory for stations")

    def __dealloc__(self):
        if self.fdb != NULL:
            fdb_free(self.fdb)
            free(self.fdb)

    cdef uint64_t _key(self, object vlan, object mac) except 0:
        cdef const unsigned char[::1] view = sized(mac, 6, "MAC address")
        cdef uint64_t key = fdb_key(unsigned(vlan, 4095, "vlan"), load48(&view[0]))
        if key == 0:
            raise ValueError("the MAC address must not be zero")
        return key

    def learn(self, vlan, mac, place, now):
        cdef uint64_t number = unsigned(place, FDB_PLACES - 1, "place")
        cdef uint64_t at = unsigned(now, 1 << 62, "now")
        return ("known", "new", "moved", "claimed", "full")[
            <int>fdb_learn(self.fdb, self._key(vlan, mac), number << 48 | number, at)
        ]

    def find(self, vlan, mac, now):
        cdef Seen seen
        if not fdb_find(self.fdb, self._key(vlan, mac), unsigned(now, 1 << 62, "now"), &seen):
            return None
        return seen.place >> 48

    def fresh(self, vlan, mac, now):
        return bool(fdb_fresh(self.fdb, self._key(vlan, mac), unsigned(now, 1 << 62, "now")))

    def held(self, place):
        return self.fdb.held[<size_t>unsigned(place, FDB_PLACES - 1, "place")]

    def __len__(self):
        return self.fdb.used
