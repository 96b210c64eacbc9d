"""Conversion of raw sockaddr bytes to `Endpoint` and back, with the checks that `sendmmsg` would do too late.

Does NOT parse textual addresses and opens no socket.
"""

from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from shadowmesh._ext.convert cimport buffer_of
from shadowmesh._ext.system cimport AF_INET, AF_INET6, getsockname, sockaddr, socklen_t


cdef int endpoint_from(object value, int family, Endpoint *endpoint) except -1:
    """Read sockaddr_in (16 bytes) or sockaddr_in6 (28) for a socket of `family`; ValueError otherwise."""
    cdef const uint8_t[::1] view = buffer_of(value, "socket address")
    cdef Py_ssize_t size = SOCKADDR_IN_SIZE if family == AF_INET else SOCKADDR_IN6_SIZE
    cdef uint16_t found
    if view.shape[0] != size:
        raise ValueError(f"a socket address of this socket has {size} bytes, not {view.shape[0]}")
    memset(endpoint, 0, sizeof(Endpoint))
    memcpy(endpoint.words, &view[0], <size_t>size)
    memcpy(&found, &view[0], sizeof(found))
    if found != family:
        raise ValueError(f"the socket address has family {found}, the socket {family}")
    endpoint.size = <uint32_t>size
    endpoint_normalise(endpoint)
    if (<uint16_t *>endpoint.words)[1] == 0:
        raise ValueError("the socket address has port 0")
    return 0


cdef bytes endpoint_bytes(const Endpoint *endpoint):
    return (<const char *>endpoint.words)[:endpoint.size]


cdef int socket_family(int fd) except -1:
    """AF_INET or AF_INET6; ValueError if `fd` is not a socket of one of them."""
    cdef Endpoint name
    cdef socklen_t size = SOCKADDR_ROOM
    cdef int family
    memset(&name, 0, sizeof(name))
    if getsockname(fd, <sockaddr *>name.words, &size) != 0:
        raise ValueError("udp_fd is not a socket")
    family = (<sockaddr *>name.words).sa_family
    if family != AF_INET and family != AF_INET6:
        raise ValueError("udp_fd is not an IPv4 or IPv6 socket")
    return family
