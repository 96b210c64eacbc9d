# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""The relay's data plane: forwarder threads, and the tables that Python installs for it.

Arguments and errors as in engine.pyi.  Clients are numbered 0..2^64-1.
"""

from collections.abc import Iterable

from typing_extensions import Buffer

from shadowmesh._ext.drops import DropReason as DropReason
from shadowmesh._ext.lanes import SendKeys as SendKeys
from shadowmesh._ext.ring import Event as Event

EVENT_LONG_HEADER: int
EVENT_CONTROL: int
EVENT_ENDPOINT: int
MOST_THREADS: int

class Forwarder:
    """Data plane of one relay.  Use from one thread; watch `fileno()`, then call `poll()`."""

    def __init__(
        self, udp_fd: int, event_fd: int, *more_fds: int, features: Iterable[str] | None = None
    ) -> None:
        """`udp_fd`: bound UDP socket, IPv4 or IPv6; duplicated, as in `Engine`.

        `more_fds`: further sockets on the same port, with a thread for each; MOST_THREADS in all.

        `features`: None uses what the kernel offers of udp_gso and udp_gro; else only these.
        """

    def start(self) -> None:
        """Start the threads.  ValueError the second time or after `stop`."""

    def stop(self) -> None:
        """Stop and join the threads.  May be called again, or without `start`."""

    def fileno(self) -> int:
        """The event_fd that was given."""

    def poll(self) -> list[Event]:
        """As `Engine.poll`.  EVENT_ENDPOINT (handle = client) says that a client proved a new address."""

    def turns(self) -> tuple[int, ...]:
        """By socket: how often its thread began or ended a batch; odd within one. See `Engine.turns`."""

    def set_limits(self, *, packet_rate: int = 0, byte_rate: int = 0) -> None:
        """What each client may have forwarded per second, a tenth of a second at once; 0: no limit.

        At most 10^9 packets and 10^11 bytes.  Counts from the next datagram on, also for clients that are
        there already.
        """

    def add_client(self, client: int, sockaddr: Buffer, *, thread: int = 0) -> None:
        """A client whose endpoint is `sockaddr`, until a BIND proves another.

        `thread`, by the number of its socket, handles what the client sends.  What comes to another socket is
        handed over; it costs less if the ids that are installed for the client lead to this one.
        """

    def remove_client(self, client: int) -> None:
        """With its sessions and every channel from or to it."""

    def set_lane(
        self, client: int, keys: SendKeys, lane: int, receiver_id: Buffer, *, first_number: int = 0
    ) -> None:
        """Seal BOUND for this client with (keys, lane).  Without a lane a BIND is dropped as no_route."""

    def install_receive(self, client: int, ids: Iterable[Buffer], material: Buffer) -> None:
        """Accept BINDs in lanes 0..len(ids)-1 (1..64).  Earlier receive keys stay until `retire_receive`."""

    def retire_receive(self, client: int) -> None:
        """Forget all receive keys of this client but the newest."""

    def install_channel(self, wire_id: Buffer, from_client: int, to_client: int, to_id: Buffer) -> None:
        """A datagram with `wire_id` goes to `to_client`, wherever it is then, with `to_id` instead."""

    def install_control(self, wire_id: Buffer) -> None:
        """Datagrams with this id are EVENT_CONTROL: 1000 per second, 256 at once."""

    def remove(self, wire_id: Buffer) -> None:
        """Of a channel or control connection.  ValueError for the id of a lane."""

    def endpoint(self, client: int) -> bytes:
        """Raw sockaddr of where the client is."""

    def client_counters(self, client: int) -> dict[str, float]:
        """rx_packets rx_bytes (channel datagrams from it), tx_packets tx_bytes (channel datagrams and BOUND
        to it), refused (channel datagrams from it beyond its limits), next_number, last_bind
        (CLOCK_MONOTONIC seconds of the last BIND from its endpoint, 0.0 = never), failed_opens.
        """

    def counters(self) -> dict[str, int]:
        """By lower-case name of `drops.Statistic`, since the start."""

    def features(self) -> dict[str, bool]:
        """As `Engine.features`: udp_gso and udp_gro."""

    def thread_counters(self) -> list[dict[str, int]]:
        """Of each thread: clients that it owns, rx_datagrams, tx_datagrams, and of those received how many it
        handed_over because another one owns their client.
        """

    def drops(self) -> dict[str, int]:
        """By lower-case name of `DropReason`, zero too."""
