"""Routers with NATs in the namespace lab: Linux's own NAT, made to behave as the NATs of RFC 4787.

    host --under0-- lan0 (bridge) router under0 -- switch of the lab, or lan0 of the router it is behind

What each kind is made of, and where it differs from the textbook:

- PORT_RESTRICTED is plain `masquerade`.  Linux translates by connection and keeps the source port while
  nobody else has it, which from outside is an endpoint-independent mapping with address-and-port-dependent
  filtering, until two hosts behind it use one port.
- SYMMETRIC is `masquerade fully-random`: every connection gets a port of its own.
- FULL_CONE and RESTRICTED are `masquerade` and a map from external to internal endpoint, learned from
  packets on their way out, by which new packets from outside are let in; RESTRICTED asks besides whether
  their source address was written to.  Both rely on ports being kept: let no two hosts behind them use
  the same one.
- Hairpinning uses the same map.  It lets every neighbour in, whatever the kind filters from outside.

The router itself drops all UDP from outside that belongs to no connection.  That matters: were it
accepted, or answered, connection tracking would keep the tuple, and a hole punched later by that host
would get another port.  Needs root, iproute2 and nftables.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from shadowmesh.testing.lab import UNDERLAY_INTERFACE, Host, Lab

LAN_BRIDGE = "lan0"
MAPPING_TIMEOUT = 30
"""Seconds: Linux's own value for UDP before it has seen an answer."""

CUT_TABLE = "lab_cut"
"""Name of the nftables table that `cut` makes in a namespace, and `mend` deletes."""


class Kind(Enum):
    """What a router's NAT does (see the module's text), by the names of RFC 3489."""

    FULL_CONE = "full cone"
    RESTRICTED = "address-restricted cone"
    PORT_RESTRICTED = "port-restricted cone"
    SYMMETRIC = "symmetric"


_ADMITS = {
    Kind.FULL_CONE: "",
    Kind.RESTRICTED: "ip saddr . udp dport @spoken",
}
"""What a new packet from outside must match besides having a mapping; kinds not named let none in."""


def _ruleset(kind: Kind, wan: str, hairpin: bool, timeout: int) -> str:
    admitted = f'iifname "{UNDERLAY_INTERFACE}" {_ADMITS[kind]} ' if kind in _ADMITS else ""
    translate = "dnat ip to udp dport map @cone"
    ours = f'iifname "{LAN_BRIDGE}" ip daddr {wan} '
    outward = f'iifname "{LAN_BRIDGE}" meta l4proto udp'
    learned = f"flags dynamic, timeout; timeout {timeout}s; size 4096;"
    return f"""
table ip nat {{
  map cone {{ type inet_service : ipv4_addr . inet_service; {learned} }}
  set spoken {{ type ipv4_addr . inet_service; {learned} }}
  chain learn {{
    type filter hook forward priority filter - 5
    {outward} update @cone {{ udp sport : ip saddr . udp sport }}
    {outward} update @spoken {{ ip daddr . udp sport }}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat
    {admitted + translate if admitted else ""}
    {ours + translate if hairpin else ""}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    oifname "{UNDERLAY_INTERFACE}" masquerade {"fully-random" if kind is Kind.SYMMETRIC else ""}
    iifname "{LAN_BRIDGE}" oifname "{LAN_BRIDGE}" ct status dnat snat ip to {wan}
  }}
}}
table inet guard {{
  set blocked {{ type ipv4_addr; flags interval; }}
  set allowed {{ type ipv4_addr; }}
  chain input {{
    type filter hook input priority filter
    meta l4proto udp ct state new drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop
    {outward} ip daddr @blocked ip daddr != @allowed drop
    ct state established,related accept
    ct status dnat accept
    iifname "{LAN_BRIDGE}" accept
  }}
}}
"""


def _set_up_kernel(timeout: int) -> None:
    """Settings of the namespace that the calling thread is in."""
    settings = {
        "ipv4/ip_forward": 1,
        "ipv4/conf/all/send_redirects": 0,
        f"ipv4/conf/{LAN_BRIDGE}/send_redirects": 0,
        "netfilter/nf_conntrack_udp_timeout": timeout,
        "netfilter/nf_conntrack_udp_timeout_stream": timeout,
    }
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():
        bridged.write_text("0")  # else frames that are only bridged pass the rules as well
    for name, value in settings.items():
        Path("/proc/sys/net", name).write_text(str(value))


class Router:
    """A NAT router of a `NatLab`; `host` is its namespace, `wan` its external IPv4 address."""

    def __init__(self, host: Host, wan: str, number: int) -> None:
        self.host = host
        self.wan = wan
        self.lan = f"192.168.{number}."
        self._count = 9

    def new_address(self) -> str:
        """An IPv4 address of its inside network that nobody has yet."""
        self._count += 1
        return f"{self.lan}{self._count}"

    def block_udp(self, *but: str) -> None:
        """Let no IPv4 UDP out, but to these addresses."""
        lines = ["add element inet guard blocked { 0.0.0.0/0 }"]
        lines += [f"add element inet guard allowed {{ {', '.join(but)} }}"] * bool(but)
        nft(self.host, "\n".join(lines))


def nft(host: Host, commands: str) -> None:
    """Run nft(8) commands in a namespace, all of them or none.  `LabError` with what nft says."""
    host.run(["nft", "-f", "-"], text_in=commands)


def cut(host: Host, *addresses: str) -> None:
    """Drop what reaches `host` from or to these addresses: on a router both directions, on an end one.

    Nothing is dropped where it is sent, because that would be an error for the sender and no silence.
    """
    rules = "\n".join(
        f"{'ip6' if ':' in address else 'ip'} {side} {address} drop"
        for address in addresses
        for side in ("saddr", "daddr")
    )
    mend(host)
    chain = f"chain prerouting {{ type filter hook prerouting priority raw\n{rules}\n}}"
    nft(host, f"table inet {CUT_TABLE} {{\n{chain}\n}}")


def mend(host: Host) -> None:
    """Undo `cut`."""
    nft(host, f"table inet {CUT_TABLE}\ndelete table inet {CUT_TABLE}")


def change_addresses(host: Host) -> None:
    """Add an address to a host, at the next call take it away: its programs see that the network changed."""
    address = ["10.98.0.1/32", "dev", UNDERLAY_INTERFACE]
    if host.run(["ip", "address", "add", *address], check=False).returncode:
        host.run(["ip", "address", "del", *address])


class NatLab(Lab):
    """A lab whose switch is the public network; hosts that `behind` makes sit behind routers."""

    def __init__(self, mtu: int = 1500) -> None:
        super().__init__(mtu)
        self.routers: dict[str, Router] = {}

    def router(
        self,
        name: str,
        kind: Kind,
        behind: Router | None = None,
        hairpin: bool = False,
        timeout: int = MAPPING_TIMEOUT,
    ) -> Router:
        """A router, in public or behind another one.

        :param timeout: seconds after which it forgets what nothing refreshes.
        """
        host = self.host(name, ipv6=False) if behind is None else self.behind(name, behind)
        assert host.ipv4 is not None, "this lab has IPv4"
        router = Router(host, host.ipv4, host.number)
        host.add_bridge(LAN_BRIDGE)
        host.ip_batch([f"address add {router.lan}1/24 dev {LAN_BRIDGE}"])
        nft(host, _ruleset(kind, router.wan, hairpin, timeout))
        host.inside(lambda: _set_up_kernel(timeout))
        self.routers[name] = router
        return router

    def behind(self, name: str, router: Router) -> Host:
        """A host with IPv4 alone in the inside network of a router, which is its gateway."""
        host = self.new_host(name)
        self.plug(host, router.host, LAN_BRIDGE)
        host.ipv4, host.ipv6 = router.new_address(), None
        host.ip_batch(
            [
                f"address add {host.ipv4}/24 dev {UNDERLAY_INTERFACE}",
                f"route add default via {router.lan}1",
            ]
        )
        return host
