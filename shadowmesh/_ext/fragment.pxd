"""Payload kind 0x02: a part of a payload that is larger than its path carries."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from shadowmesh._ext.bytes cimport store32
from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.packets cimport KIND_FRAGMENT
from shadowmesh._ext.tables cimport Table


cpdef enum FragmentLayout:
    FRAGMENT_HEADER_SIZE = 7         # kind, frame id (4), index, count
    ASSEMBLY_ROOM = 16368            # largest payload put together: every frame with its segment header
    ASSEMBLIES_PER_PEER = 8          # parts of more frames do not interleave on any path worth using
    ASSEMBLIES = 256                 # of all peers: at most 4 MiB
    ASSEMBLY_AGE_NS = 1000000000     # far above the difference of two paths' delays

cdef enum:
    ASSEMBLY_LEAD = 16               # before a payload: the room that coalesce.pyx asks for

cdef struct Assembly:                # a payload of which parts are missing
    uint64_t serial                  # counts up with each beginning; 0: free
    uint64_t session                 # handle: parts under other keys are never mixed in
    uint32_t frame
    size_t count
    size_t received
    size_t part                      # size of every part but the last; 0: not known yet
    size_t last                      # size of the last part; 0: it has not come
    bint aside                       # it lies at the end of the buffer
    uint64_t begun                   # ns
    uint64_t seen[4]                 # bit per index
    uint8_t *buffer                  # ASSEMBLY_LEAD + ASSEMBLY_ROOM; stays with the place

cdef struct Assemblies:              # of one peer; stale where the serial is not that of the place
    uint64_t serials[ASSEMBLIES_PER_PEER]
    Assembly *places[ASSEMBLIES_PER_PEER]

cdef struct Pool:                    # one thread's
    Assembly *places                 # ASSEMBLIES; allocated by the first fragment
    uint16_t free[ASSEMBLIES]        # a stack, so that the buffer used last, which is cached, is used next
    size_t free_count
    uint64_t serial
    Table *sessions                  # handle -> Session; NULL: nobody tells which are gone
    Counters *counters

cdef uint8_t *fragment_take(Pool *pool, Assemblies *mine, uint64_t session, const uint8_t *payload,
                            size_t size, uint64_t now, size_t *whole) noexcept nogil
cdef void pool_free(Pool *pool) noexcept nogil


cdef inline void fragment_header(uint8_t *fragment, uint32_t frame, size_t index,
                                 size_t count) noexcept nogil:
    fragment[0] = KIND_FRAGMENT
    store32(fragment + 1, frame)
    fragment[5] = <uint8_t>index
    fragment[6] = <uint8_t>count
