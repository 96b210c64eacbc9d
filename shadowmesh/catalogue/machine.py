"""What has to do with what was typed, with the configuration, and with the machine itself. Text only."""

from __future__ import annotations

from shadowmesh.catalogue.entry import Entry

MACHINE: dict[str, Entry] = {
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
        "A disk is full, read-only or broken, or there are too few file descriptors or processes.",
        "`df -h`, `mount`, `dmesg`, `ulimit -n` show which; the text names the file where there is one. "
        "`LimitNOFILE=` in a unit allows more descriptors.",
    ),
    "machine.netlink": Entry(
        "The kernel can't be asked for interfaces, addresses and routes, or told to change them: no "
        "descriptor, thread or memory is left, or a sandbox forbids netlink.",
        "Look at `ulimit -n`, the memory, and `RestrictAddressFamilies=` of a unit of your own. It is "
        "tried again; where the text says that there is no news, restart the client after a change of the "
        "network.",
    ),
    "machine.manager": Entry(
        "The service manager does not take what it should be told: that the program is ready, or works.",
        "See whether the socket that the text names (`NOTIFY_SOCKET`) is there: a container needs it "
        "mounted. `Type=notify` and `WatchdogSec=` can't work without it.",
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
        "`interface.bridge` is set, and this member has not the right to be a bridge.",
        "Have the certificate signed with `--right bridge`; [bridging.md](bridging.md).",
    ),
    "config.group": Entry(
        "The group of `node.socket_group` does not exist on this machine, may not be given to the socket, "
        "or can't enter the socket's folder.",
        "`groupadd NAME`, or name one that `getent group` shows; open the folder as the text says.",
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
    "config.doubtful": Entry(
        "A setting is allowed, and looks like a mistake; the text says why.",
        "Change it, if it is not meant.",
    ),
    "config.pending": Entry(
        "A file has changed, and what it says by now does not count yet.",
        "Restart the client or relay for the keys that the text names; `reload` takes over a newer "
        "certificate.",
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
    # What else is kept in `state_dir`.
    "state.ignored": Entry(
        "A file that makes a start faster, or tidies up after a crash, is damaged, can't be read, or "
        "others could change it: it is not used.",
        "Nothing: it is written anew. If it comes again, see who writes into `state_dir`, and whether the "
        "disk is sound (`dmesg`).",
    ),
    "state.not-kept": Entry(
        "A file that the program keeps can't be written; what it holds is lost when the program ends.",
        "Make room (`df -h`), or give the folder back to the user who runs it (`ls -ld`); a unit of your "
        "own needs it in `ReadWritePaths=`.",
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
        "The text names the step; see what of it the kernel or the container forbids.",
    ),
    "device.settings": Entry(
        "`/proc/sys` is read-only, as in a container: the interface keeps what the kernel gives new ones.",
        "[Containers](operations.md#containers) tells what each changes, and what `--sysctl` can set.",
    ),
    "device.address": Entry(
        "An address of `interface.addresses` can't be put on the interface.",
        "See whether another interface has it (`ip addr`), or IPv6 is off (`sysctl "
        "net.ipv6.conf.all.disable_ipv6`).",
    ),
    "device.bridge": Entry(
        "The bridge of `interface.bridge` is not there, is no bridge, or is down.",
        "`ip link add br0 type bridge && ip link set br0 up`, or correct the name. The unit tries again by "
        "itself, so that a bridge may come later when the machine boots.",
    ),
    "device.removed": Entry(
        "Somebody removed the interface while the client ran.",
        "Start it again; a service manager does so by itself. Exclude it from what tidies interfaces up.",
    ),
    "device.down": Entry(
        "The client runs, and its interface is down or gone: no frame comes or goes.",
        "`ip link set NAME up`; see who set it down. If it is gone, start the client again.",
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
}
