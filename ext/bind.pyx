"""BIND and BOUND, the messages by which a relay learns where its client is.

Does NOT open packets or send: it gets the payload of an authentic, fresh one and writes the reply's.

    BIND   kind 0x10 | number (8) | nonce (8) | challenge (8, zero = none) | padding (10)
    BOUND  kind 0x11 | nonce (8) | challenge (8, zero = bound) | address (16) | port (2)

A new source becomes the endpoint only after it sent back the random challenge that went to that very
address, in a BIND with a higher number: so a copied BIND moves nobody, and nobody can point a client's
traffic at a victim.  Both messages have 35 bytes, so a reply is never larger than what asked for it.
"""

from libc.string cimport memcmp, memcpy, memset

from shadowmesh._ext.atomic cimport store_relaxed
from shadowmesh._ext.bytes cimport load64
from shadowmesh._ext.clients cimport CHALLENGE_SIZE, Candidate, client_move
from shadowmesh._ext.endpoint cimport SOCKADDR_IN6_SIZE, endpoint_equal
from shadowmesh._ext.libcrypto cimport CRYPTO_memcmp
from shadowmesh._ext.packets cimport BIND_SIZE, KIND_BOUND
from shadowmesh._ext.system cimport getrandom


cdef enum:
    BIND_NUMBER = 1
    BIND_NONCE = 9
    BIND_CHALLENGE = 17
    BOUND_NONCE = 1
    BOUND_CHALLENGE = 9
    BOUND_ADDRESS = 17
    BOUND_PORT = 33

# A challenge is kept while the same address asks again: a client that binds every second over a path
# of more than a second's round trip would otherwise never see its challenge again before it changed.
cdef uint64_t CHALLENGE_LIFE_NS = 10000000000

cdef uint8_t NO_CHALLENGE[CHALLENGE_SIZE]
memset(NO_CHALLENGE, 0, CHALLENGE_SIZE)


cdef bint _answers(const Candidate *candidate, const uint8_t *challenge, const Endpoint *source,
                   uint64_t now) noexcept nogil:
    """The source is the candidate and sends back its challenge, in time."""
    return (
        candidate.endpoint.size != 0
        and endpoint_equal(&candidate.endpoint, source)
        and now - candidate.made < CHALLENGE_LIFE_NS
        and CRYPTO_memcmp(candidate.challenge, challenge, CHALLENGE_SIZE) == 0
    )


cdef bint _make_candidate(Candidate *candidate, const Endpoint *source, uint64_t now) noexcept nogil:
    """A fresh challenge for `source`, unless it has one that still holds.  False: no random bytes."""
    if (
        candidate.endpoint.size != 0
        and endpoint_equal(&candidate.endpoint, source)
        and now - candidate.made < CHALLENGE_LIFE_NS
    ):
        return True
    candidate.endpoint.size = 0
    if getrandom(candidate.challenge, CHALLENGE_SIZE, 0) != CHALLENGE_SIZE:
        return False
    if memcmp(candidate.challenge, NO_CHALLENGE, CHALLENGE_SIZE) == 0:
        return False  # zero means "bound"; once in 2^64
    candidate.endpoint = source[0]
    candidate.made = now
    return True


cdef BindResult bind_handle(Client *client, const uint8_t *payload, const Endpoint *source,
                            uint64_t now) noexcept nogil:
    """Judge a BIND of BIND_SIZE bytes and change the client accordingly."""
    cdef uint64_t number = load64(payload + BIND_NUMBER)
    cdef bint is_new = number >= client.next_bind
    if is_new and number != ~<uint64_t>0:
        client.next_bind = number + 1
    if endpoint_equal(source, &client.endpoint):
        store_relaxed(&client.last_bind, now)
        return BIND_REFRESHED
    if not is_new:
        return BIND_STALE
    if _answers(&client.candidate, payload + BIND_CHALLENGE, source, now):
        client.candidate.endpoint.size = 0
        client_move(client, source)
        store_relaxed(&client.last_bind, now)
        return BIND_MOVED
    return BIND_CHALLENGED if _make_candidate(&client.candidate, source, now) else BIND_STALE


cdef void bound_write(uint8_t *bound, const uint8_t *bind, const Client *client, BindResult result,
                      const Endpoint *source) noexcept nogil:
    """The reply's payload: what the source looks like from here, and the challenge if it has one."""
    cdef const uint8_t *raw = <const uint8_t *>source.words
    memset(bound, 0, BIND_SIZE)
    bound[0] = KIND_BOUND
    memcpy(bound + BOUND_NONCE, bind + BIND_NONCE, 8)
    if result == BIND_CHALLENGED:
        memcpy(bound + BOUND_CHALLENGE, client.candidate.challenge, CHALLENGE_SIZE)
    memcpy(bound + BOUND_PORT, raw + 2, 2)
    if source.size == SOCKADDR_IN6_SIZE:
        memcpy(bound + BOUND_ADDRESS, raw + 8, 16)
    else:
        bound[BOUND_ADDRESS + 10] = 0xFF
        bound[BOUND_ADDRESS + 11] = 0xFF
        memcpy(bound + BOUND_ADDRESS + 12, raw + 4, 4)
