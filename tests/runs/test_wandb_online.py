"""W&B on loopback, spoken to by its unmodified client: nothing is there twice, nothing is lost."""

import os
import subprocess
import sys
import time

import pytest

from .conftest import ROOT
from .test_sync import write_run
from .wandb_server import serve

ATTEMPT = """
import sys, time
from pathlib import Path
from peftbench.runs import trackers
from peftbench.runs.history import Row
from peftbench.runs.settings import Wandb
from peftbench.runs.store import MetricsLog

folder, first, last, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
config = {"names": {"method": "lora", "backbone": "minilm", "data": "digits"}, "seed": 3}
tracker = trackers.make(Wandb(mode="online", adapter=False))
with MetricsLog(folder / "metrics.jsonl") as log:
    log.truncate_after(first - 1)
    tracker.start(folder.name, config, folder)
    for step in range(first, last):
        for split, name in (("train", "loss"), ("val", "accuracy")):
            if end == "kill" and step == last - 1 and split == "val":
                time.sleep(600)  # until it is killed
            log.log(step, 0, split, {name: 1.0 / step}, 0.5)
            tracker.log(Row(step, 0, 0.5, {f"{split}/{name}": 1.0 / step}))
    tracker.finish({})
assert tracker.problem is None, tracker.problem
"""


@pytest.fixture
def server(tmp_path):
    with serve() as running:
        yield running


def environment(server):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    past = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    own = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "x" * 40, "WANDB_ERROR_REPORTING": "0"}
    own["WANDB__FILE_STREAM_TRANSMIT_INTERVAL"] = "0.2"  # seconds; it is 15 otherwise
    return {**clean, **past, **own}


def call(server, *words):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True, text=True, env=environment(server), timeout=120, check=False,
    )  # fmt: skip


def kill_after(server, rows, *words):
    """Start a process and kill it as soon as its W&B run has so many rows."""
    process = subprocess.Popen([sys.executable, *map(str, words)], env=environment(server))
    deadline = time.monotonic() + 60
    while sum(len(run.history) for run in server.runs.values()) < rows:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(1)  # W&B's own process ends with it


@pytest.mark.long  # five processes
def test_a_killed_run_goes_on_and_is_synced_without_a_row_twice_or_lost(server, tmp_path):
    folder = tmp_path / "study" / ("a" * 12)
    kill_after(server, 4, "-c", ATTEMPT, folder, 1, 6, "kill")
    assert [row["_step"] for row in server.runs[folder.name].rows] == [1, 2, 3, 4]
    stopped = call(server, "-c", ATTEMPT, folder, 4, 8, "stop")  # state was of step 3
    assert stopped.returncode == 0, stopped.stderr
    run = server.runs[folder.name]
    assert [row["_step"] for row in run.rows] == [1, 2, 3, 4, 5, 6]  # 7 may not be whole
    assert run.exits[-1] == 1 and run.upserted["groupName"] == "study"
    write_run(folder, keep=True)
    sync = [ROOT / "scripts" / "sync_wandb.py", f"runs={folder}", "mode=online", "adapter=false"]
    first = call(server, *sync)
    assert first.returncode == 0 and "1 runs sent" in first.stdout, first.stderr
    assert [row["_step"] for row in run.rows] == [1, 2, 3, 4, 5, 6, 7]
    for row in run.rows:
        assert row["train/loss"] == row["val/accuracy"] == pytest.approx(1 / row["_step"])
    assert run.exits[-1] == 0 and set(server.runs) == {folder.name}
    assert run.summary["result/metrics/test/accuracy"] == 0.9
    again = call(server, *sync)
    assert "0 runs sent, 1 unchanged" in again.stdout and len(run.rows) == 7
    (folder.parent / "wandb" / "synced.json").unlink()
    assert "1 runs sent" in call(server, *sync).stdout  # forgotten, and still nothing twice
    assert [row["_step"] for row in run.rows] == [1, 2, 3, 4, 5, 6, 7]
