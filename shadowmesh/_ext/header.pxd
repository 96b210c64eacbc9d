"""The form of a datagram, and where its id is (ext/header.h)."""

from libc.stdint cimport uint8_t


cdef extern from "header.h" nogil:
    enum:
        FORM_NONE "SM_FORM_NONE"
        FORM_LONG "SM_FORM_LONG"
        FORM_SHORT "SM_FORM_SHORT"
    int header_form "sm_header_form"(const uint8_t *data, size_t size)
    size_t header_id_at "sm_header_id_at"(const uint8_t *data, size_t size)
