"""Loops around the data plane's own functions, for bench/micro.py; the product does not import it.

Does NOT judge or print.  Everything here runs many packets without the GIL and returns the nanoseconds
that they took, so that no call of Python is in the figures.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from shadowmesh._ext.aead cimport (
    HEADER_SIZE,
    LARGEST_PAYLOAD,
    MASK_BATCH,
    MASK_SIZE,
    MATERIAL_SIZE,
    OPENED,
    OVERHEAD,
    TAG_SIZE,
    KeyContext,
    apply_mask,
    header_masks,
    key_free,
    key_new,
    open_packet,
)
from shadowmesh._ext.bytes cimport load32, load64, store16, store32
from shadowmesh._ext.convert cimport buffer_of, sized, unsigned
from shadowmesh._ext.drops cimport Counters
from shadowmesh._ext.firewall cimport Guard, Policy, guard_free, guard_install
from shadowmesh._ext.flows cimport FLOW_BUCKETS
from shadowmesh._ext.judge cimport VERDICT_PASS, wall_judge
from shadowmesh._ext.lanes cimport SendKeys, SendLane, lane_dispose, lane_seal
from shadowmesh._ext.libcrypto cimport (
    EVP_CTRL_AEAD_TLS1_AAD,
    EVP_Cipher,
    EVP_CIPHER_CTX_ctrl,
    EVP_CipherUpdate,
)
from shadowmesh._ext.replay cimport Verdict, Window, window_accept
from shadowmesh._ext.system cimport monotonic_ns
from shadowmesh._ext.tables cimport (
    TABLE_OK,
    Grace,
    Retired,
    Table,
    grace_free,
    grace_new,
    table_find,
    table_free,
    table_init,
    table_install,
)
from shadowmesh._ext.udp cimport Outgoing

cimport cython


cdef enum:
    JUDGED_AT = 1000000000     # ns; so that no connection ends while it is measured
    LANE = 1
    RECEIVER_ID = 0x01234567

cpdef enum Task:
    SEAL
    SEAL_ALONE
    OPEN
    OPEN_ALONE
    MASK
    MASK_ALONE


# ---- packets ---------------------------------------------------------------------------------


@cython.final
cdef class Packets:
    cdef size_t size
    cdef size_t count
    cdef SendLane *lane
    cdef KeyContext *opening
    cdef Counters counters
    cdef Outgoing outgoing
    cdef Window window
    cdef Grace *grace
    cdef Table ids
    cdef Retired record
    cdef uint8_t *payload
    cdef uint8_t *buffer
    cdef uint8_t *packets[MASK_BATCH]
    cdef uint8_t aads[MASK_BATCH * 13]
    cdef uint8_t nonces[MASK_BATCH * 12]
    cdef uint8_t samples[MASK_BATCH * MASK_SIZE]

    def __cinit__(self, material, size, count):
        cdef const uint8_t[::1] view = sized(material, MATERIAL_SIZE, "key material")
        cdef SendKeys keys = SendKeys(material)
        cdef size_t i
        self.size = <size_t>unsigned(size, LARGEST_PAYLOAD, "size")
        self.count = <size_t>unsigned(count, MASK_BATCH, "count")
        if self.size == 0 or self.count == 0:
            raise ValueError("size and count must be 1 or more")
        self.lane = keys.claim(LANE, int(<uint64_t>RECEIVER_ID).to_bytes(8, "big"), 0)
        self.opening = key_new(&view[0], False)
        self.payload = <uint8_t *>calloc(1, self.size)
        self.buffer = <uint8_t *>calloc(self.count, self.size + OVERHEAD)
        self.grace = grace_new()
        if (
            self.opening == NULL or self.payload == NULL or self.buffer == NULL or self.grace == NULL
            or not table_init(&self.ids, self.grace)
            or table_install(&self.ids, RECEIVER_ID, &self.record) != TABLE_OK
        ):
            raise MemoryError("no memory for a benchmark")
        for i in range(self.count):
            self.packets[i] = self.buffer + i * (self.size + OVERHEAD)

    def __dealloc__(self):
        table_free(&self.ids, _not_ours)
        grace_free(self.grace)
        free(self.payload)
        free(self.buffer)
        key_free(self.opening)
        if self.lane != NULL:
            lane_dispose(self.lane)

    cdef bint _seal(self) noexcept nogil:
        """As the outbound thread: `lane_seal` each, then the header masks of the batch."""
        cdef size_t i
        for i in range(self.count):
            self.outgoing.data = self.packets[i]
            if not lane_seal(self.lane, &self.outgoing, 0, self.payload, self.size, &self.counters):
                return False
        return self._mask(self.lane.keys)

    cdef bint _open(self) noexcept nogil:
        """As the inbound thread: find the lanes, unmask the batch, open each, then its replay window."""
        cdef size_t i
        for i in range(self.count):
            if table_find(&self.ids, load64(self.packets[i] + 1)) == NULL:
                return False
        if not self._mask(self.opening):
            return False
        for i in range(self.count):
            if open_packet(self.opening, self.packets[i], self.size + OVERHEAD, LANE) != OPENED:
                return False
            if window_accept(&self.window, load32(self.packets[i] + 9)) != Verdict.FRESH:
                return False
        return True

    cdef bint _mask(self, KeyContext *keys) noexcept nogil:
        cdef uint8_t masks[MASK_BATCH * MASK_SIZE]
        cdef size_t i
        if not header_masks(keys, self.packets, self.count, masks):
            return False
        for i in range(self.count):
            apply_mask(self.packets[i], masks + i * MASK_SIZE)
        return True

    cdef bint _mask_alone(self) noexcept nogil:
        cdef uint8_t masks[MASK_BATCH * MASK_SIZE]
        cdef int written = 0
        return EVP_CipherUpdate(self.lane.keys.header, masks, &written, self.samples,
                                <int>(self.count * MASK_SIZE)) == 1

    cdef bint _prepare(self, bint opening) noexcept nogil:
        """Sealed packets without masks, and the AAD and nonce that the primitive alone finds ready."""
        cdef size_t length = self.size + (TAG_SIZE if opening and self.opening.fast == NULL else 0)
        cdef size_t i, j
        cdef uint8_t *aad
        if not self._seal() or not self._mask(self.lane.keys):  # masked twice is not masked
            return False
        for i in range(self.count):
            aad = self.aads + i * 13
            store32(aad, LANE)
            memcpy(aad + 4, self.packets[i] + 9, 4)
            aad[8] = self.packets[i][0]
            store16(aad + 9, 0)
            store16(aad + 11, <unsigned short>length)
            memcpy(self.nonces + i * 12, self.opening.iv, 12)
            for j in range(8):
                self.nonces[i * 12 + 4 + j] ^= aad[j]
        return True

    cdef bint _alone(self, KeyContext *keys, bint opening) noexcept nogil:
        """The calls of the library and nothing else."""
        cdef size_t i, written = 0, sealed = self.size + TAG_SIZE
        cdef uint8_t *text
        for i in range(self.count):
            text = self.packets[i] + HEADER_SIZE
            if keys.fast == NULL:
                if (
                    EVP_CIPHER_CTX_ctrl(keys.cipher, EVP_CTRL_AEAD_TLS1_AAD, 13, self.aads + i * 13) <= 0
                    or EVP_Cipher(keys.cipher, text, text if opening else self.payload,
                                  <unsigned int>sealed) <= 0
                ):
                    return False
            elif opening:
                if keys.library.open(keys.fast, text, &written, sealed, self.nonces + i * 12, 12,
                                     text, sealed, self.aads + i * 13, 13) != 1:
                    return False
            elif keys.library.seal(keys.fast, text, &written, sealed, self.nonces + i * 12, 12,
                                   self.payload, self.size, self.aads + i * 13, 13) != 1:
                return False
        return True

    cdef bint _step(self, Task task) noexcept nogil:
        if task == Task.SEAL:
            return self._seal()
        if task == Task.SEAL_ALONE:
            return self._alone(self.lane.keys, False)
        if task == Task.OPEN:
            return self._open()
        if task == Task.OPEN_ALONE:
            return self._alone(self.opening, True)
        if task == Task.MASK:
            return self._mask(self.lane.keys)
        return self._mask_alone()

    cdef uint64_t _measure(self, Task task, size_t batches) noexcept nogil:
        """Nanoseconds, or 0 if a call failed.  Opening needs new packets for every batch."""
        cdef uint64_t begin, total = 0
        cdef size_t _i
        cdef bint opening = task == Task.OPEN or task == Task.OPEN_ALONE
        if not self._prepare(False):
            return 0
        begin = monotonic_ns()
        for _i in range(batches):
            if opening:
                if not (self._seal() if task == Task.OPEN else self._prepare(True)):
                    return 0
                begin = monotonic_ns()
            if not self._step(task):
                return 0
            if opening:
                total += monotonic_ns() - begin
        return total if opening else monotonic_ns() - begin

    def run(self, task, batches):
        cdef Task chosen = <Task><int>unsigned(int(task), Task.MASK_ALONE, "task")
        cdef size_t times = <size_t>unsigned(batches, 0xFFFFFFFF, "batches")
        cdef uint64_t taken
        with nogil:
            taken = self._measure(chosen, times)
        if taken == 0:
            raise RuntimeError("the data plane refused a packet of the benchmark")
        return taken


# ---- replay window and tables ----------------------------------------------------------------


cdef void _not_ours(void *record) noexcept nogil:
    """The records of these tables are members of the object that owns the table."""


def window(numbers):
    cdef const uint8_t[::1] view = buffer_of(numbers, "numbers")
    cdef size_t count = <size_t>view.shape[0] // 8, fresh = 0, i
    cdef uint64_t begin
    cdef Window judged
    memset(&judged, 0, sizeof(Window))
    if count == 0:
        raise ValueError("numbers must not be empty")
    with nogil:
        begin = monotonic_ns()
        for i in range(count):
            fresh += window_accept(&judged, load64(&view[i * 8])) == Verdict.FRESH
        begin = monotonic_ns() - begin
    return begin, fresh


@cython.final
cdef class Lookup:
    cdef Table ids
    cdef Grace *grace
    cdef Retired record

    def __cinit__(self, ids):
        cdef const uint8_t[::1] view = buffer_of(ids, "ids")
        cdef size_t i
        self.grace = grace_new()
        if self.grace == NULL or not table_init(&self.ids, self.grace):
            raise MemoryError("no memory for a table")
        for i in range(<size_t>view.shape[0] // 8):
            if table_install(&self.ids, load64(&view[i * 8]), &self.record) != TABLE_OK:
                raise ValueError("an id is there twice, or there is no memory")

    def __dealloc__(self):
        table_free(&self.ids, _not_ours)
        grace_free(self.grace)

    def run(self, ids):
        cdef const uint8_t[::1] view = buffer_of(ids, "ids")
        cdef size_t count = <size_t>view.shape[0] // 8, found = 0, i
        cdef uint64_t begin
        if count == 0:
            raise ValueError("ids must not be empty")
        with nogil:
            begin = monotonic_ns()
            for i in range(count):
                found += table_find(&self.ids, load64(&view[i * 8])) != NULL
            begin = monotonic_ns() - begin
        return begin, found


# ---- firewall --------------------------------------------------------------------------------


@cython.final
cdef class Judging:
    cdef Guard guard

    def __cinit__(self, compiled):
        self.guard.grace = grace_new()
        if self.guard.grace == NULL:
            raise MemoryError("no memory for a firewall")
        guard_install(&self.guard, FLOW_BUCKETS, compiled, False)

    def __dealloc__(self):
        if self.guard.grace != NULL:
            guard_free(&self.guard)
            grace_free(self.guard.grace)

    def run(self, outbound, frames, size, rounds):
        cdef const uint8_t[::1] view = buffer_of(frames, "frames")
        cdef size_t length = <size_t>unsigned(size, LARGEST_PAYLOAD, "size")
        cdef size_t times = <size_t>unsigned(rounds, 0xFFFFFFFF, "rounds")
        cdef size_t direction = bool(outbound)
        cdef Policy *policy = <Policy *>self.guard.policy
        cdef size_t count, passed = 0, i, _round
        cdef uint64_t begin
        if length == 0 or view.shape[0] == 0 or <size_t>view.shape[0] % length != 0:
            raise ValueError("frames must be one or more of this size")
        count = <size_t>view.shape[0] // length
        with nogil:
            begin = monotonic_ns()
            for _round in range(times):
                for i in range(count):
                    passed += wall_judge(policy, direction, 1, 1, &view[i * length], length,
                                         JUDGED_AT) == VERDICT_PASS
            begin = monotonic_ns() - begin
        return begin, passed
