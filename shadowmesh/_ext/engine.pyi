# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""The client's data plane: outbound and inbound thread, and the tables that Python installs for them.

Every method checks its arguments before it changes anything: ValueError or KeyError (nothing of that
peer, session or id) with a clear text, TypeError for a wrong type.  Ids are 8 bytes.  sockaddr: the raw
sockaddr_in (16 bytes) or sockaddr_in6 (28) of the socket's own family, port not 0.
"""

from collections.abc import Iterable
from typing import Any

from typing_extensions import Buffer

from shadowmesh._ext.drops import DropReason as DropReason
from shadowmesh._ext.firewall import Compiled, FirewallCounters
from shadowmesh._ext.lanes import SendKeys as SendKeys
from shadowmesh._ext.ring import Event as Event

EVENT_LONG_HEADER: int
EVENT_CONTROL: int
EVENT_LANE_MESSAGE: int
EVENT_SOURCE: int
EVENT_WANTED: int
EVENT_PROBE: int

class Engine:
    """Data plane of one client.

    Use from one thread (asyncio's).  Watch `fileno()`; when it is readable, call `poll()`.
    """

    def __init__(
        self,
        udp_fd: int,
        tap_fd: int,
        event_fd: int,
        mac: Buffer,
        *,
        features: Iterable[str] | None = None,
        broadcast: tuple[int, int] | None = None,
    ) -> None:
        """`udp_fd`: bound UDP socket, IPv4 or IPv6.  `tap_fd`: TAP, IFF_NO_PI.
        `event_fd`: an eventfd.  `mac`: our own, 6 bytes, unicast.

        `features`: None uses all that kernel, TAP and socket offer; else only these of vnet_hdr (every
        frame of the TAP has a virtio_net_hdr of 10 bytes before it; must be right for this TAP), join_tcp,
        join_udp (contiguous segments go to the TAP as one super-frame), udp_gso and udp_gro.

        `broadcast`: packets a second and at once, 1..1000000 each, that go from us to groups, and that are
        taken of each peer; None: as many as there are.

        The engine works on duplicates, which live until `stop()`; tap and event descriptor are made
        non-blocking.  Buffers (about 4 MB, paged in when used) are allocated here.
        """

    def start(self) -> None:
        """Start both threads.  ValueError the second time or after `stop`."""

    def stop(self) -> None:
        """Stop and join the threads, close the duplicates.  May be called again, or without `start`."""

    def fileno(self) -> int:
        """The event_fd that was given."""

    def poll(self) -> list[Event]:
        """All control events and at most 64 long headers, oldest first in each class; control first.

        If long headers are left, the eventfd stays readable.  After `stop` it returns what is left.

        EVENT_SOURCE (handle = session) says that packets of a peer's lanes from 1 on come from another source
        or channel than before, or for the first time in this session.  It takes a token of the session's
        bucket (1000 per second, 256 at once, shared with its lane messages), and waits while half are gone.

        EVENT_WANTED (handle = peer) says that there is a unicast frame to a peer without a route: up to four
        a second for each peer.  Its data is the payload of a frame packet around it, no longer the engine's
        to send; empty, if the frame was too large for that (900 bytes) and is lost.
        """

    def turns(self) -> tuple[int, ...]:
        """How often a batch of what the TAP brought was begun or ended, and of what UDP brought: odd within
        one.  Each is counted by the thread that works; none is counted while there is nothing to do.
        """

    def add_peer(self, peer: int, mac: Buffer) -> None:
        """`peer`: 1..4095, not in use.  `mac`: 6 bytes, unicast, not ours and of no other peer."""

    def remove_peer(self, peer: int) -> None:
        """With its route and all its receive sessions."""

    def set_lane(
        self, peer: int, keys: SendKeys, lane: int, receiver_id: Buffer, *, first_number: int = 0
    ) -> None:
        """Seal for this peer with (keys, lane) from now on.

        ValueError if this lane of `keys` was ever installed.  `first_number` > 0 (up to 2^31) skips
        numbers; it exists to try out the end of a lane.
        """

    def set_endpoint(self, peer: int, sockaddr: Buffer, channel: Buffer, *, budget: int = 1452) -> None:
        """Send there, with a channel header in front unless `channel` is b"" (a direct path).

        `budget`: largest UDP payload on this route in bytes, channel header included, 1000..65507.
        Super-frames of TCP are cut so that every segment fits.
        """

    def clear_route(self, peer: int) -> None:
        """Send this peer nothing until lane and endpoint are set again."""

    def set_own_addresses(self, addresses: Iterable[Buffer]) -> None:
        """Ours on the overlay, packed as in `set_sources`: no peer may claim them."""

    def set_sources(
        self,
        peer: int,
        prefixes: Iterable[Buffer],
        *,
        others: bool = False,
        dhcp: bool = False,
        router: bool = False,
    ) -> None:
        """What the peer may send from: IP, ARP and neighbour discovery with anything else is refused.

        `prefixes`: at most 160, each 5 (IPv4) or 17 bytes, the address and its length in bits. Those that are
        one address belong to nobody else (ValueError if they do); in the others, and with `others`
        everywhere, the peer may have what is nobody's own. `dhcp` and `router` let it serve DHCP, and send
        router advertisements and redirects. Before the first call it may send from anywhere.
        """

    def set_firewall(self, compiled: Compiled | None, *, same_rules: bool = False) -> None:
        """Judge frames by these rules from now on; None lets everything pass.

        Connections that are known go on as long as these rules would let them be opened.  Peers have to be
        in `compiled.classes` by their number; those that are not are taken for peers that no rule names.
        With `same_rules`, only peers have changed, and the counters go on.
        ValueError for arrays that contradict each other; nothing is changed then.
        """

    def set_bridging(self, peer: int, allowed: bool) -> None:
        """Whether it may have stations behind it: send their frames, and get what nobody is known for."""

    def open_bridge(self, mac: Buffer, udp_port: int, vlans: Iterable[int] = ()) -> None:
        """Before `start`: our TAP is in a bridge with this MAC (6 bytes).

        `udp_port`: of our UDP socket, whose datagrams never go through the TAP.  `vlans` (1..4094): of tagged
        frames only these are carried; empty: all.
        """

    def set_port(self, state: int) -> None:
        """What the port to the bridge does: 0 there is none, 1 listening, 2 blocked, 3 forwarding.

        As long as there is one, EVENT_PROBE (handle = peer) brings loop probes of ours that a peer sent back.
        """

    def install_receive(self, session: int, peer: int, ids: Iterable[Buffer], material: Buffer) -> None:
        """Accept packets of lanes 0..len(ids)-1 (1..64).  `session`: a new number, 0..2^64-1.

        `peer` 0 stands for a relay: such a session carries messages, but never a frame.
        `material`: 76 bytes.  ValueError if the session or any id is installed already; nothing is
        changed then.
        """

    def retire_receive(self, session: int) -> None:
        """Forget a session: its keys are wiped as soon as the inbound thread has left them."""

    def install_channel(self, wire_id: Buffer) -> None:
        """Datagrams with this id are unpacked."""

    def install_control(self, wire_id: Buffer) -> None:
        """Datagrams with this id are EVENT_CONTROL: 1000 per second, 256 at once."""

    def remove(self, wire_id: Buffer) -> None:
        """Of a channel or control connection.  ValueError for the id of a lane."""

    def allow_source(self, sockaddr: Buffer) -> None:
        """Take direct long headers from there.  Again: no change."""

    def forbid_source(self, sockaddr: Buffer) -> None:
        """No longer.  KeyError if it wasn't allowed."""

    def counters(self) -> dict[str, int]:
        """By lower-case name of `drops.Statistic`, since the start."""

    def drops(self) -> dict[str, int]:
        """By lower-case name of `DropReason`, zero too."""

    def firewall_counters(self) -> FirewallCounters | None:
        """Since the last `set_firewall`; None without rules."""

    def bridge_counters(self) -> dict[str, int]:
        """near and far: stations known behind our bridge and behind members (some may be over), not_learned:
        those that found no place, reflected: loop probes of ours that the TAP brought back.
        """

    def features(self) -> dict[str, bool]:
        """Which features are in use now.

        join_tcp and join_udp are False for good once the TAP refused such a super-frame.  udp_gso is False
        while the last send of several datagrams was refused: GSO is then left for a while towards that
        destination, and only there.
        """

    def peer_refusals(self, peer: int) -> dict[str, Any]:
        """Frames of the peer that its MAC, its addresses or its rights refused, by reason; and under
        "example" (reason, MAC, 16 bytes of address) of one of them, or None if there was none since the last
        call. IPv4 addresses are ::ffff:a.b.c.d there, and :: stands for none.
        """

    def peer_counters(self, peer: int) -> dict[str, float]:
        """tx_frames tx_bytes rx_frames rx_bytes (bytes of Ethernet frames; a frame counts as sent when the
        kernel took it), next_number (of the lane, 0 without one), last_received (CLOCK_MONOTONIC seconds
        of the last authentic packet, 0.0 = never), path_received (of the last one that came from exactly
        where the route points, and as it says: directly or through a channel; 0.0 = none since it points
        there, or no route), failed_opens (largest of its live sessions; at 2^36 a session opens nothing any
        more), refused (the sum of `peer_refusals`), last_unicast (CLOCK_MONOTONIC seconds of the last frame
        to its MAC from the TAP, or from it to ours; 0.0 = never), stations (known behind it; some may be
        over).
        """
