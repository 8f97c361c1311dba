"""Several processes reach what one process reaches."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, TINY, adapter, environment, result, run_dirs, train

WORDS = (*TINY, "trainer.epochs=2", "trainer.batch_size=31")


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.parametrize(
    ("launcher", "method"),
    [("accelerate", "gist"), ("torchrun", "gist"), ("torchrun", "linear"), ("torchrun", "sift")],
)
def test_two_processes_equal_one(launcher: str, method: str, tmp_path: Path) -> None:
    """Linear probing too: its cached features must not pass by the sum over processes.

    And SIFT: all processes choose the same entries, and add up gradients that a hook took.
    """
    words = (*WORDS, f"method={method}")
    train(*words, f"output={tmp_path / 'one'}")
    folder = Path(sys.executable).parent
    head = {
        "accelerate": ["launch", "--num_processes", "2", "--main_process_port", free_port()],
        "torchrun": ["--nproc_per_node", "2", "--master_port", free_port()],
    }[launcher]
    program = shutil.which(launcher, path=str(folder)) or shutil.which(launcher)
    assert program, f"{launcher} is not installed"
    done = subprocess.run(
        [program, *head, str(ROOT / "train.py"), *words, f"output={tmp_path / 'two'}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (one,), (two,) = run_dirs(tmp_path / "one"), run_dirs(tmp_path / "two")
    assert one.name == two.name
    assert result(two)["environment"]["device"] == "cpu x2"
    assert result(two)["metrics"]["test"] == pytest.approx(result(one)["metrics"]["test"])
    a, b = adapter(one), adapter(two)
    assert max((a[k] - b[k]).abs().max().item() for k in a) < (1e-5 if method == "sift" else 1e-6)
    assert done.stdout.count("accuracy test") == 1, "only one process prints the table"
