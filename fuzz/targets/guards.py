"""Of whatever frame a peer sends, the guards refuse exactly what their slow twin does, by the same name."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

from shadowmesh._ext.origin import Origins
from shadowmesh.overlay.ownership import link_local, packed_prefix
from tests.reference import origin as twin

COVERS: tuple[str, ...] = ()
PEER = 1
MACS = [bytes((2, 0, 0, 0, 0, number)) for number in range(3)]
PREFIXES = [
    ("10.77.0.1", "fd77::1"),
    ("10.77.0.2", "fd77::2", "192.168.5.0/24", "fd55::/48", link_local(MACS[1])),
    ("10.77.0.3", "192.168.5.7", "fd55::7"),
]
SOURCES = ["10.77.0.2", "10.77.0.2", "10.77.0.3", "192.168.5.8", "0.0.0.0"]
SOURCES6 = ["fd77::2", link_local(MACS[1]), "fd55::8", "fd55::7", "::"]


def _party(number: int, flags: int) -> twin.Party:
    """Whoever is not the peer has no rights; three bits say which the peer has."""
    prefixes = tuple(ip_network(text) for text in PREFIXES[number])
    others, dhcp, router = (bool(flags & bit) for bit in (1, 2, 4))
    return twin.Party(MACS[number], prefixes, others, dhcp, router)


TWINS = [
    twin.Origins({number: _party(number, flags if number == PEER else 0) for number in range(3)})
    for flags in range(8)
]


def _compiled(slow: twin.Origins) -> Origins:
    fast = Origins()
    for number, party in slow.parties.items():
        packed = [packed_prefix(str(prefix)) for prefix in party.prefixes]
        fast.set_sources(number, party.mac, packed, others=party.others, dhcp=party.dhcp, router=party.router)
    return fast


COMPILED = [_compiled(slow) for slow in TWINS]


def _seed(number: int) -> bytes:
    """The rights, and one frame: ARP, IPv4 or IPv6, often neighbour discovery."""
    generator = random.Random(number)
    kind = generator.choice(["arp", "ipv4", "ipv6", "nd", "nd"])
    mac = generator.choice([MACS[PEER], MACS[PEER], MACS[2]])
    source = ip_address(generator.choice(SOURCES if kind in ("arp", "ipv4") else SOURCES6)).packed
    ports = bytes([0, generator.choice([67, 53]), *generator.choice([(0, 68), (2, 34), (0, 67)])])
    protocol, payload = generator.choice(
        [(6, ports + bytes(8) + b"\x50\x02" + bytes(6)), (17, ports + bytes(4))]
    )
    tag = generator.choice([b"", b"", b"\x81\x00\x00\x0a"])
    if kind == "arp":
        head = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00" + bytes([generator.choice([1, 2])])
        content = head + mac + source + bytes(10)
    elif kind == "ipv4":
        size = (20 + len(payload)).to_bytes(2, "big")
        bits = generator.choice([0, 0, 0x2000, 3]).to_bytes(2, "big")
        content = b"\x08\x00\x45\x00" + size + b"\x00\x07" + bits + bytes([64, protocol, 0, 0])
        content += source + ip_address("10.77.0.1").packed + payload
    else:
        if kind == "nd":
            message = generator.choice([133, 134, 135, 136, 137])
            fixed = {133: 4, 134: 12, 135: 4, 136: 4, 137: 4}[message]
            target = ip_address(generator.choice(SOURCES6)).packed * (message > 134) + bytes(16) * (
                message == 137
            )
            payload = bytes([message]) + bytes(3 + fixed) + target
            payload += generator.choice([b"", b"\x01\x01" + mac, b"\x02\x01" + mac, b"\x05\x01" + bytes(6)])
            protocol = 58
        for _ in range(generator.choice([0, 0, 0, 1, 2])):
            payload, protocol = bytes([protocol, 0]) + bytes(6) + payload, generator.choice([0, 44, 60])
        content = b"\x86\xdd\x60\x00\x00\x00" + len(payload).to_bytes(2, "big") + bytes([protocol, 255])
        content += source + ip_address("ff02::1").packed + payload
    return bytes([generator.randrange(8)]) + b"\xff" * 6 + MACS[PEER] + tag + content


SEEDS = [_seed(number) for number in range(60)]


def target(data: bytes) -> None:
    """The first byte says what the peer may do; the frame is from its MAC address, which others see to."""
    if len(data) < 15:
        return
    frame = data[1:7] + MACS[PEER] + data[13:]
    fast, slow = COMPILED[data[0] & 7], TWINS[data[0] & 7]
    assert fast.judge(PEER, frame) == slow.judge(PEER, frame)
    reply = fast.resolve(MACS[0], frame[:6] + MACS[0] + frame[12:])
    assert reply is None or len(reply) in (42, 86)
