"""What a client that runs tells of itself, its links and its paths. Text only."""

from __future__ import annotations

from shadowmesh.catalogue.entry import Entry

RUNNING: dict[str, Entry] = {
    # The running client, and the peers.
    "client.running": Entry(
        "A client with this identity or on this socket runs already.",
        "`shadowmesh-client status` shows it, `down` ends it; a second network takes a `state_dir`, "
        "socket and interface of its own.",
    ),
    "client.not-running": Entry(
        "No client answers on the socket: it was not started, has ended, or has another socket.",
        "`shadowmesh-client up -c client.yaml`; the log says why one ended. With another `node.socket`,"
        " give `-c` or `--socket`.",
    ),
    "client.forbidden": Entry(
        "This user may not open the client's socket, or may only read from it and asked for a change.",
        "Use `sudo`; to let a group read without it, set `node.socket_group` ([api.md](api.md#access)).",
    ),
    "client.no-answer": Entry(
        "The client is there, and does not answer, or fails.",
        "Its log says why; if it hangs, `systemctl restart shadowmesh-client` ends it.",
    ),
    "peer.unknown": Entry(
        "No peer has this name, address or NodeID.",
        "`shadowmesh-client peers` lists them; the beginning of a NodeID takes 10 characters.",
    ),
    "peer.no-reply": Entry(
        "There is no session with the peer, or its answer did not come in time.",
        "`shadowmesh-client why PEER` says what stands in the way.",
    ),
    "peer.absent": Entry(
        "No relay that both sides use knows of the peer: it is down, or does not list this machine, or its "
        "relays are others.",
        "Look at `status` there: both must list each other, or be members of one network, and have a "
        "relay in common.",
    ),
    "peer.no-relay": Entry(
        "This machine is connected to no relay, and so meets nobody.",
        "Look for the ids of the relays in `status`; `shadowmesh-client netcheck` tries them.",
    ),
    "peer.no-channel": Entry(
        "The relay gives no channel to the peer, has closed it, or is lost; the words before the id say why.",
        "It is tried again. If it stays, look at the limits of the relay ([operations.md](operations.md)), "
        "or use a second one.",
    ),
    "peer.frames-refused": Entry(
        "Frames of the peer claim what is not the peer's, or what it has no right to: a guard dropped them.",
        "The text says what they claim: allow it, if it is meant, or see what runs there "
        "([guards.md](guards.md)).",
    ),
    # Links with relays and peers, as `status`, `peers`, `why` and `netcheck` show them. All are tried again.
    "link.unresolved": Entry(
        "The relay's name can't be looked up, or has no address of a family that this machine uses.",
        "`getent hosts NAME` shows what this machine knows; correct the name or the resolver, or give its IP "
        "address in `relays:`.",
    ),
    "link.no-answer": Entry(
        "Nothing answers, or no longer: the other side is down or elsewhere, or something on the way "
        "drops UDP.",
        "See whether it runs and its UDP port is open; `shadowmesh-client netcheck` says whether this "
        "network lets UDP out. Where it never will, `relays[].tcp` helps.",
    ),
    "link.tcp": Entry(
        "Neither UDP nor TCP leads to the relay; behind `over TCP` stands what became of that: a proxy, "
        "a web server or a certificate that is not the relay's.",
        "Compare `tcp`, `tls` and `proxy` of `relays[]` with the relay's; `curl -v https://HOST:PORT/` "
        "shows who answers there.",
    ),
    "link.refused": Entry(
        "The other side refuses this machine, in its own words: it does not admit this NodeID, "
        "certificate or invitation, is full, or is not the node that is pinned here.",
        "At a relay, look at `admission` and the token; at a peer, at `peers:` and revocations; compare the "
        "pinned NodeID with what `id` prints there. At `join`, see whether the inviting machine runs and its "
        "`invite list` still has the invitation; else ask for another.",
    ),
    "link.refused-here": Entry(
        "This machine refuses the other side: it is not the node that is pinned, its certificate does not "
        "count, or its release has no protocol version in common with this one.",
        "Compare the pinned NodeID with what `id` prints there, its certificate with `network list`, "
        "both clocks, and `version` on both sides. If all agree, somebody is in between.",
    ),
    "link.protocol": Entry(
        "One side sent in the session what the other does not take.",
        "Take the same release on both sides (`version`); if they are the same, report it with "
        "`shadowmesh-client bugreport`.",
    ),
    "link.transport": Entry(
        "QUIC or TLS ended the link: after a long silence, because something else than ShadowMesh or another "
        "release answers there, or because the packets are tampered with.",
        "See what listens on that port, and compare `version` on both sides.",
    ),
    "link.ended": Entry(
        "One side ended the link in order: it stops or starts anew, or a newer session took its place.",
        "Nothing, if it is back in a minute; else see whether the other side runs.",
    ),
    "link.two-holders": Entry(
        "The relay says that two machines hold this identity. Where all relays say so, the client "
        "ends by `identity.two-holders`.",
        "Give one of two machines an identity of its own; if there is but one, do not trust that relay.",
    ),
    # Paths to peers, as `why` explains them: frames go through a relay meanwhile.
    "path.off": Entry(
        "Direct paths are switched off, here or at the peer: by `paths.direct: never`, or `static` "
        "without an `endpoint:`.",
        "Set `paths: {direct: auto}` on the side that the text names, or name an endpoint.",
    ),
    "path.trying": Entry(
        "Addresses of the peer are being tried just now.",
        "Ask again in some seconds.",
    ),
    "path.too-narrow": Entry(
        "The peer answers small packets directly, and large ones are lost on the way.",
        "Look for a tunnel or a firewall with a small MTU on the way, or one that drops fragments.",
    ),
    "path.unanswered": Entry(
        "No address of the peer answers: something drops UDP between the two.",
        "Let UDP through at the firewalls of both sides, or forward a UDP port in one router and name it "
        "as `endpoint:` on the other side ([nat.md](nat.md)).",
    ),
    "path.nat": Entry(
        "Both NATs are such that neither side can know where to write.",
        "Turn on UPnP, NAT-PMP or PCP in one router, forward a UDP port there and name it as `endpoint:` "
        "on the other side, or use IPv6 ([nat.md](nat.md)).",
    ),
    "path.tcp": Entry(
        "UDP to the relay is blocked, so the way to the peer runs over TCP, which is slower.",
        "Let UDP to the relay that the text names out of this network.",
    ),
    # Names, routes and the bridge of a client that runs.
    "names.not-served": Entry(
        "The resolver of members' names does not run: there is no overlay address, or port 53 is taken or "
        "forbidden, and 1053 too (with `names.host: resolv.conf` it takes no other).",
        "`ss -lnp sport = 53` shows who has it: have that program listen on other addresses ("
        "[names.md](names.md#resolvers-of-your-own)). Where the client may not listen below 1024, take the "
        "[drop-in](names.md#ports-below-1024). Or set `names.serve: off`.",
    ),
    "names.no-resolved": Entry(
        "systemd-resolved does not run here, and nothing else was told to ask for members' names.",
        "`systemctl enable --now systemd-resolved`, `names.host: resolv.conf`, or a line in "
        "[your own resolver](names.md#resolvers-of-your-own).",
    ),
    "names.resolved": Entry(
        "systemd-resolved or its `resolvectl` does not take what the client tells it; the text has its "
        "words.",
        "`resolvectl status` and `journalctl -u systemd-resolved` say why; it is tried again.",
    ),
    "names.unasked": Entry(
        "systemd-resolved knows of members' names, but programs of this machine ask other servers.",
        "Link `/etc/resolv.conf` to the file that the text names.",
    ),
    "names.bridge": Entry(
        "The overlay addresses are on `interface.bridge`, whose resolver the client leaves alone.",
        "Set it by hand: `resolvectl dns` and `resolvectl domain` ([names.md](names.md#systemd-resolved)).",
    ),
    "names.resolv-conf": Entry(
        "`names.host` is `resolv.conf`, and the file can't be used: it may not be written, another program "
        "writes it, or it says what rules our line out.",
        "Allow or change it as the text says, or set `names.host: none` and add a line to "
        "[your own resolver](names.md#resolvers-of-your-own).",
    ),
    "names.changed": Entry(
        "Somebody changed `/etc/resolv.conf` after the client had put its line there.",
        "Restart the client to have the line again; or find who writes the file, and give it the line.",
    ),
    "names.left": Entry(
        "`/etc/resolv.conf` could not be put back as it was before the client: somebody has changed it "
        "since, or it can't be read or written.",
        "Take the line `nameserver 127.0.77.53` out; the former content is in the file that the text "
        "names, if it names one.",
    ),
    "route.refused": Entry(
        "A route of `routes:` is not used: its gateway may not carry it, it would swallow an address "
        "that the overlay itself needs, or the kernel refuses it.",
        "The text says which: put the prefix into the gateway's certificate or `peers[].routes`, or choose a "
        "smaller one ([routes.md](routes.md)).",
    ),
    "bridge.loop": Entry(
        "What the client sent into `interface.bridge` came back another way: there is a loop, and its "
        "port is blocked.",
        "Let one of the members that the text names out of that network, or mend its cabling "
        "([bridging.md](bridging.md)).",
    ),
    "tracing.collector": Entry(
        "What listens at `tracing.otlp` does not take the traces, or nothing does.",
        "See whether the collector runs and takes OTLP over HTTP at that URL "
        "([operations.md](operations.md#traces)). Nothing else waits for it.",
    ),
}
