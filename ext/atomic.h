/* The few atomic operations that tables, rings and worker threads need.
 *
 * acquire/release: a pointer or counter published by one thread and read by another.
 * relaxed: a counter with one writer, read for display only.
 * fence: between "I unpublished it" and "who may still use it" (tables.pxd, grace periods).
 */
#ifndef SHADOWMESH_ATOMIC_H
#define SHADOWMESH_ATOMIC_H

#include <stdint.h>

static inline void *sm_load_pointer(void **p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void sm_store_pointer(void **p, void *v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline uint64_t sm_load_acquire(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void sm_store_release(uint64_t *p, uint64_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline uint64_t sm_load_relaxed(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void sm_store_relaxed(uint64_t *p, uint64_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}

/* One writer per counter, so load and store apart are enough: no locked instruction per packet. */
static inline void sm_add_relaxed(uint64_t *p, uint64_t v)
{
    __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + v, __ATOMIC_RELAXED);
}

/* A flag that one thread clears and others show. */
static inline int sm_load_flag(const int *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void sm_store_flag(int *p, int v)
{
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void sm_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void sm_fence_acquire(void)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

static inline void sm_fence_release(void)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

#endif
