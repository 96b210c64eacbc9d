"""/etc/resolv.conf with our resolver in front, where somebody asked for that; and as it was, afterwards.

libc asks the servers of the file in turn, and the next one where one refuses.  So ours is put first, refuses
everything but its own domain, and the others stay what they were; it forwards nothing. It is a loopback
address: if this process dies, the kernel says at once that nobody listens there, and libc goes on without a
pause.

What was there is written down before, so that the next start gives back what a crash has left. A file that is
not as we left it is somebody else's, and is left alone. The file is written in place: it keeps owner, mode
and label, and may be mounted (in containers it is).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import DeviceError
from shadowmesh.io.documents import replace_file

log = logging.getLogger("shadowmesh")

RESOLV_CONF = Path("/etc/resolv.conf")
SERVER = "127.0.77.53"
"""Where our resolver listens besides for this: every address of 127/8 is this machine's."""
NOTE_FILE = "resolv.conf"
"""In the state directory."""
MAX_FILE = 64 << 10
_MARK = "# ShadowMesh: answers for its own domain only, refuses the rest; these two lines go when it ends."
_HEAD = f"{_MARK}\nnameserver {SERVER}\n"


class _Note(msgspec.Struct):
    before: str
    ours: str


def put_first(state_dir: Path) -> None:
    """Put our resolver before the others. Raises DeviceError, and nothing is changed then."""
    before = _read()
    problem = _problem(before)
    if problem:
        raise DeviceError(f"{RESOLV_CONF} {problem}, so it is left alone")
    note = _Note(before, _HEAD + before)
    path = state_dir / NOTE_FILE
    try:
        replace_file(path, msgspec.json.encode(note), 0o600)
        _write(note.ours)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise DeviceError(f"{RESOLV_CONF} can't be written: {error.strerror}") from error


def is_ours() -> bool:
    """Whether our resolver is still in the file."""
    try:
        return _HEAD in _read()
    except DeviceError:
        return False


def give_back(state_dir: Path) -> None:
    """Undo `put_first`, also that of a client before this one; tells the log what could not be done."""
    path = state_dir / NOTE_FILE
    try:
        with path.open("rb") as file:
            note = msgspec.json.decode(file.read(4 * MAX_FILE), type=_Note)
        now = _read()
        if now == note.ours:
            _write(note.before)
            log.info("%s is as it was", RESOLV_CONF)
        elif _HEAD in now:
            line = "%s was changed by somebody else and is left alone; take `nameserver %s` out [names.left]"
            log.warning(line, RESOLV_CONF, SERVER)
        path.unlink()
    except FileNotFoundError:
        pass
    except DeviceError as error:
        log.warning("%s; what was in it is in %s [names.left]", error, path)
    except (OSError, *UNDECODABLE) as error:
        log.warning("%s can't be given back as %s has it: %s [names.left]", RESOLV_CONF, path, error)


@contextlib.contextmanager
def given_back(state_dir: Path) -> Iterator[None]:
    """`give_back` for a client before this one, and, whatever happens, for this one."""
    give_back(state_dir)
    try:
        yield
    finally:
        give_back(state_dir)


def _problem(text: str) -> str:
    """Why our server can't be put there."""
    if f"nameserver {SERVER}\n" in text:
        return "has a line of a ShadowMesh client already; take it out"
    if not re.search(r"^nameserver\s", text, re.MULTILINE):
        return "names no server that others could be asked"
    if re.search(r"^options\s.*\brotate\b", text, re.MULTILINE):
        return "says `options rotate`, with which no server is asked first"
    return ""


def _read() -> str:
    """Raises DeviceError if it is no plain file that somebody could have written by hand."""
    try:
        if RESOLV_CONF.is_symlink():
            target = os.readlink(RESOLV_CONF)
            raise DeviceError(f"{RESOLV_CONF} is a link to {target}: another program writes it")
        fd = os.open(RESOLV_CONF, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            data = file.read(MAX_FILE + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        if not data or len(data) > MAX_FILE:
            raise DeviceError(f"{RESOLV_CONF} is no plain file of a usual size")
        return data.decode()
    except OSError as error:
        raise DeviceError(f"{RESOLV_CONF} can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise DeviceError(f"{RESOLV_CONF} is no text") from None


def _write(text: str) -> None:
    """In place, the new text in one call: no reader meets an empty file."""
    fd = os.open(RESOLV_CONF, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        data = text.encode()
        if os.pwrite(fd, data, 0) != len(data):
            raise OSError(28, "the disk is full")
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
