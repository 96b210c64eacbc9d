/* Wire integers: big-endian loads and stores that work at any alignment.
 *
 * Does not check lengths: that is the caller's work.
 * memcpy is how C allows an unaligned access; compilers turn it into one instruction.
 */
#ifndef SHADOWMESH_BYTES_H
#define SHADOWMESH_BYTES_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SM_BE16(v) __builtin_bswap16(v)
#define SM_BE32(v) __builtin_bswap32(v)
#define SM_BE64(v) __builtin_bswap64(v)
#else
#define SM_BE16(v) (v)
#define SM_BE32(v) (v)
#define SM_BE64(v) (v)
#endif

static inline uint16_t sm_load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return SM_BE16(v);
}

static inline uint32_t sm_load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return SM_BE32(v);
}

static inline uint64_t sm_load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return SM_BE64(v);
}

static inline uint64_t sm_load48(const uint8_t *p)
{
    return ((uint64_t)sm_load16(p) << 32) | sm_load32(p + 2);
}

static inline void sm_store16(uint8_t *p, uint16_t v)
{
    v = SM_BE16(v);
    memcpy(p, &v, sizeof v);
}

static inline void sm_store32(uint8_t *p, uint32_t v)
{
    v = SM_BE32(v);
    memcpy(p, &v, sizeof v);
}

static inline void sm_store64(uint8_t *p, uint64_t v)
{
    v = SM_BE64(v);
    memcpy(p, &v, sizeof v);
}

static inline void sm_store48(uint8_t *p, uint64_t v)
{
    sm_store16(p, (uint16_t)(v >> 32));
    sm_store32(p + 2, (uint32_t)v);
}

#endif
