"""What an id names: lane, control connection or channel; and the sessions behind lanes."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from shadowmesh._ext.aead cimport KeyContext
from shadowmesh._ext.atomic cimport load_relaxed, store_relaxed
from shadowmesh._ext.endpoint cimport Endpoint
from shadowmesh._ext.replay cimport Window
from shadowmesh._ext.tables cimport Grace, Retired, Table


cdef enum:
    BUCKET_STEP_NS = 1000000     # 1000 per second
    BUCKET_DEPTH_NS = 255000000  # burst of 256: one now and 255 in advance

cdef struct Allowance:           # of frames to groups
    uint64_t step                # ns for each; 0: as many as there are
    uint64_t depth               # ns in advance

cdef enum:
    FAILED_OPENS_SHIFT = 36      # RFC 9001 section 6.6: integrity limit of ChaCha20-Poly1305

cdef enum RecordKind:
    RECORD_LANE
    RECORD_CONTROL
    RECORD_CHANNEL

cdef struct Session:             # one set of receive keys: one peer or client, one epoch
    Retired retired
    uint64_t handle
    KeyContext *keys
    void *owner                  # Peer or Client
    Session *next                # of the same owner; writers only
    uint64_t failed_opens
    uint64_t bucket
    Endpoint source              # client, inbound thread: where packets of lanes >= 1 came from last
    bint relayed
    uint64_t via
    size_t lanes
    uint64_t ids[64]

cdef struct Record:
    Retired retired
    uint64_t id
    RecordKind kind
    uint32_t lane
    Session *session             # lane
    Window *window               # lane; allocated by the first authentic packet
    uint64_t bucket              # control; of a relay written by all its threads
    void *source                 # channel of a relay: Client
    void *target                 # channel of a relay: Client
    uint64_t target_id

cdef Record *record_prepare(Table *ids, RecordKind kind, uint64_t id) except NULL
cdef int record_remove(Table *ids, uint64_t id) except -1
cdef void record_retire(Table *ids, Record *record) noexcept nogil
cdef void record_dispose(void *record) noexcept nogil

cdef Allowance allowance_of(object rate, object burst) except *
cdef list lane_ids_of(object ids)
cdef Session *session_install(Table *ids, uint64_t handle, void *owner, list keys,
                              object material) except NULL
cdef void session_retire(Table *ids, Session *session) noexcept nogil
cdef void session_dispose(void *record) noexcept nogil


cdef inline bint bucket_spend(uint64_t *bucket, uint64_t now, uint64_t cost, uint64_t depth) noexcept nogil:
    """Token bucket as one number: the time at which it would be full again (GCRA, ITU-T I.371).

    Of several threads that spend at once one may be forgotten.
    """
    cdef uint64_t full = load_relaxed(bucket)
    cdef uint64_t due = full if full > now else now
    if due - now > depth:
        return False
    store_relaxed(bucket, due + cost)
    return True


cdef inline bint bucket_take(uint64_t *bucket, uint64_t now) noexcept nogil:
    """For messages."""
    return bucket_spend(bucket, now, BUCKET_STEP_NS, BUCKET_DEPTH_NS)


cdef inline bint bucket_at_ease(const uint64_t *bucket, uint64_t now) noexcept nogil:
    """Is more than half of the burst left?  For what may wait, so that it starves nothing else."""
    return bucket[0] <= now + BUCKET_DEPTH_NS // 2
