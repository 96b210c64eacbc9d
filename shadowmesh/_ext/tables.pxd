"""Tables that threads read without a lock, and the grace periods that make freeing safe.

Writers hold the GIL.  A reader is a worker thread; it tells `Grace` when it holds no pointer of a table.
"""

from libc.stdint cimport uint64_t

from shadowmesh._ext.atomic cimport fence, load_pointer, load_relaxed, store_release


cdef enum:
    READERS = 8                # a client has outbound and inbound; a relay so many forwarder threads
    REMOVED_MARK = 1           # pointer value of a slot whose record was removed

ctypedef void (*dispose_function)(void *record) noexcept nogil

cdef struct Retired:           # first member of every record that a table or thread may hold
    Retired *next
    dispose_function dispose
    uint64_t seen[READERS]

cdef struct Grace:
    uint64_t *readers          # READERS counters, a cache line apart; odd = busy, even = holds nothing
    Retired *retired
    size_t waiting

cdef struct Slot:
    uint64_t key
    void *record               # NULL = never used, REMOVED_MARK = removed

cdef struct Index:
    Retired retired
    size_t mask
    unsigned int shift
    Slot *slots                # in the same allocation

cdef struct Table:
    void *index                # Index *, published atomically
    Grace *grace
    uint64_t factor            # random and odd: which keys share a chain can't be guessed
    size_t live
    size_t used                # live and removed slots of this index

cdef enum TableResult:
    TABLE_OK
    TABLE_EXISTS
    TABLE_NO_MEMORY

cdef Grace *grace_new() noexcept nogil
cdef void grace_free(Grace *grace) noexcept nogil
cdef void grace_retire(Grace *grace, Retired *record, dispose_function dispose) noexcept nogil
cdef size_t grace_reclaim(Grace *grace) noexcept nogil
cdef tuple grace_turns(const Grace *grace, size_t readers)

cdef bint table_init(Table *table, Grace *grace) noexcept nogil
cdef void table_free(Table *table, dispose_function dispose) noexcept nogil
cdef bint table_reserve(Table *table, size_t extra) noexcept nogil
cdef TableResult table_install(Table *table, uint64_t key, void *record) noexcept nogil
cdef void *table_remove(Table *table, uint64_t key) noexcept nogil
cdef bint table_replace(Table *table, uint64_t key, void *record) noexcept nogil
cdef void *table_next(Table *table, size_t *position) noexcept nogil


cdef inline void grace_step(Grace *grace, size_t reader) noexcept nogil:
    """Becomes busy or idle.  Only by the reader itself.

    The fence keeps later table reads behind the announcement; without it the writer could see
    "idle" while a read of before is still under way.
    """
    cdef uint64_t *counter = grace.readers + reader * 8
    store_release(counter, load_relaxed(counter) + 1)
    fence()


cdef inline size_t slot_of(Table *table, Index *index, uint64_t key) noexcept nogil:
    return <size_t>((key * table.factor) >> index.shift)


cdef inline void *table_find(Table *table, uint64_t key) noexcept nogil:
    """The record of `key` or NULL.  For busy readers and writers; at most half of the slots are used.

    A slot's key is written before its record and never changed in this index, so a record that is
    seen belongs to the key beside it.
    """
    cdef Index *index = <Index *>load_pointer(&table.index)
    cdef size_t i = slot_of(table, index, key)
    cdef void *record
    while True:
        record = load_pointer(&index.slots[i].record)
        if record == NULL:
            return NULL
        if index.slots[i].key == key and record != <void *>REMOVED_MARK:
            return record
        i = (i + 1) & index.mask
