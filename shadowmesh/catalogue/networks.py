"""What has to do with a network, its authority and invitations, and with relays. Text only."""

from __future__ import annotations

from shadowmesh.catalogue.entry import Entry

NETWORKS: dict[str, Entry] = {
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
        "A certificate, list or delegation does not count: of another network or node, expired, revoked, or "
        "not signed by the authority.",
        "The text says which; have it signed again at the authority (`network list`, `network sign`, "
        "`network renew`, `network delegate`).",
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
        "The certificate of a peer has expired, or will within a day; the session that runs with it ends "
        "a day after that.",
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
    "relay.draining": Entry(
        "The relay was told to `drain`: it admits nobody, and ends when its clients have gone elsewhere.",
        "Nothing; it takes clients again once it is started anew.",
    ),
    "relay.stopping": Entry(
        "The relay was told to end and has not ended in time.",
        "Its log says what it waits for.",
    ),
}
