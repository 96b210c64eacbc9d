/* The replay window of one lane (RFC 6479): a ring of bits that moves by whole words.
 *
 * Does not open packets.  docs/models/window.py proves what is said of it here, for every window and number, so
 * it reads this file: it knows unsigned integers, `if`, `for` with a counter and these structures, nothing else.
 */
#ifndef SHADOWMESH_WINDOW_H
#define SHADOWMESH_WINDOW_H

#include <stdint.h>

#define SM_WINDOW_WORDS 128
#define SM_WINDOW_SIZE 8128 /* numbers that are judged: one word is always being reused (RFC 6479 section 2) */

#define SM_FRESH 0
#define SM_DUPLICATE 1
#define SM_TOO_OLD 2

struct sm_window {
    uint64_t newest;
    uint64_t bits[SM_WINDOW_WORDS];
};

/* Judge without changing anything. */
static inline int sm_window_check(const struct sm_window *window, uint64_t number)
{
    if (number > window->newest)
        return SM_FRESH;
    if (window->newest - number >= SM_WINDOW_SIZE)
        return SM_TOO_OLD;
    if ((window->bits[(number >> 6) & 127] >> (number & 63)) & 1)
        return SM_DUPLICATE;
    return SM_FRESH;
}

/* Judge and, if fresh, remember.  Only for numbers of packets whose tag was right.
 *
 * A zeroed window is a new one: number 0 is fresh because its bit is not set. */
static inline int sm_window_accept(struct sm_window *window, uint64_t number)
{
    uint64_t word, steps, i;
    int verdict = sm_window_check(window, number);
    if (verdict != SM_FRESH)
        return verdict;
    if (number > window->newest) {
        word = window->newest >> 6;
        steps = (number >> 6) - word;
        if (steps > SM_WINDOW_WORDS)
            steps = SM_WINDOW_WORDS;
        for (i = 0; i < steps; i++)
            window->bits[(word + 1 + i) & 127] = 0;
        window->newest = number;
    }
    window->bits[(number >> 6) & 127] |= (uint64_t)1 << (number & 63);
    return SM_FRESH;
}

#endif
