"""What the guards refused of one peer, for Python.

Does NOT decide what is refused (origin.pyx).
"""

from libc.stdint cimport uint8_t

from shadowmesh._ext.atomic cimport load_relaxed
from shadowmesh._ext.bytes cimport store48, store64

from shadowmesh._ext.drops import DropReason as REASONS


cdef dict refusals_of(Refusals *refusals):
    """Counts by lower-case name, and under "example" the reason, MAC and address of one frame, or None.

    The example is taken: the next one is of a frame that was refused after this call.
    """
    cdef uint8_t mac[6]
    cdef uint8_t address[16]
    cdef dict found = {}
    cdef size_t i
    for i in range(<size_t>REFUSALS):
        reason = REASONS.SPOOFED_SOURCE if i == 0 else REASONS(<int>DropReason.SPOOFED_ADDRESS + <int>i - 1)
        found[reason.name.lower()] = load_relaxed(&refusals.counts[i])
    found["example"] = None
    if load_acquire(&refusals.taken):
        store48(mac, refusals.claim.mac)
        store64(address, refusals.claim.address[0])
        store64(address + 8, refusals.claim.address[1])
        found["example"] = (REASONS(<int>refusals.reason).name.lower(), mac[:6], address[:16])
        store_release(&refusals.taken, 0)
    return found


cdef uint64_t refusals_total(const Refusals *refusals) noexcept nogil:
    cdef uint64_t total = 0
    cdef size_t i
    for i in range(<size_t>REFUSALS):
        total += load_relaxed(&refusals.counts[i])
    return total
