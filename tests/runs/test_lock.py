"""A claim: exact on one machine; between machines by its heartbeat where locks are not shared."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time

import pytest

from peftbench.errors import RunLockedError
from peftbench.runs import lock
from peftbench.runs.lock import held, holder


@pytest.fixture
def file(tmp_path):
    return tmp_path / ".lock"


@pytest.fixture
def unshared(monkeypatch):
    """A file system that keeps locks to each machine: here, every lock is free."""
    monkeypatch.setattr(fcntl, "flock", lambda handle, operation: None)
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)


def elsewhere(monkeypatch, name="other"):
    """Be another machine from now on."""
    monkeypatch.setattr(lock.socket, "gethostname", lambda: name)


def aged(file, seconds):
    past = time.time() - seconds
    os.utime(file, (past, past))


def test_who_holds_it_is_known_without_disturbing_it(file):
    assert holder(file) is None
    with held(file):
        assert f"process {os.getpid()} on " in holder(file)
        with pytest.raises(RunLockedError, match=f"process {os.getpid()}"), held(file):
            raise AssertionError
    assert holder(file) is None and not file.exists()


def test_what_a_killed_process_of_this_machine_left_is_free_at_once(file):
    code = f"""
import os, signal
from pathlib import Path
from peftbench.runs.lock import held
with held(Path({str(file)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert file.exists() and holder(file) is None
    with held(file):
        assert json.loads(file.read_text())["pid"] == os.getpid()


def test_another_machine_is_believed_while_its_claim_is_fresh(file, unshared, monkeypatch):
    with held(file) as claim:
        elsewhere(monkeypatch)
        assert holder(file) is not None
        with pytest.raises(RunLockedError), held(file):
            raise AssertionError
        aged(file, lock.STALE_S - 5)
        assert holder(file) is not None
        claim.check()


def test_a_claim_that_another_machine_left_is_taken_over_when_it_is_stale(
    file, unshared, monkeypatch
):
    """And its old holder, which only stood still, learns it before it writes a result."""
    with held(file) as claim:
        aged(file, lock.STALE_S + 5)
        here = lock.socket.gethostname()
        elsewhere(monkeypatch)
        assert holder(file) is None
        with held(file) as taken:
            taken.check()
            with pytest.raises(RunLockedError, match=r"was taken over by process .* on other"):
                claim.check()
            elsewhere(monkeypatch, here)
        assert not file.exists()


def test_of_two_that_take_over_at_once_the_last_to_write_has_it(file, unshared, monkeypatch):
    file.write_text(json.dumps({"host": "gone", "boot": "x", "pid": 1, "since": "then"}))
    aged(file, 2 * lock.STALE_S)

    def another_writes(seconds):
        if seconds == lock.SETTLE_S:
            file.write_text(json.dumps({"host": "third", "pid": 2, "since": "now", "token": "t"}))

    monkeypatch.setattr(lock.time, "sleep", another_writes)
    with pytest.raises(RunLockedError, match="process 2 on third"), held(file):
        raise AssertionError
    assert json.loads(file.read_text())["token"] == "t"


def test_the_holder_touches_its_claim(file, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    with held(file):
        aged(file, 1000)
        end = time.monotonic() + 20
        while time.time() - file.stat().st_mtime > 500:
            assert time.monotonic() < end, "nothing touched the file"
            time.sleep(0.01)


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_has_the_heartbeat(file, monkeypatch, error):
    def none(handle, operation):
        raise OSError(error, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    with held(file):
        with pytest.raises(RunLockedError), held(file):
            raise AssertionError
        aged(file, 2 * lock.STALE_S)
        with held(file):  # the same machine, and yet only its age tells
            pass


def test_a_file_system_without_links_makes_the_file_as_surely(file, monkeypatch):
    def none(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", none)
    with held(file), pytest.raises(RunLockedError), held(file):
        raise AssertionError
    assert not file.exists() and list(file.parent.iterdir()) == []
