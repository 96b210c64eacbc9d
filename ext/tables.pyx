"""Lock-free-reader hash table id -> record, and grace periods (QSBR) for what is taken out of it.

Does NOT know what a record is.  One writer at a time (the GIL), any of READERS reader threads.

Writer: build a record -> `table_install`; `table_remove` -> `grace_retire` -> some later call frees it.
Reader, per batch: `grace_step` busy -> `table_find` ... -> `grace_step` idle.

Why a retired record may be freed: it can't be found any more, and every reader either was idle when
it was retired or has announced since that it holds nothing of before.  Readers never wait and never free.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc

from shadowmesh._ext.atomic cimport fence, load_acquire, load_relaxed, store_pointer
from shadowmesh._ext.convert cimport id_of, unsigned
from shadowmesh._ext.system cimport getrandom

cimport cython


cdef enum:
    SMALLEST_INDEX = 64


# ---- grace periods ---------------------------------------------------------------------------


cdef Grace *grace_new() noexcept nogil:
    cdef Grace *grace = <Grace *>calloc(1, sizeof(Grace))
    if grace == NULL:
        return NULL
    grace.readers = <uint64_t *>calloc(READERS, 64)
    if grace.readers == NULL:
        free(grace)
        return NULL
    return grace


cdef void grace_free(Grace *grace) noexcept nogil:
    """Free everything at once.  Only when no reader thread runs any more."""
    cdef Retired *record
    if grace == NULL:
        return
    while grace.retired != NULL:
        record = grace.retired
        grace.retired = record.next
        record.dispose(record)
    free(grace.readers)
    free(grace)


cdef void grace_retire(Grace *grace, Retired *record, dispose_function dispose) noexcept nogil:
    """Free `record` by `dispose` when no reader can hold it.  It must be unpublished already."""
    cdef size_t reader
    fence()
    for reader in range(<size_t>READERS):
        record.seen[reader] = load_acquire(grace.readers + reader * 8)
    record.dispose = dispose
    record.next = grace.retired
    grace.retired = record
    grace.waiting += 1
    grace_reclaim(grace)


cdef bint _may_be_held(const Grace *grace, const Retired *record) noexcept nogil:
    cdef size_t reader
    for reader in range(<size_t>READERS):
        if record.seen[reader] & 1 and load_acquire(grace.readers + reader * 8) == record.seen[reader]:
            return True
    return False


cdef size_t grace_reclaim(Grace *grace) noexcept nogil:
    """Free what can be freed; returns how many records still wait."""
    cdef Retired **place = &grace.retired
    cdef Retired *record
    while place[0] != NULL:
        record = place[0]
        if _may_be_held(grace, record):
            place = &record.next
        else:
            place[0] = record.next
            grace.waiting -= 1
            record.dispose(record)
    return grace.waiting


cdef tuple grace_turns(const Grace *grace, size_t readers):
    """Of each of the first readers, how often it became busy or idle: odd while it is busy."""
    cdef size_t reader
    return tuple([load_relaxed(grace.readers + reader * 8) for reader in range(readers)])


# ---- table -----------------------------------------------------------------------------------


cdef Index *_index_new(size_t records) noexcept nogil:
    """Room for `records` at a quarter of the slots, so that a rebuild pays for many installs."""
    cdef size_t size = SMALLEST_INDEX
    cdef unsigned int bits = 6
    cdef Index *index
    while size < records * 4:
        size *= 2
        bits += 1
    index = <Index *>calloc(1, sizeof(Index) + size * sizeof(Slot))
    if index == NULL:
        return NULL
    index.mask = size - 1
    index.shift = 64 - bits
    index.slots = <Slot *>(index + 1)
    return index


cdef void _index_dispose(void *record) noexcept nogil:
    free(record)


cdef bint table_init(Table *table, Grace *grace) noexcept nogil:
    cdef uint64_t factor = 0
    table.grace = grace
    table.live = 0
    table.used = 0
    if getrandom(&factor, sizeof(factor), 0) != sizeof(factor):
        return False
    table.factor = factor | 1
    table.index = _index_new(0)
    return table.index != NULL


cdef void table_free(Table *table, dispose_function dispose) noexcept nogil:
    """Dispose of all records and the index.  Only when no reader thread runs any more."""
    cdef size_t position = 0
    cdef void *record
    if table.index == NULL:
        return
    while True:
        record = table_next(table, &position)
        if record == NULL:
            break
        dispose(record)
    free(table.index)
    table.index = NULL


cdef void *table_next(Table *table, size_t *position) noexcept nogil:
    """Walk over all records (writer only); start with position 0, ends with NULL."""
    cdef Index *index = <Index *>table.index
    cdef void *record
    while position[0] <= index.mask:
        record = index.slots[position[0]].record
        position[0] += 1
        if record != NULL and record != <void *>REMOVED_MARK:
            return record
    return NULL


cdef void _place(Table *table, Index *index, uint64_t key, void *record) noexcept nogil:
    """Put into the first slot that was never used; the record last, because that publishes it."""
    cdef size_t i = slot_of(table, index, key)
    while index.slots[i].record != NULL:
        i = (i + 1) & index.mask
    index.slots[i].key = key
    store_pointer(&index.slots[i].record, record)


cdef bint table_reserve(Table *table, size_t extra) noexcept nogil:
    """Make room for `extra` more installs, so that they can't fail halfway.  False: no memory."""
    cdef Index *old = <Index *>table.index
    cdef Index *index
    cdef size_t i
    if (table.used + extra) * 2 <= old.mask + 1:
        return True
    index = _index_new(table.live + extra)
    if index == NULL:
        return False
    for i in range(old.mask + 1):
        if old.slots[i].record != NULL and old.slots[i].record != <void *>REMOVED_MARK:
            _place(table, index, old.slots[i].key, old.slots[i].record)
    table.used = table.live
    store_pointer(&table.index, index)
    grace_retire(table.grace, &old.retired, _index_dispose)
    return True


cdef TableResult table_install(Table *table, uint64_t key, void *record) noexcept nogil:
    if table_find(table, key) != NULL:
        return TABLE_EXISTS
    if not table_reserve(table, 1):
        return TABLE_NO_MEMORY
    _place(table, <Index *>table.index, key, record)
    table.live += 1
    table.used += 1
    return TABLE_OK


cdef void *table_remove(Table *table, uint64_t key) noexcept nogil:
    """Unpublish and return the record (NULL: there was none); the caller retires it."""
    cdef Index *index = <Index *>table.index
    cdef size_t i = slot_of(table, index, key)
    cdef void *record
    while True:
        record = index.slots[i].record
        if record == NULL:
            return NULL
        if index.slots[i].key == key and record != <void *>REMOVED_MARK:
            store_pointer(&index.slots[i].record, <void *>REMOVED_MARK)
            table.live -= 1
            return record
        i = (i + 1) & index.mask


cdef bint table_replace(Table *table, uint64_t key, void *record) noexcept nogil:
    """Publish `record` in place of the one of this key, which the caller retires; False: there is none."""
    cdef Index *index = <Index *>table.index
    cdef size_t i = slot_of(table, index, key)
    while index.slots[i].record != NULL:
        if index.slots[i].key == key and index.slots[i].record != <void *>REMOVED_MARK:
            store_pointer(&index.slots[i].record, record)
            return True
        i = (i + 1) & index.mask
    return False


# ---- boundary --------------------------------------------------------------------------------


cdef struct Number:
    Retired retired
    uint64_t value


cdef void _number_dispose(void *record) noexcept nogil:
    free(record)


@cython.final
cdef class IdTable:
    cdef Table table
    cdef Grace *grace
    cdef bint busy

    def __cinit__(self):
        self.grace = grace_new()
        if self.grace == NULL or not table_init(&self.table, self.grace):
            raise MemoryError("no memory for a table")

    def __dealloc__(self):
        table_free(&self.table, _number_dispose)
        grace_free(self.grace)

    def install(self, wire_id, value):
        cdef uint64_t key = id_of(wire_id)
        cdef Number *number = <Number *>malloc(sizeof(Number))
        if number == NULL:
            raise MemoryError("no memory for a record")
        try:
            number.value = unsigned(value, 0xFFFFFFFFFFFFFFFF, "value")
            if table_find(&self.table, key) != NULL:
                raise ValueError("this id is installed already")
            if table_install(&self.table, key, number) != TABLE_OK:
                raise MemoryError("no memory for a table")
        except BaseException:
            free(number)
            raise

    def find(self, wire_id):
        cdef Number *number = <Number *>table_find(&self.table, id_of(wire_id))
        return None if number == NULL else number.value

    def remove(self, wire_id):
        cdef Number *number = <Number *>table_remove(&self.table, id_of(wire_id))
        if number == NULL:
            raise KeyError("this id is not installed")
        grace_retire(self.grace, &number.retired, _number_dispose)

    def waiting(self):
        return grace_reclaim(self.grace)

    def hold(self, busy):
        if bool(busy) != self.busy:
            grace_step(self.grace, 0)
            self.busy = bool(busy)

    def __len__(self):
        return self.table.live
