/* What the first bytes of a datagram say: its form, and where the id is that it may be looked up by.
 *
 * Does not look anything up.  docs/models/window.py proves that nothing is read beyond the datagram, and that every
 * datagram has one form (docs/protocol.md section 3); it reads this file as it does window.h.
 */
#ifndef SHADOWMESH_HEADER_H
#define SHADOWMESH_HEADER_H

#include <stddef.h>
#include <stdint.h>

#define SM_FORM_NONE 0  /* empty */
#define SM_FORM_LONG 1  /* 11xxxxxx: QUIC, RFC 8999 section 5.1 */
#define SM_FORM_SHORT 2 /* 01xxxxxx */
#define SM_FORM_OTHER 3

#define SM_ID_SIZE 8
#define SM_SHORT_ID_AT 1
#define SM_LONG_ID_AT 6 /* behind first byte, version (4) and length */

static inline int sm_header_form(const uint8_t *data, size_t size)
{
    if (size == 0)
        return SM_FORM_NONE;
    if ((data[0] & 0xC0) == 0xC0)
        return SM_FORM_LONG;
    if ((data[0] & 0xC0) == 0x40)
        return SM_FORM_SHORT;
    return SM_FORM_OTHER;
}

/* Where the 8-byte id is; 0 if there is none: too short, or a long header with an id of another size. */
static inline size_t sm_header_id_at(const uint8_t *data, size_t size)
{
    int form = sm_header_form(data, size);
    if (form == SM_FORM_SHORT && size >= SM_SHORT_ID_AT + SM_ID_SIZE)
        return SM_SHORT_ID_AT;
    if (form == SM_FORM_LONG && size >= SM_LONG_ID_AT + SM_ID_SIZE && data[SM_LONG_ID_AT - 1] == SM_ID_SIZE)
        return SM_LONG_ID_AT;
    return 0;
}

#endif
