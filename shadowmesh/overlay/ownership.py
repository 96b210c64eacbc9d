"""Addresses as the guards of the data plane take them.

Decides nothing: whose an address is says `core/owners.py`, what a frame may claim `ext/origin.pyx`.
"""

from __future__ import annotations

import ipaddress


def packed_prefix(text: str) -> bytes:
    """An address or prefix as 5 (IPv4) or 17 bytes: the address, and its length in bits."""
    network = ipaddress.ip_network(text)
    return network.network_address.packed + bytes((network.prefixlen,))


def link_local(mac: bytes) -> str:
    """The address of fe80::/64 that belongs to a MAC of 6 bytes. Source: RFC 4291 appendix A."""
    interface = bytes((mac[0] ^ 0x02,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + interface))
