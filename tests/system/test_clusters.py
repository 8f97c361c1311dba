"""Workers of submitit and of Ray share a study; one that is killed in the middle ends nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import hydra
import psutil
import pytest
from command import ROOT

from peftbench.runs import cli

STUDY = (
    *("-m", "backbone=vit_tiny_random", "data=digits", "method=linear", "seed=0,1"),
    *("trainer.epochs=3", "trainer.save_every_s=0.1", "trainer.threads=1", "study=s"),
)


def train(*words: str) -> int:
    """Do a sweep in this process, as ``train.py`` does."""
    configs = ROOT / "configs"
    main = hydra.main(version_base="1.3", config_path=str(configs), config_name="config")(cli.job)
    return cli.guard(main, words)


def in_the_middle(study: Path, do, after: int) -> threading.Thread:
    """Call ``do(worker)`` once so many values are logged and a worker holds a run."""

    def watch() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            time.sleep(0.01)
            logged = sum(p.read_bytes().count(b"\n") for p in study.glob("*/metrics.jsonl"))
            held = [p for p in study.glob("*/.lock") if (p.parent / "metrics.jsonl").exists()]
            if logged >= after and held:
                do(psutil.Process(json.loads(held[0].read_text())["pid"]))
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def books(study: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for line in (study / "ledger.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry["run_id"], []).append(entry)
    return found


def all_once(study: Path, runs: int, states: tuple[str, ...]) -> None:
    """Every run ended once, one of them after having gone through ``states``."""
    entries = books(study)
    assert len(entries) == runs
    told = [tuple(e["state"] for e in run) for run in entries.values()]
    assert all(t.count("finished") == 1 and t[-1] == "finished" for t in told), told
    assert sum(len(t) > 2 for t in told) == 1, told
    assert any(set(states) <= set(t) and len(t) > 2 for t in told), told
    assert len(list(study.glob("*/result.json"))) == runs
    assert not (study / "plans").exists()


def test_ray_completes_a_study_one_of_whose_workers_is_killed(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(worker: psutil.Process) -> None:
        assert "ray::" in worker.parent().name() or "ray" in " ".join(worker.parent().cmdline())
        killed.append(worker.pid)
        worker.kill()

    thread = in_the_middle(tmp_path / "s", kill, 9)
    launcher = ("launcher=ray", "launcher.workers=2")
    assert train(*STUDY, *launcher, f"output={tmp_path}") == 0
    thread.join(1)
    assert killed and not thread.is_alive()
    all_once(tmp_path / "s", 2, ("started", "finished"))
    hands = {e["pid"] for run in books(tmp_path / "s").values() for e in run}
    assert killed[0] in hands and len(hands) >= 2 and os.getpid() not in hands


def test_submitit_completes_a_study_one_of_whose_workers_is_killed(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(worker: psutil.Process) -> None:
        killed.append(worker.pid)
        worker.kill()

    thread = in_the_middle(tmp_path / "s", kill, 9)
    launcher = ("launcher=submitit", "launcher.cluster=local", "launcher.workers=2")
    assert train(*STUDY, *launcher, f"output={tmp_path}") == 0
    thread.join(1)
    assert killed and not thread.is_alive()
    all_once(tmp_path / "s", 2, ("started", "finished"))


@pytest.mark.long
def test_a_preempted_job_saves_its_state_and_continues(tmp_path: Path) -> None:
    """The signal that SLURM sends before the end goes to the job, as submitit's own test does."""

    def preempt(worker: psutil.Process) -> None:
        worker.parent().send_signal(signal.SIGUSR2)

    thread = in_the_middle(tmp_path / "s", preempt, 9)
    launcher = ("launcher=submitit", "launcher.cluster=local", "seed=0")
    assert train(*STUDY, *launcher, f"output={tmp_path}") == 0
    thread.join(1)
    all_once(tmp_path / "s", 1, ("interrupted", "resumed"))
    (log,) = (tmp_path / "s" / "submitit").glob("*_log.out")
    assert "Calling checkpoint method" in log.read_text()
