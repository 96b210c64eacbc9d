"""Declarations of `ext/atomic.h`."""

from libc.stdint cimport uint64_t


cdef extern from "atomic.h" nogil:
    void *load_pointer "sm_load_pointer"(void **p)
    void store_pointer "sm_store_pointer"(void **p, void *v)
    uint64_t load_acquire "sm_load_acquire"(const uint64_t *p)
    void store_release "sm_store_release"(uint64_t *p, uint64_t v)
    uint64_t load_relaxed "sm_load_relaxed"(const uint64_t *p)
    void store_relaxed "sm_store_relaxed"(uint64_t *p, uint64_t v)
    void add_relaxed "sm_add_relaxed"(uint64_t *p, uint64_t v)
    bint load_flag "sm_load_flag"(const bint *p)
    void store_flag "sm_store_flag"(bint *p, bint v)
    void fence "sm_fence"()
    void fence_acquire "sm_fence_acquire"()
    void fence_release "sm_fence_release"()
