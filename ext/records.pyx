"""Records of the id table: making, installing, retiring and freeing them.

Does NOT process packets.  All functions here are for the writer (who holds the GIL); the disposers run
when no thread can hold the record any more.
"""

from libc.stdlib cimport calloc, free

from shadowmesh._ext.aead cimport MATERIAL_SIZE, key_free, key_new
from shadowmesh._ext.convert cimport id_of, sized, unsigned
from shadowmesh._ext.lanes cimport LANE_LIMIT
from shadowmesh._ext.tables cimport (
    TABLE_OK,
    grace_retire,
    table_find,
    table_install,
    table_remove,
    table_reserve,
)


cdef enum:
    SECOND_NS = 1000000000
    ALLOWANCE_LIMIT = 1000000


cdef void record_dispose(void *record) noexcept nogil:
    free((<Record *>record).window)
    free(record)


cdef void session_dispose(void *record) noexcept nogil:
    key_free((<Session *>record).keys)
    free(record)


cdef Record *_record_new(RecordKind kind, uint64_t id) except NULL:
    cdef Record *record = <Record *>calloc(1, sizeof(Record))
    if record == NULL:
        raise MemoryError("no memory for a record")
    record.kind = kind
    record.id = id
    return record


cdef int _free_id(Table *ids, uint64_t id) except -1:
    if table_find(ids, id) != NULL:
        raise ValueError(f"id {id:016x} is installed already")
    return 0


cdef Record *record_prepare(Table *ids, RecordKind kind, uint64_t id) except NULL:
    """A channel or control record, not yet visible to threads: `table_install` it when it is filled."""
    _free_id(ids, id)
    if not table_reserve(ids, 1):
        raise MemoryError("no memory for the id table")
    return _record_new(kind, id)


cdef int record_remove(Table *ids, uint64_t id) except -1:
    """Remove a channel or control id; KeyError if there is none, ValueError if it is a lane's."""
    cdef Record *record = <Record *>table_find(ids, id)
    if record == NULL:
        raise KeyError(f"id {id:016x} is not installed")
    if record.kind == RECORD_LANE:
        raise ValueError(f"id {id:016x} is a lane: it goes with its session")
    record_retire(ids, record)
    return 0


cdef void record_retire(Table *ids, Record *record) noexcept nogil:
    table_remove(ids, record.id)
    grace_retire(ids.grace, &record.retired, record_dispose)


cdef Session *_session_new(object material) except NULL:
    cdef const uint8_t[::1] view = sized(material, MATERIAL_SIZE, "key material")
    cdef Session *session = <Session *>calloc(1, sizeof(Session))
    if session != NULL:
        session.keys = key_new(&view[0], False)
    if session == NULL or session.keys == NULL:
        free(session)
        raise MemoryError("no memory for a session")
    return session


cdef Allowance allowance_of(object rate, object burst) except *:
    """`rate` packets a second, `burst` of them at once."""
    cdef Allowance made
    cdef uint64_t each = unsigned(rate, ALLOWANCE_LIMIT, "rate")
    cdef uint64_t ahead = unsigned(burst, ALLOWANCE_LIMIT, "burst")
    if each == 0 or ahead == 0:
        raise ValueError("rate and burst must be at least 1")
    made.step = SECOND_NS // each
    made.depth = (ahead - 1) * made.step
    return made


cdef list lane_ids_of(object ids):
    """The ids of lanes as numbers; iterate the caller's object before any pointer is held."""
    return [id_of(id) for id in ids]


cdef Session *session_install(Table *ids, uint64_t handle, void *owner, list keys,
                              object material) except NULL:
    """Receive keys and their lanes 0..len-1.  All ids are checked before the first one is visible."""
    cdef Session *session
    cdef Record *record
    cdef uint64_t id
    if not 1 <= len(keys) <= LANE_LIMIT or len(set(keys)) != len(keys):
        raise ValueError(f"a session has 1..{<int>LANE_LIMIT} different lane ids, not {len(keys)}")
    for key in keys:
        _free_id(ids, key)
    if not table_reserve(ids, len(keys)):
        raise MemoryError("no memory for the id table")
    session = _session_new(material)
    session.handle = handle
    session.owner = owner
    try:
        for lane, key in enumerate(keys):
            id = key
            record = _record_new(RECORD_LANE, id)
            record.lane = <uint32_t>lane
            record.session = session
            session.ids[session.lanes] = id
            session.lanes += 1
            if table_install(ids, id, record) != TABLE_OK:
                free(record)
                raise MemoryError("no memory for the id table")
    except BaseException:
        session_retire(ids, session)
        raise
    return session


cdef void session_retire(Table *ids, Session *session) noexcept nogil:
    """Take all lanes out, then retire them and the session: a reader may hold them for one more batch."""
    cdef Record *lanes[64]
    cdef size_t i
    for i in range(session.lanes):
        lanes[i] = <Record *>table_remove(ids, session.ids[i])
    for i in range(session.lanes):
        if lanes[i] != NULL:
            grace_retire(ids.grace, &lanes[i].retired, record_dispose)
    grace_retire(ids.grace, &session.retired, session_dispose)
