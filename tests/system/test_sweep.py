"""A study that is killed again and again and shared by two processes ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import threading
import time
from pathlib import Path

import hydra
import pytest
from command import ROOT, adapter, metrics, result, start, train

from peftbench.runs import cli

SMALL = (
    *("-m", "backbone=vit_tiny_random", "data=digits", "method=linear,lora", "seed=0,1"),
    *("trainer.epochs=2", "trainer.save_every_s=0.1", "trainer.threads=1", "study=s"),
)
POCKET = ("-m", "+study=pocket_sweep", "study=s")


def lines(study: Path) -> int:
    """Return how many values all runs have logged."""
    return sum(path.read_bytes().count(b"\n") for path in study.glob("*/metrics.jsonl"))


def kill_in_the_middle(words: tuple[str, ...], study: Path, more: int, pause: float) -> None:
    """Start a sweep, let it log ``more`` values and kill it a moment later."""
    goal = lines(study) + more
    process = start(*words)
    end = time.monotonic() + 300
    while lines(study) < goal and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(pause)
    assert process.poll() is None, f"it ended too early: {process.communicate()}"
    process.kill()
    process.communicate()


def events(study: Path) -> dict[str, list[dict]]:
    """Return the ledger's lines of every run."""
    found: dict[str, list[dict]] = {}
    for line in (study / "ledger.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry["run_id"], []).append(entry)
    return found


def runs_of(study: Path) -> list[Path]:
    return sorted(p.parent for p in study.glob("*/config.yaml"))


def same_as_undisturbed(broken: Path, whole: Path, kills: int) -> None:
    """Check every run of a study against its twin."""
    assert [p.name for p in runs_of(broken)] == [p.name for p in runs_of(whole)]
    books = events(broken)
    assert set(books) == {p.name for p in runs_of(whole)}
    begun = 0
    for entries in books.values():
        states = [entry["state"] for entry in entries]
        assert states.count("finished") == 1 and states[-1] == "finished", states
        assert set(states[:-1]) <= {"started", "resumed"}, states
        begun += len(states) - 1
    assert len(books) <= begun <= len(books) + kills  # a run is begun anew only after a kill
    for twin in runs_of(whole):
        run = broken / twin.name
        bytes_of = [(p / "adapter" / "adapter.safetensors").read_bytes() for p in (run, twin)]
        assert bytes_of[0] == bytes_of[1]
        assert metrics(run) == metrics(twin)
        for key in ("metrics", "primary", "params", "data_manifest", "backbone_sha256"):
            assert result(run)[key] == result(twin)[key]
        assert {p.name for p in run.iterdir()} == {p.name for p in twin.iterdir()}
        assert adapter(run).keys() == adapter(twin).keys()


def undisturbed(*words: str) -> None:
    """Do a sweep in this process."""
    configs = ROOT / "configs"
    main = hydra.main(version_base="1.3", config_path=str(configs), config_name="config")(cli.job)
    assert cli.guard(main, words) == 0


def survives(words: tuple[str, ...], tmp_path: Path, more: list[int], pauses: list[float]) -> None:
    """Kill a study after so many further values each time, then give it to two processes."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for steps, pause in zip(more, pauses, strict=True):
        kill_in_the_middle((*words, f"output={broken}"), broken / "s", steps, pause)
    both = [start(*words, f"output={broken}") for _ in range(2)]
    told = [process.communicate(timeout=3000) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    undisturbed(*words, f"output={whole}")
    same_as_undisturbed(broken / "s", whole / "s", len(more))
    count = len(runs_of(whole / "s"))
    for out, _ in told:
        assert f"{count} runs: {count} done" in out, out  # both report all of it
    hands = {e["pid"] for entries in events(broken / "s").values() for e in entries[-1:]}
    pids = {process.pid for process in both}
    assert pids <= hands, "one of the two did nothing"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, _ = train(*words, f"output={broken}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert f"nothing to do: {count} runs, all done" in out
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2  # of work


def test_a_study_killed_once_and_shared_by_two(tmp_path: Path) -> None:
    survives(SMALL, tmp_path, [9], [0.05])


@pytest.mark.long
def test_a_study_killed_five_times_and_shared_by_two(tmp_path: Path) -> None:
    dice = random.Random(6)
    more = [dice.randint(0, 120) for _ in range(5)]
    survives(POCKET, tmp_path, more, [dice.random() for _ in more])


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_worker_that_is_killed_does_not_end_the_study(tmp_path: Path, workers: int) -> None:
    """It is killed in the middle of a run, which another continues."""
    study = tmp_path / "s"
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            time.sleep(0.01)
            if lines(study) >= 9 and (held := list(study.glob("*/.lock"))):
                killed.append(json.loads(held[0].read_text())["pid"])
                os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    launcher = ("launcher=parallel", f"launcher.workers={workers}")
    undisturbed(*SMALL, *launcher, f"output={tmp_path}")
    assert len(killed) == 1 and killed[0] != os.getpid()
    books = events(study)
    assert len(books) == 4
    assert all([e["state"] for e in entries].count("finished") == 1 for entries in books.values())
    begun = [e for entries in books.values() for e in entries if e["state"] != "finished"]
    assert len(begun) == 5 and len({e["pid"] for e in begun}) in (2, workers + 1)
    assert not (study / "plans").exists()
