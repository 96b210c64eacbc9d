"""Runs a command as a unit of ours would, as far as that goes without systemd.

    sandbox.py mounts UNIT -- COMMAND       in a mount namespace of its own, as root

Of the unit's settings it takes user, capabilities, NoNewPrivileges, SystemCallFilter,
RestrictAddressFamilies, RestrictNamespaces, MemoryDenyWriteExecute, ProtectSystem=strict,
ProtectKernelTunables and ReadWritePaths.  The rest it leaves out: what hides files and devices (ProtectHome,
PrivateTmp, PrivateDevices, DevicePolicy) and more.
Two stages: mounts as root, then, as the unit's user, the filter of system calls by libseccomp.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

DYNAMIC_USER = 61184
"""The first of those that systemd gives by DynamicUser."""
ALLOW, EPERM_RULE, EAFNOSUPPORT_RULE = 0x7FFF0000, 0x00050001, 0x00050061
EQ, MASKED_EQ = 4, 7
PROT_WRITE, PROT_EXEC = 2, 4
CLONE_NEWS = 0x7E020000
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}


def settings_of(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def groups() -> dict[str, list[str]]:
    """What systemd calls @system-service and the like: names of system calls, and of other groups."""
    command = ["systemd-analyze", "syscall-filter"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        word = line.split("#")[0].strip()
        if line.startswith("@"):
            name = word
            found[name] = []
        elif word and name:
            found[name].append(word)
    return found


def names_in(group: str, known: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    for word in known[group]:
        found |= names_in(word, known) if word.startswith("@") else {word}
    return found


def load_filter(settings: dict[str, list[str]]) -> None:
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = (ctypes.c_uint32,)
    lib.seccomp_load.argtypes = (ctypes.c_void_p,)
    lib.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Compare),
    )
    known_groups = groups()
    allowed: set[str] = set()
    for value in settings["SystemCallFilter"]:
        group = names_in(value.removeprefix("~"), known_groups)
        allowed = allowed - group if value.startswith("~") else allowed | group
    rules: list[tuple[str, tuple[_Compare, ...]]] = []
    if settings.get("MemoryDenyWriteExecute") == ["yes"]:
        both = PROT_WRITE | PROT_EXEC
        rules += [("mmap", (_Compare(2, MASKED_EQ, both, both),))]
        rules += [("mprotect", (_Compare(2, MASKED_EQ, PROT_EXEC, PROT_EXEC),))]
    if settings.get("RestrictNamespaces") == ["yes"]:
        for bit in (1 << n for n in range(32) if CLONE_NEWS >> n & 1):
            rules += [(name, (_Compare(0, MASKED_EQ, bit, bit),)) for name in ("clone", "unshare")]
        rules += [("setns", ())]
    load(lib, ALLOW, EPERM_RULE, rules)
    known = {FAMILIES[name] for name in settings["RestrictAddressFamilies"][0].split()}
    others = [number for number in range(46) if number not in known]
    load(lib, ALLOW, EAFNOSUPPORT_RULE, [("socket", (_Compare(0, EQ, number, 0),)) for number in others])
    # The last, as it allows no further one.
    load(lib, EPERM_RULE, ALLOW, [(name, ()) for name in sorted(allowed | {"execve"})])


def load(lib: ctypes.CDLL, default: int, action: int, rules: list[tuple[str, tuple[_Compare, ...]]]) -> None:
    context = lib.seccomp_init(default)
    for name, comparisons in rules:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # of another architecture
            continue
        array = (_Compare * max(1, len(comparisons)))(*comparisons)
        done = lib.seccomp_rule_add_array(context, action, number, len(comparisons), array)
        assert done == 0, (name, done)
    assert lib.seccomp_load(context) == 0, "seccomp_load"


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def protect(settings: dict[str, list[str]]) -> None:
    """Read-only but for what the unit names: a mount inside of another keeps its own mode."""
    closed = ["/"] + ["/proc/sys", "/sys"] * (settings.get("ProtectKernelTunables") == ["yes"])
    opened = " ".join(settings.get("ReadWritePaths", [])).replace("-/", "/").split()
    for folder in (*closed[1:], *(folder for folder in opened if os.path.exists(folder))):
        mount("--bind", folder, folder)
    assert settings["ProtectSystem"] == ["strict"]
    for folder in closed:
        mount("-o", "remount,bind,ro", folder)


def main() -> None:
    stage, unit, _, *command = sys.argv[1:]
    settings = settings_of(Path(unit))
    if stage == "filter":
        load_filter(settings)
        os.execvp(command[0], command)
    protect(settings)
    again = [sys.executable, __file__, "filter", unit, "--", *command]
    named = " ".join(settings["CapabilityBoundingSet"]).split()
    kept = ",".join(["-all", *(f"+{one.removeprefix('CAP_').lower()}" for one in named)])
    words = ["--bounding-set", kept, "--no-new-privs"]
    if settings.get("DynamicUser") == ["yes"]:
        user = ["--reuid", str(DYNAMIC_USER), "--regid", str(DYNAMIC_USER), "--clear-groups"]
        words = [*user, "--inh-caps", kept, "--ambient-caps", kept, *words]
    os.umask(0o077)
    os.execvp("setpriv", ["setpriv", *words, *again])


if __name__ == "__main__":
    main()
