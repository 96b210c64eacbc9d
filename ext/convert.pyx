"""Checks of Python arguments at the boundary: what passes here is safe to use without the GIL.

Does NOT touch bytes from the network.  A wrong type raises TypeError, a wrong value ValueError, both
with the argument's name.
"""

from shadowmesh._ext.bytes cimport load64


cdef const uint8_t[::1] buffer_of(object value, str name):
    """A contiguous view of bytes.  TypeError for None and for what isn't bytes-like."""
    if value is None:
        raise TypeError(f"{name} must be bytes, not None")
    if isinstance(value, (bytes, bytearray)):
        return value
    try:
        return memoryview(value).cast("B")
    except TypeError as error:
        raise TypeError(f"{name} must be contiguous bytes, not {type(value).__name__}") from error


cdef const uint8_t[::1] sized(object value, Py_ssize_t size, str name):
    """The same of exactly `size` bytes (> 0), so that &view[0] may be taken."""
    cdef const uint8_t[::1] view = buffer_of(value, name)
    if view.shape[0] != size:
        raise ValueError(f"{name} must have {size} bytes, not {view.shape[0]}")
    return view


cdef uint64_t id_of(object value) except? 0:
    """An 8-byte id as the number that tables use."""
    cdef const uint8_t[::1] view = sized(value, 8, "id")
    return load64(&view[0])


cdef uint64_t unsigned(object value, uint64_t largest, str name) except? 0xFFFFFFFFFFFFFFFF:
    """An integer 0..largest.  bool is refused: it is a mistake everywhere here."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    if value < 0 or value > largest:
        raise ValueError(f"{name} must be 0..{largest}, not {value}")
    return value
