"""Ctrl-C: the first writes the state and ends the run, and the same command continues it."""

from __future__ import annotations

import signal
from pathlib import Path

from command import TINY, adapter, run_dirs, start, train
from test_kill import wait_for_training

WORDS = (*TINY, "trainer.epochs=10", "trainer.save_every_s=1000")


def test_interrupted_from_the_keyboard_and_continued(tmp_path: Path) -> None:
    process = start(*WORDS, f"output={tmp_path / 'a'}")
    while not list(tmp_path.glob("a/default/*/metrics.jsonl")):
        assert process.poll() is None
    (run,) = run_dirs(tmp_path / "a")
    wait_for_training(run, 10)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert (run / "state" / "last.safetensors").exists()
    train(*WORDS, f"output={tmp_path / 'a'}")
    train(*WORDS, f"output={tmp_path / 'b'}")
    (other,) = run_dirs(tmp_path / "b")
    a, b = adapter(run), adapter(other)
    assert all((a[k] == b[k]).all() for k in b)
    ledger = (tmp_path / "a/default/ledger.jsonl").read_text()
    assert '"interrupted"' in ledger and '"resumed"' in ledger
