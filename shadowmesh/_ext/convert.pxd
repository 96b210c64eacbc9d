"""Checks of Python arguments at the boundary of the extensions."""

from libc.stdint cimport uint8_t, uint64_t


cdef const uint8_t[::1] buffer_of(object value, str name)
cdef const uint8_t[::1] sized(object value, Py_ssize_t size, str name)
cdef uint64_t id_of(object value) except? 0
cdef uint64_t unsigned(object value, uint64_t largest, str name) except? 0xFFFFFFFFFFFFFFFF
