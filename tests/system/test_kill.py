"""A run that is killed and continued ends as one that ran through, bit for bit."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from command import TINY, adapter, metrics, result, run_dirs, start, train

WORDS = (*TINY, "trainer.epochs=12", "trainer.save_every_s=0.1")


def wait_for_training(run: Path, lines: int) -> None:
    """Wait until the run has logged more than ``lines`` lines."""
    end = time.monotonic() + 120
    log = run / "metrics.jsonl"
    while time.monotonic() < end:
        if log.exists() and log.read_bytes().count(b"\n") > lines:
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} did not begin to train")


def killed_and_continued(tmp_path: Path, signals: list[int], seed: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(*WORDS, f"output={whole}")
    (reference,) = run_dirs(whole)
    run = broken / "default" / reference.name
    dice = random.Random(seed)
    total = len(metrics(reference))
    for number, kind in enumerate(signals):
        process = start(*WORDS, f"output={broken}")
        logged = (run / "metrics.jsonl").read_bytes().count(b"\n") if run.exists() else 0
        goal = total * (number + dice.random()) / (len(signals) + 1)
        wait_for_training(run, max(0, min(int(goal), logged + int(goal))) if goal < total else 0)
        time.sleep(dice.random() * 0.02)
        process.send_signal(kind)
        process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 143), process.returncode
        assert not (run / "result.json").exists(), "it was killed too late to test anything"
    train(*WORDS, f"output={broken}")
    assert (run / "adapter/adapter.safetensors").read_bytes() == (
        reference / "adapter/adapter.safetensors"
    ).read_bytes()
    assert metrics(run) == metrics(reference)
    assert result(run)["metrics"] == result(reference)["metrics"]
    assert result(run)["cost"]["steps"] == result(reference)["cost"]["steps"]
    assert {p.name for p in run.iterdir()} == {p.name for p in reference.iterdir()}
    assert adapter(run).keys() == adapter(reference).keys()


def test_terminated_then_killed(tmp_path: Path) -> None:
    killed_and_continued(tmp_path, [signal.SIGTERM, signal.SIGKILL], seed=1)


@pytest.mark.long
def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    killed_and_continued(tmp_path, [signal.SIGKILL, signal.SIGTERM] * 5, seed=2)


def test_killed_before_the_first_state(tmp_path: Path) -> None:
    """Killed while it loads, at moments spread over the start."""
    for delay in (0.3, 1.5, 3.0):
        process = start(*WORDS, f"output={tmp_path}")
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=60)
    train(*WORDS, f"output={tmp_path}")
    (run,) = run_dirs(tmp_path)
    assert result(run)["status"] == "finished"
    assert not list(run.rglob("*.tmp"))
