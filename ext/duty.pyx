"""The loops of the client's two threads: one serves both directions while there is little to do.

Does NOT process packets (inbound.pyx, outbound.pyx).

To wake another thread costs more than to handle a ping (measured: some 36 us for a core that sleeps).  So
the first thread always receives, and serves the TAP too, where an answer often waits already when a
packet was delivered.  When it has been busy for most of a window, the second thread takes the TAP; when
the work of both has become little, it gives the TAP back and sleeps.

`apart` says who owns the Outbound, and only the owner changes it: nobody else touches what is in it.
"""

from shadowmesh._ext.atomic cimport load_acquire, load_relaxed, store_relaxed, store_release
from shadowmesh._ext.outbound cimport outbound_serve
from shadowmesh._ext.receive cimport receiver_serve
from shadowmesh._ext.system cimport EFD_CLOEXEC, EFD_NONBLOCK, eventfd, monotonic_ns, read, write
from shadowmesh._ext.workers cimport (
    Watch,
    close_descriptor,
    stopping,
    wait_any,
    waiter_free,
    waiter_init,
)


cdef enum:
    FIRST = 0
    SECOND = 1
    PART_WINDOW = 1000000       # nanoseconds; the first thread parts if 3/4 of such a window was work
    UNITE_WINDOW_MS = 10        # the second gives back if both together worked less than 1/2 of such a window


cdef void duty_clear(Duty *duty) noexcept nogil:
    """No descriptor is open yet: `duty_free` may be called from here on."""
    duty.taken.fd = duty.returned.fd = -1
    duty.both.epoll = duty.receiving.epoll = duty.asleep.epoll = duty.sending.epoll = -1


cdef bint duty_init(Duty *duty) noexcept nogil:
    """Make the eventfds."""
    duty.taken.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    duty.returned.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    return duty.taken.fd >= 0 and duty.returned.fd >= 0


cdef int duty_wire(Duty *duty) noexcept nogil:
    """When everything else is filled in: make what the threads wait for; 0 or an errno."""
    cdef Watch *udp = &duty.receiver.udp
    cdef Watch *tap = &duty.outbound.tap
    cdef int error = waiter_init(&duty.both, duty.stop, udp, tap)
    if error == 0:
        error = waiter_init(&duty.receiving, duty.stop, udp, &duty.returned)
    if error == 0:
        error = waiter_init(&duty.asleep, duty.stop, &duty.taken, NULL)
    if error == 0:
        error = waiter_init(&duty.sending, duty.stop, tap, NULL)
    return error


cdef void duty_free(Duty *duty) noexcept nogil:
    waiter_free(&duty.both)
    waiter_free(&duty.receiving)
    waiter_free(&duty.asleep)
    waiter_free(&duty.sending)
    close_descriptor(&duty.taken.fd)
    close_descriptor(&duty.returned.fd)


cdef void _hand_over(Duty *duty, uint64_t apart, const Watch *to) noexcept nogil:
    cdef uint64_t one = 1
    store_release(&duty.apart, apart)
    write(to.fd, &one, sizeof(one))


cdef void _clear(const Watch *watch) noexcept nogil:
    cdef uint64_t value
    read(watch.fd, &value, sizeof(value))


cdef inline void _worked(Duty *duty, size_t thread, uint64_t since, uint64_t now) noexcept nogil:
    store_relaxed(&duty.busy[thread], load_relaxed(&duty.busy[thread]) + now - since)


cdef void *first_main(void *argument) noexcept nogil:
    """UDP, and the TAP while it is not parted with: returns only when the stop is raised."""
    cdef Duty *duty = <Duty *>argument
    cdef uint64_t woken, now, begun = 0, before = 0
    cdef bint alone
    while not stopping(duty.stop):
        alone = load_acquire(&duty.apart) == 0
        woken = wait_any(&duty.both if alone else &duty.receiving, -1)
        if duty.receiver.udp.ready:
            receiver_serve(duty.receiver)
        if alone:
            # Also when only UDP was ready: the kernel answers a delivered ping at once.
            outbound_serve(duty.outbound, True)
        elif duty.returned.ready:
            _clear(&duty.returned)
        now = monotonic_ns()
        _worked(duty, FIRST, woken, now)
        if now - begun >= PART_WINDOW:
            if alone and load_relaxed(&duty.busy[FIRST]) - before > (now - begun) * 3 // 4:
                _hand_over(duty, 1, &duty.taken)
            begun = now
            before = load_relaxed(&duty.busy[FIRST])
    return NULL


cdef void *second_main(void *argument) noexcept nogil:
    """The TAP while it has it, otherwise nothing: returns only when the stop is raised."""
    cdef Duty *duty = <Duty *>argument
    while not stopping(duty.stop):
        wait_any(&duty.asleep, -1)
        _clear(&duty.taken)
        if load_acquire(&duty.apart):
            _serve_apart(duty)
    return NULL


cdef void _serve_apart(Duty *duty) noexcept nogil:
    """Serve the TAP until the work of both threads has become little."""
    cdef uint64_t woken, now, busy, begun = monotonic_ns(), before = _busy(duty)
    while not stopping(duty.stop):
        woken = wait_any(&duty.sending, UNITE_WINDOW_MS)
        if duty.outbound.tap.ready:
            outbound_serve(duty.outbound, False)
        now = monotonic_ns()
        _worked(duty, SECOND, woken, now)
        if now - begun >= UNITE_WINDOW_MS * 1000000:
            busy = _busy(duty)
            if busy - before < (now - begun) // 2:
                _hand_over(duty, 0, &duty.returned)
                return
            begun = now
            before = busy


cdef inline uint64_t _busy(const Duty *duty) noexcept nogil:
    return load_relaxed(&duty.busy[FIRST]) + load_relaxed(&duty.busy[SECOND])
