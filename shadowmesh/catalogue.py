"""Every error that a person meets, by its id: why it comes, and what to do. Text only.

`ShadowMeshError.error_id` names an entry where it ends a command, `Failure.error_id` where the program goes
on; docs/errors.md is made from this table (`python -m shadowmesh.catalogue`), and
tests/unit/test_catalogue.py provokes each.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """For people, in Markdown."""

    cause: str
    remedy: str


ENTRIES: dict[str, Entry] = {
    # What was typed, and this program.
    "command.usage": Entry(
        "A verb, option or argument that is unknown, missing or out of its range.",
        "`VERB --help` shows what there is, with examples.",
    ),
    "command.refused": Entry(
        "The verb understood what was asked, and can't do it; its own words say why.",
        "Change the request as they say.",
    ),
    "command.terminal": Entry(
        "The verb draws on a terminal, and its input or output is none, or one that can't be drawn on.",
        "Run it on a terminal with `TERM` set; programs take `status --json` or the [local API](api.md).",
    ),
    "command.library": Entry(
        "The verb needs a library that is not installed with every copy of the package.",
        "Install it as the text says, into the environment of `shadowmesh-client`.",
    ),
    "program.bug": Entry(
        "Something that nobody foresaw: a fault of this program.",
        "Set `SHADOWMESH_DEBUG=1`, do it again, and report it with the traceback (`shadowmesh-client "
        "bugreport`).",
    ),
    "machine.memory": Entry(
        "The machine, or the limit of this process (`ulimit -v`, a cgroup), has no memory left.",
        "Stop other programs, or raise the limit.",
    ),
    "machine.resource": Entry(
        "A disk is full, read-only or broken, or there are no file descriptors or processes left.",
        "`df -h`, `mount`, `dmesg`, `ulimit -n` show which; the text names the file where there is one.",
    ),
    # Configuration.
    "config.unreadable": Entry(
        "A file that the command or the configuration names is not there, or may not be read.",
        "Check its path and its mode; run it with `sudo` where the file is root's.",
    ),
    "config.no-yaml": Entry(
        "The file is no YAML, is empty, too large or no text: the line is where the reader gave up.",
        "Put quotes around IPv6 addresses and texts with `: `; spaces indent, never tabs; start from "
        "`configs/`.",
    ),
    "config.unknown-key": Entry(
        "A key that does not exist at this place: misspelt, or indented too far or too little.",
        "Take the one that the text suggests; [configuration.md](configuration.md) has all of them.",
    ),
    "config.twice": Entry(
        "A key is given twice in one mapping; which one should count is not to be known.",
        "Remove one of the two lines that the text names.",
    ),
    "config.missing": Entry(
        "A key that has no default is not there.",
        "Add the line that the text shows as an example.",
    ),
    "config.value": Entry(
        "The value is of the wrong kind, form or range; the text says what it should be, with an example.",
        "Change the value; [configuration.md](configuration.md) has each key with its range.",
    ),
    "config.conflict": Entry(
        "Each value would be right alone, but not together: two that must differ, one that needs another.",
        "Change one of the two that the text names.",
    ),
    "config.own-id": Entry(
        "The list of relays or peers holds this machine's own NodeID.",
        "Remove it, or put in the NodeID that `shadowmesh-client id` prints **on the other machine**.",
    ),
    "config.no-relay": Entry(
        "There is no relay to meet the others at: neither `relays:` nor the network's file names one.",
        "Add `relays:` with address and NodeID (`shadowmesh-relay id`).",
    ),
    "config.own-domain": Entry(
        "A relay or its proxy is named in the members' own domain (`names.domain`), which only a network "
        "that is up already resolves.",
        "Give its IP address or another name; or set another `names.domain` ([names.md](names.md)).",
    ),
    "config.bridge": Entry(
        "`interface.bridge` can't be used: it is no bridge, or this member has not the right to be a bridge.",
        "Make it (`ip link add br0 type bridge`), or have the certificate signed with `--right bridge`;"
        " [bridging.md](bridging.md).",
    ),
    "config.group": Entry(
        "The group of `node.socket_group` does not exist on this machine, or may not be given to the socket.",
        "`groupadd NAME`, or name one that `getent group` shows.",
    ),
    "config.firewall-test": Entry(
        "A packet under `firewall.tests` is decided otherwise than it says, so the rules do not do what"
        " was meant.",
        "Change the rule that the text names, or the test; `firewall explain` shows how a packet is decided.",
    ),
    "config.token-file": Entry(
        "A file of admission tokens has a line that is no token, or too many or none.",
        "One token a line, 20 to 512 printable characters: `openssl rand -base64 32`.",
    ),
    "config.tls": Entry(
        "A certificate or key for TLS can't be used: damaged, of another kind, or they don't belong "
        "together.",
        "PEM files, the certificate with its chain; `openssl x509 -in FILE -noout -subject` shows what "
        "it is.",
    ),
    "config.library": Entry(
        "A library that was asked for (`aead_library:`, liboqs) can't be loaded or fails its self-test.",
        "Install it, correct its path, or leave it out: OpenSSL does the same.",
    ),
    # The identity of this machine.
    "identity.missing": Entry(
        "This machine has no identity yet, or `state_dir` is another folder than `init` used.",
        "`shadowmesh-client init` (or `shadowmesh-relay init`) makes one; it is never replaced.",
    ),
    "identity.file": Entry(
        "The identity's file can't be read, or is damaged. It is never overwritten.",
        "Restore it from a backup. Without one, move it away, `init` anew, and have the new NodeID "
        "signed or listed.",
    ),
    "identity.folder": Entry(
        "The folder of the identity can't be looked into or written.",
        "Run it with `sudo`, or give `--state-dir` a folder of your own.",
    ),
    "identity.mode": Entry(
        "Others can read the key's file, or change the folder: the key may be known.",
        "`chmod` as the text says; if others have had access to the machine, take a new identity.",
    ),
    "identity.owner": Entry(
        "The key's file belongs to another user than the one who runs the command.",
        "`chown` as the text says, or run it as that user.",
    ),
    "identity.two-holders": Entry(
        "Another machine runs with the same identity: a copied disk, image or folder.",
        "Give one of the two an identity of its own: remove its `identity.pem` and run `init` there.",
    ),
    # Interface, sockets, rights.
    "device.root": Entry(
        "Making a network interface takes the capability CAP_NET_ADMIN.",
        "Run it with `sudo`, or as the service does; `join --no-up` only writes the files.",
    ),
    "device.tun": Entry(
        "`/dev/net/tun` is not there, or may not be opened.",
        "`modprobe tun`; in a container, give it `--device /dev/net/tun --cap-add NET_ADMIN`.",
    ),
    "device.create": Entry(
        "The kernel does not make the interface: its name is taken, or the right is missing.",
        "Set another `interface.name`, or remove the old one: `ip link del NAME`.",
    ),
    "device.interface": Entry(
        "The interface was made, and the kernel refuses a setting of it, such as its MTU or a sysctl.",
        "The text names the step; a read-only `/proc/sys` in a container is a frequent reason.",
    ),
    "device.address": Entry(
        "An address of `interface.addresses` can't be put on the interface.",
        "See whether another interface has it (`ip addr`), or IPv6 is off (`sysctl "
        "net.ipv6.conf.all.disable_ipv6`).",
    ),
    "device.bridge": Entry(
        "The bridge of `interface.bridge` is not there, or is no bridge.",
        "`ip link add br0 type bridge && ip link set br0 up`, or correct the name.",
    ),
    "device.removed": Entry(
        "Somebody removed the interface while the client ran.",
        "Start it again; a service manager does so by itself. Exclude it from what tidies interfaces up.",
    ),
    "device.listen": Entry(
        "The port or address to listen on can't be had: another program has it, or the address is not "
        "of this machine.",
        "`ss -lunp` and `ss -ltnp` show who has it; set another, or `listen.port: 0`.",
    ),
    "device.socket": Entry(
        "The Unix socket or address of the local API, the metrics or the dashboard can't be served.",
        "Its folder must be there and writable, its path below 108 bytes, its port free.",
    ),
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
        "The relay gives no channel to the peer; its own words say why.",
        "It is tried again. If it stays, look at the limits of the relay ([operations.md](operations.md)), "
        "or use a second one.",
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
        "The other side refuses this machine, in its own words: it does not admit this NodeID or "
        "certificate, is full, or is not the node that is pinned here.",
        "At a relay, look at `admission` and the token; at a peer, at `peers:` and revocations; compare the "
        "pinned NodeID with what `id` prints there.",
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
    # Networks and their authority.
    "network.none": Entry(
        "The verb is about a network, and this client is in none: it only knows `peers:`.",
        "`join` by an invitation, or add `network:` with file and certificate.",
    ),
    "network.file": Entry(
        "The file is not the public part of a network, or is damaged.",
        "`shadowmesh-client network export` at the authority writes it anew.",
    ),
    "network.certificate": Entry(
        "The file is no membership certificate, or is damaged.",
        "Take the file that `network sign` wrote, or have it signed again.",
    ),
    "network.list": Entry(
        "The file is no revocation list of this network, is damaged, or its authority has another key "
        "by now.",
        "Take the file that `network revoke` or `network export` wrote last.",
    ),
    "network.delegation": Entry(
        "The file is no delegation, or is damaged.",
        "`network delegate` at the authority writes one.",
    ),
    "network.public-keys": Entry(
        "The file does not hold the public keys of a node.",
        "`shadowmesh-client id --public` on that node prints them.",
    ),
    "network.not-valid": Entry(
        "A certificate, list or delegation does not count: of another network or node, revoked, or not "
        "signed by the authority.",
        "The text says which; have it signed again at the authority (`network list`, `network sign`, "
        "`network renew`).",
    ),
    "network.kept": Entry(
        "What this machine keeps of the network in its `state_dir` is damaged.",
        "Restore the file, or remove it: the network's file and the other members tell the newest again.",
    ),
    "network.contradiction": Entry(
        "Two files tell of different successors of one authority's key: one is not from the authority.",
        "Ask who runs the authority for its newest `network export`, before anything is removed.",
    ),
    "network.another": Entry(
        "The file or the running client belongs to another network.",
        "Name the right file; a client changes its network by a restart only.",
    ),
    "network.clock-file": Entry(
        "The file `clock`, by which dates are held when the machine's clock goes back, is damaged.",
        "Check the clock (`date`), then remove the file.",
    ),
    "network.revoked": Entry(
        "The authority has revoked this machine, so nobody lets it in any more.",
        "If that was no mistake, nothing. Else it joins with a new identity: `invite create` at a member, "
        "`join` here.",
    ),
    "network.sign-again": Entry(
        "What this machine's certificate was signed by counts no longer, or not for long: the authority has "
        "a new key, or the delegation was revoked.",
        "`network renew` at the authority, and the new file here; `reload` takes it.",
    ),
    "network.expires": Entry(
        "This machine's certificate has expired, or will soon, and was not renewed by itself.",
        "`network renew` at the authority, and the new file here; or a member with a delegation "
        "(`network delegate`) that is connected.",
    ),
    "network.clock": Entry(
        "This machine's clock is wrong, by what it has seen itself or by a relay; dates of certificates are "
        "held against it.",
        "Set it, and have it kept: `systemctl enable --now systemd-timesyncd`, or chrony.",
    ),
    "network.list-old": Entry(
        "The newest revocation list that is known here is past its date. It counts all the same, but a newer "
        "one may be held back.",
        "`network spread` the authority's newest. If it has no newer one, `network revoke --serial N` of a "
        "certificate that was renewed since makes the next.",
    ),
    "network.peer-expired": Entry(
        "The certificate of a peer has expired; the session that runs with it ends a day after that.",
        "Have it renewed: `network renew` at the authority.",
    ),
    "network.no-forwarding": Entry(
        "The certificate makes this machine a gateway, and the kernel forwards nothing.",
        "`sysctl -w` the switch that the text names, and in `/etc/sysctl.d` ([routes.md](routes.md)).",
    ),
    "network.not-renewed": Entry(
        "It is time for a new certificate of this machine, and nobody has renewed it yet.",
        "Have a member with a delegation connected (`network delegate`), or renew it by hand: `network "
        "renew`.",
    ),
    "authority.missing": Entry(
        "There is no authority in this folder.",
        "Run it where `network create` ran, or give `--state-dir`.",
    ),
    "authority.exists": Entry(
        "There is an authority in this folder, and it is never replaced.",
        "Give `--state-dir` another folder for a second network.",
    ),
    "authority.damaged": Entry(
        "The authority's key or ledger is damaged or does not fit together.",
        "Restore the whole folder from a backup.",
    ),
    "authority.folder": Entry(
        "A file of the authority can't be read or written.",
        "Run it as the user who made it, or with `sudo`; check the disk.",
    ),
    "authority.passphrase": Entry(
        "The passphrase is wrong, too short, or there is nobody to ask for it.",
        "Give `--passphrase-file FILE` or `SHADOWMESH_PASSPHRASE`; it has 10 characters at least.",
    ),
    # Invitations.
    "invite.refused": Entry(
        "The client does not open or judge this invitation: the delegation is damaged or not for it, or"
        " no such node waits.",
        "`invite list` and `invite pending` show what there is; make the invitation anew.",
    ),
    "invite.no-relay": Entry(
        "No relay of this client takes invitations.",
        "The relay must be connected (`status`) and admit the network (`admission.networks` there).",
    ),
    "invite.not-taken": Entry(
        "This relay does not take the invitations: it serves other networks only, or has as many as it may.",
        "Add the network to `admission.networks` there, wait until some have ended, or invite through "
        "another relay.",
    ),
    "invite.file": Entry(
        "The file of open invitations is damaged.",
        "Remove it, and make the open invitations anew.",
    ),
    "join.token": Entry(
        "That is no token of an invitation, or a part of it is missing.",
        "Copy the whole line that `invite create` printed; it begins with `smesh1`.",
    ),
    "join.refused": Entry(
        "The inviting member refused: the invitation was used, has ended or was revoked, or a person "
        "said no.",
        "Ask for another; the word in brackets names the reason.",
    ),
    "join.unanswered": Entry(
        "The relay, or the inviting member behind it, did not answer.",
        "The inviting machine must run; `shadowmesh-client netcheck -c FILE` says whether this network "
        "lets UDP out.",
    ),
    "join.configured": Entry(
        "This machine has a configuration at that place, and it is never replaced.",
        "Remove it, or give `-c` another file for a second network.",
    ),
    "join.folder": Entry(
        "The files of the new member can't be written.",
        "Run it with `sudo`, or give `-c` and `--state-dir` folders of your own.",
    ),
    # The relay.
    "relay.running": Entry(
        "A relay with this identity or on this socket runs already.",
        "`shadowmesh-relay status` shows it; a second one takes a `state_dir`, socket and port of its own.",
    ),
    "relay.not-running": Entry(
        "No relay answers on the socket.",
        "`shadowmesh-relay serve -c relay.yaml`; with another `relay.socket`, give `-c` or `--socket`.",
    ),
    "relay.socket": Entry(
        "The relay's socket belongs to its user.",
        "Use `sudo`, or run it as that user.",
    ),
    "relay.no-answer": Entry(
        "The relay is there and does not answer.",
        "Its log says why; `systemctl restart shadowmesh-relay` ends it.",
    ),
    "relay.refused": Entry(
        "The relay refused what was asked, such as a configuration with a mistake; it goes on as before.",
        "The text has its words.",
    ),
    "relay.cluster": Entry(
        "The relay is not connected to a NATS server of its `cluster:`, so its clients meet only each other.",
        "See whether the server runs and lets the relay in (`cluster.nats`, `ca`, `key`); it is tried again.",
    ),
    "relay.stopping": Entry(
        "The relay was told to end and has not ended in time.",
        "Its log says what it waits for.",
    ),
}


def page() -> str:
    """docs/errors.md."""
    rows = [f"| `{name}` | {entry.cause} | {entry.remedy} |" for name, entry in ENTRIES.items()]
    return HEAD + "\n".join(rows) + "\n"


HEAD = """# Errors

Made from shadowmesh/catalogue.py by `python -m shadowmesh.catalogue > docs/errors.md`.

The text of an error ends in the id of its kind in brackets, also in JSON. What ends a command is told on
standard error, one line for each mistake:

```text
shadowmesh-client: client.yaml:7: node.name: is missing; for example: name: alice [config.missing]
```

The exit code tells its kind too ([cli.md](cli.md#exit-codes)). What goes wrong while a client runs is told by
`status`, `peers`, `why`, `netcheck`, `top`, the dashboard and the [local API](api.md), and in the log:

```text
  relay.example.net:4433: nothing answered [link.no-answer]
```

What stands before the id may be the words of another machine, which choose no id: the last bracket counts.
Why packets are dropped has a [table of its own](cli.md#why-packets-are-dropped).

| id | why it comes | what to do |
|---|---|---|
"""

if __name__ == "__main__":
    print(page(), end="")
