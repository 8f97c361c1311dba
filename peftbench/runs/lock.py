"""A claim on a folder: held by one process at a time, also over a shared file system.

Two things hold it together. The lock of the operating system (``flock``) is exact and is freed the
moment its holder ends, however it ends; one machine needs nothing else. Between machines it is
exact only where the file system shares it (NFS since Linux 2.6.12, Lustre mounted with ``flock``),
and some mounts keep it to each machine without saying so. So the file is also made atomically (a
hard link to a file that is already locked and filled), it names its holder, and the holder touches
it every ``BEAT_S`` seconds. A claim of another machine is taken over only when the lock is free
and it was not touched for ``STALE_S`` seconds by the clock of the file system. Who was taken over
while it stood still (a suspended laptop) learns it before it writes its result.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RunLockedError

BEAT_S = 10.0
STALE_S = 60.0
SETTLE_S = 1.0  # after taking over from another machine: whoever wrote last has it
TRIES, PAUSE_S = 5, 0.02  # a look at a lock holds it for a moment
UNSHARED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
UNLINKED = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class Claim:
    """A claim that this process holds; see :func:`held`."""

    def __init__(self, file: Path, handle: int, token: str) -> None:
        """Keep what was acquired and begin to touch the file."""
        self.file, self.token = file, token
        self._handle = handle
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._touch, daemon=True, name="claim")
        self._beat.start()

    def check(self) -> None:
        """Make sure that nobody took the claim over.

        Raises:
            RunLockedError: another process did, while this one stood still.

        """
        who = _read(self.file)
        if who.get("token") != self.token:
            raise RunLockedError(
                f"{self.file.parent} was taken over by {_name(who)} while this process stood still"
            )

    def release(self) -> None:
        """Give the claim back."""
        self._over.set()
        self._beat.join()
        if _read(self.file).get("token") == self.token:
            self.file.unlink(missing_ok=True)
        os.close(self._handle)

    def _touch(self) -> None:
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self._handle)


@contextmanager
def held(file: Path) -> Iterator[Claim]:
    """Hold the lock ``file`` in an existing folder; the file is removed on leaving.

    Raises:
        RunLockedError: somebody else holds it; the text says which process, where, since when.

    """
    claim = _acquire(file)
    try:
        yield claim
    finally:
        claim.release()


def holder(file: Path) -> str | None:
    """Return who holds the lock ``file``, in words; None if nobody does. Nothing is changed."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        works = flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        who = _parsed(os.pread(handle, 4096, 0))
        return None if _abandoned(handle, file, who, works) else _name(who)
    except BlockingIOError:
        return _name(_parsed(os.pread(handle, 4096, 0)))
    finally:
        os.close(handle)


def flock(handle: int, operation: int) -> bool:
    """Lock an open file; False where the file system has no such locks.

    Raises:
        BlockingIOError: it is locked by another, and ``operation`` does not wait.

    """
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in UNSHARED:
            raise
        return False
    return True


def _acquire(file: Path) -> Claim:
    """Claim ``file``, or raise :class:`RunLockedError`."""
    token = uuid.uuid4().hex
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "token": token,
    }
    who: Mapping[str, Any] = {}
    for _ in range(TRIES):
        handle = _made(file, me)
        if handle is None:
            handle, who = _taken_over(file, me)
        if handle is not None:
            return Claim(file, handle, token)
        time.sleep(PAUSE_S)
    raise RunLockedError(
        f"{file.parent} is being worked on by {_name(who)}; wait for it or stop it"
    )


def _made(file: Path, me: Mapping[str, Any]) -> int | None:
    """Make the file, locked and filled from its first moment; None if there is one."""
    handle, name = tempfile.mkstemp(prefix=".lock.", suffix=".tmp", dir=file.parent)
    try:
        os.fchmod(handle, 0o666)
        flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write(handle, me)
        os.link(name, file)
        return handle
    except FileExistsError:
        os.close(handle)
    except FileNotFoundError:  # who holds the run cleared temporary files away
        os.close(handle)
    except OSError as error:
        os.close(handle)
        if error.errno not in UNLINKED:
            raise
        return _made_without_links(file, me)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return None


def _made_without_links(file: Path, me: Mapping[str, Any]) -> int | None:
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _write(handle, me)
    return handle


def _taken_over(file: Path, me: Mapping[str, Any]) -> tuple[int | None, Mapping[str, Any]]:
    """Take the file of a holder that is gone; else return None and what it says of its holder."""
    try:
        handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, {}
    who = _parsed(os.pread(handle, 4096, 0))
    try:
        works = flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        who = _parsed(os.pread(handle, 4096, 0))
        if _same_file(handle, file) and _abandoned(handle, file, who, works):
            _write(handle, me)
            if _here(who) and works:
                return handle, who
            time.sleep(SETTLE_S)
            if _read(file).get("token") == me["token"]:
                return handle, who
    except BlockingIOError:
        pass
    os.close(handle)
    return None, who


def _abandoned(handle: int, file: Path, who: Mapping[str, Any], works: bool) -> bool:
    """Tell whether the holder of a file whose lock is free for us is gone."""
    if works and _here(who):
        return True
    return _now(file.parent) - os.fstat(handle).st_mtime > STALE_S


def _here(who: Mapping[str, Any]) -> bool:
    return (who.get("host"), who.get("boot")) == (socket.gethostname(), _boot())


def _now(folder: Path) -> float:
    """Return the time by the clock of the folder's file system."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # a folder of somebody else
        return time.time()


def _boot() -> str:
    """Return what tells machines of one name apart, and a machine from itself before a restart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(uuid.getnode())


def _write(handle: int, who: Mapping[str, Any]) -> None:
    text = json.dumps(who).encode()
    os.pwrite(handle, text, 0)
    os.ftruncate(handle, len(text))
    os.fsync(handle)


def _read(file: Path) -> dict[str, Any]:
    try:
        return _parsed(file.read_bytes())
    except OSError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        who = json.loads(content)
    except ValueError:
        return {}
    return who if isinstance(who, dict) else {}


def _same_file(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _name(who: Mapping[str, Any]) -> str:
    if {"pid", "host", "since"} <= who.keys():
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    return "another process"
