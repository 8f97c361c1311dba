"""The bar shows loss, rate and time left on a terminal, and nothing at all elsewhere."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from .conftest import ROOT

SCRIPT = """
import time
from peftbench.runs.progress import Progress
with Progress(20, done=5, label="lora") as bar:
    print("shown" if bar.shown else "hidden")
    for _ in range(15):
        time.sleep(0.02)
        bar.update(samples=32, values={"loss": 0.25})
"""


def start(**streams):
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, env=env, text=True, **streams
    )


def read_all(descriptor):
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize("columns", [0, 100])  # some terminals do not know their width
def test_a_terminal_shows_loss_images_per_second_and_time_left(columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = start(stderr=theirs)
    os.close(theirs)
    text = read_all(ours)
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0 and out == "shown\n"
    assert "lora" in text and "loss 0.25" in text and "/20 [" in text
    rates = [int(r) for r in re.findall(r"(\d+) images/s", text)]
    assert rates and max(rates) < 32 / 0.02  # steps of an earlier attempt do not count
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d", text)


def test_a_pipe_stays_empty():
    process = start(stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert process.returncode == 0 and out == "hidden\n" and err == ""


def test_other_ranks_show_nothing_on_a_terminal(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    ours, theirs = pty.openpty()
    process = start(stderr=theirs)
    os.close(theirs)
    assert read_all(ours) == ""
    os.close(ours)
    assert process.communicate()[0] == "hidden\n"
