"""A lock between processes that the operating system frees when its holder ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RunLockedError


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold the lock ``file`` in an existing folder; the file is removed on leaving.

    Raises:
        RunLockedError: somebody else holds it; the text says which process, where, since when.

    """
    handle = _acquire(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def _acquire(file: Path) -> int:
    """Lock ``file`` and return its descriptor, or raise :class:`RunLockedError`."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(os.read(handle, 4096))
            os.close(handle)
            raise RunLockedError(
                f"{file.parent} is being worked on by {holder}; wait for it or stop it"
            ) from None
        if _same_file(handle, file):
            break
        os.close(handle)  # the former holder removed it between our open and our lock
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": _stamp()}
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps(who).encode())
    return handle


def _same_file(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _holder(content: bytes) -> str:
    try:
        who = json.loads(content)
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _stamp() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")
